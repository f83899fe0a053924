package router_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// schema is the least of a tenant database: who it is, whose transaction it is, and a fenced table. Each row carries its
// tenant's name as a marker, which no fence looks at.
const schema = `
set search_path = public; -- the superuser is called rowhouse, and "$user" comes first
create schema rowhouse;
create table rowhouse.identity (singleton boolean primary key default true check (singleton), database_id uuid not null);
create function rowhouse.tenant_id() returns uuid language sql stable parallel safe
  return nullif(nullif(current_setting('rowhouse.tenant_id', true), ''), 'host')::uuid;
grant usage on schema rowhouse to public;
grant select on rowhouse.identity to public;
grant usage on schema public to anon, authenticated, service_role;
create table projects (
  tenant_id uuid not null default rowhouse.tenant_id(),
  id uuid not null default gen_random_uuid(),
  owner text not null,
  name text not null default '',
  primary key (tenant_id, id)
);
alter table projects enable row level security;
alter table projects force row level security;
create policy everyone on projects using (true) with check (true);
create policy fence on projects as restrictive using (tenant_id = (select rowhouse.tenant_id())) with check (tenant_id = (select rowhouse.tenant_id()));
grant select, insert, update, delete on projects to anon, authenticated, service_role;
create table names (name text, constraint names_once unique (name) deferrable initially deferred);
grant select, insert on names to service_role;
create table doomed (id int);
grant insert on doomed to service_role;
create function kill() returns trigger language plpgsql security definer as $$ begin
  perform pg_terminate_backend(pg_backend_pid()); return null; end $$;
create constraint trigger kill after insert on doomed deferrable initially deferred for each row execute function kill();
`

// world is a catalog and the databases that it knows.
type world struct {
	t      testing.TB
	cat    *catalog.Catalog
	dir    *tenants.Directory
	server catalog.ServerID
}

// database is a tenant database of a world.
type database struct {
	*pgtest.Database
	id       catalog.DatabaseID
	login    string
	password string
}

func newWorld(t testing.TB, maxConnections int) *world {
	t.Helper()
	cat, _ := catalogtest.New(t)
	return newWorldOf(t, cat, tenants.NewDirectory(cat), maxConnections)
}

func newWorldOf(t testing.TB, cat *catalog.Catalog, dir *tenants.Directory, maxConnections int) *world {
	t.Helper()
	w := &world{t: t, cat: cat, dir: dir, server: catalog.NewID[catalog.Server]()}
	cc, err := pgx.ParseConfig(pgtest.ServerDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		if _, err := tx.Exec(ctx, "update rowhouse.served_versions set max_version = 1000"); err != nil { // migrated or not
			return err
		}
		return tx.CreateServer(ctx, &catalog.Server{
			ID: w.server, Name: "here", Hosts: []string{fmt.Sprintf("%s:%d", cc.Host, cc.Port)}, SSLMode: "disable", MaxConnections: maxConnections,
		})
	})
	return w
}

func (w *world) update(fn func(ctx context.Context, tx *catalog.Tx) error) {
	w.t.Helper()
	ctx := w.t.Context()
	if err := w.cat.Update(ctx, catalog.Event{Action: "test"}, func(tx *catalog.Tx) error { return fn(ctx, tx) }); err != nil {
		w.t.Fatal(err)
	}
	if err := w.dir.Load(ctx); err != nil {
		w.t.Fatal(err)
	}
}

// database makes a tenant database, with a login that owns nothing.
func (w *world) database() *database {
	w.t.Helper()
	db := &database{id: catalog.NewID[catalog.Database](), Database: pgtest.DB(w.t, pgtest.Template(schema, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, schema)
		return err
	}))}
	db.login, db.password = pgtest.Role(w.t, "LOGIN NOINHERIT")
	db.exec(w.t, "grant anon, authenticated, service_role to "+db.login)
	db.exec(w.t, "insert into rowhouse.identity (database_id) values ('"+db.id.String()+"')")
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		if err := tx.CreateDatabase(ctx, catalog.NewDatabase{ID: db.id, Server: w.server, Name: db.Name(), Kind: catalog.Shared, State: catalog.DatabaseActive}); err != nil {
			return err
		}
		return tx.SetCredential(ctx, catalog.Credential{
			Server: w.server, Database: db.id, Login: catalog.LoginData, Version: 1, Role: db.login, Secret: catalog.NewSecret(db.password),
		})
	})
	return db
}

func (d *database) exec(t testing.TB, sql string) {
	t.Helper()
	ctx := context.WithoutCancel(t.Context())
	conn, err := pgx.Connect(ctx, d.DSN())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (d *database) count(t testing.TB, sql string) int {
	t.Helper()
	return d.countIn(t, d.Name(), sql)
}

// countIn counts in another database of the same server.
func (d *database) countIn(t testing.TB, database, sql string) (n int) {
	t.Helper()
	cfg, err := pgx.ParseConfig(d.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = database
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if err := conn.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return n
}

// tenant makes a tenant that lives in db and has one row there.
func (w *world) tenant(name string, db *database) catalog.TenantID {
	w.t.Helper()
	id := catalog.NewID[catalog.Tenant]()
	w.update(func(ctx context.Context, tx *catalog.Tx) error {
		if err := tx.CreateTenant(ctx, catalog.NewTenant{ID: id, Name: name, Database: db.id}); err != nil {
			return err
		}
		return tx.SetTenantState(ctx, id, catalog.StateActive, "")
	})
	db.exec(w.t, "insert into projects (tenant_id, owner, name) values ('"+id.String()+"', '"+name+"', 'first')")
	return id
}

func (w *world) state(id catalog.TenantID, s catalog.State) {
	w.t.Helper()
	w.update(func(ctx context.Context, tx *catalog.Tx) error { return tx.SetTenantState(ctx, id, s, "") })
}

// as is the context of somebody with a role in a tenant; an empty role is nobody.
func (w *world) as(tenant, role string) context.Context {
	w.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(w.t.Context())
	contributor := tenants.Always(tenant)
	if role != "" {
		contributor = tenants.FromClaim("tenant")
		r = r.WithContext(tenants.WithClaims(r.Context(), &tenants.Claims{Subject: "u", Role: role, All: map[string]any{"tenant": tenant}}))
	}
	s, err := (&tenants.Resolver{Contributors: []tenants.Contributor{contributor}}).Resolve(r, w.dir)
	if err != nil {
		w.t.Fatal(err)
	}
	return tenants.NewContext(w.t.Context(), s)
}

func (w *world) router(cfg router.Config) *router.Router {
	w.t.Helper()
	rt, err := router.New(w.dir, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		closed := make(chan struct{})
		go func() { rt.Close(); close(closed) }()
		select {
		case <-closed:
		case <-time.After(20 * time.Second):
			w.t.Error("router did not close: something is still lent")
		}
	})
	return rt
}

// owners are the markers of all rows that a transaction sees.
func owners(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, _ := tx.Query(ctx, "select owner from projects")
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// outcome is what an error says became of the work.
func outcome(err error) string {
	for err != nil {
		if e, ok := err.(interface{ Outcome() string }); ok {
			return e.Outcome()
		}
		u, ok := err.(interface{ Unwrap() error })
		if !ok {
			return ""
		}
		err = u.Unwrap()
	}
	return ""
}
