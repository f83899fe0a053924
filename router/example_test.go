package router_test

import (
	"context"
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
