package router_test

import (
	"context"
	"fmt"
	"log"
	"net/http"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// serveProjects is an application of one's own: every request's transaction sees the rows of its tenant and no other's.
func serveProjects(ctx context.Context, url string, keys catalog.Keys) error {
	cat, err := catalog.Open(ctx, url, catalog.Config{Keys: keys})
	if err != nil {
		return err
	}
	defer cat.Close()
	// Who may ask is this application's to say: its requests run as authenticated. With a Verifier the token decides.
	rt, err := router.New(tenants.NewDirectory(cat), router.Config{MaxPools: 200, AnonRole: "authenticated"})
	if err != nil {
		return err
	}
	defer rt.Close()
	e := echo.New()
	e.HTTPErrorHandler = router.ErrorHandler
	e.Use(rt.Middleware(&tenants.Resolver{Contributors: []tenants.Contributor{
		tenants.FromDomain("{tenant}.example.com"), tenants.FromHeader("X-Tenant"),
	}}))
	e.GET("/projects", func(c echo.Context) error {
		var names []string
		ctx := c.Request().Context()
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) (err error) {
			rows, _ := tx.Query(ctx, "select name from projects order by name")
			names, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, names)
	})
	return e.Start(":8080")
}

func Example() {
	if err := serveProjects(context.Background(), "postgres://catalog.example.com/catalog", nil); err != nil {
		log.Fatal(err)
	}
}

// Why does a request wait? Stat tells of each server in which queue, and Pools of each database.
func ExampleRouter_Stat() {
	rt, err := router.New(tenants.NewDirectory(nil), router.Config{})
	if err != nil {
		log.Fatal(err)
	}
	defer rt.Close()
	st := rt.Stat()
	fmt.Printf("%d pools are kept, %d are being opened, %d are pushed out and still lent\n", st.Pools.Kept, st.Pools.Opening, st.Pools.Draining)
	fmt.Printf("%d requests wait for another one of their tenant\n", st.Tenants.Waiting)
	for id, s := range st.Servers {
		fmt.Printf("server %s: %d of our %d connections are open, %d of them idle\n", id, s.Open, s.Share, s.Idle)
		fmt.Printf("%d wait for a connection of their database, %d for room on the server, %d for their turn to run\n", s.WaitingAtGate, s.Waiting, s.WaitingToRun)
	}
	for _, p := range rt.Pools() {
		fmt.Printf("database %s: %d open, %d lent, %d wait; it may have %d, and %d when the server is full\n", p.Database, p.Open, p.Lent, p.Waiting, p.Most, p.Soft)
	}
	// Output:
	// 0 pools are kept, 0 are being opened, 0 are pushed out and still lent
	// 0 requests wait for another one of their tenant
}
