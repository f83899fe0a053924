package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
)

// FleetConfig says how many databases are migrated at a time, and after how many failures no further one is begun.
type FleetConfig = migrations.FleetConfig

// Summary counts databases.
type Summary struct {
	Done   int // brought to the set
	Noop   int // were there already
	Failed int // the catalog says why
	Held   int // not begun, because others failed or the work was stopped
}

// MigrateFleet makes files the set that new databases are born with, and brings every database to it, each once, however
// many tenants it holds. A database that the catalog says is there costs no connection. Report is told of each of the
// others as it ends; it is called from one goroutine.
//
// Databases that fail are counted, and the reason stands in the catalog. The error is for what concerns all of them: a set
// that is older than the active one, or differs from it in a released file, is catalog.ErrConflict, and nothing was done. A
// context that ends leaves the rest to be done by the next call.
func (r *Runner) MigrateFleet(ctx context.Context, files []migrations.File, cfg FleetConfig, report func(migrations.Result)) (Summary, error) {
	m, err := r.migrator(files)
	if err != nil {
		return Summary{}, err
	}
	if err := r.activateSet(ctx, m); err != nil {
		return Summary{}, err
	}
	f := fleet{Runner: r, migrator: m, report: report}
	members, err := f.behind(ctx)
	if err != nil {
		return f.summary, err
	}
	f.work(ctx, members, cfg)
	return f.summary, ctx.Err()
}

// activateSet stores the set. What is active already is left alone.
func (r *Runner) activateSet(ctx context.Context, m *migrations.Migrator) error {
	latest := m.Latest()
	active, err := r.catalog.ActiveSet(ctx)
	switch {
	case errors.Is(err, catalog.ErrNotFound):
	case err != nil:
		return err
	case active.Chain == latest.Chain:
		return nil
	default:
		if err := succeeds(m.Files(), active); err != nil {
			return err
		}
	}
	set := &catalog.MigrationSet{Version: latest.Number, Chain: latest.Chain}
	for _, f := range m.Files() {
		set.Files = append(set.Files, catalog.MigrationFile{Version: f.Version, Name: f.Name, SHA256: f.SHA256, Up: f.Up, Down: f.Down})
	}
	event := catalog.Event{
		Action: "migrations.activate", Target: catalog.Ref{Kind: "migration_set", Name: latest.Chain},
		Detail: map[string]any{"version": latest.Number, "files": len(set.Files)},
	}
	return r.catalog.Update(ctx, event, func(tx *catalog.Tx) error { return tx.ActivateSet(ctx, set) })
}

// succeeds insists that files hold what the active set holds, unchanged: else every database would refuse them, and those
// born from now on would have another history.
func succeeds(files []migrations.File, active *catalog.MigrationSet) error {
	ours := make(map[int64]migrations.File, len(files))
	for _, f := range files {
		ours[f.Version] = f
	}
	for _, old := range active.Files {
		f, ok := ours[old.Version]
		switch {
		case !ok:
			return fmt.Errorf("migration %06d_%s is in the active set and not in this one: %w", old.Version, old.Name, catalog.ErrConflict)
		case f.SHA256 != old.SHA256:
			return fmt.Errorf("migration %s was changed after it was released: %w", f, catalog.ErrConflict)
		}
	}
	return nil
}

// fleet is one call of MigrateFleet.
type fleet struct {
	*Runner
	migrator  *migrations.Migrator
	report    func(migrations.Result)
	databases map[string]*catalog.Database // by target name
	summary   Summary
}

// behind lists the databases that the catalog does not say to be at the set. It is one query.
func (f *fleet) behind(ctx context.Context) ([]migrations.Member, error) {
	chain := f.migrator.Latest().Chain
	var members []migrations.Member
	f.databases = map[string]*catalog.Database{}
	for db, err := range f.catalog.Databases(ctx) {
		if err != nil {
			return nil, err
		}
		switch {
		case db.Adopted || db.State != catalog.DatabaseActive && db.State != catalog.DatabaseTemplate && db.State != catalog.DatabaseSpare:
		case db.SchemaChain == chain && db.MigrateError == "":
			f.summary.Noop++
		default:
			t := f.targetOf(db)
			f.databases[t.Name] = db
			members = append(members, migrations.Member{Target: t, Server: db.Server.String(), Shared: db.Kind == catalog.Shared})
		}
	}
	return members, nil
}

// ended is a database that was worked on.
type ended struct {
	member migrations.Member
	result migrations.Result
}

// work takes the databases in the plan's order until nothing is left or may be begun, and waits for all it began.
func (f *fleet) work(ctx context.Context, members []migrations.Member, cfg FleetConfig) {
	plan := migrations.NewFleet(members, cfg)
	results := make(chan ended)
	for running := 0; ; {
		m, step := migrations.Member{}, migrations.End
		if ctx.Err() == nil {
			m, step = plan.Next()
		}
		if step == migrations.Start {
			running++
			go func() { results <- ended{m, f.one(ctx, m)} }()
			continue
		}
		if running == 0 {
			f.summary.Held += len(plan.Pending())
			return
		}
		e := <-results
		running--
		plan.Done(e.member, e.result)
		f.count(ctx, e.result)
	}
}

func (f *fleet) count(ctx context.Context, result migrations.Result) {
	switch {
	case result.Err != nil && ctx.Err() != nil:
		f.summary.Held++
	case result.Err != nil:
		f.summary.Failed++
	case len(result.Applied) == 0:
		f.summary.Noop++
	default:
		f.summary.Done++
	}
	if f.report != nil {
		f.report(result)
	}
}

// one migrates a database and records what became of it, also when ctx ended meanwhile.
func (f *fleet) one(ctx context.Context, m migrations.Member) migrations.Result {
	db := f.databases[m.Name]
	result, schema := f.bring(ctx, f.migrator, m.Target, "")
	recording, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if schema.Chain == "" { // not even read
		schema = catalog.Migrated{Version: db.SchemaVersion, Chain: db.SchemaChain, Fingerprint: db.Fingerprint}
	}
	if result.Err != nil {
		schema.Fingerprint = f.lookAgain(recording, m.Target, schema, db)
		if ctx.Err() == nil {
			schema.Error = explain(result.Err)
		}
	}
	event := catalog.Event{Action: "database.migrate", Target: db.Ref(), Detail: map[string]any{"version": schema.Version}}
	err := f.catalog.Update(recording, event, func(tx *catalog.Tx) error { return tx.SetDatabaseSchema(recording, db.ID, schema) })
	if result.Err == nil && err != nil {
		result.Err = fmt.Errorf("%s is migrated and the catalog does not know: %w", m.Name, err)
	}
	return result
}

// lookAgain is the fingerprint of a database that stopped half-way.
func (f *fleet) lookAgain(ctx context.Context, t migrations.Target, schema catalog.Migrated, db *catalog.Database) string {
	if schema.Chain == db.SchemaChain {
		return db.Fingerprint
	}
	conn, err := t.Connect(ctx)
	if err != nil {
		return ""
	}
	defer closeConn(conn)
	fingerprint, _ := migrations.Fingerprint(ctx, conn) // "" makes whoever keeps plans by it look for himself
	return fingerprint
}
