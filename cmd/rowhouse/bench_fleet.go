package main

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
	"github.com/rowhouse/rowhouse/deploy/localpg"
)

// How many databases the fleet of the benchmark has.
const (
	fleetQuick = 40
	fleetFull  = 200
)

// benchFleet measures on a private server with a catalog, on data that is thrown away. Nothing serves there.
func (a *app) benchFleet(ctx context.Context, l bench.Length) (bench.Report, error) {
	dir, clean, err := benchDir()
	if err != nil {
		return bench.Report{}, err
	}
	defer clean()
	server, err := localpg.Start(ctx, localpg.Config{Dir: dir, PGBin: a.env("ROWHOUSE_PG_BIN"), RuntimeDir: a.env("XDG_RUNTIME_DIR")})
	if err != nil {
		return bench.Report{}, err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
		defer cancel()
		_ = server.Stop(stopping)
	}()
	d := &devHouse{app: a, dir: dir, server: server, log: slog.New(slog.DiscardHandler)}
	if err := d.prepare(ctx, "127.0.0.1:0", "127.0.0.1:0"); err != nil {
		return bench.Report{}, err
	}
	defer d.house.catalog.Close()
	defer d.house.router.Close()
	h := bench.FleetHouse{
		Catalog: d.house.catalog, Runner: d.house.runner, Service: d.house.service, DSN: server.DSN, DSNAs: server.DSNAs,
		PSQL: a.psql(ctx), Databases: fleetFull,
	}
	if l == bench.Quick {
		h.Databases, h.Within = fleetQuick, 22*time.Second
	}
	return bench.Fleet(ctx, h, l)
}

// psql is the program that belongs to the server; a distribution's wrapper around it is several times slower.
func (a *app) psql(ctx context.Context) string {
	found, err := localpg.Find(ctx, localpg.FindOptions{Bin: a.env("ROWHOUSE_PG_BIN")})
	if err != nil {
		return ""
	}
	file := filepath.Join(found.Dir, "psql")
	if _, err := os.Stat(file); err != nil {
		return ""
	}
	return file
}
