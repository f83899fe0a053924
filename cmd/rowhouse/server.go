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
	return []string{"name", "hosts", "tls", "max_connections", "state", "id"}
}

func (s serverRow) row() []any {
	return []any{s.Name, strings.Join(s.Hosts, ","), s.SSLMode, s.MaxConnections, s.State, s.ID}
}

func (s serverRow) name() string { return s.Name }

func (a *app) serverGroup() *cobra.Command {
	return group("server", "PostgreSQL servers that tenants can be placed on", a.serverAdd(), a.serverList(), a.serverGet(),
		a.serverChange("drain NAME", "Place nothing new on a server; what is there stays", tenants.Operator.DrainServer),
		a.serverChange("resume NAME", "Place on a server again", tenants.Operator.ResumeServer),
		a.serverChange("remove NAME", "Forget a server that holds no databases", tenants.Operator.RemoveServer))
}

func (a *app) serverAdd() *cobra.Command {
	var dsn string
	var spec tenants.ServerSpec
	c := &cobra.Command{
		Use: "add NAME --dsn URL", Short: "Register a server by its provisioner's connection string", Args: exactly("NAME"),
		Long: "The provisioner is a role that may create databases and roles. --dsn - reads the connection string from standard input,\n--dsn @FILE from a file, so that no password stands in a process list.",
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
			spec.Name, spec.DSN = args[0], secret
			server, err := r.AddServer(ctx, spec)
			if err != nil {
				return nil, err
			}
			return serverRow{server}, nil
		}),
	}
	c.Flags().StringVar(&dsn, "dsn", "", "connection string, - for standard input, @FILE for a file")
	c.Flags().IntVar(&spec.MaxConnections, "max-connections", 0, "budget of open connections (default 80)")
	return c
}

func (a *app) serverList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List servers", Args: exactly(),
		RunE: a.showAt(func(ctx context.Context, r *reach, _ []string) (any, error) {
			found, err := r.Servers(ctx)
			if err != nil {
				return nil, err
			}
			return rows(found, func(s *catalog.Server) serverRow { return serverRow{s} }), nil
		}),
	}
}

func (a *app) serverGet() *cobra.Command {
	return &cobra.Command{
		Use: "get NAME", Short: "Show one server", Args: exactly("NAME"),
		RunE: a.showAt(func(ctx context.Context, r *reach, args []string) (any, error) {
			server, err := r.Server(ctx, args[0])
			if err != nil {
				return nil, err
			}
			return serverRow{server}, nil
		}),
	}
}

func (a *app) serverChange(use, short string, change func(tenants.Operator, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Args: exactly("NAME"),
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			return change(r, ctx, args[0])
		}),
	}
}
