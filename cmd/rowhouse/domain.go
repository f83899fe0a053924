package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
)

type domainRow struct {
	Host   string `json:"host"`
	Tenant string `json:"tenant"`
}

func (domainRow) columns() []string { return []string{"host", "tenant"} }
func (d domainRow) row() []any      { return []any{d.Host, d.Tenant} }
func (d domainRow) name() string    { return d.Host }

func (a *app) domainGroup() *cobra.Command {
	return group("domain", "Host names that are a tenant's own",
		a.domainChange("add HOST --tenant T", "Give a tenant a host name of its own", func(ctx context.Context, r *reach, tenant, host string) error {
			return r.AddDomain(ctx, tenant, host)
		}),
		a.domainChange("remove HOST --tenant T", "Take a host name back", func(ctx context.Context, r *reach, tenant, host string) error {
			return r.RemoveDomain(ctx, tenant, host)
		}),
		a.domainList())
}

func (a *app) domainChange(use, short string, change func(ctx context.Context, r *reach, tenant, host string) error) *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: use, Short: short, Args: exactly("HOST"),
		RunE: a.do(func(ctx context.Context, args []string) error {
			if tenant == "" {
				return usage("--tenant is needed")
			}
			r, err := a.reach(ctx)
			if err != nil {
				return err
			}
			defer r.close()
			return change(ctx, r, tenant, args[0])
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "whose")
	return c
}

func (a *app) domainList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List the host names of all tenants", Args: exactly(),
		RunE: a.showAt(func(ctx context.Context, r *reach, _ []string) (any, error) {
			all, err := r.Tenants(ctx)
			if err != nil {
				return nil, err
			}
			return domainsOf(all), nil
		}),
	}
}

func domainsOf(all []*catalog.Tenant) []domainRow {
	found := []domainRow{}
	for _, t := range all {
		for _, host := range t.Domains {
			found = append(found, domainRow{host, t.Name})
		}
	}
	return found
}
