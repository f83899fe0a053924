package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
	"github.com/rowhouse/rowhouse/deploy/localpg"
)

// benchProvision measures on a private server with a catalog, on data that is thrown away.
func (a *app) benchProvision(ctx context.Context, l bench.Length) (bench.Report, error) {
	d, clean, err := a.benchHouse(ctx, "")
	if err != nil {
		return bench.Report{}, err
	}
	defer clean()
	files, err := devMigrations("")
	if err != nil {
		return bench.Report{}, err
	}
	h := bench.ProvisionHouse{
		Catalog: d.house.catalog, Runner: d.house.runner, Service: d.house.service, DSN: d.server.DSN, Files: files, Leftovers: 1000,
	}
	if l == bench.Quick {
		h.Within, h.Leftovers = 20*time.Second, 8
	}
	return bench.Provision(ctx, h, l)
}

// benchHouse is an empty house on a private server whose data stands below place, empty meaning where temporary files do.
// Nothing serves there and nothing works but what is asked to.
func (a *app) benchHouse(ctx context.Context, place string) (d *devHouse, clean func(), err error) {
	dir, remove, err := benchDirIn(place)
	if err != nil {
		return nil, nil, err
	}
	server, err := localpg.Start(ctx, localpg.Config{Dir: dir, PGBin: a.env("ROWHOUSE_PG_BIN"), RuntimeDir: a.env("XDG_RUNTIME_DIR")})
	if err != nil {
		remove()
		return nil, nil, err
	}
	stop := func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		_ = server.Stop(stopping)
		remove()
	}
	d = &devHouse{app: a, dir: dir, server: server, log: slog.New(slog.DiscardHandler)}
	if err := d.prepare(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		stop()
		return nil, nil, err
	}
	return d, func() {
		d.house.router.Close()
		d.house.catalog.Close()
		stop()
	}, nil
}
