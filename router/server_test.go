package router_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

func nothing(pgx.Tx) error { return nil }

// alone makes a database one that holds a single tenant.
func (w *world) alone(db *database) *database {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.databases set kind = 'dedicated' where id = $1", db.id)
		return err
	})
	return db
}

func TestRouter_breaker(t *testing.T) {
	t.Parallel()
	t.Run("a server that refuses connections is not asked by every request, and found at once where it moved", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		w.tenant("acme", w.database())
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		row, err := w.cat.Server(t.Context(), "here")
		if err != nil {
			t.Fatal(err)
		}
		move := func(hosts []string) {
			w.update(func(ctx context.Context, tx *catalog.Tx) error { return tx.SetServerHosts(ctx, w.server, hosts) })
		}
		move([]string{"127.0.0.1:1"})
		for range 5 {
			if _, err := rt.Begin(acme); !errors.Is(err, router.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		before := rt.Stat().Servers[w.server]
		_, err = rt.Begin(acme)
		after := rt.Stat().Servers[w.server]
		if !errors.Is(err, router.ErrUnavailable) || after.Dials != before.Dials || !after.BreakerOpen {
			t.Errorf("%v after %d dials more", err, after.Dials-before.Dials)
		}
		rec := httptest.NewRecorder()
		router.WriteError(rec, httptest.NewRequest(http.MethodGet, "/", nil), err)
		if rec.Code != 503 || rec.Header().Get("Retry-After") != "2" && rec.Header().Get("Retry-After") != "1" {
			t.Errorf("answer %d, Retry-After %q", rec.Code, rec.Header().Get("Retry-After"))
		}
		rt.Later()
		if _, err := rt.Begin(acme); !errors.Is(err, router.ErrUnavailable) || rt.Stat().Servers[w.server].Dials != after.Dials+1 {
			t.Errorf("when the time has come: %v, %d dials", err, rt.Stat().Servers[w.server].Dials-after.Dials)
		}
		move(row.Hosts)
		if err := rt.BeginFunc(acme, nothing); err != nil {
			t.Errorf("where it moved: %v", err)
		}
		if rt.Stat().Servers[w.server].BreakerOpen {
			t.Error("the breaker is open though the server answers")
		}
	})
	t.Run("a refused credential is read once more and then left alone", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db, other := w.database(), w.database()
		w.tenant("acme", db)
		w.tenant("globex", other)
		rt := w.router(router.Config{})
		acme, globex := w.as("acme", "service_role"), w.as("globex", "service_role")
		db.exec(t, "alter role "+db.login+" password 'another'")
		for range 3 {
			if _, err := rt.Begin(acme); !errors.Is(err, router.ErrUnavailable) {
				t.Errorf("got %v", err)
			}
		}
		if st := rt.Stat().Servers[w.server]; st.Dials != 2 || st.BreakerOpen || st.LoginsRefused != 1 {
			t.Errorf("%+v, want two dials: with what was known and with what was read anew", st)
		}
		if err := rt.BeginFunc(globex, nothing); err != nil {
			t.Errorf("another database of the server: %v", err)
		}
		w.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetCredential(ctx, catalog.Credential{
				Server: w.server, Database: db.id, Login: catalog.LoginData, Version: 1, Role: db.login, Secret: catalog.NewSecret("another"),
			})
		})
		rt.Later()
		if err := rt.BeginFunc(acme, nothing); err != nil {
			t.Errorf("half a minute later, with the right one in the catalog: %v", err)
		}
		if st := rt.Stat().Servers[w.server]; st.LoginsRefused != 0 {
			t.Errorf("%+v", st)
		}
	})
}

func TestRouter_slots_in_use(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	w.tenant("acme", w.database())
	w.tenant("globex", w.database())
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set max_in_use = 1")
		return err
	})
	rt := w.router(router.Config{AcquireTimeout: 2 * time.Second})
	acme, globex := w.as("acme", "service_role"), w.as("globex", "service_role")
	tx, err := rt.Begin(acme)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := rt.Begin(globex); !errors.Is(err, router.ErrOverloaded) {
		t.Errorf("the second at once of one: %v, want ErrOverloaded", err)
	}
	if err := tx.Commit(acme); err != nil {
		t.Error(err)
	}
	if err := rt.BeginFunc(globex, nothing); err != nil {
		t.Error(err)
	}
	if st := rt.Stat().Servers[w.server]; st.InUse != 0 || st.MaxInUse != 1 {
		t.Errorf("%+v", st)
	}
}

// A database that has more than its share gives up a connection before one that has only one, however long that was idle.
func TestRouter_reclaims_the_surplus_first(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 3)
	var who [3]context.Context
	for i := range who {
		name := fmt.Sprintf("t%d", i)
		w.tenant(name, w.alone(w.database()))
		who[i] = w.as(name, "service_role")
	}
	rt := w.router(router.Config{AcquireTimeout: 20 * time.Second})
	backend := func(ctx context.Context) (pid uint32) {
		if err := rt.BeginFunc(ctx, func(tx pgx.Tx) error { pid = tx.Conn().PgConn().PID(); return nil }); err != nil {
			t.Error(err)
		}
		return pid
	}
	only := backend(who[0])
	one, err := rt.Begin(who[1])
	if err != nil {
		t.Fatal(err)
	}
	two, err := rt.Begin(who[1]) // an optional one, since there is room
	if err != nil {
		t.Fatal(err)
	}
	_ = one.Rollback(who[1])
	_ = two.Rollback(who[1])
	backend(who[2])
	if again := backend(who[0]); again != only {
		t.Error("the only connection of a database went, though another had two")
	}
	st := rt.Stat().Servers[w.server]
	if st.Reclaimed != 1 || st.Open != 3 {
		t.Errorf("%+v", st)
	}
}
