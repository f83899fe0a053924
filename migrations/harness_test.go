package migrations_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const (
	acme   = "018f0000-0000-7000-8000-00000000000a"
	globex = "018f0000-0000-7000-8000-00000000000b"
)

// sample is the schema of the contract's example.
var sample = fstest.MapFS{
	"000001_projects.up.sql": file(`
create table projects (id uuid primary key default gen_random_uuid(), name text not null unique, status text not null default 'active');
select rowhouse.bind('projects');`),
	"000002_tasks.up.sql": file(`
create table tasks (id uuid primary key default gen_random_uuid(), project_id uuid not null, title text not null, done boolean not null default false);
select rowhouse.bind('tasks');
alter table projects no force row level security;
alter table tasks no force row level security;
alter table tasks add foreign key (tenant_id, project_id) references projects (tenant_id, id) on delete cascade;
alter table projects force row level security;
alter table tasks force row level security;
create index on tasks (tenant_id, project_id);`),
}

func file(text string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(text)} }

// database is a tenant database as provisioning makes it: owned by a role without login, migrated by a login that becomes it, used by
// another login that may only become the three request roles.
type database struct {
	*pgtest.Database
	t                      testing.TB
	owner                  string
	migrator, data         string
	migratorPass, dataPass string
	apart                  bool // statements are sent one by one
}

// inBothModes runs one body with files sent as a whole and statement by statement: nothing may tell them apart.
func inBothModes(t *testing.T, body func(*testing.T)) {
	t.Parallel()
	for _, mode := range []string{"together", "apart"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			body(t)
		})
	}
}

func newDatabase(t testing.TB) *database {
	t.Helper()
	d := &database{Database: pgtest.DB(t), t: t, apart: strings.Contains(t.Name(), "/apart/")}
	d.owner, _ = pgtest.Role(t, "nologin")
	d.migrator, d.migratorPass = pgtest.Role(t, "login noinherit")
	d.data, d.dataPass = pgtest.Role(t, "login noinherit")
	super := d.Conn(t)
	mustExec(t, super,
		fmt.Sprintf("alter database %s owner to %s", d.Name(), d.owner),
		fmt.Sprintf("revoke all on database %s from public", d.Name()),
		fmt.Sprintf("grant connect on database %s to %s, %s", d.Name(), d.migrator, d.data),
		fmt.Sprintf("grant %s to %s", d.owner, d.migrator),
		fmt.Sprintf("grant anon, authenticated, service_role to %s", d.data),
	)
	return d
}

// target is how a migrator reaches the database.
func (d *database) target() migrations.Target {
	h := fnv.New64a()
	h.Write([]byte(d.Name()))
	return migrations.Target{Name: "acme", Key: int64(h.Sum64()), Connect: func(ctx context.Context) (*pgx.Conn, error) {
		config, err := pgx.ParseConfig(d.DSNAs(d.migrator, d.migratorPass))
		if err != nil {
			return nil, err
		}
		migrations.ConnConfig(config, d.owner)
		return pgx.ConnectConfig(ctx, config)
	}}
}

// asOwner is a migrator's connection.
func (d *database) asOwner() *pgx.Conn {
	d.t.Helper()
	conn, err := d.target().Connect(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { closeConn(conn) })
	return conn
}

// asLogin is a data login's connection, as a router's pool holds it.
func (d *database) asLogin() *pgx.Conn {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.DSNAs(d.data, d.dataPass))
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { closeConn(conn) })
	return conn
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx)
}

// migrate brings the database to the last version of a set.
func (d *database) migrate(app fs.FS) migrations.Result {
	d.t.Helper()
	result, err := d.up(app, migrations.Config{})
	if err != nil {
		d.t.Fatalf("up: %v%s", err, hint(err))
	}
	return result
}

// migratorOf is the Migrator of a set.
func (d *database) migratorOf(app fs.FS) *migrations.Migrator {
	d.t.Helper()
	m, err := migrations.ForTenants(app, migrations.Config{StatementPerMessage: d.apart})
	if err != nil {
		d.t.Fatalf("read set: %v", err)
	}
	return m
}

func (d *database) up(app fs.FS, cfg migrations.Config) (migrations.Result, error) {
	d.t.Helper()
	cfg.StatementPerMessage = cfg.StatementPerMessage || d.apart
	m, err := migrations.ForTenants(app, cfg)
	if err != nil {
		d.t.Fatalf("read set: %v", err)
	}
	return m.Up(d.t.Context(), d.target())
}

// scoped runs fn as a request would: role and tenant for one transaction, which is committed when fn gives no error.
func scoped(ctx context.Context, conn *pgx.Conn, role, tenant string, fn func(pgx.Tx) error) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if tenant != "" {
			if _, err := tx.Exec(ctx, "set local rowhouse.tenant_id = '"+tenant+"'"); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, "set local role "+role); err != nil {
			return err
		}
		return fn(tx)
	})
}

// do runs one statement as a request would, and gives the number of rows it touched.
func (d *database) do(conn *pgx.Conn, role, tenant, sql string, args ...any) (int64, error) {
	var n int64
	err := scoped(d.t.Context(), conn, role, tenant, func(tx pgx.Tx) error {
		tag, err := tx.Exec(d.t.Context(), sql, args...)
		n = tag.RowsAffected()
		return err
	})
	return n, err
}

// mustDo is do where an error ends the test.
func (d *database) mustDo(conn *pgx.Conn, role, tenant, sql string, args ...any) int64 {
	d.t.Helper()
	n, err := d.do(conn, role, tenant, sql, args...)
	if err != nil {
		d.t.Fatalf("%s as %s of %s: %v", sql, role, tenant, err)
	}
	return n
}

func mustExec(t testing.TB, conn *pgx.Conn, statements ...string) {
	t.Helper()
	for _, sql := range statements {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v%s", sql, err, hint(err))
		}
	}
}

func one[T any](t testing.TB, conn *pgx.Conn, sql string, args ...any) T {
	t.Helper()
	var v T
	if err := conn.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// hint is what an error, ours or the server's, advises.
func hint(err error) string {
	var advice interface{ Hint() string }
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &advice) && advice.Hint() != "":
		return "\nhint: " + advice.Hint()
	case errors.As(err, &pg) && pg.Hint != "":
		return "\nhint: " + pg.Hint
	}
	return ""
}

func wantState(t testing.TB, err error, state string) {
	t.Helper()
	if got := migrations.SQLState(err); got != state {
		t.Errorf("SQLSTATE is %q (%v), want %q", got, err, state)
	}
}

func wantText(t testing.TB, err error, texts ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one with %q", texts)
		return
	}
	for _, s := range texts {
		if !strings.Contains(err.Error()+hint(err), s) {
			t.Errorf("error %q does not say %q", err.Error()+hint(err), s)
		}
	}
}
