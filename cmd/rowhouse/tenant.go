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
	c.Flags().StringVar(&spec.Edition, "edition", "", "edition it is sold")
	wait.add(c)
	return c
}

func (a *app) tenantList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List tenants", Args: exactly(),
		RunE: a.showAt(func(ctx context.Context, r *reach, _ []string) (any, error) {
			found, err := r.Tenants(ctx)
			if err != nil {
				return nil, err
			}
			return rows(found, func(t *catalog.Tenant) tenantRow { return tenantRow{t} }), nil
		}),
	}
}

func (a *app) tenantGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show one tenant, by name, alias or id", Args: exactly("NAME"), ValidArgsFunction: a.completeTenants,
		RunE: a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
			t, err := r.Tenant(ctx, args[0])
			if err != nil {
				return nil, err
			}
			return tenantRow{t}, nil
		}),
	}
}

func (a *app) tenantRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename NAME NEW", Short: "Give a tenant another name; the old one leads to it for 30 more days", Args: exactly("NAME", "NEW"),
		ValidArgsFunction: a.completeTenants,
		RunE: a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
			if err := r.RenameTenant(ctx, args[0], args[1]); err != nil {
				return nil, err
			}
			t, err := r.Tenant(ctx, args[1])
			if err != nil {
				return nil, err
			}
			return tenantRow{t}, nil
		}),
	}
}

func (a *app) tenantAdopt() *cobra.Command {
	var dsn string
	c := &cobra.Command{
		Use: "adopt NAME --dsn URL", Short: "Take an existing database as a dedicated tenant; nothing in it is changed", Args: exactly("NAME"),
		Long: "The login must be no superuser and a member of the roles that requests will run as. Its schemas, roles and secret are set by\nrowhouse setting set rest.schemas|rest.anon_role|auth.jwt_secret … --tenant NAME. --dsn - reads standard input, --dsn @FILE a file.",
		RunE: a.show(func(ctx context.Context, args []string) (any, error) {
			secret, err := a.secretFlag("--dsn", dsn)
			if err != nil {
				return nil, err
			}
			r, err := a.reach(ctx)
			if err != nil {
				return nil, err
			}
			defer r.close()
			t, err := r.AdoptTenant(ctx, tenants.AdoptSpec{Name: args[0], DSN: secret})
			if err != nil {
				return nil, err
			}
			return tenantRow{t}, nil
		}),
	}
	c.Flags().StringVar(&dsn, "dsn", "", "connection string, - for standard input, @FILE for a file")
	return c
}

// completeTenants completes tenant names, within a second and silently.
func (a *app) completeTenants(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	ctx, cancel := context.WithTimeout(c.Context(), time.Second)
	defer cancel()
	r, err := a.reach(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	defer r.close()
	var names []string
	found, _ := r.Tenants(ctx)
	for _, t := range found {
		names = append(names, t.Name)
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

// rows wraps each of a list for printing; an empty list stays a list.
func rows[Row, Shown any](found []Row, wrap func(Row) Shown) []Shown {
	shown := make([]Shown, len(found))
	for i, row := range found {
		shown[i] = wrap(row)
	}
	return shown
}
