//go:build failpoint

package jobs_test

import (
	"cmp"
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

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

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
	lease, err := time.ParseDuration(cmp.Or(os.Getenv("JOBS_TEST_LEASE"), "1s"))
	if err != nil {
		return err
	}
	runner, err := jobs.New(cat, jobs.Config{Lease: lease})
	if err != nil {
		return err
	}
	id, err := catalog.ParseID[catalog.Operation](operation)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	for {
		select {
		case err := <-ended:
			return err
		case <-time.After(5 * time.Millisecond):
		}
		op, err := cat.Operation(ctx, id)
		if err != nil {
			return err
		}
		if op.State.Finished() {
			cancel()
			return <-ended
		}
	}
}

// child starts a process that runs until the operation is finished, and fails at a point.
func (h *house) child(t testing.TB, id catalog.OperationID, failpoint string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(append(os.Environ(), env...), "JOBS_TEST_OPERATION="+id.String(), "JOBS_TEST_CATALOG="+h.dsn, "JOBS_TEST_KEYS="+h.keys, "ROWHOUSE_FAILPOINT="+failpoint)
	cmd.Stderr = os.Stderr
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() })
	return cmd
}

// points are all that a dedicated tenant's provisioning passes, in order.
func points() []string {
	var points []string
	for _, step := range tenants.ProvisionSteps {
		points = append(points, "provision."+step+".before")
		if step == "database" {
			points = append(points, "provision.template.created", "provision.template.filled", "provision.database.created")
		}
		if step == "active" {
			points = append(points, "provision.active.chosen")
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
	if diff := gocmp.Diff([]string{db.Name, "template"}, names); diff != "" {
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

// A worker that stood still while its lease ran out, and does not notice, changes nothing any more.
func TestRunner_Run_zombie(t *testing.T) {
	for _, point := range []string{"provision.placed.before", "provision.placed.after", "provision.active.before", "provision.active.chosen"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, sample)
			op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			zombie := h.zombie(t, op.ID, point)
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			h.finished(t, op.ID)
			must(t, zombie.Process.Signal(syscall.SIGCONT))
			if err := zombie.Wait(); err != nil {
				t.Errorf("the zombie ended with %v", err)
			}
			h.checkWhole(t, op.ID, "initech")
			h.checkNothingElse(t)
		})
	}
}

// zombie is a child that stands still at a point, and that the catalog has given up. Its own lease is too long for it to
// find out by renewing.
func (h *house) zombie(t testing.TB, id catalog.OperationID, point string) *exec.Cmd {
	t.Helper()
	cmd := h.child(t, id, point+"=pause", "JOBS_TEST_LEASE=1h")
	stopped(t, cmd.Process.Pid)
	_, err := h.catalog.Pool().Exec(t.Context(), `update rowhouse.operations set lease_until = '-infinity' where id = $1`, id)
	must(t, err)
	return cmd
}

// What a worker that stood still has begun on the server, its successor does not race: it waits for its session to end.
func TestRunner_Run_waitsForZombie(t *testing.T) {
	h := newHouse(t, "")
	h.activate(t, sample)
	op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	zombie := h.zombie(t, op.ID, "provision.database.created")
	_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
	h.run(t, runner)
	asked := map[time.Time]bool{} // when the successor asked for the lock
	for len(asked) < 4 {
		var at []time.Time
		must(t, h.super.QueryRow(t.Context(), `
			select coalesce(array_agg(query_start), '{}') from pg_stat_activity
			 where application_name = 'rowhouse-provision' and query like '%pg_try_advisory_lock%'`).Scan(&at))
		for _, t := range at {
			asked[t] = true
		}
		now, err := h.catalog.Operation(t.Context(), op.ID)
		must(t, err)
		if now.Step != "roles" {
			t.Fatalf("the successor went on to %q while the zombie held the lock", now.Step)
		}
		time.Sleep(time.Millisecond) // what is awaited is another process's statement
	}
	must(t, zombie.Process.Kill())
	h.finished(t, op.ID)
	h.checkWhole(t, op.ID, "initech")
	h.checkNothingElse(t)
}

// A claim is kept while a step takes longer than the lease.
func TestRunner_Work_renews(t *testing.T) {
	h := newHouse(t, "")
	h.activate(t, sample)
	op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	must(t, fp.Set("provision.roles.before=sleep:2s"))
	t.Cleanup(func() { must(t, fp.Set("")) })
	_, runner := h.open(t, jobs.Config{Lease: 800 * time.Millisecond})
	done := make(chan error, 1)
	go func() {
		_, err := runner.Work(t.Context(), op.ID)
		done <- err
	}()
	for op.Step != "placed" {
		var err error
		op, err = h.catalog.Operation(t.Context(), op.ID)
		must(t, err)
	}
	for waiting := true; waiting; {
		select {
		case err := <-done:
			must(t, err)
			waiting = false
		case <-time.After(20 * time.Millisecond):
			if _, err := h.catalog.Claim(t.Context(), op.ID, time.Millisecond); !errors.Is(err, catalog.ErrConflict) {
				t.Fatalf("another worker's claim gives %v, want ErrConflict", err)
			}
		}
	}
	h.checkWhole(t, op.ID, "initech")
}

// A tenant that is being made while another set becomes the active one ends with that one.
func TestRunner_Work_setChanges(t *testing.T) {
	for _, point := range []string{"provision.migrated.before", "provision.verified.before", "provision.active.chosen"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, sample)
			op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			child := h.child(t, op.ID, point+"=pause", "JOBS_TEST_LEASE=1m")
			stopped(t, child.Process.Pid)
			h.activate(t, later)
			// A point is passed as often as its step is: the child would stop there again.
			ended := make(chan error, 1)
			go func() { ended <- child.Wait() }()
			for waiting := true; waiting; {
				if err := child.Process.Signal(syscall.SIGCONT); !errors.Is(err, os.ErrProcessDone) {
					must(t, err)
				}
				select {
				case err := <-ended:
					must(t, err)
					waiting = false
				case <-time.After(10 * time.Millisecond):
				}
			}
			h.checkWhole(t, op.ID, "initech")
			_, db := h.tenant(t, "initech")
			fingerprint, err := migrations.Fingerprint(t.Context(), h.as(t, db, catalog.LoginMigrator, db.Name+"_o"))
			must(t, err)
			if db.SchemaVersion != 2 || db.Fingerprint != fingerprint {
				t.Errorf("catalog says version %d and fingerprint %s; want 2 and %s", db.SchemaVersion, db.Fingerprint, fingerprint)
			}
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
