package bench_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
)

// Each benchmark says what it promises to, on a scale that shows nothing about speed, and leaves nothing behind.
func TestBenchmarks_say_what_they_promise(t *testing.T) {
	tiny := bench.Length{Rounds: 1, Each: 150 * time.Millisecond, Workers: 2}
	for name, tt := range map[string]struct {
		measure func(*testing.T, *bench.Bed) (bench.Report, error)
		rows    []string
		none    []string // rows that must be 0
	}{
		"cold": {
			func(t *testing.T, b *bench.Bed) (bench.Report, error) { return bench.Cold(t.Context(), b, tiny) },
			[]string{"cold_first_request"},
			nil,
		},
		"noisy": {
			func(t *testing.T, b *bench.Bed) (bench.Report, error) { return bench.Noisy(t.Context(), b, tiny) },
			[]string{"quiet_p99_alone", "quiet_p99_with_noise", "errors_quiet"},
			[]string{"errors_quiet"},
		},
		"cutover": {
			func(t *testing.T, b *bench.Bed) (bench.Report, error) {
				return bench.Cutover(t.Context(), b, tiny, nil)
			},
			[]string{"failed_reads", "failed_writes", "longest_read_gap", "longest_write_gap"},
			[]string{"failed_reads", "failed_writes"},
		},
		"soak": {
			func(t *testing.T, b *bench.Bed) (bench.Report, error) {
				return bench.Soak(t.Context(), b, bench.Length{For: 4 * time.Second})
			},
			[]string{"errors", "requests", "goroutines", "heap", "connections", "max_open_connections"},
			[]string{"errors"},
		},
		"churn": {
			func(t *testing.T, b *bench.Bed) (bench.Report, error) {
				return bench.Churn(t.Context(), b, bench.ChurnSize{Dedicated: 12, Shared: 1, PerShared: 20, Budgets: []int{8}, Each: 300 * time.Millisecond})
			},
			[]string{"errors", "max_open_connections", "budget", "p50", "p99", "quiet_p99", "req_per_s", "naive_lru_errors", "bytes_per_known_tenant", "bytes_per_idle_pool"},
			[]string{"errors"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			above, err := os.MkdirTemp(bench.MemoryDir(), "rowhouse-bench-test-")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(above) })
			if err := os.Chmod(above, 0o755); err != nil { // the server's user must come in
				t.Fatal(err)
			}
			bed, err := bench.MakeBed(t.Context(), bench.BedConfig{Dir: filepath.Join(above, "data")})
			if err != nil {
				t.Fatal(err)
			}
			defer bed.Remove()
			report, err := tt.measure(t, bed)
			if err != nil {
				t.Fatal(err)
			}
			found := map[string]bench.Result{}
			for _, r := range report.Results {
				if _, twice := found[r.Name]; twice || r.Unit == "" || r.Means == "" {
					t.Errorf("row %+v", r)
				}
				found[r.Name] = r
			}
			for _, row := range tt.rows {
				r, ok := found[row]
				if !ok {
					t.Errorf("no row %s", row)
				}
				if r.Value != 0 == slices.Contains(tt.none, row) && row != "naive_lru_errors" {
					t.Errorf("%s is %v %s: %s", row, r.Value, r.Unit, r.Means)
				}
			}
			if report.Bench != name {
				t.Errorf("it calls itself %q", report.Bench)
			}
			if most := found["max_open_connections"]; most.Value > most.BaselineValue {
				t.Errorf("%v connections, the budget is %v", most.Value, most.BaselineValue)
			}
		})
	}
}
