package jobs_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestRunner_AllowUnscoped(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	h := newHouse(t, "LOGIN CREATEDB CREATEROLE")
	h.activate(t, sample)
	_, db := h.made(t, tenants.TenantSpec{Name: "acme"})
	h.made(t, tenants.TenantSpec{Name: "globex"})
	for _, name := range []string{"acme", "globex"} {
		h.inTenant(t, name, func(tx pgx.Tx) {
			if _, err := tx.Exec(ctx, "insert into projects (name) values ($1)", name); err != nil {
				t.Error(err)
			}
		})
	}
	none := func() {
		t.Helper()
		if _, err := h.catalog.Credential(ctx, db.Server, db.ID, catalog.LoginUnscoped); !errors.Is(err, catalog.ErrNotFound) {
			t.Errorf("a login that nobody allowed: %v", err)
		}
		for _, role := range h.roles(t) {
			if strings.HasSuffix(role, "_u") {
				t.Errorf("role %s is there", role)
			}
		}
	}
	none()
	var hint interface{ Hint() string }
	if err := h.runner.AllowUnscoped(ctx, db.ID, catalog.Secret{}); !errors.As(err, &hint) || !strings.Contains(hint.Hint(), "--dsn") {
		t.Errorf("a provisioner that may not: %v", err)
	}
	elsewhere := catalog.NewSecret("postgres://somebody:secret@127.0.0.1:1/postgres")
	if err := h.runner.AllowUnscoped(ctx, db.ID, elsewhere); !errors.Is(err, catalog.ErrInvalid) || strings.Contains(err.Error(), "secret") {
		t.Errorf("another server's superuser: %v", err)
	}
	none()

	super := catalog.NewSecret(pgtest.ServerDSN(t))
	must(t, h.runner.AllowUnscoped(ctx, db.ID, super))
	must(t, h.runner.AllowUnscoped(ctx, db.ID, super)) // again: a new password
	cfg, err := h.catalog.ConnConfig(ctx, db.ID, catalog.LoginUnscoped)
	must(t, err)
	conn, err := pgx.ConnectConfig(ctx, cfg)
	must(t, err)
	rows, _ := conn.Query(ctx, "select name from public.projects order by 1")
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || fmt.Sprint(names) != "[acme globex]" {
		t.Errorf("the login sees %v, %v", names, err)
	}
	if _, err := conn.Exec(ctx, "update public.projects set name = name || '!'"); err == nil {
		t.Error("by itself the login writes")
	}
	err = pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{AccessMode: pgx.ReadWrite}, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select rowhouse.enter_all()")
		return err
	})
	if err != nil {
		t.Errorf("the gate of those who write for all: %v", err)
	}
	if _, err := conn.Exec(ctx, "select from rowhouse.gate"); err == nil {
		t.Error("the login reads what is not its to read")
	}
	must(t, conn.Close(ctx))

	must(t, h.runner.DenyUnscoped(ctx, db.ID, super))
	must(t, h.runner.DenyUnscoped(ctx, db.ID, super)) // again: nothing to do
	none()
	events, err := h.catalog.Events(ctx, [16]byte(db.ID), 100)
	must(t, err)
	var seen []string
	for _, e := range events {
		if strings.HasPrefix(e.Action, "database.unscoped") {
			seen = append(seen, e.Action)
		}
	}
	if len(seen) != 4 {
		t.Errorf("the trail has %v", seen)
	}
}

// What deletes a database takes its login along.
func TestPurge_takes_the_unscoped_login(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "LOGIN CREATEDB CREATEROLE")
	h.activate(t, sample)
	tenant, db := h.made(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	must(t, h.runner.AllowUnscoped(t.Context(), db.ID, catalog.NewSecret(pgtest.ServerDSN(t))))
	op, err := h.service.DeleteTenant(t.Context(), tenant.Name, tenants.DeleteSpec{NoExport: true})
	h.done(t, op, err)
	op, err = h.service.PurgeTenant(t.Context(), tenant.ID.String())
	h.done(t, op, err)
	if roles := h.roles(t); len(roles) != 0 {
		t.Errorf("roles are left: %v", roles)
	}
}
