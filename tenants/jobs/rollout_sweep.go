package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// How databases are looked into: each so often, a few every minute, so that a fleet of ten thousand is gone through in a day.
const (
	lookEvery = 24 * time.Hour
	lookTick  = time.Minute
	lookBatch = 20
)

// lookAround looks into the databases that are due, one after the other, until ctx ends.
func (r *Runner) lookAround(ctx context.Context) {
	tick := time.NewTicker(lookTick)
	defer tick.Stop()
	for {
		if _, err := r.LookDue(ctx, lookEvery, lookBatch); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "databases cannot be looked into", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// LookDue looks into up to n databases that nobody has looked into for so long: whether they are at the version and look as the
// catalog says, and whether they show rows to somebody without a tenant. What was found stands in the catalog. It says how
// many were looked into.
func (r *Runner) LookDue(ctx context.Context, every time.Duration, n int) (int, error) {
	due, err := r.catalog.DueLooks(ctx, every, n)
	if err != nil || len(due) == 0 {
		return 0, err
	}
	set, err := r.born(ctx)
	if err != nil {
		return 0, err
	}
	for i, m := range due {
		if ctx.Err() != nil {
			return i, ctx.Err()
		}
		look := r.lookInto(ctx, set.Migrator, m)
		if ctx.Err() != nil {
			return i, ctx.Err()
		}
		if look.Stale || look.Drift || look.Leak != "" {
			r.log.ErrorContext(ctx, "database is not as the catalog says", "database", m.Name, "stale", look.Stale, "drift", look.Drift, "leak", look.Leak)
		}
		if err := r.catalog.RecordLook(ctx, look); err != nil {
			return i, err
		}
	}
	return len(due), nil
}

func (r *Runner) lookInto(ctx context.Context, m *migrations.Migrator, member *catalog.FleetMember) catalog.DatabaseLook {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	seen := r.lookAt(ctx, m, member)
	if seen.Stale || seen.Drift {
		// It may just be migrated: the database is ahead of the catalog for a moment.
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second):
			seen = r.lookAt(ctx, m, member)
		}
	}
	look := catalog.DatabaseLook{Database: member.ID, Name: member.Name, Version: seen.Version, Stale: seen.Stale, Drift: seen.Drift, Error: seen.Error}
	if look.Error != "" {
		return look
	}
	var leak *migrations.LeakError
	switch err := r.selfTest(ctx, member); {
	case errors.As(err, &leak):
		look.Leak = leak.Error()
	case err != nil:
		look.Error = explain(err)
	}
	return look
}

// selfTest looks as requests do, without a tenant.
func (r *Runner) selfTest(ctx context.Context, member *catalog.FleetMember) error {
	cfg, err := r.catalog.ServerConnConfig(ctx, member.Server, member.ID, member.Name, catalog.LoginData)
	if err != nil {
		return err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	return migrations.SelfTest(ctx, conn, requestRoles)
}

// lastLooks is what was found last in databases that are not as the catalog says, and when any was looked into.
func (f Fleet) lastLooks(ctx context.Context) ([]tenants.DatabaseLook, *time.Time, error) {
	odd, err := f.catalog.OddLooks(ctx)
	if err != nil {
		return nil, nil, err
	}
	var looks []tenants.DatabaseLook
	for _, l := range odd {
		look := tenants.DatabaseLook{Database: l.Name, ID: l.Database, Version: l.Version, Stale: l.Stale, Drift: l.Drift, Error: l.Error}
		if l.Leak != "" {
			look.Error = l.Leak
		}
		looks = append(looks, look)
	}
	at, err := f.catalog.LastLook(ctx)
	return looks, at, err
}
