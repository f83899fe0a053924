//go:build failpoint

package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// childLease is how long the operation stays with the child after it was killed.
const childLease = time.Second

func init() {
	asChild = func(operation string) int {
		if err := workAsChild(operation); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
}

func workAsChild(operation string) error {
	ctx := context.Background()
	keys, err := keyring.Open(os.Getenv("JOBS_TEST_KEYS"))
	if err != nil {
		return err
	}
	cat, err := catalog.Open(ctx, os.Getenv("JOBS_TEST_CATALOG"), catalog.Config{Keys: keys})
	if err != nil {
		return err
	}
	defer cat.Close()
	runner, err := jobs.New(cat, jobs.Config{Lease: childLease})
	if err != nil {
		return err
	}
	id, err := catalog.ParseID[catalog.Operation](operation)
	if err != nil {
		return err
	}
	_, err = runner.Work(ctx, id)
	return err
}

// child starts a process that works on the operation and fails at a point.
func (h *house) child(t testing.TB, id catalog.OperationID, failpoint string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "JOBS_TEST_OPERATION="+id.String(), "JOBS_TEST_CATALOG="+h.dsn, "JOBS_TEST_KEYS="+h.keys, "ROWHOUSE_FAILPOINT="+failpoint)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// points are all that a dedicated tenant's provisioning passes, in order.
func points() []string {
	var points []string
	for _, step := range tenants.ProvisionSteps {
		if step == "seeded" { // nothing is seeded yet
			continue
		}
		points = append(points, "provision."+step+".before")
		if step == "database" {
			points = append(points, "provision.template.created", "provision.template.filled", "provision.database.created")
		}
		points = append(points, "provision."+step+".after")
	}
	return points
}

// Whoever adds a point is reminded of the list above.
func TestPoints(t *testing.T) {
	for _, p := range fp.Points() {
		if strings.HasPrefix(p, "provision.") && !slices.Contains(points(), p) {
			t.Errorf("no test ends a process at %s", p)
		}
	}
}

// A process that is killed at any point is followed by another, and in the end there is one of everything.
func TestRunner_Run_afterKill(t *testing.T) {
	for _, point := range points() {
		for _, placement := range []catalog.Placement{catalog.Dedicated, catalog.Shared} {
			t.Run(fmt.Sprintf("%s %s", point, placement), func(t *testing.T) {
				t.Parallel()
				h := newHouse(t, "")
				h.activate(t, sample)
				op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: placement})
				err := h.child(t, op.ID, point+"=kill9").Wait()
				var exit *exec.ExitError
				if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("child was not killed at %s: %v", point, err)
				}
				killed := time.Now()
				_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
				h.run(t, runner)
				h.finished(t, op.ID)
				t.Logf("finished %s after the kill", time.Since(killed).Round(time.Millisecond))
				h.checkWhole(t, op.ID, "initech")
				h.checkNothingElse(t)
			})
		}
	}
}

// checkNothingElse insists that no database stands on the server that the catalog's one tenant does not need.
func (h *house) checkNothingElse(t testing.TB) {
	t.Helper()
	_, db := h.tenant(t, "initech")
	rows, err := h.super.Query(t.Context(), `
		select regexp_replace(datname, '^rh_tpl_v.*', 'template') from pg_database
		 where datname = $1 or datname ~ $2 or starts_with(datdba::regrole::text, $1)
		 order by 1`, db.Name, "("+h.server.ID.Compact()+"|^rh_tpl_v.*"+h.server.ID.Compact()[20:]+")$")
	must(t, err)
	var names []string
	for rows.Next() {
		var name string
		must(t, rows.Scan(&name))
		names = append(names, name)
	}
	must(t, rows.Err())
	if diff := cmp.Diff([]string{db.Name, "template"}, names); diff != "" {
		t.Errorf("databases on the server (-want +got):\n%s", diff)
	}
}

// An error or a panic at any point is one attempt; the next one goes on.
func TestRunner_Work_afterError(t *testing.T) {
	for _, action := range []string{"error", "panic"} {
		t.Run(action, func(t *testing.T) {
			h := newHouse(t, "")
			h.activate(t, sample)
			_, runner := h.open(t, jobs.Config{Attempts: 1})
			op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			t.Cleanup(func() { must(t, fp.Set("")) })
			for _, point := range points() {
				must(t, fp.Set(point+"="+action))
				var err error
				op, err = runner.Work(t.Context(), op.ID)
				must(t, err)
				if point == "provision.active.after" {
					break // all is done
				}
				if op.State != catalog.OperationFailed || op.Error == "" {
					t.Fatalf("at %s the operation is %s: %q", point, op.State, op.Error)
				}
				_, err = h.service.RetryOperation(t.Context(), op.ID)
				must(t, err)
			}
			h.checkWhole(t, op.ID, "initech")
			h.checkNothingElse(t)
		})
	}
}

// A worker that stood still while its lease ran out finds out, and changes nothing any more.
func TestRunner_Work_zombie(t *testing.T) {
	for _, point := range []string{"provision.placed.after", "provision.active.before"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, sample)
			op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			zombie := h.child(t, op.ID, point+"=pause")
			stopped(t, zombie.Process.Pid)
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			if point == "provision.placed.after" { // without a session on the server: the other goes on at once
				h.finished(t, op.ID)
			}
			must(t, zombie.Process.Signal(syscall.SIGCONT))
			if err := zombie.Wait(); err != nil {
				t.Errorf("the zombie ended with %v", err)
			}
			h.finished(t, op.ID)
			h.checkWhole(t, op.ID, "initech")
			h.checkNothingElse(t)
		})
	}
}

// stopped waits until a process has stopped itself.
func stopped(t testing.TB, pid int) {
	t.Helper()
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
		t.Fatalf("child did not stop: %v", err)
	}
}
