package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

func files(t testing.TB, app fstest.MapFS) []migrations.File {
	t.Helper()
	files, err := migrations.ReadSet(app)
	must(t, err)
	return files
}

// mixed is a house with two shared tenants in one database and two dedicated ones.
func mixed(t testing.TB) *house {
	t.Helper()
	h := newHouse(t, "")
	h.activate(t, sample)
	for name, placement := range map[string]catalog.Placement{
		"acme": catalog.Shared, "globex": catalog.Shared, "initech": catalog.Dedicated, "umbrella": catalog.Dedicated,
	} {
		h.made(t, tenants.TenantSpec{Name: name, Placement: placement})
	}
	return h
}

func TestRunner_MigrateFleet(t *testing.T) {
	t.Parallel()
	h := mixed(t)
	var reported []string
	report := func(r migrations.Result) { reported = append(reported, r.Target) }
	summary, err := h.runner.MigrateFleet(t.Context(), files(t, later), jobs.FleetConfig{Workers: 3, PerServer: 2}, report)
	must(t, err)
	if diff := cmp.Diff(jobs.Summary{Done: 3}, summary); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	if len(reported) != 3 {
		t.Errorf("reported %v, want each of three databases once", reported)
	}
	_, shared := h.tenant(t, "acme")
	if reported[len(reported)-1] != shared.Name {
		t.Errorf("shared database was not the last of %v", reported)
	}
	fingerprints := map[string]bool{}
	for db, err := range h.catalog.Databases(t.Context()) {
		must(t, err)
		if db.SchemaVersion != 2 || db.MigrateError != "" || db.PlanEpoch < 2 {
			t.Errorf("%s is at %d, plan epoch %d: %s", db.Name, db.SchemaVersion, db.PlanEpoch, db.MigrateError)
		}
		fingerprints[db.Fingerprint] = true
		var column bool
		must(t, h.login(t, db, db.Name).QueryRow(t.Context(), `
			select exists (select from pg_attribute where attrelid = 'projects'::regclass and attname = 'status')`).Scan(&column))
		if !column {
			t.Errorf("%s has no column status", db.Name)
		}
	}
	if len(fingerprints) != 1 {
		t.Errorf("databases of one version have %d fingerprints", len(fingerprints))
	}

	// Those that are there cost no connection, not even to a server that is gone.
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		return tx.SetServerHosts(t.Context(), h.server.ID, []string{"/nowhere:5432"})
	}))
	summary, err = h.runner.MigrateFleet(t.Context(), files(t, later), jobs.FleetConfig{}, report)
	must(t, err)
	if diff := cmp.Diff(jobs.Summary{Noop: 3}, summary); diff != "" {
		t.Errorf("second summary (-want +got):\n%s", diff)
	}
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		return tx.SetServerHosts(t.Context(), h.server.ID, h.server.Hosts)
	}))

	// New tenants are born with the new set, from a template of their own.
	_, db := h.made(t, tenants.TenantSpec{Name: "hooli", Placement: catalog.Dedicated})
	if db.SchemaVersion != 2 || !fingerprints[db.Fingerprint] {
		t.Errorf("a new database is at %d and differs: %v", db.SchemaVersion, !fingerprints[db.Fingerprint])
	}
}

func TestRunner_MigrateFleet_refuses(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, later)
	edited := fstest.MapFS{
		"000001_projects.up.sql": {Data: []byte("create table other (id uuid primary key default gen_random_uuid()); select rowhouse.bind('other');")},
		"000002_status.up.sql":   later["000002_status.up.sql"],
	}
	for name, app := range map[string]fstest.MapFS{"an older set": sample, "an edited file": edited} {
		if _, err := h.runner.MigrateFleet(t.Context(), files(t, app), jobs.FleetConfig{}, nil); !errors.Is(err, catalog.ErrConflict) {
			t.Errorf("%s gives %v, want ErrConflict", name, err)
		}
	}
	set, err := h.catalog.ActiveSet(t.Context())
	must(t, err)
	if set.Version != 2 {
		t.Errorf("active set is at %d", set.Version)
	}
}

// A database that refuses a file is counted and keeps what it has; the others go on, and the next call takes up the rest.
func TestRunner_MigrateFleet_oneFails(t *testing.T) {
	t.Parallel()
	h := mixed(t)
	_, broken := h.tenant(t, "initech")
	owner := h.as(t, broken, catalog.LoginMigrator, broken.Name+"_o")
	mustExec(t, owner, "alter table projects add column status integer") // by hand: the file's own column has no place
	for range 2 {
		summary, err := h.runner.MigrateFleet(t.Context(), files(t, later), jobs.FleetConfig{}, nil)
		must(t, err)
		if summary.Failed != 1 || summary.Done+summary.Noop != 2 {
			t.Errorf("summary %+v, want one failed and two others", summary)
		}
		_, broken = h.tenant(t, "initech")
		if broken.SchemaVersion != 1 || broken.MigrateError == "" {
			t.Errorf("catalog says version %d, error %q", broken.SchemaVersion, broken.MigrateError)
		}
	}
	mustExec(t, owner, "alter table projects drop column status")
	summary, err := h.runner.MigrateFleet(t.Context(), files(t, later), jobs.FleetConfig{}, nil)
	must(t, err)
	if diff := cmp.Diff(jobs.Summary{Done: 1, Noop: 2}, summary); diff != "" {
		t.Errorf("summary after the repair (-want +got):\n%s", diff)
	}
	if _, repaired := h.tenant(t, "initech"); repaired.SchemaVersion != 2 || repaired.MigrateError != "" {
		t.Errorf("catalog says version %d, error %q", repaired.SchemaVersion, repaired.MigrateError)
	}
}

func TestRunner_MigrateFleet_cancelled(t *testing.T) {
	t.Parallel()
	h := mixed(t)
	for i := range 6 { // enough for the cancel to come before the last
		h.made(t, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", i), Placement: catalog.Dedicated})
	}
	ctx, cancel := context.WithCancel(t.Context())
	slow := fstest.MapFS{
		"000001_projects.up.sql": sample["000001_projects.up.sql"],
		"000002_status.up.sql":   {Data: []byte(`alter table projects add column status text; select pg_sleep(0.2);`)},
	}
	first, err := h.runner.MigrateFleet(ctx, files(t, slow), jobs.FleetConfig{Workers: 1}, func(migrations.Result) { cancel() })
	if !errors.Is(err, context.Canceled) || first.Done == 0 || first.Held == 0 || first.Failed != 0 || first.Done+first.Held != 9 {
		t.Errorf("after a cancel: %+v, %v; want some done and the rest held", first, err)
	}
	for target := range h.targets(t) {
		if target.State == catalog.TargetRunning || target.State == catalog.TargetPending && target.Attempts != 0 {
			t.Errorf("%s is %s after %d attempts: what is stopped costs none", target.Name, target.State, target.Attempts)
		}
	}
	second, err := h.runner.MigrateFleet(t.Context(), files(t, slow), jobs.FleetConfig{}, nil)
	must(t, err)
	if diff := cmp.Diff(jobs.Summary{Done: first.Held, Noop: first.Done}, second); diff != "" {
		t.Errorf("summary of the next call (-want +got):\n%s", diff)
	}
}

func BenchmarkProvision(b *testing.B) {
	h := newHouse(b, "")
	h.activate(b, sample)
	h.made(b, tenants.TenantSpec{Name: "warm", Placement: catalog.Dedicated})
	h.made(b, tenants.TenantSpec{Name: "warm-shared"})
	n := 0
	for _, placement := range []catalog.Placement{catalog.Dedicated, catalog.Shared} {
		b.Run(string(placement), func(b *testing.B) {
			for b.Loop() {
				n++
				h.made(b, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", n), Placement: placement})
			}
		})
	}
	b.Run("create_database_template", func(b *testing.B) {
		template := h.templates(b)[0]
		for b.Loop() {
			n++
			name := fmt.Sprintf("bare_%s_%d", h.server.ID.Compact(), n)
			mustExec(b, h.super, fmt.Sprintf("create database %s template %s strategy wal_log", name, template))
			b.StopTimer()
			mustExec(b, h.super, "drop database "+name)
			b.StartTimer()
		}
	})
}
