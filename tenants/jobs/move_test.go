package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// furnished is a schema with what a move could stumble over: keys between tables in both directions of the alphabet, a table that refers
// to itself, a serial and an identity, a generated column, an enum and its array, a composite type, a partitioned table, one of
// the kind bind_optional, one that is common to all, a trigger, and awkward names.
var furnished = fstest.MapFS{"000001_all.up.sql": {Data: []byte(`
create type mood as enum ('calm', 'wild');
create type pair as (a int, m mood);
create table countries (code text primary key, name text not null);
select rowhouse.reference('countries');
insert into countries values ('at', 'Austria'), ('ch', 'Switzerland');
create table zoos (id uuid primary key default gen_random_uuid(), name text not null unique, country text references countries);
create table animals (
  id serial primary key, zoo uuid not null references zoos, mother int references animals, moods mood[] not null default '{calm}', best pair,
  weight numeric, shout text generated always as (upper(coalesce(weight::text, 'x'))) stored, touched int not null default 0
);
create table "Odd ""Name" (n int generated always as identity primary key, "of" uuid references zoos, "when" timestamptz, blob bytea, doc jsonb, f float8);
create table visits (day date not null, zoo uuid not null, guests int, primary key (day, zoo)) partition by range (day);
create table visits_old partition of visits for values from (minvalue) to ('2026-01-01');
create table visits_new partition of visits for values from ('2026-01-01') to (maxvalue);
create table notes (id uuid primary key default gen_random_uuid(), text text);
create function touch() returns trigger language plpgsql as $$ begin new.touched := new.touched + 1; return new; end $$;
create trigger touch before insert or update on animals for each row execute function touch();
select rowhouse.bind('zoos');
select rowhouse.bind('animals');
select rowhouse.bind('"Odd ""Name"');
select rowhouse.bind('visits');
select rowhouse.bind_optional('notes');
`)}}

// furnish fills a tenant's rows, n animals among them.
func (h *house) furnish(t testing.TB, name string, n int) {
	t.Helper()
	h.doAs(t, name, fmt.Sprintf(`
		insert into zoos (name, country) values ('big', 'at'), ('small', null);
		insert into animals (zoo, weight, best) select id, g / 7.0, row(g, 'wild')::pair from zoos, generate_series(1, %d) g where name = 'big';
		update animals set mother = id - 1, moods = '{wild,calm}' where id %% 2 = 0 and id - 1 in (select id from animals);
		insert into "Odd ""Name" ("of", "when", blob, doc, f) select id, '2026-03-04 05:06:07.89+02', '\x00ff', '{"a": [1, null]}', 0.1 + 0.2 from zoos;
		insert into visits select d, id, 5 from zoos, (values (date '2025-05-05'), ('2026-06-06')) v (d);
		insert into notes (text) values ('ours');
		insert into rowhouse.users (email) values ('a@example.com');
		insert into rowhouse.requests (slot, at, duration_us, side, method, route, status) values (0, now(), 1, 'tenant', 'GET', '/', 200)`, n))
}

// doAs runs statements in a tenant's database, as its owner and as the tenant's.
func (h *house) doAs(t testing.TB, name, sql string) {
	t.Helper()
	tenant, db := h.tenant(t, name)
	conn := h.ownerOf(t, db)
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), "begin; set local row_security = on; set local rowhouse.tenant_id = '"+tenant.ID.String()+"';"+sql+"; commit", pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
}

func (h *house) ownerOf(t testing.TB, db *catalog.Database) *pgx.Conn {
	t.Helper()
	return h.as(t, db, catalog.LoginMigrator, db.Name+"_o")
}

// contents are all rows of a tenant in a database, as text, by table.
func (h *house) contents(t testing.TB, db *catalog.Database, id catalog.TenantID) map[string][]string {
	t.Helper()
	conn := h.superIn(t, db)
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), `select relation::text from rowhouse.tables where kind <> 'reference' order by 1`)
	must(t, err)
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	all := map[string][]string{}
	for _, table := range tables {
		rows, err := conn.Query(t.Context(), "select (to_jsonb(x) - 'tenant_id')::text from "+table+" x where tenant_id = $1 order by 1", id)
		must(t, err)
		found, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		if len(found) > 0 {
			all[strings.TrimPrefix(table, "public.")] = found
		}
	}
	return all
}

func (h *house) superIn(t testing.TB, db *catalog.Database) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(pgtest.ServerDSN(t))
	must(t, err)
	cfg.Database = db.Name
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	return conn
}

// gates are the states of a tenant's gates, by database.
func (h *house) gates(t testing.TB, id catalog.TenantID, dbs ...*catalog.Database) (states []string) {
	t.Helper()
	for _, db := range dbs {
		conn := h.superIn(t, db)
		state := "none"
		err := conn.QueryRow(t.Context(), "select state from rowhouse.gate where tenant_id = $1", id).Scan(&state)
		if !errors.Is(err, pgx.ErrNoRows) {
			must(t, err)
		}
		states = append(states, state)
		_ = conn.Close(t.Context())
	}
	return states
}

// worked carries an operation out here and insists on its end.
func (h *house) worked(t testing.TB, runner *jobs.Runner, op *catalog.Operation, err error, want catalog.OperationState) *catalog.Operation {
	t.Helper()
	must(t, err)
	op, err = runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.State != want {
		t.Fatalf("%s is %s after %q: %s", op.Kind, op.State, op.Step, op.Error)
	}
	return op
}

// A tenant goes from a shared database to one of its own, and back, with everything it has; a neighbour stays.
func TestMove(t *testing.T) {
	t.Parallel()
	for attributes, as := range map[string]string{"": "a superuser", "login createdb createrole bypassrls": "a provisioner with BYPASSRLS", "login createdb createrole": "a plain provisioner"} {
		t.Run("as "+as, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, attributes)
			h.activate(t, furnished)
			_, runner := h.open(t, jobs.Config{Cooling: time.Hour, Attempts: 2})
			acme, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
			globex, _ := h.made(t, tenants.TenantSpec{Name: "globex"})
			h.furnish(t, "acme", 60)
			h.furnish(t, "globex", 20)
			want, neighbour := h.contents(t, shared, acme.ID), h.contents(t, shared, globex.ID)
			if len(want) != 7 || len(want["animals"]) != 60 {
				t.Fatalf("acme has %d tables and %d animals", len(want), len(want["animals"]))
			}

			op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy})
			h.worked(t, runner, op, err, catalog.OperationDone)
			now, own := h.tenant(t, "acme")
			if now.Placement != catalog.Dedicated || now.PlacementEpoch != 2 || now.Moving || own.State != catalog.DatabaseActive {
				t.Errorf("acme is %s in its placement %d, moving %v, in a database that is %s", now.Placement, now.PlacementEpoch, now.Moving, own.State)
			}
			if diff := cmp.Diff(want, h.contents(t, own, acme.ID)); diff != "" {
				t.Errorf("rows after the promotion (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, h.contents(t, shared, acme.ID)); diff != "" {
				t.Errorf("rows that cool (-want +got):\n%s", diff)
			}
			if got := h.gates(t, acme.ID, shared, own); !cmp.Equal(got, []string{"moved", "open"}) {
				t.Errorf("gates %q", got)
			}
			h.doAs(t, "acme", "insert into animals (zoo, weight) select id, 1 from zoos where name = 'small'") // its key is a new one

			if attributes == "login createdb createrole" { // whom a trigger of the application would not spare
				op, err = h.service.DemoteTenant(t.Context(), "acme", tenants.MoveSpec{})
				op = h.worked(t, runner, op, err, catalog.OperationFailed)
				if !strings.Contains(op.Error, `trigger "touch" of public.animals`) {
					t.Errorf("refused with %q", op.Error)
				}
				if got := h.gates(t, acme.ID, shared, own); !cmp.Equal(got, []string{"moved", "open"}) {
					t.Errorf("gates %q after what was refused", got)
				}
				return
			}
			if attributes != "" {
				return // triggers, too
			}
			// Back at once: what cools there is cleaned first.
			want = h.contents(t, own, acme.ID)
			op, err = h.service.DemoteTenant(t.Context(), "acme", tenants.MoveSpec{})
			h.worked(t, runner, op, err, catalog.OperationDone)
			now, home := h.tenant(t, "acme")
			if home.ID != shared.ID || now.PlacementEpoch != 3 {
				t.Errorf("acme is in database %s by its placement %d", home.Name, now.PlacementEpoch)
			}
			if diff := cmp.Diff(want, h.contents(t, shared, acme.ID)); diff != "" {
				t.Errorf("rows after the demotion (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(neighbour, h.contents(t, shared, globex.ID)); diff != "" {
				t.Errorf("rows of the neighbour (-want +got):\n%s", diff)
			}
			if got := h.gates(t, acme.ID, shared, own); !cmp.Equal(got, []string{"open", "moved"}) {
				t.Errorf("gates %q", got)
			}
			if old, err := h.catalog.Database(t.Context(), own.ID); err != nil || old.State != catalog.DatabaseRetired {
				t.Errorf("the database that was left is %v, %v", old, err)
			}
			h.doAs(t, "acme", "insert into animals (zoo, weight) select id, 1 from zoos where name = 'small'")
		})
	}
}

// What cooled is cleared away, and nothing else.
func TestMove_clearing(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, furnished)
	_, runner := h.open(t, jobs.Config{Cooling: time.Nanosecond})
	acme, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
	h.furnish(t, "acme", 30)
	clear := func() {
		t.Helper()
		ops, err := h.catalog.Operations(t.Context(), acme.ID, 1)
		must(t, err)
		if ops[0].Kind != tenants.KindClear {
			t.Fatalf("the last operation is %s", ops[0].Kind)
		}
		h.worked(t, runner, ops[0], nil, catalog.OperationDone)
	}
	want := h.contents(t, shared, acme.ID)
	op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{})
	h.worked(t, runner, op, err, catalog.OperationDone)
	clear()
	_, own := h.tenant(t, "acme")
	if left := h.contents(t, shared, acme.ID); len(left) != 0 || !cmp.Equal(h.gates(t, acme.ID, shared, own), []string{"none", "open"}) {
		t.Errorf("the old home holds %v", left)
	}
	if diff := cmp.Diff(want, h.contents(t, own, acme.ID)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	op, err = h.service.DemoteTenant(t.Context(), "acme", tenants.MoveSpec{})
	h.worked(t, runner, op, err, catalog.OperationDone)
	clear()
	if diff := cmp.Diff(want, h.contents(t, shared, acme.ID)); diff != "" {
		t.Errorf("rows back home (-want +got):\n%s", diff)
	}
	if left := h.databases(t); !cmp.Equal(left, []string{shared.Name}) {
		t.Errorf("databases %q, want the shared one", left)
	}
	if old, err := h.catalog.Database(t.Context(), own.ID); err != nil || old.State != catalog.DatabaseGone {
		t.Errorf("the database that was left is %v, %v", old.State, err)
	}
}

// A tenant of a shared database goes to another one; a target that does not fit is refused by its name.
func TestMove_shared(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, furnished)
	acme, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
	h.furnish(t, "acme", 10)
	op, err := h.service.MoveTenant(t.Context(), "acme", tenants.MoveSpec{Server: "local"})
	op = h.worked(t, h.runner, op, err, catalog.OperationFailed)
	if !strings.Contains(op.Error, "no shared database") {
		t.Errorf("refused with %q", op.Error)
	}
	mustExec(t, h.catalogConn(t), `set session_replication_role = replica; update rowhouse.databases set max_tenants = 1`)
	_, other := h.made(t, tenants.TenantSpec{Name: "globex"})
	if other.ID == shared.ID {
		t.Fatal("globex has no shared database of its own")
	}
	mustExec(t, h.catalogConn(t), `set session_replication_role = replica; update rowhouse.databases set max_tenants = 10`)
	want := h.contents(t, shared, acme.ID)
	op, err = h.service.MoveTenant(t.Context(), "acme", tenants.MoveSpec{Database: other.ID.String()})
	h.worked(t, h.runner, op, err, catalog.OperationDone)
	if now, home := h.tenant(t, "acme"); home.ID != other.ID || now.PlacementEpoch != 2 {
		t.Errorf("acme is in database %s by placement %d", home.Name, now.PlacementEpoch)
	}
	if diff := cmp.Diff(want, h.contents(t, other, acme.ID)); diff != "" {
		t.Errorf("rows (-want +got):\n%s", diff)
	}
	for what, c := range map[string]struct {
		call func() (*catalog.Operation, error)
		want error
	}{
		"into itself": {func() (*catalog.Operation, error) {
			return h.service.MoveTenant(t.Context(), "acme", tenants.MoveSpec{Database: other.ID.String()})
		}, catalog.ErrConflict},
		"to nowhere": {func() (*catalog.Operation, error) {
			return h.service.MoveTenant(t.Context(), "acme", tenants.MoveSpec{})
		}, catalog.ErrInvalid},
		"down where it is": {func() (*catalog.Operation, error) {
			return h.service.DemoteTenant(t.Context(), "acme", tenants.MoveSpec{})
		}, catalog.ErrConflict},
		"to an unknown server": {func() (*catalog.Operation, error) {
			return h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Server: "mars"})
		}, catalog.ErrNotFound},
		"by an unknown mode": {func() (*catalog.Operation, error) {
			return h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: "magic"})
		}, catalog.ErrInvalid},
		"a tenant that is not": {func() (*catalog.Operation, error) {
			return h.service.PromoteTenant(t.Context(), "nobody", tenants.MoveSpec{})
		}, catalog.ErrNotFound},
		"up into another's home": {func() (*catalog.Operation, error) {
			return h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Database: shared.ID.String()})
		}, catalog.ErrInvalid},
	} {
		if _, err := c.call(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
	}
}

func (h *house) catalogConn(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), h.dsn)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// Whatever is in the way is found before anything happens, and leaves the tenant where it was.
func TestMove_refused(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, furnished)
	_, runner := h.open(t, jobs.Config{Attempts: 1})
	acme, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
	h.furnish(t, "acme", 2000)
	want := h.contents(t, shared, acme.ID)
	unmoved := func(t *testing.T, op *catalog.Operation, message string) {
		t.Helper()
		if !strings.Contains(op.Error, message) {
			t.Errorf("failed with %q, want %q in it", op.Error, message)
		}
		now, home := h.tenant(t, "acme")
		if home.ID != shared.ID || now.Moving || now.PlacementEpoch != 1 {
			t.Errorf("acme is in %s, moving %v, placement %d", home.Name, now.Moving, now.PlacementEpoch)
		}
		if got := h.gates(t, acme.ID, shared); got[0] != "open" {
			t.Errorf("gate %q", got)
		}
		if left := h.databases(t); !cmp.Equal(left, []string{shared.Name}) {
			t.Errorf("databases %q, want the shared one", left)
		}
		if left := h.roles(t); len(left) != 2 {
			t.Errorf("roles %q, want the shared database's", left)
		}
		if diff := cmp.Diff(want, h.contents(t, shared, acme.ID)); diff != "" {
			t.Errorf("rows (-want +got):\n%s", diff)
		}
	}
	pause := time.Millisecond
	op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy, MaxPause: &pause})
	op = h.worked(t, runner, op, err, catalog.OperationFailed)
	unmoved(t, op, "writes would have to wait for longer than 1ms")

	super := h.superIn(t, shared)
	mustExec(t, super, "create index drift on animals (weight)")
	op, err = h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy})
	op = h.worked(t, runner, op, err, catalog.OperationFailed)
	unmoved(t, op, "different schemas")
	mustExec(t, super, "drop index drift")

	mustExec(t, super, "update countries set name = 'Helvetia' where code = 'ch'")
	op, err = h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy})
	op = h.worked(t, runner, op, err, catalog.OperationFailed)
	unmoved(t, op, "public.countries differs")
	mustExec(t, super, "update countries set name = 'Switzerland' where code = 'ch'")

	// What failed can be retried when its cause is gone.
	_, err = h.service.RetryOperation(t.Context(), op.ID)
	must(t, err)
	h.worked(t, runner, op, nil, catalog.OperationDone)
	if _, own := h.tenant(t, "acme"); !cmp.Equal(want, h.contents(t, own, acme.ID)) {
		t.Error("rows differ after the retry")
	}
}

// A writer that does not end is waited for, with others let in between.
func TestMove_drain(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, furnished)
	_, runner := h.open(t, jobs.Config{Drain: 10 * time.Millisecond})
	acme, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
	h.furnish(t, "acme", 3)
	writer := h.superIn(t, shared)
	mustExec(t, writer, "begin; set local rowhouse.tenant_id = '"+acme.ID.String()+"'; select rowhouse.enter_tenant('"+acme.ID.String()+"', 1, true); insert into zoos (name) values ('late')")
	op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy})
	must(t, err)
	done := make(chan error, 1)
	go func() {
		got, err := runner.Work(t.Context(), op.ID)
		if err == nil && got.State != catalog.OperationDone {
			err = fmt.Errorf("%s: %s", got.State, got.Error)
		}
		done <- err
	}()
	for waits := false; !waits; {
		events, err := h.catalog.OperationEvents(t.Context(), op.ID, 0)
		must(t, err)
		for _, e := range events {
			waits = waits || strings.Contains(e.Message, "does not end")
		}
		select {
		case err := <-done:
			t.Fatalf("the move did not wait: %v", err)
		case <-time.After(5 * time.Millisecond): // another goroutine's row
		}
	}
	mustExec(t, writer, "commit")
	must(t, <-done)
	_, own := h.tenant(t, "acme")
	if n := len(h.contents(t, own, acme.ID)["zoos"]); n != 3 {
		t.Errorf("%d zoos at the new home, want the late one among 3", n)
	}
}

// Of two operations on a tenant at once one wins, and the other says why.
func TestMove_twoAtOnce(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	h.made(t, tenants.TenantSpec{Name: "acme"})
	cat, _ := h.open(t, jobs.Config{})
	other := tenants.NewService(cat, h.runner)
	type answer struct {
		op  *catalog.Operation
		err error
	}
	answers := make(chan answer, 2)
	go func() {
		op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{})
		answers <- answer{op, err}
	}()
	go func() {
		op, err := other.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy})
		answers <- answer{op, err}
	}()
	a, b := <-answers, <-answers
	if a.err != nil {
		a, b = b, a
	}
	must(t, a.err)
	if !errors.Is(b.err, catalog.ErrConflict) || !strings.Contains(b.err.Error(), a.op.ID.String()+" (tenant.promote)") {
		t.Errorf("the other one got %v", b.err)
	}
	h.worked(t, h.runner, a.op, nil, catalog.OperationDone)
	if _, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{}); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("promoted again: %v", err)
	}
}

// A tenant that was made before there were gates gets one before it moves.
func TestMove_ungated(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, furnished)
	acme, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
	h.furnish(t, "acme", 5)
	mustExec(t, h.superIn(t, shared), "delete from rowhouse.gate where tenant_id = '"+acme.ID.String()+"'")
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error { return tx.SetPlacementEpoch(t.Context(), acme.ID, 0) }))
	op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{})
	h.worked(t, h.runner, op, err, catalog.OperationDone)
	now, own := h.tenant(t, "acme")
	if got := h.gates(t, acme.ID, shared, own); now.PlacementEpoch != 2 || !cmp.Equal(got, []string{"moved", "open"}) {
		t.Errorf("placement %d, gates %q", now.PlacementEpoch, got)
	}
}
