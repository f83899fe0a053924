package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// FleetHouse is an empty house on a private server, for a fleet to be made in.
type FleetHouse struct {
	Catalog *catalog.Catalog
	Runner  *jobs.Runner
	Service *tenants.Service
	// DSN is how its superuser connects to a database, DSNAs how a role does.
	DSN   func(database string) string
	DSNAs func(role, password, database string) string
	// PSQL is the binary; empty where there is none.
	PSQL string
	// Databases is how many the fleet has. What goes through it one after the other takes every fourth of them.
	Databases int
	// Within bounds the whole: no round is begun that would not end in it.
	Within time.Duration
}

// The step that is measured: a column and an index, on a table with rows.
var (
	fleetBefore = migrations.File{Version: 1, Name: "items", Up: `
		create table items (id bigint generated always as identity primary key, name text not null);
		select rowhouse.bind('items');`}
	fleetStep = migrations.File{Version: 2, Name: "status", Up: `
		alter table items add column status text not null default 'active';
		create index items_by_name on items (tenant_id, name);`}
)

// fleet is what was made, and how it was before the step.
type fleet struct {
	FleetHouse
	databases []*catalog.Database
	migrator  *migrations.Migrator
	sets      [2][]migrations.File
	login     catalog.Credential
	dir       string // with the step's file, for psql
}

// method brings databases over the step.
type method struct {
	name, means string
	run         func(context.Context, *fleet) error
	stock       bool // keeps golang-migrate's own version table
	serial      bool // one after the other, and so only every fourth of them
	ledger      bool // writes our ledger
}

// over are the databases that a method is about.
func (f *fleet) over(m method) []*catalog.Database {
	if m.serial {
		return f.databases[:(len(f.databases)+3)/4]
	}
	return f.databases
}

// Fleet measures how fast a fleet is brought over one step, beside a loop written by hand, golang-migrate as it comes, and
// psql; and what a fleet costs that is there.
func Fleet(ctx context.Context, h FleetHouse, l Length) (Report, error) {
	report := Report{Bench: "fleet"}
	began := time.Now()
	f, err := newFleet(ctx, h)
	if err != nil {
		return report, err
	}
	defer os.RemoveAll(f.dir)
	methods := fleetMethods(h.PSQL != "")
	rates := map[string][]float64{}
	if err := errors.Join(f.reset(ctx, false), f.rollout(ctx)); err != nil { // makes the template, once
		return report, err
	}
	longest := time.Duration(0)
	for round := range l.Rounds {
		if round > 0 && h.Within > 0 && time.Since(began)+longest > h.Within {
			break
		}
		roundBegan := time.Now()
		for i := range methods {
			m := methods[(i+round)%len(methods)]
			rate, err := f.measure(ctx, m)
			if err != nil {
				return report, fmt.Errorf("%s: %w", m.name, err)
			}
			rates[m.name] = append(rates[m.name], rate)
		}
		longest = max(longest, time.Since(roundBegan))
	}
	baseline := map[string]string{"ours_8_workers": "hand_written_loop_8", "ours_driver_8": "hand_written_loop_8", "stock_8": "stock_serial"}
	for _, m := range methods {
		r := Result{Name: m.name, Value: median(rates[m.name]), Unit: "databases/s", Means: m.means}
		if b := baseline[m.name]; b != "" {
			r.Baseline, r.BaselineValue = b, median(rates[b])
			r.Ratio = median(ratios(rates[m.name], rates[b]))
		}
		report.Results = append(report.Results, r)
	}
	report.Results = append(report.Results, Result{
		Name: "ours_over_stock_serial", Value: median(rates["ours_8_workers"]), Unit: "databases/s", Baseline: "stock_serial",
		BaselineValue: median(rates["stock_serial"]), Ratio: median(ratios(rates["ours_8_workers"], rates["stock_serial"])),
		Means: fmt.Sprintf("the first row against golang-migrate one after the other; %d databases, %d rounds, medians", len(f.databases), len(rates["stock_serial"])),
	})
	current, err := f.current(ctx, 10_000)
	report.Results = append(report.Results, current)
	return report, err
}

// measure gives a method's databases a second, and insists that it did what it was to do.
func (f *fleet) measure(ctx context.Context, m method) (float64, error) {
	if err := f.reset(ctx, m.stock); err != nil {
		return 0, fmt.Errorf("reset: %w", err)
	}
	over := f.over(m)
	began := time.Now()
	if err := m.run(ctx, f); err != nil {
		return 0, err
	}
	rate := float64(len(over)) / time.Since(began).Seconds()
	return rate, f.check(ctx, over, m.ledger)
}

func ratios(values, baselines []float64) []float64 {
	found := make([]float64, len(values))
	for i := range values {
		found[i] = values[i] / baselines[i]
	}
	return found
}

func fleetMethods(psql bool) []method {
	methods := []method{
		{
			name: "ours_8_workers", means: "a whole rollout: rings, claims, results in the catalog, templates, 8 workers, against a loop of one connection and one message each",
			run: func(ctx context.Context, f *fleet) error { return f.rollout(ctx) }, ledger: true,
		},
		{
			name: "ours_driver_8", means: "the migrator alone, 8 workers, without a catalog; as in a rollout the contract is checked in one of databases that are alike",
			run: func(ctx context.Context, f *fleet) error { return f.drivers(ctx) }, ledger: true,
		},
		{
			name: "hand_written_loop_8", means: "the limit: connect, one message with the step and a row for the ledger, good-bye; no lock, no check",
			run: func(ctx context.Context, f *fleet) error {
				return f.each(8, func(db *catalog.Database) error { return f.byHand(ctx, db) })
			}, ledger: true,
		},
		{
			name: "stock_serial", means: "golang-migrate with its pgx driver, by URL, one database after the other", stock: true, serial: true,
			run: func(_ context.Context, f *fleet) error { return f.inTurn(f.stock) },
		},
		{
			name: "stock_8", means: "the same with 8 workers", stock: true,
			run: func(_ context.Context, f *fleet) error { return f.each(8, f.stock) },
		},
	}
	if psql {
		methods = append(methods, method{
			name: "psql_serial", means: "psql -1 -f, one database after the other", serial: true,
			run: func(ctx context.Context, f *fleet) error {
				return f.inTurn(func(db *catalog.Database) error { return f.psql(ctx, db) })
			},
		})
	}
	return methods
}

func newFleet(ctx context.Context, h FleetHouse) (*fleet, error) {
	f := &fleet{FleetHouse: h}
	var err error
	for i, files := range [][]migrations.File{{fleetBefore}, {fleetBefore, fleetStep}} {
		if f.sets[i], err = migrations.ReadSet(migrations.FS(files)); err != nil {
			return nil, err
		}
	}
	if f.migrator, err = migrations.ForTenants(migrations.FS(f.sets[1]), migrations.Config{}); err != nil {
		return nil, err
	}
	if _, err := h.Runner.MigrateFleet(ctx, f.sets[0], jobs.FleetConfig{}, nil); err != nil {
		return nil, err
	}
	if err := f.populate(ctx); err != nil {
		return nil, err
	}
	for db, err := range h.Catalog.Databases(ctx) {
		if err != nil {
			return nil, err
		}
		f.databases = append(f.databases, db)
	}
	// Eight at a time on the one server, as the methods beside it.
	if err := f.exec(ctx, "rowhouse", "set session_replication_role = replica; update rowhouse.servers set migrate_slots = 8"); err != nil {
		return nil, err
	}
	if f.dir, err = os.MkdirTemp("", "rowhouse-bench-fleet-"); err != nil {
		return nil, err
	}
	return f, os.WriteFile(filepath.Join(f.dir, "step.sql"), []byte(fleetStep.Up), 0o644)
}

// populate makes a tenant as tenants are made, fills its database, and clones that for the others.
func (f *fleet) populate(ctx context.Context) error {
	op, err := f.Service.CreateTenant(ctx, tenants.TenantSpec{Name: "tenant", Placement: catalog.Dedicated})
	if err != nil {
		return err
	}
	if op, err = f.Runner.Work(ctx, op.ID); err != nil {
		return err
	}
	if op.State != catalog.OperationDone {
		return errors.New(op.Error)
	}
	first, err := f.Catalog.Database(ctx, op.Database)
	if err != nil {
		return err
	}
	if f.login, err = f.Catalog.Credential(ctx, first.Server, catalog.DatabaseID{}, catalog.LoginMigrator); err != nil {
		return err
	}
	if err := f.exec(ctx, first.Name, "insert into items (tenant_id, name) select '"+op.Tenant.String()+"', 'item ' || n from generate_series(1, 2000) n; analyze items"); err != nil {
		return err
	}
	return parallel(2, make([]*catalog.Database, f.Databases-1), func(*catalog.Database) error { return f.clone(ctx, first) })
}

// clone makes a database like another. What stands in it belongs to the other's owner, whose rights its own owner has.
func (f *fleet) clone(ctx context.Context, of *catalog.Database) error {
	id := catalog.NewID[catalog.Database]()
	name := "rh_" + id.Compact()
	for _, sql := range []string{
		fmt.Sprintf("create role %s_o nologin in role %s_o role %s", name, of.Name, f.login.Role),
		fmt.Sprintf("create database %s template %s owner %s_o strategy file_copy", name, of.Name, name),
		fmt.Sprintf("revoke all on database %s from public; grant connect on database %[1]s to %s", name, f.login.Role),
	} {
		if err := f.exec(ctx, "postgres", sql); err != nil {
			return err
		}
	}
	return f.exec(ctx, "rowhouse", fmt.Sprintf(`set session_replication_role = replica;
		insert into rowhouse.databases (id, server, name, kind, state, schema_version, schema_chain, fingerprint)
		select '%s', server, '%s', kind, state, schema_version, schema_chain, fingerprint from rowhouse.databases where id = '%s'`, id, name, of.ID))
}

func (f *fleet) exec(ctx context.Context, database, sql string) error {
	conn, err := pgx.Connect(ctx, f.DSN(database))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (f *fleet) each(workers int, fn func(*catalog.Database) error) error {
	return parallel(workers, f.databases, fn)
}

// inTurn is for what is measured one database after the other.
func (f *fleet) inTurn(fn func(*catalog.Database) error) error {
	return parallel(1, f.over(method{serial: true}), fn)
}

// drivers has the migrator bring one database over the step, and then those that are like it.
func (f *fleet) drivers(ctx context.Context) error {
	if err := f.up(ctx, f.migrator, f.databases[0]); err != nil {
		return err
	}
	proven := f.migrator.Proven()
	return parallel(8, f.databases[1:], func(db *catalog.Database) error { return f.up(ctx, proven, db) })
}

// parallel stops at the first error and gives it.
func parallel(workers int, databases []*catalog.Database, fn func(*catalog.Database) error) error {
	var next atomic.Int64
	errs := make([]error, workers)
	var working sync.WaitGroup
	for w := range workers {
		working.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= len(databases) {
					return
				}
				errs[w] = fn(databases[i])
			}
		})
	}
	working.Wait()
	return errors.Join(errs...)
}

// reset takes the step back, in the databases and in the catalog.
func (f *fleet) reset(ctx context.Context, stock bool) error {
	err := f.each(8, func(db *catalog.Database) error {
		sql := `set session_replication_role = replica;
			alter table items drop column if exists status;
			drop index if exists items_by_name;
			delete from rowhouse.migrations where version = 2;
			drop schema if exists stock cascade;`
		if stock {
			sql += fmt.Sprintf(`create schema stock authorization %s_o;
				create table stock.schema_migrations (version bigint primary key, dirty boolean not null);
				insert into stock.schema_migrations values (1, false);
				alter table stock.schema_migrations owner to %[1]s_o;`, db.Name)
		}
		return f.exec(ctx, db.Name, sql)
	})
	if err != nil {
		return err
	}
	return f.Catalog.Update(ctx, catalog.Event{Action: "bench.reset"}, func(tx *catalog.Tx) error {
		for _, db := range f.databases {
			m := catalog.Migrated{Version: db.SchemaVersion, Chain: db.SchemaChain, Fingerprint: db.Fingerprint}
			if err := tx.SetDatabaseSchema(ctx, db.ID, m); err != nil {
				return err
			}
		}
		return nil
	})
}

// check insists that the step was done everywhere, whoever did it, and that our ledger says so once where it was kept.
func (f *fleet) check(ctx context.Context, databases []*catalog.Database, ledger bool) error {
	rows := 0
	if ledger {
		rows = 1
	}
	return parallel(8, databases, func(db *catalog.Database) error {
		return f.exec(ctx, db.Name, fmt.Sprintf(`do $$ begin
			perform status from items limit 1;
			if to_regclass('items_by_name') is null then raise 'no index'; end if;
			if (select count(*) from items) <> 2000 then raise 'rows are missing'; end if;
			if (select count(*) from rowhouse.migrations where version = 2) <> %d then raise 'the ledger is wrong'; end if;
		end $$`, rows))
	})
}

func (f *fleet) rollout(ctx context.Context) error {
	ro, err := f.Runner.StartRollout(ctx, jobs.RolloutSpec{Files: f.sets[1], Confirmed: true})
	if err != nil {
		return err
	}
	if err := f.Runner.DriveRollout(ctx, ro.ID, 8); err != nil {
		return err
	}
	if ro, err = f.Catalog.Rollout(ctx, ro.ID); err == nil && ro.State != catalog.RolloutDone {
		err = fmt.Errorf("rollout is %s: %s", ro.State, ro.Note)
	}
	return err
}

// config connects as the migrator does, in the owner's role.
func (f *fleet) config(db *catalog.Database) (*pgx.ConnConfig, error) {
	cfg, err := pgx.ParseConfig(f.DSNAs(f.login.Role, f.login.Secret.Reveal(), db.Name))
	if err != nil {
		return nil, errors.New("the private server's address cannot be read")
	}
	migrations.ConnConfig(cfg, db.Name+"_o")
	return cfg, nil
}

func (f *fleet) up(ctx context.Context, m *migrations.Migrator, db *catalog.Database) error {
	_, err := m.Up(ctx, migrations.Target{Name: db.Name, Key: 7, Connect: func(ctx context.Context) (*pgx.Conn, error) {
		cfg, err := f.config(db)
		if err != nil {
			return nil, err
		}
		return pgx.ConnectConfig(ctx, cfg)
	}})
	return err
}

func (f *fleet) byHand(ctx context.Context, db *catalog.Database) error {
	cfg, err := f.config(db)
	if err != nil {
		return err
	}
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	_, err = conn.Exec(ctx, fleetStep.Up+`;
		insert into rowhouse.migrations (version, name, sha256, chain, state) values (2, 'status', 'by hand', 'by hand', 'applied')`, pgx.QueryExecModeSimpleProtocol)
	return err
}

func (f *fleet) psql(ctx context.Context, db *catalog.Database) error {
	cmd := exec.CommandContext(ctx, f.PSQL, "-X", "-q", "-1", "-v", "ON_ERROR_STOP=1", "-f", filepath.Join(f.dir, "step.sql"), f.DSNAs(f.login.Role, "", db.Name))
	cmd.Env = append(os.Environ(), "PGPASSWORD="+f.login.Secret.Reveal(), "PGOPTIONS=-c role="+db.Name+"_o -c row_security=off")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// current measures what up costs when all is there: n databases beside the fleet, of which only the catalog knows.
func (f *fleet) current(ctx context.Context, n int) (Result, error) {
	r := Result{Name: "current_fleet_10000", Unit: "ms", Means: "what up does for a fleet that is there: one query of the catalog, no connection to a database; the files are read too"}
	if err := errors.Join(f.reset(ctx, false), f.rollout(ctx)); err != nil {
		return r, err
	}
	if err := f.exec(ctx, "rowhouse", fmt.Sprintf(`set session_replication_role = replica;
		insert into rowhouse.databases (id, server, name, kind, state, schema_version, schema_chain, fingerprint)
		select gen_random_uuid(), server, 'bench_' || n, 'dedicated', 'active', schema_version, schema_chain, fingerprint
		  from (select * from rowhouse.databases where state = 'active' limit 1) d, generate_series(1, %d) n;
		analyze rowhouse.databases`, n)); err != nil {
		return r, err
	}
	var took []float64
	for range 15 {
		began := time.Now()
		ro, err := f.Runner.StartRollout(ctx, jobs.RolloutSpec{Files: f.sets[1]})
		if err != nil || ro != nil {
			return r, fmt.Errorf("a fleet that is there began %v: %w", ro, err)
		}
		took = append(took, float64(time.Since(began).Microseconds())/1000)
	}
	slices.Sort(took)
	r.Value = median(took)
	return r, f.exec(ctx, "rowhouse", "set session_replication_role = replica; delete from rowhouse.databases where name like 'bench\\_%'")
}
