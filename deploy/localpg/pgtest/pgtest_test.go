package pgtest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestDB(t *testing.T) {
	t.Parallel()

	t.Run("each test has a database of its own, dropped at its end under open sessions", func(t *testing.T) {
		t.Parallel()
		server := connect(t, pgtest.ServerDSN(t))
		var names []string
		t.Run("inner", func(t *testing.T) {
			a, b := pgtest.DB(t), pgtest.DB(t)
			names = []string{a.Name(), b.Name()}
			execute(t, a.Conn(t), "create table only_here()")
			if one[bool](t, b.Conn(t), "select to_regclass('only_here') is not null") {
				t.Error("a table of one database is in the other")
			}
			if got := one[string](t, a.Pool(t), "select current_database()"); got != a.Name() {
				t.Errorf("the pool leads to %q, not to %q", got, a.Name())
			}
			// Not closed by this test: FORCE has to end it.
			left, err := pgx.Connect(context.Background(), a.DSN())
			if err != nil {
				t.Fatal(err)
			}
			_ = left
		})
		if n := one[int](t, server, "select count(*) from pg_database where datname = any($1)", names); n != 0 {
			t.Errorf("%d of the databases are still there", n)
		}
	})

	t.Run("replication does not keep a database from being dropped", func(t *testing.T) {
		t.Parallel()
		server := connect(t, pgtest.ServerDSN(t))
		var names []string
		t.Run("inner", func(t *testing.T) {
			from, to := pgtest.DB(t), pgtest.DB(t)
			names = []string{from.Name(), to.Name()}
			execute(t, from.Conn(t), "create table things (id int primary key)", "create publication p for all tables",
				"select pg_create_logical_replication_slot('"+from.Name()+"', 'pgoutput')",
				"select pg_create_logical_replication_slot('idle_"+from.Name()+"', 'pgoutput')")
			execute(t, to.Conn(t), "create table things (id int primary key)",
				"create subscription "+to.Name()+" connection '"+keywords(t, from.DSN())+"' publication p with (create_slot = false, slot_name = '"+from.Name()+"')")
			await(t, server, "select coalesce(bool_or(active), false) from pg_replication_slots where slot_name = $1", from.Name())
		})
		if n := one[int](t, server, "select count(*) from pg_database where datname = any($1)", names); n != 0 {
			t.Errorf("%d of the databases are still there", n)
		}
		if n := one[int](t, server, "select count(*) from pg_replication_slots where database = any($1)", names); n != 0 {
			t.Errorf("%d slots are still there", n)
		}
	})

	t.Run("roles are let in as pg_hba.conf says", func(t *testing.T) {
		t.Parallel()
		d := pgtest.DB(t)
		role, password := pgtest.Role(t, "LOGIN")
		if got := one[string](t, connect(t, d.DSNAs(role, password)), "select current_user"); got != role {
			t.Errorf("logged in as %q, not as %q", got, role)
		}
		for name, dsn := range map[string]string{"a wrong password": d.DSNAs(role, "wrong"), "no password": d.DSNAs(role, "")} {
			conn, err := pgx.Connect(t.Context(), dsn)
			if err == nil {
				conn.Close(t.Context())
				t.Errorf("%s was let in", name)
			}
		}
	})

	t.Run("the settings are those of a test server", func(t *testing.T) {
		t.Parallel()
		conn := pgtest.DB(t).Conn(t)
		for setting, want := range map[string]string{
			"listen_addresses": "", "fsync": "off", "wal_level": "logical", "max_connections": "300",
			"autovacuum": "off", "unix_socket_permissions": "0700",
		} {
			if got := one[string](t, conn, "select current_setting($1)", setting); got != want {
				t.Errorf("%s is %q, want %q", setting, got, want)
			}
		}
		if n := one[int](t, conn, "select count(*) from pg_roles where rolname in ('anon', 'authenticated', 'service_role') and not rolcanlogin"); n != 3 {
			t.Errorf("%d of the three fixed roles are there", n)
		}
	})
}

func TestRole(t *testing.T) {
	t.Parallel()

	t.Run("is dropped with what it owns in several databases, and what it was granted", func(t *testing.T) {
		t.Parallel()
		server := connect(t, pgtest.ServerDSN(t))
		var role string
		t.Run("inner", func(t *testing.T) {
			a, b := pgtest.DB(t), pgtest.DB(t)
			var password string
			role, password = pgtest.Role(t, "LOGIN NOINHERIT")
			for _, d := range []*pgtest.Database{a, b} {
				execute(t, d.Conn(t), "create schema authorization "+role, "create table given()", "grant select on given to "+role,
					"grant connect on database "+d.Name()+" to "+role)
				execute(t, connect(t, d.DSNAs(role, password)), "create table "+role+".mine()")
			}
			execute(t, server, "alter database "+b.Name()+" owner to "+role)
		})
		if n := one[int](t, server, "select count(*) from pg_roles where rolname = $1", role); n != 0 {
			t.Error("the role is still there")
		}
	})

	t.Run("outlives its database", func(t *testing.T) {
		t.Parallel()
		server := connect(t, pgtest.ServerDSN(t))
		var role string
		t.Run("inner", func(t *testing.T) {
			role, _ = pgtest.Role(t, "NOLOGIN")
			execute(t, pgtest.DB(t).Conn(t), "create schema authorization "+role)
		})
		if n := one[int](t, server, "select count(*) from pg_roles where rolname = $1", role); n != 0 {
			t.Error("the role is still there")
		}
	})
}

func TestTemplate(t *testing.T) {
	t.Parallel()
	t.Run("is built once, and a copy does not touch it", func(t *testing.T) {
		t.Parallel()
		builds := 0
		key := pgtest.DB(t).Name() // random: the server may remember other runs
		tmpl := pgtest.Template(key, func(ctx context.Context, conn *pgx.Conn) error {
			builds++
			_, err := conn.Exec(ctx, "create table things as select 1 as id")
			return err
		})
		for range 3 {
			conn := pgtest.DB(t, tmpl).Conn(t)
			if n := one[int](t, conn, "select count(*) from things"); n != 1 {
				t.Errorf("%d rows, want the template's one", n)
			}
			execute(t, conn, "insert into things values (2)")
		}
		if builds != 1 {
			t.Errorf("built %d times", builds)
		}
	})

	t.Run("two keys are two templates", func(t *testing.T) {
		t.Parallel()
		key := pgtest.DB(t).Name()
		for _, table := range []string{"first", "second"} {
			tmpl := pgtest.Template(key+table, func(ctx context.Context, conn *pgx.Conn) error {
				_, err := conn.Exec(ctx, "create table "+table+"()")
				return err
			})
			if n := one[int](t, pgtest.DB(t, tmpl).Conn(t), "select count(*) from pg_tables where schemaname = 'public' and tablename = $1", table); n != 1 {
				t.Errorf("no table %s", table)
			}
		}
	})
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

func one[T any](t testing.TB, db querier, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := db.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func execute(t testing.TB, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

// await asks until the answer is true; the test's deadline is the limit.
func await(t testing.TB, conn *pgx.Conn, sql string, args ...any) {
	t.Helper()
	for !one[bool](t, conn, sql, args...) {
		time.Sleep(time.Millisecond) // between looks: the server cannot call us
	}
}

// keywords is a connection string in the form that libpq takes inside a subscription.
func keywords(t testing.TB, dsn string) string {
	t.Helper()
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join([]string{"host=" + cfg.Host, "user=" + cfg.User, "dbname=" + cfg.Database}, " ")
}
