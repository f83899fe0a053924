package rest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/router/rest"
)

// doors are both ways to a database, over pools of one connection each.
func doors(t *testing.T, dsn string, s scope) map[string]rest.Beginner {
	step := s
	step.pool = pool(t, dsn, 1, nil)
	s.pool = pool(t, dsn, 1, nil)
	return map[string]rest.Beginner{"one by one": slow{step}, "one flight": fast{slow{s}}}
}

func TestHandler_database_decides(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, `
		create table log (line text);
		grant select, insert on log to authenticated;
		create function hook() returns void language plpgsql as $$
		begin
		  if current_setting('request.headers')::json ->> 'x-refuse' is not null then
		    raise sqlstate 'PT402' using message = 'pay first', detail = 'd', hint = 'h';
		  end if;
		  if current_setting('request.headers')::json ->> 'x-raise' is not null then
		    raise sqlstate 'PGRST' using message = '{"code":"X1","message":"mine","hint":"so"}', detail = '{"status":418,"headers":{"X-Tea":"pot"}}';
		  end if;
		  perform set_config('response.headers', current_setting('request.headers')::json ->> 'x-headers', true);
		  perform set_config('response.status', current_setting('request.headers')::json ->> 'x-status', true);
		end $$;
		create view env as select current_setting('request.method') as method, current_setting('request.path') as path,
		  current_setting('request.jwt.claims') as claims, current_setting('request.cookies') as cookies,
		  current_setting('request.headers')::json ->> 'cookie' as cookie, current_setting('search_path') as search_path,
		  current_setting('transaction_read_only') as read_only, current_user as role;
		grant select on env to authenticated;`)
	for name, door := range doors(t, db.DSN(), scope{role: "authenticated"}) {
		t.Run(name, func(t *testing.T) {
			h := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated", PreRequest: "public.hook"}})
			t.Run("the environment is what PostgREST's is", func(t *testing.T) {
				res := do(t, h, "GET /env", []string{"Accept: application/vnd.pgrst.object", "Cookie: a=b"}, "")
				var env map[string]any
				if err := json.Unmarshal([]byte(bodyOf(t, res)), &env); err != nil {
					t.Fatal(err)
				}
				want := map[string]any{
					"method": "GET", "path": "/env", "claims": `{"role":"authenticated"}`, "cookies": `{"a":"b"}`, "cookie": nil,
					"search_path": `"public", "extensions", pg_temp`, "read_only": "on", "role": "authenticated",
				}
				for key, value := range want {
					if env[key] != value {
						t.Errorf("%s is %v, want %v", key, env[key], value)
					}
				}
			})
			t.Run("response settings change the answer", func(t *testing.T) {
				res := do(t, h, "GET /things?limit=1", []string{`X-Headers: [{"X-One":"1"},{"Cache-Control":"public"},{"Vary":"X-A"}]`, "X-Status: 299"}, "")
				if res.StatusCode != 299 || res.Header.Get("X-One") != "1" || res.Header.Get("Cache-Control") != "public" {
					t.Errorf("got %d %v", res.StatusCode, res.Header)
				}
				if vary := strings.Join(res.Header.Values("Vary"), "|"); vary != "X-A|Authorization, Host, Origin" {
					t.Errorf("Vary is %q", vary)
				}
			})
			for _, c := range []struct{ name, header, code string }{
				{"no array", `X-Headers: {"a":"b"}`, "PGRST111"},
				{"two keys in one", `X-Headers: [{"a":"b","c":"d"}]`, "PGRST111"},
				{"a line break in a value", `X-Headers: [{"a":"b\r\nSet-Cookie: x=y"}]`, "PGRST111"},
				{"a blank in a name", `X-Headers: [{"a b":"c"}]`, "PGRST111"},
				{"a length of its own", `X-Headers: [{"content-length":"3"}]`, "PGRST111"},
				{"an end of its own", `X-Headers: [{"Transfer-Encoding":"chunked"}]`, "PGRST111"},
				{"the connection", `X-Headers: [{"Connection":"close"}]`, "PGRST111"},
				{"a trailer", `X-Headers: [{"Trailer":"X-A"}]`, "PGRST111"},
				{"another protocol", `X-Headers: [{"Upgrade":"h2c"}]`, "PGRST111"},
				{"how long the connection lives", `X-Headers: [{"Keep-Alive":"timeout=5"}]`, "PGRST111"},
				{"what trailers are taken", `X-Headers: [{"TE":"trailers"}]`, "PGRST111"},
				{"no number", `X-Status: soon`, "PGRST112"},
			} {
				t.Run("response settings are refused: "+c.name, func(t *testing.T) {
					res := do(t, h, "POST /log", []string{c.header}, `{"line":"x"}`)
					if body := bodyOf(t, res); res.StatusCode != 500 || !strings.Contains(body, c.code) {
						t.Errorf("got %d %s", res.StatusCode, body)
					}
					if got := res.Header.Get("Rowhouse-Outcome"); got != "committed" {
						t.Errorf("outcome is %q, though the row is there", got)
					}
				})
			}
			t.Run("a hook refuses with a status", func(t *testing.T) {
				before := count(t, db, "select count(*) from log")
				res := do(t, h, "POST /log", []string{"X-Refuse: 1"}, `{"line":"x"}`)
				if body := bodyOf(t, res); res.StatusCode != 402 || body != `{"code":"PT402","message":"pay first","details":"d","hint":"h"}` {
					t.Errorf("got %d %s", res.StatusCode, body)
				}
				if res.Header.Get("Rowhouse-Outcome") != "rolled_back" || count(t, db, "select count(*) from log") != before {
					t.Error("the write stayed")
				}
			})
			t.Run("a hook raises a whole answer", func(t *testing.T) {
				res := do(t, h, "GET /things", []string{"X-Raise: 1"}, "")
				if body := bodyOf(t, res); res.StatusCode != 418 || res.Header.Get("X-Tea") != "pot" || body != `{"code":"X1","message":"mine","details":null,"hint":"so"}` {
					t.Errorf("got %d %v %s", res.StatusCode, res.Header, body)
				}
			})
		})
	}
}

func TestHandler_nameless_filter(t *testing.T) {
	t.Parallel()
	db := database(t)
	for name, door := range doors(t, db.DSN(), scope{}) {
		t.Run(name, func(t *testing.T) {
			h := rest.New(door, rest.Config{})
			for _, request := range []string{"PATCH /clubs?=eq.1", "DELETE /members?=eq.1", "PATCH /clubs?id=eq.1&=eq.1", "DELETE /members?%3Deq.1&="} {
				res := do(t, h, request, nil, `{"name":"changed"}`)
				if body := bodyOf(t, res); res.StatusCode != 400 || !strings.Contains(body, `"code":"PGRST100"`) || res.Header.Get("Rowhouse-Outcome") != "not_started" {
					t.Errorf("%s: %d %v %s", request, res.StatusCode, res.Header, body)
				}
			}
			if n := count(t, db, "select (select count(*) from clubs where name <> 'changed') + (select count(*) from members)"); n != 5 {
				t.Errorf("%d rows are as they were, want 5", n)
			}
			if res := do(t, h, "GET /clubs?=eq.1", nil, ""); res.StatusCode != 200 {
				t.Errorf("a read of it: %d", res.StatusCode)
			}
		})
	}
}

// A write that its own deadline ends is over, and the answer knows.
func TestHandler_deadline_of_a_write(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, "create function late(v int) returns void language sql volatile as $$ insert into nokey values (v); select pg_sleep(30) $$")
	cfg, err := pgxpool.ParseConfig(db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.ConnConfig.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: time.Minute}
	}
	p, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	for name, door := range map[string]rest.Beginner{"one by one": slow{scope{pool: p}}, "one flight": fast{slow{scope{pool: p}}}} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
			defer cancel()
			w := httptest.NewRecorder()
			rest.New(door, rest.Config{}).ServeHTTP(w, request(t, "POST /rpc/late", nil, `{"v":7}`).WithContext(ctx))
			body := w.Body.String()
			if w.Code != 504 || !strings.Contains(body, `"code":"statement_timeout"`) || !strings.Contains(body, "57014") || w.Header().Get("Rowhouse-Outcome") != "rolled_back" {
				t.Errorf("got %d %v %s", w.Code, w.Header(), body)
			}
			if n := count(t, db, "select count(*) from nokey where v = 7"); n != 0 {
				t.Errorf("%d rows stayed", n)
			}
		})
	}
}

func TestHandler_errors_are_not_kept(t *testing.T) {
	t.Parallel()
	h := rest.New(fast{slow{scope{pool: pool(t, database(t).DSN(), 1, nil)}}}, rest.Config{})
	for _, request := range []string{"GET /nothing", "GET /things?id=eq.x", "POST /things", "GET /things?select=("} {
		res := do(t, h, request, nil, "")
		if vary := strings.Join(res.Header.Values("Vary"), "|"); res.StatusCode < 400 || res.Header.Get("Cache-Control") != "private, no-store" ||
			vary != "Accept, Prefer, Range|Authorization, Host, Origin" {
			t.Errorf("%s: %d %v", request, res.StatusCode, res.Header)
		}
	}
}

func TestHandler_session_leftovers(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, `
		create function leave() returns trigger language plpgsql as $$
		begin
		  perform set_config('response.headers', '[{"X-Left":"over"}]', false), set_config('response.status', '299', false),
		    set_config('request.jwt.claims', '{"role":"service_role"}', false);
		  return new;
		end $$;
		create trigger leave before insert on nokey for each row execute function leave();
		create view claims as select current_setting('request.jwt.claims') as claims;
		grant select on claims to authenticated;`)
	for name, door := range doors(t, db.DSN(), scope{role: "authenticated"}) {
		t.Run(name, func(t *testing.T) {
			h := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated"}})
			if res := do(t, h, "POST /nokey", nil, `{"v":1}`); res.StatusCode != 299 {
				t.Fatalf("the trigger's status does not show: %d %s", res.StatusCode, bodyOf(t, res))
			}
			res := do(t, h, "GET /claims", nil, "")
			if body := bodyOf(t, res); res.StatusCode != 200 || res.Header.Get("X-Left") != "" || body != `[{"claims":"{\"role\":\"authenticated\"}"}]` {
				t.Errorf("what a function left in the session shows: %d %v %s", res.StatusCode, res.Header, body)
			}
		})
	}
}

func TestHandler_transaction_end(t *testing.T) {
	t.Parallel()
	db := database(t)
	for _, c := range []struct {
		name, end, prefer, outcome string
		status, rows               int
	}{
		{name: "rollback leaves nothing", end: "rollback", prefer: "return=representation", status: 201},
		{name: "an override is not allowed", end: "rollback", prefer: "tx=commit", status: 201},
		{name: "an override is allowed", end: "rollback-allow-override", prefer: "tx=commit", status: 201, rows: 1},
		{name: "commit is overridden", end: "commit-allow-override", prefer: "tx=rollback", status: 201},
		{name: "commit is not overridden", end: "commit", prefer: "tx=rollback", status: 201, rows: 1},
	} {
		for name, door := range doors(t, db.DSN(), scope{role: "authenticated"}) {
			t.Run(c.name+", "+name, func(t *testing.T) {
				before := count(t, db, "select count(*) from nokey")
				h := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated", TxEnd: c.end}})
				res := do(t, h, "POST /nokey", []string{"Prefer: " + c.prefer}, `{"v":1}`)
				if res.StatusCode != c.status {
					t.Errorf("status %d: %s", res.StatusCode, bodyOf(t, res))
				}
				if applied := strings.Contains(res.Header.Get("Preference-Applied"), "tx="); applied != strings.Contains(c.end, "override") {
					t.Errorf("Preference-Applied is %q", res.Header.Get("Preference-Applied"))
				}
				if rows := count(t, db, "select count(*) from nokey") - before; rows != c.rows {
					t.Errorf("%d rows stayed, want %d", rows, c.rows)
				}
				// A rollback still checks what a commit would have.
				if strings.HasPrefix(c.end, "rollback") && c.rows == 0 {
					if res := do(t, h, "POST /checked", nil, `{"id":1,"parent":9}`); res.StatusCode != 409 {
						t.Errorf("a deferred constraint was not checked: %d", res.StatusCode)
					}
				}
			})
		}
	}
}

func TestHandler_roles(t *testing.T) {
	t.Parallel()
	db := database(t)
	for name, door := range doors(t, db.DSN(), scope{role: "anon"}) {
		t.Run("what anonymous may not do is 401, "+name, func(t *testing.T) {
			h := rest.New(door, rest.Config{Options: rest.Options{Role: "anon", AnonRole: "anon"}})
			res := do(t, h, "GET /pairs", nil, "")
			if res.StatusCode != 401 || res.Header.Get("WWW-Authenticate") != "Bearer" {
				t.Errorf("got %d %v", res.StatusCode, res.Header)
			}
			if res := do(t, h, "GET /things?select=id&limit=1", nil, ""); res.StatusCode != 200 {
				t.Errorf("what it may do: %d", res.StatusCode)
			}
		})
	}
	s := scope{pool: pool(t, db.DSN(), 1, nil), role: "nobody_of_that_name"}
	h := rest.New(slowSchema{fast{slow{s}}, slow{scope{pool: s.pool}}}, rest.Config{Options: rest.Options{Role: s.role}})
	res := do(t, h, "GET /things", nil, "")
	if body := bodyOf(t, res); res.StatusCode != 401 || !strings.Contains(body, `"code":"22023"`) {
		t.Errorf("a role that does not exist: %d %s", res.StatusCode, body)
	}
}

// slowSchema begins transactions elsewhere than it lends connections.
type slowSchema struct {
	rest.Lender
	rest.Beginner
}

func TestHandler_schema_follows_the_database(t *testing.T) {
	t.Parallel()
	db := database(t)
	for name, door := range doors(t, db.DSN(), scope{}) {
		t.Run(name, func(t *testing.T) {
			table := "late_" + strings.ReplaceAll(name, " ", "_")
			h := rest.New(door, rest.Config{Options: rest.Options{Fingerprint: "f1"}})
			if res := do(t, h, "GET /"+table, nil, ""); res.StatusCode != 404 {
				t.Fatalf("before: %d", res.StatusCode)
			}
			execSQL(t, db, "create table "+table+" (id int); insert into "+table+" values (1)")
			eventually(t, func() bool { return do(t, h, "GET /"+table, nil, "").StatusCode == 200 })
			for range 3 { // as often as makes it a prepared statement
				if body := bodyOf(t, do(t, h, "GET /"+table, nil, "")); body != `[{"id":1}]` {
					t.Fatal(body)
				}
			}
			execSQL(t, db, "alter table "+table+" add name text default 'new'; alter table "+table+" alter id type text")
			if body := bodyOf(t, do(t, h, "GET /"+table, nil, "")); body != `[{"id":"1","name":"new"}]` {
				t.Errorf("a prepared statement is out of date: %s", body)
			}
			eventually(t, func() bool {
				return do(t, h, "POST /"+table, nil, `{"id":"x","name":"named"}`).StatusCode == 201
			})
		})
	}
}

// eventually waits for what happens within the second between two looks at a schema.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(50*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatal("it never happened")
		case <-tick.C:
		}
	}
}

func TestHandler_limits(t *testing.T) {
	t.Parallel()
	h := rest.New(database(t).Pool(t), rest.Config{Options: rest.Options{MaxBody: 64, MaxRows: 2}})
	for _, c := range []struct {
		name, do, body, has string
		status              int
	}{
		{"rows are capped", "GET /things?select=id&order=id&limit=3", "", `[{"id":1}, ` + "\n" + ` {"id":2}]`, 200},
		{"a body is capped", "POST /things", `{"name":"` + strings.Repeat("x", 64) + `"}`, `"code":"payload_too_large"`, 413},
		{"filters are", "GET /things?" + strings.Repeat("id=eq.1&", 301), "", "at most 300", 400},
		{"logic is", "GET /things?or=" + strings.Repeat("(and", 1000), "", "at most 20 levels", 400},
		{"embeds are deep", "GET /things?select=" + strings.Repeat("a(", 1000), "", "at most 10 levels", 400},
		{"select is", "GET /things?select=" + strings.Repeat("a,", 600) + "a", "", "at most 500", 400},
		{"embeds are many", "GET /things?select=" + strings.Repeat("a(id),", 50) + "a(id)", "", "at most 50 are", 400},
		{"a JSON path is", "GET /things?select=a" + strings.Repeat("->b", 65), "", "at most 64 levels", 400},
		{"columns are", "POST /things?columns=" + strings.Repeat("a,", 500) + "a", "{}", "at most 500 are", 400},
		{"parameters are", "GET /things?" + strings.Repeat("=&", 1001), "", "at most 1000 are", 400},
		{"bad UTF-8", "GET /things?name=eq.%ff", "", "invalid UTF-8", 400},
		{"an overlong zero", "GET /things?name=eq.%c0%80", "", "invalid UTF-8", 400},
		{"a zero byte", "GET /things?name=eq.%00", "", "zero byte", 400},
		{"a zero byte in the path", "GET /th%00ings", "", "zero byte", 400},
		{"a slash in a name is no segment", "GET /a%2Fb", "", "public.a/b", 404},
		{"dots are not cleaned", "GET /../things", "", "PGRST125", 404},
		{"a semicolon in a value", "GET /things?id=eq.1%3Bdrop%20table%20things", "", "22P02", 400},
	} {
		t.Run(c.name, func(t *testing.T) {
			res := do(t, h, c.do, nil, c.body)
			if body := bodyOf(t, res); res.StatusCode != c.status || !strings.Contains(body, c.has) {
				t.Errorf("got %d %s", res.StatusCode, body)
			}
		})
	}
}

// cutter lends connections that are cut off at a moment of the flight.
type cutter struct {
	fast
	before func(conn *pgx.Conn) // the flight
	lends  *atomic.Int64
	frame  string // breaks the frame
}

func (c cutter) Lend(ctx context.Context, o pgx.TxOptions, fn func(*pgx.Conn, func(*pgconn.Pipeline) int) error) error {
	c.lends.Add(1)
	return c.fast.Lend(ctx, o, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
		c.before(conn)
		return fn(conn, func(p *pgconn.Pipeline) int {
			n := open(p)
			if c.frame != "" {
				p.SendQueryParams(c.frame, nil, nil, nil, nil)
				n++
			}
			return n
		})
	})
}

func TestHandler_outcomes(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, `
		create table parcels (id int primary key, word text, ended int constraint parcels_ended references parcels deferrable initially deferred);
		create function die() returns trigger language plpgsql as $$
		begin perform pg_terminate_backend(pg_backend_pid()); return new; end $$;
		create trigger die before insert on parcels for each row when (new.word = 'die') execute function die();
		create view deadly as select pg_terminate_backend(pg_backend_pid());
		create function clash() returns trigger language plpgsql as $$
		begin raise sqlstate '40001' using message = 'raised'; end $$;
		create trigger clash before insert on parcels for each row when (new.word = 'clash') execute function clash();`)
	nothing := func(*pgx.Conn) {}
	cut := func(conn *pgx.Conn) { _ = conn.PgConn().Conn().Close() }
	for _, c := range []struct {
		name, do, body, code, outcome, frame string
		before                               func(*pgx.Conn)
		status                               int
		lends                                int64
		prefer                               string
	}{
		{name: "the backend ends in a write", do: "POST /parcels", body: `{"id":1,"word":"die"}`, before: nothing, status: 504, code: "outcome_unknown", outcome: "unknown", lends: 1},
		{
			name: "the backend ends in a write whose commit is held back", do: "POST /parcels", body: `{"id":1,"word":"die"}`, prefer: "return=representation",
			before: nothing, status: 503, code: "database_unavailable", outcome: "rolled_back", lends: 1,
		},
		{name: "the backend ends in a read, which is tried once more", do: "GET /deadly", before: nothing, status: 503, code: "database_unavailable", lends: 2},
		{name: "the connection was gone before a read", do: "GET /parcels", before: cut, status: 503, code: "database_unavailable", lends: 2},
		{name: "the connection was gone before a write", do: "POST /parcels", body: `{"id":1}`, before: cut, status: 504, code: "outcome_unknown", outcome: "unknown", lends: 1},
		{name: "the frame fails", do: "POST /parcels", body: `{"id":1}`, before: nothing, frame: "select 1/0", status: 503, code: "database_unavailable", outcome: "not_started", lends: 1},
		{name: "a statement fails", do: "POST /parcels", body: `{"id":null}`, before: nothing, status: 400, code: "23502", outcome: "rolled_back", lends: 1},
		{name: "a constraint fails at commit", do: "POST /parcels", body: `{"id":2,"ended":3}`, before: nothing, status: 409, code: "23503", outcome: "rolled_back", lends: 1},
		{name: "a function raises what the engine would be retried for", do: "POST /parcels", body: `{"id":1,"word":"clash"}`, before: nothing, status: 500, code: "40001", outcome: "rolled_back", lends: 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			lends := &atomic.Int64{}
			p := pool(t, db.DSN(), 2, nil)
			plain := fast{slow{scope{pool: p}}}
			door := &switchable{Beginner: plain, now: plain}
			h := rest.New(door, rest.Config{})
			if res := do(t, h, "GET /nokey", nil, ""); res.StatusCode != 200 { // the schema is loaded
				t.Fatal(res.StatusCode)
			}
			door.now = cutter{fast: plain, before: c.before, lends: lends, frame: c.frame}
			headers := []string{"Accept: application/json"}
			if c.prefer != "" {
				headers = []string{"Accept: application/vnd.pgrst.object+json", "Prefer: " + c.prefer}
			}
			res := do(t, h, c.do, headers, c.body)
			body := bodyOf(t, res)
			if res.StatusCode != c.status || !strings.Contains(body, `"code":"`+c.code+`"`) {
				t.Errorf("got %d %s", res.StatusCode, body)
			}
			if got := res.Header.Get("Rowhouse-Outcome"); got != c.outcome {
				t.Errorf("outcome %q, want %q", got, c.outcome)
			}
			if lends.Load() != c.lends {
				t.Errorf("lent %d times, want %d", lends.Load(), c.lends)
			}
			if n := count(t, db, "select count(*) from parcels"); n != 0 {
				t.Errorf("%d rows stayed", n)
			}
			door.now = plain
			if res := do(t, h, "GET /nokey", nil, ""); res.StatusCode != 200 {
				t.Errorf("afterwards: %d %s", res.StatusCode, bodyOf(t, res))
			}
		})
	}
}

// switchable is a door that can be changed between requests.
type switchable struct {
	rest.Beginner
	now rest.Lender
}

func (s *switchable) Lend(ctx context.Context, o pgx.TxOptions, fn func(*pgx.Conn, func(*pgconn.Pipeline) int) error) error {
	return s.now.Lend(ctx, o, fn)
}

func TestHandler_errors_of_the_beginner(t *testing.T) {
	t.Parallel()
	sentinel := errors.New("no such tenant")
	var got error
	h := rest.New(refusing{sentinel}, rest.Config{Error: func(w http.ResponseWriter, _ *http.Request, err error) {
		got = err
		w.WriteHeader(404)
	}})
	if res := do(t, h, "GET /things", nil, ""); res.StatusCode != 404 || got != sentinel {
		t.Errorf("got %d and %v, want the beginner's own error", res.StatusCode, got)
	}
	h = rest.New(refusing{sentinel}, rest.Config{})
	res := do(t, h, "POST /things", nil, "{}")
	if res.StatusCode != 503 || res.Header.Get("Retry-After") != "1" || res.Header.Get("Rowhouse-Outcome") != "not_started" {
		t.Errorf("by default: %d %v", res.StatusCode, res.Header)
	}
	h = rest.New(refusing{sentinel}, rest.Config{
		PerRequest: func(*http.Request) (rest.Options, error) { return rest.Options{}, sentinel },
		Error:      func(_ http.ResponseWriter, _ *http.Request, err error) { got = fmt.Errorf("options: %w", err) },
	})
	do(t, h, "GET /things", nil, "")
	if !errors.Is(got, sentinel) || got == sentinel {
		t.Errorf("PerRequest's error came as %v", got)
	}
}

type refusing struct{ err error }

func (r refusing) BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error) { return nil, r.err }

func TestRegister(t *testing.T) {
	t.Parallel()
	e := echo.New()
	rest.Register(e.Group("/rest/v1"), rest.New(database(t).Pool(t), rest.Config{}))
	for _, c := range []struct {
		do     string
		status int
	}{
		{"GET /things?limit=1", 200},
		{"HEAD /things", 200},
		{"OPTIONS /things", 200},
		{"GET /", 200},
		{"GET ", 200},
		{"PURGE /things", 405},
		{"TRACE /things", 405},
		{"GET /things/", 404},
		{"GET /a%2Fb", 404},
		{"PATCH /things?id=eq.0", 204},
		{"DELETE /things?id=eq.0", 204},
	} {
		body := ""
		if strings.HasPrefix(c.do, "PATCH") {
			body = `{"name":"x"}`
		}
		w := httptest.NewRecorder()
		e.ServeHTTP(w, request(t, c.do, nil, body))
		if w.Code != c.status || !strings.HasPrefix(c.do, "HEAD") && w.Code >= 400 && !strings.HasPrefix(w.Body.String(), `{"code":"PGRST`) {
			t.Errorf("%s: %d %s", c.do, w.Code, w.Body)
		}
	}
}

// TestHandler_tenants plays random requests of three tenants over two connections: no foreign row ever shows or
// changes, with both fences, and with either of them alone. With none, it must fail.
func TestHandler_tenants(t *testing.T) {
	t.Parallel()
	marks := map[string]string{acme: "acme", globex: "globex", initech: "initech"}
	for _, c := range []struct {
		name             string
		policies, filter bool
		safe             bool
	}{
		{"both fences", true, true, true},
		{"row-level security alone", true, false, true},
		{"the filter alone", false, true, true},
		{"no fence", false, false, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			db := database(t)
			if !c.policies {
				execSQL(t, db, "drop policy rh_tenant on projects; drop policy rh_tenant on tasks")
			}
			p := pool(t, db.DSN(), 2, nil)
			handlers := map[string]*rest.Handler{}
			for tenant := range marks {
				o := rest.Options{Role: "authenticated", Fingerprint: "same"}
				if c.filter {
					o.Tenant = tenant
				}
				handlers[tenant] = rest.New(fast{slow{scope{pool: p, role: "authenticated", tenant: tenant}}}, rest.Config{Options: o})
			}
			seed := uint64(time.Now().UnixNano())
			random := rand.New(rand.NewPCG(seed, 1))
			tenants := []string{acme, globex, initech}
			leaks := 0
			for i := range 150 {
				tenant := tenants[random.IntN(3)]
				own := marks[tenant]
				requests := []struct{ line, body string }{
					{"GET /projects?select=name", ""},
					{"GET /projects?or=(status.eq.active,name.like.*e*)&order=name.desc&limit=3", ""},
					{"GET /tasks?select=title", ""},
					{"GET /tasks?select=title,projects!inner(name)&projects.status=neq.x", ""},
					{"GET /projects?select=name,tasks(title,projects(name))", ""},
					{"GET /active_projects", ""},
					{"PATCH /projects?status=neq.x", fmt.Sprintf(`{"status":"by %s %d"}`, own, i)},
					{"POST /projects", fmt.Sprintf(`{"name":"%s %d"}`, own, i)},
					{"DELETE /projects?name=like.*" + fmt.Sprint(random.IntN(10)) + "&status=neq.keep", ""},
					{"PATCH /tasks", fmt.Sprintf(`{"title":"%s task"}`, own)},
				}
				q := requests[random.IntN(len(requests))]
				res := do(t, handlers[tenant], q.line, []string{"Prefer: return=representation, count=exact"}, q.body)
				body := bodyOf(t, res)
				for other, mark := range marks {
					if other != tenant && strings.Contains(body, mark) {
						leaks++
						if c.safe {
							t.Fatalf("seed %d: %s of %s shows %s: %s", seed, q.line, own, mark, body)
						}
					}
				}
			}
			// What was written by another names him in status or title.
			foreign := 0
			for tenant, mark := range marks {
				foreign += count(t, db, fmt.Sprintf(`select (select count(*) from projects where tenant_id = '%s' and status like 'by %%' and status not like 'by %s%%')
					+ (select count(*) from tasks where tenant_id = '%s' and title not like '%s%%')`, tenant, mark, tenant, mark))
			}
			if c.safe && foreign > 0 {
				t.Errorf("seed %d: %d rows were changed by others", seed, foreign)
			}
			if !c.safe && (leaks == 0 || foreign == 0) {
				t.Errorf("seed %d: without fences the test sees %d leaks and %d foreign changes: it proves nothing", seed, leaks, foreign)
			}
		})
	}
}

func TestHandler_plan(t *testing.T) {
	t.Parallel()
	for name, door := range doors(t, database(t).DSN(), scope{role: "authenticated", tenant: acme}) {
		t.Run(name, func(t *testing.T) {
			h := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated", Plan: true}})
			for _, c := range []struct {
				name, request, accept, contentType, has string
			}{
				{"text", "GET /things?id=eq.1", "application/vnd.pgrst.plan", `application/vnd.pgrst.plan+text; for="application/json"; charset=utf-8`, "Aggregate"},
				{
					"as the client writes it", "GET /things", `application/vnd.pgrst.plan+json; for="application/json"; options=buffers|analyze|nonsense;`,
					`application/vnd.pgrst.plan+json; for="application/json"; options=analyze|buffers; charset=utf-8`, `"Actual Rows"`,
				},
				{
					"of an object", "GET /things?id=eq.1", `application/vnd.pgrst.plan+text; for="application/vnd.pgrst.object+json;nulls=stripped"`,
					`application/vnd.pgrst.plan+text; for="application/vnd.pgrst.object+json;nulls=stripped"; charset=utf-8`, "Aggregate",
				},
				{"of a write", "DELETE /nokey", "application/vnd.pgrst.plan+text", `application/vnd.pgrst.plan+text; for="application/json"; charset=utf-8`, "Delete on nokey"},
				{"of a call", "GET /rpc/add?a=1", "application/vnd.pgrst.plan+text", `application/vnd.pgrst.plan+text; for="application/json"; charset=utf-8`, "CTE"},
			} {
				res := do(t, h, c.request, []string{"Accept: " + c.accept}, "")
				body := bodyOf(t, res)
				if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != c.contentType || !strings.Contains(body, c.has) {
					t.Errorf("%s: %d %q\n%s", c.name, res.StatusCode, res.Header.Get("Content-Type"), body)
				}
				if strings.HasPrefix(c.contentType, "application/vnd.pgrst.plan+json") != json.Valid([]byte(body)) {
					t.Errorf("%s: the form of %s", c.name, body)
				}
			}
			off := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated"}})
			if res := do(t, off, "GET /things", []string{"Accept: application/vnd.pgrst.plan"}, ""); res.StatusCode != http.StatusNotAcceptable {
				t.Errorf("a plan without being allowed: %d", res.StatusCode)
			}
		})
	}
}

// PostGIS is known by its function; one that does what it does is enough to see the collection.
func TestHandler_geojson(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, `create function extensions.st_asgeojson(record) returns text language plpgsql as $$
		begin return json_build_object('type', 'Feature', 'properties', row_to_json($1)); end $$`)
	for name, door := range doors(t, db.DSN(), scope{role: "authenticated", tenant: acme}) {
		t.Run(name, func(t *testing.T) {
			h := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated"}})
			res := do(t, h, "GET /towns?select=name&id=eq.1", []string{"Accept: application/geo+json"}, "")
			want := `{"type" : "FeatureCollection", "features" : [{"type" : "Feature", "properties" : {"name":"Aachen"}}]}`
			if body := bodyOf(t, res); res.StatusCode != http.StatusOK || body != want || res.Header.Get("Content-Type") != "application/geo+json; charset=utf-8" {
				t.Errorf("%d %v %s", res.StatusCode, res.Header, body)
			}
		})
	}
}

func TestHandler_no_aggregates(t *testing.T) {
	t.Parallel()
	h := rest.New(slow{scope{pool: pool(t, database(t).DSN(), 1, nil), role: "authenticated"}}, rest.Config{Options: rest.Options{Role: "authenticated", NoAggregates: true}})
	for _, target := range []string{"/things?select=count()", "/people?select=name,pets(id.max())"} {
		res := do(t, h, "GET "+target, nil, "")
		if body := bodyOf(t, res); res.StatusCode != http.StatusBadRequest || !strings.Contains(body, `"code":"PGRST123","message":"Use of aggregate functions is not allowed"`) {
			t.Errorf("%s: %d %s", target, res.StatusCode, body)
		}
	}
}

func TestHandler_openapi(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, `
		comment on schema public is E'Town hall\n\nEverything about the town.';
		comment on table pets is E'Animals\nwith or without owners';
		comment on column pets.name is 'what it listens to';
		comment on function add(int, int) is 'adds';
		create table coded (code varchar(3) not null default 'abc', n int default 7, flags boolean[], doc jsonb, mood mood);
		grant select on coded to anon;
		revoke execute on function whole(json) from public`)
	for name, door := range doors(t, db.DSN(), scope{role: "anon"}) {
		t.Run(name, func(t *testing.T) {
			h := rest.New(door, rest.Config{Options: rest.Options{Role: "anon"}})
			type m = map[string]any
			res := do(t, h, "GET /", nil, "")
			body := bodyOf(t, res)
			var doc struct {
				Swagger, BasePath string
				Info              struct{ Title, Description string }
				Definitions       map[string]struct {
					Description string
					Required    []string
					Properties  map[string]m
				}
				Parameters map[string]m
				Paths      map[string]map[string]struct{ Summary, Description string }
			}
			if err := json.Unmarshal([]byte(body), &doc); err != nil || res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "application/openapi+json; charset=utf-8" {
				t.Fatalf("%v: %d %v", err, res.StatusCode, res.Header)
			}
			if doc.Swagger != "2.0" || doc.BasePath != "/rest/v1" || doc.Info.Title != "Town hall" || doc.Info.Description != "Everything about the town." {
				t.Errorf("got %s, %s, %v", doc.Swagger, doc.BasePath, doc.Info)
			}
			got := doc.Definitions["coded"].Properties
			want := map[string]m{
				"code":  {"format": "character varying", "type": "string", "maxLength": 3.0, "default": "abc"},
				"n":     {"format": "integer", "type": "integer", "default": 7.0},
				"flags": {"format": "boolean[]", "type": "array", "items": m{"type": "boolean"}},
				"doc":   {"format": "jsonb"},
				"mood":  {"format": "public.mood", "type": "string", "enum": []any{"calm", "busy"}},
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("a definition (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff([]string{"code"}, doc.Definitions["coded"].Required); diff != "" {
				t.Error(diff)
			}
			if doc.Definitions["things"].Properties["id"]["description"] != "Note:\nThis is a Primary Key.<pk/>" {
				t.Errorf("a key: %v", doc.Definitions["things"].Properties["id"])
			}
			for _, hidden := range []string{"pets", "secrets", "projects"} {
				if doc.Paths["/"+hidden] != nil || strings.Contains(body, "/"+hidden+`"`) || strings.Contains(body, `"`+hidden+`"`) {
					t.Errorf("anon reads of %s", hidden)
				}
			}
			if doc.Paths["/rpc/add"]["get"].Summary != "adds" || doc.Paths["/rpc/whole"] != nil || doc.Paths["/rpc/put_in"]["post"].Summary != "" || len(doc.Paths["/rpc/put_in"]) != 1 {
				t.Errorf("functions: %v", doc.Paths)
			}
			if doc.Parameters["rowFilter.coded.code"]["in"] != "query" || doc.Parameters["body.coded"]["in"] != "body" || len(doc.Paths["/coded"]) != 4 {
				t.Errorf("parameters: %v", doc.Parameters["rowFilter.coded.code"])
			}
			if res := do(t, h, "GET /", []string{"Accept: text/html"}, ""); res.StatusCode != http.StatusNotAcceptable {
				t.Errorf("as HTML: %d", res.StatusCode)
			}
			if res := do(t, h, "HEAD /", []string{"Accept: application/json"}, ""); res.StatusCode != http.StatusOK || bodyOf(t, res) != "" {
				t.Errorf("HEAD: %d", res.StatusCode)
			}
			hidden := rest.New(door, rest.Config{Options: rest.Options{Role: "anon", NoRoot: true}})
			if res := do(t, hidden, "GET /", nil, ""); res.StatusCode != http.StatusNotFound || !strings.Contains(bodyOf(t, res), `"code":"PGRST126","message":"Root endpoint metadata is disabled"`) {
				t.Errorf("hidden: %d", res.StatusCode)
			}
		})
	}
	t.Run("keys, seen by somebody who may", func(t *testing.T) {
		t.Parallel()
		h := rest.New(slow{scope{pool: pool(t, db.DSN(), 1, nil), role: "authenticated", tenant: acme}}, rest.Config{Options: rest.Options{Role: "authenticated", Tenant: acme}})
		body := bodyOf(t, do(t, h, "GET /", nil, ""))
		for _, part := range []string{
			`"owner":{"description":"Note:\nThis is a Foreign Key to ` + "`people.id`" + `.<fk table='people' column='id'/>","format":"integer","type":"integer"}`,
			`"name":{"description":"what it listens to","format":"text","type":"string"}`,
			`"summary":"Animals"`, `"description":"with or without owners"`,
			`"project_id":{"description":"Note:\nThis is a Foreign Key to ` + "`projects.id`" + `.<fk table='projects' column='id'/>","format":"uuid","type":"string"}`,
			`"price":{"format":"numeric","type":"number"}`,
		} {
			if !strings.Contains(body, part) {
				t.Errorf("%s is not in it", part)
			}
		}
	})
}

func TestHandler_limits_and_timing(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, `create function careless(v int) returns int language sql stable as $$ select v from put_in(v) $$`)
	for name, door := range doors(t, db.DSN(), scope{role: "authenticated", tenant: acme}) {
		t.Run(name, func(t *testing.T) {
			h := rest.New(door, rest.Config{Options: rest.Options{Role: "authenticated", MaxAnswer: 40}})
			for _, c := range []struct {
				do, body string
				headers  []string
				status   int
				outcome  string
				left     int
			}{
				{do: "GET /things?limit=1&select=id", status: http.StatusOK},
				{do: "GET /things", status: http.StatusBadRequest},
				{
					do: "POST /nokey?select=v,a:v,b:v,c:v,d:v,e:v,f:v,g:v", body: `{"v":1}`, headers: []string{"Prefer: return=representation"},
					status: http.StatusBadRequest, outcome: "committed", left: 1,
				},
				{
					do: "POST /nokey?select=v,a:v,b:v,c:v,d:v,e:v,f:v,g:v", body: `{"v":2}`, headers: []string{"Prefer: return=representation", "Accept: application/vnd.pgrst.object"},
					status: http.StatusBadRequest, outcome: "rolled_back",
				},
			} {
				execSQL(t, db, "delete from nokey")
				res := do(t, h, c.do, append(c.headers, "Prefer: timing"), c.body)
				body := bodyOf(t, res)
				if res.StatusCode != c.status || res.Header.Get("Rowhouse-Outcome") != c.outcome || (c.status == http.StatusBadRequest) != strings.HasPrefix(body, `{"code":"response_too_large"`) {
					t.Errorf("%s: %d %q %s", c.do, res.StatusCode, res.Header.Get("Rowhouse-Outcome"), body)
				}
				if left := count(t, db, "select count(*)::int from nokey"); left != c.left {
					t.Errorf("%s: %d rows are left", c.do, left)
				}
				var parse, plan, transaction, response, pool float64
				if _, err := fmt.Sscanf(res.Header.Get("Server-Timing"), "parse;dur=%f, plan;dur=%f, transaction;dur=%f, response;dur=%f, pool;dur=%f", &parse, &plan, &transaction, &response, &pool); err != nil || transaction <= 0 {
					t.Errorf("%s: timing %q", c.do, res.Header.Get("Server-Timing"))
				}
			}
			if res := do(t, h, "GET /things?limit=1&select=id", nil, ""); res.Header.Get("Server-Timing") != "" {
				t.Errorf("timing nobody asked for")
			}
			// It says that it does not write, so its transaction is read-only: the function's fault and no failover.
			if res := do(t, h, "POST /rpc/careless", nil, `{"v":1}`); res.StatusCode != http.StatusMethodNotAllowed {
				t.Errorf("a stable function that writes: %d", res.StatusCode)
			}
		})
	}
}

// Two databases of one fingerprint, of which one was changed by hand.
func TestHandler_drift(t *testing.T) {
	t.Parallel()
	plain, changed := database(t), database(t)
	execSQL(t, changed, `create table novelty (id int); grant select on novelty to authenticated; alter table pairs rename column note to remark`)
	beginner := &chosen{}
	h := rest.New(beginner, rest.Config{PerRequest: func(r *http.Request) (rest.Options, error) {
		return rest.Options{Role: "authenticated", Fingerprint: "same", Database: r.Header.Get("X-Database")}, nil
	}})
	for name, db := range map[string]string{"plain": plain.DSN(), "changed": changed.DSN()} {
		beginner.add(name, slow{scope{pool: pool(t, db, 1, nil), role: "authenticated"}})
	}
	ask := func(database, target string) int {
		t.Helper()
		r := request(t, "GET "+target, []string{"X-Database: " + database}, "")
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), databaseKey{}, database)))
		return w.Code
	}
	for _, c := range []struct {
		database, target string
		status           int
	}{
		{"plain", "/pairs?select=note", 200},
		{"changed", "/novelty", 200}, // not in the shared schema: it is read again, for this one
		{"changed", "/pairs?select=remark", 200},
		{"plain", "/novelty", 404},
		{"plain", "/pairs?select=note", 200},
		{"changed", "/novelty", 200},
	} {
		if status := ask(c.database, c.target); status != c.status {
			t.Errorf("%s of %s: %d, want %d", c.target, c.database, status, c.status)
		}
	}
}

// chosen begins on the database that the context names.
type chosen struct{ all map[string]rest.Beginner }

type databaseKey struct{}

func (c *chosen) add(name string, b rest.Beginner) {
	if c.all == nil {
		c.all = map[string]rest.Beginner{}
	}
	c.all[name] = b
}

func (c *chosen) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	name, _ := ctx.Value(databaseKey{}).(string)
	return c.all[name].BeginTx(ctx, o)
}

// Hints name what the role may see and nothing else.
func TestHandler_hints(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, "revoke execute on function loud(text), pairs_of(int) from public; grant execute on function loud(text), pairs_of(int) to authenticated")
	for _, c := range []struct{ role, target, hint string }{
		{"authenticated", "/things?select=id,nothing(id)", "Perhaps you meant 'paints' instead of 'things'."},
		{"anon", "/things?select=id,nothing(id)", ""},
		{"authenticated", "/pets?select=id,peopl(id)", "Perhaps you meant 'people' instead of 'peopl'."},
		{"anon", "/pets?select=id,peopl(id)", ""},
		{"authenticated", "/rpc/pairs_off", "Perhaps you meant to call the function public.pairs_of"},
		{"anon", "/rpc/pairs_off", ""},
		{"authenticated", "/rpc/pairs_of?m=1", "Perhaps you meant to call the function public.pairs_of(n)"},
		{"anon", "/rpc/pairs_of?m=1", ""},
		{"authenticated", "/thing", "Perhaps you meant the table 'public.things'"},
		{"anon", "/peopl", ""},
	} {
		h := rest.New(slow{scope{pool: pool(t, db.DSN(), 1, nil), role: c.role}}, rest.Config{Options: rest.Options{Role: c.role}})
		var answer struct{ Code, Hint string }
		if err := json.Unmarshal([]byte(bodyOf(t, do(t, h, "GET "+c.target, nil, ""))), &answer); err != nil {
			t.Fatal(err)
		}
		if answer.Hint != c.hint || !strings.HasPrefix(answer.Code, "PGRST20") {
			t.Errorf("%s for %s: %+v, want %q", c.target, c.role, answer, c.hint)
		}
	}
}

// A default is nothing that an answer would miss: only looking again finds it.
func TestHandler_recheck(t *testing.T) {
	t.Parallel()
	for recheck, want := range map[time.Duration]string{0: `[{"note":"old"}]`, time.Nanosecond: `[{"note":"new"}]`} {
		db := database(t)
		execSQL(t, db, "alter table pairs alter note set default 'old'")
		h := rest.New(slow{scope{pool: pool(t, db.DSN(), 1, nil), role: "authenticated"}}, rest.Config{Options: rest.Options{Role: "authenticated", Recheck: recheck}})
		insert := func(a int) string {
			t.Helper()
			return bodyOf(t, do(t, h, "POST /pairs?columns=a,b,note&select=note", []string{"Prefer: missing=default, return=representation"}, fmt.Sprintf(`[{"a":%d,"b":"x"}]`, a)))
		}
		if got := insert(1); got != `[{"note":"old"}]` {
			t.Fatal(got)
		}
		execSQL(t, db, "alter table pairs alter note set default 'new'")
		got := ""
		for a := 2; a < 200 && got != want; a++ { // a schema is not read twice within a second
			got = insert(a)
			if recheck == 0 {
				break
			}
			time.Sleep(20 * time.Millisecond)
		}
		if got != want {
			t.Errorf("recheck %v: %s", recheck, got)
		}
	}
}

// Functions written for the dialect look for the role among the claims, whatever the token names.
func TestHandler_claims_have_a_role(t *testing.T) {
	t.Parallel()
	db := database(t)
	execSQL(t, db, "create function my_claims() returns json language sql stable as $$ select current_setting('request.jwt.claims')::json $$")
	door := fast{slow{scope{pool: pool(t, db.DSN(), 1, nil), role: "authenticated"}}}
	for claims, want := range map[string]string{
		"":                           `{"role":"authenticated"}`,
		`{}`:                         `{"role":"authenticated"}`,
		`{"sub":"u"} `:               `{"sub":"u","role":"authenticated"}`,
		`{"app":{"role":"x"} }`:      `{"app":{"role":"x"},"role":"authenticated"}`,
		`{"role":"other","sub":"u"}`: `{"role":"other","sub":"u"}`,
	} {
		o := rest.Options{Role: "authenticated"}
		if claims != "" {
			o.Claims = []byte(claims)
		}
		res := do(t, rest.New(door, rest.Config{Options: o}), "GET /rpc/my_claims", nil, "")
		if body := bodyOf(t, res); res.StatusCode != http.StatusOK || body != want {
			t.Errorf("%s: %d %s, want %s", claims, res.StatusCode, body, want)
		}
	}
}
