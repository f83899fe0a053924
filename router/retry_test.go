package router_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router"
)

func TestRouter_writes_refused(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	db := w.database()
	w.tenant("acme", db)
	db.exec(t, `create function public.standby() returns void language plpgsql as $$ begin raise exception 'no' using errcode = '25006'; end $$`)
	rt := w.router(router.Config{})
	acme := w.as("acme", "service_role")
	backend := func() (pid uint32) {
		t.Helper()
		if err := rt.BeginFunc(acme, func(tx pgx.Tx) error { pid = tx.Conn().PgConn().PID(); return nil }); err != nil {
			t.Fatal(err)
		}
		return pid
	}
	refused := func(opts pgx.TxOptions, sql string) {
		t.Helper()
		tx, err := rt.BeginTx(acme, opts)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(acme)
		var pg *pgconn.PgError
		if _, err := tx.Exec(acme, sql); !errors.As(err, &pg) || pg.Code != "25006" {
			t.Fatalf("got %v, want 25006", err)
		}
	}
	first := backend()
	refused(pgx.TxOptions{AccessMode: pgx.ReadOnly}, "insert into projects (owner) values ('acme')")
	if n := rt.Asked(w.server); n != 0 {
		t.Error("a read that writes is the caller's mistake, and the server was asked")
	}
	refused(pgx.TxOptions{}, "select standby()")
	if n := rt.Asked(w.server); n != 1 {
		t.Errorf("the server was asked %d times", n)
	}
	if again := backend(); again != first || rt.Stat().Servers[w.server].Resets != 0 {
		t.Error("a function can say that it refuses, and connections were replaced for it")
	}
	// What a demoted server does, and its connections stay.
	db.exec(t, "alter role "+db.login+" set default_transaction_read_only = on")
	defer db.exec(t, "alter role "+db.login+" reset default_transaction_read_only")
	rt.AskAgain(w.server)
	refused(pgx.TxOptions{}, "select standby()")
	for deadline := time.Now().Add(20 * time.Second); rt.Stat().Servers[w.server].Resets == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("no reset")
		}
	}
	if again := backend(); again == first {
		t.Error("a connection from before is still used")
	}
}
