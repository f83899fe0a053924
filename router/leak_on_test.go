//go:build failpoint

package router_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/router"
)

// Without the scope the policy alone must hold: no tenant, no rows.
func TestRouter_without_the_scope_nobody_sees_anything(t *testing.T) {
	w := newWorld(t, 20)
	db := w.database()
	w.tenant("acme", db)
	rt := w.router(router.Config{})
	acme := w.as("acme", "service_role")
	if err := fp.Set("router.scope=off"); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = fp.Set("") }()
	err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
		seen, err := owners(acme, tx)
		if len(seen) != 0 {
			t.Errorf("saw %v", seen)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	err = rt.BeginFunc(acme, func(tx pgx.Tx) error {
		_, err := tx.Exec(acme, "insert into projects (owner) values ('acme')")
		return err
	})
	if err == nil {
		t.Error("a row was written for nobody")
	}
	db.exec(t, "alter table public.projects disable row level security")
	w.tenant("globex", db)
	err = rt.BeginFunc(acme, func(tx pgx.Tx) error {
		seen, err := owners(acme, tx)
		if len(seen) != 2 {
			t.Errorf("with both off, saw %v: the switch switches nothing", seen)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
