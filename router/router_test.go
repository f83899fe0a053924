package router_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"go.uber.org/goleak"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestRouter_BeginTx(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	db := w.database()
	acmeID := w.tenant("acme", db)
	globexID := w.tenant("globex", db)
	rt := w.router(router.Config{MaxConnsPerDatabase: 1}) // one connection: whatever stays on it would show
	acme, globex := w.as("acme", "service_role"), w.as("globex", "service_role")

	t.Run("a tenant sees its own rows and no other's", func(t *testing.T) {
		for ctx, own := range map[context.Context]string{acme: "acme", globex: "globex"} {
			err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
				seen, err := owners(ctx, tx)
				if len(seen) != 1 || seen[0] != own {
					t.Errorf("%s sees %v", own, seen)
				}
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	})
	t.Run("updating a foreign row changes nothing and says nothing", func(t *testing.T) {
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			tag, err := tx.Exec(acme, "update projects set name = 'taken' where tenant_id = $1", globexID)
			if tag.RowsAffected() != 0 {
				t.Errorf("%d foreign rows changed", tag.RowsAffected())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if n := db.count(t, "select count(*) from projects where name = 'taken'"); n != 0 {
			t.Errorf("%d rows taken", n)
		}
	})
	t.Run("a row for another tenant is refused by the fence", func(t *testing.T) {
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			_, err := tx.Exec(acme, "insert into projects (tenant_id, owner) values ($1, 'acme')", globexID)
			return err
		})
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "42501" {
			t.Errorf("got %v, want 42501", err)
		}
	})
	t.Run("a transaction refuses another tenant's context, at every door", func(t *testing.T) {
		tx, err := rt.Begin(acme)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(acme)
		if rows, err := tx.Query(globex, "select 1"); !errors.Is(err, tenants.ErrWrongTenant) || !errors.Is(rows.Err(), tenants.ErrWrongTenant) || rows.Next() {
			t.Errorf("Query: %v", err)
		}
		batch := &pgx.Batch{}
		batch.Queue("select 1")
		doors := map[string]func(ctx context.Context) error{
			"Exec":     func(ctx context.Context) error { _, err := tx.Exec(ctx, "select 1"); return err },
			"QueryRow": func(ctx context.Context) error { return tx.QueryRow(ctx, "select 1").Scan(new(int)) },
			"Prepare":  func(ctx context.Context) error { _, err := tx.Prepare(ctx, "x", "select 1"); return err },
			"CopyFrom": func(ctx context.Context) error {
				_, err := tx.CopyFrom(ctx, pgx.Identifier{"projects"}, []string{"owner"}, pgx.CopyFromRows(nil))
				return err
			},
			"SendBatch": func(ctx context.Context) error { return tx.SendBatch(ctx, batch).Close() },
			"Begin":     func(ctx context.Context) error { _, err := tx.Begin(ctx); return err },
			"Commit":    tx.Commit,
		}
		host := tenants.NewContext(t.Context(), tenants.Host("ops"))
		for name, door := range doors {
			for who, ctx := range map[string]context.Context{"globex": globex, "the host": host, "nobody": t.Context()} {
				if err := door(ctx); !errors.Is(err, tenants.ErrWrongTenant) {
					t.Errorf("%s under %s: %v, want ErrWrongTenant", name, who, err)
				}
			}
		}
		if err := tx.QueryRow(acme, "select 1").Scan(new(int)); err != nil {
			t.Errorf("its own context afterwards: %v", err)
		}
	})
	t.Run("nobody, and the host, have no tenant", func(t *testing.T) {
		for _, ctx := range []context.Context{t.Context(), tenants.NewContext(t.Context(), tenants.Host("ops")), tenants.NewContext(t.Context(), tenants.Session{})} {
			if _, err := rt.Begin(ctx); !errors.Is(err, tenants.ErrNoTenant) {
				t.Errorf("Begin = %v, want ErrNoTenant", err)
			}
		}
	})
	t.Run("an error of fn comes back as it is, and nothing stays", func(t *testing.T) {
		boom := errors.New("boom")
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			if _, err := tx.Exec(acme, "insert into projects (owner, name) values ('acme', 'boom')"); err != nil {
				t.Error(err)
			}
			return boom
		})
		if err != boom {
			t.Errorf("got %v", err)
		}
		if n := db.count(t, "select count(*) from projects where name = 'boom'"); n != 0 {
			t.Errorf("%d rows stayed", n)
		}
	})
	t.Run("a panic in fn rolls back and gives the connection back", func(t *testing.T) {
		func() {
			defer func() {
				if recover() != "boom" {
					t.Error("the panic did not come through")
				}
			}()
			_ = rt.BeginFunc(acme, func(tx pgx.Tx) error {
				_, _ = tx.Exec(acme, "insert into projects (owner, name) values ('acme', 'boom')")
				panic("boom")
			})
		}()
		if n := db.count(t, "select count(*) from projects where name = 'boom'"); n != 0 {
			t.Errorf("%d rows stayed", n)
		}
		if err := rt.BeginFunc(acme, func(pgx.Tx) error { return nil }); err != nil {
			t.Errorf("the only connection afterwards: %v", err)
		}
	})
	t.Run("COMMIT of a failed transaction is an error: it was rolled back", func(t *testing.T) {
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			_, _ = tx.Exec(acme, "insert into projects (owner, name) values ('acme', 'lost')")
			_, _ = tx.Exec(acme, "select 1/0")
			return nil // swallowed
		})
		if !errors.Is(err, pgx.ErrTxCommitRollback) || outcome(err) != "rolled_back" {
			t.Errorf("got %v, outcome %q", err, outcome(err))
		}
	})
	t.Run("what fails at COMMIT is rolled back, and says so", func(t *testing.T) {
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			_, err := tx.Exec(acme, "insert into names values ('twice'), ('twice')")
			return err
		})
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "23505" || outcome(err) != "rolled_back" {
			t.Errorf("got %v, outcome %q", err, outcome(err))
		}
	})
	t.Run("an answer to COMMIT that is lost leaves the outcome unknown", func(t *testing.T) {
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			_, err := tx.Exec(acme, "insert into doomed values (1)")
			return err
		})
		if outcome(err) != "unknown" {
			t.Errorf("got %v, outcome %q", err, outcome(err))
		}
		if err := rt.BeginFunc(acme, func(pgx.Tx) error { return nil }); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
	t.Run("the first of Commit and Rollback ends it", func(t *testing.T) {
		tx, err := rt.Begin(acme)
		if err != nil {
			t.Fatal(err)
		}
		if err := tx.Commit(acme); err != nil {
			t.Fatal(err)
		}
		if err := tx.Rollback(acme); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("Rollback after Commit: %v", err)
		}
		if _, err := tx.Exec(acme, "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("Exec after Commit: %v", err)
		}
	})
	t.Run("a nested Begin is a savepoint", func(t *testing.T) {
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			if _, err := tx.Exec(acme, "insert into projects (owner, name) values ('acme', 'kept')"); err != nil {
				return err
			}
			boom := errors.New("boom")
			if err := pgx.BeginFunc(acme, tx, func(inner pgx.Tx) error {
				_, _ = inner.Exec(acme, "insert into projects (owner, name) values ('acme', 'dropped')")
				_, _ = inner.Exec(acme, "select 1/0")
				return boom
			}); err != boom {
				return fmt.Errorf("inner: %w", err)
			}
			return pgx.BeginFunc(acme, tx, func(inner pgx.Tx) error {
				_, err := inner.Exec(acme, "insert into projects (owner, name) values ('acme', 'kept')")
				return err
			})
		})
		if err != nil {
			t.Fatal(err)
		}
		if kept, dropped := db.count(t, "select count(*) from projects where name = 'kept'"), db.count(t, "select count(*) from projects where name = 'dropped'"); kept != 2 || dropped != 0 {
			t.Errorf("%d kept, %d dropped", kept, dropped)
		}
		db.exec(t, "delete from projects where name = 'kept'")
	})
	t.Run("a statement that ends the transaction ends its scope, and nothing runs after it", func(t *testing.T) {
		tx, err := rt.Begin(acme)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(acme)
		if _, err := tx.Exec(acme, "commit"); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(acme, "select 1"); !errors.Is(err, pgx.ErrTxClosed) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a cancelled statement ends, and its connection serves the next", func(t *testing.T) {
		ctx, cancel := context.WithCancel(acme)
		var pid int
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
			if err := tx.QueryRow(ctx, "select pg_backend_pid()").Scan(&pid); err != nil {
				return err
			}
			time.AfterFunc(20*time.Millisecond, cancel)
			_, err := tx.Exec(ctx, "select pg_sleep(30)")
			return err
		})
		if err == nil || ctx.Err() == nil {
			t.Fatalf("got %v", err)
		}
		err = rt.BeginFunc(acme, func(tx pgx.Tx) error {
			var now int
			if err := tx.QueryRow(acme, "select pg_backend_pid()").Scan(&now); err != nil {
				return err
			}
			if now != pid {
				t.Errorf("a new backend serves: %d, was %d", now, pid)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("a context that ended commits nothing", func(t *testing.T) {
		ctx, cancel := context.WithCancel(acme)
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into projects (owner, name) values ('acme', 'late')")
			cancel()
			return err
		})
		if !errors.Is(err, context.Canceled) || outcome(err) != "rolled_back" {
			t.Errorf("got %v, outcome %q", err, outcome(err))
		}
		if n := db.count(t, "select count(*) from projects where name = 'late'"); n != 0 {
			t.Errorf("%d rows stayed", n)
		}
	})
	t.Run("every mode begins", func(t *testing.T) {
		for _, o := range []pgx.TxOptions{
			{AccessMode: pgx.ReadOnly},
			{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable},
			{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadWrite},
		} {
			tx, err := rt.BeginTx(acme, o)
			if err != nil {
				t.Fatalf("%+v: %v", o, err)
			}
			var level, ro string
			if err := tx.QueryRow(acme, "select current_setting('transaction_isolation'), current_setting('transaction_read_only')").Scan(&level, &ro); err != nil {
				t.Error(err)
			}
			want := string(o.IsoLevel)
			if want == "" {
				want = "read committed"
			}
			if level != want || (ro == "on") != (o.AccessMode == pgx.ReadOnly) {
				t.Errorf("%+v began %s, read only %s", o, level, ro)
			}
			if err := tx.Rollback(acme); err != nil {
				t.Error(err)
			}
		}
		for _, o := range []pgx.TxOptions{{IsoLevel: "serializable; drop table projects"}, {BeginQuery: "begin"}, {DeferrableMode: "x"}} {
			if _, err := rt.BeginTx(acme, o); err == nil {
				t.Errorf("%+v must be refused", o)
			}
		}
	})
	t.Run("a role that is not on the list never reaches SQL", func(t *testing.T) {
		before := rt.Stat()
		_, err := rt.Begin(w.as("acme", "postgres"))
		if err == nil || err.Error() != `role "postgres" does not exist` || outcome(err) != "not_started" {
			t.Errorf("got %v", err)
		}
		if after := rt.Stat(); after.Servers[w.server].Dials != before.Servers[w.server].Dials {
			t.Error("a connection was made for it")
		}
	})
	t.Run("nobody in a tenant runs as anon", func(t *testing.T) {
		ctx := w.as("acme", "")
		err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
			var role string
			err := tx.QueryRow(ctx, "select current_user").Scan(&role)
			if role != "anon" {
				t.Errorf("role %q", role)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("what became of the tenant since its session is seen at Begin", func(t *testing.T) {
		defer w.state(acmeID, catalog.StateActive)
		for state, want := range map[catalog.State]error{
			catalog.StateSuspended: tenants.ErrSuspended, catalog.StateMaintenance: tenants.ErrMaintenance, catalog.StateDeleting: tenants.ErrNotFound,
		} {
			w.state(acmeID, state)
			if _, err := rt.Begin(acme); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", state, err, want)
			}
		}
	})
	t.Run("a tenant that was renamed is followed, and whoever took its name is not", func(t *testing.T) {
		rename := func(from, to string) {
			w.update(func(ctx context.Context, tx *catalog.Tx) error {
				_, err := tx.Exec(ctx, "update rowhouse.tenants set name = $2 where name = $1", from, to)
				return err
			})
		}
		rename("acme", "acme-two")
		rename("globex", "acme")
		defer func() { rename("acme", "globex"); rename("acme-two", "acme") }()
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			seen, err := owners(acme, tx)
			if len(seen) != 1 || seen[0] != "acme" {
				t.Errorf("the session of the old acme sees %v", seen)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	t.Run("a read-only tenant reads and does not write", func(t *testing.T) {
		w.state(acmeID, catalog.StateReadOnly)
		defer w.state(acmeID, catalog.StateActive)
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			if seen, err := owners(acme, tx); err != nil || len(seen) != 1 {
				t.Errorf("reads %v, %v", seen, err)
			}
			_, err := tx.Exec(acme, "update projects set name = 'x'")
			return err
		})
		var pg *pgconn.PgError
		if !errors.As(err, &pg) || pg.Code != "25006" {
			t.Errorf("writes: %v, want 25006", err)
		}
		if _, err := rt.BeginTx(acme, pgx.TxOptions{AccessMode: pgx.ReadWrite}); !errors.Is(err, router.ErrReadOnly) {
			t.Errorf("asking to write: %v, want ErrReadOnly", err)
		}
	})
	t.Run("nothing of one tenant stays on the connection for the next", func(t *testing.T) {
		_ = rt.BeginFunc(acme, func(tx pgx.Tx) error { _, err := tx.Exec(acme, "select 1"); return err })
		err := rt.Lend(globex, pgx.TxOptions{}, func(conn *pgx.Conn, _ func(*pgconn.Pipeline) int) error {
			var user, tenant string
			err := conn.QueryRow(globex, "select current_user, coalesce(current_setting('rowhouse.tenant_id', true), '')").Scan(&user, &tenant)
			if user != db.login || tenant != "" {
				t.Errorf("before the scope the connection is %q, tenant %q", user, tenant)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	})
}

func TestRouter_Lend(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	db := w.database()
	w.tenant("acme", db)
	w.tenant("globex", db)
	rt := w.router(router.Config{MaxConnsPerDatabase: 1})
	acme := w.as("acme", "authenticated")

	t.Run("scope, statement and COMMIT go in one flight", func(t *testing.T) {
		var seen []string
		if err := rt.Lend(acme, pgx.TxOptions{AccessMode: pgx.ReadOnly}, read(acme, &seen)); err != nil {
			t.Fatal(err)
		}
		if len(seen) != 1 || seen[0] != "acme" {
			t.Errorf("saw %v", seen)
		}
	})
	t.Run("what was not started is started again, on other connections, a few times", func(t *testing.T) {
		var pids []uint32
		err := rt.Lend(acme, pgx.TxOptions{}, func(conn *pgx.Conn, _ func(*pgconn.Pipeline) int) error {
			pids = append(pids, conn.PgConn().PID())
			_ = conn.Close(acme)
			return notStarted{}
		})
		slices.Sort(pids)
		if outcome(err) != "not_started" || len(pids) != 4 || len(slices.Compact(pids)) != 4 {
			t.Errorf("err %v, backends %v: want four", err, pids)
		}
	})
	t.Run("what the server refused is not", func(t *testing.T) {
		calls := 0
		err := rt.Lend(acme, pgx.TxOptions{}, func(*pgx.Conn, func(*pgconn.Pipeline) int) error {
			calls++
			return errors.Join(notStarted{}, &pgconn.PgError{Code: "42501"})
		})
		if calls != 1 {
			t.Errorf("%v after %d calls", err, calls)
		}
	})
	t.Run("any other error is final", func(t *testing.T) {
		calls, boom := 0, errors.New("boom")
		err := rt.Lend(acme, pgx.TxOptions{}, func(*pgx.Conn, func(*pgconn.Pipeline) int) error { calls++; return boom })
		if err != boom || calls != 1 {
			t.Errorf("err %v after %d calls", err, calls)
		}
	})
	t.Run("a connection left in a transaction is destroyed, also by a panic", func(t *testing.T) {
		for _, leave := range []func(){func() {}, func() { panic("boom") }} {
			var left, next uint32
			func() {
				defer func() { _ = recover() }()
				_ = rt.Lend(acme, pgx.TxOptions{}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
					left = conn.PgConn().PID()
					p := conn.PgConn().StartPipeline(acme)
					open(p)
					if err := p.Sync(); err != nil {
						t.Error(err)
					}
					_ = p.Close()
					leave()
					return nil
				})
			}()
			err := rt.Lend(acme, pgx.TxOptions{}, func(conn *pgx.Conn, _ func(*pgconn.Pipeline) int) error {
				next = conn.PgConn().PID()
				return nil
			})
			if err != nil || left == next {
				t.Errorf("backend %d was lent again (%v)", left, err)
			}
		}
	})
}

// The scope on the wire: the tenant is a literal in a message of its own, right after BEGIN and before anything else.
func TestRouter_scope_on_the_wire(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	id := w.tenant("acme", w.database())
	rt := w.router(router.Config{})
	acme := w.as("acme", "authenticated")
	var wire bytes.Buffer
	var seen []string
	err := rt.Lend(acme, pgx.TxOptions{AccessMode: pgx.ReadOnly}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
		conn.PgConn().Frontend().Trace(&wire, pgproto3.TracerOptions{SuppressTimestamps: true})
		defer conn.PgConn().Frontend().Untrace()
		return read(acme, &seen)(conn, open)
	})
	if err != nil {
		t.Fatal(err)
	}
	var sent []string
	for line := range strings.Lines(wire.String()) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		if fields[0] != "F" || fields[1] == "Describe" || fields[1] == "Execute" {
			continue
		}
		sent = append(sent, strings.Join(append(fields[1:2], fields[3:]...), " "))
	}
	want := []string{
		`Bind  "" "rowhouse_begin_read_only" 0 0 0`,
		`Parse  "" "set local rowhouse.tenant_id = '` + id.String() + `'" 0`,
		`Bind  "" "" 0 0 0`,
		`Bind  "" "rowhouse_role_1" 0 0 0`,
		`Parse  "" "select owner from projects" 0`,
		`Bind  "" "" 0 0 0`,
		`Sync`,
		`Parse  "" "commit" 0`,
		`Bind  "" "" 0 0 0`,
		`Sync`,
	}
	if diff := cmp.Diff(want, sent); diff != "" {
		t.Errorf("(-want +sent)\n%s", diff)
	}
}

type notStarted struct{}

func (notStarted) Error() string   { return "died before anything was sent" }
func (notStarted) Outcome() string { return "not_started" }

// read is the flight of a read: scope, statement, Sync, COMMIT, Sync.
func read(ctx context.Context, seen *[]string) func(*pgx.Conn, func(*pgconn.Pipeline) int) error {
	return func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
		p := conn.PgConn().StartPipeline(ctx)
		n := open(p)
		p.SendQueryParams("select owner from projects", nil, nil, nil, nil)
		p.SendPipelineSync()
		p.SendQueryParams("commit", nil, nil, nil, nil)
		if err := p.Sync(); err != nil {
			return err
		}
		for i := 0; i <= n; i++ {
			result, err := p.GetResults()
			if err != nil {
				return errors.Join(err, p.Close())
			}
			rows := result.(*pgconn.ResultReader)
			for rows.NextRow() {
				*seen = append(*seen, string(rows.Values()[0]))
			}
			if _, err := rows.Close(); err != nil {
				return errors.Join(err, p.Close())
			}
		}
		return p.Close()
	}
}

func TestRouter_a_connection_to_the_wrong_database_serves_nothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	db := w.database()
	w.tenant("acme", db)
	rt := w.router(router.Config{})
	acme := w.as("acme", "service_role")
	db.exec(t, "update rowhouse.identity set database_id = gen_random_uuid()")
	_, err := rt.Begin(acme)
	if !errors.Is(err, router.ErrUnavailable) || outcome(err) != "not_started" {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	db.exec(t, "delete from rowhouse.identity")
	if _, err := rt.Begin(acme); !errors.Is(err, router.ErrUnavailable) {
		t.Errorf("without an identity: %v, want ErrUnavailable", err)
	}
	db.exec(t, "insert into rowhouse.identity (database_id) values ('"+db.id.String()+"')")
	if _, err := rt.Begin(acme); !errors.Is(err, router.ErrUnavailable) {
		t.Errorf("half a minute has not passed: %v", err)
	}
	rt.Later()
	if err := rt.BeginFunc(acme, func(pgx.Tx) error { return nil }); err != nil {
		t.Errorf("once it is right: %v", err)
	}
}

func TestRouter_faults(t *testing.T) {
	t.Parallel()
	t.Run("idle connections that the server ended cost nobody an error", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		for range 5 {
			if err := rt.BeginFunc(acme, func(tx pgx.Tx) error { _, err := tx.Exec(acme, "select 1"); return err }); err != nil {
				t.Fatal(err)
			}
			db.exec(t, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '"+db.login+"'")
		}
	})
	t.Run("a connection that the server ended while it was idle is not lent", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		for range 5 {
			calls := 0
			err := rt.Lend(acme, pgx.TxOptions{}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
				calls++
				var seen []string
				return read(acme, &seen)(conn, open)
			})
			if err != nil || calls != 1 {
				t.Errorf("%v after %d calls", err, calls)
			}
			db.exec(t, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '"+db.login+"'")
		}
	})
	t.Run("a connection from before a reset is not lent", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		w.tenant("acme", w.database())
		rt := w.router(router.Config{MaxConnsPerDatabase: 1})
		acme := w.as("acme", "service_role")
		var pids [2]uint32
		for i := range pids {
			if err := rt.BeginFunc(acme, func(tx pgx.Tx) error { pids[i] = tx.Conn().PgConn().PID(); return nil }); err != nil {
				t.Fatal(err)
			}
			rt.Outdate(acme)
		}
		if pids[0] == pids[1] {
			t.Error("it was")
		}
	})
	t.Run("the time to connect is over once connected", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		w.tenant("acme", w.database())
		rt := w.router(router.Config{ConnectTimeout: time.Second})
		acme := w.as("acme", "service_role")
		if err := rt.BeginFunc(acme, func(tx pgx.Tx) error { _, err := tx.Exec(acme, "select pg_sleep(1.2)"); return err }); err != nil {
			t.Error(err)
		}
	})
	t.Run("a server that accepts and never speaks is left after the time to connect", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		w.tenant("acme", w.database())
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		w.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetServerHosts(ctx, w.server, []string{l.Addr().String()})
		})
		rt := w.router(router.Config{ConnectTimeout: 100 * time.Millisecond, AcquireTimeout: 20 * time.Second})
		began := time.Now()
		if _, err := rt.Begin(w.as("acme", "service_role")); !errors.Is(err, router.ErrUnavailable) || time.Since(began) > 10*time.Second {
			t.Errorf("%v after %v, want ErrUnavailable", err, time.Since(began))
		}
	})
	t.Run("an idle connection gives way to another database's first", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 1) // room for one connection in all
		w.tenant("acme", w.database())
		w.tenant("globex", w.database())
		rt := w.router(router.Config{AcquireTimeout: 20 * time.Second})
		acme, globex := w.as("acme", "service_role"), w.as("globex", "service_role")
		held, err := rt.Begin(acme)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() { got <- rt.BeginFunc(globex, func(pgx.Tx) error { return nil }) }()
		for rt.Stat().Servers[w.server].Waiting == 0 {
			time.Sleep(time.Millisecond)
		}
		if err := held.Commit(acme); err != nil { // its connection is idle now
			t.Error(err)
		}
		if err := <-got; err != nil {
			t.Error(err)
		}
		if st := rt.Stat().Servers[w.server]; st.Reclaimed != 1 {
			t.Errorf("%d reclaimed", st.Reclaimed)
		}
	})
	t.Run("a connection lost under a statement is rolled back, and says so", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		err := rt.BeginFunc(acme, func(tx pgx.Tx) error {
			if _, err := tx.Exec(acme, "insert into projects (owner, name) values ('acme', 'lost')"); err != nil {
				t.Error(err)
			}
			db.exec(t, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '"+db.login+"'")
			_, err := tx.Exec(acme, "select 1")
			return err
		})
		if outcome(err) != "rolled_back" || db.count(t, "select count(*) from public.projects where name = 'lost'") != 0 {
			t.Errorf("got %v, outcome %q", err, outcome(err))
		}
	})
	t.Run("a database that is not active serves nothing", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		w.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetDatabaseState(ctx, db.id, catalog.DatabaseHeld)
		})
		if _, err := rt.Begin(acme); !errors.Is(err, router.ErrUnavailable) {
			t.Errorf("got %v, want ErrUnavailable", err)
		}
	})
	t.Run("a new password is fetched when the old one is refused", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		nothing := func(pgx.Tx) error { return nil }
		if err := rt.BeginFunc(acme, nothing); err != nil {
			t.Fatal(err)
		}
		db.exec(t, "alter role "+db.login+" password 'another'")
		w.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetCredential(ctx, catalog.Credential{
				Server: w.server, Database: db.id, Login: catalog.LoginData, Version: 1, Role: db.login, Secret: catalog.NewSecret("another"),
			})
		})
		db.exec(t, "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = '"+db.login+"'")
		if err := rt.BeginFunc(acme, nothing); err != nil {
			t.Error(err)
		}
	})
	t.Run("a wrong password, a missing database and a closed port are 503s that show no secret", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db, gone := w.database(), w.database()
		w.tenant("acme", db)
		w.tenant("lost", gone)
		rt := w.router(router.Config{})
		db.exec(t, "alter database "+gone.Name()+" rename to "+gone.Name()+"_x")
		db.exec(t, "alter role "+db.login+" password 'another'")
		t.Cleanup(func() { db.exec(t, "alter database "+gone.Name()+"_x rename to "+gone.Name()) })
		for _, name := range []string{"acme", "lost"} {
			_, err := rt.Begin(w.as(name, "service_role"))
			if !errors.Is(err, router.ErrUnavailable) {
				t.Errorf("%s: %v, want ErrUnavailable", name, err)
			}
			if errors.As(err, new(*pgconn.ConnectError)) {
				t.Errorf("%s: the error carries the connection's configuration", name)
			}
			if text := fmt.Sprintf("%v %+v %#v", err, err, err); strings.Contains(text, db.password) || strings.Contains(text, gone.password) {
				t.Errorf("%s: the error shows a password", name)
			}
		}
		w.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetServerHosts(ctx, w.server, []string{"127.0.0.1:1"})
		})
		if _, err := rt.Begin(w.as("acme", "service_role")); !errors.Is(err, router.ErrUnavailable) || errors.As(err, new(*pgconn.ConnectError)) {
			t.Errorf("closed port: %v, want ErrUnavailable that carries no configuration", err)
		}
	})
	t.Run("a server that moved is found at its new address", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		row, err := w.cat.Server(t.Context(), "here")
		if err != nil {
			t.Fatal(err)
		}
		w.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetServerHosts(ctx, w.server, []string{"127.0.0.1:1"})
		})
		if _, err := rt.Begin(acme); err == nil {
			t.Fatal("reached at a wrong address")
		}
		w.update(func(ctx context.Context, tx *catalog.Tx) error { return tx.SetServerHosts(ctx, w.server, row.Hosts) })
		if err := rt.BeginFunc(acme, func(pgx.Tx) error { return nil }); err != nil {
			t.Error(err)
		}
	})
	t.Run("after a migration every connection is a new one", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{})
		acme := w.as("acme", "service_role")
		look := func(tx pgx.Tx) error {
			rows, _ := tx.Query(acme, "select * from projects where owner = $1", "acme") // a cached plan of all columns
			_, err := pgx.CollectRows(rows, pgx.RowToMap)
			return err
		}
		if err := rt.BeginFunc(acme, look); err != nil {
			t.Fatal(err)
		}
		db.exec(t, "alter table projects add column more text")
		w.update(func(ctx context.Context, tx *catalog.Tx) error {
			if err := tx.SetServedVersions(ctx, catalog.ServedVersions{Max: 2}); err != nil { // as a rollout does before it begins
				return err
			}
			return tx.SetDatabaseSchema(ctx, db.id, catalog.Migrated{Version: 2, Chain: "two", Fingerprint: "two"})
		})
		if err := rt.BeginFunc(acme, look); err != nil {
			t.Errorf("after the migration: %v", err)
		}
	})
	t.Run("who waits too long is told so, and who leaves gets its own error", func(t *testing.T) {
		t.Parallel()
		w := newWorld(t, 20)
		db := w.database()
		w.tenant("acme", db)
		rt := w.router(router.Config{MaxConnsPerDatabase: 1, AcquireTimeout: time.Second})
		acme := w.as("acme", "service_role")
		tx, err := rt.Begin(acme)
		if err != nil {
			t.Fatal(err)
		}
		defer tx.Rollback(acme)
		if _, err := rt.Begin(acme); !errors.Is(err, router.ErrOverloaded) {
			t.Errorf("waiting: %v, want ErrOverloaded", err)
		}
		gone, cancel := context.WithCancel(acme)
		cancel()
		if _, err := rt.Begin(gone); !errors.Is(err, context.Canceled) || outcome(err) != "not_started" {
			t.Errorf("leaving: %v, want context.Canceled", err)
		}
	})
}

// Three databases, room for one pool and two connections: pools come and go while requests hold them.
func TestRouter_eviction_and_reclaim_under_load_cut_no_request(t *testing.T) {
	t.Parallel()
	const budget = 2
	w := newWorld(t, budget)
	var who []context.Context
	for i := range 3 {
		db := w.database()
		name := fmt.Sprintf("t%d", i)
		w.tenant(name, db)
		who = append(who, w.as(name, "service_role"))
	}
	rt := w.router(router.Config{MaxPools: 1, AcquireTimeout: 30 * time.Second})
	var wg sync.WaitGroup
	var most atomic.Int64
	for g := range 4 {
		wg.Go(func() {
			for i := range 25 {
				ctx := who[(g+i)%len(who)]
				err := rt.BeginFunc(ctx, func(tx pgx.Tx) error {
					if n := int64(rt.Stat().Servers[w.server].Open); n > most.Load() {
						most.Store(n)
					}
					seen, err := owners(ctx, tx)
					if err == nil && (len(seen) != 1 || seen[0] != fmt.Sprintf("t%d", (g+i)%len(who))) {
						t.Errorf("saw %v", seen)
					}
					return err
				})
				if err != nil {
					t.Errorf("request cut off: %v", err)
				}
			}
		})
	}
	wg.Wait()
	st := rt.Stat()
	if st.Pools.Evictions == 0 {
		t.Error("nothing was pushed out: the test shows nothing")
	}
	if most.Load() > budget {
		t.Errorf("%d connections open at once, the budget is %d", most.Load(), budget)
	}
}

func TestRouter_Close_waits_for_what_is_lent_and_leaves_nothing(t *testing.T) {
	w := newWorld(t, 20)
	db := w.database()
	w.tenant("acme", db)
	acme := w.as("acme", "service_role")
	before := goleak.IgnoreCurrent()
	rt, err := router.New(w.dir, router.Config{})
	if err != nil {
		t.Fatal(err)
	}
	tx, err := rt.Begin(acme)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() { rt.Close(); close(closed) }()
	for { // until Close has begun
		other, err := rt.Begin(acme)
		if err != nil {
			if !errors.Is(err, router.ErrUnavailable) {
				t.Errorf("Begin on a closed router: %v", err)
			}
			break
		}
		_ = other.Rollback(acme)
	}
	select {
	case <-closed:
		t.Error("closed while a transaction ran")
	default:
	}
	if _, err := tx.Exec(acme, "select 1"); err != nil {
		t.Errorf("the running transaction: %v", err)
	}
	if err := tx.Commit(acme); err != nil {
		t.Error(err)
	}
	<-closed
	goleak.VerifyNone(t, before)
	if n := db.count(t, "select count(*) from pg_stat_activity where usename = '"+db.login+"'"); n != 0 {
		t.Errorf("%d backends left", n)
	}
}

// What a process that was told less has is closed, and it has more again when it is told so: pools are made once.
func TestRouter_shares_shrink_and_grow(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 12)
	w.tenant("acme", w.database())
	reg := &shares{server: w.server, share: 8}
	rt := w.router(router.Config{Registry: reg, AcquireTimeout: 2 * time.Second, Limits: tenants.Limits{ConcurrentRequests: -1}})
	acme := w.as("acme", "service_role")
	renew := func(share int, err error) {
		t.Helper()
		reg.share, reg.err = share, err
		if got := rt.Renew(t.Context()); !errors.Is(got, err) {
			t.Fatal(got)
		}
	}
	hold := func(want int) {
		t.Helper()
		var held []pgx.Tx
		for range want {
			tx, err := rt.Begin(acme)
			if err != nil {
				t.Fatalf("%d of %d: %v", len(held), want, err)
			}
			held = append(held, tx)
		}
		if want < 4 {
			if _, err := rt.Begin(acme); !errors.Is(err, router.ErrOverloaded) {
				t.Errorf("beyond %d: %v", want, err)
			}
		}
		for _, tx := range held {
			_ = tx.Rollback(acme)
		}
	}
	renew(2, nil)
	hold(2)
	renew(8, nil)
	hold(4)
	gone := errors.New("catalog is away")
	renew(8, gone)
	if share := rt.Stat().Servers[w.server].Share; share != 8 {
		t.Errorf("share %d after one failure", share)
	}
	rt.Shrink()
	rt.Shrink() // once, however long it lasts
	if share := rt.Stat().Servers[w.server].Share; share != 2 {
		t.Errorf("a silent process keeps %d of 8", share)
	}
	for deadline := time.Now().Add(20 * time.Second); rt.Stat().Servers[w.server].Open > 2; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d are open", rt.Stat().Servers[w.server].Open)
		}
	}
	renew(8, nil)
	hold(4)
}

// shares grants what it is told to.
type shares struct {
	server catalog.ServerID
	share  int
	err    error
}

func (s *shares) Renew(context.Context, catalog.Report) (*catalog.Grant, error) {
	return &catalog.Grant{Lease: catalog.Lease, Connections: map[catalog.ServerID]int{s.server: s.share}, Floors: map[catalog.ServerID]int{s.server: 2}}, s.err
}

func TestNew_refuses(t *testing.T) {
	t.Parallel()
	for why, cfg := range map[string]router.Config{
		"a negative number":                 {MaxPools: -1},
		"a negative time":                   {IdleTimeout: -1},
		"an empty role":                     {Roles: []string{"anon", ""}},
		"an anonymous role not on the list": {AnonRole: "postgres"},
		"an anonymous role refused at once": {AnonRole: "anon", NoAnon: true},
	} {
		if _, err := router.New(nil, cfg); err == nil {
			t.Errorf("%s must be refused", why)
		}
	}
}
