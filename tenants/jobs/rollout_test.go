package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// targets are those of the last rollout.
func (h *house) targets(t testing.TB) iter.Seq[*catalog.RolloutTarget] {
	t.Helper()
	ro, err := h.catalog.LastRollout(t.Context())
	must(t, err)
	found, err := h.catalog.RolloutTargets(t.Context(), ro.ID)
	must(t, err)
	return slices.Values(found)
}

// fleetOf is a house at the sample with n dedicated databases, one of them made the canary, and a shared one.
func fleetOf(t testing.TB, n int) (h *house, canary *catalog.Database) {
	t.Helper()
	h = newHouse(t, "")
	h.activate(t, sample)
	for i := range n {
		h.made(t, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", i), Placement: catalog.Dedicated})
	}
	h.made(t, tenants.TenantSpec{Name: "acme"})
	_, canary = h.tenant(t, "tenant-1")
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		return tx.SetDatabaseLabel(t.Context(), canary.ID, "canary", "true")
	}))
	return h, canary
}

// start begins a rollout whose canaries do not soak.
func (h *house) start(t testing.TB, app fstest.MapFS) *catalog.Rollout {
	t.Helper()
	ro, err := h.runner.StartRollout(t.Context(), jobs.RolloutSpec{Files: files(t, app), Soak: new(time.Duration(0))})
	must(t, err)
	return ro
}

func (h *house) rollout(t testing.TB, id catalog.RolloutID) *catalog.Rollout {
	t.Helper()
	ro, err := h.catalog.Rollout(t.Context(), id)
	must(t, err)
	return ro
}

func (h *house) drive(t testing.TB, runner *jobs.Runner, id catalog.RolloutID) *catalog.Rollout {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, runner.DriveRollout(ctx, id, 4))
	return h.rollout(t, id)
}

// checkApplied insists that every database has the set's version, once, and that the catalog says so.
func (h *house) checkApplied(t testing.TB, version int64) {
	t.Helper()
	fingerprints := map[string]bool{}
	for db, err := range h.catalog.Databases(t.Context()) {
		must(t, err)
		if db.SchemaVersion != version || db.MigrateError != "" {
			t.Errorf("%s is at %d: %s", db.Name, db.SchemaVersion, db.MigrateError)
		}
		fingerprints[db.Fingerprint] = true
		conn := h.superOn(t, db.Name)
		var rows, last int64
		var states string
		must(t, conn.QueryRow(t.Context(), `select count(*), max(version), string_agg(distinct state, ',') from rowhouse.migrations`).Scan(&rows, &last, &states))
		if rows != version || last != version || states != "applied" {
			t.Errorf("%s: ledger has %d rows up to %d, states %s", db.Name, rows, last, states)
		}
		actual, err := migrations.Fingerprint(t.Context(), h.as(t, db, catalog.LoginMigrator, db.Name+"_o"))
		must(t, err)
		if actual != db.Fingerprint {
			t.Errorf("%s does not look as the catalog says", db.Name)
		}
	}
	if len(fingerprints) != 1 {
		t.Errorf("databases of one version have %d fingerprints", len(fingerprints))
	}
}

func (h *house) superOn(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(pgtest.ServerDSN(t))
	must(t, err)
	cfg.Database = database
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func TestRunner_DriveRollout(t *testing.T) {
	t.Parallel()
	h, canary := fleetOf(t, 4)
	ro := h.start(t, later)
	if ro.From != 1 || ro.To != 2 || ro.State != catalog.RolloutPlanned {
		t.Errorf("rollout is %+v", ro)
	}
	served, err := h.catalog.ServedVersions(t.Context())
	must(t, err)
	if *served != (catalog.ServedVersions{Min: 1, Max: 2}) {
		t.Errorf("served are %+v", served)
	}
	again, err := h.runner.StartRollout(t.Context(), jobs.RolloutSpec{Files: files(t, later)})
	must(t, err)
	if again.ID != ro.ID {
		t.Error("the same set began another rollout")
	}
	third := fstest.MapFS{"000003_more.up.sql": {Data: []byte("alter table projects add column more text;")}}
	for name, f := range later {
		third[name] = f
	}
	var unfinished *jobs.UnfinishedError
	if _, err := h.runner.StartRollout(t.Context(), jobs.RolloutSpec{Files: files(t, third)}); !errors.As(err, &unfinished) || unfinished.Rollout.ID != ro.ID {
		t.Errorf("another set gives %v, want the running rollout's name", err)
	}

	ro = h.drive(t, h.runner, ro.ID)
	if ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	h.checkApplied(t, 2)
	results, err := h.catalog.RolloutResults(t.Context(), ro.ID, 0)
	must(t, err)
	if len(results) != 5 || results[0].Database != canary.ID || results[4].Kind != catalog.Shared {
		t.Errorf("%d results; the canary must be first, the shared database last", len(results))
	}
	for _, r := range results {
		if r.State != catalog.TargetDone || r.Attempts != 1 || *r.To != 2 || r.FinishedAt.Before(*r.StartedAt) {
			t.Errorf("target %+v", r)
		}
	}
	op, err := h.catalog.Operation(t.Context(), ro.Operation)
	must(t, err)
	if op.State != catalog.OperationDone || op.Step != "shared" {
		t.Errorf("operation is %s at %q", op.State, op.Step)
	}
	none, err := h.runner.StartRollout(t.Context(), jobs.RolloutSpec{Files: files(t, later)})
	if none != nil || err != nil {
		t.Errorf("a fleet that is there begins %v, %v", none, err)
	}
	// New tenants are born with the set.
	_, db := h.made(t, tenants.TenantSpec{Name: "hooli", Placement: catalog.Dedicated})
	if db.SchemaVersion != 2 {
		t.Errorf("a new database is at %d", db.SchemaVersion)
	}
}

// A canary that fails stops the rollout: what was not touched stays as it was, and after the repair a resume finishes.
func TestRunner_DriveRollout_canaryFails(t *testing.T) {
	t.Parallel()
	h, canary := fleetOf(t, 4)
	owner := h.as(t, canary, catalog.LoginMigrator, canary.Name+"_o")
	mustExec(t, owner, "alter table projects add column status integer")
	ro := h.drive(t, h.runner, h.start(t, later).ID)
	if ro.State != catalog.RolloutPaused || ro.Pause != catalog.PauseThreshold || !strings.Contains(ro.Note, "canary") {
		t.Fatalf("rollout is %s (%s): %s", ro.State, ro.Pause, ro.Note)
	}
	for target := range h.targets(t) {
		want := catalog.TargetPending
		if target.Database == canary.ID {
			want = catalog.TargetFailed
			if target.SQLState != "42701" || target.Class != "permanent" || !strings.Contains(string(target.Detail), `"file": "000002_status"`) ||
				!strings.Contains(string(target.Detail), `"drift": true`) || strings.Contains(target.Error, "alter table") {
				t.Errorf("canary failed with %q %q %s: %s", target.SQLState, target.Class, target.Detail, target.Error)
			}
		}
		if target.State != want || want == catalog.TargetPending && target.Attempts != 0 {
			t.Errorf("%s is %s after %d attempts", target.Name, target.State, target.Attempts)
		}
	}
	for db, err := range h.catalog.Databases(t.Context()) {
		must(t, err)
		if db.SchemaVersion != 1 {
			t.Errorf("%s is at %d", db.Name, db.SchemaVersion)
		}
	}
	// Driving what is paused does nothing.
	h.drive(t, h.runner, ro.ID)
	// Nothing is repaired yet: the canary fails again, and again nothing else is touched.
	must(t, h.runner.ResumeRollout(t.Context(), ro.ID, false))
	if ro := h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutPaused || ro.Rings[1].Failed != 1 {
		t.Errorf("resumed without a repair, the rollout is %s", ro.State)
	}
	mustExec(t, owner, "alter table projects drop column status")
	must(t, h.runner.ResumeRollout(t.Context(), ro.ID, false))
	must(t, h.runner.ResumeRollout(t.Context(), ro.ID, false))
	if ro := h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	h.checkApplied(t, 2)
}

// A set that cannot make a database from nothing touches none, and may be corrected after it was given up.
func TestRunner_DriveRollout_badSet(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 2)
	bad := fstest.MapFS{"000001_projects.up.sql": sample["000001_projects.up.sql"], "000002_status.up.sql": {Data: []byte("alter table project add column status text;")}}
	ro := h.drive(t, h.runner, h.start(t, bad).ID)
	if ro.State != catalog.RolloutPaused || !strings.Contains(ro.Note, "000002_status") {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	for target := range h.targets(t) {
		if target.Attempts != 0 {
			t.Errorf("%s was touched", target.Name)
		}
	}
	// Nothing was touched, so the corrected set takes its place without a word.
	if corrected := h.drive(t, h.runner, h.start(t, later).ID); corrected.State != catalog.RolloutDone {
		t.Fatalf("corrected rollout is %s: %s", corrected.State, corrected.Note)
	}
	ro, err := h.catalog.Rollout(t.Context(), ro.ID)
	must(t, err)
	if ro.State != catalog.RolloutCancelled {
		t.Errorf("the rollout before is %s", ro.State)
	}
	h.checkApplied(t, 2)
	// What a database has is released: it cannot be changed any more.
	if _, err := h.runner.StartRollout(t.Context(), jobs.RolloutSpec{Files: files(t, bad)}); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("a changed file gives %v", err)
	}
}

// One tenant's database that fails leaves the others alone; it can be retried, or left behind.
func TestRunner_DriveRollout_oneFails(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 4)
	_, broken := h.tenant(t, "tenant-3")
	owner := h.as(t, broken, catalog.LoginMigrator, broken.Name+"_o")
	mustExec(t, owner, "alter table projects add column status integer")
	ro := h.drive(t, h.runner, h.start(t, later).ID)
	if ro.State != catalog.RolloutDoneWithFailures || ro.Rings[2].Done != 2 || ro.Rings[2].Failed != 1 || ro.Rings[3].Done != 1 {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	mustExec(t, owner, "alter table projects drop column status")
	n, err := h.runner.RetryRollout(t.Context(), ro.ID, []catalog.DatabaseID{broken.ID})
	must(t, err)
	if n != 1 {
		t.Errorf("%d are tried again", n)
	}
	if ro = h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	h.checkApplied(t, 2)
}

func TestRunner_SkipTarget(t *testing.T) {
	t.Parallel()
	h, canary := fleetOf(t, 3)
	mustExec(t, h.as(t, canary, catalog.LoginMigrator, canary.Name+"_o"), "alter table projects add column status integer")
	ro := h.drive(t, h.runner, h.start(t, later).ID)
	must(t, h.runner.SkipTarget(t.Context(), ro.ID, canary.ID, "its tenant leaves"))
	must(t, h.runner.ResumeRollout(t.Context(), ro.ID, false))
	if ro = h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutDone || ro.Rings[1].Skipped != 1 || ro.Rings[1].Failed != 0 {
		t.Fatalf("rollout is %s: %+v", ro.State, ro.Rings[1])
	}
	if err := h.runner.SkipTarget(t.Context(), ro.ID, catalog.NewID[catalog.Database](), "x"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("skipping a database of nowhere gives %v", err)
	}
	if _, db := h.tenant(t, "tenant-1"); db.SchemaVersion != 1 {
		t.Errorf("skipped database is at %d", db.SchemaVersion)
	}
}

// Rings are opened as far as was allowed; a pause lets what runs end and begins nothing more.
func TestRunner_StartRollout_until(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 3)
	spec := jobs.RolloutSpec{Files: files(t, later), Soak: new(time.Duration(0)), Until: "canary"}
	ro, err := h.runner.StartRollout(t.Context(), spec)
	must(t, err)
	ro = h.drive(t, h.runner, ro.ID)
	if ro.State != catalog.RolloutPaused || ro.Pause != catalog.PauseGate || ro.Rings[1].Done != 1 || ro.Rings[2].Done != 0 {
		t.Fatalf("rollout is %s (%s): %s", ro.State, ro.Pause, ro.Note)
	}
	must(t, h.runner.ResumeRollout(t.Context(), ro.ID, false))
	if ro = h.drive(t, h.runner, ro.ID); ro.Pause != catalog.PauseGate || ro.Rings[2].Done != 2 || ro.Rings[3].Done != 0 {
		t.Fatalf("after one resume the rollout is %s: %s", ro.State, ro.Note)
	}
	spec.Until = ""
	ro, err = h.runner.StartRollout(t.Context(), spec)
	must(t, err)
	must(t, h.runner.PauseRollout(t.Context(), ro.ID))
	must(t, h.runner.PauseRollout(t.Context(), ro.ID))
	if ro = h.drive(t, h.runner, ro.ID); ro.Pause != catalog.PauseOperator || ro.Rings[3].Done != 0 {
		t.Fatalf("paused rollout is %s", ro.State)
	}
	must(t, h.runner.ResumeRollout(t.Context(), ro.ID, false))
	if ro = h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	spec.Until = "nowhere"
	spec.Files = files(t, fstest.MapFS{
		"000001_projects.up.sql": later["000001_projects.up.sql"], "000002_status.up.sql": later["000002_status.up.sql"],
		"000003_x.up.sql": {Data: []byte("alter table projects add column x text;")},
	})
	if _, err := h.runner.StartRollout(t.Context(), spec); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a ring that is not there gives %v", err)
	}
}

// Two migrators at once share the work: every version is applied once, and no server has more at a time than its slots.
func TestRunner_DriveRollout_twoAtOnce(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 9)
	_, err := h.catalog.Pool().Exec(t.Context(), `
		begin; insert into rowhouse.audit_events (action, side, actor) values ('test', 'system', 'test');
		update rowhouse.servers set migrate_slots = 2; commit`, pgx.QueryExecModeSimpleProtocol)
	must(t, err)
	slow := fstest.MapFS{
		"000001_projects.up.sql": sample["000001_projects.up.sql"],
		"000002_status.up.sql":   {Data: []byte("alter table projects add column status text; select pg_sleep(0.1);")},
	}
	ro := h.start(t, slow)
	most := make(chan int64, 1)
	watching, stop := context.WithCancel(t.Context())
	go func() {
		var n, seen int64
		for watching.Err() == nil {
			if err := h.catalog.Pool().QueryRow(watching, `select count(*) from rowhouse.rollout_targets where state = 'running'`).Scan(&seen); err == nil {
				n = max(n, seen)
			}
		}
		most <- n
	}()
	_, other := h.open(t, jobs.Config{})
	ended := make(chan error, 2)
	for _, runner := range []*jobs.Runner{h.runner, other} {
		go func() { ended <- runner.DriveRollout(t.Context(), ro.ID, 8) }()
	}
	must(t, <-ended)
	must(t, <-ended)
	stop()
	if n := <-most; n != 2 {
		t.Errorf("%d ran at once on a server of 2 slots", n)
	}
	if ro = h.rollout(t, ro.ID); ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	for target := range h.targets(t) {
		if target.Attempts != 1 {
			t.Errorf("%s took %d attempts", target.Name, target.Attempts)
		}
	}
	h.checkApplied(t, 2)
}

// A lock that somebody holds for a while is waited for in short tries, and costs no failure.
func TestRunner_DriveRollout_lock(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 2)
	h.runner = h.quick(t)
	_, shared := h.tenant(t, "acme")
	holder := h.superOn(t, shared.Name)
	tx, err := holder.Begin(t.Context())
	must(t, err)
	_, err = tx.Exec(t.Context(), "lock table projects in access share mode")
	must(t, err)
	ro := h.start(t, later)
	ended := make(chan error, 1)
	go func() { ended <- h.runner.DriveRollout(t.Context(), ro.ID, 4) }()
	h.await(t, "a first try at the shared database", func() bool {
		for target := range h.targets(t) {
			if target.Database == shared.ID && target.Class == "lock" && target.SQLState == "55P03" {
				return true
			}
		}
		return false
	})
	must(t, tx.Rollback(t.Context()))
	must(t, <-ended)
	if ro = h.rollout(t, ro.ID); ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	h.checkApplied(t, 2)
}

// quick is another runner that waits less between tries.
func (h *house) quick(t testing.TB) *jobs.Runner {
	_, runner := h.open(t, jobs.Config{Backoff: 20 * time.Millisecond})
	return runner
}

func (h *house) await(t testing.TB, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !done(); time.Sleep(10 * time.Millisecond) { // another session's row is awaited
		if time.Now().After(end) {
			t.Fatalf("no %s", what)
		}
	}
}

// A server that refuses connections holds its databases: they are not failures, and the rollout goes on when it is back.
func TestRunner_DriveRollout_serverAway(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 5)
	h.runner = h.quick(t)
	hosts := func(hosts []string) {
		must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
			return tx.SetServerHosts(t.Context(), h.server.ID, hosts)
		}))
	}
	ro := h.start(t, later)
	hosts([]string{"/nowhere:5432"})
	ended := make(chan error, 1)
	go func() { ended <- h.runner.DriveRollout(t.Context(), ro.ID, 4) }()
	h.await(t, "held server", func() bool {
		held, err := h.catalog.HeldServers(t.Context(), ro.ID)
		must(t, err)
		return len(held) == 1 && held[0].Refused >= 3
	})
	for target := range h.targets(t) {
		if target.State == catalog.TargetFailed || !target.Held && target.State != catalog.TargetRunning {
			t.Errorf("%s is %s, held %v: %s", target.Name, target.State, target.Held, target.Error)
		}
	}
	hosts(h.server.Hosts)
	must(t, <-ended)
	if ro = h.rollout(t, ro.ID); ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	h.checkApplied(t, 2)
}

// A database made while the rollout runs, at the version before, is taken up by the last ring.
func TestRunner_DriveRollout_lateComer(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 2)
	_, late := h.tenant(t, "tenant-0")
	state := func(s catalog.DatabaseState) {
		must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
			return tx.SetDatabaseState(t.Context(), late.ID, s)
		}))
	}
	state(catalog.DatabaseCreating)
	ro := h.start(t, later)
	state(catalog.DatabaseActive)
	if ro = h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutDone || ro.Rings[3].Done != 2 {
		t.Fatalf("rollout is %s: %+v", ro.State, ro.Rings[3])
	}
	h.checkApplied(t, 2)
}

// What a running service finds under way it takes up by itself.
func TestRunner_Run_takesUpRollouts(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 2)
	_, runner := h.open(t, jobs.Config{Sweep: 50 * time.Millisecond})
	h.run(t, runner)
	ro := h.start(t, later)
	h.await(t, "end of the rollout", func() bool { return h.rollout(t, ro.ID).State == catalog.RolloutDone })
	h.checkApplied(t, 2)
}

func TestRunner_PlanRollout(t *testing.T) {
	t.Parallel()
	h, _ := fleetOf(t, 3)
	plan, err := h.runner.PlanRollout(t.Context(), jobs.RolloutSpec{Files: files(t, later)})
	must(t, err)
	if plan.From != 1 || plan.To != 2 || plan.Pending != 4 || !slices.Equal(plan.Files, []string{"000002_status"}) {
		t.Errorf("plan %+v", plan)
	}
	for i, want := range []int{0, 1, 2, 1} {
		if plan.Rings[i].Databases != want || want > 0 && plan.Rings[i].Servers["local"] != want {
			t.Errorf("ring %+v, want %d databases", plan.Rings[i], want)
		}
	}
	if _, err := h.catalog.OpenRollout(t.Context()); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("planning began a rollout: %v", err)
	}
}

// While a rollout has not come to the shared databases yet, tenants are placed in those that it will come to.
func TestRunner_StartRollout_sharedPlaces(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	h.made(t, tenants.TenantSpec{Name: "acme"})
	_, shared := h.tenant(t, "acme")
	ro := h.start(t, later)
	h.made(t, tenants.TenantSpec{Name: "globex"})
	if _, db := h.tenant(t, "globex"); db.ID != shared.ID {
		t.Errorf("a tenant made during a rollout has the database %s, not %s", db.Name, shared.Name)
	}
	if ro = h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutDone {
		t.Errorf("rollout is %s: %s", ro.State, ro.Note)
	}
	h.checkApplied(t, 2)
}
