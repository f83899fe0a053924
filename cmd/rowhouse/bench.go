package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
)

// benchmarks by name. Each gets a dev of its own to measure.
var benchmarks = map[string]func(*app, context.Context, bench.Length) (bench.Report, error){
	"churn":     onBed(churn),
	"cold":      onBed(bench.Cold),
	"cutover":   (*app).benchCutover,
	"fleet":     (*app).benchFleet,
	"noisy":     onBed(bench.Noisy),
	"promote":   (*app).benchPromote,
	"provision": (*app).benchProvision,
	"rest":      onBed(bench.Rest),
	"route":     (*app).benchRoute,
	"soak":      onBed(bench.Soak),
	"start":     (*app).benchStart,
}

// benchNames are their names, in order.
func benchNames() []string { return slices.Sorted(maps.Keys(benchmarks)) }

type benchRow struct{ bench.Result }

func (benchRow) columns() []string {
	return []string{"name", "value", "unit", "baseline", "baseline value", "ratio", ""}
}

func (b benchRow) row() []any {
	if b.Baseline == "" {
		return []any{b.Name, fmt.Sprintf("%.1f", b.Value), b.Unit, "", "", "", b.Means}
	}
	return []any{b.Name, fmt.Sprintf("%.1f", b.Value), b.Unit, b.Baseline, fmt.Sprintf("%.1f", b.BaselineValue), fmt.Sprintf("%.2f", b.Ratio), b.Means}
}

func (a *app) bench() *cobra.Command {
	var quick bool
	var long time.Duration
	c := &cobra.Command{
		Use: "bench (" + strings.Join(benchNames(), "|") + ")", Short: "Measure rowhouse beside baselines, in one run, as ratios", Args: exactly("NAME"),
		ValidArgs: benchNames(),
		RunE: a.do(func(ctx context.Context, args []string) error {
			measure, ok := benchmarks[args[0]]
			if !ok {
				return usage("no benchmark %q: there are %s", args[0], strings.Join(benchNames(), ", "))
			}
			length := bench.Full
			if quick {
				length = bench.Quick
			}
			switch {
			case long < 0:
				return usage("--for is negative")
			case long > 0 && args[0] != "soak":
				return usage("--for is for soak: %s takes as long as it needs", args[0])
			}
			length.For = long
			report, err := measure(a, ctx, length)
			if err != nil {
				return err
			}
			if a.output == "table" {
				return a.print(rows(report.Results, func(r bench.Result) benchRow { return benchRow{r} }))
			}
			return a.print(report)
		}),
	}
	c.Flags().BoolVar(&quick, "quick", false, "end within 40 seconds")
	c.Flags().DurationVar(&long, "for", 0, "how long a soak goes on (5m, or 20s when quick)")
	return c
}

// benchDev is a dev in a process of its own, on data that is thrown away.
type benchDev struct {
	devState
	dir string
	cmd *exec.Cmd
}

func startBenchDev(ctx context.Context, dir string) (*benchDev, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	d := &benchDev{dir: dir, cmd: exec.CommandContext(ctx, self, "dev", "-o", "json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", dir)}
	d.cmd.Cancel = func() error { return d.cmd.Process.Signal(syscall.SIGTERM) }
	d.cmd.WaitDelay = 20 * time.Second
	d.cmd.Stderr = os.Stderr
	out, err := d.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := d.cmd.Start(); err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &d.devState)
	}
	if err != nil {
		return nil, errors.Join(errors.New("dev for the benchmark did not start"), d.stop())
	}
	return d, nil
}

func (d *benchDev) stop() error {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	return d.cmd.Wait()
}

// onBed has a benchmark run on a private server of its own that is gone afterwards.
func onBed(measure func(context.Context, *bench.Bed, bench.Length) (bench.Report, error)) func(*app, context.Context, bench.Length) (bench.Report, error) {
	return func(a *app, ctx context.Context, l bench.Length) (bench.Report, error) {
		dir, clean, err := benchDirIn(bench.MemoryDir())
		if err != nil {
			return bench.Report{}, err
		}
		defer clean()
		bed, err := bench.MakeBed(ctx, bench.BedConfig{Dir: dir, PGBin: a.env("ROWHOUSE_PG_BIN")})
		if err != nil {
			return bench.Report{}, err
		}
		defer bed.Remove()
		return measure(ctx, bed, l)
	}
}

func churn(ctx context.Context, b *bench.Bed, l bench.Length) (bench.Report, error) {
	if l == bench.Quick {
		return bench.Churn(ctx, b, bench.QuickChurn)
	}
	return bench.Churn(ctx, b, bench.FullChurn)
}

// benchDir is a directory that PostgreSQL's user can enter, also when we are root.
func benchDir() (string, func(), error) { return benchDirIn("") }

func benchDirIn(place string) (string, func(), error) {
	above, err := os.MkdirTemp(place, "rowhouse-bench-")
	if err != nil {
		return "", nil, err
	}
	return filepath.Join(above, "data"), func() { _ = os.RemoveAll(above) }, os.Chmod(above, 0o755)
}

func (a *app) benchRoute(ctx context.Context, l bench.Length) (bench.Report, error) {
	return a.besideDev(ctx, func(ctx context.Context, h *house) (bench.Report, error) {
		handler, err := h.publicHandler()
		if err != nil {
			return bench.Report{}, err
		}
		measured := bench.House{Catalog: h.catalog, Router: h.router, Handler: handler}
		for name, into := range map[string]*bench.Tenant{"acme": &measured.Shared, "initech": &measured.Dedicated} {
			if *into, err = h.benchTenant(ctx, name); err != nil {
				return bench.Report{}, err
			}
		}
		return bench.Route(ctx, measured, l)
	})
}

func (h *house) benchTenant(ctx context.Context, name string) (bench.Tenant, error) {
	t, err := h.directory.Tenant(ctx, name)
	if err != nil {
		return bench.Tenant{}, err
	}
	token, err := mintFor(h.config, t, "authenticated", "bench", time.Hour)
	return bench.Tenant{Tenant: t, Token: token}, err
}

// benchStart measures how long a dev takes until it serves: on a machine that has never seen it, and again.
func (a *app) benchStart(ctx context.Context, l bench.Length) (bench.Report, error) {
	dir, clean, err := benchDir()
	if err != nil {
		return bench.Report{}, err
	}
	defer clean()
	report := bench.Report{Bench: "start"}
	took := func() (float64, error) {
		began := time.Now()
		d, err := startBenchDev(ctx, dir)
		if err != nil {
			return 0, err
		}
		ms := float64(time.Since(began).Microseconds()) / 1000
		return ms, d.stop()
	}
	first, err := took()
	if err != nil {
		return report, err
	}
	again := 0.0
	for range l.Rounds {
		ms, err := took()
		if err != nil {
			return report, err
		}
		again += ms / float64(l.Rounds)
	}
	report.Results = []bench.Result{
		{Name: "first_start", Value: first, Unit: "ms", Means: "initdb, catalog, three tenants with rows, until everything serves"},
		{Name: "second_start", Value: again, Unit: "ms", Baseline: "first_start", BaselineValue: first, Ratio: again / first, Means: "the same data again, until everything serves; the mean of the rounds"},
	}
	return report, nil
}
