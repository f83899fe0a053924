package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/tenants"
)

func (a *app) serverSet() *cobra.Command {
	c := &cobra.Command{
		Use: "set NAME", Short: "Change a server's limits, spare databases and labels", Args: exactly("NAME"),
		Long:    "What stands on the server stays: a lower limit keeps others out. Spare databases too many are dropped; they hold nothing.",
		Example: "  rowhouse server set local --spares 5\n  rowhouse server set local --max-databases 500 --label region=eu",
	}
	limits := addLimits(c)
	c.RunE = a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
		server, err := r.SetServer(ctx, args[0], limits())
		if err != nil {
			return nil, err
		}
		return serverRow{server}, nil
	})
	return c
}

// addLimits adds the flags of a server's limits; those that were given are in what it returns.
func addLimits(c *cobra.Command) func() tenants.ServerLimits {
	flags := c.Flags()
	numbers := map[string]*int{}
	for name, usage := range map[string]string{
		"max-connections": "budget of open connections (default 80)", "max-in-use": "budget of busy connections (default by its cores)",
		"max-databases": "how many databases may stand on it (default 300)", "spares": "how many databases stand ready (default 0)",
	} {
		numbers[name] = flags.Int(name, 0, usage)
	}
	labels := flags.StringToString("label", nil, "what tenants can ask for, KEY=VALUE; an empty value takes one away")
	return func() tenants.ServerLimits {
		given := func(name string) *int {
			if !flags.Changed(name) {
				return nil
			}
			return numbers[name]
		}
		return tenants.ServerLimits{
			MaxConnections: given("max-connections"), MaxInUse: given("max-in-use"), MaxDatabases: given("max-databases"),
			Spares: given("spares"), Labels: *labels,
		}
	}
}
