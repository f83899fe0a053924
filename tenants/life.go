package tenants

import (
	"context"
	"io"

	"github.com/rowhouse/rowhouse/catalog"
)

// LifeOperator takes tenants through their lives after they were made.
type LifeOperator interface {
	// SetTenantState puts a tenant in a state that an operator may put it in.
	SetTenantState(ctx context.Context, ref string, spec StateSpec) (*catalog.Tenant, error)
	// DeleteTenant stops serving a tenant for good; UndeleteTenant takes it back until PurgeTenant has begun to destroy it.
	DeleteTenant(ctx context.Context, ref string, spec DeleteSpec) (*catalog.Operation, error)
	UndeleteTenant(ctx context.Context, ref string) (*catalog.Operation, error)
	PurgeTenant(ctx context.Context, ref string) (*catalog.Operation, error)
	// ExportTenant writes a tenant's rows; ImportTenant begins to make a tenant of what it wrote.
	ExportTenant(ctx context.Context, ref string, spec ExportSpec, w io.Writer) error
	ImportTenant(ctx context.Context, spec ImportSpec, r io.Reader) (*catalog.Operation, error)
}
