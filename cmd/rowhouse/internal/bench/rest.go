package bench

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/router/rest"
)

// restTables are what the data API is asked for besides projects.
const restTables = `
create table public.tasks (tenant_id uuid not null default rowhouse.tenant_id(), id uuid default gen_random_uuid(), project_id uuid, title text not null,
	primary key (tenant_id, id), foreign key (tenant_id, project_id) references public.projects (tenant_id, id));
create index tasks_project on public.tasks (tenant_id, project_id);
select rowhouse.bind('public.tasks');
create function public.with_status(wanted text) returns bigint language sql stable as $$ select count(*) from public.projects where status = wanted $$;
grant execute on function public.with_status(text) to authenticated, service_role`

// restRows give every tenant of a database projects with tasks.
const restRows = `
insert into public.projects (tenant_id, name) select tenant_id, 'project ' || i from public.projects, generate_series(1, 150) i;
insert into public.tasks (tenant_id, project_id, title) select tenant_id, id, 'task ' || i from public.projects, generate_series(1, 3) i;
analyze`

// A restCase is a request of the data API and the statement that somebody would write for it.
type restCase struct {
	name, method, target, sql string
	body                      func(worker int) []byte // nil: none
	args                      func(tenant string, worker int) [][]byte
	status                    int
}

func workerKey(worker int) string {
	key := bedKey
	key[0], key[1] = byte(worker), 0x77
	return pgUUID(key)
}

func onlyTenant(tenant string, _ int) [][]byte { return [][]byte{[]byte(tenant)} }

var restCases = []restCase{
	{
		name: "get_by_key", method: http.MethodGet, target: "/projects?id=eq." + pgUUID(bedKey), status: http.StatusOK, sql: keyStatement,
		args: func(tenant string, _ int) [][]byte { return [][]byte{[]byte(pgUUID(bedKey)), []byte(tenant)} },
	},
	{
		name: "list_100", method: http.MethodGet, target: "/projects?order=name&limit=100", status: http.StatusOK, args: onlyTenant,
		sql: `select count(*), coalesce(json_agg(t), '[]')::text from (select * from public.projects where tenant_id = $1 order by name limit 100) t`,
	},
	{
		name: "list_embed", method: http.MethodGet, target: "/projects?select=id,name,tasks(title)&order=name&limit=20", status: http.StatusOK, args: onlyTenant,
		sql: `select count(*), coalesce(json_agg(t), '[]')::text from (select p.id, p.name, (select coalesce(json_agg(x), '[]') from (select title from public.tasks k
			where k.project_id = p.id and k.tenant_id = $1) x) as tasks from public.projects p where p.tenant_id = $1 order by p.name limit 20) t`,
	},
	{
		name: "insert", method: http.MethodPost, target: "/tasks", status: http.StatusCreated,
		body: func(int) []byte { return []byte(`{"title":"made"}`) },
		args: func(tenant string, _ int) [][]byte { return [][]byte{[]byte(tenant), []byte("made")} },
		sql:  `with made as (insert into public.tasks (tenant_id, title) values ($1, $2) returning 1) select count(*), '' from made`,
	},
	{
		name: "upsert", method: http.MethodPost, target: "/projects", status: http.StatusCreated,
		body: func(worker int) []byte { return []byte(`{"id":"` + workerKey(worker) + `","name":"again"}`) },
		args: func(tenant string, worker int) [][]byte {
			return [][]byte{[]byte(tenant), []byte(workerKey(worker)), []byte("again")}
		},
		sql: `with made as (insert into public.projects (tenant_id, id, name) values ($1, $2, $3) on conflict (tenant_id, id) do update set name = excluded.name returning 1)
			select count(*), '' from made`,
	},
	{
		name: "rpc", method: http.MethodPost, target: "/rpc/with_status", status: http.StatusOK,
		body: func(int) []byte { return []byte(`{"wanted":"active"}`) },
		args: func(string, int) [][]byte { return [][]byte{[]byte("active")} },
		sql:  `select 1, to_json(public.with_status($1))::text`,
	},
}

// restLength leaves room for all of them.
func restLength(l Length) Length {
	switch l {
	case Quick:
		l.Each = 110 * time.Millisecond
	case Full:
		l.Rounds, l.Each = 5, time.Second
	}
	return l
}

// Rest measures the data API over the router, each kind of request at two concurrencies, against a bare handler that sends an
// equivalent statement in an equivalent transaction. Tokens are not verified on either side: route measures that.
func Rest(ctx context.Context, b *Bed, l Length) (Report, error) {
	report := Report{Bench: "rest"}
	l = restLength(l)
	if err := b.on(ctx, bedTemplate, restTables); err != nil {
		return report, err
	}
	rt, err := b.router(router.Config{MaxConnsPerDatabase: 16})
	if err != nil {
		return report, err
	}
	defer rt.Close()
	var last client
	for _, kind := range []struct {
		name    string
		kind    catalog.Placement
		tenants int
	}{{"dedicated", catalog.Dedicated, 1}, {"shared", catalog.Shared, 20}} {
		made, err := b.databases(ctx, kind.kind, 1, kind.tenants)
		if err != nil {
			return report, err
		}
		if err := b.on(ctx, fmt.Sprintf("bench_%d", b.made-1), restRows); err != nil {
			return report, err
		}
		who, err := clients(ctx, made[:1])
		if err != nil {
			return report, err
		}
		last = who[0]
		found, err := b.restOf(ctx, rt, who[0], kind.name, l)
		if err != nil {
			return report, err
		}
		report.Results = append(report.Results, found...)
	}
	cached, err := schemaCache(rt, last)
	report.Results = append(report.Results, cached...)
	return report, err
}

func restOptions(c client) rest.Options {
	return rest.Options{Role: "service_role", Tenant: c.tenant.ID.String(), Fingerprint: "bench"}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (b *Bed) restOf(ctx context.Context, rt *router.Router, c client, kind string, l Length) ([]Result, error) {
	h := rest.New(rt, rest.Config{Options: restOptions(c), Logger: quiet()})
	ours, closeOurs, err := listen(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { h.ServeHTTP(w, r.WithContext(c.ctx)) }))
	if err != nil {
		return nil, err
	}
	defer closeOurs()
	pool, err := b.barePool(ctx, c, 16)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	theirs, closeTheirs, err := listen(bareHandler(pool, c.tenant.ID.String()))
	if err != nil {
		return nil, err
	}
	defer closeTheirs()
	transport := &http.Transport{MaxIdleConnsPerHost: 16}
	defer transport.CloseIdleConnections()
	asking := &http.Client{Transport: transport}
	var results []Result
	for _, each := range restCases {
		for _, l.Workers = range []int{1, 16} {
			r, err := compare(ctx, l, Result{
				Name: fmt.Sprintf("%s_%s_c%d", each.name, kind, l.Workers), Unit: "req/s", Baseline: "bare_handler",
				Means: fmt.Sprintf("%s %.60s through the data API, %d at a time, against a bare handler with an equivalent statement and transaction", each.method, each.target, l.Workers),
			}, each.ask(asking, ours+"/rest/v1"+each.target), each.ask(asking, theirs+"/"+each.name))
			if err != nil {
				return results, err
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// ask sends the request and refuses every answer but the right one.
func (c restCase) ask(client *http.Client, url string) func(context.Context, int) error {
	return func(ctx context.Context, worker int) error {
		var body io.Reader
		if c.body != nil {
			body = bytes.NewReader(c.body(worker))
		}
		req, err := http.NewRequestWithContext(ctx, c.method, url, body)
		if err != nil {
			return err
		}
		req.Header.Set("Worker", fmt.Sprint(worker))
		if c.name == "upsert" {
			req.Header.Set("Prefer", "resolution=merge-duplicates")
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		answer, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != c.status && (c.name != "upsert" || resp.StatusCode != http.StatusOK) {
			return fmt.Errorf("%s: status %d: %.200s", url, resp.StatusCode, answer)
		}
		if err == nil && c.method == http.MethodGet && len(answer) < 50 {
			return fmt.Errorf("%s: only %d bytes", url, len(answer))
		}
		return err
	}
}

// bareHandler is what one would write by hand: echo, a pool, one flight a request.
func bareHandler(pool *pgxpool.Pool, tenant string) http.Handler {
	e := echo.New()
	for _, each := range restCases {
		e.Add(each.method, "/"+each.name, func(c echo.Context) error {
			ctx := c.Request().Context()
			if _, err := io.Copy(io.Discard, c.Request().Body); err != nil {
				return err
			}
			var worker int
			if _, err := fmt.Sscan(c.Request().Header.Get("Worker"), &worker); err != nil {
				return err
			}
			var body []byte
			err := lendPlain(ctx, pool, func(conn *pgx.Conn) (err error) {
				body, err = each.fly(ctx, conn, tenant, worker)
				return err
			})
			if err != nil {
				return err
			}
			return c.JSONBlob(each.status, body)
		})
	}
	return e
}

// barePool is a pool as the tenants' login, everything prepared.
func (b *Bed) barePool(ctx context.Context, c client, conns int32) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig("postgres:///?host=/nowhere&sslmode=disable")
	if err != nil {
		return nil, err
	}
	if cfg.ConnConfig, err = b.Catalog.ConnConfig(ctx, c.tenant.Database, catalog.LoginData); err != nil {
		return nil, err
	}
	cfg.MaxConns = conns
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		statements := map[string]string{"bare_read": "begin read only", "bare_write": "begin", "bare_commit": "commit", "bare_role": "set local role service_role"}
		for name, sql := range statements {
			if _, err := conn.PgConn().Prepare(ctx, name, sql, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

// fly runs the case's statement in one flight.
func (c restCase) fly(ctx context.Context, conn *pgx.Conn, tenant string, worker int) (body []byte, err error) {
	p := conn.PgConn().StartPipeline(ctx)
	defer func() {
		if closing := p.Close(); err == nil {
			err = closing
		}
	}()
	begin, name := "bare_read", "bare_"+c.name
	if c.name == "insert" || c.name == "upsert" {
		begin = "bare_write"
	}
	p.SendQueryPrepared(begin, nil, nil, nil)
	p.SendQueryParams("set local rowhouse.tenant_id = '"+tenant+"'", nil, nil, nil, nil)
	p.SendQueryPrepared("bare_role", nil, nil, nil)
	known := conn.PgConn().CustomData()[name] != nil
	if !known { // as the role, which the planner looks at
		p.SendPrepare(name, c.sql, nil)
	}
	p.SendQueryPrepared(name, c.args(tenant, worker), nil, nil)
	p.SendPipelineSync()
	p.SendQueryPrepared("bare_commit", nil, nil, nil)
	p.SendPipelineSync()
	if err := p.Flush(); err != nil {
		return nil, err
	}
	for {
		result, err := p.GetResults()
		if err != nil {
			return nil, err
		}
		switch result := result.(type) {
		case nil:
			conn.PgConn().CustomData()[name] = true
			return body, nil
		case *pgconn.ResultReader:
			for result.NextRow() {
				body = bytes.Clone(result.Values()[1])
			}
			if _, err := result.Close(); err != nil {
				return nil, err
			}
		}
	}
}

// counting counts the transactions that are begun: the data API begins one to read a schema, and flies for all else.
type counting struct {
	*router.Router
	begun atomic.Int64
}

func (c *counting) BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error) {
	c.begun.Add(1)
	return c.Router.BeginTx(ctx, o)
}

// manyTenants is how many tenants share what schemaCache measures.
const manyTenants = 500

// schemaCache asks on behalf of many tenants, each in a database of its own name, all of one fingerprint.
func schemaCache(rt *router.Router, c client) ([]Result, error) {
	var asked int
	of := &counting{Router: rt}
	h := rest.New(of, rest.Config{Logger: quiet(), PerRequest: func(*http.Request) (rest.Options, error) {
		o := restOptions(c)
		o.Database = fmt.Sprintf("database %d", asked)
		return o, nil
	}})
	before := heap()
	for asked = range manyTenants {
		r, err := http.NewRequestWithContext(c.ctx, http.MethodGet, "/rest/v1/projects?limit=1", nil)
		if err != nil {
			return nil, err
		}
		var w silent
		if h.ServeHTTP(&w, r); w.status != http.StatusOK {
			return nil, fmt.Errorf("schema of tenant %d: status %d", asked, w.status)
		}
	}
	grown := max(0, heap()-before)
	runtime.KeepAlive(h)
	return []Result{
		{Name: "schema_cache_bytes_500_tenants", Value: float64(grown), Unit: "bytes", Means: "memory that the data API keeps after a request of each of 500 tenants whose databases have one fingerprint"},
		{Name: "introspections_500_tenants", Value: float64(of.begun.Load()), Unit: "reads", Means: "how often a schema was read for them"},
	}, nil
}

// silent is a response that nobody reads.
type silent struct {
	header http.Header
	status int
}

func (s *silent) Header() http.Header {
	if s.header == nil {
		s.header = http.Header{}
	}
	return s.header
}

func (s *silent) Write(b []byte) (int, error) { return len(b), nil }

func (s *silent) WriteHeader(status int) { s.status = status }
