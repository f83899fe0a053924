package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// nowhere is a directory of one tenant, whose server refuses connections.
type nowhere struct {
	tenant *catalog.Tenant
	db     *catalog.Database
	server *catalog.Server
}

func (n nowhere) Tenant(context.Context, string) (*catalog.Tenant, error) { return n.tenant, nil }
func (n nowhere) Database(context.Context, catalog.DatabaseID) (*catalog.Database, error) {
	return n.db, nil
}

func (n nowhere) Server(context.Context, catalog.ServerID) (*catalog.Server, error) {
	return n.server, nil
}

func (n nowhere) ConnConfig(context.Context, catalog.DatabaseID, catalog.Login) (*pgx.ConnConfig, error) {
	return pgx.ParseConfig("postgres://r:s@127.0.0.1:1/d?sslmode=disable")
}

// A server that cannot be reached is in the metrics by its name, and so is why; no tenant is.
func TestRouterMetrics(t *testing.T) {
	t.Parallel()
	server := &catalog.Server{ID: catalog.NewID[catalog.Server](), Name: "nowhere", MaxConnections: 7}
	db := &catalog.Database{ID: catalog.NewID[catalog.Database](), Server: server.ID, State: catalog.DatabaseActive}
	acme := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "acme", Database: db.ID, State: catalog.StateActive}
	dir := nowhere{acme, db, server}
	rt, err := router.New(dir, router.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer rt.Close()
	for range 5 {
		_ = tenants.With(t.Context(), acme, func(ctx context.Context) error { return rt.BeginFunc(ctx, func(pgx.Tx) error { return nil }) })
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(routerMetrics{rt, dir})
	rec := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(rec, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`rowhouse_server_breaker_state{server="nowhere"} 1`, `rowhouse_server_budget{server="nowhere"} 7`,
		`rowhouse_server_dials_total{result="error",server="nowhere"} 5`, `rowhouse_server_waiting{queue="gate",server="nowhere"} 0`,
		`rowhouse_server_connections{server="nowhere",state="idle"} 0`, `rowhouse_limited_total 0`,
	} {
		if !strings.Contains(rec.Body.String(), line+"\n") {
			t.Errorf("missing: %s\n%s", line, rec.Body.String())
		}
	}
	if strings.Contains(rec.Body.String(), "acme") {
		t.Error("a tenant is in a label")
	}
}
