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
