package jobs_test

import (
	"context"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// asRequest connects as requests do, with what the catalog says at that moment.
func (h *house) asRequest(t testing.TB, db *catalog.Database) *pgx.Conn {
	t.Helper()
	cfg, err := h.catalog.ConnConfig(t.Context(), db.ID, catalog.LoginData)
	must(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func TestRotateDatabase(t *testing.T) {
	t.Parallel()
	for _, attributes := range []string{"", "login createdb createrole"} {
		t.Run("provisioner "+attributes, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, attributes)
			h.activate(t, sample)
			_, db := h.made(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			old, err := h.catalog.Credential(t.Context(), db.Server, db.ID, catalog.LoginData)
			must(t, err)
			busy := h.asRequest(t, db)

			op, err := h.service.RotateDatabase(t.Context(), db.ID.String())
			must(t, err)
			if _, err := h.service.RotateDatabase(t.Context(), db.ID.String()); !errors.Is(err, catalog.ErrConflict) {
				t.Errorf("a second rotation at the same time: %v", err)
			}
			_, runner := h.open(t, jobs.Config{})
			h.run(t, runner)
			// It is switched and waits for the one who is still connected; whoever comes now comes as the other login.
			awaitTrue(t, func() bool {
				op, err = h.catalog.Operation(t.Context(), op.ID)
				must(t, err)
				return op.Step == "switched" && op.State == catalog.OperationWaiting
			})
			must(t, migrations.CheckRoles(t.Context(), busy, []string{"anon", "authenticated", "service_role"}))
			fresh := h.asRequest(t, db)
			must(t, migrations.SelfTest(t.Context(), fresh, []string{"anon", "authenticated", "service_role"}))
			if user := fresh.Config().User; user != db.Name+"_b" {
				t.Errorf("after the switch requests log in as %s", user)
			}
			if _, err := h.service.CancelOperation(t.Context(), op.ID, true); !errors.Is(err, catalog.ErrConflict) {
				t.Errorf("a rotation that has switched can be cancelled: %v", err)
			}
			must(t, busy.Close(t.Context()))
			if op = h.finished(t, op.ID); op.State != catalog.OperationDone {
				t.Fatalf("operation is %s: %s", op.State, op.Error)
			}

			// The old login is shut, and its password forgotten.
			cfg, err := h.catalog.CredentialConnConfig(t.Context(), db.Name, old)
			must(t, err)
			if _, err := pgx.ConnectConfig(t.Context(), cfg); migrations.SQLState(err) != "28000" && migrations.SQLState(err) != "28P01" {
				t.Errorf("the old login gets %v", err)
			}
			if now, err := h.catalog.CredentialUpTo(t.Context(), db.Server, db.ID, catalog.LoginData, 1); !errors.Is(err, catalog.ErrNotFound) {
				t.Errorf("the catalog still has version %d: %v", now.Version, err)
			}

			// And back again.
			must(t, fresh.Close(t.Context()))
			op, err = h.service.RotateDatabase(t.Context(), db.ID.String())
			must(t, err)
			if op = h.finished(t, op.ID); op.State != catalog.OperationDone {
				t.Fatalf("operation is %s: %s", op.State, op.Error)
			}
			if user := h.asRequest(t, db).Config().User; user != db.Name+"_a" {
				t.Errorf("after the second rotation requests log in as %s", user)
			}
		})
	}
}

// Before the switch a rotation can be taken back, and the next one begins anew.
func TestRotateDatabase_cancelled(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "login createdb createrole")
	h.activate(t, sample)
	_, db := h.made(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	op, err := h.service.RotateDatabase(t.Context(), db.Name)
	must(t, err)
	h.upTo(t, op, "set")
	_, err = h.service.CancelOperation(t.Context(), op.ID, false)
	must(t, err)
	op, err = h.runner.Work(t.Context(), op.ID)
	must(t, err)
	if op.Effects != catalog.EffectsUndone {
		t.Errorf("operation is %s, its effects %q: %s", op.State, op.Effects, op.Error)
	}
	var may bool
	must(t, h.super.QueryRow(t.Context(), `select rolcanlogin from pg_roles where rolname = $1`, db.Name+"_b").Scan(&may))
	if may {
		t.Error("the login that nobody uses may log in")
	}
	h.asRequest(t, db)
	op, err = h.service.RotateDatabase(t.Context(), db.Name)
	must(t, err)
	h.closeRequests(t, db)
	if op, err = h.runner.Work(t.Context(), op.ID); err != nil || op.State != catalog.OperationDone {
		t.Errorf("operation is %s: %s, %v", op.State, op.Error, err)
	}
}

// closeRequests ends what is connected to a database.
func (h *house) closeRequests(t testing.TB, db *catalog.Database) {
	t.Helper()
	_, err := h.super.Exec(t.Context(), `select pg_terminate_backend(pid) from pg_stat_activity where datname = $1`, db.Name)
	must(t, err)
}
