package router_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
)

// replica is a router among others, with Run in the background.
type replica struct {
	*router.Router
	reg  *registry
	stop func()
}

// registry is a catalog that can be cut off.
type registry struct {
	*catalog.Catalog
	cut atomic.Bool
}

var errCut = errors.New("catalog is away")

func (r *registry) Renew(ctx context.Context, report catalog.Report) (*catalog.Grant, error) {
	if r.cut.Load() {
		return nil, errCut
	}
	return r.Catalog.Renew(ctx, report)
}

func (w *world) replica(id catalog.InstanceID) *replica {
	w.t.Helper()
	r := &replica{reg: &registry{Catalog: w.cat}}
	r.Router = w.router(router.Config{Registry: r.reg, Instance: catalog.Report{Instance: id}, AcquireTimeout: 30 * time.Second})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := r.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	r.stop = func() { cancel(); running.Wait() }
	w.t.Cleanup(r.stop)
	return r
}

// until waits for something that other goroutines bring about.
func until(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(60 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: it did not come to that", what)
		}
	}
}

// counter looks at the server for its connections to databases, again and again.
func (w *world) counter(dbs []*database) (most func() int, stop func()) {
	conn, err := pgx.Connect(w.t.Context(), pgtest.ServerDSN(w.t))
	if err != nil {
		w.t.Fatal(err)
	}
	var names []string
	for _, db := range dbs {
		names = append(names, db.Name())
	}
	var highest atomic.Int64
	ctx, cancel := context.WithCancel(context.Background())
	var counting sync.WaitGroup
	counting.Go(func() {
		defer conn.Close(context.WithoutCancel(ctx))
		for ctx.Err() == nil {
			var n int64
			err := conn.QueryRow(context.WithoutCancel(ctx), "select count(*) from pg_stat_activity where datname = any ($1) and application_name like 'rowhouse/%'", names).Scan(&n)
			if err != nil {
				w.t.Error(err)
				return
			}
			highest.Store(max(highest.Load(), n))
		}
	})
	return func() int { return int(highest.Load()) }, func() { cancel(); counting.Wait() }
}

// Replicas join, are cut off from the catalog, and leave, while each of them asks for more databases than it may have
// connections: the server never has more than its budget, and no request fails.
func TestRouter_replicas_keep_to_one_budget(t *testing.T) {
	t.Parallel()
	const budget, databases = 8, 10
	w := newWorld(t, budget)
	var dbs []*database
	var who []context.Context
	for i := range databases {
		dbs = append(dbs, w.alone(w.database()))
		w.tenant(fmt.Sprintf("t%d", i), dbs[i])
		who = append(who, w.as(fmt.Sprintf("t%d", i), "service_role"))
	}
	most, stopCounting := w.counter(dbs)
	defer stopCounting()
	load := func(r *replica) (stop func()) {
		done := make(chan struct{})
		var asking sync.WaitGroup
		for worker := range 4 {
			asking.Go(func() {
				for i := worker; ; i++ {
					select {
					case <-done:
						return
					default:
					}
					if err := r.BeginFunc(who[i%len(who)], nothing); err != nil {
						t.Errorf("a request failed: %v", err)
						return
					}
				}
			})
		}
		return sync.OnceFunc(func() { close(done); asking.Wait() })
	}
	share := func(r *replica) int { return r.Stat().Servers[w.server].Share }
	var ids [3]catalog.InstanceID
	for i := range ids {
		ids[i] = catalog.NewID[catalog.Instance]()
	}

	one := w.replica(ids[0])
	defer load(one)()
	until(t, "the first one has all of it", func() bool { return one.Ready() == nil && share(one) == budget })
	two := w.replica(ids[1])
	until(t, "the second one has its share", func() bool { return two.Ready() == nil })
	if open := one.Stat().Servers[w.server].Open; open > budget-share(two) {
		t.Errorf("the second one was ready with %d while the first one had %d open", share(two), open)
	}
	stopTwo := load(two)
	defer stopTwo()
	until(t, "both have the same", func() bool { return share(one) == budget/2 && share(two) == budget/2 })
	three := w.replica(ids[2])
	stopThree := load(three) // before it has any: what it is asked for waits
	defer stopThree()
	until(t, "the third one has its share", func() bool { return three.Ready() == nil })

	three.reg.cut.Store(true)
	const floor = 1
	until(t, "cut off it keeps to its floor", func() bool {
		three.Shrink() // as after silence; a report may have been under way
		return share(three) == floor
	})
	until(t, "the third one keeps to its floor", func() bool { return three.Stat().Servers[w.server].Open <= floor })
	if _, err := w.cat.Pool().Exec(t.Context(), "update rowhouse.instances set lease_until = now() - interval '1s' where id = $1", ids[2]); err != nil {
		t.Fatal(err)
	}
	until(t, "the others have the rest", func() bool { return share(one)+share(two) == budget-floor })
	three.reg.cut.Store(false)
	until(t, "it has its part again", func() bool { return share(three) > floor })
	stopThree()
	three.Close()
	three.stop()
	until(t, "what it had is theirs", func() bool { return share(one)+share(two) == budget })
	stopTwo()
	two.stop() // in whichever order it is stopped
	two.Close()
	until(t, "the first one has all of it again", func() bool { return share(one) == budget })
	if n := most(); n > budget || n < budget-1 {
		t.Errorf("%d connections at once, the budget is %d", n, budget)
	}
}

func TestRouter_Pools_explains_them(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	dbs := []*database{w.alone(w.database()), w.database(), w.alone(w.database())}
	var who []context.Context
	for i, db := range dbs {
		w.tenant(fmt.Sprintf("t%d", i), db)
		who = append(who, w.as(fmt.Sprintf("t%d", i), "service_role"))
	}
	rt := w.router(router.Config{MaxConnsPerDatabase: 2})
	tx, err := rt.Begin(who[1])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = tx.Rollback(who[1]) }()
	for _, i := range []int{0, 2} { // the second takes the first one's only connection
		if err := rt.BeginFunc(who[i], nothing); err != nil {
			t.Fatal(err)
		}
	}
	pools := rt.Pools()
	if len(pools) != 3 {
		t.Fatalf("%+v", pools)
	}
	busy, idle, robbed := pools[0], pools[1], pools[2]
	if busy.Database != dbs[1].id || busy.Server != w.server || busy.Open != 1 || busy.Lent != 1 || busy.Soft != 4 || busy.Most != 2 || !busy.LastUsed.IsZero() {
		t.Errorf("the one in use: %+v", busy)
	}
	if idle.Database != dbs[2].id || idle.Open != 1 || idle.Lent != 0 || idle.Soft != 1 || idle.LastUsed.IsZero() || !idle.TakenAway.IsZero() {
		t.Errorf("the one that was used last: %+v", idle)
	}
	if robbed.Database != dbs[0].id || robbed.Open != 0 || robbed.TakenAway.IsZero() {
		t.Errorf("the one whose connection was taken: %+v", robbed)
	}
}
