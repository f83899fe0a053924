package router_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

func (w *world) set(id catalog.TenantID, key, value string) {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		return tx.SetSetting(ctx, id, key, json.RawMessage(value))
	})
}

func TestRouter_limits(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	db := w.database()
	acmeID := w.tenant("acme", db)
	w.tenant("globex", db)

	t.Run("a tenant has its transactions at a time, some wait, and the rest is refused; others do not notice", func(t *testing.T) {
		w.set(acmeID, tenants.LimitConcurrent, "2")
		rt := w.router(router.Config{AcquireTimeout: 10 * time.Second})
		acme, globex := w.as("acme", "service_role"), w.as("globex", "service_role")
		var held [2]pgx.Tx
		for i := range held {
			var err error
			if held[i], err = rt.Begin(acme); err != nil {
				t.Fatal(err)
			}
		}
		waiting := make(chan error)
		for range 8 { // four for each place
			go func() { waiting <- rt.BeginFunc(acme, func(pgx.Tx) error { return nil }) }()
		}
		for rt.Stat().Tenants.Waiting < 8 {
			time.Sleep(time.Millisecond)
		}
		_, err := rt.Begin(acme)
		if !errors.Is(err, router.ErrRateLimited) || outcome(err) != "not_started" {
			t.Errorf("beyond the queue: %v, want ErrRateLimited", err)
		}
		rec := httptest.NewRecorder()
		router.WriteError(rec, httptest.NewRequest(http.MethodPost, "/", nil), err)
		if rec.Code != 429 || rec.Header().Get("Retry-After") != "1" || rec.Header().Get("RateLimit-Policy") != `"concurrent";q=2;qu="concurrent-requests"` || rec.Header().Get("Rowhouse-Outcome") != "not_started" {
			t.Errorf("answer %d %v", rec.Code, rec.Header())
		}
		if err := rt.BeginFunc(globex, func(pgx.Tx) error { return nil }); err != nil {
			t.Errorf("the other tenant: %v", err)
		}
		for _, tx := range held {
			_ = tx.Rollback(acme)
		}
		for range 8 {
			if err := <-waiting; err != nil {
				t.Errorf("who waited: %v", err)
			}
		}
		if st := rt.Stat().Tenants; st.Running != 0 || st.Waiting != 0 || st.Limited != 1 {
			t.Errorf("afterwards %+v", st)
		}
	})
	t.Run("who waits too long, or leaves, gives its turn on", func(t *testing.T) {
		w.set(acmeID, tenants.LimitConcurrent, "1")
		rt := w.router(router.Config{AcquireTimeout: 2 * time.Second})
		acme := w.as("acme", "service_role")
		tx, err := rt.Begin(acme)
		if err != nil {
			t.Fatal(err)
		}
		gone, cancel := context.WithCancel(acme)
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := rt.Begin(gone); !errors.Is(err, context.Canceled) {
				t.Errorf("who left: %v", err)
			}
		})
		wg.Go(func() {
			if _, err := rt.Begin(acme); !errors.Is(err, router.ErrRateLimited) {
				t.Errorf("who waited too long: %v", err)
			}
		})
		for rt.Stat().Tenants.Waiting < 2 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		wg.Wait()
		_ = tx.Rollback(acme)
		if err := rt.BeginFunc(acme, func(pgx.Tx) error { return nil }); err != nil {
			t.Error(err)
		}
	})
	t.Run("in a shared database nobody has more than half the pool", func(t *testing.T) {
		w.set(acmeID, tenants.LimitConcurrent, "100")
		rt := w.router(router.Config{MaxConnsPerDatabase: 4, AcquireTimeout: 2 * time.Second})
		acme := w.as("acme", "service_role")
		for range 2 {
			tx, err := rt.Begin(acme)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(acme)
		}
		if _, err := rt.Begin(acme); !errors.Is(err, router.ErrRateLimited) {
			t.Errorf("the third of four: %v", err)
		}
	})
	t.Run("a statement ends at the tenant's timeout, and its connection serves on", func(t *testing.T) {
		w.set(acmeID, tenants.LimitStatement, `"30ms"`)
		defer w.set(acmeID, tenants.LimitStatement, `"0s"`)
		rt := w.router(router.Config{MaxConnsPerDatabase: 1})
		acme, globex := w.as("acme", "service_role"), w.as("globex", "service_role")
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error { _, err := tx.Exec(acme, "select pg_sleep(30)"); return err })
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "57014" {
			t.Errorf("got %v, want 57014", err)
		}
		if err := rt.BeginFunc(globex, func(tx pgx.Tx) error { _, err := tx.Exec(globex, "select pg_sleep(0.1)"); return err }); err != nil {
			t.Errorf("a tenant without one, on the same connection: %v", err)
		}
	})
	t.Run("requests a second, told in headers", func(t *testing.T) {
		w.set(acmeID, tenants.LimitRequests, "3")
		rt := w.router(router.Config{})
		serve := rt.Resolve(&tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromHeader("X-Tenant")}},
			http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }))
		ask := func(tenant string) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Header.Set("X-Tenant", tenant)
			rec := httptest.NewRecorder()
			serve.ServeHTTP(rec, r)
			return rec
		}
		for left := 2; left >= 0; left-- {
			rec := ask("acme")
			if rec.Code != 204 || rec.Header().Get("RateLimit-Policy") != `"requests";q=3;w=1` || rec.Header().Get("RateLimit") != fmt.Sprintf(`"requests";r=%d;t=1`, left) {
				t.Errorf("%d left: %d %v", left, rec.Code, rec.Header())
			}
		}
		if rec := ask("acme"); rec.Code != 429 || rec.Header().Get("Retry-After") != "1" || rec.Header().Get("RateLimit") != `"requests";r=0;t=1` {
			t.Errorf("the fourth: %d %v", rec.Code, rec.Header())
		}
		if rec := ask("globex"); rec.Code != 204 || rec.Header().Get("RateLimit") != "" {
			t.Errorf("another tenant: %d %v", rec.Code, rec.Header())
		}
	})
}

// A request has one place of its tenant's, however many transactions it opens within each other: it never waits for itself.
func TestRouter_counts_a_request_once(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	id := w.tenant("acme", w.database())
	w.set(id, tenants.LimitConcurrent, "1")
	rt := w.router(router.Config{AcquireTimeout: 10 * time.Second})
	acme, err := w.dir.Tenant(t.Context(), "acme")
	if err != nil {
		t.Fatal(err)
	}
	other := w.as("acme", "service_role")
	err = tenants.With(t.Context(), acme, func(ctx context.Context) error {
		return rt.BeginFunc(ctx, func(pgx.Tx) error {
			return rt.BeginFunc(ctx, func(pgx.Tx) error {
				return tenants.With(ctx, acme, func(ctx context.Context) error { // the same work still
					return rt.BeginFunc(ctx, func(pgx.Tx) error {
						if running := rt.Stat().Tenants.Running; running != 1 {
							t.Errorf("three transactions of one request count as %d", running)
						}
						soon, cancel := context.WithTimeout(other, 50*time.Millisecond)
						defer cancel()
						if _, err := rt.Begin(soon); err == nil {
							t.Error("another request got in beyond the limit of one")
						}
						return nil
					})
				})
			})
		})
	})
	if err != nil {
		t.Errorf("within itself: %v", err)
	}
	if running := rt.Stat().Tenants.Running; running != 0 {
		t.Errorf("%d are left", running)
	}
	if err := rt.BeginFunc(other, nothing); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	h := rt.Resolve(&tenants.Resolver{Contributors: []tenants.Contributor{tenants.Always("acme")}}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if err := rt.BeginFunc(r.Context(), func(pgx.Tx) error { return rt.BeginFunc(r.Context(), nothing) }); err != nil {
			t.Errorf("in a request: %v", err)
		}
	}))
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/", nil))
}
