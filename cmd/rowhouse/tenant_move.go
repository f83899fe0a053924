package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// moveFlags are what the three verbs that move a tenant have in common.
type moveFlags struct {
	spec   tenants.MoveSpec
	mode   string
	pause  string
	verify string
	wait   waitFlag
}

func (f *moveFlags) add(c *cobra.Command, a *app) {
	c.Flags().StringVar(&f.spec.Server, "server", "", "the server to go to")
	c.Flags().StringVar(&f.pause, "max-pause", "", "how long writes may have to wait (default: move.max_pause, 2s)")
	c.Flags().StringVar(&f.verify, "verify", "", "full: compare all rows while writes wait")
	c.Flags().StringVar(&f.mode, "mode", "auto", "copy all rows while writes wait, or replicate them first; auto chooses by their number")
	_ = c.RegisterFlagCompletionFunc("mode", cobra.FixedCompletions([]string{"auto", "copy", "replicate"}, cobra.ShellCompDirectiveNoFileComp))
	_ = c.RegisterFlagCompletionFunc("verify", cobra.FixedCompletions([]string{"full"}, cobra.ShellCompDirectiveNoFileComp))
	c.ValidArgsFunction = a.completeTenants
	f.wait.add(c)
}

// read is the spec that the flags say.
func (f *moveFlags) read() (tenants.MoveSpec, error) {
	spec := f.spec
	switch f.mode {
	case "auto", "copy", "replicate":
		spec.Mode = tenants.MoveMode(f.mode)
	default:
		return spec, usage("--mode: want auto, copy or replicate")
	}
	switch f.verify {
	case "", "full":
		spec.Full = f.verify == "full"
	default:
		return spec, usage("--verify: want full")
	}
	if f.pause != "" {
		pause, err := time.ParseDuration(f.pause)
		if err != nil || pause <= 0 {
			return spec, usage("--max-pause: want a duration, such as 2s")
		}
		spec.MaxPause = &pause
	}
	return spec, nil
}

const moveHelp = "The tenant is served meanwhile: reads go on, and writes wait for a moment at the end, at most for --max-pause. If they\n" +
	"would have to wait for longer, or if anything else fails, the tenant stays where it is. `rowhouse op cancel` takes it back\n" +
	"until it is decided. What the tenant leaves behind is kept for promote.cooling (24h) and then cleared away."

func (a *app) tenantMoving(use, short, example string, do func(*reach) func(context.Context, string, tenants.MoveSpec) (*catalog.Operation, error)) (*cobra.Command, *moveFlags) {
	f := &moveFlags{}
	c := &cobra.Command{
		Use: use + " NAME", Short: short, Long: short + ".\n\n" + moveHelp, Example: example, Args: exactly("NAME"),
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			spec, err := f.read()
			if err != nil {
				return err
			}
			op, err := do(r)(ctx, args[0], spec)
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, f.wait)
		}),
	}
	f.add(c, a)
	return c, f
}

func (a *app) tenantPromote() *cobra.Command {
	c, _ := a.tenantMoving("promote", "Give a tenant of a shared database one of its own",
		"  rowhouse tenant promote acme --wait\n  rowhouse tenant promote acme --server berlin --mode replicate --max-pause 500ms",
		func(r *reach) func(context.Context, string, tenants.MoveSpec) (*catalog.Operation, error) {
			return r.PromoteTenant
		})
	return c
}

func (a *app) tenantDemote() *cobra.Command {
	c, f := a.tenantMoving("demote", "Bring a tenant from a database of its own into a shared one",
		"  rowhouse tenant demote acme --wait",
		func(r *reach) func(context.Context, string, tenants.MoveSpec) (*catalog.Operation, error) {
			return r.DemoteTenant
		})
	c.Flags().StringVar(&f.spec.Database, "database", "", "the id of the shared database to go into")
	return c
}

func (a *app) tenantMove() *cobra.Command {
	c, f := a.tenantMoving("move", "Bring a tenant to another server, or to another shared database",
		"  rowhouse tenant move acme --server vienna --wait",
		func(r *reach) func(context.Context, string, tenants.MoveSpec) (*catalog.Operation, error) {
			return r.MoveTenant
		})
	c.Flags().StringVar(&f.spec.Database, "database", "", "the id of the shared database to go into")
	return c
}
