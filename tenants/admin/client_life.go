package admin

import (
	"context"
	"net/http"
	"net/url"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

func tenantPath(ref, verb string) string { return "/tenants/" + url.PathEscape(ref) + verb }

// SetTenantState puts a tenant in a state.
func (c *Client) SetTenantState(ctx context.Context, ref string, spec tenants.StateSpec) (*catalog.Tenant, error) {
	t, err := one[catalog.Tenant](ctx, c, http.MethodPost, tenantPath(ref, "/state"), spec)
	return t, about("tenant", ref, err)
}

// DeleteTenant stops serving a tenant for good.
func (c *Client) DeleteTenant(ctx context.Context, ref string, spec tenants.DeleteSpec) (*catalog.Operation, error) {
	query := url.Values{}
	if spec.Grace != nil {
		query.Set("grace", spec.Grace.String())
	}
	if spec.NoExport {
		query.Set("no_export", "true")
	}
	op := new(catalog.Operation)
	if err := c.do(ctx, http.MethodDelete, tenantPath(ref, ""), query, nil, op); err != nil {
		return nil, about("tenant", ref, err)
	}
	return op, nil
}

// UndeleteTenant takes a deletion back.
func (c *Client) UndeleteTenant(ctx context.Context, ref string) (*catalog.Operation, error) {
	op, err := one[catalog.Operation](ctx, c, http.MethodPost, tenantPath(ref, "/undelete"), nil)
	return op, about("tenant", ref, err)
}

// PurgeTenant destroys a deleted tenant.
func (c *Client) PurgeTenant(ctx context.Context, ref string) (*catalog.Operation, error) {
	op, err := one[catalog.Operation](ctx, c, http.MethodPost, tenantPath(ref, "/purge"), nil)
	return op, about("tenant", ref, err)
}
