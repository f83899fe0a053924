package jobs_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

var sample = fstest.MapFS{
	"000001_projects.up.sql": {Data: []byte(`
create table projects (id uuid primary key default gen_random_uuid(), name text not null unique);
select rowhouse.bind('projects');`)},
}

var later = fstest.MapFS{
	"000001_projects.up.sql": sample["000001_projects.up.sql"],
	"000002_status.up.sql":   {Data: []byte(`alter table projects add column status text not null default 'active';`)},
}

// house is a catalog with one server, and a runner that is not running.
type house struct {
	catalog *catalog.Catalog
	dsn     string
	keys    string // the keyset's file
	runner  *jobs.Runner
	service *tenants.Service
	server  *catalog.Server
	super   *pgx.Conn // on the server's maintenance database
}

// newHouse makes one whose provisioner is a superuser, or a role with the given attributes.
func newHouse(t testing.TB, attributes string) *house {
	t.Helper()
	ctx := t.Context()
	keys, err := keyring.New()
	must(t, err)
	h := &house{dsn: catalogtest.DSN(t), keys: filepath.Join(t.TempDir(), "keys")}
	must(t, keys.Save(h.keys))
	conn, err := pgx.Connect(ctx, h.dsn)
	must(t, err)
	must(t, jobs.Migrate(ctx, conn))
	// Clones of one template are one catalog, and its id is in the marks on the server that all tests share.
	mustExec(t, conn, `update rowhouse.catalog set id = gen_random_uuid()`)
	must(t, conn.Close(ctx))

	h.super, err = pgx.Connect(ctx, pgtest.ServerDSN(t))
	must(t, err)
	t.Cleanup(func() { _ = h.super.Close(context.WithoutCancel(ctx)) })

	h.catalog, h.runner = h.open(t, jobs.Config{})
	h.service = tenants.NewService(h.catalog, h.runner)
	dsn := pgtest.ServerDSN(t)
	if attributes != "" {
		role, password := pgtest.Role(t, attributes)
		dsn = strings.Replace(dsn, "rowhouse@", role+":"+password+"@", 1)
		// Since 16 only who has a role with the admin option may give it away: roles that somebody else made must be granted so.
		mustExec(t, h.super, `do $$ begin
			if current_setting('server_version_num')::int >= 160000 then
				grant anon, authenticated, service_role to `+role+` with admin option;
			end if;
		end $$`)
	}
	t.Cleanup(func() { h.clean(t) }) // before the role goes: it owns what is dropped here
	h.server, err = h.service.AddServer(ctx, tenants.ServerSpec{Name: "local", DSN: catalog.NewSecret(dsn)})
	must(t, err)
	return h
}

// open is another process's way to the same catalog.
func (h *house) open(t testing.TB, cfg jobs.Config) (*catalog.Catalog, *jobs.Runner) {
	t.Helper()
	keys, err := keyring.Open(h.keys)
	must(t, err)
	cat, err := catalog.Open(t.Context(), h.dsn, catalog.Config{Keys: keys})
	must(t, err)
	t.Cleanup(cat.Close)
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.NewTextHandler(&toTest{t}, &slog.HandlerOptions{Level: slog.LevelWarn}))
	}
	runner, err := jobs.New(cat, cfg)
	must(t, err)
	return cat, runner
}

// toTest shows the log with the test that it belongs to.
type toTest struct{ t testing.TB }

func (w *toTest) Write(p []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSpace(string(p)))
	return len(p), nil
}

var _ io.Writer = (*toTest)(nil)

func (h *house) activate(t testing.TB, app fstest.MapFS) {
	t.Helper()
	files, err := migrations.ReadSet(app)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	_, err = h.runner.MigrateFleet(ctx, files, jobs.FleetConfig{}, nil)
	must(t, err)
}

func (h *house) create(t testing.TB, spec tenants.TenantSpec) *catalog.Operation {
	t.Helper()
	op, err := h.service.CreateTenant(t.Context(), spec)
	must(t, err)
	return op
}

// made creates a tenant and works on it here.
func (h *house) made(t testing.TB, spec tenants.TenantSpec) (*catalog.Tenant, *catalog.Database) {
	t.Helper()
	op, err := h.runner.Work(t.Context(), h.create(t, spec).ID)
	must(t, err)
	if op.State != catalog.OperationDone {
		t.Fatalf("operation is %s: %s", op.State, op.Error)
	}
	return h.tenant(t, spec.Name)
}

func (h *house) tenant(t testing.TB, name string) (*catalog.Tenant, *catalog.Database) {
	t.Helper()
	tenant, err := h.catalog.Tenant(t.Context(), name)
	must(t, err)
	db, err := h.catalog.Database(t.Context(), tenant.Database)
	must(t, err)
	return tenant, db
}

// finished waits until somebody has finished the operation.
func (h *house) finished(t testing.TB, id catalog.OperationID) *catalog.Operation {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		op, err := h.catalog.Operation(ctx, id)
		must(t, err)
		if op.State.Finished() {
			return op
		}
		time.Sleep(5 * time.Millisecond) // what is awaited is another process's row
	}
}

func (h *house) mark() string { return "rowhouse catalog=" + h.catalog.ID() + " " }

// databases are those on the server that carry the catalog's mark and are no templates, by name.
func (h *house) databases(t testing.TB) []string {
	t.Helper()
	return h.names(t, `select datname from pg_database where starts_with(shobj_description(oid, 'pg_database'), $1) and not datistemplate order by 1`)
}

// roles are those that carry the catalog's mark and belong to a database, by name.
func (h *house) roles(t testing.TB) []string {
	t.Helper()
	return h.names(t, `select rolname from pg_roles where starts_with(shobj_description(oid, 'pg_authid'), $1 || 'db=') order by 1`)
}

func (h *house) names(t testing.TB, sql string) []string {
	t.Helper()
	rows, err := h.super.Query(t.Context(), sql, h.mark())
	must(t, err)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	return names
}

// clean drops what the catalog's operations made on the server.
func (h *house) clean(t testing.TB) {
	conn := h.admin(t)
	all := func(sql string) []string {
		rows, err := conn.Query(context.WithoutCancel(t.Context()), sql, h.mark())
		must(t, err)
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		must(t, err)
		return names
	}
	for _, name := range all(`select datname from pg_database where starts_with(shobj_description(oid, 'pg_database'), $1)`) {
		mustExec(t, conn, fmt.Sprintf("alter database %q is_template false", name))
		mustExec(t, conn, fmt.Sprintf("drop database %q with (force)", name))
	}
	for _, name := range all(`select rolname from pg_roles where starts_with(shobj_description(oid, 'pg_authid'), $1)`) {
		mustExec(t, conn, fmt.Sprintf("drop role %q", name))
	}
}

// admin is a superuser's connection for a cleanup, when the test's context has ended.
func (h *house) admin(t testing.TB) *pgx.Conn {
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, pgtest.ServerDSN(t))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	return conn
}

func mustExec(t testing.TB, conn *pgx.Conn, sql string) {
	t.Helper()
	if _, err := conn.Exec(context.WithoutCancel(t.Context()), sql); err != nil {
		t.Errorf("%s: %v", sql, err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
