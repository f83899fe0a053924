package router_test

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router"
)

func TestRouter_dirty_connections_are_cleaned(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	db := w.database()
	w.tenant("acme", db)
	w.tenant("globex", db)
	db.exec(t, "create sequence public.counter; grant usage on sequence public.counter to service_role")
	rt := w.router(router.Config{MaxConnsPerDatabase: 1})
	acme, globex := w.as("acme", "service_role"), w.as("globex", "service_role")
	var first uint32
	err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
		router.MarkDirty(tx.Conn())
		first = tx.Conn().PgConn().PID()
		for _, sql := range []string{
			"select set_config('rowhouse.secret', 'acme', false), set_config('search_path', 'acme', false)",
			"create temp table secret as select 'acme' as of",
			"select pg_advisory_lock(4711)",
			"select nextval('public.counter')",
			"listen secret",
			"declare secret cursor with hold for select 'acme'",
		} {
			if _, err := tx.Exec(acme, sql); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = rt.Lend(globex, pgx.TxOptions{}, func(conn *pgx.Conn, _ func(*pgconn.Pipeline) int) error {
		if pid := conn.PgConn().PID(); pid != first {
			t.Errorf("backend %d serves, was %d: closed instead of cleaned", pid, first)
		}
		var left string
		err := conn.QueryRow(globex, `select concat_ws(', ',
			(select 'a setting' where current_setting('rowhouse.secret', true) <> ''),
			(select 'the search path' where current_setting('search_path') = 'acme'),
			(select 'a temporary table' from pg_class where relname = 'secret' and relpersistence = 't'),
			(select 'a lock' from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()),
			(select 'a channel' from pg_listening_channels()), (select 'a cursor' from pg_cursors where name <> ''))`, pgx.QueryExecModeExec).Scan(&left)
		if left != "" {
			t.Errorf("left behind: %s", left)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := rt.BeginFunc(globex, func(tx pgx.Tx) error {
		_, err := tx.Exec(globex, "select lastval()")
		if err == nil {
			t.Error("another tenant's sequence value is there")
		}
		return nil
	}); err == nil {
		t.Error("lastval() is an error when there is none, so nothing is committed")
	}
	if st := rt.Stat().Servers[w.server]; st.Cleaned != 1 || st.Unclean != 0 {
		t.Errorf("%+v", st)
	}
}
