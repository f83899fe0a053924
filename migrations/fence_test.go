package migrations_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
)

// kinds is one table of each kind, with rows of acme (1), globex (2) and, where there can be, the host (H) or everybody (A).
var kinds = fstest.MapFS{
	"000001_kinds.up.sql": file(`
create table own (id uuid primary key default gen_random_uuid(), who text not null unique);
select rowhouse.bind('own');
create table children (id uuid primary key default gen_random_uuid(), who text not null, parent text not null);
select rowhouse.bind('children');
alter table own no force row level security;
alter table children no force row level security;
alter table children add foreign key (tenant_id, parent) references own (tenant_id, who) on delete cascade;
alter table children force row level security;
alter table own force row level security;
create table maybe (id uuid primary key default gen_random_uuid(), who text not null);
select rowhouse.bind_optional('maybe');
create table common (id int primary key, who text not null);
insert into common values (1, 'A');
select rowhouse.reference('common');
create view own_view with (security_invoker = true) as select * from own;
grant select on own_view to authenticated;`),
}

type fenced struct {
	*database
	engine string
	conn   *pgx.Conn // as the data login
	host   *pgx.Conn // as the host's login
}

// engines are the forms of the fence. That of Citus runs on plain PostgreSQL too, and must fence the same there.
var engines = []string{"postgresql", "citus"}

// onEachEngine runs one body of the isolation suite against each form.
func onEachEngine(t *testing.T, body func(*testing.T, *fenced)) {
	t.Parallel()
	for _, engine := range engines {
		t.Run(engine, func(t *testing.T) {
			t.Parallel()
			body(t, newFenced(t, engine))
		})
	}
}

// pretend makes a database with nothing but the baseline believe that it runs on an engine.
func (d *database) pretend(engine string) {
	d.t.Helper()
	mustExec(d.t, d.asOwner(),
		"create or replace function rowhouse.engine() returns text language sql stable set search_path = pg_catalog, pg_temp as $$ select '"+engine+"' $$",
		"select rowhouse.fence(relation, kind) from rowhouse.tables")
}

func newFenced(t *testing.T, engine string) *fenced {
	t.Helper()
	d := newDatabase(t)
	d.migrate(nil)
	if engine != "postgresql" {
		d.pretend(engine)
	}
	d.migrate(kinds)
	host, password := pgtest.Role(t, "login noinherit")
	mustExec(t, d.Conn(t), "grant connect on database "+d.Name()+" to "+host, "grant service_role to "+host)
	mustExec(t, d.asOwner(), "insert into rowhouse.identity (database_id, catalog_id, host_role) values (gen_random_uuid(), gen_random_uuid(), '"+host+"')")
	f := &fenced{database: d, engine: engine, conn: d.asLogin()}
	var err error
	if f.host, err = pgx.Connect(t.Context(), d.DSNAs(host, password)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeConn(f.host) })
	for tenant, who := range map[string]string{acme: "1", globex: "2"} {
		d.mustDo(f.conn, "authenticated", tenant, "insert into own (who) values ($1)", who)
		d.mustDo(f.conn, "authenticated", tenant, "insert into children (who, parent) values ($1, $1)", who)
		d.mustDo(f.conn, "authenticated", tenant, "insert into maybe (who) values ($1)", who)
	}
	d.mustDo(f.host, "service_role", "host", "insert into maybe (who) values ('H')")
	return f
}

// sees gives who's rows a caller sees in a table: "", "1", "1 2", or the SQLSTATE.
func (f *fenced) sees(conn *pgx.Conn, role, tenant, table string) string {
	f.t.Helper()
	var who []string
	err := scoped(f.t.Context(), conn, role, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(f.t.Context(), "select who from "+table+" order by who")
		if err != nil {
			return err
		}
		who, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		if state := migrations.SQLState(err); state != "" {
			return state
		}
		f.t.Fatal(err)
	}
	return strings.Join(who, " ")
}

// The behaviour table of the design: who sees which rows of which kind.
func TestFence_whoSeesWhat(t *testing.T) { onEachEngine(t, whoSeesWhat) }

func whoSeesWhat(t *testing.T, f *fenced) {
	mustExec(t, f.asOwner(), "grant select on own to anon") // as a migration may
	cases := []struct {
		name                        string
		conn                        *pgx.Conn
		role, tenant                string
		bound, optional, referenced string
	}{
		{"tenant 1", f.conn, "authenticated", acme, "1", "1", "A"},
		{"tenant 2", f.conn, "authenticated", globex, "2", "2", "A"},
		{"tenant 1 as service_role", f.conn, "service_role", acme, "1", "1", "A"},
		{"anonymous in tenant 1, as granted", f.conn, "anon", acme, "1", "42501", "A"},
		{"host", f.host, "service_role", "host", "", "H", "A"},
		{"host without its word", f.host, "service_role", "", "", "", "A"},
		{"request role, setting absent", f.asLogin(), "authenticated", "", "", "", "A"},
		{"request role, setting empty after a commit", f.conn, "authenticated", "", "", "", "A"},
		{"request role with the host's word", f.conn, "authenticated", "host", "", "", "A"},
		{"service_role with the host's word", f.conn, "service_role", "host", "", "", "A"},
		{"setting is no uuid", f.conn, "authenticated", "acme", "22P02", "22P02", "A"},
		{"a tenant that nobody is", f.conn, "authenticated", "018f0000-0000-7000-8000-0000000000ff", "", "", "A"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			for table, want := range map[string]string{"own": c.bound, "maybe": c.optional, "common": c.referenced} {
				if got := f.sees(c.conn, c.role, c.tenant, table); got != want {
					t.Errorf("%s: sees %q, want %q", table, got, want)
				}
			}
		})
	}
	t.Run("the owner sees nothing", func(t *testing.T) {
		conn := f.asOwner()
		mustExec(t, conn, "set row_security = on")
		if n := one[int](t, conn, "select (select count(*) from own) + (select count(*) from maybe)"); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("a view shows what its reader may see", func(t *testing.T) {
		if got := f.sees(f.conn, "authenticated", acme, "own_view"); got != "1" {
			t.Errorf("sees %q", got)
		}
	})
	t.Run("without SET ROLE the login has no grant at all", func(t *testing.T) {
		_, err := f.conn.Exec(t.Context(), "select from own")
		wantState(t, err, "42501")
	})
	t.Run("the login cannot become the host's, the owner or the migrator", func(t *testing.T) {
		for _, role := range []string{f.host.Config().User, f.owner, f.migrator} {
			_, err := f.conn.Exec(t.Context(), "set role "+role)
			wantState(t, err, "42501")
		}
	})
}

func TestFence_writes(t *testing.T) { onEachEngine(t, writes) }

func writes(t *testing.T, f *fenced) {
	do := func(tenant, sql string) (int64, error) { return f.do(f.conn, "authenticated", tenant, sql) }

	refused := []struct{ name, sql, state string }{
		{"insert of a foreign row", "insert into own (who, tenant_id) values ('x', '" + globex + "')", "42501"},
		{"insert of a row of nobody", "insert into own (who, tenant_id) values ('x', null)", "42501"},
		{"moving an own row to another tenant", "update own set tenant_id = '" + globex + "'", "42501"},
		{"moving an own row to nobody", "update own set tenant_id = null", "42501"},
		{"making a host row", "insert into maybe (who, tenant_id) values ('x', null)", "42501"},
		{"giving an own row to the host", "update maybe set tenant_id = null", "42501"},
		{"writing common rows", "insert into common values (2, 'x')", "42501"},
		{"changing common rows", "update common set who = 'x'", "42501"},
		{"truncating", "truncate own", "42501"},
		{"an own child of a foreign parent", "insert into children (who, parent) values ('x', '2')", "23503"},
		{"a second row with an own key", "insert into own (who) values ('1')", "23505"},
	}
	for _, c := range refused {
		t.Run(c.name+" is refused", func(t *testing.T) {
			_, err := do(acme, c.sql)
			wantState(t, err, c.state)
		})
	}
	untouched := []struct{ name, sql string }{
		{"update of a foreign row", "update own set who = 'x' where who = '2'"},
		{"delete of a foreign row", "delete from own where who = '2'"},
		{"update of a host row", "update maybe set who = 'x' where who = 'H'"},
		{"delete of a host row", "delete from maybe where who = 'H'"},
	}
	for _, c := range untouched {
		t.Run(c.name+" changes nothing and says nothing", func(t *testing.T) {
			if n, err := do(acme, c.sql); n != 0 || err != nil {
				t.Errorf("%d rows, %v", n, err)
			}
		})
	}
	t.Run("own and foreign rows in one statement: the own is changed", func(t *testing.T) {
		if n, err := do(acme, "update own set who = who where who in ('1', '2')"); n != 1 || err != nil {
			t.Errorf("%d rows, %v", n, err)
		}
	})
	t.Run("the own tenant may be named", func(t *testing.T) {
		if _, err := do(acme, "insert into own (who, tenant_id) values ('named', '"+acme+"')"); err != nil {
			t.Error(err)
		}
	})
	t.Run("insert without a tenant is refused", func(t *testing.T) {
		_, err := do("", "insert into own (who) values ('x')")
		wantState(t, err, "42501")
	})
	t.Run("another tenant's key is free: nothing tells that it exists", func(t *testing.T) {
		if _, err := do(acme, "insert into own (who) values ('2')"); err != nil {
			t.Error(err)
		}
	})
	t.Run("a cascade stays within the tenant", func(t *testing.T) {
		if n, err := do(acme, "delete from own where who = '2'"); n != 1 || err != nil {
			t.Fatalf("%d rows, %v", n, err)
		}
		if got := f.sees(f.conn, "authenticated", globex, "children"); got != "2" {
			t.Errorf("globex sees children %q, want 2", got)
		}
	})
	t.Run("a careless policy widens within the tenant, never across", func(t *testing.T) {
		mustExec(t, f.asOwner(), "create policy careless on own using (true) with check (true)", "select rowhouse.check_migration()")
		if got := f.sees(f.conn, "authenticated", globex, "own"); got != "2" {
			t.Errorf("globex sees %q", got)
		}
	})
	t.Run("the policy uses the key", func(t *testing.T) {
		var plan []string
		err := scoped(t.Context(), f.conn, "authenticated", acme, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "set local enable_seqscan = off"); err != nil {
				return err
			}
			rows, err := tx.Query(t.Context(), "explain (costs off) select * from own")
			if err != nil {
				return err
			}
			plan, err = pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(plan, "\n"); strings.Contains(text, "InitPlan") != (f.engine == "postgresql") || !strings.Contains(text, "Index Cond: (tenant_id = ") {
			t.Errorf("plan:\n%s", text)
		}
	})
}

// What PostgreSQL does to a migration under FORCE, and what the migrator's connection makes of it.
func TestFence_migrations(t *testing.T) { onEachEngine(t, ownersTraps) }

func ownersTraps(t *testing.T, f *fenced) {
	owner := f.asOwner()
	t.Run("a backfill is an error, not UPDATE 0", func(t *testing.T) {
		_, err := owner.Exec(t.Context(), "update own set who = who")
		wantState(t, err, "42501")
	})
	t.Run("a foreign key between bound tables is an error, not a lie", func(t *testing.T) {
		_, err := owner.Exec(t.Context(), "alter table children add foreign key (tenant_id, parent) references own (tenant_id, who)")
		wantState(t, err, "42501")
	})
	t.Run("NO FORCE and FORCE around a step work in one transaction", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, "alter table own no force row level security")
			if n := oneTx[int](t, tx, "with u as (update own set who = who returning 1) select count(*) from u"); n != 2 {
				t.Errorf("%d rows, want 2", n)
			}
			execTx(t, tx, "alter table own force row level security")
		})
	})
}

// What one shape of rowhouse's own tables allows to whom.
func TestBaseline_people(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	conn := d.asLogin()
	allowed := func(role, sql string) string {
		if _, err := d.do(conn, role, acme, sql); err != nil {
			return migrations.SQLState(err)
		}
		return "ok"
	}
	cases := []struct{ sql, anon, authenticated, service string }{
		{"insert into rowhouse.users (email) values (gen_random_uuid() || '@example.com')", "42501", "42501", "ok"},
		{"select password_hash from rowhouse.users", "42501", "42501", "ok"},
		{"insert into rowhouse.roles (name) values ('r' || left(gen_random_uuid()::text, 8))", "42501", "42501", "ok"},
		{"select from rowhouse.permissions", "42501", "ok", "ok"},
		{"select from rowhouse.settings", "42501", "ok", "ok"},
		{"insert into rowhouse.audit (action) values ('x')", "ok", "ok", "ok"},
		{"select from rowhouse.audit", "42501", "42501", "ok"},
		{"update rowhouse.audit set action = 'y'", "42501", "42501", "42501"},
		{"delete from rowhouse.audit", "42501", "42501", "42501"},
		{"select from rowhouse.identity", "ok", "ok", "ok"},
		{"insert into rowhouse.identity (database_id, catalog_id) values (gen_random_uuid(), gen_random_uuid())", "42501", "42501", "42501"},
		{"create table public.x ()", "42501", "42501", "42501"},
		{"create table rowhouse.x ()", "42501", "42501", "42501"},
		{"select from rowhouse.schema_migrations", "42501", "42501", "42501"},
	}
	for _, c := range cases {
		for role, want := range map[string]string{"anon": c.anon, "authenticated": c.authenticated, "service_role": c.service} {
			if got := allowed(role, c.sql); got != want {
				t.Errorf("%s, %s: %s, want %s", role, c.sql, got, want)
			}
		}
	}
	if n := d.mustDo(conn, "service_role", globex, "select from rowhouse.users"); n != 0 {
		t.Errorf("globex sees %d users of acme", n)
	}
	t.Run("an e-mail address is unique within a tenant only", func(t *testing.T) {
		for _, tenant := range []string{acme, globex} {
			d.mustDo(conn, "service_role", tenant, "insert into rowhouse.users (email) values ('same@example.com')")
		}
		_, err := d.do(conn, "service_role", acme, "insert into rowhouse.users (email) values ('same@example.com')")
		wantState(t, err, "23505")
	})
}

func TestSelfTest(t *testing.T) { onEachEngine(t, selfTest) }

func selfTest(t *testing.T, f *fenced) {
	roles := []string{"anon", "authenticated", "service_role"}
	if err := migrations.SelfTest(t.Context(), f.conn, roles); err != nil {
		t.Fatalf("a sound database: %v", err)
	}
	owner := f.asOwner()
	breaks := []struct{ name, sql, undo, table string }{
		{"row security switched off", "alter table own disable row level security", "alter table own enable row level security", "public.own"},
		{"the fence opened", "alter policy rh_tenant on children using (true)", "select rowhouse.bind('children')", "public.children"},
		{"the fence dropped", "drop policy rh_tenant on maybe; create policy all_of_them on maybe using (true)", "drop policy all_of_them on maybe; select rowhouse.bind_optional('maybe')", "public.maybe"},
	}
	for _, b := range breaks {
		t.Run(b.name, func(t *testing.T) {
			mustExec(t, owner, b.sql)
			err := migrations.SelfTest(t.Context(), f.conn, roles)
			var leak *migrations.LeakError
			if !errors.As(err, &leak) || !slices.Contains(leak.Tables, b.table) {
				t.Errorf("got %v, want a leak of %s", err, b.table)
			}
			mustExec(t, owner, b.undo)
			if err := migrations.SelfTest(t.Context(), f.conn, roles); err != nil {
				t.Errorf("after the repair: %v", err)
			}
		})
	}
	t.Run("a login exempt from row security is refused", func(t *testing.T) {
		if err := migrations.SelfTest(t.Context(), f.Conn(t), roles); err == nil {
			t.Error("a superuser passes")
		}
		if err := migrations.CheckRoles(t.Context(), f.Conn(t), roles); err == nil {
			t.Error("a superuser passes the check of roles")
		}
		if err := migrations.CheckRoles(t.Context(), f.conn, roles); err != nil {
			t.Errorf("a sound login: %v", err)
		}
		if err := migrations.CheckRoles(t.Context(), f.conn, []string{"anon", "pg_monitor"}); migrations.SQLState(err) != "42501" {
			t.Errorf("a role that the login may not become: %v", err)
		}
		if err := migrations.CheckRoles(t.Context(), f.conn, roles); err != nil {
			t.Errorf("the connection is not as it was: %v", err)
		}
	})
}

func TestFingerprint(t *testing.T) {
	t.Parallel()
	print := func(conn *pgx.Conn) string {
		s, err := migrations.Fingerprint(t.Context(), conn)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, other := newDatabase(t), newDatabase(t)
	one.migrate(sample)
	other.migrate(sample)
	a, b := one.asOwner(), other.asOwner()
	same := print(a)
	if got := print(b); got != same {
		t.Fatalf("two databases of one version and different owners differ: %s and %s", same, got)
	}
	mustExec(t, b, "set search_path = rowhouse")
	if print(b) != same {
		t.Error("the session's search_path is in it")
	}
	mustExec(t, b, "set search_path = public")
	one.mustDo(one.asLogin(), "authenticated", acme, "insert into projects (name) values ('x')")
	if print(a) != same {
		t.Error("a row is in it")
	}
	changes := []struct{ do, undo string }{
		{"create index by_hand on projects (status)", "drop index by_hand"},
		{"alter table projects alter column status set default 'x'", "alter table projects alter column status set default 'active'"},
		{"alter table projects no force row level security", "alter table projects force row level security"},
		{"create policy p on projects using (true)", "drop policy p on projects"},
		{"grant select on projects to anon", "revoke select on projects from anon"},
		{"grant select (name) on projects to anon", "revoke select (name) on projects from anon"},
		{"create function f() returns int language sql return 1", "drop function f"},
		{"create type mood as enum ('a')", "drop type mood"},
		{"alter table tasks add constraint c check (title <> '')", "alter table tasks drop constraint c"},
		{"create view v as select 1 as one", "drop view v"},
		{"alter table tasks alter column title drop not null", "alter table tasks alter column title set not null"},
		{"create sequence s", "drop sequence s"},
		{"create schema extra", "drop schema extra"},
		{
			"create function tf() returns trigger language plpgsql as 'begin return new; end'; create trigger tr before insert on tasks for each row execute function tf()",
			"drop function tf cascade",
		},
	}
	seen := []string{same}
	for _, c := range changes {
		mustExec(t, b, c.do)
		if got := print(b); slices.Contains(seen, got) {
			t.Errorf("%s is not in it", c.do)
		} else {
			seen = append(seen, got)
		}
		mustExec(t, b, c.undo)
		if diff := cmp.Diff(same, print(b)); diff != "" {
			t.Errorf("after %s: %s", c.undo, diff)
		}
	}
}

// Both ways of sending a file give one schema.
func TestFingerprint_sendModes(t *testing.T) {
	t.Parallel()
	var prints []string
	for _, apart := range []bool{false, true} {
		d := newDatabase(t)
		d.apart = apart
		d.migrate(shop(t, 0))
		print, err := migrations.Fingerprint(t.Context(), d.asOwner())
		if err != nil {
			t.Fatal(err)
		}
		prints = append(prints, print)
	}
	if prints[0] != prints[1] {
		t.Errorf("%v", prints)
	}
}
