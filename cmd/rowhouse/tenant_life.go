package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// tenantLife are the verbs of a tenant's life after it was made.
func (a *app) tenantLife() []*cobra.Command {
	return []*cobra.Command{a.tenantSuspend(), a.tenantResume(), a.tenantSetState(), a.tenantDelete(), a.tenantUndelete(), a.tenantPurge(), a.tenantExport(), a.tenantImport()}
}

func (a *app) tenantSuspend() *cobra.Command {
	spec := tenants.StateSpec{State: catalog.StateSuspended}
	c := &cobra.Command{
		Use: "suspend NAME", Short: "Stop serving a tenant", Args: exactly("NAME"), ValidArgsFunction: a.completeTenants,
		Example: "  rowhouse tenant suspend acme --reason 'unpaid since March'",
		RunE:    a.setState(&spec),
	}
	c.Flags().StringVar(&spec.Reason, "reason", "", "why, for the audit trail")
	c.Flags().BoolVar(&spec.Now, "now", false, "also end the requests that run, where the tenant has a database of its own")
	return c
}

func (a *app) tenantResume() *cobra.Command {
	spec := tenants.StateSpec{State: catalog.StateActive}
	return &cobra.Command{
		Use: "resume NAME", Short: "Serve a tenant again", Args: exactly("NAME"), ValidArgsFunction: a.completeTenants,
		RunE: a.setState(&spec),
	}
}

func (a *app) tenantSetState() *cobra.Command {
	var spec tenants.StateSpec
	var until string
	c := &cobra.Command{
		Use: "set-state NAME read_only|maintenance|active|suspended", Short: "Serve a tenant for reading only, or not for a while", Args: exactly("NAME", "STATE"),
		Long:    "read_only refuses writes with 403 tenant_read_only; maintenance answers everything with 503 and Retry-After.\nWith --until the tenant is active again from that moment on; without, `rowhouse tenant resume` ends it.",
		Example: "  rowhouse tenant set-state acme read_only\n  rowhouse tenant set-state acme maintenance --until 2h\n  rowhouse tenant set-state acme maintenance --until 2027-01-01T06:00:00Z",
		ValidArgsFunction: func(c *cobra.Command, args []string, complete string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 0 {
				return a.completeTenants(c, args, complete)
			}
			return []string{"read_only", "maintenance", "active", "suspended"}, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			spec.State = catalog.State(args[1])
			if !slices.Contains(tenants.OperatorStates, spec.State) {
				return usage("STATE must be read_only, maintenance, active or suspended")
			}
			if until != "" {
				end, err := moment(until, time.Now())
				if err != nil {
					return err
				}
				spec.Until = end
			}
			return a.setState(&spec)(c, args[:1])
		},
	}
	c.Flags().StringVar(&until, "until", "", "when it ends by itself: a time such as 2027-01-01T06:00:00Z, or a duration such as 2h")
	c.Flags().StringVar(&spec.Reason, "reason", "", "why, for the audit trail")
	c.Flags().BoolVar(&spec.Now, "now", false, "also end the requests that run, where the tenant has a database of its own")
	return c
}

// moment reads a time, or a duration from now.
func moment(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(d), nil
	}
	for _, form := range []string{time.RFC3339, "2006-01-02T15:04", time.DateOnly} {
		if t, err := time.ParseInLocation(form, text, time.Local); err == nil {
			return t, nil
		}
	}
	return time.Time{}, usage("want a time such as 2027-01-01T06:00:00Z, or a duration such as 2h")
}

func (a *app) setState(spec *tenants.StateSpec) func(*cobra.Command, []string) error {
	return a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
		t, err := r.SetTenantState(ctx, args[0], *spec)
		if err != nil {
			return nil, err
		}
		return tenantRow{t}, a.workOff(ctx, r, t, tenants.KindEnforce)
	})
}

// workOff does what a verb has left to be done for a tenant where nobody else is there to do it.
func (a *app) workOff(ctx context.Context, r *reach, t *catalog.Tenant, kind string) error {
	if !r.near() {
		return nil
	}
	if n, err := r.catalog.Workers(ctx); err != nil || n > 0 {
		return err
	}
	left, err := r.catalog.Operations(ctx, t.ID, 10)
	if err != nil {
		return err
	}
	for _, op := range left {
		if op.Kind == kind && !op.State.Finished() {
			if _, err := r.runner.Work(ctx, op.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

func (a *app) tenantDelete() *cobra.Command {
	var spec tenants.DeleteSpec
	var grace string
	var yes bool
	var wait waitFlag
	c := &cobra.Command{
		Use: "delete NAME", Short: "Stop serving a tenant for good; it can be taken back until it is purged", Args: exactly("NAME"), ValidArgsFunction: a.completeTenants,
		Long: "The tenant answers 404 at once. Its rows are exported and put away; `rowhouse tenant undelete` takes it back until the\ngrace period is over (delete.grace, 30 days), when it is purged. Its name stays taken until then.",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if grace != "" {
				d, err := time.ParseDuration(grace)
				if err != nil {
					return usage("--grace: want a duration, such as 720h")
				}
				spec.Grace = &d
			}
			if err := a.confirm(yes, "delete tenant "+args[0]); err != nil {
				return err
			}
			op, err := r.DeleteTenant(ctx, args[0], spec)
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, wait)
		}),
	}
	c.Flags().StringVar(&grace, "grace", "", "how long it can be taken back (default: delete.grace, 720h)")
	c.Flags().BoolVar(&spec.NoExport, "no-export", false, "do not export its rows first")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	wait.add(c)
	return c
}

func (a *app) tenantUndelete() *cobra.Command {
	var wait waitFlag
	c := &cobra.Command{
		Use: "undelete NAME", Short: "Take a deletion back", Args: exactly("NAME"), ValidArgsFunction: a.completeTenants,
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			op, err := r.UndeleteTenant(ctx, args[0])
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, wait)
		}),
	}
	wait.add(c)
	return c
}

func (a *app) tenantPurge() *cobra.Command {
	var yes bool
	var wait waitFlag
	c := &cobra.Command{
		Use: "purge NAME", Short: "Destroy a deleted tenant, or what there is of one that was never made", Args: exactly("NAME"), ValidArgsFunction: a.completeTenants,
		Long: "Nothing brings it back. Its id, its name and its audit trail stay; the name is free.",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			if err := a.confirm(yes, "destroy tenant "+args[0]+" for ever"); err != nil {
				return err
			}
			op, err := r.PurgeTenant(ctx, args[0])
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, wait)
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	wait.add(c)
	return c
}
