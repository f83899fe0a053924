package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type editionRow struct{ *catalog.Edition }

func (editionRow) columns() []string { return []string{"name", "tenants", "values", "description"} }

func (e editionRow) row() []any { return []any{e.Name, e.Tenants, len(e.Values), e.Description} }

func (e editionRow) name() string { return e.Name }

func (a *app) editionGroup() *cobra.Command {
	return group("edition", "What the host sells: values that tenants inherit", a.editionSet(), a.editionGet(), a.editionUnset(), a.editionList())
}

func (a *app) editionSet() *cobra.Command {
	var tenant, description string
	c := &cobra.Command{
		Use: "set NAME", Short: "Make an edition, or with --tenant give it to a tenant", Args: exactly("NAME"),
		Example: "  rowhouse edition set pro --description 'for teams'\n  rowhouse limit set requests_per_second 50 --edition pro\n  rowhouse edition set pro --tenant acme",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if tenant != "" {
				return r.AssignEdition(ctx, tenant, args[0])
			}
			return r.SetEdition(ctx, args[0], description)
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "the tenant that gets it")
	c.Flags().StringVar(&description, "description", "", "what it is, for people")
	return c
}

func (a *app) editionGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show one edition; with -o json or yaml, what it gives", Args: exactly("NAME"), Example: "  rowhouse edition get pro -o yaml",
		RunE: a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
			all, err := r.Editions(ctx)
			if err != nil {
				return nil, err
			}
			for _, e := range all {
				if e.Name == args[0] {
					return editionRow{e}, nil
				}
			}
			return nil, fmt.Errorf("edition %q: %w", args[0], catalog.ErrNotFound)
		}),
	}
}

func (a *app) editionUnset() *cobra.Command {
	var tenant string
	c := &cobra.Command{
		Use: "unset [NAME]", Short: "Forget an edition that no tenant has, or with --tenant take it back from one", Args: cobra.MaximumNArgs(1),
		Example: "  rowhouse edition unset --tenant acme\n  rowhouse edition unset pro",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			switch {
			case tenant != "":
				return r.AssignEdition(ctx, tenant, "")
			case len(args) == 0:
				return usage("NAME or --tenant is needed")
			}
			return r.RemoveEdition(ctx, args[0])
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "the tenant that it is taken back from")
	return c
}

func (a *app) editionList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List editions", Args: exactly(), Example: "  rowhouse edition list",
		RunE: a.showAt(func(ctx context.Context, r *reach, _ []string) (any, error) {
			all, err := r.Editions(ctx)
			if err != nil {
				return nil, err
			}
			return rows(all, func(e *catalog.Edition) editionRow { return editionRow{e} }), nil
		}),
	}
}

// valueRow is a feature or a limit as it holds.
type valueRow struct {
	tenants.Value
	Noun string `json:"-"`
}

func (valueRow) columns() []string { return []string{"key", "value", "from"} }
func (v valueRow) row() []any      { return []any{v.name(), string(v.Value.Value), v.From} }
func (v valueRow) name() string    { return strings.TrimPrefix(v.Key, v.Noun) }

// nounOf are the verbs of features and of limits, which differ in what a key begins with.
func (a *app) valueGroup(use, short, prefix string, set *cobra.Command) *cobra.Command {
	return group(use, short, set, a.valueGet(use, prefix), a.valueUnset(use, prefix), a.valueList(use, prefix))
}

func (a *app) featureGroup() *cobra.Command {
	return a.valueGroup("feature", "What an application asks for, by tenant and edition", tenants.FeaturePrefix, a.featureSet())
}

func (a *app) limitGroup() *cobra.Command {
	var scope tenants.Scope
	set := &cobra.Command{
		Use: "set KEY VALUE", Short: "Set a limit for everybody, an edition or a tenant", Args: exactly("KEY", "VALUE"),
		Example: "  rowhouse limit set requests_per_second 50 --edition pro\n  rowhouse limit set statement_timeout 10s --tenant acme",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			return a.setValue(ctx, r, scope, tenants.LimitPrefix, args)
		}),
	}
	scopeFlags(set, &scope)
	return a.valueGroup("limit", "How much a tenant may use, by tenant and edition", tenants.LimitPrefix, set)
}

func scopeFlags(c *cobra.Command, scope *tenants.Scope) {
	c.Flags().StringVar(&scope.Tenant, "tenant", "", "of this tenant")
	c.Flags().StringVar(&scope.Edition, "edition", "", "of this edition")
}

func (a *app) featureSet() *cobra.Command {
	var scope tenants.Scope
	var f catalog.Feature
	var changed func(flag string) bool
	c := &cobra.Command{
		Use: "set KEY VALUE", Short: "Set a feature for a tenant or an edition; without either declare it, with what everybody has", Args: exactly("KEY", "VALUE"),
		Example: "  rowhouse feature set export false --visible\n  rowhouse feature set export true --edition pro\n  rowhouse feature set export true --tenant acme",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if scope != (tenants.Scope{}) {
				return a.setValue(ctx, r, scope, tenants.FeaturePrefix, args)
			}
			known, err := r.Features(ctx)
			if err != nil {
				return err
			}
			declared := f
			for _, k := range known { // what is not said stays
				if k.Key != args[0] {
					continue
				}
				declared = *k
				if changed("visible") {
					declared.Visible = f.Visible
				}
				if changed("parent") {
					declared.Parent = f.Parent
				}
				if changed("description") {
					declared.Description = f.Description
				}
			}
			declared.Key, declared.Value = args[0], asJSON(args[1])
			return r.SetFeature(ctx, declared)
		}),
	}
	scopeFlags(c, &scope)
	c.Flags().BoolVar(&f.Visible, "visible", false, "tell it to a tenant's clients, in /tenant/v1/session")
	c.Flags().StringVar(&f.Parent, "parent", "", "the feature without which this one is off")
	c.Flags().StringVar(&f.Description, "description", "", "what it is, for people")
	changed = c.Flags().Changed
	return c
}

func (a *app) setValue(ctx context.Context, r *reach, scope tenants.Scope, prefix string, args []string) error {
	v, err := r.SetValue(ctx, scope, prefix+args[0], asJSON(args[1]))
	if err == nil && scope.Tenant != "" && v.From != "tenant" {
		fmt.Fprintf(a.stderr, "%s has that anyway, from its %s: nothing of its own is kept, and it follows what changes there\n", scope.Tenant, v.From)
	}
	return err
}

func (a *app) valueUnset(use, prefix string) *cobra.Command {
	var scope tenants.Scope
	c := &cobra.Command{
		Use: "unset KEY", Short: "Take a " + use + " back", Args: exactly("KEY"), Example: "  rowhouse " + use + " unset KEY --tenant acme",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			return r.UnsetValue(ctx, scope, prefix+args[0])
		}),
	}
	scopeFlags(c, &scope)
	return c
}

func (a *app) values(ctx context.Context, r *reach, scope tenants.Scope, prefix string) ([]valueRow, error) {
	all, err := r.Values(ctx, scope)
	if err != nil {
		return nil, err
	}
	found := []valueRow{}
	for _, v := range all {
		if strings.HasPrefix(v.Key, prefix) {
			found = append(found, valueRow{v, prefix})
		}
	}
	return found, nil
}

func (a *app) valueGet(use, prefix string) *cobra.Command {
	var scope tenants.Scope
	c := &cobra.Command{
		Use: "get KEY", Short: "Show a " + use + " as it holds, and which level says so", Args: exactly("KEY"), Example: "  rowhouse " + use + " get KEY --tenant acme",
		RunE: a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
			all, err := a.values(ctx, r, scope, prefix)
			if err != nil {
				return nil, err
			}
			for _, v := range all {
				if v.Key == prefix+args[0] {
					return v, nil
				}
			}
			return nil, fmt.Errorf("%s %q: %w", use, args[0], catalog.ErrNotFound)
		}),
	}
	scopeFlags(c, &scope)
	return c
}

func (a *app) valueList(use, prefix string) *cobra.Command {
	var scope tenants.Scope
	c := &cobra.Command{
		Use: "list", Short: "List " + use + "s as they hold for everybody, an edition or a tenant", Args: exactly(), Example: "  rowhouse " + use + " list --tenant acme",
		RunE: a.showAt(func(ctx context.Context, r *reach, _ []string) (any, error) { return a.values(ctx, r, scope, prefix) }),
	}
	scopeFlags(c, &scope)
	return c
}
