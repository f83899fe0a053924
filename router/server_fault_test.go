package router_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// privateServer is a server of a test's own, to be broken.
type privateServer struct {
	*localpg.Server
	dir string
}

func newPrivateServer(t testing.TB) *privateServer {
	t.Helper()
	above, err := os.MkdirTemp("/tmp", "router-fault-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(above) })
	if err := os.Chmod(above, 0o711); err != nil { // the server's user must come in
		t.Fatal(err)
	}
	s := &privateServer{dir: filepath.Join(above, "data")}
	s.start(t)
	for _, role := range []string{"anon", "authenticated", "service_role"} {
		s.exec(t, "postgres", "create role "+role+" nologin")
	}
	return s
}

func (s *privateServer) start(t testing.TB) {
	t.Helper()
	var err error
	s.Server, err = localpg.Start(t.Context(), localpg.Config{Dir: s.dir, Settings: map[string]string{"fsync": "off"}})
	if err != nil {
		t.Fatal(err)
	}
	server := s.Server
	t.Cleanup(func() { _ = server.Stop(context.Background()) })
}

// address is where the server listens, as net.Dial takes it.
func (s *privateServer) address() (network, address string) {
	return pgconn.NetworkAddress(s.Socket(), 5432)
}

func (s *privateServer) exec(t testing.TB, database, sql string) {
	t.Helper()
	if err := s.tryExec(t.Context(), database, sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func (s *privateServer) tryExec(ctx context.Context, database, sql string) error {
	conn, err := pgx.Connect(ctx, s.DSN(database))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, sql)
	return err
}

// privateDatabase is a tenant database on a private server.
type privateDatabase struct {
	server *privateServer
	name   string
}

func (s *privateServer) database(t testing.TB, name, login, password string, id catalog.DatabaseID) privateDatabase {
	t.Helper()
	s.exec(t, "postgres", "create role "+login+" login noinherit password '"+password+"'")
	s.exec(t, "postgres", "grant anon, authenticated, service_role to "+login)
	s.exec(t, "postgres", "create database "+name)
	s.exec(t, name, schema)
	s.exec(t, name, "insert into rowhouse.identity (database_id) values ('"+id.String()+"')")
	return privateDatabase{s, name}
}

func (d privateDatabase) names(t testing.TB, sql string) []string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.server.DSN(d.name))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	rows, _ := conn.Query(t.Context(), sql)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return names
}

func (d privateDatabase) count(t testing.TB, sql string) int {
	t.Helper()
	var n int
	_, _ = fmt.Sscan(d.names(t, "select ("+sql+")::text")[0], &n)
	return n
}

// moveTo has acme's server row lead to the proxy and the proxy to a private server, with acme's database there.
func (f *faultWorld) moveTo(s *privateServer) privateDatabase {
	f.t.Helper()
	db := s.database(f.t, f.db.Name(), f.db.login, f.db.password, f.db.id)
	f.proxy.Target(s.address())
	f.proxy.KillAll()
	return db
}

func TestFault_F23_idle_connections_killed_and_used_at_once(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 8}) // of which one tenant has half
	warm := func() {
		var txs []pgx.Tx
		for range 4 {
			tx, err := f.rt.Begin(f.acme)
			if err != nil {
				t.Fatal(err)
			}
			txs = append(txs, tx)
		}
		for _, tx := range txs {
			_ = tx.Rollback(f.acme)
		}
	}
	const rounds = 10
	for i := range rounds {
		warm()
		f.killAll()
		if err := f.read(f.acme); err != nil {
			t.Errorf("round %d, a read: %v", i, err)
		}
		warm()
		f.killAll()
		if err := f.write(f.acme, "acme", "killed"); err != nil {
			t.Errorf("round %d, a write: %v", i, err)
		}
	}
	if n := f.rows("killed"); n != rounds {
		t.Errorf("%d rows after %d writes", n, rounds)
	}
	t.Run("reply 1 is FATAL 57P01: not started, and started once more", func(t *testing.T) {
		rule := f.proxy.On(pgtest.OnBind, "^begin read write").Fail("57P01")
		if err := f.write(f.acme, "acme", "reply-1"); err != nil || rule.Hits() != 1 || f.rows("reply-1") != 1 {
			t.Errorf("%v, %d rows", err, f.rows("reply-1"))
		}
	})
	t.Run("no reply to BEGIN, which alone cannot have done anything", func(t *testing.T) {
		rule := f.proxy.On(pgtest.OnBind, "^begin read write").Reset()
		if err := f.write(f.acme, "acme", "no-reply"); err != nil || rule.Hits() != 1 || f.rows("no-reply") != 1 {
			t.Errorf("%v, %d rows", err, f.rows("no-reply"))
		}
	})
}

func TestFault_F24_server_crash_and_restart(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	s := newPrivateServer(t)
	db := f.moveTo(s)
	f.recovers(2 * time.Second)
	l := f.startLoad(3)
	l.more(t, 50)

	// A backend that dies by kill -9 may have spoilt the shared memory: the postmaster ends them all and recovers.
	victim, err := pgx.Connect(t.Context(), s.DSN("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(victim.PgConn().PID()), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the server has crashed", 10*time.Second, func() bool { return victim.Ping(t.Context()) != nil })
	await(t, "the server is back", 30*time.Second, func() bool { return s.tryExec(t.Context(), "postgres", "select 1") == nil })
	f.recovers(2*time.Second + 5*time.Second) // and a breaker probes each 1 to 5 s
	l.more(t, 20)
	close(l.stop)
	l.working.Wait()

	there := map[string]int{}
	for _, name := range db.names(t, "select name from public.projects") {
		there[name]++
	}
	for _, name := range l.acked {
		if there[name] != 1 {
			t.Errorf("%s was acknowledged and is there %d times", name, there[name])
		}
	}
	for _, name := range l.refused {
		if there[name] != 0 {
			t.Errorf("%s was refused and is there", name)
		}
	}
	for _, name := range l.unknown {
		if there[name] > 1 {
			t.Errorf("%s is there %d times", name, there[name])
		}
	}
	if len(l.unknown) > 3 {
		t.Errorf("%d writes of which nobody knows, three were in flight", len(l.unknown))
	}
	if len(l.errs) == 0 {
		t.Error("the crash hurt nobody: the test shows nothing")
	}
	for _, err := range l.errs {
		if got := f.tell(http.MethodPost, err); got != notThere && got != undone && got.code != "outcome_unknown" {
			t.Errorf("the client hears %+v of %v", got, err)
		}
	}
}

// standby starts a copy of a stopped server that is in recovery and takes reads only, until it is promoted.
func (s *privateServer) standby(t testing.TB) *privateServer {
	t.Helper()
	if err := s.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	copied := &privateServer{dir: s.dir + "-standby"}
	err := filepath.WalkDir(s.dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		target := copied.dir + strings.TrimPrefix(path, s.dir)
		switch {
		case entry.IsDir():
			err = os.Mkdir(target, info.Mode().Perm())
		case info.Mode().IsRegular():
			var content []byte
			if content, err = os.ReadFile(path); err == nil {
				err = os.WriteFile(target, content, info.Mode().Perm())
			}
		default:
			return nil
		}
		owner := info.Sys().(*syscall.Stat_t)
		return errors.Join(err, os.Lchown(target, int(owner.Uid), int(owner.Gid)))
	})
	if err == nil {
		err = os.WriteFile(copied.dir+strings.TrimPrefix(s.DataDir(), s.dir)+"/standby.signal", nil, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.start(t)
	copied.start(t)
	return copied
}

func TestFault_F25_failover(t *testing.T) {
	t.Parallel()
	t.Run("the name leads to a standby: writes are refused until it is promoted, and then served", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{})
		primary := newPrivateServer(t)
		db := f.moveTo(primary)
		f.recovers(2 * time.Second)
		if err := f.write(f.acme, "acme", "before"); err != nil {
			t.Fatal(err)
		}
		standby := primary.standby(t)
		f.recovers(7 * time.Second)
		f.proxy.Target(standby.address())
		f.proxy.KillAll()
		err := f.write(f.acme, "acme", "during")
		got := f.tell(http.MethodPost, err)
		if got.status != 503 || got.code != "database_unavailable" || got.outcome == "unknown" {
			t.Errorf("the client hears %+v of %v", got, err)
		}
		standby.exec(t, "postgres", "select pg_promote()")
		await(t, "writes are served by the new primary", 7*time.Second, func() bool { return f.write(f.acme, "acme", "after") == nil })
		db.server = standby
		if names := db.names(t, "select name from public.projects order by name"); !slices.Equal(names, []string{"after", "before"}) {
			t.Errorf("the new primary has %v", names)
		}
	})
	t.Run("the host that took writes last is tried first", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{ConnectTimeout: time.Second})
		dead := pgtest.Proxy(t, pgtest.ServerDSN(t))
		tried := dead.On(pgtest.OnStartup, "").Always()
		tried.Kill()
		f.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetServerHosts(ctx, f.faulty, []string{dead.Addr(), strings.Replace(f.proxy.Addr(), "127.0.0.1", "localhost", 1)})
		})
		f.recovers(7 * time.Second)
		before := tried.Hits()
		if before == 0 {
			t.Fatal("the first host was not tried")
		}
		for range 3 {
			f.proxy.KillAll()
			f.recovers(7 * time.Second)
		}
		if n := tried.Hits() - before; n > 0 {
			t.Errorf("the dead host was tried %d times more", n)
		}
	})
	t.Run("of two hosts the one that takes writes is found", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{})
		primary := newPrivateServer(t)
		f.moveTo(primary)
		standby := primary.standby(t)
		second := pgtest.Proxy(t, pgtest.ServerDSN(t))
		second.Target(standby.address())
		f.update(func(ctx context.Context, tx *catalog.Tx) error {
			return tx.SetServerHosts(ctx, f.faulty, []string{f.proxy.Addr(), second.Addr()})
		})
		f.recovers(7 * time.Second)
		if err := f.write(f.acme, "acme", "before"); err != nil {
			t.Error(err)
		}
		f.proxy.Refuse()
		f.proxy.KillAll()
		if err := f.write(f.acme, "acme", "during"); err == nil {
			t.Error("a standby took a write")
		}
		standby.exec(t, "postgres", "select pg_promote()")
		await(t, "writes are served by the new primary", 7*time.Second, func() bool { return f.write(f.acme, "acme", "after") == nil })
	})
}

func TestFault_F28_transactions_that_lose_against_another(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	for _, name := range []string{"one", "two"} {
		if err := f.write(f.acme, "acme", name); err != nil {
			t.Fatal(err)
		}
	}
	t.Run("40001", func(t *testing.T) {
		first, err := f.rt.BeginTx(f.acme, pgx.TxOptions{IsoLevel: pgx.RepeatableRead})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = first.Rollback(f.acme) }()
		if _, err := owners(f.acme, first); err != nil { // its snapshot
			t.Fatal(err)
		}
		if err := f.rt.BeginFunc(f.acme, func(tx pgx.Tx) error {
			_, err := tx.Exec(f.acme, "update projects set name = 'one!' where name = 'one'")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := first.Exec(f.acme, "update projects set name = 'lost' where name = 'two'"); err != nil {
			t.Fatal(err)
		}
		_, err = first.Exec(f.acme, "update projects set name = 'lost' where name = 'one'")
		f.wants(err, told{status: 409, code: "40001", outcome: "rolled_back"})
		if err := first.Commit(f.acme); outcome(err) != "rolled_back" {
			t.Errorf("commit: %v", err)
		}
		if f.rows("lost") != 0 || f.rows("one!") != 1 || f.rows("two") != 1 {
			t.Error("half of it stayed")
		}
	})
	t.Run("40P01", func(t *testing.T) {
		var locked, ended sync.WaitGroup
		locked.Add(2)
		errs := make([]error, 2)
		for i, names := range [][]string{{"one!", "two"}, {"two", "one!"}} {
			ended.Go(func() {
				errs[i] = f.rt.BeginFunc(f.acme, func(tx pgx.Tx) error {
					lock := "select from projects where name = $1 for update"
					_, err := tx.Exec(f.acme, lock, names[0])
					locked.Done()
					locked.Wait()
					if err == nil {
						_, err = tx.Exec(f.acme, lock, names[1])
					}
					return err
				})
			})
		}
		ended.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Fatalf("one must lose: %v", errs)
		}
		f.wants(errors.Join(errs...), told{status: 409, code: "40P01", outcome: "rolled_back"})
	})
	f.names("40001")
	f.names("40P01")
}

func TestFault_F29_timeouts_of_the_server(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 2})
	if err := f.write(f.acme, "acme", "locked"); err != nil {
		t.Fatal(err)
	}
	holder, err := f.rt.Begin(f.acme)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := holder.Exec(f.acme, "select from projects where name = 'locked' for update"); err != nil {
		t.Fatal(err)
	}
	var pids []uint32
	try := func(set, sql string) error {
		return f.rt.BeginFunc(f.acme, func(tx pgx.Tx) error {
			pids = append(pids, tx.Conn().PgConn().PID())
			if _, err := tx.Exec(f.acme, set); err != nil {
				t.Error(err)
			}
			_, err := tx.Exec(f.acme, sql)
			return err
		})
	}
	f.wants(try("set local statement_timeout = '20ms'", "select pg_sleep(10)"), told{status: 504, code: "statement_timeout", outcome: "rolled_back"})
	f.wants(try("set local lock_timeout = '20ms'", "update projects set name = 'x' where name = 'locked'"), told{status: 503, code: "overloaded", outcome: "rolled_back"})
	t.Run("a request that the proxy has the server cancel ends alike", func(t *testing.T) {
		f.proxy.On(pgtest.OnQuery, "pg_sleep").CancelBackend()
		f.wants(try("set local application_name = 'x'", "select pg_sleep(10)"), told{status: 504, code: "statement_timeout", outcome: "rolled_back"})
	})
	if err := holder.Rollback(f.acme); err != nil {
		t.Error(err)
	}
	f.names("57014")
	f.names("55P03")
	if pids[0] != pids[1] || pids[1] != pids[2] {
		t.Errorf("the connection was not used again: %v", pids)
	}
	if f.rows("x") != 0 || f.open() != 2 {
		t.Errorf("%d rows, %d connections", f.rows("x"), f.open())
	}
}

func TestFault_F30_DDL_under_live_pools(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 8}) // of which one tenant has half
	look := func() error {
		return f.rt.BeginFunc(f.acme, func(tx pgx.Tx) error {
			rows, _ := tx.Query(f.acme, "select * from projects where owner = $1", "acme") // a cached plan of all columns
			_, err := pgx.CollectRows(rows, pgx.RowToMap)
			return err
		})
	}
	everywhere := func() {
		var together, ended sync.WaitGroup
		together.Add(4)
		for range 4 {
			ended.Go(func() {
				tx, err := f.rt.Begin(f.acme)
				together.Done()
				if err != nil {
					t.Error(err)
					return
				}
				together.Wait() // each has a connection of its own
				rows, _ := tx.Query(f.acme, "select * from projects where owner = $1", "acme")
				if _, err := pgx.CollectRows(rows, pgx.RowToMap); err != nil {
					t.Error(err)
				}
				if err := tx.Commit(f.acme); err != nil {
					t.Error(err)
				}
			})
		}
		ended.Wait()
	}
	for version := range int64(3) {
		everywhere()
		f.db.exec(t, fmt.Sprintf("alter table public.projects add column more%d text", version))
		f.update(func(ctx context.Context, tx *catalog.Tx) error {
			name := fmt.Sprint("v", version+2)
			if err := tx.SetServedVersions(ctx, catalog.ServedVersions{Max: version + 2}); err != nil { // as a rollout does before it begins
				return err
			}
			return tx.SetDatabaseSchema(ctx, f.db.id, catalog.Migrated{Version: version + 2, Chain: name, Fingerprint: name})
		})
		everywhere()
		if err := look(); err != nil {
			t.Error(err)
		}
	}
}

func TestFault_F36_panic_in_a_handler(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 1})
	rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.Always("acme")}}
	handler := router.Edge(f.rt.Resolve(rs, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = f.rt.BeginFunc(r.Context(), func(tx pgx.Tx) error {
			if _, err := tx.Exec(r.Context(), "insert into projects (owner, name) values ('acme', 'panic')"); err != nil {
				t.Error(err)
			}
			panic("a secret of the handler's")
		})
	})), router.EdgeConfig{})
	for range 3 {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", nil))
		if w.Code != http.StatusInternalServerError || w.Header().Get("X-Request-Id") == "" || strings.Contains(w.Body.String(), "secret") {
			t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
		}
	}
	f.recovers(2 * time.Second) // its only connection is there
	if n := f.rows("panic"); n != 0 {
		t.Errorf("%d rows of requests that panicked", n)
	}
}

func TestFault_F37_client_disconnects_in_mid_query(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 1})
	ctx, leave := context.WithCancel(f.acme)
	sleeping := "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(30)%' and usename = '" + f.db.login + "'"
	ended := make(chan error)
	go func() {
		ended <- f.rt.BeginFunc(ctx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "select pg_sleep(30)"); return err })
	}()
	await(t, "the query runs", 10*time.Second, func() bool { return f.db.count(t, sleeping) == 1 })
	began := time.Now()
	leave()
	if err := <-ended; err == nil {
		t.Error("the query ended well")
	}
	await(t, "the query is gone from the server", time.Second, func() bool { return f.db.count(t, sleeping) == 0 })
	f.recovers(time.Second) // its only connection, or another
	t.Logf("gone and served again after %v", time.Since(began).Round(time.Millisecond))
}

// A request to cancel that was sent for one transaction and hits the next: nothing of that one is left, and it is done once
// more.
func TestFault_F37_cancel_that_comes_late(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 1})
	slowly := func(ctx context.Context, name string) (calls int, err error) {
		err = f.rt.Lend(ctx, pgx.TxOptions{}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
			calls++
			p := conn.PgConn().StartPipeline(ctx)
			n := open(p)
			p.SendQueryParams("insert into projects (owner, name) select 'acme', '"+name+"' from pg_sleep(0.2)", nil, nil, nil, nil)
			p.SendPipelineSync()
			p.SendQueryParams("commit", nil, nil, nil, nil)
			p.SendPipelineSync()
			err := p.Flush()
			for i := 0; i < n+4 && err == nil; i++ {
				var got any
				if got, err = p.GetResults(); err == nil {
					if rows, ok := got.(*pgconn.ResultReader); ok {
						_, err = rows.Close()
					}
				}
			}
			_ = p.Close() // which reads the answer to COMMIT
			return err
		})
		return calls, err
	}
	cancel := func() *pgtest.FaultRule { return f.proxy.On(pgtest.OnExecute, "pg_sleep").CancelBackend() }
	t.Run("of nobody's: the statement was cancelled, and that is told", func(t *testing.T) {
		rule := cancel()
		calls, err := slowly(f.acme, "cancelled")
		f.wants(err, told{status: 504, code: "statement_timeout", outcome: "rolled_back"})
		if rule.Hits() != 1 || calls != 1 {
			t.Errorf("%d calls", calls)
		}
	})
	t.Run("right after a transaction that was cancelled", func(t *testing.T) {
		ctx, leave := context.WithCancel(f.acme)
		go func() {
			await(t, "the statement runs", 10*time.Second, func() bool {
				return f.db.count(t, "select count(*) from pg_stat_activity where state = 'active' and query like '%left%pg_sleep%' and usename = '"+f.db.login+"'") == 1
			})
			leave()
		}()
		if err := f.rt.BeginFunc(ctx, func(tx pgx.Tx) error { _, err := tx.Exec(ctx, "select 'left', pg_sleep(30)"); return err }); err == nil {
			t.Fatal("it was not cancelled")
		}
		rule := cancel()
		calls, err := slowly(f.acme, "twice")
		if rule.Hits() != 1 || err != nil || calls != 2 || f.rows("twice") != 1 {
			t.Errorf("%v after %d calls, %d rows", err, calls, f.rows("twice"))
		}
	})
	if n := f.rows("cancelled"); n != 0 {
		t.Errorf("%d rows of a transaction that was cancelled", n)
	}
}

func TestFault_F41_noisy_neighbour_in_a_shared_database(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{MaxConnsPerDatabase: 4, AcquireTimeout: 10 * time.Second})
	f.tenant("initech", f.db)
	// Both come by the door that every request comes by.
	rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromHeader("X-Tenant")}}
	handler := f.rt.Resolve(rs, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := f.rt.BeginFunc(r.Context(), func(tx pgx.Tx) error {
			_, err := tx.Exec(r.Context(), r.URL.Query().Get("sql"))
			return err
		})
		if err != nil {
			router.WriteError(w, r, err)
		}
	}))
	ask := func(ctx context.Context, tenant, sql string) (int, time.Duration) {
		r := httptest.NewRequest(http.MethodGet, "/?sql="+sql, nil).WithContext(ctx)
		r.Header.Set("X-Tenant", tenant)
		w := httptest.NewRecorder()
		began := time.Now()
		handler.ServeHTTP(w, r)
		return w.Code, time.Since(began)
	}
	ctx, stop := context.WithCancel(t.Context())
	var noise sync.WaitGroup
	for range 40 {
		noise.Go(func() {
			for ctx.Err() == nil {
				if status, _ := ask(ctx, "acme", "select+pg_sleep(0.1)"); status == http.StatusTooManyRequests {
					time.Sleep(5 * time.Millisecond)
				}
			}
		})
	}
	await(t, "the noise has all it gets", 10*time.Second, func() bool { return f.open() >= 2 })
	var took []time.Duration
	for range 30 {
		status, d := ask(t.Context(), "initech", "select+1")
		if status != http.StatusOK {
			t.Errorf("the quiet tenant: %d", status)
		}
		took = append(took, d)
	}
	stop()
	noise.Wait()
	slices.Sort(took)
	// FIFO behind forty requests of 100 ms on four connections is a second.
	if p50 := took[len(took)/2]; p50 > 150*time.Millisecond {
		t.Errorf("the quiet one waits %v", p50)
	}
	t.Logf("the quiet tenant waits %v, at most %v", took[len(took)/2], took[len(took)-1])
}
