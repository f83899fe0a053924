//go:build failpoint

package jobs_test

import (
	"errors"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// killed has a child work on an operation until it is killed at the point.
func (h *house) killed(t testing.TB, id catalog.OperationID, point string) {
	t.Helper()
	err := h.child(t, id, point+"=kill9").Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child was not killed at %s: %v", point, err)
	}
}

// A spare database whose maker was killed becomes one, and is the only one.
func TestRunner_Run_spareAfterKill(t *testing.T) {
	for _, point := range []string{"spare.roles.after", "provision.database.created", "spare.owned.after", "spare.verified.after", "spare.kept.before"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, sample)
			_, err := h.service.SetServer(t.Context(), "local", tenants.ServerLimits{Spares: new(1)})
			must(t, err)
			ops, err := h.runner.Restock(t.Context())
			must(t, err)
			h.killed(t, ops[0].ID, point)
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			if op := h.finished(t, ops[0].ID); op.State != catalog.OperationDone {
				t.Errorf("operation is %s: %s", op.State, op.Error)
			}
			if n, there := len(h.inState(t, catalog.DatabaseSpare)), len(h.databases(t)); n != 1 || there != 1 {
				t.Errorf("%d spares in the catalog, %d databases on the server", n, there)
			}
		})
	}
}

// A tenant whose maker was killed with a spare database in hand lives in that one.
func TestRunner_Run_takingAfterKill(t *testing.T) {
	for _, point := range []string{"provision.placed.after", "provision.database.before", "spare.database.renamed", "provision.database.after", "provision.active.chosen"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, sample)
			h.stock(t, h.runner, 1)
			op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			h.killed(t, op.ID, point)
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			if op := h.finished(t, op.ID); op.State != catalog.OperationDone {
				t.Errorf("operation is %s: %s", op.State, op.Error)
			}
			tenant, db := h.tenant(t, "initech")
			if tenant.State != catalog.StateActive || db.State != catalog.DatabaseActive || !slices.Contains(h.databases(t), db.Name) {
				t.Errorf("tenant is %s in a database %s called %s", tenant.State, db.State, db.Name)
			}
			if !db.Spare {
				t.Error("the tenant lives in another database than the one that it had taken")
			}
			awaitTrue(t, func() bool { return len(h.inState(t, catalog.DatabaseSpare)) == 1 })
			if there := h.databases(t); len(there) != 2 {
				t.Errorf("databases on the server: %q", there)
			}
		})
	}
}

// An operation that is being undone is undone by another when its worker is killed.
func TestCancelOperation_afterKill(t *testing.T) {
	for _, point := range []string{"provision.undo.before", "purge.dropped.database", "provision.undo.after"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, sample)
			op := h.begun(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated}, "owned")
			_, err := h.service.CancelOperation(t.Context(), op.ID, true)
			must(t, err)
			h.killed(t, op.ID, point)
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			if op := h.finished(t, op.ID); op.Effects != catalog.EffectsUndone {
				t.Errorf("operation is %s, its effects %q: %s", op.State, op.Effects, op.Error)
			}
			if left := append(h.databases(t), h.roles(t)...); len(left) > 0 {
				t.Errorf("there are left %q", left)
			}
		})
	}
}

// An error on the way back is tried again.
func TestCancelOperation_afterError(t *testing.T) {
	h := newHouse(t, "")
	h.activate(t, sample)
	op := h.begun(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated}, "owned")
	_, err := h.service.CancelOperation(t.Context(), op.ID, true)
	must(t, err)
	must(t, fp.Set("purge.dropped.database=error"))
	t.Cleanup(func() { must(t, fp.Set("")) })
	_, runner := h.open(t, jobs.Config{Attempts: 1})
	op, err = runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.State != catalog.OperationFailed || op.Effects != catalog.EffectsKept {
		t.Fatalf("operation is %s, its effects %q", op.State, op.Effects)
	}
	must(t, fp.Set(""))
	_, err = h.service.CancelOperation(t.Context(), op.ID, true)
	must(t, err)
	op, err = runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.Effects != catalog.EffectsUndone {
		t.Errorf("operation is %s, its effects %q: %s", op.State, op.Effects, op.Error)
	}
}
