package tenants

import (
	"context"

	"github.com/rowhouse/rowhouse/catalog"
)

// TrailOperator says whether the audit trail is as it was written.
type TrailOperator interface {
	// VerifyAudit looks through the whole trail. A head from an earlier verdict shows also what was rewritten behind it.
	VerifyAudit(ctx context.Context, head string) (*catalog.AuditVerdict, error)
}

// VerifyAudit looks through the whole audit trail.
func (s *Service) VerifyAudit(ctx context.Context, head string) (*catalog.AuditVerdict, error) {
	return s.catalog.VerifyAudit(ctx, head)
}

// SealAudit seals the end of the audit trail as it is.
func (s *Service) SealAudit(ctx context.Context) error { return s.catalog.SealAudit(ctx) }
