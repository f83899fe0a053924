package bench

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sort"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// ChurnSize is how much there is of everything in churn.
type ChurnSize struct {
	Dedicated, Shared, PerShared int // databases of one tenant, of many, and how many
	Budgets                      []int
	Each                         time.Duration // a phase
}

// Sizes of a quick churn and of a full one.
var (
	QuickChurn = ChurnSize{Dedicated: 80, Shared: 4, PerShared: 500, Budgets: []int{40}, Each: time.Second}
	FullChurn  = ChurnSize{Dedicated: 300, Shared: 20, PerShared: 485, Budgets: []int{80, 160}, Each: 6 * time.Second}
)

const (
	churnSkew    = 1.1
	churnWorkers = 32
	churnRounds  = 2
	churnConns   = 4 // of one database, where that is to be said in advance: ours has its default
)

// Churn asks for far more databases than there may be connections, some tenants much more often than others, and looks at
// the server for how many connections there are.
func Churn(ctx context.Context, b *Bed, size ChurnSize) (Report, error) {
	report := Report{Bench: "churn"}
	ts, err := b.databases(ctx, catalog.Dedicated, size.Dedicated, 1)
	if err != nil {
		return report, err
	}
	shared, err := b.databases(ctx, catalog.Shared, size.Shared, size.PerShared)
	if err != nil {
		return report, err
	}
	ts = append(ts, shared...)
	defer b.follow(ctx)()
	bytes, err := b.bytesPerTenant(ctx, len(ts))
	if err != nil {
		return report, err
	}
	// The order of popularity is the same in every run; dedicated tenants are in it as often as others, weighed by their databases.
	rnd := rand.New(rand.NewPCG(1, 2))
	order := churnOrder(rnd, ts, size)
	who, err := clients(ctx, order)
	if err != nil {
		return report, err
	}
	for i, budget := range size.Budgets {
		suffix := ""
		if i > 0 {
			suffix = fmt.Sprint("_", budget)
		}
		rows, err := b.churnOf(ctx, who, size, budget, suffix)
		if err != nil {
			return report, err
		}
		report.Results = append(report.Results, rows...)
	}
	pools, err := b.bytesPerPool(ctx, who)
	if err != nil {
		return report, err
	}
	report.Results = append(report.Results,
		Result{Name: "bytes_per_idle_pool", Value: pools, Unit: "bytes", Means: "heap of a pool that is kept and has no connection"},
		Result{Name: "bytes_per_known_tenant", Value: bytes, Unit: "bytes", Means: fmt.Sprintf("heap of the directory in memory, over %d tenants", len(ts))},
		Result{Name: "known_tenants", Value: float64(len(ts)), Unit: "tenants", Means: "in " + fmt.Sprint(size.Dedicated+size.Shared) + " databases, most of them of one tenant"},
	)
	return report, nil
}

// churnOrder ranks a few tenants of each shared database among the dedicated ones, and all others behind them: a database,
// not only a tenant, is what becomes cold.
func churnOrder(rnd *rand.Rand, ts []*catalog.Tenant, size ChurnSize) []*catalog.Tenant {
	front := append([]*catalog.Tenant{}, ts[:size.Dedicated]...)
	var back []*catalog.Tenant
	for i, t := range ts[size.Dedicated:] {
		if i%size.PerShared < 5 {
			front = append(front, t)
		} else {
			back = append(back, t)
		}
	}
	rnd.Shuffle(len(front), func(i, j int) { front[i], front[j] = front[j], front[i] })
	rnd.Shuffle(len(back), func(i, j int) { back[i], back[j] = back[j], back[i] })
	return append(front, back...)
}

// way is one way to take requests to databases.
type way struct {
	name  string
	start func() (read func(client) error, stop func(), err error)

	tally // of all rounds
	open  int

	hot, quiet tally // at a fixed rate
	// Of ours only.
	stat      func() router.Stat
	warm      *tally
	reclaimed int64
}

// ways are ours, and beside it the others.
func (b *Bed) ways(ctx context.Context, budget int) []*way {
	ours := &way{name: "ours", warm: &tally{}}
	ours.start = func() (func(client) error, func(), error) {
		rt, err := b.router(router.Config{AcquireTimeout: 10 * time.Second})
		if err != nil {
			return nil, nil, err
		}
		ours.stat = rt.Stat
		return func(c client) error { return c.read(rt) }, rt.Close, nil
	}
	ways := []*way{
		ours,
		{name: "naive_lru", start: func() (func(client) error, func(), error) {
			n, err := newNaive(b, max(1, budget/churnConns), churnConns)
			if err != nil {
				return nil, nil, err
			}
			return n.read, n.close, nil
		}},
		{name: "connect_per_request", start: func() (func(client) error, func(), error) { return b.connectEach, func() {}, nil }},
	}
	if path := findBouncer(); path != "" {
		ways = append(ways, &way{name: "pgbouncer", start: func() (func(client) error, func(), error) {
			p, err := b.startBouncer(ctx, path, budget, churnConns)
			if err != nil {
				return nil, nil, err
			}
			return p.read, p.stop, nil
		}})
	}
	return ways
}

// round has a way do its best for a while, on a server that nobody else uses.
func (b *Bed) round(ctx context.Context, w *way, who []client, pick *zipf, each time.Duration) error {
	if err := b.alone(ctx); err != nil {
		return err
	}
	read, stop, err := w.start()
	if err != nil { // it says so in its rows, and the others go on
		w.note(0, fmt.Errorf("%s: %w", w.name, err))
		return nil
	}
	defer stop()
	most, err := b.watch(ctx)
	if err != nil {
		return err
	}
	t := pick.saturate(each, func(i int) error { return read(who[i]) })
	open, err := most()
	w.add(t)
	w.open = max(w.open, open)
	return err
}

// churnOf compares every way with one budget, and looks closer at ours.
func (b *Bed) churnOf(ctx context.Context, who []client, size ChurnSize, budget int, suffix string) ([]Result, error) {
	err := b.update(ctx, func(tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set max_connections = $1", budget)
		return err
	})
	if err != nil {
		return nil, err
	}
	pick, ways := newZipf(len(who)), b.ways(ctx, budget)
	for range churnRounds { // alternating: a busy machine is busy for all
		for _, w := range ways {
			if err := b.round(ctx, w, who, pick, size.Each); err != nil {
				return nil, err
			}
		}
	}
	ours, rate := ways[0], math.Inf(1)
	for _, w := range fixedWays(ways) { // what all of them can do
		rate = min(rate, max(w.perSecond()*0.6, 20))
	}
	perSecond := ours.perSecond()
	for range churnRounds {
		for _, w := range fixedWays(ways) {
			if err := b.churnFixed(ctx, w, who, pick, size, rate); err != nil {
				return nil, err
			}
		}
	}
	failed := &tally{}
	for _, t := range []*tally{&ours.tally, &ours.hot, &ours.quiet, ours.warm} {
		failed.add(t)
	}
	all := &tally{}
	all.add(&ours.hot)
	all.add(&ours.quiet)
	quiet := Result{Name: "quiet_p99", Value: ours.quiet.quantile(0.99), Unit: "ms", Means: fmt.Sprintf("the slowest hundredth at that rate of all but the %d most popular tenants", churnHot)}
	if others := fixedWays(ways)[1:]; len(others) > 0 {
		quiet.Baseline, quiet.BaselineValue = others[0].name+"_quiet_p99", others[0].quiet.quantile(0.99)
		quiet.Ratio = quiet.Value / quiet.BaselineValue
	}
	rows := []Result{
		{Name: "errors", Value: float64(failed.errors), Unit: "errors", Means: "requests that failed" + failed.why()},
		{Name: "max_open_connections", Value: float64(ours.open), Unit: "connections", Baseline: "budget", BaselineValue: float64(budget), Ratio: float64(ours.open) / float64(budget), Means: "the most that the server had open at once, seen there"},
		{Name: "budget", Value: float64(budget), Unit: "connections", Means: "how many may be open to the server"},
		{Name: "p50", Value: all.quantile(0.5), Unit: "ms", Baseline: "warm_p50", BaselineValue: ours.warm.quantile(0.5), Ratio: all.quantile(0.5) / ours.warm.quantile(0.5), Means: fmt.Sprintf("at a fixed %.0f requests a second, against tenants that are always warm", rate)},
		{Name: "p99", Value: all.quantile(0.99), Unit: "ms", Baseline: "warm_p99", BaselineValue: ours.warm.quantile(0.99), Ratio: all.quantile(0.99) / ours.warm.quantile(0.99), Means: "the same at its slowest hundredth"},
		quiet,
		{Name: "req_per_s", Value: perSecond, Unit: "req/s", Means: fmt.Sprintf("%d clients without pause, Zipf %.1f", churnWorkers, churnSkew)},
		{Name: "reclaimed", Value: float64(ours.reclaimed), Unit: "connections", Means: "idle connections closed for another database meanwhile"},
	}
	for _, w := range ways[1:] {
		rows = append(rows,
			Result{Name: w.name + "_req_per_s", Value: w.perSecond(), Unit: "req/s", Means: "the same clients; those that failed do not count"},
			Result{Name: w.name + "_errors", Value: float64(w.errors), Unit: "errors", Means: "requests of it that failed" + w.why()},
			Result{Name: w.name + "_max_open", Value: float64(w.open), Unit: "connections", Means: "the most that the server had open at once meanwhile"},
		)
	}
	for i := range rows {
		rows[i].Name += suffix
	}
	return rows, nil
}

// churnHot are the tenants that are never quiet: fewer than there are connections.
const churnHot = 8

// fixedWays are those that are asked at a fixed rate too: ours, and PgBouncer where it runs.
func fixedWays(ways []*way) []*way {
	fixed := ways[:1]
	if last := ways[len(ways)-1]; last.name == "pgbouncer" && last.errors == 0 {
		fixed = []*way{ways[0], last}
	}
	return fixed
}

// churnFixed asks at a fixed rate: as the tenants are popular, and then, of ours, only those that are always warm.
func (b *Bed) churnFixed(ctx context.Context, w *way, who []client, pick *zipf, size ChurnSize, rate float64) error {
	if err := b.alone(ctx); err != nil {
		return err
	}
	read, stop, err := w.start()
	if err != nil {
		return err
	}
	defer stop()
	most, err := b.watch(ctx)
	if err != nil {
		return err
	}
	ranks := pick.ranks()
	popular := func(i int) error { return read(who[ranks[i%len(ranks)]]) }
	_ = offer(size.Each/2, rate, popular) // before it counts, what is popular is open
	offerTo(size.Each, rate, popular, func(i int) *tally {
		if ranks[i%len(ranks)] < churnHot {
			return &w.hot
		}
		return &w.quiet
	})
	if w.stat != nil {
		hot := func(i int) error { return read(who[i%min(len(who), churnHot)]) }
		_ = offer(size.Each/4, rate, hot)
		w.warm.add(offer(size.Each/2, rate, hot))
		for _, s := range w.stat().Servers {
			w.reclaimed += s.Reclaimed
		}
	}
	open, err := most()
	w.open = max(w.open, open)
	return err
}

// bytesPerTenant loads a second directory and looks at the heap.
func (b *Bed) bytesPerTenant(ctx context.Context, known int) (float64, error) {
	before := heap()
	d := tenants.NewDirectory(b.Catalog)
	if err := d.Load(ctx); err != nil {
		return 0, err
	}
	after := heap()
	runtime.KeepAlive(d)
	return float64(after-before) / float64(known), nil
}

// bytesPerPool opens a pool for each of the first databases, lets their connections go, and looks at the heap with the pools
// and without.
func (b *Bed) bytesPerPool(ctx context.Context, who []client) (float64, error) {
	rt, err := b.router(router.Config{IdleTimeout: 20 * time.Millisecond})
	if err != nil {
		return 0, err
	}
	defer rt.Close()
	for _, c := range who[:min(len(who), 64)] {
		if err := c.read(rt); err != nil {
			return 0, err
		}
	}
	for deadline := time.Now().Add(20 * time.Second); open(rt) > 0; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			return 0, fmt.Errorf("%d idle connections are left open", open(rt))
		}
	}
	kept := rt.Stat().Pools.Kept
	with := heap()
	rt.Close()
	return float64(with-heap()) / float64(kept), nil
}

// open is how many connections a router has.
func open(rt *router.Router) (n int) {
	for _, s := range rt.Stat().Servers {
		n += s.Open
	}
	return n
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// zipf picks the n-th most popular with a chance of 1/n^churnSkew. It is the same sequence in every run.
type zipf struct{ sums []float64 }

func newZipf(n int) *zipf {
	z := &zipf{sums: make([]float64, n)}
	sum := 0.0
	for i := range z.sums {
		sum += math.Pow(float64(i+1), -churnSkew)
		z.sums[i] = sum
	}
	return z
}

func (z *zipf) next(rnd *rand.Rand) int {
	at := rnd.Float64() * z.sums[len(z.sums)-1]
	return min(sort.SearchFloat64s(z.sums, at), len(z.sums)-1)
}

func (z *zipf) saturate(each time.Duration, ask func(i int) error) *tally {
	rnds := make([]*rand.Rand, churnWorkers)
	for w := range rnds {
		rnds[w] = rand.New(rand.NewPCG(uint64(w), 3))
	}
	return saturate(each, churnWorkers, func(w, _ int) error { return ask(z.next(rnds[w])) })
}

// ranks are picked before a request is sent, so that the sequence does not depend on who is answered first.
func (z *zipf) ranks() []int {
	picks := make([]int, 1<<16)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range picks {
		picks[i] = z.next(rnd)
	}
	return picks
}
