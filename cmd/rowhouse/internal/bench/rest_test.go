package bench_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
)

// Every row of the contract is there, and one schema serves all tenants.
func TestRest_rows(t *testing.T) {
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
	report, err := bench.Rest(t.Context(), bed, bench.Length{Rounds: 1, Each: 30 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bench.Result{}
	for _, r := range report.Results {
		found[r.Name] = r
	}
	for _, what := range []string{"get_by_key", "list_100", "list_embed", "insert", "upsert", "rpc"} {
		for _, where := range []string{"dedicated_c1", "dedicated_c16", "shared_c1", "shared_c16"} {
			if r := found[fmt.Sprintf("%s_%s", what, where)]; r.Value <= 0 || r.Ratio <= 0 || r.Baseline != "bare_handler" || r.Unit != "req/s" || r.Means == "" {
				t.Errorf("%s_%s: %+v", what, where, r)
			}
		}
	}
	if r := found["introspections_500_tenants"]; r.Value != 1 {
		t.Errorf("%v schemas were read for 500 tenants of one fingerprint", r.Value)
	}
	if r, ok := found["schema_cache_bytes_500_tenants"]; !ok || r.Unit != "bytes" || r.Value > 10<<20 {
		t.Errorf("%+v", r)
	}
	if len(report.Results) != 26 {
		t.Errorf("%d rows, want 26", len(report.Results))
	}
}
