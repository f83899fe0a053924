package router_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// gated makes a tenant whose database has a gate for it, open for its first placement.
func (w *world) gated(name string, db *database) catalog.TenantID {
	w.t.Helper()
	id := w.tenant(name, db)
	db.gate(w.t, id, "open", 1)
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.tenants set placement_epoch = 1 where id = $1", id)
		return err
	})
	return id
}

// gate sets a tenant's gate, as the migration makes it.
func (d *database) gate(t testing.TB, id catalog.TenantID, state string, epoch int) {
	t.Helper()
	if d.count(t, "select count(*) from pg_class where oid = to_regclass('rowhouse.gate')") == 0 {
		file, err := os.ReadFile("../migrations/tenant/000007_gate.up.sql")
		if err != nil {
			t.Fatal(err)
		}
		d.exec(t, string(file))
	}
	d.exec(t, fmt.Sprintf(`insert into rowhouse.gate (tenant_id, state, epoch) values ('%s', '%s', %d)
		on conflict (tenant_id) do update set state = excluded.state, epoch = excluded.epoch`, id, state, epoch))
}

// moves says in the catalog where a tenant lives, and does not tell the router.
func (w *world) moves(id catalog.TenantID, sql string, args ...any) {
	w.t.Helper()
	err := w.cat.Update(w.t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		_, err := tx.Exec(w.t.Context(), "update rowhouse.tenants set "+sql+" where id = $1", append([]any{id}, args...)...)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// writers are the two ways to write through a router.
var writers = map[string]func(*router.Router, context.Context) error{
	"BeginFunc": func(rt *router.Router, ctx context.Context) error {
		return rt.BeginFunc(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into projects (owner, name) values ('acme', 'written')")
			return err
		})
	},
	"Lend": func(rt *router.Router, ctx context.Context) error {
		return rt.Lend(ctx, pgx.TxOptions{}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
			return lent(ctx, conn, open, "insert into public.projects (owner, name) values ('acme', 'written')")
		})
	},
}

// lent sends a statement in one flight, as the data API does.
func lent(ctx context.Context, conn *pgx.Conn, open func(*pgconn.Pipeline) int, sql string) error {
	p := conn.PgConn().StartPipeline(ctx)
	frame := open(p)
	p.SendQueryParams(sql, nil, nil, nil, nil)
	p.SendPipelineSync()
	p.SendQueryParams("commit", nil, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return errors.Join(err, p.Close())
	}
	for i := 0; i <= frame; i++ {
		result, err := p.GetResults()
		if reader, ok := result.(*pgconn.ResultReader); err == nil && ok {
			_, err = reader.Close()
		}
		if err != nil {
			_ = p.Close()
			if i < frame {
				return &unsent{err}
			}
			return err
		}
	}
	return p.Close()
}

// unsent is an error of the frame: nothing of ours ran.
type unsent struct{ error }

func (e *unsent) Unwrap() error   { return e.error }
func (e *unsent) Outcome() string { return "not_started" }

func (d *database) written(t testing.TB) int {
	return d.count(t, "select count(*) from projects where name = 'written'")
}

func TestRouter_gate(t *testing.T) {
	t.Parallel()
	for name, write := range writers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			t.Run("a writer is admitted, again and again on one connection", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 20)
				db := w.database()
				w.gated("acme", db)
				rt, ctx := w.router(router.Config{MaxConnsPerDatabase: 1}), w.as("acme", "authenticated")
				for range 3 {
					if err := write(rt, ctx); err != nil {
						t.Fatal(err)
					}
				}
				if n := db.written(t); n != 3 {
					t.Errorf("%d rows, want 3", n)
				}
			})
			t.Run("one whose view is old follows the tenant, and writes once", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 20)
				old, home := w.database(), w.database()
				acme := w.gated("acme", old)
				rt, ctx := w.router(router.Config{}), w.as("acme", "authenticated")
				if err := write(rt, ctx); err != nil {
					t.Fatal(err)
				}
				old.gate(t, acme, "moved", 1)
				home.gate(t, acme, "open", 2)
				w.moves(acme, "database = $2, placement_epoch = 2", home.id)
				if err := write(rt, ctx); err != nil {
					t.Fatal(err)
				}
				if was, is := old.written(t), home.written(t); was != 1 || is != 1 {
					t.Errorf("%d rows at the old home and %d at the new one, want one each", was, is)
				}
			})
			t.Run("one that comes while the tenant is fenced waits, and goes on at the new home", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 20)
				old, home := w.database(), w.database()
				acme := w.gated("acme", old)
				w.follow()
				rt, ctx := w.router(router.Config{}), w.as("acme", "authenticated")
				rt.Hold(time.Minute)
				unfence := old.fence(t, acme)
				done := make(chan error, 1)
				go func() { done <- write(rt, ctx) }()
				old.refused(t)
				old.gate(t, acme, "moved", 1)
				home.gate(t, acme, "open", 2)
				w.moves(acme, "database = $2, placement_epoch = 2", home.id)
				unfence()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if was, is := old.written(t), home.written(t); was != 0 || is != 1 {
					t.Errorf("%d rows at the old home and %d at the new one, want none and one", was, is)
				}
			})
			t.Run("a fence that falls lets it go on where it was", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 20)
				db := w.database()
				acme := w.gated("acme", db)
				rt, ctx := w.router(router.Config{}), w.as("acme", "authenticated")
				rt.Hold(time.Minute)
				unfence := db.fence(t, acme)
				done := make(chan error, 1)
				go func() { done <- write(rt, ctx) }()
				db.refused(t)
				unfence()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if n := db.written(t); n != 1 {
					t.Errorf("%d rows, want one", n)
				}
			})
			t.Run("one that waits too long is told so", func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, 20)
				db := w.database()
				acme := w.gated("acme", db)
				rt, ctx := w.router(router.Config{}), w.as("acme", "authenticated")
				defer db.fence(t, acme)()
				err := write(rt, ctx)
				if !errors.Is(err, router.ErrMoving) || outcome(err) != "not_started" {
					t.Fatalf("got %v (%s), want ErrMoving and not_started", err, outcome(err))
				}
				rec := httptest.NewRecorder()
				router.WriteError(rec, httptest.NewRequest("POST", "/", nil), err)
				if rec.Code != 503 || rec.Header().Get("Retry-After") != "1" || rec.Header().Get("Proxy-Status") != "rowhouse; error=tenant_moving" {
					t.Errorf("answer %d %v", rec.Code, rec.Header())
				}
				if st := rt.Stat(); len(st.Servers) != 1 || db.written(t) != 0 {
					t.Errorf("%d rows, stat %+v", db.written(t), st)
				}
			})
		})
	}
	t.Run("a read asks only while its tenant moves, or when the view of the catalog is old", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		old, home := w.database(), w.database()
		acme := w.gated("acme", old)
		rt, ctx := w.router(router.Config{}), w.as("acme", "authenticated")
		home.gate(t, acme, "open", 2)
		home.exec(t, "insert into projects (tenant_id, owner, name) values ('"+acme.String()+"', 'the new home', '')")
		old.gate(t, acme, "moved", 1)
		reads := func(want string) {
			t.Helper()
			tx, err := rt.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(ctx) }()
			if got, err := owners(ctx, tx); err != nil || len(got) != 1 || got[0] != want {
				t.Errorf("read %q, %v; want %q", got, err, want)
			}
		}
		reads("acme") // not asked
		w.moves(acme, "moving = true")
		if err := w.dir.Load(ctx); err != nil {
			t.Fatal(err)
		}
		w.moves(acme, "database = $2, placement_epoch = 2, moving = false", home.id) // which the router has not heard
		reads("the new home")
	})
	t.Run("a transaction of a stricter level is admitted too", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		w.gated("acme", w.database())
		rt, ctx := w.router(router.Config{}), w.as("acme", "authenticated")
		for _, level := range []pgx.TxIsoLevel{pgx.RepeatableRead, pgx.Serializable} {
			tx, err := rt.BeginTx(ctx, pgx.TxOptions{IsoLevel: level})
			if err != nil {
				t.Fatal(err)
			}
			if err := tx.Commit(ctx); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// fence keeps the tenant's writers out, as a move does.
func (d *database) fence(t testing.TB, id catalog.TenantID) (unfence func()) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, d.DSN())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Exec(ctx, "select pg_advisory_lock(lock) from rowhouse.gate where tenant_id = '"+id.String()+"'"); err != nil {
		t.Fatal(err)
	}
	return func() { _ = conn.Close(ctx) }
}

// refused waits until somebody was turned away at the gate.
func (d *database) refused(t testing.TB) {
	t.Helper()
	for ended := time.Now().Add(30 * time.Second); time.Now().Before(ended); time.Sleep(2 * time.Millisecond) { // another session's statement
		if d.count(t, "select count(*) from pg_stat_database where datname = current_database() and xact_rollback > 0") > 0 {
			return
		}
	}
	t.Fatal("nobody was turned away")
}
