// After is the same application for many customers: what differs from ../before is where the database comes from, and one
// line that says how a request names its tenant. No statement changed.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// Project is the resource.
type Project struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
}

func main() {
	url, listen := flag.String("catalog", "", "connection string of the catalog"), flag.String("listen", "127.0.0.1:5000", "address")
	keyFile := flag.String("keys", "", "keyset file of the catalog")
	flag.Parse()
	keys, err := keyring.Open(*keyFile)
	if err != nil {
		fail(err)
	}
	cat, err := catalog.Open(context.Background(), *url, catalog.Config{Keys: keys})
	if err != nil {
		fail(err)
	}
	db, err := router.New(tenants.NewDirectory(cat), router.Config{Registry: cat, AnonRole: "authenticated"})
	if err != nil {
		fail(err)
	}
	go func() { fail(db.Run(context.Background())) }() // shares each server's connections with all other processes
	l, err := net.Listen("tcp", *listen)
	if err != nil {
		fail(err)
	}
	fmt.Printf("listening on http://%s\n", l.Addr())
	fail(http.Serve(l, routes(db)))
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

func routes(db *router.Router) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = router.ErrorHandler
	e.Use(db.Middleware(&tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromDomain("{tenant}.localhost"), tenants.FromHeader("X-Tenant")}}))
	e.GET("/projects", func(c echo.Context) error {
		var all []Project
		err := db.BeginFunc(c.Request().Context(), func(tx pgx.Tx) (err error) {
			rows, _ := tx.Query(c.Request().Context(), `select id::text, name, status from projects order by name`)
			all, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Project])
			return err
		})
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, all)
	})
	e.GET("/projects/:id", func(c echo.Context) error {
		var p Project
		err := db.BeginFunc(c.Request().Context(), func(tx pgx.Tx) error {
			return tx.QueryRow(c.Request().Context(), `select id::text, name, status from projects where id = $1`, c.Param("id")).Scan(&p.ID, &p.Name, &p.Status)
		})
		if errors.Is(err, pgx.ErrNoRows) {
			return echo.ErrNotFound
		}
		if err != nil {
			return err
		}
		return c.JSON(http.StatusOK, p)
	})
	e.POST("/projects", func(c echo.Context) error {
		var p Project
		if err := c.Bind(&p); err != nil || p.Name == "" {
			return echo.ErrBadRequest
		}
		err := db.BeginFunc(c.Request().Context(), func(tx pgx.Tx) error {
			return tx.QueryRow(c.Request().Context(), `insert into projects (name) values ($1) returning id::text, status`, p.Name).Scan(&p.ID, &p.Status)
		})
		if err != nil {
			return err
		}
		return c.JSON(http.StatusCreated, p)
	})
	e.DELETE("/projects/:id", func(c echo.Context) error {
		err := db.BeginFunc(c.Request().Context(), func(tx pgx.Tx) error {
			tag, err := tx.Exec(c.Request().Context(), `delete from projects where id = $1`, c.Param("id"))
			if err == nil && tag.RowsAffected() == 0 {
				err = echo.ErrNotFound
			}
			return err
		})
		if err != nil {
			return err
		}
		return c.NoContent(http.StatusNoContent)
	})
	return e
}
