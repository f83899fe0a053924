//go:build failpoint

package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// movePoints are all that a move by copy passes, in order.
func movePoints() []string {
	var points []string
	for _, step := range tenants.MoveSteps {
		if step == "copying" || step == "ready" {
			continue
		}
		points = append(points, "move."+step+".before")
		switch step {
		case "fencing":
			points = append(points, "move.fencing.fenced", "move.fencing.copied")
		case "decided":
			points = append(points, "move.decided.turned")
		case "switched":
			points = append(points, "move.switched.opened", "move.switched.recorded")
		}
		points = append(points, "move."+step+".after")
	}
	return points
}

// Whoever adds a point is reminded of the list above.
func TestMovePoints(t *testing.T) {
	for _, p := range fp.Points() {
		if strings.HasPrefix(p, "move.") && !strings.HasPrefix(p, "move.undo.") && !strings.HasPrefix(p, "move.copying.") && !strings.HasPrefix(p, "move.ready.") && !slices.Contains(movePoints(), p) {
			t.Errorf("no test ends a process at %s", p)
		}
	}
}

// writer writes a tenant's rows where the catalog says that it lives, as a router with an old view does: the gate decides.
type writer struct {
	house *house
	stop  chan struct{}
	group sync.WaitGroup
	mu    sync.Mutex // guards the fields below
	acked []string
	wrong error
}

func (h *house) writer(t testing.TB, name string) *writer {
	t.Helper()
	w := &writer{house: h, stop: make(chan struct{})}
	tenant, db := h.tenant(t, name)
	conns := map[catalog.DatabaseID]*pgx.Conn{db.ID: h.superIn(t, db)}
	w.group.Go(func() {
		defer func() {
			for _, conn := range conns {
				_ = conn.Close(context.Background())
			}
		}()
		for i := 0; ; i++ {
			select {
			case <-w.stop:
				return
			default:
			}
			row := fmt.Sprintf("row %d", i)
			err := w.write(t.Context(), conns[tenant.Database], tenant, row)
			var pg *pgconn.PgError
			switch {
			case err == nil:
				w.mu.Lock()
				w.acked = append(w.acked, row)
				w.mu.Unlock()
			case errors.As(err, &pg) && pg.Code == "RH001":
				now, err := h.catalog.Tenant(t.Context(), name)
				if err == nil && conns[now.Database] == nil {
					db, found := h.catalog.Database(t.Context(), now.Database)
					if err = found; err == nil {
						conns[db.ID] = h.superIn(t, db)
					}
				}
				if err != nil {
					w.fail(err)
					return
				}
				tenant = now
				time.Sleep(5 * time.Millisecond) // what is awaited is another process's gate
			default:
				w.fail(err)
				return
			}
		}
	})
	return w
}

func (w *writer) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = err
}

func (w *writer) write(ctx context.Context, conn *pgx.Conn, tenant *catalog.Tenant, row string) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local rowhouse.tenant_id = '"+tenant.ID.String()+"'"); err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "select rowhouse.enter_tenant($1, $2, true)", tenant.ID, tenant.PlacementEpoch); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "insert into zoos (name) values ($1)", row)
		return err
	})
}

// has waits until n writes were acknowledged.
func (w *writer) has(t testing.TB, n int) {
	t.Helper()
	for {
		w.mu.Lock()
		have, wrong := len(w.acked), w.wrong
		w.mu.Unlock()
		must(t, wrong)
		if have >= n {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// end stops writing and says what was acknowledged.
func (w *writer) end(t testing.TB) []string {
	t.Helper()
	close(w.stop)
	w.group.Wait()
	must(t, w.wrong)
	return w.acked
}

// checkMoved insists that every acknowledged row is there once, in the one database whose gate is open.
func (h *house) checkMoved(t testing.TB, acked []string, old *catalog.Database) {
	t.Helper()
	acme, home := h.tenant(t, "acme")
	conn := h.superIn(t, home)
	defer conn.Close(context.WithoutCancel(t.Context()))
	rows, err := conn.Query(t.Context(), "select name from zoos where tenant_id = $1 and name like 'row %'", acme.ID)
	must(t, err)
	got, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	slices.Sort(got)
	want := slices.Sorted(slices.Values(acked))
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("acknowledged rows at the home (-want +got):\n%s", diff)
	}
	if acme.Moving {
		t.Error("acme is still moving")
	}
	if home.ID == old.ID {
		if got := h.gates(t, acme.ID, old); got[0] != "open" {
			t.Errorf("gate %q", got)
		}
		if left := h.databases(t); !cmp.Equal(left, []string{old.Name}) {
			t.Errorf("databases %q, want the shared one", left)
		}
		return
	}
	if got := h.gates(t, acme.ID, old, home); !cmp.Equal(got, []string{"moved", "open"}) {
		t.Errorf("gates %q", got)
	}
	if left := h.databases(t); len(left) != 2 {
		t.Errorf("databases %q, want two", left)
	}
}

// A process that is killed at any point of a move is followed by another, and no acknowledged write is lost or doubled.
func TestMove_afterKill(t *testing.T) {
	for _, point := range movePoints() {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, furnished)
			_, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
			h.furnish(t, "acme", 20)
			w := h.writer(t, "acme")
			w.has(t, 5)
			op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy, MaxPause: aMinute()})
			must(t, err)
			err = h.child(t, op.ID, point+"=kill9").Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("child was not killed at %s: %v", point, err)
			}
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			if op := h.finished(t, op.ID); op.State != catalog.OperationDone {
				t.Fatalf("operation is %s: %s", op.State, op.Error)
			}
			w.mu.Lock()
			n := len(w.acked)
			w.mu.Unlock()
			w.has(t, n+5) // it goes on at the new home
			h.checkMoved(t, w.end(t), shared)
			if _, home := h.tenant(t, "acme"); home.ID == shared.ID {
				t.Error("acme is where it was")
			}
		})
	}
}

func aMinute() *time.Duration {
	d := time.Minute
	return &d
}

// An operation that fails at any point before it is decided leaves the tenant where it was; after that it goes forward.
func TestMove_afterError(t *testing.T) {
	h := newHouse(t, "")
	h.activate(t, furnished)
	_, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
	h.furnish(t, "acme", 20)
	_, runner := h.open(t, jobs.Config{Attempts: 1})
	t.Cleanup(func() { must(t, fp.Set("")) })
	w := h.writer(t, "acme")
	decided := slices.Index(movePoints(), "move.decided.turned")
	for i, point := range movePoints()[:decided+1] {
		for _, action := range []string{"error", "panic"} {
			if i == decided && action == "panic" {
				continue // by then the tenant has moved
			}
			must(t, fp.Set(point+"="+action))
			op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy, MaxPause: aMinute()})
			must(t, err)
			op, err = runner.Work(t.Context(), op.ID)
			must(t, err)
			_, home := h.tenant(t, "acme")
			switch {
			case i < decided && (op.State != catalog.OperationFailed || home.ID != shared.ID):
				t.Fatalf("%s at %s: the operation is %s and acme in %s", action, point, op.State, home.Name)
			case i == decided && (op.State != catalog.OperationDone || home.ID == shared.ID):
				t.Fatalf("%s at %s: the operation is %s and acme in %s: %s", action, point, op.State, home.Name, op.Error)
			}
			if left := len(h.databases(t)); i < decided && left != 1 {
				t.Fatalf("%s at %s left %d databases", action, point, left)
			}
			w.mu.Lock()
			n := len(w.acked)
			w.mu.Unlock()
			w.has(t, n+3)
		}
	}
	h.checkMoved(t, w.end(t), shared)
}

// One that is cancelled at any point before it is decided leaves the tenant where it was.
func TestMove_cancelled(t *testing.T) {
	for _, point := range []string{"move.planned.before", "move.provisioned.after", "move.fencing.copied", "move.decided.before"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, furnished)
			_, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
			h.furnish(t, "acme", 20)
			w := h.writer(t, "acme")
			op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy, MaxPause: aMinute()})
			must(t, err)
			child := h.child(t, op.ID, point+"=pause", "JOBS_TEST_LEASE=1h")
			stopped(t, child.Process.Pid)
			_, err = h.service.CancelOperation(t.Context(), op.ID, false)
			must(t, err)
			must(t, child.Process.Kill())
			_ = child.Wait()
			_, err = h.catalog.Pool().Exec(t.Context(), `update rowhouse.operations set lease_until = '-infinity' where id = $1`, op.ID)
			must(t, err)
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			if op := h.finished(t, op.ID); op.State != catalog.OperationCancelled || op.Effects != catalog.EffectsUndone {
				t.Fatalf("operation is %s, %s: %s", op.State, op.Effects, op.Error)
			}
			if _, home := h.tenant(t, "acme"); home.ID != shared.ID {
				t.Errorf("acme is in %s", home.Name)
			}
			w.has(t, 5)
			h.checkMoved(t, w.end(t), shared)
		})
	}
}

// A mover that stands still behind its fence keeps writers out for as long as they may have to wait, and changes nothing when it comes to
// itself.
func TestMove_zombie(t *testing.T) {
	for _, point := range []string{"move.fencing.copied", "move.decided.before", "move.decided.turned", "move.switched.opened"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, "")
			h.activate(t, furnished)
			_, shared := h.made(t, tenants.TenantSpec{Name: "acme"})
			h.furnish(t, "acme", 20)
			w := h.writer(t, "acme")
			pause := 5 * time.Second
			op, err := h.service.PromoteTenant(t.Context(), "acme", tenants.MoveSpec{Mode: tenants.MoveCopy, MaxPause: &pause})
			must(t, err)
			zombie := h.zombie(t, op.ID, point)
			_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
			h.run(t, runner)
			if op := h.finished(t, op.ID); op.State != catalog.OperationDone {
				t.Fatalf("operation is %s: %s", op.State, op.Error)
			}
			must(t, zombie.Process.Signal(syscall.SIGCONT))
			if err := zombie.Wait(); err != nil {
				t.Errorf("the zombie ended with %v", err)
			}
			w.mu.Lock()
			n := len(w.acked)
			w.mu.Unlock()
			w.has(t, n+5)
			h.checkMoved(t, w.end(t), shared)
		})
	}
}
