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
	var tenant string
	remove := a.destructive(&cobra.Command{Use: "remove HOST --tenant T", Short: "Take a host name back", Args: exactly("HOST")},
		"take host name %s back", func(ctx context.Context, r *reach, args []string) error {
			return r.RemoveDomain(ctx, tenant, args[0])
		})
	neededTenant(remove, &tenant)
	return group("domain", "Host names that are a tenant's own", a.domainAdd(), remove, a.domainList())
}

// neededTenant is --tenant of verbs that make no sense without one.
func neededTenant(c *cobra.Command, tenant *string) {
	c.Flags().StringVar(tenant, "tenant", "", "whose")
	_ = c.MarkFlagRequired("tenant") // it is there
}

func (a *app) domainAdd() *cobra.Command {
	var tenant string
	c := rowVerb(a, "add HOST --tenant T", "Give a tenant a host name of its own", func(ctx context.Context, r *reach, args []string) (domainRow, error) {
		return domainRow{args[0], tenant}, r.AddDomain(ctx, tenant, args[0])
	}, func(d domainRow) domainRow { return d })
	c.Args = exactly("HOST")
	neededTenant(c, &tenant)
	return c
}

func (a *app) domainList() *cobra.Command {
	return listVerb(a, "List the host names of all tenants", func(ctx context.Context, r *reach) ([]domainRow, error) {
		all, err := r.Tenants(ctx)
		return domainsOf(all), err
	}, func(d domainRow) domainRow { return d })
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
