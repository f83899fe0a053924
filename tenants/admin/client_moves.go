package admin

import (
	"context"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// PromoteTenant gives a tenant a database of its own.
func (c *Client) PromoteTenant(ctx context.Context, ref string, spec tenants.MoveSpec) (*catalog.Operation, error) {
	return c.moveTenant(ctx, ref, "/promote", spec)
}

// DemoteTenant brings a tenant into a shared database.
func (c *Client) DemoteTenant(ctx context.Context, ref string, spec tenants.MoveSpec) (*catalog.Operation, error) {
	return c.moveTenant(ctx, ref, "/demote", spec)
}

// MoveTenant brings a tenant to another server or shared database.
func (c *Client) MoveTenant(ctx context.Context, ref string, spec tenants.MoveSpec) (*catalog.Operation, error) {
	return c.moveTenant(ctx, ref, "/move", spec)
}

func (c *Client) moveTenant(ctx context.Context, ref, verb string, spec tenants.MoveSpec) (*catalog.Operation, error) {
	in := moveBody{Server: spec.Server, Database: spec.Database, Mode: string(spec.Mode)}
	if spec.MaxPause != nil {
		in.MaxPause = spec.MaxPause.String()
	}
	if spec.Full {
		in.Verify = "full"
	}
	op, err := one[catalog.Operation](ctx, c, http.MethodPost, tenantPath(ref, verb), in)
	return op, about("tenant", ref, err)
}
