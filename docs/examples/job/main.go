// Job is background work over all tenants: it says how many projects each has, and finishes those whose tasks are all done.
//
//	go run ./docs/examples/job -catalog "$ROWHOUSE_CATALOG_URL" -keys "$ROWHOUSE_CATALOG_KEYS"
//
// A walk over every tenant must not push out what requests use. Under router.InBackground a database is closed again when
// it was visited, and no connection is taken away from another. In a program that serves requests as well, that matters; in
// one of its own, as here, it keeps the number of connections at one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

func main() {
	url, keys := flag.String("catalog", "", "connection string of the catalog"), flag.String("keys", "", "keyset file of the catalog")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *url, *keys); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, keyFile string) error {
	keys, err := keyring.Open(keyFile)
	if err != nil {
		return err
	}
	cat, err := catalog.Open(ctx, url, catalog.Config{Keys: keys})
	if err != nil {
		return err
	}
	defer cat.Close()
	rt, err := router.New(tenants.NewDirectory(cat), router.Config{Registry: cat, MaxConnsPerDatabase: 1})
	if err != nil {
		return err
	}
	sharing, leave := context.WithCancel(ctx)
	shared := make(chan error, 1)
	go func() { shared <- rt.Run(sharing) }() // asks for our share of the servers' connections; until then we wait
	err = each(router.InBackground(ctx), cat, rt)
	st := rt.Stat()
	rt.Close()
	leave()
	fmt.Printf("%d pools were opened and %d are kept\n", st.Pools.Opens, st.Pools.Kept)
	return errors.Join(err, <-shared)
}

// each visits every tenant. What fails for one does not keep the others from their turn.
func each(ctx context.Context, cat *catalog.Catalog, rt *router.Router) error {
	var failed []error
	for t, err := range cat.Tenants(ctx) {
		if err != nil {
			return err
		}
		if tenants.Served(t) != nil { // suspended, or not made yet
			continue
		}
		// The program itself acts for the tenant: its rows and no one else's.
		if err := tenants.With(ctx, t, func(ctx context.Context) error { return finish(ctx, rt, t.Name) }); err != nil {
			failed = append(failed, fmt.Errorf("tenant %s: %w", t.Name, err))
		}
	}
	return errors.Join(failed...)
}

func finish(ctx context.Context, rt *router.Router, name string) error {
	return rt.BeginFunc(ctx, func(tx pgx.Tx) error {
		done, err := tx.Exec(ctx, `
			update projects p set status = 'done'
			 where status = 'active'
			   and exists (select from tasks t where t.project_id = p.id)
			   and not exists (select from tasks t where t.project_id = p.id and t.state <> 'done')`)
		if err != nil {
			return err
		}
		var all int
		if err := tx.QueryRow(ctx, `select count(*) from projects`).Scan(&all); err != nil {
			return err
		}
		fmt.Printf("%s: %d projects, %d of them finished now\n", name, all, done.RowsAffected())
		return nil
	})
}
