package jobs_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// begun creates a tenant and works on it until the step is recorded.
func (h *house) begun(t testing.TB, spec tenants.TenantSpec, step string) *catalog.Operation {
	t.Helper()
	return h.upTo(t, h.create(t, spec), step)
}

// upTo works on an operation until the step is recorded.
func (h *house) upTo(t testing.TB, op *catalog.Operation, step string) *catalog.Operation {
	t.Helper()
	steps := op.Steps
	_, err := h.catalog.Pool().Exec(t.Context(), `
		update rowhouse.operations set steps = array_append(steps[1:array_position(steps, $2)], 'held') where id = $1`, op.ID, step)
	must(t, err)
	// A step that this program does not know is left to a later one.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	worked := make(chan error, 1)
	go func(id catalog.OperationID) {
		_, err := h.runner.Work(ctx, id)
		worked <- err
	}(op.ID)
	for op.State != catalog.OperationWaiting {
		op, err = h.catalog.Operation(ctx, op.ID)
		must(t, err)
		time.Sleep(2 * time.Millisecond) // what is awaited is a row that another goroutine writes
	}
	cancel()
	if err := <-worked; !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	_, err = h.catalog.Pool().Exec(t.Context(), `update rowhouse.operations set steps = $2, next_at = now() where id = $1`, op.ID, steps)
	must(t, err)
	return op
}

// TestCancelOperation cancels a provisioning after each step, keeps or undoes it, and looks at what is left.
func TestCancelOperation(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "login createdb createrole")
	h.activate(t, sample)
	steps := []string{"placed", "roles", "database", "secured", "owned", "migrated", "verified"}
	if testing.Short() {
		steps = []string{"placed", "database", "verified"}
	}
	for _, step := range steps {
		op := h.begun(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated}, step)
		_, err := h.service.CancelOperation(t.Context(), op.ID, true)
		must(t, err)
		op, err = h.runner.Work(t.Context(), op.ID)
		must(t, err)
		if op.State != catalog.OperationCancelled || op.Effects != catalog.EffectsUndone {
			t.Errorf("after %s the operation is %s, its effects %q: %s", step, op.State, op.Effects, op.Error)
		}
		if left := append(h.databases(t), h.roles(t)...); len(left) > 0 {
			t.Errorf("after %s there are left %q", step, left)
		}
		// The name is free again, and nobody can go on with what is no longer there.
		if _, err := h.catalog.Tenant(t.Context(), "initech"); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("after %s the tenant is found: %v", step, err)
		}
		if _, err := h.service.RetryOperation(t.Context(), op.ID); !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("an operation that was undone can be retried: %v", err)
		}
		if _, err := h.service.CancelOperation(t.Context(), op.ID, true); !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("an operation that was undone can be undone: %v", err)
		}
	}
}

func TestCancelOperation_keeps(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "login createdb createrole")
	h.activate(t, sample)
	op := h.begun(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated}, "owned")
	_, err := h.service.CancelOperation(t.Context(), op.ID, false)
	must(t, err)
	op, err = h.runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.State != catalog.OperationCancelled || op.Effects != catalog.EffectsKept || op.Step != "owned" {
		t.Errorf("operation is %s after %s, its effects %q", op.State, op.Step, op.Effects)
	}
	if tenant, _ := h.tenant(t, "initech"); tenant.State != catalog.StateFailed {
		t.Errorf("tenant is %s", tenant.State)
	}
	if n := len(h.databases(t)); n != 1 {
		t.Errorf("%d databases are there, want the one that was kept", n)
	}
	_, err = h.service.RetryOperation(t.Context(), op.ID)
	must(t, err)
	op, err = h.runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.State != catalog.OperationDone || op.Cancel != "" || op.Effects != "" {
		t.Errorf("retried, the operation is %s, cancel %q, effects %q", op.State, op.Cancel, op.Effects)
	}
	if _, err := h.service.CancelOperation(t.Context(), op.ID, true); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("an operation that is done can be cancelled: %v", err)
	}
}

// A statement that is running is interrupted: here one that waits for a lock that nobody gives back.
func TestCancelOperation_interrupts(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	op := h.begun(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated}, "secured")
	_, db := h.tenant(t, "initech")
	holder := h.superOn(t, db.Name)
	mustExec(t, holder, `begin`)
	mustExec(t, holder, `lock table rowhouse.identity`)
	_, runner := h.open(t, jobs.Config{})
	h.run(t, runner)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for waits := false; !waits; {
		must(t, h.super.QueryRow(ctx, `
			select exists (select from pg_stat_activity where datname = $1 and wait_event_type = 'Lock')`, db.Name).Scan(&waits))
		time.Sleep(2 * time.Millisecond) // what is awaited is another process's statement
	}
	_, err := h.service.CancelOperation(t.Context(), op.ID, true)
	must(t, err)
	if op = h.finished(t, op.ID); op.State != catalog.OperationCancelled || op.Effects != catalog.EffectsUndone {
		t.Errorf("operation is %s, its effects %q: %s", op.State, op.Effects, op.Error)
	}
	if left := append(h.databases(t), h.roles(t)...); len(left) > 0 {
		t.Errorf("there are left %q", left)
	}
}
