package migrations_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations"
)

// Each rule of the contract with a database that breaks it. A rule that is off finds nothing in its fixture.
func TestLintDatabase(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(set(table("a")))
	super := d.Conn(t)
	mustExec(t, super, "set search_path = public")
	as := func(role string) string { return "set local role " + role + ";" }
	owner := as(d.owner)
	other := d.migrator // owns nothing
	const b = "create table b (id int primary key); select rowhouse.bind('b');"

	cases := []struct {
		rule, name, sql string
		object, says    string
	}{
		{"L1", "a table of no kind", owner + "create table b (id int)", "b", "no kind"},
		{"L1", "row security not forced", owner + b + "alter table b no force row level security", "b", "not enabled and forced"},
		{"L1", "a partition made later", owner + "create table b (id int) partition by list (id); select rowhouse.bind('b'); create table b1 partition of b default", "b1", "not enabled and forced"},
		{"L2", "the fence dropped", owner + b + "drop policy rh_tenant on b", "b", "rh_tenant"},
		{"L2", "the fence for some roles only", owner + b + "alter policy rh_tenant on b to anon", "b", "rh_tenant"},
		{"L2", "the fence opened by half", owner + b + "alter policy rh_tenant on b with check (true)", "b", "rh_tenant"},
		{"L2", "nothing permissive", owner + b + "drop policy rh_all on b", "b", "nobody sees"},
		{"L3", "no default", owner + b + "alter table b alter tenant_id drop default", "b", "tenant_id is not what"},
		{"L4", "a global unique key", owner + b + "alter table b add unique (id)", "b", "does not hold tenant_id"},
		{"L5", "a foreign key without the tenant", owner + "create table c (id int primary key); create schema hidden; alter table c set schema hidden; " + b + "alter table b add foreign key (id) references hidden.c", "b", "both sides"},
		{"L6", "a view of its owner's", owner + b + "create view v as select * from b", "v", "owner may see"},
		{"L7", "a materialised view", owner + b + "create materialized view v as select * from b with no data", "v", "materialised"},
		{"L7", "a rule", owner + b + "create rule r as on insert to b do also select 1", "b", "rule r"},
		{"L7", "a foreign table", "create foreign data wrapper w; create server s foreign data wrapper w; create foreign table f (id int) server s", "f", "foreign table"},
		{"L8", "a definer's function", owner + "create function f() returns int language sql security definer set search_path = pg_catalog as 'select 1'", "f()", "owner's rights"},
		{"L8", "one without a search_path, in a schema nobody reaches", owner + "create schema hidden; create function hidden.f() returns int language sql security definer as 'select 1'", "hidden.f()", "without a search_path"},
		{"L8", "set_config", owner + "create function f(t text) returns text language sql as $$ select set_config('rowhouse.tenant_id', t, true) $$", "f(text)", "changes who they are"},
		{"L8", "set_config in a parsed body", owner + "create function f(t text) returns text language sql return set_config('rowhouse.tenant_id', t, true)", "f(text)", "changes who they are"},
		{"L8", "SET in plpgsql", owner + "create function f() returns void language plpgsql as $$ begin\n set local rowhouse.tenant_id = 'x'; end $$", "f()", "changes who they are"},
		{"L8", "SET by EXECUTE", owner + "create function f() returns void language plpgsql as $$ begin execute 'set local role anon'; end $$", "f()", "changes who they are"},
		{"L8", "RESET", owner + "create function f() returns void language plpgsql as $$ begin if true then reset role; end if; end $$", "f()", "changes who they are"},
		{"L8", "a SET clause", "create function f() returns int language sql set rowhouse.tenant_id = 'x' as 'select 1'", "f()", "sets rowhouse.tenant_id"},
		{"L8", "sleeping", owner + "create function f() returns void language sql as 'select pg_sleep(1)'", "f()", "holds others up"},
		{"L8", "advisory locks", owner + "create function f() returns void language sql as 'select pg_advisory_xact_lock(1)'", "f()", "holds others up"},
		{"L8", "ending others", owner + "create function f() returns boolean language sql as 'select pg_terminate_backend(1)'", "f()", "holds others up"},
		{"L8", "large objects", owner + "create function f() returns oid language sql as 'select lo_create(0)'", "f()", "reaches out"},
		{"L8", "NOTIFY", owner + "create function f() returns void language plpgsql as $$ begin notify x; end $$", "f()", "reaches out"},
		{"L8", "dblink", owner + "create function f() returns void language plpgsql as $$ begin perform dblink_connect('x'); end $$", "f()", "reaches out"},
		{"L9", "an owner that can log in", "alter role " + d.owner + " login", d.owner, "can log in"},
		{"L9", "an owner that passes row security by", "alter role " + d.owner + " bypassrls", d.owner, "row-level security"},
		{"L9", "an owner that is a superuser", "alter role " + d.owner + " superuser", d.owner, "superuser"},
		{"L10", "TRUNCATE", owner + b + "grant truncate on b to authenticated", "b", "may truncate"},
		{"L10", "writes to common rows", owner + "create table r (id int); select rowhouse.reference('r'); grant update on r to service_role", "r", "common to all"},
		{"L10", "a grant to another role", owner + b + "grant select on b to " + other, "b", "role " + other},
		{"L10", "a grant on a column to another role", owner + b + "grant update (id) on b to " + other, "b", "role " + other},
		{"L10", "a grant to everybody", owner + b + "grant select on b to public", "b", "everybody"},
		{"L10", "a request role that owns something", "create function f() returns int language sql as 'select 1'; alter function f() owner to anon", "function f()", "belongs to anon"},
		{"L10", "a request role that may create", owner + "create schema s; grant create on schema s to authenticated", "schema s", "may create"},
		{"L10", "a request role in one of the system's", "grant pg_read_all_data to service_role", "service_role", "pg_read_all_data"},
		{"L10", "a request role exempt from row security", "alter role anon bypassrls", "anon", "powers"},
		{"L11", "everybody may create in public", owner + "grant create on schema public to public", "schema public", "everybody"},
		{"L11", "everybody may make temporary tables", "grant temporary on database " + d.Name() + " to public", "database " + d.Name(), "temporary"},
		{"L12", "a sequence that can be read", owner + "create sequence s; grant select on sequence s to anon", "s", "other tenants"},
		{"L13", "an index that does not lead with the tenant", owner + b + "create index on b (id)", "b", "does not lead"},
		{"L14", "a large object", owner + "select lo_create(4711)", "large object 4711", "row-level security"},
		{"L14", "a grant on lo_import", "grant execute on function lo_import(text) to authenticated", "lo_import(text)", "may call"},
		{"L15", "a foreign event trigger", "create function f() returns event_trigger language plpgsql as 'begin end'; create event trigger e on ddl_command_end execute function f()", "e", "event trigger"},
		{"L15", "one that bears our trigger's name", "create function f() returns event_trigger language plpgsql as 'begin end'; create event trigger rowhouse_guard on ddl_command_end execute function f()", "rowhouse_guard", "event trigger"},
		{"L16", "an extension that runs any SQL", "create extension tablefunc", "tablefunc", "extension"},
		{"L17", "an old server", "create or replace function rowhouse.is_outdated(version int) returns boolean language sql return true", "PostgreSQL " + one[string](t, super, "show server_version"), "older"},
		{"L18", "another's volatile function in a default", "create function f() returns int language sql as 'select 1'; grant execute on function f() to public;" + owner + b + "alter table b add x int default f()", "b", "volatile"},
		{"L18", "in a policy", "create function f() returns boolean language sql as 'select true';" + owner + b + "create policy p on b using (f())", "b", "volatile"},
		{"L18", "in a trigger", "create function f() returns trigger language plpgsql as 'begin return new; end';" + owner + b + "create trigger t before insert on b for each row execute function f()", "b", "volatile"},
		{"L18", "in a check", "create function f(int) returns boolean language sql as 'select true';" + owner + b + "alter table b add check (f(id))", "b", "volatile"},
		{"L18", "set_config in a policy", owner + b + "create policy p on b using (set_config('rowhouse.tenant_id', 'x', true) is null)", "b", "changes who"},
	}
	covered := map[string]bool{}
	for _, c := range cases {
		covered[c.rule] = true
		t.Run(c.rule+" "+c.name, func(t *testing.T) {
			inTx(t, super, func(tx pgx.Tx) {
				execTx(t, tx, c.sql+"; reset role")
				found, err := migrations.LintDatabase(t.Context(), super)
				if err != nil {
					t.Fatal(err)
				}
				i := slices.IndexFunc(found, func(f migrations.Finding) bool {
					return f.Rule == c.rule && strings.Replace(f.Object, "public.", "", 1) == c.object && strings.Contains(f.Reason, c.says) && f.Hint != ""
				})
				if i < 0 {
					t.Fatalf("not found; what was: %v", found)
				}
				if found[i].Warning != (c.rule == "L17") {
					t.Errorf("warning: %v", found[i])
				}
				_, err = tx.Exec(t.Context(), "select rowhouse.check_contract()")
				if (err != nil) != (c.rule != "L17") {
					t.Errorf("the gate says %v", err)
				}
			})
		})
	}
	for n := 1; n <= 18; n++ {
		if !covered[fmt.Sprint("L", n)] {
			t.Errorf("L%d has no fixture", n)
		}
	}
	t.Run("a sound database", func(t *testing.T) {
		if found, err := migrations.LintDatabase(t.Context(), super); err != nil || len(found) > 0 {
			t.Errorf("%v, %v", found, err)
		}
	})
	t.Run("what is harmless is no finding", func(t *testing.T) {
		inTx(t, super, func(tx pgx.Tx) {
			execTx(t, tx, owner+b+`alter table b add n int not null default 0, add at timestamptz default now(), add k uuid default gen_random_uuid();
				create function setter() returns trigger language plpgsql as $$ begin new.n := 1; update b set n = 2 where id = 0; return new; end $$;
				create trigger t before insert on b for each row execute function setter();
				create function upsert(i int) returns void language sql as $$ insert into b (id) values (i) on conflict (tenant_id, id) do update set n = 0 $$;
				create function total() returns bigint language sql stable begin atomic select sum(n) from b; end;
				create function pauses() returns int language sql as 'select count(*)::int from b where n > 0';
				create policy p on b using (n >= 0); select rowhouse.bind('b');
				create view v with (security_invoker) as select * from b; create view w with (security_invoker = true) as select * from b; reset role;
				create extension btree_gist; create extension pg_trgm`)
			if found, err := migrations.LintDatabase(t.Context(), super); err != nil || len(found) > 0 {
				t.Errorf("%v, %v", found, err)
			}
		})
	})
	t.Run("known releases", func(t *testing.T) {
		for version, want := range map[int]bool{150013: true, 150014: false, 160009: true, 160010: false, 170005: true, 170006: false, 180000: false} {
			if got := one[bool](t, super, "select rowhouse.is_outdated($1)", version); got != want {
				t.Errorf("%d: %v", version, got)
			}
		}
	})
}

// What Citus would not do, asked on plain PostgreSQL: a fixture for each rule, which also closes the gate of a Citus database.
func TestLintCitus(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(nil)
	owner := d.asOwner()
	const b = "create table b (id int primary key); select rowhouse.bind('b');"
	cases := []struct {
		rule, sql, object string
		gate              bool
	}{
		{"C1", b + "create policy p on b using (id in (select 1))", "public.b", true},
		{"C2", b + "create policy p on b as restrictive using (id > 0)", "public.b", true},
		{"C3", b + "create function f() returns trigger language plpgsql as 'begin return new; end'; create trigger t before insert on b for each row execute function f()", "public.b", true},
		{"C4", b + "alter table b add n bigint generated always as identity", "public.b", false},
		{"C4", b + "alter table b add n bigserial", "public.b", false},
		{"C5", b + "create function f() returns setof b language sql stable as 'select * from public.b'", "public.f()", true},
		{"C6", b + "create function label(b) returns text language sql stable as 'select $1.id::text'", "public.label(public.b)", true},
		{"C7", "create table o (id uuid primary key); select rowhouse.bind_optional('o')", "public.o", false},
	}
	for _, c := range cases {
		t.Run(c.rule+" "+c.sql, func(t *testing.T) {
			inTx(t, owner, func(tx pgx.Tx) {
				execTx(t, tx, c.sql)
				found, err := migrations.LintCitus(t.Context(), owner)
				if err != nil || len(found) != 1 || found[0].Rule != c.rule || found[0].Object != c.object || found[0].Hint == "" || found[0].Warning == c.gate {
					t.Fatalf("%v, %v", found, err)
				}
				if found, err := migrations.LintDatabase(t.Context(), owner); err != nil || len(found) > 0 {
					t.Errorf("on PostgreSQL it is no finding: %v, %v", found, err)
				}
				execTx(t, tx, "create or replace function rowhouse.engine() returns text language sql stable as $$ select 'citus' $$")
				_, err = tx.Exec(t.Context(), "select rowhouse.fence(relation, kind) from rowhouse.tables; select rowhouse.check_contract()")
				if (err != nil) != c.gate {
					t.Errorf("the gate of a Citus database says %v", err)
				}
			})
		})
	}
	t.Run("a sound database", func(t *testing.T) {
		inTx(t, owner, func(tx pgx.Tx) {
			execTx(t, tx, b+"create policy p on b using (id > 0); create function f() returns setof b language plpgsql stable as 'begin return query select * from public.b; end'")
			if found, err := migrations.LintCitus(t.Context(), owner); err != nil || len(found) > 0 {
				t.Errorf("%v, %v", found, err)
			}
		})
	})
}

func TestAllow(t *testing.T) {
	t.Parallel()
	const definer = "create function %s returns int language sql security definer %s as 'select 1';\n"
	pinned := fmt.Sprintf(definer, "f()", "set search_path = pg_catalog")
	t.Run("a file allows what it leaves behind, and no later one", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		first := "-- rowhouse:allow L8 f is read-only, it's been looked at\n" + table("a") + pinned
		if _, err := d.up(set(table("a")+pinned), migrations.Config{}); migrations.SQLState(err) != "55000" {
			t.Fatalf("not allowed: %v", err)
		}
		d.migrate(set(first))
		d.migrate(set(first, table("b")))
		if why := one[string](t, d.asOwner(), "select why from rowhouse.allowances"); why != "f is read-only, it's been looked at" {
			t.Errorf("why: %q", why)
		}
		_, err := d.up(set(first, table("b"), fmt.Sprintf(definer, "g()", "set search_path = pg_catalog")), migrations.Config{})
		wantState(t, err, "55000")
		wantText(t, err, "g()", "L8")
	})
	t.Run("what no reason can excuse stays refused", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		_, err := d.up(set("-- rowhouse:allow L8 no\n"+table("a")+fmt.Sprintf(definer, "f()", "")), migrations.Config{})
		wantState(t, err, "55000")
		wantText(t, err, "without a search_path")
	})
	t.Run("a rollout that has seen its canary pass may leave the checks out", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		if _, err := d.migratorOf(set(table("a")+pinned)).Proven().Up(t.Context(), d.target()); err != nil {
			t.Error(err)
		}
	})
	t.Run("the fence's own rules cannot be allowed", func(t *testing.T) {
		for _, rule := range []string{"L1", "L2", "L3", "L4", "L5", "L6", "L9", "L10", "L11", "L15", "L17", "L99", "transaction"} {
			problems, err := migrations.Lint(set("-- rowhouse:allow " + rule + " because\n" + table("a")))
			if err != nil || len(problems) != 1 || problems[0].Rule != "directive" || !strings.Contains(problems[0].Reason, "cannot be allowed") {
				t.Errorf("%s: %v, %v", rule, problems, err)
			}
		}
	})
}
