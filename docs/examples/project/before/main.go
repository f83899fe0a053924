// Before is the application as it was: one database, one customer.
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
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"
)

// Project is the resource.
type Project struct {
	ID     string `json:"id"`
	Name   string `json:"name"`
	Status string `json:"status"`
}

func main() {
	url, listen := flag.String("database", "", "connection string"), flag.String("listen", "127.0.0.1:5000", "address")
	flag.Parse()
	db, err := pgxpool.New(context.Background(), *url)
	if err != nil {
		fail(err)
	}
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

func routes(db *pgxpool.Pool) http.Handler {
	e := echo.New()
	e.GET("/projects", func(c echo.Context) error {
		var all []Project
		err := pgx.BeginFunc(c.Request().Context(), db, func(tx pgx.Tx) (err error) {
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
		err := pgx.BeginFunc(c.Request().Context(), db, func(tx pgx.Tx) error {
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
		err := pgx.BeginFunc(c.Request().Context(), db, func(tx pgx.Tx) error {
			return tx.QueryRow(c.Request().Context(), `insert into projects (name) values ($1) returning id::text, status`, p.Name).Scan(&p.ID, &p.Status)
		})
		if err != nil {
			return err
		}
		return c.JSON(http.StatusCreated, p)
	})
	e.DELETE("/projects/:id", func(c echo.Context) error {
		err := pgx.BeginFunc(c.Request().Context(), db, func(tx pgx.Tx) error {
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
