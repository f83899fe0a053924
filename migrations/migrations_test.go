package migrations_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	stock "github.com/golang-migrate/migrate/v4/database"
	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
)

// set makes a set of files numbered from 1, named a, b, c…
func set(bodies ...string) fstest.MapFS {
	files := fstest.MapFS{}
	for i, body := range bodies {
		files[fmt.Sprintf("%06d_%c.up.sql", i+1, 'a'+i)] = file(body)
	}
	return files
}

// table is a file that makes a bound table.
func table(name string) string {
	return fmt.Sprintf("create table %s (id int primary key);\nselect rowhouse.bind('%s');\n", name, name)
}

// ledger gives the application's ledger: version and state of each row.
func (d *database) ledger() []string {
	d.t.Helper()
	conn, err := d.target().Connect(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	defer closeConn(conn)
	return one[[]string](d.t, conn, "select coalesce(array_agg(version || ' ' || state order by version), '{}') from rowhouse.migrations")
}

func (d *database) wantLedger(want ...string) {
	d.t.Helper()
	if diff := cmp.Diff(append([]string{}, want...), d.ledger()); diff != "" {
		d.t.Errorf("ledger: %s", diff)
	}
}

func (d *database) exists(table string) bool {
	d.t.Helper()
	conn, err := d.target().Connect(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	defer closeConn(conn)
	return one[bool](d.t, conn, "select to_regclass($1) is not null", table)
}

func TestMigrator_Up(t *testing.T) { inBothModes(t, migratorUp) }

func migratorUp(t *testing.T) {
	t.Run("a fresh database gets the baseline and the application's files, once", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		m, err := migrations.ForTenants(sample, migrations.Config{})
		if err != nil {
			t.Fatal(err)
		}
		result := d.migrate(sample)
		var applied []string
		for _, a := range result.Applied {
			applied = append(applied, fmt.Sprint(a.Name, " ", a.Baseline))
		}
		want := []string{"rowhouse true", "binding true", "people true", "contract true", "guard true", "idempotency true", "gate true", "requests true", "projects false", "tasks false"}
		if diff := cmp.Diff(want, applied); diff != "" {
			t.Error(diff)
		}
		if result.From != (migrations.Version{}) || result.To != m.Latest() || result.To.Number != 2 {
			t.Errorf("from %v to %v, want nothing to %v", result.From, result.To, m.Latest())
		}
		again := d.migrate(sample)
		if len(again.Applied) != 0 || again.From != again.To || again.To != m.Latest() {
			t.Errorf("a second run: %+v", again)
		}
		if v, err := m.Version(t.Context(), d.target()); v != m.Latest() || err != nil {
			t.Errorf("version %v, %v", v, err)
		}
		d.wantLedger("1 applied", "2 applied")
		if got := one[string](t, d.asOwner(), "select version || ' ' || dirty from rowhouse.schema_migrations"); got != "2 false" {
			t.Errorf("the stock view says %s", got)
		}
		if owners := one[int](t, d.asOwner(), "select count(*) from pg_class where relnamespace in ('rowhouse'::regnamespace, 'public'::regnamespace) and relowner <> '"+d.owner+"'::regrole"); owners != 0 {
			t.Errorf("%d objects belong to somebody else than the owner", owners)
		}
	})
	t.Run("later files are applied, and the plan says which", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(table("a")))
		m, err := migrations.ForTenants(set(table("a"), table("b"), table("c")), migrations.Config{})
		if err != nil {
			t.Fatal(err)
		}
		plan, err := m.Plan(t.Context(), d.target())
		if err != nil || len(plan) != 2 || plan[0].String() != "000002_b" {
			t.Errorf("plan %v, %v", plan, err)
		}
		if v, err := m.Version(t.Context(), d.target()); v.Number != 1 || v == m.Latest() || err != nil {
			t.Errorf("version %v, %v", v, err)
		}
		result, err := m.Up(t.Context(), d.target())
		if err != nil || len(result.Applied) != 2 || result.From.Number != 1 || result.To != m.Latest() {
			t.Errorf("%+v, %v", result, err)
		}
	})
	t.Run("nothing applied is the zero version, and the plan is everything", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		m, err := migrations.ForTenants(set(table("a")), migrations.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := m.Version(t.Context(), d.target()); v != (migrations.Version{}) || err != nil {
			t.Errorf("version %v, %v", v, err)
		}
		if plan, err := m.Plan(t.Context(), d.target()); len(plan) != ownFiles(t)+1 || err != nil {
			t.Errorf("plan %v, %v", plan, err)
		}
	})
	t.Run("a new baseline makes a database behind", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(table("a")))
		m, err := migrations.ForTenants(set(table("a")), migrations.Config{})
		if err != nil {
			t.Fatal(err)
		}
		mustExec(t, d.asOwner(), "delete from rowhouse.baseline_migrations where version = (select max(version) from rowhouse.baseline_migrations)")
		if v, err := m.Version(t.Context(), d.target()); v == m.Latest() || v.Number != m.Latest().Number || err != nil {
			t.Errorf("version %v, latest %v, %v", v, m.Latest(), err)
		}
	})
	t.Run("a failing file leaves nothing, those before it stay, and the error names the line", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		result, err := d.up(set(table("a"), table("b")+"-- ü\ncreate table c (\n\tx nosuchtype);\n", table("d")), migrations.Config{})
		var e *migrations.Error
		if !errors.As(err, &e) || e.File != "000002_b" || e.Line != 5 || e.SQLState != "42704" || e.Target != "acme" {
			t.Errorf("%#v", err)
		}
		if result.To.Number != 1 || result.Err != err {
			t.Errorf("result %+v", result)
		}
		d.wantLedger("1 applied")
		if d.exists("b") {
			t.Error("half a file stands")
		}
	})
	t.Run("an error without a position names the statement's line", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		_, err := d.up(set(table("a")+"\n\n/* ; */ do $$ begin perform 1; raise exception 'no' using hint = 'do otherwise'; end $$;\n"), migrations.Config{})
		var e *migrations.Error
		if !errors.As(err, &e) || e.Line != 5 || e.Hint() != "do otherwise" {
			t.Errorf("%v, %#v", err, e)
		}
	})
	t.Run("a plain key to a bound table is answered with the line to write", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		_, err := d.up(set(table("a"), "create table b (a int references a (id));"), migrations.Config{})
		wantState(t, err, "42830")
		wantText(t, err, "foreign key (tenant_id, project_id) references projects (tenant_id, id)")
	})
	t.Run("functions that read bound tables can be made, and wrong ones are found", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		sound := `create function ids() returns setof int language sql stable as 'select id from public.a';
			create function n() returns bigint language sql stable begin atomic select count(*) from a; end;
			create function elsewhere() returns int language sql as 'select x from nobody_knows.where_this_is';
			create function p() returns bigint language plpgsql as 'begin return (select count(*) from a); end'`
		d.migrate(set(table("a"), sound))
		wrong := map[string]string{
			"create function f() returns int language sql as 'select nosuch from public.a'": "42703",
			"create function f() returns int language sql as 'selec 1'":                     "42601",
			"create function f() returns int language sql as $$ select 'x'::text $$":        "42P13",
			"create function f() returns int language plpgsql as 'begin x end'":             "42601",
			"create or replace function ids() returns setof int language sql as 'select'":   "42P13",
		}
		for sql, state := range wrong {
			_, err := d.up(set(table("a"), sound, sql), migrations.Config{})
			wantState(t, err, state)
		}
		conn := d.asLogin()
		d.mustDo(conn, "authenticated", acme, "insert into a (id) values (1)")
		if n := d.mustDo(conn, "authenticated", acme, "select from ids()"); n != 1 {
			t.Errorf("%d rows", n)
		}
	})
	t.Run("what a file sets does not reach the ledger or the next file", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(
			"create schema aside; set search_path = aside; set standard_conforming_strings = off; set row_security = on; do $$ begin perform set_config('role', 'none', false); exception when others then null; end $$",
			table("b")))
		if !d.exists("public.b") {
			t.Error("the next file's table went into another schema")
		}
		if role := one[string](t, d.asOwner(), "select relowner::regrole::text from pg_class where relname = 'b'"); role != d.owner {
			t.Errorf("it belongs to %s", role)
		}
	})
	t.Run("a file that commits by itself in a DO block is refused by the server", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		_, err := d.up(set(table("a"), table("b")+"do $$ begin commit; end $$"), migrations.Config{})
		wantState(t, err, "2D000")
		d.wantLedger("1 applied")
	})
	t.Run("bodies that end in a comment or a semicolon", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(strings.TrimSuffix(table("a"), ";\n")+" -- the end", table("b")+";;", table("c")+"/* one /* two */ */"))
		d.wantLedger("1 applied", "2 applied", "3 applied")
	})
	t.Run("a statement that takes too long is ended, and a file may ask for more or less", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		_, err := d.up(set("-- rowhouse:timeout 50ms\nselect pg_sleep(60)"), migrations.Config{})
		wantState(t, err, "57014")
		_, err = d.up(set("select pg_sleep(60)"), migrations.Config{StatementTimeout: 50 * time.Millisecond})
		wantState(t, err, "57014")
		_, err = d.up(set("-- rowhouse: timeout 1m\nselect pg_sleep(0.2)"), migrations.Config{StatementTimeout: 100 * time.Millisecond})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("an undeclared table, a waiting key, a broken contract: the file is refused as a whole", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(table("a")))
		for body, says := range map[string]string{
			"create table b (id int)": "was not declared",
			"create table b (id int primary key); create table c (b int references b); select rowhouse.bind('c'); select rowhouse.reference('a')":                               "keeps its kind",
			"create table b (id int primary key); create schema hidden; alter table b set schema hidden; create table c (b int references hidden.b); select rowhouse.bind('c')": "waits for its other side",
			table("b") + "alter table b no force row level security":                                                                      "not enabled and forced",
			table("b") + "alter table b disable row level security":                                                                       "not enabled and forced",
			table("b") + "create view v as select * from b":                                                                               "security_invoker",
			table("b") + "create materialized view v as select * from b with no data":                                                     "materialised",
			table("b") + "create index on b (id)":                                                                                         "does not lead",
			table("b") + "alter table b add unique (id)":                                                                                  "does not hold tenant_id",
			table("b") + "grant truncate on b to authenticated":                                                                           "may truncate",
			table("b") + "drop policy rh_all on b":                                                                                        "no permissive policy",
			table("b") + "drop policy rh_tenant on b":                                                                                     "rh_tenant is missing",
			table("b") + "alter policy rh_tenant on b to authenticated":                                                                   "rh_tenant is missing",
			table("b") + "alter policy rh_tenant on b with check (true)":                                                                  "rh_tenant is missing",
			table("b") + "alter table b alter column tenant_id drop default":                                                              "tenant_id is not what",
			table("b") + "create rule r as on insert to b do also select 1":                                                               "rule r",
			table("b") + "create sequence s; grant select on sequence s to anon":                                                          "sequence",
			"create table b (id int); select rowhouse.reference('b'); grant update on b to authenticated":                                 "common to all",
			"create table b (id int) partition by list (id); select rowhouse.bind('b'); create table b1 partition of b default":           "not enabled and forced",
			"create table b (id uuid primary key); select rowhouse.bind_optional('b'); alter table b alter column tenant_id set not null": "tenant_id is not what",
		} {
			_, err := d.up(set(table("a"), body), migrations.Config{})
			if err == nil {
				t.Fatalf("%s: applied", body)
			}
			wantState(t, err, "55000")
			wantText(t, err, says)
		}
		d.wantLedger("1 applied")
		if d.exists("b") {
			t.Error("something stands")
		}
	})
	t.Run("Then runs under the lock, also when nothing is pending, and its error is Up's", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		calls, fails := 0, errors.New("no")
		cfg := migrations.Config{LockWait: time.Millisecond, Then: func(ctx context.Context, conn *pgx.Conn) error {
			calls++
			var busy *migrations.LockError
			if _, err := d.up(nil, migrations.Config{LockWait: time.Millisecond}); !errors.As(err, &busy) {
				t.Errorf("another migrator came in: %v", err)
			}
			if calls == 2 {
				return fails
			}
			return nil
		}}
		if _, err := d.up(nil, cfg); err != nil {
			t.Error(err)
		}
		if _, err := d.up(nil, cfg); !errors.Is(err, fails) || calls != 2 {
			t.Errorf("%v after %d calls", err, calls)
		}
		if _, err := d.up(nil, migrations.Config{LockWait: time.Millisecond}); err != nil {
			t.Errorf("the lock stays: %v", err)
		}
	})
	t.Run("connections that would make migrations lie are refused", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		m, err := migrations.ForTenants(nil, migrations.Config{})
		if err != nil {
			t.Fatal(err)
		}
		target := d.target()
		target.Connect = func(ctx context.Context) (*pgx.Conn, error) { return pgx.Connect(ctx, d.DSN()) }
		if _, err := m.Up(t.Context(), target); !errors.Is(err, migrations.ErrSettings) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a pooled connection is refused, and no lock of it stays", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		m, err := migrations.ForTenants(nil, migrations.Config{})
		if err != nil {
			t.Fatal(err)
		}
		target := d.target()
		target.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			return d.connectThrough(ctx, func(conn net.Conn) net.Conn { return &pooling{Conn: conn} })
		}
		if _, err := m.Up(t.Context(), target); !errors.Is(err, migrations.ErrPooled) {
			t.Errorf("%v", err)
		}
		d.migrate(nil)
	})
	t.Run("schema public open to everybody is closed, and a schema of somebody else is named", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		mustExec(t, d.Conn(t), "grant create on schema public to public", "alter schema public owner to "+d.migrator)
		_, err := d.up(nil, migrations.Config{})
		wantText(t, err, "everybody may create in schema public")
		mustExec(t, d.Conn(t), "revoke create on schema public from public")
		_, err = d.up(nil, migrations.Config{})
		wantText(t, err, "alter schema public owner to "+d.owner)
		mustExec(t, d.Conn(t), "alter schema public owner to "+d.owner, "grant create on schema public to public")
		d.migrate(nil)
		_, err = d.do(d.asLogin(), "authenticated", acme, "create table public.x ()")
		wantState(t, err, "42501")
	})
	t.Run("a template's role owns objects but no database, and its clone's owner takes them over", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		owner := d.owner
		d.owner, _ = pgtest.Role(t, "nologin")
		mustExec(t, d.Conn(t), "grant create on database "+d.Name()+" to "+d.owner, "alter schema public owner to "+d.owner, "grant "+d.owner+" to "+d.migrator)
		d.migrate(set(table("a")))
		mustExec(t, d.Conn(t), "reassign owned by "+d.owner+" to "+owner)
		d.owner = owner
		d.migrate(set(table("a"), table("b")))
		d.wantLedger("1 applied", "2 applied")
	})
}

func TestMigrator_history(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(set(table("a"), table("b")))
	late := set(table("a"), table("b"))
	late["000000001_late.up.sql"] = late["000001_a.up.sql"]
	gap := fstest.MapFS{"000010_a.up.sql": file(table("a")), "000020_b.up.sql": file(table("b"))}

	cases := []struct {
		name, kind, file string
		set              fstest.MapFS
	}{
		{"an edited file", migrations.Changed, "000001_a", set(table("a")+"--", table("b"), table("c"))},
		{"an edited last file", migrations.Changed, "000002_b", set(table("a"), table("b")+"--")},
		{"a set that is too old", migrations.UnknownVersion, "000002_b", set(table("a"))},
		{"a set without files", migrations.UnknownVersion, "000001_a", fstest.MapFS{}},
		{"other numbers", migrations.UnknownVersion, "000001_a", gap},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			_, err := d.up(c.set, migrations.Config{})
			var h *migrations.HistoryError
			if !errors.As(err, &h) || h.Kind != c.kind || h.File != c.file || h.Hint() == "" {
				t.Errorf("got %v, want %s of %s", err, c.kind, c.file)
			}
			m, err := migrations.ForTenants(c.set, migrations.Config{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Plan(t.Context(), d.target()); !errors.As(err, &h) {
				t.Errorf("the plan does not refuse: %v", err)
			}
		})
	}
	t.Run("a late file below the last one applied", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(gap)
		late := fstest.MapFS{
			"000010_a.up.sql": gap["000010_a.up.sql"], "000020_b.up.sql": gap["000020_b.up.sql"],
			"000015_late.up.sql": file(table("late")), "000030_next.up.sql": file(table("next")),
		}
		_, err := d.up(late, migrations.Config{})
		var h *migrations.HistoryError
		if !errors.As(err, &h) || h.Kind != migrations.OutOfOrder || h.File != "000015_late" {
			t.Errorf("got %v", err)
		}
		d.wantLedger("10 applied", "20 applied")
	})
	t.Run("a ledger whose rows are right and whose chain is not", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(table("a")))
		mustExec(t, d.asOwner(), "update rowhouse.migrations set chain = 'x'")
		_, err := d.up(set(table("a"), table("b")), migrations.Config{})
		var h *migrations.HistoryError
		if !errors.As(err, &h) || h.Kind != migrations.Changed || h.File != "the ledger itself" {
			t.Errorf("got %v", err)
		}
	})
	t.Run("line ends and a byte order mark are no change", func(t *testing.T) {
		crlf := fstest.MapFS{}
		for name, f := range set(table("a"), table("b")) {
			crlf[name] = &fstest.MapFile{Data: append([]byte("\xef\xbb\xbf"), bytes.ReplaceAll(f.Data, []byte("\n"), []byte("\r\n"))...)}
		}
		if result := d.migrate(crlf); len(result.Applied) != 0 {
			t.Errorf("%+v", result)
		}
	})
	d.wantLedger("1 applied", "2 applied")
}

func TestMigrator_locks(t *testing.T) {
	t.Parallel()
	t.Run("two migrators at once apply each file once", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		files := set(table("a"), table("b"), table("c"))
		applied := make([]int, 3)
		var group sync.WaitGroup
		for i := range applied {
			group.Go(func() {
				result, err := d.up(files, migrations.Config{})
				if err != nil {
					t.Error(err)
				}
				applied[i] = len(result.Applied)
			})
		}
		group.Wait()
		if applied[0]+applied[1]+applied[2] != ownFiles(t)+len(files) {
			t.Errorf("applied %v, want each of our files and of the set's once", applied)
		}
		d.wantLedger("1 applied", "2 applied", "3 applied")
	})
	t.Run("stock golang-migrate's locks keep us out, and the holder is named", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		holder := d.Conn(t)
		for _, name := range []string{d.Name(), "/" + d.Name()} {
			key, err := stock.GenerateAdvisoryLockId(name, "public", "schema_migrations")
			if err != nil {
				t.Fatal(err)
			}
			mustExec(t, holder, "select pg_advisory_lock("+key+")")
			_, err = d.up(nil, migrations.Config{LockWait: time.Millisecond})
			var busy *migrations.LockError
			if !errors.As(err, &busy) || busy.PID != int(holder.PgConn().PID()) || busy.Role != "rowhouse" {
				t.Errorf("%s: %v", name, err)
			}
			mustExec(t, holder, "select pg_advisory_unlock("+key+")")
		}
		d.migrate(nil)
	})
	t.Run("a lock that comes free is taken", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		holder := d.Conn(t)
		mustExec(t, holder, fmt.Sprintf("select pg_advisory_lock(%d)", d.target().Key))
		done := make(chan error)
		go func() {
			_, err := d.up(nil, migrations.Config{})
			done <- err
		}()
		await(t, d.Conn(t), "select exists (select from pg_stat_activity where application_name = 'rowhouse-migrate' and datname = current_database() and query like '%pg_try_advisory_lock%')")
		mustExec(t, holder, "select pg_advisory_unlock_all()")
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Run("a table lock not got in time leaves the database as it was", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(table("a")))
		reader, err := d.asOwner().Begin(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		execTx(t, reader, "lock table a in access share mode")
		files := set(table("a"), table("b")+"alter table a add column x int;")
		_, err = d.up(files, migrations.Config{LockTimeout: 20 * time.Millisecond})
		var e *migrations.Error
		if !errors.As(err, &e) || e.SQLState != "55P03" || e.Line != 3 {
			t.Errorf("%v", err)
		}
		if d.exists("b") {
			t.Error("half a file stands")
		}
		if err := reader.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
		d.migrate(files)
	})
}

// await polls until the query answers true.
func await(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for ; ; time.Sleep(10 * time.Millisecond) {
		var ok bool
		if err := conn.QueryRow(ctx, sql).Scan(&ok); err != nil {
			t.Fatalf("waiting for %s: %v", sql, err)
		}
		if ok {
			return
		}
	}
}

const waitsAtGate = "select exists (select from pg_locks l join pg_stat_activity a using (pid) where not l.granted and l.relation = 'public.gate'::regclass and a.application_name = 'rowhouse-migrate')"

// gated is a set whose second file makes a table and then waits at a gate, and a function that opens it.
func gated(t testing.TB, d *database) (fstest.MapFS, func()) {
	t.Helper()
	d.migrate(set(table("gate")))
	keeper, err := d.asOwner().Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	execTx(t, keeper, "lock table gate in access exclusive mode")
	return set(table("gate"), table("b")+"lock table gate in access share mode;"), func() {
		t.Helper()
		if err := keeper.Rollback(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestMigrator_faults(t *testing.T) { inBothModes(t, migratorFaults) }

func migratorFaults(t *testing.T) {
	t.Run("a backend killed in the middle of a file leaves neither body nor row, and the file is tried again", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		files, open := gated(t, d)
		super := d.Conn(t)
		done := make(chan error)
		go func() {
			_, err := d.up(files, migrations.Config{LockTimeout: time.Minute})
			done <- err
		}()
		await(t, super, waitsAtGate)
		mustExec(t, super, "select pg_terminate_backend(pid) from pg_locks where not granted and relation = 'public.gate'::regclass")
		await(t, super, waitsAtGate) // the second try
		if got := one[string](t, super, "select coalesce(to_regclass('b')::text, '') || (select count(*) from rowhouse.migrations)"); got != "1" {
			t.Errorf("between the tries stands %q", got)
		}
		open()
		if err := <-done; err != nil {
			t.Errorf("%v", err)
		}
		d.wantLedger("1 applied", "2 applied")
	})
	t.Run("killed each time, it gives up and the database is clean", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		files, open := gated(t, d)
		super := d.Conn(t)
		done := make(chan error)
		go func() {
			_, err := d.up(files, migrations.Config{LockTimeout: time.Minute})
			done <- err
		}()
		for range 3 {
			await(t, super, waitsAtGate)
			mustExec(t, super, "select pg_terminate_backend(pid, 60000) from pg_locks where not granted and relation = 'public.gate'::regclass")
		}
		wantState(t, <-done, "57P01")
		open()
		d.wantLedger("1 applied")
		if d.exists("b") {
			t.Error("half a file stands")
		}
		d.migrate(files)
	})
	t.Run("an answer lost after the commit: the ledger says that it was applied", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(table("a")))
		super := d.Conn(t)
		dials := 0
		target := d.target()
		m, err := migrations.ForTenants(set(table("a"), table("b")), migrations.Config{StatementPerMessage: d.apart})
		if err != nil {
			t.Fatal(err)
		}
		target.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			if dials++; dials > 1 {
				return d.target().Connect(ctx)
			}
			marker := "create table b"
			if d.apart {
				marker = "commit"
			}
			return d.connectLosing(ctx, marker, func() { await(t, super, "select to_regclass('b') is not null") })
		}
		result, err := m.Up(t.Context(), target)
		if err != nil || dials != 2 || result.To != m.Latest() {
			t.Errorf("%v after %d connections, at %v", err, dials, result.To)
		}
		d.wantLedger("1 applied", "2 applied")
	})
	t.Run("a connection lost before the commit: the orphan is waited for, the file applied once", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		files, open := gated(t, d)
		super := d.Conn(t)
		dials := 0
		target := d.target()
		m, err := migrations.ForTenants(files, migrations.Config{LockTimeout: time.Minute, StatementPerMessage: d.apart})
		if err != nil {
			t.Fatal(err)
		}
		target.Connect = func(ctx context.Context) (*pgx.Conn, error) {
			if dials++; dials > 1 {
				open()
				return d.target().Connect(ctx)
			}
			return d.connectLosing(ctx, "lock table gate", func() { await(t, super, waitsAtGate) })
		}
		if _, err := m.Up(t.Context(), target); err != nil || dials != 2 {
			t.Errorf("%v after %d connections", err, dials)
		}
		d.wantLedger("1 applied", "2 applied")
	})
	t.Run("a context that ends cancels the statement and gives the lock back", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		files, open := gated(t, d)
		super := d.Conn(t)
		ctx, cancel := context.WithCancel(t.Context())
		m, err := migrations.ForTenants(files, migrations.Config{LockTimeout: time.Minute, StatementPerMessage: d.apart})
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error)
		go func() {
			_, err := m.Up(ctx, d.target())
			done <- err
		}()
		await(t, super, waitsAtGate)
		cancel()
		if err := <-done; err == nil {
			t.Error("no error")
		}
		await(t, super, "select not exists (select from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database()))")
		open()
		d.wantLedger("1 applied")
		if _, err := m.Up(ctx, d.target()); !errors.Is(err, context.Canceled) {
			t.Errorf("with an ended context: %v", err)
		}
		d.migrate(files)
	})
}

// connectThrough connects a migrator through a network connection of the test's.
func (d *database) connectThrough(ctx context.Context, wrap func(net.Conn) net.Conn) (*pgx.Conn, error) {
	config, err := pgx.ParseConfig(d.DSNAs(d.migrator, d.migratorPass))
	if err != nil {
		return nil, err
	}
	migrations.ConnConfig(config, d.owner)
	dial := config.DialFunc
	config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		return wrap(conn), nil
	}
	return pgx.ConnectConfig(ctx, config)
}

// connectLosing is connectThrough a connection that breaks while the answer to a marked message is awaited.
func (d *database) connectLosing(ctx context.Context, marker string, before func()) (*pgx.Conn, error) {
	before = sync.OnceFunc(before)
	return d.connectThrough(ctx, func(conn net.Conn) net.Conn { return &losing{Conn: conn, marker: []byte(marker), before: before} })
}

// pooling is a connection whose backend is another than the one that the client was told of.
type pooling struct {
	net.Conn
	done bool
}

func (c *pooling) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if i := bytes.Index(b[:n], []byte{'K', 0, 0, 0, 12}); i >= 0 && !c.done {
		b[i+8] ^= 1 // the process id's last byte
		c.done = true
	}
	return n, err
}

// losing is a connection that breaks while the answer to a marked message is awaited.
type losing struct {
	net.Conn
	marker []byte
	before func() // called before it breaks
	mu     sync.Mutex
	sent   bool
}

func (c *losing) Write(b []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if bytes.Contains(b, c.marker) {
		c.sent = true
	}
	return c.Conn.Write(b)
}

func (c *losing) Read(b []byte) (int, error) {
	c.mu.Lock()
	sent := c.sent
	c.mu.Unlock()
	if sent {
		c.before()
		c.Close()
		return 0, net.ErrClosed
	}
	return c.Conn.Read(b)
}

func TestMigrator_noTransaction(t *testing.T) { inBothModes(t, migratorNoTransaction) }

func migratorNoTransaction(t *testing.T) {
	const index = "create unique index concurrently b_n on b (tenant_id, n)"
	filled := table("b") + "alter table b add column n int not null default 1"
	// Two rows of one tenant with one n: the index cannot be built.
	fill := func(d *database) {
		conn := d.asLogin()
		d.mustDo(conn, "authenticated", acme, "insert into b (id, n) values (1, 7), (2, 7)")
	}
	valid := "select coalesce((select indisvalid::text from pg_index where indexrelid = to_regclass('b_n')), 'none')"

	t.Run("statements that cannot run in a transaction", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(filled, "-- rowhouse:no-transaction\n"+index+";\n", "-- rowhouse: no-transaction\nvacuum b"))
		d.wantLedger("1 applied", "2 applied", "3 applied")
		if got := one[string](t, d.asOwner(), valid); got != "true" {
			t.Errorf("index valid: %s", got)
		}
	})
	t.Run("a broken one without a verify query needs an operator", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(filled))
		fill(d)
		files := set(filled, "-- rowhouse:no-transaction\n"+index)
		for _, state := range []string{"failed", "failed"} {
			_, err := d.up(files, migrations.Config{})
			var dirty *migrations.DirtyError
			if !errors.As(err, &dirty) || dirty.Version != 2 || dirty.State != state {
				t.Errorf("%v", err)
			}
		}
		d.wantLedger("1 applied", "2 failed")
		if got := one[bool](t, d.asOwner(), "select dirty from rowhouse.schema_migrations"); !got {
			t.Error("the stock view says clean")
		}
	})
	t.Run("a broken one with a verify query is resumed once its cause is gone", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		d.migrate(set(filled))
		fill(d)
		files := set(filled, "-- rowhouse:no-transaction\n-- rowhouse:verify select indisvalid from pg_index where indexrelid = to_regclass('b_n')\n"+index, table("c"))
		_, err := d.up(files, migrations.Config{})
		wantState(t, err, "23505")
		if got := one[string](t, d.asOwner(), valid); got != "false" {
			t.Errorf("index valid: %s, want one left behind", got)
		}
		d.mustDo(d.asLogin(), "authenticated", acme, "update b set n = id")
		d.migrate(files)
		d.wantLedger("1 applied", "2 applied", "3 applied")
		if got := one[string](t, d.asOwner(), valid); got != "true" {
			t.Errorf("index valid: %s", got)
		}
	})
	t.Run("its time-out is its own", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		_, err := d.up(set("-- rowhouse:no-transaction\n-- rowhouse:timeout 50ms\nselect pg_sleep(5)"), migrations.Config{})
		wantState(t, err, "57014")
	})
	t.Run("an index that is whole is not dropped, whatever the verify query says", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		files := set(filled, "-- rowhouse:no-transaction\n-- rowhouse:verify select current_setting('rowhouse.done', true) is not null\n"+index)
		d.migrate(files)
		mustExec(t, d.asOwner(), "update rowhouse.migrations set state = 'running' where version = 2")
		before := one[uint32](t, d.asOwner(), "select 'b_n'::regclass::oid")
		_, err := d.up(files, migrations.Config{})
		wantState(t, err, "42P07")
		if after := one[uint32](t, d.asOwner(), "select 'b_n'::regclass::oid"); after != before {
			t.Error("the index was built again")
		}
	})
	t.Run("one that had its effect before it was lost is marked, not run again", func(t *testing.T) {
		t.Parallel()
		d := newDatabase(t)
		body := "-- rowhouse:no-transaction\n-- rowhouse:verify select to_regclass('b_n') is not null\n" + index
		d.migrate(set(filled, body))
		mustExec(t, d.asOwner(), "update rowhouse.migrations set state = 'running' where version = 2")
		d.migrate(set(filled, body))
		d.wantLedger("1 applied", "2 applied")
	})
}

func TestMigrator_turns(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(set(table("a")))
	m, err := migrations.ForTenants(set(table("a"), table("b")), migrations.Config{})
	if err != nil {
		t.Fatal(err)
	}
	target := d.target()
	var counted *counting
	target.Connect = func(ctx context.Context) (*pgx.Conn, error) {
		config, err := pgx.ParseConfig(d.DSN()) // without a password: its exchange is not the migrator's
		if err != nil {
			return nil, err
		}
		migrations.ConnConfig(config, d.owner)
		dial := config.DialFunc
		config.DialFunc = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := dial(ctx, network, addr)
			counted = &counting{Conn: conn}
			return counted, err
		}
		return pgx.ConnectConfig(ctx, config)
	}
	for _, c := range []struct {
		name    string
		applied int
		turns   int
	}{{"one migration", 1, 4}, {"already current", 0, 3}} {
		result, err := m.Up(t.Context(), target)
		if err != nil || len(result.Applied) != c.applied {
			t.Fatalf("%s: %+v, %v", c.name, result, err)
		}
		if counted.turns > c.turns {
			t.Errorf("%s took %d turns, want at most %d", c.name, counted.turns, c.turns)
		}
	}
}

// counting counts turns: a read after a write.
type counting struct {
	net.Conn
	mu    sync.Mutex
	wrote bool
	turns int
}

func (c *counting) Write(b []byte) (int, error) {
	c.mu.Lock()
	c.wrote = true
	c.mu.Unlock()
	return c.Conn.Write(b)
}

func (c *counting) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.wrote && n > 0 {
		c.turns++
		c.wrote = false
	}
	return n, err
}

// Not parallel: it counts goroutines.
func TestMigrator_leaksNothing(t *testing.T) {
	d := newDatabase(t)
	d.migrate(set(table("a")))
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	files := set(table("a"), "select 1/0", table("c"), table("d"))
	for range 10 {
		_, err := d.up(files, migrations.Config{})
		wantState(t, err, "22012")
	}
}

// ownFiles is how many files rowhouse's own part of a tenant database has.
func ownFiles(t testing.TB) int {
	names, err := filepath.Glob("tenant/*.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

func TestForCatalog(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	m, err := migrations.ForCatalog(migrations.Config{})
	if err != nil {
		t.Fatal(err)
	}
	target := d.target()
	target.Connect = func(ctx context.Context) (*pgx.Conn, error) {
		config, err := pgx.ParseConfig(d.DSN())
		if err != nil {
			return nil, err
		}
		migrations.ConnConfig(config, "")
		return pgx.ConnectConfig(ctx, config)
	}
	for range 2 {
		result, err := m.Up(t.Context(), target)
		if err != nil || result.To != m.Latest() || result.To.Number == 0 {
			t.Fatalf("%+v, %v%s", result, err, hint(err))
		}
	}
}
