package migrations_test

import (
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations"
)

func TestInstallGuard(t *testing.T) {
	t.Parallel()
	d := newDatabase(t)
	d.migrate(set(table("a")))
	owner, super := d.asOwner(), d.Conn(t)
	before, err := migrations.Fingerprint(t.Context(), owner)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := migrations.InstallGuard(t.Context(), owner); ok || err != nil {
		t.Fatalf("no superuser: %v, %v", ok, err)
	}
	mustExec(t, owner, "create table before (id int)", "drop table before") // nothing guards yet
	for range 2 {
		if ok, err := migrations.InstallGuard(t.Context(), super); !ok || err != nil {
			t.Fatalf("%v, %v", ok, err)
		}
	}
	if after, err := migrations.Fingerprint(t.Context(), owner); after != before || err != nil {
		t.Errorf("the guard is in the fingerprint: a database without a superuser could never have it; %v", err)
	}
	if found, err := migrations.LintDatabase(t.Context(), owner); err != nil || len(found) > 0 {
		t.Errorf("%v, %v", found, err)
	}
	inOne := func(conn *pgx.Conn, sql string) error {
		_, err := conn.PgConn().Exec(t.Context(), sql).ReadAll() // one message, one transaction
		return err
	}
	refused := map[string]string{
		"create table x (id int)":                               "was not declared",
		"create table x as select 1 as id":                      "was not declared",
		"select 1 as id into x":                                 "was not declared",
		"create table public.x (id int) partition by list (id)": "was not declared",
		"create table x (id int) partition by list (id); select rowhouse.bind('x'); create table x1 partition of x default": "open to all tenants",
	}
	for sql, says := range refused {
		err := inOne(owner, sql)
		wantState(t, err, "55000")
		wantText(t, err, says)
	}
	if one[bool](t, owner, "select to_regclass('x') is not null") {
		t.Error("a refused table stands")
	}
	allowed := []string{
		table("b"),
		"create table c (id int primary key); select rowhouse.reference('c')",
		"create table e (id int) partition by list (id); create table e1 partition of e default; select rowhouse.bind('e')",
		"create table e2 partition of e for values in (2); select rowhouse.bind('e')",
		"create temp table t (id int)",
		"create table gone (id int); drop table gone",
		"create schema hidden; create table hidden.x (id int)",
		"alter table b add column n int",
	}
	for _, sql := range allowed {
		if err := inOne(owner, sql); err != nil {
			t.Errorf("%s: %v", sql, err)
		}
	}
	if n := one[int](t, owner, "select count(*) from rowhouse.made_tables"); n != 0 {
		t.Errorf("%d rows stay behind", n)
	}
	t.Run("nobody who is no superuser can take it away", func(t *testing.T) {
		for _, sql := range []string{"drop event trigger rowhouse_guard", "alter event trigger rowhouse_guard disable", "create or replace function rowhouse_guard.watch() returns event_trigger language plpgsql as 'begin end'"} {
			wantState(t, inOne(owner, sql), "42501")
		}
	})
	t.Run("a superuser is left alone, and the lint finds what it made", func(t *testing.T) {
		if err := inOne(super, "create table public.by_hand (id int)"); err != nil {
			t.Fatal(err)
		}
		found, err := migrations.LintDatabase(t.Context(), owner)
		if err != nil || len(found) != 1 || found[0].Rule != "L1" || found[0].Object != "public.by_hand" {
			t.Errorf("%v, %v", found, err)
		}
		mustExec(t, super, "drop table public.by_hand")
	})
	t.Run("migrations pass it", func(t *testing.T) {
		d.migrate(set(table("a"), "create table f (id int primary key, b int references c (id)); select rowhouse.bind('f')"))
	})
}
