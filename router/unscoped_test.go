package router_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// trail keeps audit events, or refuses them.
type trail struct {
	mu     sync.Mutex // guards the fields below
	events []catalog.Event
	err    error
}

func (a *trail) note(_ context.Context, e catalog.Event) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		a.events = append(a.events, e)
	}
	return a.err
}

// unscopedLogin gives a database the login that jobs.AllowUnscoped makes.
func (w *world) unscopedLogin(db *database) (role string) {
	w.t.Helper()
	role, password := pgtest.Role(w.t, "LOGIN INHERIT BYPASSRLS")
	db.exec(w.t, "grant service_role to "+role)
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		return tx.SetCredential(ctx, catalog.Credential{
			Server: w.server, Database: db.id, Login: catalog.LoginUnscoped, Version: 1, Role: role, Secret: catalog.NewSecret(password),
		})
	})
	return role
}

func TestRouter_BeginUnscoped(t *testing.T) {
	t.Parallel()
	type testBundle struct {
		*world
		db      *database
		rt      *router.Router
		trail   *trail
		role    string
		host    context.Context
		without context.Context // the host's, with other permissions
	}
	setup := func(t *testing.T) *testBundle {
		b := &testBundle{world: newWorld(t, 20), trail: &trail{}}
		b.db = b.database()
		b.tenant("acme", b.db)
		b.tenant("globex", b.db)
		b.db.exec(t, "create function rowhouse.enter_all() returns void language sql as ''")
		b.role = b.unscopedLogin(b.db)
		b.rt = b.router(router.Config{Audit: b.trail.note})
		b.host = tenants.NewContext(t.Context(), tenants.Host("ops", tenants.PermitDataCross))
		b.without = tenants.NewContext(t.Context(), tenants.Host("ops", tenants.PermitTenantsRead))
		return b
	}
	begin := func(b *testBundle, ctx context.Context, mode pgx.TxAccessMode) pgx.Tx {
		b.t.Helper()
		tx, err := b.rt.BeginUnscopedTx(ctx, b.db.id, "ticket 1", pgx.TxOptions{AccessMode: mode})
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = tx.Rollback(context.Background()) })
		return tx
	}
	t.Run("it sees every tenant's rows, by a login of its own, and writes nothing", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		tx, err := b.rt.BeginUnscoped(b.host, b.db.id, "ticket 1")
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(context.Background())
		seen, err := owners(b.host, tx)
		slices.Sort(seen)
		if err != nil || !slices.Equal(seen, []string{"acme", "globex"}) {
			t.Errorf("it sees %v, %v", seen, err)
		}
		var who string
		if err := tx.QueryRow(b.host, "select session_user || ' ' || current_user").Scan(&who); err != nil || who != b.role+" "+b.role {
			t.Errorf("it is %s, %v", who, err)
		}
		if _, err := tx.Exec(b.host, "insert into projects (tenant_id, owner) select tenant_id, 'x' from projects"); err == nil || !strings.Contains(err.Error(), "25006") {
			t.Errorf("a write: %v", err)
		}
		if n := b.rt.Stat().Unscoped; n != 1 {
			t.Errorf("%d are counted", n)
		}
	})
	t.Run("it writes where that is asked for", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		tx := begin(b, b.host, pgx.ReadWrite)
		if _, err := tx.Exec(b.host, "update projects set name = 'second'"); err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(b.host); err != nil {
			t.Fatal(err)
		}
		if n := b.db.count(t, "select count(*) from public.projects where name = 'second'"); n != 2 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("who, where, why and how stand in the trail before anything is begun", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		begin(b, b.host, pgx.ReadOnly)
		begin(b, b.host, pgx.ReadWrite)
		if _, err := b.rt.BeginUnscoped(b.without, b.db.id, "curious"); !errors.Is(err, tenants.ErrNotPermitted) {
			t.Errorf("without the permission: %v", err)
		}
		var got []string
		for _, e := range b.trail.events {
			got = append(got, fmt.Sprint(e.Action, " ", e.Actor.Side, " ", e.Actor.Subject, " ", e.Target.ID == [16]byte(b.db.id), " ", e.Detail["mode"], " ", e.Detail["why"]))
		}
		want := []string{
			"database.unscoped host ops true read only ticket 1", "database.unscoped host ops true read write ticket 1",
			"database.unscoped.refused host ops true read only curious",
		}
		if !slices.Equal(got, want) {
			t.Errorf("the trail has %q", got)
		}
		b.trail.err = errors.New("away")
		if _, err := b.rt.BeginUnscoped(b.host, b.db.id, "ticket 2"); !errors.Is(err, router.ErrUnavailable) {
			t.Errorf("without a trail: %v", err)
		}
		if n := b.rt.Stat().Unscoped; n != 2 {
			t.Errorf("%d were begun", n)
		}
	})
	t.Run("refused", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		closed := b.database()
		for _, c := range []struct {
			name string
			ctx  context.Context
			db   catalog.DatabaseID
			why  string
			want error
		}{
			{"nobody", t.Context(), b.db.id, "why", tenants.ErrNotHost},
			{"a tenant, whatever its role", b.as("acme", "service_role"), b.db.id, "why", tenants.ErrNotHost},
			{"no reason", b.host, b.db.id, " ", tenants.ErrInvalid},
			{"a database where nobody has allowed it", b.host, closed.id, "why", router.ErrNotAllowed},
			{"a database that is not there", b.host, catalog.NewID[catalog.Database](), "why", tenants.ErrNotFound},
		} {
			if _, err := b.rt.BeginUnscoped(c.ctx, c.db, c.why); !errors.Is(err, c.want) {
				t.Errorf("%s: %v, want %v", c.name, err, c.want)
			}
		}
		if len(b.trail.events) != 0 {
			t.Errorf("the trail has %+v", b.trail.events)
		}
		if _, err := b.router(router.Config{}).BeginUnscoped(b.host, b.db.id, "why"); err == nil {
			t.Error("begun though nobody keeps a trail")
		}
	})
	t.Run("a tenant's context cannot use it, and a host's no tenant's transaction", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		acme := b.as("acme", "service_role")
		tx := begin(b, b.host, pgx.ReadOnly)
		if _, err := owners(acme, tx); !errors.Is(err, tenants.ErrWrongTenant) {
			t.Errorf("a tenant in the host's transaction: %v", err)
		}
		own, err := b.rt.Begin(acme)
		if err != nil {
			t.Fatal(err)
		}
		defer own.Rollback(acme)
		if _, err := owners(b.host, own); !errors.Is(err, tenants.ErrWrongTenant) {
			t.Errorf("the host in a tenant's transaction: %v", err)
		}
		inner, err := tx.Begin(b.host)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := owners(b.host, inner); err != nil {
			t.Errorf("a savepoint: %v", err)
		}
	})
	t.Run("a login that no longer passes the fence is an error, not fewer rows", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.db.exec(t, "alter role "+b.role+" nobypassrls")
		tx := begin(b, b.host, pgx.ReadOnly)
		if seen, err := owners(b.host, tx); err == nil || !strings.Contains(err.Error(), "42501") {
			t.Errorf("it sees %v, %v", seen, err)
		}
	})
	t.Run("taken away, it is refused at once, though a pool is open", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		tx := begin(b, b.host, pgx.ReadOnly)
		if err := tx.Commit(b.host); err != nil {
			t.Fatal(err)
		}
		b.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.RemoveCredentials(ctx, b.db.id, catalog.LoginUnscoped)
		})
		if _, err := b.rt.BeginUnscoped(b.host, b.db.id, "again"); !errors.Is(err, router.ErrNotAllowed) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a writer waits for a move to end, as the gate says", func(t *testing.T) {
		t.Parallel()
		b := setup(t)
		b.db.exec(t, "create or replace function rowhouse.enter_all() returns void language plpgsql as $$ begin raise exception 'moving' using errcode = 'RH001'; end $$")
		if _, err := b.rt.BeginUnscopedTx(b.host, b.db.id, "why", pgx.TxOptions{AccessMode: pgx.ReadWrite}); !errors.Is(err, router.ErrMoving) {
			t.Errorf("%v", err)
		}
		begin(b, b.host, pgx.ReadOnly)
	})
}

// What goes past the fence is known by name: who adds a call adds it here, with the reason.
func TestNothing_calls_BeginUnscoped_unseen(t *testing.T) {
	t.Parallel()
	allowed, call := map[string]string{}, regexp.MustCompile(`\.BeginUnscoped(Tx)?\(`)
	files := 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || len(entry.Name()) > 2 && entry.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") || filepath.Dir(path) == filepath.Join("..", "router") {
			return nil
		}
		files++
		text, err := os.ReadFile(path)
		if call.Match(text) && allowed[path] == "" {
			t.Errorf("%s calls BeginUnscoped", path)
		}
		return err
	})
	if err != nil || files < 100 {
		t.Errorf("looked at %d files: %v", files, err)
	}
}
