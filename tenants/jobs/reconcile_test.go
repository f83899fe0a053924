package jobs_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// compared are the findings about what carries the catalog's mark. Other tests' databases on the server look like ours.
func (h *house) compared(t testing.TB, cfg jobs.ReconcileConfig) map[string]jobs.Finding {
	t.Helper()
	all, err := h.runner.Reconcile(t.Context(), cfg)
	must(t, err)
	found := map[string]jobs.Finding{}
	for _, f := range all {
		if !strings.Contains(f.Problem, "left alone") {
			found[f.Name] = f
		}
	}
	return found
}

func (h *house) forget(t testing.TB, sql string, args ...any) {
	t.Helper()
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	}))
}

func TestRunner_Reconcile(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "login createdb createrole")
	h.activate(t, sample)
	_, acme := h.made(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
	_, initech := h.made(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	now := jobs.ReconcileConfig{Age: time.Nanosecond}
	if found := h.compared(t, now); len(found) > 0 {
		t.Fatalf("a sound house gives %+v", found)
	}

	// The catalog forgets a database: it is set aside, with what was in it, when it is old enough and somebody asks for it.
	h.forget(t, `update rowhouse.databases set state = 'gone' where id = $1`, initech.ID)
	if found := h.compared(t, jobs.ReconcileConfig{Mend: true}); len(found) > 0 {
		t.Errorf("what was made just now is taken for an orphan: %+v", found)
	}
	if f := h.compared(t, now)[initech.Name]; f.Kind != "database" || f.Did != "" || f.Cure == "" {
		t.Errorf("an orphan gives %+v", f)
	}
	if !slices.Contains(h.databases(t), initech.Name) {
		t.Error("it was touched though it was only to be listed")
	}
	now.Mend = true
	if f := h.compared(t, now)[initech.Name]; !strings.Contains(f.Did, "rh_orphan_") {
		t.Errorf("an orphan gives %+v", f)
	}
	aside := "rh_orphan_" + time.Now().UTC().Format("20060102") + "_" + initech.ID.Compact()
	var open bool
	must(t, h.super.QueryRow(t.Context(), `select datallowconn from pg_database where datname = $1`, aside).Scan(&open))
	if open {
		t.Error("what was set aside is open")
	}
	if f := h.compared(t, now)[aside]; f.Did != "" {
		t.Errorf("what was set aside is set aside again: %+v", f)
	}

	// Roles whose database is no more log in no longer.
	mustExec(t, h.super, "drop database "+aside)
	found := h.compared(t, now)
	if f := found[initech.Name+"_a"]; f.Kind != "role" || f.Did == "" {
		t.Errorf("the login of a database that is no more gives %+v", f)
	}
	var logins int
	must(t, h.super.QueryRow(t.Context(), `select count(*) from pg_roles where rolcanlogin and starts_with(rolname, $1)`, initech.Name).Scan(&logins))
	if logins != 0 {
		t.Errorf("%d roles may still log in", logins)
	}

	// A database that is another one than its row says.
	super := h.superOn(t, acme.Name)
	mustExec(t, super, `update rowhouse.identity set database_id = gen_random_uuid()`)
	must(t, super.Close(t.Context()))
	if f := h.compared(t, now)[acme.Name]; !f.Critical || !strings.Contains(f.Problem, "another one than its name says") {
		t.Errorf("a database with another's identity gives %+v", f)
	}

	// A row without a database.
	mustExec(t, h.super, "drop database "+acme.Name+" with (force)")
	if f := h.compared(t, now)[acme.Name]; !f.Critical || !strings.Contains(f.Problem, "not on the server") {
		t.Errorf("a row without a database gives %+v", f)
	}
}

// What another catalog marked is not touched, however it is called.
func TestRunner_Reconcile_foreign(t *testing.T) {
	t.Parallel()
	h, other := newHouse(t, ""), newHouse(t, "")
	other.activate(t, sample)
	_, theirs := other.made(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
	all, err := h.runner.Reconcile(t.Context(), jobs.ReconcileConfig{Age: time.Nanosecond, Mend: true})
	must(t, err)
	i := slices.IndexFunc(all, func(f jobs.Finding) bool { return f.Name == theirs.Name })
	if i < 0 || all[i].Did != "" || all[i].Critical {
		t.Fatalf("another catalog's database gives %+v", all)
	}
	if !slices.Contains(other.databases(t), theirs.Name) {
		t.Error("another catalog's database was touched")
	}
}
