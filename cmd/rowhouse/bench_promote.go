package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// benchPromote measures on a dev that serves in a process of its own.
func (a *app) benchPromote(ctx context.Context, l bench.Length) (bench.Report, error) {
	dir, clean, err := benchDirIn(bench.MemoryDir())
	if err != nil {
		return bench.Report{}, err
	}
	defer clean()
	d, err := startBenchDev(ctx, dir)
	if err != nil {
		return bench.Report{}, err
	}
	defer func() { _ = d.stop() }()
	a.data = dir
	cfg, err := a.devConfig()
	if err != nil {
		return bench.Report{}, err
	}
	running, err := localpg.Running(dir)
	if err != nil {
		return bench.Report{}, err
	}
	log := slog.New(slog.DiscardHandler)
	cat, err := openCatalog(ctx, cfg, log)
	if err != nil {
		return bench.Report{}, err
	}
	defer cat.Close()
	runner, err := jobs.New(cat, jobs.Config{Logger: log}) // it only asks; the dev does the work
	if err != nil {
		return bench.Report{}, err
	}
	h := bench.PromoteHouse{
		Catalog: cat, Service: tenants.NewService(cat, runner), URL: d.DataURL, DSN: running.DSN, Sizes: bench.PromoteSizes,
		Token: func(t *catalog.Tenant) (string, error) { return mintFor(cfg, t, "authenticated", "bench", time.Hour) },
	}
	if l == bench.Quick {
		h.Within = 30 * time.Second
	}
	if found, err := localpg.Find(ctx, localpg.FindOptions{Bin: a.env("ROWHOUSE_PG_BIN")}); err == nil {
		h.PGBin = found.Dir
	}
	return bench.Promote(ctx, h)
}
