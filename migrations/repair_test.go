package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations"
)

// soundAt gives the fingerprints of fresh databases at the versions of a set.
func soundAt(t *testing.T, app fstest.MapFS) migrations.Fingerprints {
	t.Helper()
	prints := map[int64]string{}
	return func(ctx context.Context, version int64) (string, error) {
		if prints[version] == "" {
			d := newDatabase(t)
			part := fstest.MapFS{}
			for name, f := range app {
				if name < fmt.Sprintf("%06d", version+1) {
					part[name] = f
				}
			}
			if _, err := d.up(part, migrations.Config{}); err != nil {
				return "", err
			}
			var err error
			if prints[version], err = migrations.Fingerprint(ctx, d.asOwner()); err != nil {
				return "", err
			}
		}
		return prints[version], nil
	}
}

func TestRepair(t *testing.T) {
	t.Parallel()
	// The index cannot be built while two rows are alike; there is no verify query.
	app := set(table("a")+"alter table a add n int;",
		"-- rowhouse:no-transaction\ncreate unique index concurrently unique_n on a (tenant_id, n)")
	broken := func(t *testing.T) (*database, *pgx.Conn) {
		d := newDatabase(t)
		d.migrate(set(table("a") + "alter table a add n int;"))
		conn := d.asLogin()
		d.mustDo(conn, "authenticated", acme, "insert into a (id, n) values (1, 1), (2, 1)")
		_, err := d.up(app, migrations.Config{})
		var dirty *migrations.DirtyError
		if !errors.As(err, &dirty) {
			t.Fatalf("%v", err)
		}
		d.mustDo(conn, "authenticated", acme, "delete from a where id = 2")
		return d, d.asOwner()
	}
	t.Run("a sound database is left alone", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(app)
		e, err := d.migratorOf(app).Repair(t.Context(), d.target(), soundAt(t, app))
		if err != nil || e.Version != 0 {
			t.Errorf("%+v, %v", e, err)
		}
		d.wantLedger("1 applied", "2 applied")
		if _, err := d.migratorOf(app).Mark(t.Context(), d.target(), true); !errors.Is(err, migrations.ErrNotDirty) {
			t.Errorf("%v", err)
		}
	})
	t.Run("partly: the invalid index goes, and the file runs again", func(t *testing.T) {
		t.Parallel()
		d, owner := broken(t)
		m := d.migratorOf(app)
		e, err := m.Inspect(t.Context(), d.target(), soundAt(t, app))
		if err != nil || e.Proposal != migrations.Retry || len(e.InvalidIndexes) != 1 || e.InvalidIndexes[0] != "public.unique_n" || e.State != "failed" || e.Fingerprint == "" {
			t.Errorf("%+v, %v", e, err)
		}
		d.wantLedger("1 applied", "2 failed")
		if _, err := m.Repair(t.Context(), d.target(), nil); err != nil {
			t.Fatal(err)
		}
		if one[bool](t, owner, "select to_regclass('unique_n') is not null") {
			t.Error("the invalid index stands")
		}
		d.wantLedger("1 applied")
		d.migrate(app)
		d.wantLedger("1 applied", "2 applied")
	})
	t.Run("nothing: the schema is that of the version before", func(t *testing.T) {
		t.Parallel()
		d, owner := broken(t)
		mustExec(t, owner, "drop index unique_n")
		m := d.migratorOf(app)
		e, err := m.Repair(t.Context(), d.target(), soundAt(t, app))
		if err != nil || e.Proposal != migrations.Retry || !strings.Contains(e.Reason, "before") || e.Fingerprint != e.Before {
			t.Errorf("%+v, %v", e, err)
		}
		d.migrate(app)
	})
	t.Run("wholly: the schema is that of the version after, and the ledger says how that is known", func(t *testing.T) {
		t.Parallel()
		d, owner := broken(t)
		mustExec(t, owner, "drop index unique_n", "create unique index unique_n on a (tenant_id, n)")
		e, err := d.migratorOf(app).Repair(t.Context(), d.target(), soundAt(t, app))
		if err != nil || e.Proposal != migrations.MarkApplied || e.Fingerprint != e.After {
			t.Errorf("%+v, %v", e, err)
		}
		if got := one[string](t, owner, "select concat_ws(' ', state, kind, marked_by, reason) from rowhouse.migrations where version = 2"); got != "applied marked rowhouse the schema is that of the version after it" {
			t.Errorf("ledger: %s", got)
		}
		if r := d.migrate(app); len(r.Applied) != 0 {
			t.Errorf("%+v", r)
		}
	})
	t.Run("neither: refused, until somebody decides", func(t *testing.T) {
		t.Parallel()
		d, owner := broken(t)
		mustExec(t, owner, "drop index unique_n", "alter table a add by_hand int")
		m := d.migratorOf(app)
		for _, known := range []migrations.Fingerprints{nil, soundAt(t, app)} {
			e, err := m.Repair(t.Context(), d.target(), known)
			var dirty *migrations.DirtyError
			if !errors.As(err, &dirty) || e.Proposal != migrations.Undecided {
				t.Errorf("%+v, %v", e, err)
			}
		}
		d.wantLedger("1 applied", "2 failed")
		file, err := m.Decide(t.Context(), d.target(), migrations.Decision{Applied: true, By: "ann", Reason: "looked"})
		if err != nil || file != "000002_b" {
			t.Fatalf("%s, %v", file, err)
		}
		if got := one[string](t, owner, "select concat_ws(' ', state, kind, marked_by, reason) from rowhouse.migrations where version = 2"); got != "applied marked ann looked" {
			t.Errorf("ledger: %s", got)
		}
	})
	t.Run("decided not applied: it runs again", func(t *testing.T) {
		t.Parallel()
		d, _ := broken(t)
		if file, err := d.migratorOf(app).Mark(t.Context(), d.target(), false); err != nil || file != "000002_b" {
			t.Fatalf("%s, %v", file, err)
		}
		d.wantLedger("1 applied")
		d.migrate(app)
	})
	t.Run("a verify query is evidence by itself", func(t *testing.T) {
		t.Parallel()
		verified := set(table("a")+"alter table a add n int;",
			"-- rowhouse:no-transaction\n-- rowhouse:verify select to_regclass('unique_n') is not null\ncreate unique index concurrently unique_n on a (tenant_id, n)")
		d := newDatabase(t)
		d.migrate(verified)
		owner := d.asOwner()
		mustExec(t, owner, "update rowhouse.migrations set state = 'running' where version = 2", "alter table a add by_hand int")
		e, err := d.migratorOf(verified).Repair(t.Context(), d.target(), soundAt(t, verified))
		if err != nil || e.Proposal != migrations.MarkApplied || e.Verified == nil || !*e.Verified {
			t.Errorf("%+v, %v", e, err)
		}
		mustExec(t, owner, "update rowhouse.migrations set state = 'running' where version = 2", "drop index unique_n")
		e, err = d.migratorOf(verified).Repair(t.Context(), d.target(), soundAt(t, verified))
		if err != nil || e.Proposal != migrations.Retry || e.Verified == nil || *e.Verified {
			t.Errorf("%+v, %v", e, err)
		}
	})
}

// What golang-migrate's own command left behind: its table says "dirty" before it has begun a file, so that alone says nothing.
func TestRepair_stock(t *testing.T) {
	t.Parallel()
	app := set("create schema app; create table app.a (id int primary key)", "create table app.b (id int primary key)", "create table app.c (id int primary key)",
		"select rowhouse.bind('app.a'); select rowhouse.bind('app.b'); select rowhouse.bind('app.c'); grant usage on schema app to authenticated")
	bodies := make([]string, 4)
	for i := range bodies {
		bodies[i] = string(app[fmt.Sprintf("%06d_%c.up.sql", i+1, 'a'+i)].Data)
	}
	// stocked is a database that only the stock command has worked on.
	stocked := func(t *testing.T, applied int, version int, dirty string) *database {
		d := newDatabase(t)
		owner := d.asOwner()
		mustExec(t, owner, "create table public.schema_migrations (version bigint not null primary key, dirty boolean not null)")
		for _, sql := range bodies[:applied] {
			mustExec(t, owner, sql)
		}
		if version > 0 {
			mustExec(t, owner, fmt.Sprintf("insert into public.schema_migrations values (%d, %s)", version, dirty))
		}
		return d
	}
	known := soundAt(t, app)
	for v := range int64(5) { // before the parallel tests: they share the map
		if _, err := known(t.Context(), v); err != nil {
			t.Fatal(err)
		}
	}
	cases := []struct {
		name             string
		applied, version int
		dirty            string
		at               int // the version it is recognised as; -1: refused
	}{
		{"clean", 2, 2, "false", 2},
		{"dirty, and nothing of the file stands", 1, 2, "true", 1},
		{"dirty, and all of the file stands", 2, 2, "true", 2},
		{"dirty at the first file, of which nothing stands", 0, 1, "true", 0},
		{"empty", 0, 0, "false", 0},
		{"clean, and the schema is another version's", 1, 2, "false", -1},
		{"of a version that the set does not know", 2, 9, "false", -1},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			d := stocked(t, c.applied, c.version, c.dirty)
			_, err := d.up(app, migrations.Config{})
			var stock *migrations.StockError
			if !errors.As(err, &stock) || stock.Version != int64(c.version) || stock.Dirty != (c.dirty == "true") || stock.Hint() == "" {
				t.Fatalf("up beside another ledger: %v", err)
			}
			_, err = d.migratorOf(app).Repair(t.Context(), d.target(), known)
			there := one[bool](t, d.asOwner(), "select to_regclass('public.schema_migrations') is not null")
			if c.at < 0 {
				if !errors.As(err, &stock) || stock.Reason == "" || !there {
					t.Errorf("%v; its table there: %v", err, there)
				}
				return
			}
			if err != nil || there {
				t.Fatalf("%v; its table there: %v", err, there)
			}
			if n := one[int](t, d.asOwner(), "select count(*) from rowhouse.migrations where kind = 'baseline' and reason <> '' and state = 'applied'"); n != c.at {
				t.Errorf("%d files entered, want %d", n, c.at)
			}
			if r := d.migrate(app); len(r.Applied) != 4-c.at {
				t.Errorf("%+v", r.Applied)
			}
			want, err := known(t.Context(), 4)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := migrations.Fingerprint(t.Context(), d.asOwner()); got != want || err != nil {
				t.Errorf("the schema differs from a fresh one's; %v", err)
			}
		})
	}
	t.Run("half a file", func(t *testing.T) {
		t.Parallel()
		d := stocked(t, 2, 2, "true")
		mustExec(t, d.asOwner(), "alter table app.b add half int")
		_, err := d.migratorOf(app).Repair(t.Context(), d.target(), known)
		wantText(t, err, "none of the versions", "dirty")
	})
	t.Run("in a database of ours, where every file of it failed", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(app)
		mustExec(t, d.asOwner(), "create table public.schema_migrations (version bigint not null primary key, dirty boolean not null)", "insert into public.schema_migrations values (1, true)")
		if _, err := d.migratorOf(app).Repair(t.Context(), d.target(), nil); err == nil {
			t.Error("repaired without evidence")
		}
		if _, err := d.migratorOf(app).Repair(t.Context(), d.target(), known); err != nil {
			t.Fatal(err)
		}
		d.wantLedger("1 applied", "2 applied", "3 applied", "4 applied")
		d.migrate(app)
	})
	t.Run("another tool's table of that name is not taken for it", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		mustExec(t, d.asOwner(), "create table public.schema_migrations (version text primary key)")
		_, err := d.up(app, migrations.Config{})
		wantText(t, err, "was not declared")
	})
}
