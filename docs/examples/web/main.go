// Web is an application with handlers of its own: each request sees the projects of its tenant and no others.
//
//	go run ./docs/examples/web -catalog "$ROWHOUSE_CATALOG_URL" -keys "$ROWHOUSE_CATALOG_KEYS"
//	curl -H 'X-Tenant: acme' http://127.0.0.1:8090/projects
//
// It believes the tenant's name in a header, because it stands behind something that has checked it. Where it does not,
// give the Resolver a Verifier, and let tenants.FromClaim say who asks.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"
	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

func main() {
	url, keys := flag.String("catalog", "", "connection string of the catalog"), flag.String("keys", "", "keyset file of the catalog")
	listen := flag.String("listen", "127.0.0.1:8090", "address")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *url, *keys, *listen); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, url, keyFile, listen string) error {
	keys, err := keyring.Open(keyFile)
	if err != nil {
		return err
	}
	cat, err := catalog.Open(ctx, url, catalog.Config{Keys: keys})
	if err != nil {
		return err
	}
	defer cat.Close()
	dir := tenants.NewDirectory(cat)
	// With the catalog as its registry this process takes its share of each server's connections, beside all others.
	rt, err := router.New(dir, router.Config{Registry: cat, AnonRole: "authenticated"})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return err
	}
	fmt.Printf("listening on http://%s\n", l.Addr())

	server := &http.Server{Handler: handler(rt), ReadHeaderTimeout: 5 * time.Second}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	parts, failed := errgroup.WithContext(serving)
	parts.Go(func() error { return unlessDone(failed, dir.Run(failed)) })
	parts.Go(func() error { return unlessDone(failed, rt.Run(failed)) })
	parts.Go(func() error {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	select {
	case <-ctx.Done():
	case <-failed.Done():
	}
	// Requests end first, then what they used; then nothing of us is left in the catalog.
	draining, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	err = server.Shutdown(draining)
	rt.Close()
	stop()
	return errors.Join(err, parts.Wait())
}

// unlessDone forgets the error of a part that was told to stop.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// project is a row of the tenant's.
type project struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
}

func handler(rt *router.Router) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = router.ErrorHandler
	e.GET("/pools", func(c echo.Context) error { return c.JSON(http.StatusOK, rt.Pools()) })
	mine := e.Group("/projects", rt.Middleware(&tenants.Resolver{Contributors: []tenants.Contributor{
		tenants.FromDomain("{tenant}.localhost"), tenants.FromHeader("X-Tenant"),
	}}))
	mine.GET("", func(c echo.Context) error {
		ctx := c.Request().Context()
		var found []project
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) (err error) {
			rows, _ := tx.Query(ctx, `select id::text, name, status from projects order by name`)
			found, err = pgx.CollectRows(rows, pgx.RowToStructByPos[project])
			return err
		})
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, found)
	})
	mine.POST("", func(c echo.Context) error {
		var p project
		if err := c.Bind(&p); err != nil || p.Name == "" {
			return echo.NewHTTPError(http.StatusBadRequest, "a project needs a name")
		}
		ctx := c.Request().Context()
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `insert into projects (name) values ($1) returning id::text, status`, p.Name).Scan(&p.ID, &p.Status)
		})
		if err != nil {
			return err
		}
		return c.JSON(http.StatusCreated, p)
	})
	return e
}
