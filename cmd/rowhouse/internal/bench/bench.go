// Package bench measures rowhouse beside baselines, in the same run, as ratios.
package bench

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Report is what a benchmark found.
type Report struct {
	Bench   string   `json:"bench"`
	Results []Result `json:"results"`
}

// Result is one figure, beside its baseline where it has one.
type Result struct {
	Name          string  `json:"name"`
	Value         float64 `json:"value"`
	Unit          string  `json:"unit"`
	Baseline      string  `json:"baseline,omitempty"`
	BaselineValue float64 `json:"baseline_value,omitempty"`
	// Ratio is Value over BaselineValue, the median of the rounds' own ratios.
	Ratio float64 `json:"ratio,omitempty"`
	// Means says in a sentence what the row is about.
	Means string `json:"means"`
}

// Length is how long a benchmark may take: rounds that alternate between what is compared.
type Length struct {
	Rounds  int
	Each    time.Duration
	Workers int
	// For is how long a soak goes on. Zero: 20 s when it is quick, else 5 minutes.
	For time.Duration
}

// Lengths of a quick run and of a full one.
var (
	Quick = Length{Rounds: 3, Each: 400 * time.Millisecond, Workers: 8}
	Full  = Length{Rounds: 7, Each: 2 * time.Second, Workers: 8}
)

// throughput runs op in l.Workers goroutines for l.Each and gives operations a second.
func throughput(ctx context.Context, l Length, op func(context.Context, int) error) (float64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var done atomic.Int64
	var failure error
	var once sync.Once
	var working sync.WaitGroup
	began := time.Now()
	end := began.Add(l.Each)
	for w := range l.Workers {
		working.Go(func() {
			for time.Now().Before(end) {
				if err := op(ctx, w); err != nil {
					once.Do(func() { failure = err; cancel() })
					return
				}
				done.Add(1)
			}
		})
	}
	working.Wait()
	return float64(done.Load()) / time.Since(began).Seconds(), failure
}

// compare alternates ours and the baseline, after a round of each that does not count.
func compare(ctx context.Context, l Length, r Result, ours, baseline func(context.Context, int) error) (Result, error) {
	var values, baselines, ratios []float64
	for round := range l.Rounds + 1 {
		v, err := throughput(ctx, l, ours)
		if err != nil {
			return r, fmt.Errorf("%s: %w", r.Name, err)
		}
		b, err := throughput(ctx, l, baseline)
		if err != nil {
			return r, fmt.Errorf("%s: %w", r.Baseline, err)
		}
		if round > 0 {
			values, baselines, ratios = append(values, v), append(baselines, b), append(ratios, v/b)
		}
	}
	r.Value, r.BaselineValue, r.Ratio = median(values), median(baselines), median(ratios)
	return r, nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}
