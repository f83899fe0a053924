package admin

import (
	"context"
	"net/http"
	"net/url"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type verifyAuditInput struct {
	Head string `query:"head" maxLength:"100" doc:"The head of an earlier verdict, to find a trail that was cut or rewritten behind it"`
}

type verifyAuditOutput struct{ Body *catalog.AuditVerdict }

func (s *service) registerTrail() {
	add(s, route{"verify-audit", "Audit", "Say whether the audit trail is as it was written", http.MethodGet, "/audit/verification", tenants.PermitAuditRead, 0},
		func(ctx context.Context, in *verifyAuditInput) (*verifyAuditOutput, error) {
			v, err := s.operator.VerifyAudit(ctx, in.Head)
			if err != nil {
				return nil, err
			}
			return &verifyAuditOutput{v}, nil
		})
}

// VerifyAudit says whether the audit trail is as it was written.
func (c *Client) VerifyAudit(ctx context.Context, head string) (*catalog.AuditVerdict, error) {
	query := url.Values{}
	if head != "" {
		query.Set("head", head)
	}
	v := new(catalog.AuditVerdict)
	if err := c.do(ctx, http.MethodGet, "/audit/verification", query, nil, v); err != nil {
		return nil, err
	}
	return v, nil
}
