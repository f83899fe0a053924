package bench

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// How long a soak goes on where nobody says.
const (
	quickSoak = 20 * time.Second
	fullSoak  = 5 * time.Minute
)

const (
	soakBudget  = 40
	soakWorkers = 8               // of each replica
	soakPace    = 5 * time.Second // between two replacements: joining takes a part of it
)

// Soak has two replicas share a server for a long time, asked for more databases than it has connections, one of them
// replaced again and again, and looks whether anything grows: goroutines, heap, connections.
func Soak(ctx context.Context, b *Bed, l Length) (Report, error) {
	report := Report{Bench: "soak"}
	long := l.For
	if long == 0 {
		long = fullSoak
		if l == Quick {
			long = quickSoak
		}
	}
	ts, err := b.databases(ctx, catalog.Dedicated, 60, 1)
	if err != nil {
		return report, err
	}
	shared, err := b.databases(ctx, catalog.Shared, 2, 200)
	if err != nil {
		return report, err
	}
	err = b.update(ctx, func(tx *catalog.Tx) error {
		_, err := tx.Exec(ctx, "update rowhouse.servers set max_connections = $1", soakBudget)
		return err
	})
	if err != nil {
		return report, err
	}
	defer b.follow(ctx)()
	who, err := clients(ctx, append(ts, shared...))
	if err != nil {
		return report, err
	}
	most, err := b.watch(ctx)
	if err != nil {
		return report, err
	}
	s := &soak{bed: b, who: who, pick: newZipf(len(who))}
	err = s.run(ctx, long)
	open, watching := most()
	if err = errors.Join(err, watching); err != nil {
		return report, err
	}
	report.Results = s.rows(open)
	return report, nil
}

// soak is what a soak saw. Its samples are of the whole process.
type soak struct {
	bed  *Bed
	who  []client
	pick *zipf

	tally                    // of all requests, without their times
	mu                       sync.Mutex
	served                   int
	replaced                 int
	goroutines, heaps, conns []float64
}

// soaker is one of the replicas, and its load.
type soaker struct {
	*router.Router
	stop func()
}

func (s *soak) start(ctx context.Context, seed uint64) (*soaker, error) {
	rt, err := router.New(s.bed.Directory, router.Config{Registry: s.bed.Catalog, AcquireTimeout: 20 * time.Second, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	var running, asking sync.WaitGroup
	running.Go(func() { _ = rt.Run(ctx) })
	done := make(chan struct{})
	for w := range soakWorkers {
		asking.Go(func() {
			rnd := rand.New(rand.NewPCG(seed, uint64(w)))
			for {
				select {
				case <-done:
					return
				default:
				}
				s.ask(rt, s.who[s.pick.next(rnd)], rnd.IntN(10) == 0)
			}
		})
	}
	return &soaker{rt, func() { close(done); asking.Wait(); rt.Close(); cancel(); running.Wait() }}, nil
}

func (s *soak) ask(rt *router.Router, c client, write bool) {
	do := c.read
	if write {
		do = c.write
	}
	err := do(rt)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.served++
	if err != nil {
		s.note(0, err)
	}
}

func (s *soak) run(ctx context.Context, long time.Duration) error {
	steady, err := s.start(ctx, 1)
	if err != nil {
		return err
	}
	defer func() { steady.stop() }()
	samples := max(int(long/soakPace), 4)
	for sample := range samples {
		other, err := s.start(ctx, uint64(2+sample))
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			other.stop()
			return ctx.Err()
		case <-time.After(long / time.Duration(samples)):
		}
		s.sample(steady, other)
		other.stop()
		s.replaced++
	}
	return nil
}

func (s *soak) sample(replicas ...*soaker) {
	conns := 0
	for _, r := range replicas {
		conns += open(r.Router)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, float64(conns))
	s.goroutines = append(s.goroutines, float64(runtime.NumGoroutine()))
	s.heaps = append(s.heaps, float64(heap())/(1<<20))
}

// grown compares the last quarter of samples with the second one: the first is for warming up.
func grown(name, unit, means string, samples []float64) Result {
	quarter := len(samples) / 4
	r := Result{Name: name, Value: median(samples[3*quarter:]), Unit: unit, Baseline: name + "_before", BaselineValue: median(samples[quarter : 2*quarter]), Means: means}
	r.Ratio = r.Value / r.BaselineValue
	return r
}

func (s *soak) rows(most int) []Result {
	return []Result{
		{Name: "errors", Value: float64(s.errors), Unit: "errors", Means: "requests that failed" + s.why()},
		{Name: "requests", Value: float64(s.served), Unit: "requests", Means: fmt.Sprintf("of two replicas, one of which was replaced %d times", s.replaced)},
		grown("goroutines", "goroutines", "in the middle of the last quarter, against the second one: flat is 1", s.goroutines),
		grown("heap", "MiB", "the same, of the heap that is in use", s.heaps),
		grown("connections", "connections", "the same, of both replicas", s.conns),
		{
			Name: "max_open_connections", Value: float64(most), Unit: "connections", Baseline: "budget", BaselineValue: soakBudget, Ratio: float64(most) / soakBudget,
			Means: "the most that the server had open at once, seen there",
		},
	}
}
