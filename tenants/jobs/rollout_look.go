package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// Look connects to every database of the fleet, eight at a time, and compares each with what the catalog says of it. It
// changes nothing.
func (r *Runner) Look(ctx context.Context) ([]tenants.DatabaseLook, error) {
	set, err := r.born(ctx)
	if err != nil {
		return nil, err
	}
	fleet, err := r.catalog.Fleet(ctx)
	if err != nil {
		return nil, err
	}
	looks := make([]tenants.DatabaseLook, len(fleet))
	places := make(chan struct{}, rolloutWorkers)
	var looking sync.WaitGroup
	for i, m := range fleet {
		places <- struct{}{}
		looking.Go(func() {
			defer func() { <-places }()
			looks[i] = r.lookAt(ctx, set.Migrator, m)
		})
	}
	looking.Wait()
	return looks, ctx.Err()
}

func (r *Runner) lookAt(ctx context.Context, m *migrations.Migrator, member *catalog.FleetMember) tenants.DatabaseLook {
	look := tenants.DatabaseLook{Database: member.Name, ID: member.ID}
	failed := func(err error) tenants.DatabaseLook { look.Error = explain(err); return look }
	db, err := r.catalog.Database(ctx, member.ID)
	if err != nil {
		return failed(err)
	}
	t := r.targetOf(db)
	version, err := m.Version(ctx, t)
	if err != nil {
		return failed(err)
	}
	conn, err := t.Connect(ctx)
	if err != nil {
		return failed(err)
	}
	defer closeConn(conn)
	fingerprint, err := migrations.Fingerprint(ctx, conn)
	if err != nil {
		return failed(err)
	}
	look.Version, look.Stale = version.Number, version.Number != db.SchemaVersion
	look.Drift = !look.Stale && db.Fingerprint != "" && fingerprint != db.Fingerprint
	return look
}

// LintDatabase holds a database as it stands against the shared-schema contract, and with citus against what Citus would do
// otherwise.
func (r *Runner) LintDatabase(ctx context.Context, id catalog.DatabaseID, citus bool) ([]migrations.Finding, error) {
	db, err := r.catalog.Database(ctx, id)
	if err != nil {
		return nil, err
	}
	conn, err := r.targetOf(db).Connect(ctx)
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", db.Name, err)
	}
	defer closeConn(conn)
	found, err := migrations.LintDatabase(ctx, conn)
	if err == nil && citus {
		var more []migrations.Finding
		more, err = migrations.LintCitus(ctx, conn)
		for _, f := range more {
			if !slices.Contains(found, f) { // on Citus they are among the others
				found = append(found, f)
			}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("database %s: %w", db.Name, err)
	}
	return found, nil
}

// MarkTarget records what somebody found out about a file without a transaction that broke off in a database: that its
// effect is there, or that nothing of it is. The rollout then tries the database again. It says which file it was.
func (r *Runner) MarkTarget(ctx context.Context, ro *catalog.Rollout, database catalog.DatabaseID, d migrations.Decision) (string, error) {
	set, err := r.catalog.MigrationSet(ctx, ro.Chain)
	if err != nil {
		return "", err
	}
	m, err := r.migrator(FilesOf(set))
	if err != nil {
		return "", err
	}
	db, err := r.catalog.Database(ctx, database)
	if err != nil {
		return "", err
	}
	file, err := m.Decide(ctx, r.targetOf(db), d)
	if errors.Is(err, migrations.ErrNotDirty) {
		return "", fmt.Errorf("%w: %w", err, catalog.ErrConflict)
	}
	if err != nil {
		return file, err
	}
	event := catalog.Event{Action: "rollout.mark", Target: db.Ref(), Operation: ro.Operation, Detail: map[string]any{"file": file, "applied": d.Applied, "by": d.By, "reason": d.Reason}}
	return file, r.catalog.Update(ctx, event, func(*catalog.Tx) error { return nil })
}

// RepairTarget lets the evidence decide about a file that broke off in a database: its verify query, its invalid indexes, and how
// most of the other databases at the versions around it look. Evidence that does not suffice is a *migrations.DirtyError; nothing is forced.
func (r *Runner) RepairTarget(ctx context.Context, ro *catalog.Rollout, database catalog.DatabaseID) (migrations.Evidence, error) {
	set, err := r.catalog.MigrationSet(ctx, ro.Chain)
	if err != nil {
		return migrations.Evidence{}, err
	}
	m, err := r.migrator(FilesOf(set))
	if err != nil {
		return migrations.Evidence{}, err
	}
	db, err := r.catalog.Database(ctx, database)
	if err != nil {
		return migrations.Evidence{}, err
	}
	evidence, err := m.Repair(ctx, r.targetOf(db), func(ctx context.Context, version int64) (string, error) {
		return r.catalog.FingerprintAt(ctx, m.At(version).Chain, database)
	})
	if err != nil || evidence.Version == 0 {
		return evidence, err
	}
	event := catalog.Event{Action: "rollout.repair", Target: db.Ref(), Operation: ro.Operation, Detail: map[string]any{
		"file": evidence.Name, "as": evidence.Proposal, "reason": evidence.Reason,
	}}
	return evidence, r.catalog.Update(ctx, event, func(*catalog.Tx) error { return nil })
}
