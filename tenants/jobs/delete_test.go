package jobs_test

import (
	"errors"
	"fmt"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// shop has what makes moving and deleting rows hard: tables that refer to each other, the same table twice, a partitioned one,
// numbers that are drawn, computed columns, and a trigger that writes when something is deleted.
var shop = fstest.MapFS{
	"000001_shop.up.sql": {Data: []byte(`
create type colour as enum ('red', 'green');
create table customers (id uuid primary key default gen_random_uuid(), name text not null unique, tags text[] not null default '{}', colour colour);
create table orders (
  id bigint generated always as identity primary key, customer uuid not null references customers, "Total" numeric not null,
  doubled numeric generated always as ("Total" * 2) stored, parent bigint references orders, note bytea, at timestamptz not null default now());
create table log (id uuid primary key default gen_random_uuid(), what text not null);
create table visits (day date not null, id uuid not null default gen_random_uuid(), who text, primary key (day, id)) partition by range (day);
create table visits_2026 partition of visits for values from ('2026-01-01') to ('2027-01-01');
create table visits_2027 partition of visits for values from ('2027-01-01') to ('2028-01-01');
select rowhouse.bind('customers');
select rowhouse.bind('orders');
select rowhouse.bind('log');
select rowhouse.bind('visits');
create function note_order() returns trigger language plpgsql as $$ begin
  insert into log (what) values (tg_op || ' ' || coalesce(new.id, old.id));
  return null;
end $$;
create trigger note_order after insert or delete on orders for each row execute function note_order();`)},
}

// fill writes rows of the shop as the tenant's own service.
func (h *house) fill(t testing.TB, name string, orders int) {
	t.Helper()
	h.inTenant(t, name, func(tx pgx.Tx) {
		_, err := tx.Exec(t.Context(), `
			with c as (insert into customers (name, tags, colour) values ('Ann', '{a,"b c"}', 'red'), (E'tab\tnew\nline\\', '{}', null) returning id, name),
			     o as (insert into orders (customer, "Total", note) select c.id, n + 0.25, decode('00ff0a5c', 'hex')
			                   from c, generate_series(1, $1) n where c.name = 'Ann' returning id)
			insert into visits (day, who) select date '2026-12-30' + (n % 4), case n % 2 when 0 then '\N' end from generate_series(1, 8) n`, orders)
		must(t, err)
		_, err = tx.Exec(t.Context(), `update orders set parent = (select min(id) from orders) where id > (select min(id) from orders)`)
		must(t, err)
	})
}

func (h *house) inTenant(t testing.TB, name string, fn func(tx pgx.Tx)) {
	t.Helper()
	tenant, db := h.tenant(t, name)
	conn := h.login(t, db, db.Name)
	defer func() { _ = conn.Close(t.Context()) }()
	must(t, pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "set local rowhouse.tenant_id = '"+tenant.ID.String()+"'")
		must(t, err)
		_, err = tx.Exec(t.Context(), "set local role service_role")
		must(t, err)
		fn(tx)
		return nil
	}))
}

// rows are all rows of a tenant, as it sees them itself.
func (h *house) rows(t testing.TB, name string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	h.inTenant(t, name, func(tx pgx.Tx) {
		for _, table := range []string{"customers", "orders", "log", "visits", "rowhouse.settings"} {
			rows, err := tx.Query(t.Context(), `select (to_jsonb(r) - 'tenant_id')::text from `+table+` r order by 1`)
			must(t, err)
			found[table], err = pgx.CollectRows(rows, pgx.RowTo[string])
			must(t, err)
		}
	})
	return found
}

// left counts what is left of a tenant in a database, by whom no policy binds.
func (h *house) left(t testing.TB, db *catalog.Database, tenant catalog.TenantID) map[string]int {
	t.Helper()
	conn := h.superOn(t, db.Name)
	left := map[string]int{}
	for _, table := range []string{"customers", "orders", "log", "visits", "rowhouse.settings", "rowhouse.gate"} {
		var n int
		must(t, conn.QueryRow(t.Context(), `select count(*) from `+table+` where tenant_id = $1`, tenant).Scan(&n))
		if n > 0 {
			left[table] = n
		}
	}
	return left
}

// done works on an operation here and insists that it succeeds.
func (h *house) done(t testing.TB, op *catalog.Operation, err error) {
	t.Helper()
	must(t, err)
	op, err = h.runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.State != catalog.OperationDone {
		t.Fatalf("%s is %s after %q: %s", op.Kind, op.State, op.Step, op.Error)
	}
}

// twoShops is a house with a tenant that will be deleted and a neighbour of it.
func twoShops(t testing.TB, placement catalog.Placement) *house {
	t.Helper()
	h := newHouse(t, "")
	h.activate(t, shop)
	for _, name := range []string{"acme", "globex"} {
		h.made(t, tenants.TenantSpec{Name: name, Placement: placement})
		h.fill(t, name, 5)
	}
	return h
}

func TestDelete(t *testing.T) {
	t.Parallel()
	for _, placement := range []catalog.Placement{catalog.Shared, catalog.Dedicated} {
		t.Run(string(placement), func(t *testing.T) {
			t.Parallel()
			h := twoShops(t, placement)
			before, neighbours := h.rows(t, "acme"), h.rows(t, "globex")
			acme, db := h.tenant(t, "acme")
			op, err := h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{NoExport: true})
			must(t, err)
			if now, _ := h.tenant(t, "acme"); now.State != catalog.StateDeleting || now.PurgeAfter == nil || time.Until(*now.PurgeAfter) < 29*24*time.Hour {
				t.Errorf("tenant is %s until %v, want deleting for 30 days", now.State, now.PurgeAfter)
			}
			h.done(t, op, nil)
			if placement == catalog.Dedicated {
				h.checkPutAway(t, db)
			} else if state := h.gateOf(t, db, acme.ID); state != "closed" {
				t.Errorf("gate is %q, want closed", state)
			}
			if _, err := h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: "acme"}); !errors.Is(err, catalog.ErrExists) {
				t.Errorf("the name of a deleted tenant gives %v, want ErrExists", err)
			}
			if _, err := h.service.RetryOperation(t.Context(), op.ID); !errors.Is(err, catalog.ErrConflict) {
				t.Errorf("retry of what is done gives %v, want ErrConflict", err)
			}

			op, err = h.service.UndeleteTenant(t.Context(), "acme")
			h.done(t, op, err)
			if now, _ := h.tenant(t, "acme"); now.State != catalog.StateActive || now.PurgeAfter != nil || now.StateBefore != "" {
				t.Errorf("tenant is %s until %v before %q, want active", now.State, now.PurgeAfter, now.StateBefore)
			}
			if diff := cmp.Diff(before, h.rows(t, "acme")); diff != "" {
				t.Errorf("undelete gave back other rows (-before +after):\n%s", diff)
			}
			if _, now := h.tenant(t, "acme"); now.Name != db.Name || now.State != catalog.DatabaseActive {
				t.Errorf("database is %q and %s, want %q and active", now.Name, now.State, db.Name)
			}

			op, err = h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{NoExport: true})
			h.done(t, op, err)
			op, err = h.service.PurgeTenant(t.Context(), "acme")
			h.done(t, op, err)
			h.checkPurged(t, acme, db)
			if diff := cmp.Diff(neighbours, h.rows(t, "globex")); diff != "" {
				t.Errorf("the neighbour has other rows (-before +after):\n%s", diff)
			}
			if _, err := h.service.UndeleteTenant(t.Context(), acme.ID.String()); !errors.Is(err, catalog.ErrConflict) {
				t.Errorf("undelete of a purged tenant gives %v, want ErrConflict", err)
			}
			h.made(t, tenants.TenantSpec{Name: "acme", Placement: placement})
		})
	}
}

func (h *house) gateOf(t testing.TB, db *catalog.Database, id catalog.TenantID) (state string) {
	t.Helper()
	err := h.superOn(t, db.Name).QueryRow(t.Context(), `select state from rowhouse.gate where tenant_id = $1`, id).Scan(&state)
	if errors.Is(err, pgx.ErrNoRows) {
		return "closed" // a tenant without a gate is kept out by its state alone
	}
	must(t, err)
	return state
}

// checkPutAway insists that a deleted tenant's database is kept under another name and that nobody gets in.
func (h *house) checkPutAway(t testing.TB, db *catalog.Database) {
	t.Helper()
	now, err := h.catalog.Database(t.Context(), db.ID)
	must(t, err)
	if now.State != catalog.DatabaseRetired || now.Name == db.Name {
		t.Errorf("database is %q and %s, want another name and retired", now.Name, now.State)
	}
	var open, login bool
	must(t, h.super.QueryRow(t.Context(), `select datallowconn from pg_database where datname = $1`, now.Name).Scan(&open))
	must(t, h.super.QueryRow(t.Context(), `select rolcanlogin from pg_roles where rolname = $1`, db.Name+"_a").Scan(&login))
	if open || login {
		t.Errorf("database open: %v, login: %v; want neither", open, login)
	}
}

// checkPurged insists that of a tenant nothing is left but its tombstone.
func (h *house) checkPurged(t testing.TB, tenant *catalog.Tenant, db *catalog.Database) {
	t.Helper()
	now, err := h.catalog.Tenant(t.Context(), tenant.ID.String())
	must(t, err)
	if now.State != catalog.StateDeleted || now.PurgeBegan == nil {
		t.Errorf("tenant is %s, purged since %v; want deleted", now.State, now.PurgeBegan)
	}
	if _, err := h.catalog.Tenant(t.Context(), tenant.Name); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("the name still leads to %v", err)
	}
	if db.Kind == catalog.Shared {
		if left := h.left(t, db, tenant.ID); len(left) > 0 {
			t.Errorf("rows are left: %v", left)
		}
		return
	}
	var left []string
	must(t, h.super.QueryRow(t.Context(), `
		select array(select datname::text from pg_database where datname like $1) || array(select rolname::text from pg_roles where rolname like $1)`,
		"%"+db.ID.Compact()+"%").Scan(&left))
	if len(left) > 0 {
		t.Errorf("the server still has %v", left)
	}
	if gone, err := h.catalog.Database(t.Context(), db.ID); err != nil || gone.State != catalog.DatabaseGone {
		t.Errorf("database row: %v, %v; want gone", gone, err)
	}
	if _, err := h.catalog.Credential(t.Context(), db.Server, db.ID, catalog.LoginData); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("its credential gives %v, want ErrNotFound", err)
	}
}

// A provisioner that is no superuser can do all of it too.
func TestDelete_plainProvisioner(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "login createdb createrole")
	h.activate(t, shop)
	tenant, db := h.made(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
	conn := h.login(t, db, db.Name)
	_, err := h.service.SetTenantState(t.Context(), "acme", tenants.StateSpec{State: catalog.StateSuspended, Now: true})
	must(t, err)
	h.workAll(t, tenant.ID)
	if err := conn.Ping(t.Context()); err == nil {
		t.Error("the login's session outlived suspend --now")
	}
	op, err := h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{NoExport: true})
	h.done(t, op, err)
	h.checkPutAway(t, db)
	op, err = h.service.UndeleteTenant(t.Context(), "acme")
	h.done(t, op, err)
	if now, _ := h.tenant(t, "acme"); now.State != catalog.StateSuspended {
		t.Errorf("tenant is %s after undelete, want suspended as before", now.State)
	}
	op, err = h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{NoExport: true})
	h.done(t, op, err)
	op, err = h.service.PurgeTenant(t.Context(), "acme")
	h.done(t, op, err)
	h.checkPurged(t, tenant, db)
}

// workAll works on what is unfinished of a tenant.
func (h *house) workAll(t testing.TB, id catalog.TenantID) {
	t.Helper()
	ops, err := h.catalog.Operations(t.Context(), id, 100)
	must(t, err)
	for _, op := range ops {
		if !op.State.Finished() {
			h.done(t, op, nil)
		}
	}
}

// A state is enforced by the tenant's own database too.
func TestSetTenantState(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	tenant, db := h.made(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
	try := func(spec tenants.StateSpec) error {
		_, err := h.service.SetTenantState(t.Context(), "acme", spec)
		must(t, err)
		h.workAll(t, tenant.ID)
		cfg, err := h.catalog.ConnConfig(t.Context(), db.ID, catalog.LoginData)
		must(t, err)
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(t.Context()) }()
		_, err = conn.Exec(t.Context(), `create temporary table t ()`) // no right to it either way; read-only is said first
		return err
	}
	for _, c := range []struct {
		state catalog.State
		code  string
	}{{catalog.StateSuspended, "53300"}, {catalog.StateReadOnly, "25006"}, {catalog.StateMaintenance, "53300"}, {catalog.StateActive, "42501"}} {
		var coded interface{ SQLState() string }
		if err := try(tenants.StateSpec{State: c.state}); !errors.As(err, &coded) || coded.SQLState() != c.code {
			t.Errorf("in state %s the login gets %v, want SQLSTATE %s", c.state, err, c.code)
		}
	}
	if _, err := h.service.SetTenantState(t.Context(), "acme", tenants.StateSpec{State: "deleting"}); !errors.Is(err, catalog.ErrInvalid) {
		t.Errorf("a state that is not an operator's gives %v", err)
	}
}

// A state with an end is over at that moment, and the catalog says so soon after.
func TestKeep_lapse(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	tenant, _ := h.made(t, tenants.TenantSpec{Name: "acme"})
	end := time.Now().Add(time.Hour)
	got, err := h.service.SetTenantState(t.Context(), "acme", tenants.StateSpec{State: catalog.StateMaintenance, Until: end})
	must(t, err)
	if s := got.StateAt(end.Add(-time.Second)); s != catalog.StateMaintenance {
		t.Errorf("before the end the state is %s", s)
	}
	if s := got.StateAt(end.Add(time.Second)); s != catalog.StateActive {
		t.Errorf("after the end the state is %s", s)
	}
	must(t, h.runner.Keep(t.Context(), h.service))
	if now, _ := h.tenant(t, "acme"); now.State != catalog.StateMaintenance {
		t.Errorf("before the end the catalog says %s", now.State)
	}
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		return tx.SetTenantUntil(t.Context(), tenant.ID, time.Now().Add(-time.Minute))
	}))
	must(t, h.runner.Keep(t.Context(), h.service))
	if now, _ := h.tenant(t, "acme"); now.State != catalog.StateActive || now.StateUntil != nil {
		t.Errorf("after the end the catalog says %s until %v", now.State, now.StateUntil)
	}
}

// Who is deleted with a grace that is over is purged by whatever process looks next, once, and not before it was put away.
func TestKeep_purge(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, shop)
	tenant, db := h.made(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
	kept, _ := h.made(t, tenants.TenantSpec{Name: "kept"})
	none := time.Duration(0)
	op, err := h.service.DeleteTenant(t.Context(), "acme", tenants.DeleteSpec{Grace: &none, NoExport: true})
	must(t, err)
	later, err := h.service.DeleteTenant(t.Context(), "kept", tenants.DeleteSpec{NoExport: true})
	must(t, err)
	must(t, h.runner.Keep(t.Context(), h.service)) // the deletion is not done
	if now, err := h.catalog.Operation(t.Context(), op.ID); err != nil || now.State != catalog.OperationPending {
		t.Fatalf("deletion is %v, %v", now, err)
	}
	h.done(t, op, nil)
	h.done(t, later, nil)
	for range 2 {
		must(t, h.runner.Keep(t.Context(), h.service))
	}
	ops, err := h.catalog.Operations(t.Context(), catalog.TenantID{}, 100)
	must(t, err)
	purges := 0
	for _, op := range ops {
		if op.Kind == tenants.KindPurge {
			purges++
			h.done(t, op, nil)
		}
	}
	if purges != 1 {
		t.Errorf("%d purges were begun, want 1", purges)
	}
	h.checkPurged(t, tenant, db)
	if now, _ := h.tenant(t, "kept"); now.State != catalog.StateDeleting || now.ID != kept.ID {
		t.Errorf("the other one is %s", now.State)
	}
}

// What of a tenant that could not be made stands on the server goes too, and nothing else.
func TestPurge_failed(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	op := h.create(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
	_, runner := h.open(t, jobs.Config{Attempts: 1})
	h.done(t, op, nil)
	_, db := h.tenant(t, "acme")
	// As after a failure: the tenant is failed, its database there.
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		if err := tx.SetDatabaseState(t.Context(), db.ID, catalog.DatabaseCreating); err != nil {
			return err
		}
		tenant, _ := h.tenant(t, "acme")
		return tx.SetTenantState(t.Context(), tenant.ID, catalog.StateFailed, "")
	}))
	tenant, _ := h.tenant(t, "acme")
	mustExec(t, h.super, fmt.Sprintf(`comment on database %q is 'somebody else''s'`, db.Name))
	purge, err := h.service.PurgeTenant(t.Context(), "acme")
	must(t, err)
	purge, err = runner.Work(t.Context(), purge.ID)
	must(t, err)
	if purge.State != catalog.OperationFailed {
		t.Fatalf("purge of a database without our mark is %s", purge.State)
	}
	mustExec(t, h.super, fmt.Sprintf(`comment on database %q is '%sdb=%s op=x'`, db.Name, h.mark(), db.ID))
	purge, err = h.service.RetryOperation(t.Context(), purge.ID)
	h.done(t, purge, err)
	h.checkPurged(t, tenant, db)
}
