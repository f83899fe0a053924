package rest_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/router/rest"
	"github.com/rowhouse/rowhouse/tenants"
)

// routed is a router with one shared database of two tenants and a pool of one connection.
type routed struct {
	router  *router.Router
	db      *pgtest.Database
	server  catalog.ServerID
	tenants map[string]context.Context
}

func newRouted(t *testing.T) *routed {
	t.Helper()
	ctx := t.Context()
	cat, _ := catalogtest.New(t)
	dir := tenants.NewDirectory(cat)
	cc, err := pgx.ParseConfig(pgtest.ServerDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	w := &routed{db: database(t), server: catalog.NewID[catalog.Server](), tenants: map[string]context.Context{}}
	id := catalog.NewID[catalog.Database]()
	login, password := pgtest.Role(t, "LOGIN NOINHERIT")
	execSQL(t, w.db, fmt.Sprintf(`grant anon, authenticated, service_role to %s;
		create table rowhouse.identity (singleton boolean primary key default true check (singleton), database_id uuid not null);
		grant usage on schema rowhouse to public; grant select on rowhouse.identity to public;
		insert into rowhouse.identity (database_id) values ('%s')`, login, id))
	err = cat.Update(ctx, catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		if err := tx.CreateServer(ctx, &catalog.Server{ID: w.server, Name: "here", Hosts: []string{fmt.Sprintf("%s:%d", cc.Host, cc.Port)}, SSLMode: "disable", MaxConnections: 20}); err != nil {
			return err
		}
		if err := tx.CreateDatabase(ctx, catalog.NewDatabase{ID: id, Server: w.server, Name: w.db.Name(), Kind: catalog.Shared, State: catalog.DatabaseActive}); err != nil {
			return err
		}
		if err := tx.SetCredential(ctx, catalog.Credential{Server: w.server, Database: id, Login: catalog.LoginData, Version: 1, Role: login, Secret: catalog.NewSecret(password)}); err != nil {
			return err
		}
		for _, name := range []string{"acme", "globex"} {
			tenant := catalog.NewID[catalog.Tenant]()
			if err := tx.CreateTenant(ctx, catalog.NewTenant{ID: tenant, Name: name, Database: id}); err != nil {
				return err
			}
			if err := tx.SetTenantState(ctx, tenant, catalog.StateActive, ""); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := dir.Load(ctx); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"acme", "globex"} {
		r := httptest.NewRequest("GET", "/", nil)
		r = r.WithContext(tenants.WithClaims(ctx, &tenants.Claims{Subject: "u", Role: "authenticated", All: map[string]any{"tenant": name}}))
		s, err := (&tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromClaim("tenant")}}).Resolve(r, dir)
		if err != nil {
			t.Fatal(err)
		}
		w.tenants[name] = tenants.NewContext(ctx, s)
	}
	if w.router, err = router.New(dir, router.Config{MaxConnsPerDatabase: 1}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.router.Close)
	return w
}

func (w *routed) do(t *testing.T, h *rest.Handler, tenant, line string, headers []string, body string) *httptest.ResponseRecorder {
	t.Helper()
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, request(t, line, headers, body).WithContext(w.tenants[tenant]))
	return rec
}

// beginner hides a router's door for flights.
type beginner struct{ rest.Beginner }

// What one tenant's function leaves in its session, the next tenant on the same connection does not find.
func TestHandler_functions_leave_nothing(t *testing.T) {
	t.Parallel()
	w := newRouted(t)
	execSQL(t, w.db, `
		create function mess() returns void language plpgsql as $$
		begin
		  perform set_config('row_security', 'off', false), set_config('statement_timeout', '1h', false), set_config('timezone', 'Asia/Tokyo', false),
		    set_config('search_path', 'hidden', false), set_config('acme.secret', 'acme', false);
		  perform pg_advisory_lock(4711);
		  if current_setting('transaction_read_only') = 'off' then execute 'create temp table acme_secret as select 1'; end if;
		  execute 'listen acme';
		  execute 'declare acme_rows cursor with hold for select 1';
		end $$;
		create function leave_mess() returns text language plpgsql as $$ begin perform public.mess(); return pg_backend_pid()::text; end $$;
		create function fail_in_mess() returns void language plpgsql stable as $$ begin perform pg_advisory_lock(4711); raise 'enough'; end $$;
		create function before() returns void language plpgsql as $$ begin
		  if current_setting('request.path') = '/clubs' then perform public.mess(); end if; end $$;
		create view mess_left as select pg_backend_pid()::text as pid, concat_ws(', ',
		  (select 'row_security' where current_setting('row_security') <> 'on'),
		  (select 'a timeout' where current_setting('statement_timeout') = '1h'),
		  (select 'a time zone' where current_setting('timezone') = 'Asia/Tokyo'),
		  (select 'a setting' where current_setting('acme.secret', true) <> ''),
		  (select 'a table' from pg_class where relname = 'acme_secret'),
		  (select 'a lock' from pg_locks where locktype = 'advisory' and objid = 4711 and pid = pg_backend_pid()),
		  (select 'a channel' from pg_listening_channels()),
		  (select 'a cursor' from pg_cursors where name = 'acme_rows')) as what;
		create view messy as select leave_mess() as pid;
		create table noisy (v int);
		create function make_mess() returns trigger language plpgsql as $$ begin perform public.mess(); return new; end $$;
		create trigger make_mess before insert on noisy for each row execute function make_mess();
		create view quiet as select v from noisy;
		grant select on mess_left, messy to authenticated;
		grant insert on noisy, quiet to authenticated;
		grant temporary on database `+w.db.Name()+` to authenticated`)
	for name, door := range map[string]rest.Beginner{"one by one": beginner{w.router}, "one flight": w.router} {
		plain := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated"}})
		hooked := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated", PreRequest: "public.before"}})
		for _, c := range []struct {
			name, line string
			h          *rest.Handler
			status     int
			body       string
		}{
			{"a volatile function", "POST /rpc/leave_mess", plain, 200, ""},
			{"a volatile function that may only read", "GET /rpc/leave_mess", plain, 200, ""},
			{"an error in a stable function", "POST /rpc/fail_in_mess", plain, 400, ""},
			{"a function before the request", "GET /clubs", hooked, 200, ""},
			{"a volatile function in a view", "GET /messy", plain, 200, ""},
			{"a trigger", "POST /noisy", plain, 201, `{"v":1}`},
			{"a trigger under a view", "POST /quiet", plain, 201, `{"v":1}`},
		} {
			t.Run(name+", "+c.name, func(t *testing.T) {
				before := w.router.Stat().Servers[w.server].Cleaned
				if rec := w.do(t, c.h, "acme", c.line, nil, c.body); rec.Code != c.status {
					t.Fatalf("%d %s", rec.Code, rec.Body)
				}
				rec := w.do(t, plain, "globex", "GET /mess_left?select=what", nil, "")
				if body := rec.Body.String(); rec.Code != 200 || body != `[{"what":""}]` {
					t.Errorf("the next tenant finds %d %s", rec.Code, body)
				}
				rec = w.do(t, plain, "globex", "GET /projects", nil, "")
				if rec.Code != 200 || strings.Contains(rec.Body.String(), "acme") {
					t.Errorf("the next tenant reads %d %s", rec.Code, rec.Body)
				}
				if st := w.router.Stat().Servers[w.server]; st.Cleaned == before || st.Unclean != 0 {
					t.Errorf("%d connections were cleaned, %d could not be", st.Cleaned-before, st.Unclean)
				}
			})
		}
	}
}
