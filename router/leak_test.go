package router_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// hunter makes random tenants do random things over few connections and looks for rows that are not theirs. Its
// statements have no predicate of their own: what keeps the tenants apart is the scope and the policy.
type hunter struct {
	router *router.Router
	world  *world
	names  []string

	mu      sync.Mutex
	foreign int
	calls   int
}

// saw counts the rows of others among those that a tenant was shown.
func (h *hunter) saw(name string, owners []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls++
	for _, owner := range owners {
		if owner != name {
			h.foreign++
		}
	}
}

var verbs = []string{
	"select owner from projects",
	"update projects set name = name || 'x' returning owner",
	"delete from projects where ctid in (select ctid from projects order by random() limit 1) returning owner",
	"insert into projects (owner) values ('%s') returning owner",
	"insert into projects (owner) values ('%s') returning owner",
}

// run is one worker's walk.
func (h *hunter) run(t testing.TB, seed uint64, steps int) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range steps {
		name := h.names[rnd.IntN(len(h.names))]
		ctx := h.world.as(name, []string{"", "anon", "authenticated", "service_role"}[rnd.IntN(4)])
		sql := verbs[rnd.IntN(len(verbs))]
		if sql[0] == 'i' {
			sql = fmt.Sprintf(sql, name)
		}
		doors := []func(context.Context, string, string) error{h.begin, h.rollBack, h.savepoint, h.lend, h.leave, h.fail}
		if err := doors[rnd.IntN(len(doors))](ctx, name, sql); err != nil && !isDeadlock(err) {
			t.Errorf("%s: %s: %v", name, sql, err)
		}
	}
}

// isDeadlock is what two who write the same rows in another order may get, and without a fence all write all rows: the
// server has rolled one of them back, and it saw what it saw.
func isDeadlock(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == "40P01"
}

func (h *hunter) query(ctx context.Context, name string, tx pgx.Tx, sql string) error {
	rows, _ := tx.Query(ctx, sql)
	owners, err := pgx.CollectRows(rows, pgx.RowTo[string])
	h.saw(name, owners)
	return err
}

func (h *hunter) begin(ctx context.Context, name, sql string) error {
	return h.router.BeginFunc(ctx, func(tx pgx.Tx) error { return h.query(ctx, name, tx, sql) })
}

func (h *hunter) rollBack(ctx context.Context, name, sql string) error {
	tx, err := h.router.Begin(ctx)
	if err != nil {
		return err
	}
	return errors.Join(h.query(ctx, name, tx, sql), tx.Rollback(ctx))
}

func (h *hunter) savepoint(ctx context.Context, name, sql string) error {
	return h.router.BeginFunc(ctx, func(tx pgx.Tx) error {
		_ = pgx.BeginFunc(ctx, tx, func(inner pgx.Tx) error {
			_ = h.query(ctx, name, inner, sql)
			_, err := inner.Exec(ctx, "select 1/0")
			return err
		})
		return h.query(ctx, name, tx, sql)
	})
}

// lend sends the statement and COMMIT in one flight.
func (h *hunter) lend(ctx context.Context, name, sql string) error {
	return h.router.Lend(ctx, pgx.TxOptions{}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
		p := conn.PgConn().StartPipeline(ctx)
		n := open(p)
		p.SendQueryParams(sql, nil, nil, nil, nil)
		p.SendPipelineSync()
		p.SendQueryParams("commit", nil, nil, nil, nil)
		if err := p.Sync(); err != nil {
			return err
		}
		for i := 0; i <= n; i++ {
			result, err := p.GetResults()
			if err != nil {
				return errors.Join(err, p.Close())
			}
			var owners []string
			rows := result.(*pgconn.ResultReader)
			for rows.NextRow() {
				owners = append(owners, string(rows.Values()[0]))
			}
			h.saw(name, owners)
			if _, err := rows.Close(); err != nil {
				return errors.Join(err, p.Close())
			}
		}
		return p.Close()
	})
}

// leave gives up in the middle of a statement.
func (h *hunter) leave(ctx context.Context, name, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Millisecond)
	defer cancel()
	_ = h.router.BeginFunc(ctx, func(tx pgx.Tx) error {
		if err := h.query(ctx, name, tx, sql); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "select pg_sleep(1)")
		return err
	})
	return nil
}

// fail commits a transaction that has failed.
func (h *hunter) fail(ctx context.Context, name, sql string) error {
	err := h.router.BeginFunc(ctx, func(tx pgx.Tx) error {
		err := h.query(ctx, name, tx, sql)
		_, _ = tx.Exec(ctx, "select 1/0")
		return err
	})
	if !errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("commit of a failed transaction: %w", err)
	}
	return nil
}

// misplaced counts rows that stand under a tenant who did not write them.
func (h *hunter) misplaced(t testing.TB, db *database, ids map[string]catalog.TenantID) (n int) {
	for name, id := range ids {
		n += db.count(t, "select count(*) from projects where tenant_id = '"+id.String()+"' and owner <> '"+name+"'")
	}
	return n
}

// hunt answers how many foreign rows were shown or written.
func hunt(t *testing.T, without string) int {
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("ROWHOUSE_SEED"); s != "" {
		seed, _ = strconv.ParseUint(s, 10, 64)
	}
	t.Logf("ROWHOUSE_SEED=%d", seed)
	w := newWorld(t, 20)
	db := w.database()
	h := &hunter{world: w, router: w.router(router.Config{MaxConnsPerDatabase: 2, AcquireTimeout: 30 * time.Second})}
	ids := map[string]catalog.TenantID{}
	for i := range 4 {
		name := fmt.Sprintf("tenant%d", i)
		ids[name] = w.tenant(name, db)
		h.names = append(h.names, name)
	}
	if without != "" {
		db.exec(t, without)
	}
	var wg sync.WaitGroup
	for i := range uint64(6) {
		wg.Go(func() { h.run(t, seed+i, 60) })
	}
	wg.Wait()
	if h.calls < 300 {
		t.Errorf("only %d statements ran", h.calls)
	}
	return h.foreign + h.misplaced(t, db, ids)
}

func TestRouter_no_foreign_row_ever(t *testing.T) {
	t.Parallel()
	if n := hunt(t, ""); n != 0 {
		t.Errorf("%d foreign rows", n)
	}
}

// The hunt must be able to find something.
func TestRouter_foreign_rows_are_found_without_the_fence(t *testing.T) {
	t.Parallel()
	if n := hunt(t, "alter table public.projects disable row level security"); n == 0 {
		t.Error("no foreign row was found without a fence: the hunt is blind")
	}
}
