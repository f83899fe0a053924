package main

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
	"github.com/rowhouse/rowhouse/deploy/localpg"
)

// How many databases the fleet of the benchmark has.
const (
	fleetQuick = 100
	fleetFull  = 500
)

// benchFleet measures on a private server with a catalog, on data that is thrown away. Nothing serves there.
func (a *app) benchFleet(ctx context.Context, l bench.Length) (bench.Report, error) {
	d, clean, err := a.benchHouse(ctx, bench.MemoryDir())
	if err != nil {
		return bench.Report{}, err
	}
	defer clean()
	h := bench.FleetHouse{
		Catalog: d.house.catalog, Runner: d.house.runner, Service: d.house.service, DSN: d.server.DSN, DSNAs: d.server.DSNAs,
		PSQL: a.psql(ctx), Databases: fleetFull, Within: 6 * time.Minute,
	}
	if l == bench.Quick {
		h.Databases, h.Within = fleetQuick, 20*time.Second
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
