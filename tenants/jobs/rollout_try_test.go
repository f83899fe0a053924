package jobs_test

import (
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// after is the sample and one file more.
func after(text string) fstest.MapFS {
	return fstest.MapFS{
		"000001_projects.up.sql": sample["000001_projects.up.sql"],
		"000002_more.up.sql":     {Data: []byte(text)},
	}
}

func TestRunner_TryRollout(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	h.made(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
	_, db := h.tenant(t, "acme")
	try := func(text string) (*jobs.RolloutPlan, *jobs.Trial) {
		t.Helper()
		spec := jobs.RolloutSpec{Files: files(t, after(text))}
		plan, err := h.runner.PlanRollout(t.Context(), spec)
		must(t, err)
		trial, err := h.runner.TryRollout(t.Context(), spec, plan)
		must(t, err)
		return plan, trial
	}
	const index = "alter table projects add column status text;\ncreate index projects_by_status on projects (tenant_id, status);"
	plan, trial := try(index)
	statements := trial.Files[0].Statements
	if len(statements) != 2 || statements[0].Locks[0] != (tenants.TableLock{Table: "public.projects", Mode: "AccessExclusiveLock"}) || statements[1].Line != 2 {
		t.Errorf("statements %+v", statements)
	}
	if p := trial.Files[0].Problems; len(p) != 1 || p[0].Rule != "index" || p[0].Table != "public.projects" || p[0].Excused == "" {
		t.Errorf("an index of a small table: %+v", p)
	}
	estimate, err := h.runner.Estimate(t.Context(), plan, trial)
	must(t, err)
	if estimate < trial.Took || estimate > trial.Took+soaked {
		t.Errorf("one database takes %s, one trial took %s", estimate, trial.Took)
	}
	if _, trial = try("alter table projects alter name type varchar(100), add column code text not null;"); len(trial.Files[0].Problems) != 3 || trial.Files[0].Problems[2].Excused != "the table is empty" {
		t.Errorf("a rewrite, and a column that empty tables can have: %+v", trial.Files[0].Problems)
	}
	if _, trial = try("create view v as select 1 as one;"); len(trial.Files[0].Problems) != 1 || trial.Files[0].Problems[0].Rule != "L6" || trial.Files[0].Problems[0].Excused != "" {
		t.Errorf("what breaks the contract: %+v", trial.Files[0].Problems)
	}

	// The same index where it hurts.
	conn := h.superOn(t, db.Name)
	_, err = conn.Exec(t.Context(), "alter table projects disable trigger all")
	must(t, err)
	tenant, _ := h.tenant(t, "acme")
	_, err = conn.Exec(t.Context(), "insert into projects (tenant_id, name) select $1, repeat('x', 1000) || n from generate_series(1, 10000) n", tenant.ID)
	must(t, err)
	if _, trial = try(index); trial.Files[0].Problems[0].Excused != "" {
		t.Errorf("an index of a large table is let through: %+v", trial.Files[0].Problems)
	}
	ro := h.start(t, after(index))
	if ro = h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutPaused || !strings.Contains(ro.Note, "000002_more:2") || !strings.Contains(ro.Note, "no database was touched") {
		t.Errorf("rollout is %s: %s", ro.State, ro.Note)
	}
	// Another set may take its place at once: nothing has what it brought.
	ro = h.start(t, after("-- rowhouse:allow index nobody writes at night\n"+index))
	if ro = h.drive(t, h.runner, ro.ID); ro.State != catalog.RolloutDone {
		t.Errorf("rollout is %s: %s", ro.State, ro.Note)
	}
	h.checkApplied(t, 2)
	var left int
	must(t, h.super.QueryRow(t.Context(), "select count(*) from pg_database where datname = $1", "rh_try_"+h.server.ID.Compact()).Scan(&left))
	if left > 0 {
		t.Error("a scratch database is left")
	}
}

// soaked is how long the canaries of a plan rest, and some.
const soaked = 10*time.Minute + 5*time.Second
