package main

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
)

type dbRow struct{ *catalog.Database }

func (dbRow) columns() []string {
	return []string{"name", "kind", "state", "version", "server", "id"}
}

func (d dbRow) row() []any {
	return []any{d.Name, d.Kind, d.State, d.SchemaVersion, d.Server, d.ID}
}

func (d dbRow) name() string { return d.Name }

func asDBRow(d *catalog.Database) dbRow { return dbRow{d} }

func (a *app) databaseGroup() *cobra.Command {
	var server string
	list := listVerb(a, "List databases, the oldest first", func(ctx context.Context, r *reach) ([]*catalog.Database, error) {
		return r.Databases(ctx, server)
	}, asDBRow)
	list.Flags().StringVar(&server, "server", "", "only this server's")
	return group("database", "The databases that hold tenants", list,
		rowVerb(a, "get DATABASE", "Show one database, by its id or its name", func(ctx context.Context, r *reach, args []string) (*catalog.Database, error) {
			return r.Database(ctx, args[0])
		}, asDBRow),
		a.databaseRotate(), a.databaseAllowUnscoped(), a.databaseDenyUnscoped())
}

func (a *app) databaseRotate() *cobra.Command {
	var wait waitFlag
	c := &cobra.Command{
		Use: "rotate DATABASE", Short: "Change the login and the password that requests use, without a gap", Args: exactly("DATABASE"),
		Long:    "Two logins take turns: the other one gets a new password, new connections use it, and the old one is shut when its\nconnections have ended, which takes as long as pools keep idle ones (router.idle_timeout), five minutes at most.",
		Example: "  rowhouse database rotate rh_0199… --wait",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			op, err := r.RotateDatabase(ctx, args[0])
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, wait)
		}),
	}
	wait.add(c)
	return c
}
