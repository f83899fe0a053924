package bench

import (
	"context"
	"fmt"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowhouse/rowhouse/catalog"
)

// naive is the router that one would write first: a cache of pools, and the pool that falls out is closed.
type naive struct {
	bed   *Bed
	conns int32

	mu    sync.Mutex // guards the making of pools
	pools *lru.Cache[catalog.DatabaseID, *pgxpool.Pool]
}

// newNaive keeps so many pools of up to so many connections each, which is all that it can do about a budget.
func newNaive(b *Bed, pools int, conns int32) (*naive, error) {
	n := &naive{bed: b, conns: conns}
	var err error
	n.pools, err = lru.NewWithEvict(pools, func(_ catalog.DatabaseID, p *pgxpool.Pool) { p.Close() })
	return n, err
}

func (n *naive) close() { n.pools.Purge() }

func (n *naive) pool(ctx context.Context, c client) (*pgxpool.Pool, error) {
	if p, ok := n.pools.Get(c.tenant.Database); ok {
		return p, nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if p, ok := n.pools.Get(c.tenant.Database); ok {
		return p, nil
	}
	cfg, err := pgxpool.ParseConfig("postgres:///?host=/nowhere&sslmode=disable")
	if err != nil {
		return nil, err
	}
	if cfg.ConnConfig, err = n.bed.Catalog.ConnConfig(ctx, c.tenant.Database, catalog.LoginData); err != nil {
		return nil, err
	}
	cfg.MaxConns = n.conns
	cfg.AfterConnect = prepareFrame
	p, err := pgxpool.NewWithConfig(ctx, cfg)
	if err == nil {
		n.pools.Add(c.tenant.Database, p)
	}
	return p, err
}

// prepareFrame prepares what plainFrame sends.
func prepareFrame(ctx context.Context, conn *pgx.Conn) error {
	for name, sql := range map[string]string{"bench_begin": "begin read only", "bench_role": "set local role authenticated"} {
		if _, err := conn.PgConn().Prepare(ctx, name, sql, nil); err != nil {
			return err
		}
	}
	return nil
}

// read is the same request as a client's, by the same flight.
func (n *naive) read(c client) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	p, err := n.pool(ctx, c)
	if err != nil {
		return err
	}
	var body []byte
	if err := lendPlain(ctx, p, func(conn *pgx.Conn) error {
		return flight(ctx, conn, plainFrame(Tenant{Tenant: c.tenant}), bedKey, Tenant{Tenant: c.tenant}, &body)
	}); err != nil {
		return err
	}
	return c.isOwn(body)
}

// connectEach is the router without a pool: a connection for each request.
func (b *Bed) connectEach(c client) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	cfg, err := b.Catalog.ConnConfig(ctx, c.tenant.Database, catalog.LoginData)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("database of tenant %s does not answer", c.tenant.Name)
	}
	defer func() { _ = conn.Close(ctx) }()
	var body []byte
	open := func(p *pgconn.Pipeline) int {
		p.SendQueryParams("begin read only", nil, nil, nil, nil)
		p.SendQueryParams("set local rowhouse.tenant_id = '"+c.tenant.ID.String()+"'", nil, nil, nil, nil)
		p.SendQueryParams("set local role authenticated", nil, nil, nil, nil)
		return 3
	}
	if err := flight(ctx, conn, open, bedKey, Tenant{Tenant: c.tenant}, &body); err != nil {
		return err
	}
	return c.isOwn(body)
}
