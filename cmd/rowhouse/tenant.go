package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type tenantRow struct{ *catalog.Tenant }

func (tenantRow) columns() []string {
	return []string{"name", "state", "placement", "database", "id", "created"}
}

func (t tenantRow) row() []any {
	database := ""
	if !t.Database.IsZero() {
		database = t.Database.String()
	}
	return []any{t.Name, t.State, t.Placement, database, t.ID, t.CreatedAt.Format(time.DateTime)}
}

func (t tenantRow) name() string { return t.Name }

func (a *app) tenantGroup() *cobra.Command {
	c := group("tenant", "Tenants and their life", a.tenantCreate(), a.tenantList(), a.tenantGet(), a.tenantRename(), a.tenantAdopt())
	c.AddCommand(a.tenantLife()...)
	c.AddCommand(a.tenantPromote(), a.tenantDemote(), a.tenantMove())
	return c
}

func (a *app) tenantCreate() *cobra.Command {
	var spec tenants.TenantSpec
	var placement string
	var wait waitFlag
	c := &cobra.Command{
		Use: "create NAME", Short: "Provision a tenant", Args: exactly("NAME"),
		Example: "  rowhouse tenant create acme --wait\n  rowhouse tenant create initech --placement dedicated --wait=2m",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			spec.Name, spec.Placement = args[0], catalog.Placement(placement)
			op, err := r.CreateTenant(ctx, spec)
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, wait)
		}),
	}
	c.Flags().StringVar(&placement, "placement", "shared", "shared or dedicated")
	c.Flags().StringVar(&spec.Server, "server", "", "server to place it on")
	c.Flags().StringVar(&spec.Database, "database", "", "shared database to place it in, by id")
	c.Flags().StringToStringVar(&spec.Labels, "label", nil, "what the server must have where the policy chooses it, KEY=VALUE")
	c.Flags().StringVar(&spec.Edition, "edition", "", "edition it is sold")
	wait.add(c)
	return c
}

func asTenantRow(t *catalog.Tenant) tenantRow { return tenantRow{t} }

func (a *app) tenantList() *cobra.Command {
	return listVerb(a, "List tenants", func(ctx context.Context, r *reach) ([]*catalog.Tenant, error) { return r.Tenants(ctx) }, asTenantRow)
}

func (a *app) tenantGet() *cobra.Command {
	return rowVerb(a, "get NAME", "Show one tenant, by name, alias or id", func(ctx context.Context, r *reach, args []string) (*catalog.Tenant, error) {
		return r.Tenant(ctx, args[0])
	}, asTenantRow)
}

func (a *app) tenantRename() *cobra.Command {
	return rowVerb(a, "rename NAME NEW", "Give a tenant another name; the old one leads to it for 30 more days", func(ctx context.Context, r *reach, args []string) (*catalog.Tenant, error) {
		if err := r.RenameTenant(ctx, args[0], args[1]); err != nil {
			return nil, err
		}
		return r.Tenant(ctx, args[1])
	}, asTenantRow)
}

func (a *app) tenantAdopt() *cobra.Command {
	var dsn string
	c := rowVerb(a, "adopt NAME --dsn URL", "Take an existing database as a dedicated tenant; nothing in it is changed", func(ctx context.Context, r *reach, args []string) (*catalog.Tenant, error) {
		secret, err := a.secretFlag("--dsn", dsn)
		if err != nil {
			return nil, err
		}
		return r.AdoptTenant(ctx, tenants.AdoptSpec{Name: args[0], DSN: secret})
	}, asTenantRow)
	c.Args = exactly("NAME")
	c.Long = "The login must be no superuser and a member of the roles that requests will run as. Its schemas, roles and secret are set by\nrowhouse setting set rest.schemas|rest.anon_role|auth.jwt_secret … --tenant NAME. --dsn - reads standard input, --dsn @FILE a file."
	c.Flags().StringVar(&dsn, "dsn", "", "connection string, - for standard input, @FILE for a file")
	return c
}
