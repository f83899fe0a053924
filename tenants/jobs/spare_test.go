package jobs_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// stock asks for spare databases and makes them.
func (h *house) stock(t testing.TB, runner *jobs.Runner, n int) {
	t.Helper()
	_, err := h.service.SetServer(t.Context(), "local", tenants.ServerLimits{Spares: &n})
	must(t, err)
	h.restock(t, runner)
}

func (h *house) restock(t testing.TB, runner *jobs.Runner) {
	t.Helper()
	for {
		ops, err := runner.Restock(t.Context())
		must(t, err)
		if len(ops) == 0 {
			return
		}
		for _, op := range ops {
			op, err := runner.Work(t.Context(), op.ID)
			must(t, err)
			if op.State != catalog.OperationDone {
				t.Fatalf("operation is %s after %q: %s", op.State, op.Step, op.Error)
			}
		}
	}
}

// inState lists the catalog's databases in a state.
func (h *house) inState(t testing.TB, state catalog.DatabaseState) []*catalog.Database {
	t.Helper()
	var found []*catalog.Database
	for db, err := range h.catalog.Databases(t.Context()) {
		must(t, err)
		if db.State == state {
			found = append(found, db)
		}
	}
	return found
}

func TestRunner_Restock(t *testing.T) {
	t.Parallel()
	for _, attributes := range []string{"", "login createdb createrole"} {
		t.Run("provisioner "+attributes, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, attributes)
			h.activate(t, sample)
			h.stock(t, h.runner, 2)
			spares := h.inState(t, catalog.DatabaseSpare)
			if len(spares) != 2 || !strings.HasPrefix(spares[0].Name, "rh_spare_") || spares[0].SchemaVersion != 1 {
				t.Fatalf("stock is %d", len(spares))
			}
			tenant, db := h.made(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			if db.ID != spares[0].ID || db.Name != "rh_"+db.ID.Compact() || db.State != catalog.DatabaseActive {
				t.Errorf("tenant lives in %s, a database %s called %s; want the first spare", db.ID, db.State, db.Name)
			}
			_, neighbour := h.made(t, tenants.TenantSpec{Name: "umbrella", Placement: catalog.Dedicated})
			h.checkServer(t, db)
			h.checkLogin(t, tenant, db, neighbour)
			// Without a spare, one is made as ever.
			if _, other := h.made(t, tenants.TenantSpec{Name: "hooli", Placement: catalog.Dedicated}); other.Spare {
				t.Error("a third tenant got one of two spares")
			}
			h.stock(t, h.runner, 1)
			if n := len(h.inState(t, catalog.DatabaseSpare)); n != 1 {
				t.Errorf("stock is %d after the others were taken, want 1", n)
			}
		})
	}
}

// More tenants than spares at once: no spare is taken twice, nobody waits for one.
func TestRunner_Restock_race(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	h.stock(t, h.runner, 2)
	var all errgroup.Group
	for _, name := range []string{"a", "b", "c", "d"} {
		op := h.create(t, tenants.TenantSpec{Name: name, Placement: catalog.Dedicated})
		_, runner := h.open(t, jobs.Config{})
		all.Go(func() error {
			_, err := runner.Work(t.Context(), op.ID)
			return err
		})
	}
	must(t, all.Wait())
	homes, spares := map[catalog.DatabaseID]bool{}, 0
	for _, name := range []string{"a", "b", "c", "d"} {
		tenant, db := h.tenant(t, name)
		if tenant.State != catalog.StateActive {
			t.Errorf("tenant %s is %s", name, tenant.State)
		}
		homes[db.ID] = true
		if db.Spare {
			spares++
		}
	}
	if len(homes) != 4 || spares != 2 {
		t.Errorf("4 tenants live in %d databases, of which %d were spares", len(homes), spares)
	}
}

// A running Runner makes the next one when one was taken, drops what is too many, and brings a stale one to the active set.
func TestRunner_Run_stock(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	h.stock(t, h.runner, 2)
	h.activate(t, later) // the rollout takes the spares with it
	for _, db := range h.inState(t, catalog.DatabaseSpare) {
		if db.SchemaVersion != 2 {
			t.Errorf("a spare is at version %d after the rollout", db.SchemaVersion)
		}
	}
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		_, err := tx.Exec(t.Context(), `update rowhouse.databases set schema_chain = 'another' where state = 'spare'`)
		return err
	}))
	h.restock(t, h.runner)
	for _, db := range h.inState(t, catalog.DatabaseSpare) {
		if db.SchemaChain == "another" {
			t.Error("a stale spare stays so")
		}
	}
	h.stock(t, h.runner, 1)
	if n, there := len(h.inState(t, catalog.DatabaseSpare)), len(h.databases(t)); n != 1 || there != 1 {
		t.Errorf("%d spares in the catalog and %d databases on the server, want 1", n, there)
	}
	op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	_, runner := h.open(t, jobs.Config{})
	h.run(t, runner)
	h.finished(t, op.ID)
	_, db := h.tenant(t, "initech")
	if !db.Spare {
		t.Error("the tenant did not get the spare")
	}
	awaitTrue(t, func() bool { return len(h.inState(t, catalog.DatabaseSpare)) == 1 })
}

// awaitTrue waits for what another goroutine or process brings about.
func awaitTrue(t testing.TB, done func() bool) {
	t.Helper()
	for began := time.Now(); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatal("it does not happen")
		}
	}
}
