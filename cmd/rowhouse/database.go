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
		a.databaseAllowUnscoped(), a.databaseDenyUnscoped())
}
