package bench

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"runtime"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// House is the running house that is measured.
type House struct {
	Catalog *catalog.Catalog
	Router  *router.Router
	// Handler is its whole data plane.
	Handler http.Handler
	// Shared and Dedicated are a tenant of each kind, with the sample's rows and a token.
	Shared, Dedicated Tenant
}

// Tenant is a tenant that is asked.
type Tenant struct {
	*catalog.Tenant
	Token string
}

// keyStatement reads a project by its key, as the data API does.
const keyStatement = `select count(*), coalesce(json_agg(t), '[]')::text from (select * from public.projects where id = $1 and tenant_id = $2 limit 1000) t`

// Route measures what routing costs: a scoped transaction against the same flight on a plain pool of the same database,
// and a whole request against a bare handler that sends the same flight.
func Route(ctx context.Context, h House, l Length) (Report, error) {
	hit, err := h.leaseHit(ctx)
	report := Report{Bench: "route", Results: hit}
	if err != nil {
		return report, err
	}
	for _, kind := range []struct {
		name   string
		tenant Tenant
	}{{"dedicated", h.Dedicated}, {"shared", h.Shared}} {
		found, err := h.routeOf(ctx, kind.name, kind.tenant, l)
		if err != nil {
			return report, err
		}
		report.Results = append(report.Results, found...)
	}
	return report, nil
}

// leaseHits are found in a row, and the quickest of leaseRounds counts: whatever else the process does only adds.
const leaseHits, leaseRounds = 100_000, 7

// leaseHit measures how long it takes to find the pool of a database that is kept, and to give it back.
func (h House) leaseHit(ctx context.Context) ([]Result, error) {
	db, err := h.Catalog.Database(ctx, h.Dedicated.Database)
	if err != nil {
		return nil, err
	}
	took, allocs := math.Inf(1), math.Inf(1)
	for range leaseRounds {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		began := time.Now()
		for range leaseHits {
			if err := h.Router.Touch(ctx, db); err != nil {
				return nil, fmt.Errorf("lease_hit: %w", err)
			}
		}
		took = min(took, float64(time.Since(began).Nanoseconds())/leaseHits)
		runtime.ReadMemStats(&after)
		allocs = min(allocs, float64(after.Mallocs-before.Mallocs)/leaseHits)
	}
	return []Result{
		{Name: "lease_hit", Value: took, Unit: "ns", Means: "finding the pool of a database that is kept, and giving it back"},
		{Name: "lease_hit_allocs", Value: math.Round(allocs*10) / 10, Unit: "allocs", Means: "what that allocates"},
	}, nil
}

func (h House) routeOf(ctx context.Context, kind string, t Tenant, l Length) ([]Result, error) {
	pool, err := h.plainPool(ctx, t, l.Workers)
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	key, err := h.someKey(ctx, t)
	if err != nil {
		return nil, err
	}
	var results []Result
	var scoped Result
	err = tenants.With(ctx, t.Tenant, func(ctx context.Context) error {
		scoped, err = compare(ctx, l, Result{
			Name: "scoped_tx_" + kind, Unit: "ops/s", Baseline: "pgxpool_same_sql",
			Means: "a read by key in its tenant's transaction, against the same flight on a plain pool",
		}, func(ctx context.Context, _ int) error {
			return h.Router.Lend(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
				return fly(ctx, conn, open, key, t)
			})
		}, func(ctx context.Context, _ int) error { return plainFlight(ctx, pool, key, t) })
		return err
	})
	if err != nil {
		return nil, err
	}
	results = append(results, scoped)
	rest, err := h.restOf(ctx, kind, t, pool, key, l)
	return append(results, rest), err
}

// restOf sends whole requests over loopback: to the house, and to a handler that only runs the flight.
func (h House) restOf(ctx context.Context, kind string, t Tenant, pool *pgxpool.Pool, key [16]byte, l Length) (Result, error) {
	bare := echo.New()
	bare.GET("/projects", func(c echo.Context) error {
		var body []byte
		err := lendPlain(c.Request().Context(), pool, func(conn *pgx.Conn) error {
			return flight(c.Request().Context(), conn, plainFrame(t), key, t, &body)
		})
		if err != nil {
			return err
		}
		return c.JSONBlob(http.StatusOK, body)
	})
	ours, closeOurs, err := listen(h.Handler)
	if err != nil {
		return Result{}, err
	}
	defer closeOurs()
	theirs, closeTheirs, err := listen(bare)
	if err != nil {
		return Result{}, err
	}
	defer closeTheirs()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: l.Workers, MaxConnsPerHost: l.Workers}}
	defer client.CloseIdleConnections()
	get := func(url string) func(context.Context, int) error {
		return func(ctx context.Context, _ int) error {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			req.Header.Set("Authorization", "Bearer "+t.Token)
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			n, err := io.Copy(io.Discard, resp.Body)
			if err == nil && (resp.StatusCode != http.StatusOK || n < 50) {
				return fmt.Errorf("%s: status %d, %d bytes", url, resp.StatusCode, n)
			}
			return err
		}
	}
	return compare(ctx, l, Result{
		Name: "rest_get_by_key_" + kind, Unit: "req/s", Baseline: "bare_handler",
		Means: "a GET by key through the data API, token verified, against a bare handler that sends the same flight",
	}, get(ours+fmt.Sprintf("/rest/v1/projects?id=eq.%s", pgUUID(key))), get(theirs+"/projects"))
}

func pgUUID(key [16]byte) string { return catalog.ID[struct{}](key).String() }

func listen(h http.Handler) (url string, stop func(), err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = s.Serve(l) }()
	return "http://" + l.Addr().String(), func() { _ = s.Close() }, nil
}

// plainPool is what one would write without a router: a pool as the tenant's own login, everything prepared.
func (h House) plainPool(ctx context.Context, t Tenant, conns int) (*pgxpool.Pool, error) {
	cfg, err := pgxpool.ParseConfig("postgres:///?host=/nowhere&sslmode=disable")
	if err != nil {
		return nil, err
	}
	if cfg.ConnConfig, err = h.Catalog.ConnConfig(ctx, t.Database, catalog.LoginData); err != nil {
		return nil, err
	}
	cfg.MaxConns = int32(conns)
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		for name, sql := range map[string]string{"bench_begin": "begin read only", "bench_commit": "commit", "bench_role": "set local role authenticated"} {
			if _, err := conn.PgConn().Prepare(ctx, name, sql, nil); err != nil {
				return err
			}
		}
		return nil
	}
	return pgxpool.NewWithConfig(ctx, cfg)
}

func (h House) someKey(ctx context.Context, t Tenant) (key [16]byte, err error) {
	err = tenants.With(ctx, t.Tenant, func(ctx context.Context) error {
		return h.Router.BeginFunc(ctx, func(tx pgx.Tx) error {
			return tx.QueryRow(ctx, `select id from public.projects order by name limit 1`).Scan(&key)
		})
	})
	return key, err
}

// plainFrame opens the same transaction as the router's: its mode, the tenant as a literal, the role.
func plainFrame(t Tenant) func(*pgconn.Pipeline) int {
	return func(p *pgconn.Pipeline) int {
		p.SendQueryPrepared("bench_begin", nil, nil, nil)
		p.SendQueryParams("set local rowhouse.tenant_id = '"+t.ID.String()+"'", nil, nil, nil, nil)
		p.SendQueryPrepared("bench_role", nil, nil, nil)
		return 3
	}
}

func plainFlight(ctx context.Context, pool *pgxpool.Pool, key [16]byte, t Tenant) error {
	return lendPlain(ctx, pool, func(conn *pgx.Conn) error {
		return flight(ctx, conn, plainFrame(t), key, t, nil)
	})
}

func lendPlain(ctx context.Context, pool *pgxpool.Pool, fn func(*pgx.Conn) error) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	return fn(conn.Conn())
}

func fly(ctx context.Context, conn *pgx.Conn, open func(*pgconn.Pipeline) int, key [16]byte, t Tenant) error {
	return flight(ctx, conn, open, key, t, nil)
}

// flight sends a whole transaction in one write and reads its answers in order.
func flight(ctx context.Context, conn *pgx.Conn, open func(*pgconn.Pipeline) int, key [16]byte, t Tenant, body *[]byte) error {
	const name = "bench_by_key"
	first := conn.PgConn().CustomData()[name] == nil
	p := conn.PgConn().StartPipeline(ctx)
	framed := open(p)
	if first {
		p.SendPrepare(name, keyStatement, nil)
	}
	p.SendQueryPrepared(name, [][]byte{[]byte(pgUUID(key)), []byte(t.ID.String())}, nil, nil)
	p.SendPipelineSync()
	p.SendQueryParams("commit", nil, nil, nil, nil)
	p.SendPipelineSync()
	if err := p.Flush(); err != nil {
		_ = p.Close()
		return err
	}
	for read := 0; ; read++ {
		got, err := p.GetResults()
		if result, ok := got.(*pgconn.ResultReader); ok && err == nil {
			for result.NextRow() {
				if read >= framed && body != nil {
					*body = append([]byte(nil), result.Values()[1]...)
				}
			}
			_, err = result.Close()
		}
		switch {
		case err != nil:
			_ = p.Close()
			if read < framed {
				err = notStarted{err}
			}
			return err
		case got == nil:
			if first {
				conn.PgConn().CustomData()[name] = true
			}
			return p.Close()
		}
	}
}

// notStarted is an error of the frame: nothing of the request ran, and the router may do it elsewhere.
type notStarted struct{ error }

// Unwrap is what happened.
func (e notStarted) Unwrap() error { return e.error }

// Outcome is not_started.
func (notStarted) Outcome() string { return "not_started" }
