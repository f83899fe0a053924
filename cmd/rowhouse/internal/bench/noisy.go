package bench

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// noisyWorkers ask for one tenant without pause, each holding a connection for noisyHolds at a time.
const (
	noisyWorkers = 200
	noisyHolds   = "5 ms"
	quietTenants = 20
	quietRate    = 100.0 // requests a second, of all of them
)

// Noisy measures what quiet tenants of a shared database feel of one that floods it.
func Noisy(ctx context.Context, b *Bed, l Length) (Report, error) {
	report := Report{Bench: "noisy"}
	ts, err := b.databases(ctx, catalog.Shared, 1, quietTenants+1)
	if err != nil {
		return report, err
	}
	defer b.follow(ctx)()
	rt, err := b.router(router.Config{})
	if err != nil {
		return report, err
	}
	defer rt.Close()
	who, err := clients(ctx, ts)
	if err != nil {
		return report, err
	}
	noisy, quiet := who[0], who[1:]
	phase := 6 * l.Each
	ask := func(i int) error { return quiet[i%len(quiet)].read(rt) }
	offer(l.Each, quietRate, ask) // warm
	var p50s, p99s, p50n, p99n, ratios []float64
	failed := 0
	var noise noise
	for range 2 { // alternating: a busy machine is busy for both
		alone := offer(phase/2, quietRate, ask)
		stop := noise.start(ctx, rt, noisy)
		with := offer(phase/2, quietRate, ask)
		stop()
		failed += alone.errors + with.errors
		p50s, p99s = append(p50s, alone.quantile(0.5)), append(p99s, alone.quantile(0.99))
		p50n, p99n = append(p50n, with.quantile(0.5)), append(p99n, with.quantile(0.99))
		ratios = append(ratios, with.quantile(0.99)/alone.quantile(0.99))
	}
	span := phase.Seconds()
	report.Results = []Result{
		{Name: "quiet_p99_alone", Value: mean(p99s), Unit: "ms", Means: "twenty quiet tenants of a shared database, when nobody else is there"},
		{
			Name: "quiet_p99_with_noise", Value: mean(p99n), Unit: "ms", Baseline: "quiet_p99_alone", BaselineValue: mean(p99s), Ratio: mean(ratios),
			Means: "the same while 200 workers of one tenant hold a connection for 5 ms each, without pause",
		},
		{Name: "errors_quiet", Value: float64(failed), Unit: "errors", Means: "requests of quiet tenants that failed, with or without the noise"},
		{Name: "quiet_p50_with_noise", Value: mean(p50n), Unit: "ms", Baseline: "quiet_p50_alone", BaselineValue: mean(p50s), Ratio: mean(p50n) / mean(p50s), Means: "the same in the middle"},
		{Name: "noise_served", Value: float64(noise.served.Load()) / span, Unit: "req/s", Means: "what the noisy tenant got through"},
		{Name: "noise_refused", Value: float64(noise.refused.Load()) / span, Unit: "req/s", Means: "what of it was told to come again later"},
	}
	return report, nil
}

func mean(values []float64) (sum float64) {
	for _, v := range values {
		sum += v / float64(len(values))
	}
	return sum
}

// noise is one tenant's flood.
type noise struct{ served, refused atomic.Int64 }

func (n *noise) start(ctx context.Context, rt *router.Router, c client) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	tenant, release := context.WithCancel(c.ctx)
	var working sync.WaitGroup
	for range noisyWorkers {
		working.Go(func() {
			for ctx.Err() == nil {
				err := rt.BeginFunc(tenant, func(tx pgx.Tx) error {
					_, err := tx.Exec(tenant, "select pg_sleep(extract(epoch from $1::interval))", noisyHolds)
					return err
				})
				switch {
				case err == nil:
					n.served.Add(1)
				case ctx.Err() == nil && !errors.Is(err, context.Canceled):
					n.refused.Add(1)
					time.Sleep(100 * time.Millisecond) // ten times sooner than it is asked to
				}
			}
		})
	}
	return func() {
		cancel()
		time.AfterFunc(time.Second, release) // those that wait in a queue do not wait it out
		working.Wait()
		release()
	}
}
