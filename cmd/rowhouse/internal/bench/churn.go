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
	QuickChurn = ChurnSize{Dedicated: 80, Shared: 4, PerShared: 500, Budgets: []int{40}, Each: 2 * time.Second}
	FullChurn  = ChurnSize{Dedicated: 300, Shared: 20, PerShared: 485, Budgets: []int{40, 160, 320}, Each: 6 * time.Second}
)

const (
	churnSkew    = 1.1
	churnWorkers = 32
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
	report.Results = append(report.Results,
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

// churnOf runs every way with one budget: ours, and beside it the others.
func (b *Bed) churnOf(ctx context.Context, who []client, size ChurnSize, budget int, suffix string) ([]Result, error) {
	err := b.update(ctx, func(tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set max_connections = $1", budget)
		return err
	})
	if err != nil {
		return nil, err
	}
	pick := newZipf(len(who))
	rt, err := b.router(router.Config{AcquireTimeout: 10 * time.Second})
	if err != nil {
		return nil, err
	}
	most, err := b.watch(ctx)
	if err != nil {
		rt.Close()
		return nil, err
	}
	ours := pick.saturate(size.Each, func(i int) error { return who[i].read(rt) })
	rate := max(ours.perSecond()*0.6, 20)
	fixed := offer(size.Each, rate, pick.ask(func(i int) error { return who[i].read(rt) }))
	hot := min(len(who), 8) // fewer databases than connections
	_ = offer(size.Each/4, rate, func(i int) error { return who[i%hot].read(rt) })
	warm := offer(size.Each/2, rate, func(i int) error { return who[i%hot].read(rt) })
	open, err := most()
	reclaimed := int64(0)
	for _, s := range rt.Stat().Servers {
		reclaimed += s.Reclaimed
	}
	rt.Close()
	if err != nil {
		return nil, err
	}
	failed, why := ours.errors+fixed.errors+warm.errors, ""
	for _, t := range []*tally{ours, fixed, warm} {
		if t.first != nil {
			why = "; the first: " + t.first.Error()
			break
		}
	}
	rows := []Result{
		{Name: "errors" + suffix, Value: float64(failed), Unit: "errors", Means: "requests that failed" + why},
		{Name: "max_open_connections" + suffix, Value: float64(open), Unit: "connections", Baseline: "budget", BaselineValue: float64(budget), Ratio: float64(open) / float64(budget), Means: "the most that the server had open at once, seen there"},
		{Name: "budget" + suffix, Value: float64(budget), Unit: "connections", Means: "how many may be open to the server"},
		{Name: "p50" + suffix, Value: fixed.quantile(0.5), Unit: "ms", Baseline: "warm_p50", BaselineValue: warm.quantile(0.5), Ratio: fixed.quantile(0.5) / warm.quantile(0.5), Means: fmt.Sprintf("at a fixed %.0f requests a second, against tenants that are always warm", rate)},
		{Name: "p99" + suffix, Value: fixed.quantile(0.99), Unit: "ms", Baseline: "warm_p99", BaselineValue: warm.quantile(0.99), Ratio: fixed.quantile(0.99) / warm.quantile(0.99), Means: "the same at its slowest hundredth"},
		{Name: "req_per_s" + suffix, Value: ours.perSecond(), Unit: "req/s", Means: fmt.Sprintf("%d clients without pause, Zipf %.1f", churnWorkers, churnSkew)},
		{Name: "reclaimed" + suffix, Value: float64(reclaimed), Unit: "connections", Means: "idle connections closed for another database"},
	}
	peers, err := b.churnPeers(ctx, who, size, budget, suffix, ours.perSecond())
	return append(rows, peers...), err
}

// churnPeers has the other ways do the same, one after the other on a server that nobody else uses.
func (b *Bed) churnPeers(ctx context.Context, who []client, size ChurnSize, budget int, suffix string, ours float64) ([]Result, error) {
	pick := newZipf(len(who))
	var rows []Result
	peer := func(name string, read func(client) error) (*tally, error) {
		if err := b.alone(ctx); err != nil {
			return nil, err
		}
		most, err := b.watch(ctx)
		if err != nil {
			return nil, err
		}
		t := pick.saturate(size.Each, func(i int) error { return read(who[i]) })
		open, err := most()
		rows = append(rows,
			Result{Name: name + "_req_per_s" + suffix, Value: t.perSecond(), Unit: "req/s", Means: "the same clients by " + name + "; ours do " + fmt.Sprintf("%.1f times that", ours/t.perSecond())},
			Result{Name: name + "_max_open" + suffix, Value: float64(open), Unit: "connections", Means: "the most that the server had open at once meanwhile"},
		)
		return t, err
	}
	n, err := newNaive(b, max(1, budget/churnConns), churnConns)
	if err != nil {
		return nil, err
	}
	t, err := peer("naive_lru", n.read)
	n.close()
	if err != nil {
		return nil, err
	}
	why := ""
	if t.first != nil {
		why = "; the first: " + t.first.Error()
	}
	rows = append(rows, Result{Name: "naive_lru_errors" + suffix, Value: float64(t.errors), Unit: "errors", Means: fmt.Sprintf("of a cache of %d pools whose evicted pool is closed%s", max(1, budget/churnConns), why)})
	if _, err := peer("connect_per_request", b.connectEach); err != nil {
		return nil, err
	}
	path := findBouncer()
	if path == "" {
		return rows, nil
	}
	if err := b.alone(ctx); err != nil {
		return nil, err
	}
	p, err := b.startBouncer(ctx, path, budget, churnConns)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	t, err = peer("pgbouncer", p.read)
	if err == nil {
		rows = append(rows, Result{Name: "pgbouncer_errors" + suffix, Value: float64(t.errors), Unit: "errors", Means: "requests that failed there"})
	}
	return rows, err
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

// ask picks before a request is sent, so that the sequence does not depend on who is answered first.
func (z *zipf) ask(ask func(i int) error) func(int) error {
	picks := make([]int, 1<<16)
	rnd := rand.New(rand.NewPCG(5, 6))
	for i := range picks {
		picks[i] = z.next(rnd)
	}
	return func(i int) error { return ask(picks[i%len(picks)]) }
}
