package rest_test

import (
	"context"
	"log"
	"net/http"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/router/rest"
)

// A pool is all that a Handler needs: this serves the tables of one database.
func Example() {
	pool, err := pgxpool.New(context.Background(), "postgres:///shop")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	http.Handle("/rest/v1/", rest.New(pool, rest.Config{Options: rest.Options{Schemas: []string{"api"}}}))
	log.Print(http.ListenAndServe("localhost:8080", nil))
}

// Below echo, with options that differ by request.
func ExampleRegister() {
	pool, err := pgxpool.New(context.Background(), "postgres:///shop")
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	e := echo.New()
	rest.Register(e.Group("/rest/v1"), rest.New(pool, rest.Config{
		PerRequest: func(r *http.Request) (rest.Options, error) {
			o := rest.Options{Role: "authenticated", AnonRole: "anon", MaxRows: 100}
			if r.Header.Get("Authorization") == "" {
				o.Role = "anon"
			}
			return o, nil
		},
	}))
	log.Print(e.Start("localhost:8080"))
}
