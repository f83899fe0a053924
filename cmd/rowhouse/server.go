package main

import (
	"context"
	"strings"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type serverRow struct{ *catalog.Server }

func (serverRow) columns() []string {
	return []string{"name", "hosts", "tls", "max_connections", "max_databases", "spares", "state", "id"}
}

func (s serverRow) row() []any {
	return []any{s.Name, strings.Join(s.Hosts, ","), s.SSLMode, s.MaxConnections, s.MaxDatabases, s.Spares, s.State, s.ID}
}

func (s serverRow) name() string { return s.Name }

func asServerRow(s *catalog.Server) serverRow { return serverRow{s} }

func (a *app) serverGroup() *cobra.Command {
	return group("server", "PostgreSQL servers that tenants can be placed on", a.serverAdd(),
		listVerb(a, "List servers", func(ctx context.Context, r *reach) ([]*catalog.Server, error) { return r.Servers(ctx) }, asServerRow),
		a.serverChange("get", "Show one server", nil), a.serverSet(),
		a.serverChange("drain", "Place nothing new on a server; what is there stays", tenants.Operator.DrainServer),
		a.serverChange("resume", "Place on a server again", tenants.Operator.ResumeServer),
		a.serverRemove())
}

func (a *app) serverAdd() *cobra.Command {
	var dsn string
	var spec tenants.ServerSpec
	var limits func() tenants.ServerLimits
	c := rowVerb(a, "add NAME --dsn URL", "Register a server by its provisioner's connection string", func(ctx context.Context, r *reach, args []string) (*catalog.Server, error) {
		secret, err := a.secretFlag("--dsn", dsn)
		if err != nil {
			return nil, err
		}
		spec.Name, spec.DSN, spec.ServerLimits = args[0], secret, limits()
		return r.AddServer(ctx, spec)
	}, asServerRow)
	c.Args = exactly("NAME")
	c.Long = "The provisioner is a role that may create databases and roles. --dsn - reads the connection string from standard input,\n--dsn @FILE from a file, so that no password stands in a process list."
	c.Flags().StringVar(&dsn, "dsn", "", "connection string, - for standard input, @FILE for a file")
	limits = addLimits(c)
	return c
}

// serverChange is a verb that changes a server, where there is something to change, and shows it.
func (a *app) serverChange(verb, short string, change func(tenants.Operator, context.Context, string) error) *cobra.Command {
	return rowVerb(a, verb+" NAME", short, func(ctx context.Context, r *reach, args []string) (*catalog.Server, error) {
		if change != nil {
			if err := change(r, ctx, args[0]); err != nil {
				return nil, err
			}
		}
		return r.Server(ctx, args[0])
	}, asServerRow)
}

func (a *app) serverRemove() *cobra.Command {
	return a.destructive(&cobra.Command{Use: "remove NAME", Short: "Forget a server that holds no databases", Args: exactly("NAME")},
		"forget server %s", func(ctx context.Context, r *reach, args []string) error { return r.RemoveServer(ctx, args[0]) })
}
