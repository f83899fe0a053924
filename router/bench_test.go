package router_test

import (
	"context"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// follow keeps the directory fresh, as a service does.
func (w *world) follow() {
	ctx, stop := context.WithCancel(context.WithoutCancel(w.t.Context()))
	ended := make(chan struct{})
	go func() { _ = w.dir.Run(ctx); close(ended) }()
	w.t.Cleanup(func() { stop(); <-ended })
}

func BenchmarkResolve(b *testing.B) {
	w := newWorld(b, 20)
	w.tenant("acme", w.database())
	w.follow()
	rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromDomain("{tenant}.example.com"), tenants.FromHeader("X-Tenant"), tenants.FromCookie("rowhouse_tenant")}}
	r := httptest.NewRequest("GET", "/projects", nil)
	r.Host = "acme.example.com"
	b.ReportAllocs()
	for b.Loop() {
		if _, err := rs.Resolve(r, w.dir); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkRoute(b *testing.B) {
	w := newWorld(b, 20)
	w.tenant("acme", w.database())
	w.follow()
	rt := w.router(router.Config{})
	ctx := w.as("acme", "authenticated")
	b.ReportAllocs()
	for b.Loop() {
		if err := rt.Route(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBorrow(b *testing.B) {
	w := newWorld(b, 20)
	w.tenant("acme", w.database())
	w.follow()
	rt := w.router(router.Config{})
	ctx := w.as("acme", "authenticated")
	b.ReportAllocs()
	for b.Loop() {
		if err := rt.Borrow(ctx); err != nil {
			b.Fatal(err)
		}
	}
}

const statement = "bench_read"

// keyed reads one row by key in one flight: open, statement, Sync, COMMIT, Sync.
func keyed(ctx context.Context, conn *pgx.Conn, key []byte, commit string, open func(*pgconn.Pipeline) int) error {
	pg := conn.PgConn()
	if pg.CustomData()[statement] == nil {
		if _, err := pg.Prepare(ctx, statement, "select name from public.projects where id = $1", nil); err != nil {
			return err
		}
		pg.CustomData()[statement] = true
	}
	p := pg.StartPipeline(ctx)
	n := open(p)
	p.SendQueryPrepared(statement, [][]byte{key}, nil, nil)
	p.SendPipelineSync()
	p.SendQueryPrepared(commit, nil, nil, nil)
	if err := p.Sync(); err != nil {
		return err
	}
	rows := 0
	for i := 0; i <= n; i++ {
		result, err := p.GetResults()
		if err != nil {
			return errors.Join(err, p.Close())
		}
		reader := result.(*pgconn.ResultReader)
		for reader.NextRow() {
			rows++
		}
		if _, err := reader.Close(); err != nil {
			return errors.Join(err, p.Close())
		}
	}
	if rows != 1 {
		return errors.New("not one row")
	}
	return p.Close()
}

// The scoped read through the router, against the same flight through one plain pgxpool. Both run by turns in the same
// loop, so that what else the machine does hits both.
func BenchmarkScopedRead(b *testing.B) {
	w := newWorld(b, 40)
	db := w.database()
	id := w.tenant("acme", db)
	key := catalog.NewID[int]()
	db.exec(b, "insert into public.projects (tenant_id, id, owner) values ('"+id.String()+"', '"+key.String()+"', 'acme')")
	db.exec(b, "analyze")
	w.follow()
	rt := w.router(router.Config{})
	ctx := w.as("acme", "authenticated")
	arg := []byte(key.String())

	cfg, err := pgxpool.ParseConfig(db.DSNAs(db.login, db.password))
	if err != nil {
		b.Fatal(err)
	}
	cfg.MaxConns = 10
	cfg.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
		for name, sql := range map[string]string{"b": "begin read only", "c": "commit", "r": "set local role authenticated"} {
			if _, err := conn.PgConn().Prepare(ctx, name, sql, nil); err != nil {
				return err
			}
		}
		return nil
	}
	pool, err := pgxpool.NewWithConfig(b.Context(), cfg)
	if err != nil {
		b.Fatal(err)
	}
	defer pool.Close()
	literal := "set local rowhouse.tenant_id = '" + id.String() + "'"

	ours := func() error {
		return rt.Lend(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
			return keyed(ctx, conn, arg, "rowhouse_commit", open)
		})
	}
	plain := func() error {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		return keyed(ctx, conn.Conn(), arg, "c", func(p *pgconn.Pipeline) int {
			p.SendQueryPrepared("b", nil, nil, nil)
			p.SendQueryParams(literal, nil, nil, nil, nil)
			p.SendQueryPrepared("r", nil, nil, nil)
			return 3
		})
	}
	for _, clients := range []int{1, 8} {
		b.Run(map[int]string{1: "1client", 8: "8clients"}[clients], func(b *testing.B) {
			var took [2]time.Duration
			rounds := 0
			for b.Loop() {
				for turn, runs := 0, []func() error{ours, plain}; turn < 2; turn++ {
					i := (turn + rounds/(25*clients)) % 2 // each goes first as often
					run := runs[i]
					began := time.Now()
					var wg sync.WaitGroup
					for range clients {
						wg.Go(func() {
							for range 25 {
								if err := run(); err != nil {
									b.Error(err)
									return
								}
							}
						})
					}
					wg.Wait()
					took[i] += time.Since(began)
				}
				rounds += 25 * clients
			}
			b.ReportMetric(float64(took[0].Nanoseconds())/float64(rounds), "ns/scoped")
			b.ReportMetric(float64(took[1].Nanoseconds())/float64(rounds), "ns/pgxpool")
			b.ReportMetric(float64(took[1])/float64(took[0]), "ratio")
		})
	}
}
