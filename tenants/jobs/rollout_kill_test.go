//go:build failpoint

package jobs_test

import (
	"errors"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// rolloutPoints are those that a process which drives a rollout passes. The command's tests end it at rollout.started.
var rolloutPoints = []string{"rollout.tried", "rollout.prepared", "rollout.claimed", "rollout.migrated", "rollout.recording", "rollout.recorded"}

func TestPoints_rollout(t *testing.T) {
	for _, p := range fp.Points() {
		if strings.HasPrefix(p, "rollout.") && p != "rollout.started" && !slices.Contains(rolloutPoints, p) {
			t.Errorf("no test ends a process at %s", p)
		}
	}
}

// A migrator that is killed at any point is followed by another, and every database has every version once, whatever kind
// of file it was.
func TestRunner_DriveRollout_afterKill(t *testing.T) {
	app := fstest.MapFS{
		"000001_projects.up.sql": sample["000001_projects.up.sql"],
		"000002_status.up.sql":   later["000002_status.up.sql"],
		"000003_index.up.sql": {Data: []byte("-- rowhouse:no-transaction\n-- rowhouse:verify select exists (select from pg_index where indexrelid = to_regclass('projects_status') and indisvalid)\n" +
			"create index concurrently projects_status on projects (tenant_id, status);\n")},
	}
	for _, point := range rolloutPoints {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h, _ := fleetOf(t, 3)
			ro := h.start(t, app)
			err := h.child(t, ro.Operation, point+"=kill9").Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("child was not killed at %s: %v", point, err)
			}
			_, runner := h.open(t, jobs.Config{Lease: time.Second})
			if ro = h.drive(t, runner, ro.ID); ro.State != catalog.RolloutDone {
				t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
			}
			h.checkApplied(t, 3)
		})
	}
}

// One that only stood still while another took its place can record nothing any more.
func TestRunner_DriveRollout_zombie(t *testing.T) {
	t.Parallel()
	h, canary := fleetOf(t, 2)
	ro := h.start(t, later)
	zombie := h.child(t, ro.Operation, "rollout.migrated=pause")
	h.await(t, "claim of the child", func() bool {
		for target := range h.targets(t) {
			if target.Database == canary.ID && target.State == catalog.TargetRunning {
				var n int
				must(t, h.superOn(t, canary.Name).QueryRow(t.Context(), `select count(*) from rowhouse.migrations`).Scan(&n))
				return n == 2
			}
		}
		return false
	})
	_, runner := h.open(t, jobs.Config{Lease: time.Second})
	if ro = h.drive(t, runner, ro.ID); ro.State != catalog.RolloutDone {
		t.Fatalf("rollout is %s: %s", ro.State, ro.Note)
	}
	// The lock that the zombie holds in its database may have cost others an attempt or two, each with its result.
	results := func() (all, done int) {
		must(t, h.catalog.Pool().QueryRow(t.Context(), `
			select (select seq from rowhouse.rollouts where id = $1),
			       (select count(*) from rowhouse.audit_events where action = 'database.migrate' and detail->>'rollout' = $1::text and detail->>'state' = 'done')`,
			ro.ID).Scan(&all, &done))
		return all, done
	}
	before, done := results()
	if done != 3 {
		t.Errorf("%d databases are recorded as done, want each of 3 once", done)
	}
	must(t, zombie.Process.Signal(syscall.SIGCONT))
	_ = zombie.Wait() // it finds the rollout done and ends
	if after, done := results(); before != after || done != 3 {
		t.Errorf("%d results, and %d after the zombie woke, %d of them done", before, after, done)
	}
	h.checkApplied(t, 2)
}
