package router_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router"
)

// faultWorld is a world with two servers: acme lives behind a proxy that breaks things, globex on the other one. Globex
// reads and writes all the time, and no fault of acme's may cost it anything.
type faultWorld struct {
	*world
	proxy     *pgtest.FaultProxy
	faulty    catalog.ServerID
	rt        *router.Router
	db        *database // acme's
	acme      context.Context
	bystander *database
}

func newFaultWorld(t testing.TB, cfg router.Config) *faultWorld {
	t.Helper()
	f := &faultWorld{world: newWorld(t, 20), faulty: catalog.NewID[catalog.Server](), proxy: pgtest.Proxy(t, pgtest.ServerDSN(t))}
	f.addServer(f.faulty, "faulty", f.proxy.Addr(), "disable", 20)
	f.db = f.databaseOn(f.faulty)
	f.tenant("acme", f.db)
	f.bystander = f.database()
	f.tenant("globex", f.bystander)
	f.acme = f.as("acme", "service_role")
	f.rt = f.router(cfg)
	f.watchBystander()
	return f
}

func (f *faultWorld) addServer(id catalog.ServerID, name, host, sslMode string, connections int) {
	f.t.Helper()
	f.update(func(ctx context.Context, tx *catalog.Tx) error {
		return tx.CreateServer(ctx, &catalog.Server{ID: id, Name: name, Hosts: []string{host}, SSLMode: sslMode, MaxConnections: connections})
	})
}

// databaseOn makes a database that the catalog has on another server than the world's own.
func (f *faultWorld) databaseOn(server catalog.ServerID) *database {
	f.t.Helper()
	here := f.server
	f.server = server
	defer func() { f.server = here }()
	return f.database()
}

// watchBystander has globex at work until the test ends. Any error of its, or an answer that it waits long for, fails t.
func (f *faultWorld) watchBystander() {
	f.t.Helper()
	globex := context.WithoutCancel(f.as("globex", "service_role")) // to the end of the cleanup
	stop, stopped := make(chan struct{}), make(chan struct{})
	done, slowest := 0, time.Duration(0)
	go func() {
		defer close(stopped)
		for {
			began := time.Now()
			if err := f.write(globex, "globex", fmt.Sprint("row ", done)); err != nil {
				f.t.Errorf("the bystander: %v", err)
				return
			}
			done++
			slowest = max(slowest, time.Since(began))
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	f.t.Cleanup(func() {
		close(stop)
		<-stopped
		n := 0
		conn, err := pgx.Connect(context.Background(), f.bystander.DSN())
		if err == nil {
			defer conn.Close(context.Background())
			err = conn.QueryRow(context.Background(), "select count(*) from public.projects where name like 'row %'").Scan(&n)
		}
		if err != nil || n != done || done == 0 {
			f.t.Errorf("the bystander wrote %d rows and has %d: %v", done, n, err)
		}
		if slowest > 3*time.Second {
			f.t.Errorf("the bystander waited %v", slowest)
		}
	})
}

// write inserts a row in a transaction of several flights.
func (f *faultWorld) write(ctx context.Context, owner, name string) error {
	return f.rt.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "insert into projects (owner, name) values ($1, $2)", owner, name)
		return err
	})
}

func (f *faultWorld) read(ctx context.Context) error {
	return f.rt.BeginFunc(ctx, func(tx pgx.Tx) error {
		_, err := owners(ctx, tx)
		return err
	})
}

// writeInOneFlight inserts a row as the data API does, COMMIT with it, and says how often it was asked to.
func (f *faultWorld) writeInOneFlight(ctx context.Context, name string) (calls int, err error) {
	err = f.rt.Lend(ctx, pgx.TxOptions{}, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
		calls++
		p := conn.PgConn().StartPipeline(ctx)
		n := open(p)
		p.SendQueryParams("insert into projects (owner, name) values ('acme', '"+name+"')", nil, nil, nil, nil)
		p.SendQueryParams("commit", nil, nil, nil, nil)
		err := p.Sync()
		for i := 0; i < n+2 && err == nil; i++ {
			var got any
			if got, err = p.GetResults(); err == nil {
				_, err = got.(*pgconn.ResultReader).Close()
			}
		}
		return errors.Join(err, p.Close())
	})
	return calls, err
}

// rows counts acme's rows of a name, past the proxy.
func (f *faultWorld) rows(name string) int {
	f.t.Helper()
	return f.db.count(f.t, "select count(*) from public.projects where name = '"+name+"'")
}

// killAll ends every session of acme's login, without waiting until they are gone.
func (f *faultWorld) killAll() {
	f.t.Helper()
	f.db.exec(f.t, "select pg_terminate_backend(pid) from pg_stat_activity where usename = '"+f.db.login+"'")
}

// names asserts that the operator sees the fault, by the name that metrics and the log give it.
func (f *faultWorld) names(cause string) {
	f.t.Helper()
	st := f.rt.Stat().Servers[f.faulty]
	if st.Failures[cause] == 0 && st.Answers[cause] == 0 {
		f.t.Errorf("nobody counted %q: %v %v", cause, st.Failures, st.Answers)
	}
	if other := f.rt.Stat().Servers[f.server]; len(other.Failures) > 0 {
		f.t.Errorf("the bystander's server has %v", other.Failures)
	}
}

func (f *faultWorld) open() int { return f.rt.Stat().Servers[f.faulty].Open }

// await looks until something holds.
func await(t testing.TB, what string, within time.Duration, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(within); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("after %v not yet: %s", within, what)
		}
	}
}

// told is what a client hears of an error.
type told struct {
	status              int
	code, outcome, hint string
}

// tell answers a request with an error. Whatever the answer, it shows nobody a password or where the database is.
func (f *faultWorld) tell(method string, err error) told {
	f.t.Helper()
	if err == nil {
		f.t.Error("no error")
		return told{}
	}
	w := httptest.NewRecorder()
	router.WriteError(w, httptest.NewRequest(method, "/", nil), err)
	var body struct{ Code, Hint string }
	if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
		f.t.Error(err)
	}
	if w.Code == http.StatusServiceUnavailable && w.Header().Get("Retry-After") == "" {
		f.t.Errorf("%d without Retry-After", w.Code)
	}
	for _, secret := range []string{f.db.password, f.db.login, f.db.Name(), f.proxy.Addr()} {
		if strings.Contains(w.Body.String(), secret) {
			f.t.Errorf("the answer shows %q: %s", secret, w.Body)
		}
	}
	return told{w.Code, body.Code, w.Header().Get("Rowhouse-Outcome"), body.Hint}
}

// wants compares what the client of a write hears.
func (f *faultWorld) wants(err error, want told) {
	f.t.Helper()
	got := f.tell(http.MethodPost, err)
	want.hint = got.hint
	if got != want {
		f.t.Errorf("the client hears %+v of %q, want %+v", got, err, want)
	}
}

var (
	notThere   = told{status: 503, code: "database_unavailable", outcome: "not_started"}
	undone     = told{status: 503, code: "database_unavailable", outcome: "rolled_back"}
	nobodyKnow = told{status: 504, code: "outcome_unknown", outcome: "unknown"}
)

// recovers waits until acme is served again.
func (f *faultWorld) recovers(within time.Duration) {
	f.t.Helper()
	var last error
	began := time.Now()
	for {
		ctx, cancel := context.WithTimeout(f.acme, within)
		last = f.read(ctx)
		cancel()
		if last == nil {
			return
		}
		if time.Since(began) > within {
			f.t.Fatalf("not served again after %v: %v", within, last)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestFault_F10_connection_refused(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	f.proxy.Refuse()
	quickest := time.Hour
	for range 3 {
		began := time.Now()
		f.wants(f.write(f.acme, "acme", "refused"), notThere)
		quickest = min(quickest, time.Since(began))
	}
	if quickest > 100*time.Millisecond {
		t.Errorf("refused after %v", quickest)
	}
	f.names("refused")
	if err := f.proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	f.recovers(2 * time.Second)
	if f.rows("refused") != 0 {
		t.Error("a refused write was made")
	}
}

func TestFault_F10_breaker_stops_dialling_a_dead_server(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	f.proxy.Refuse()
	for range 8 {
		f.wants(f.read(f.acme), notThere)
	}
	before := f.rt.Stat().Servers[f.faulty].DialErrors
	for range 50 {
		f.wants(f.read(f.acme), notThere)
	}
	if n := f.rt.Stat().Servers[f.faulty].DialErrors - before; n > 2 {
		t.Errorf("%d dials for 50 requests", n)
	}
	if err := f.proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	f.recovers(5*time.Second + 2*time.Second) // a probe each 1 to 5 s
}

func TestFault_F12_peer_vanishes(t *testing.T) {
	t.Parallel()
	t.Run("under a COMMIT: nobody knows, and the connection is not used again", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{})
		f.proxy.On(pgtest.OnCommit, "").HangReply()
		ctx, cancel := context.WithTimeout(f.acme, 5*time.Second) // the request's own deadline is kept to
		defer cancel()
		began := time.Now()
		f.wants(f.write(ctx, "acme", "vanished"), nobodyKnow)
		if took := time.Since(began); took > 9*time.Second {
			t.Errorf("the deadline of 5s ended the write after %v", took)
		}
		if n := f.rows("vanished"); n != 1 {
			t.Errorf("%d rows", n)
		}
		f.recovers(5 * time.Second)
	})
	t.Run("before a transaction began: it is begun on another connection, and nobody sees an error", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{ConnectTimeout: time.Second})
		if err := f.read(f.acme); err != nil {
			t.Fatal(err)
		}
		f.proxy.Freeze()
		if err := f.read(f.acme); err != nil {
			t.Errorf("a read: %v", err)
		}
		f.proxy.Freeze()
		if err := f.write(f.acme, "acme", "begun"); err != nil {
			t.Errorf("a write: %v", err)
		}
		if n := f.rows("begun"); n != 1 {
			t.Errorf("%d rows", n)
		}
		if n := f.rt.Stat().Servers[f.faulty].Retried; n < 2 {
			t.Errorf("%d retries are counted", n)
		}
	})
	t.Run("under a read: an end at the deadline, and the next read has another connection", func(t *testing.T) {
		t.Parallel()
		f := newFaultWorld(t, router.Config{})
		if err := f.read(f.acme); err != nil {
			t.Fatal(err)
		}
		f.proxy.Freeze()
		ctx, cancel := context.WithTimeout(f.acme, 300*time.Millisecond)
		defer cancel()
		began := time.Now()
		if err := f.read(ctx); err == nil {
			t.Error("a frozen connection answered")
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("the deadline of 300ms ended the read after %v", took)
		}
		f.recovers(5 * time.Second)
		// Its backend may live, so pgx keeps it for 15 s, and the budget counts it as long.
		await(t, "the dead connection counts no more", 25*time.Second, func() bool { return f.open() == 1 })
	})
}

func TestFault_F13_server_accepts_and_never_speaks(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{ConnectTimeout: 200 * time.Millisecond})
	f.proxy.On(pgtest.OnStartup, "").Always().Hang()
	var asking sync.WaitGroup
	for range 4 {
		asking.Go(func() {
			began := time.Now()
			f.wants(f.write(f.acme, "acme", "silent"), notThere)
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("refused after %v", took)
			}
		})
	}
	asking.Wait()
	f.names("silent")
	await(t, "every permit is back", 5*time.Second, func() bool { return f.open() == 0 })
	f.proxy.Clear()
	f.recovers(7 * time.Second) // a probe each 1 to 5 s
}

func TestFault_F14_reset_in_mid_result(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	t.Run("a read never looks whole", func(t *testing.T) {
		f.proxy.On(pgtest.OnExecute, "generate_series").CutReply(3)
		seen := 0
		err := f.rt.BeginFunc(f.acme, func(tx pgx.Tx) error {
			rows, _ := tx.Query(f.acme, "select g, repeat('x', 1000) from generate_series(1, $1) g", 100_000)
			for rows.Next() {
				seen++
			}
			return rows.Err()
		})
		f.wants(err, undone)
		if seen > 3 {
			t.Errorf("%d rows", seen)
		}
	})
	t.Run("a write before its COMMIT is rolled back", func(t *testing.T) {
		f.proxy.On(pgtest.OnExecute, "(?i)^insert into projects").CutReply(1)
		f.wants(f.rt.BeginFunc(f.acme, func(tx pgx.Tx) error {
			rows, _ := tx.Query(f.acme, "insert into projects (owner, name) select 'acme', 'cut' from generate_series(1, $1) returning name", 10_000)
			_, err := pgx.CollectRows(rows, pgx.RowTo[string])
			return err
		}), undone)
		if n := f.rows("cut"); n != 0 {
			t.Errorf("%d rows", n)
		}
	})
	f.recovers(2 * time.Second)
}

func TestFault_F15_answer_to_COMMIT_lost(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	for name, tt := range map[string]struct {
		arm  func(*pgtest.FaultRule) *pgtest.FaultRule
		rows int
	}{
		"when it was made":             {(*pgtest.FaultRule).DropReply, 1},
		"when it never arrived":        {(*pgtest.FaultRule).Kill, 0},
		"when it was reset on the way": {(*pgtest.FaultRule).Reset, 0},
	} {
		t.Run(name, func(t *testing.T) {
			row := strings.ReplaceAll(name, " ", "-")
			rule := tt.arm(f.proxy.On(pgtest.OnCommit, ""))
			err := f.write(f.acme, "acme", row)
			f.wants(err, nobodyKnow)
			if hint := f.tell(http.MethodPost, err).hint; !strings.Contains(hint, "Idempotency-Key") {
				t.Errorf("hint %q", hint)
			}
			<-rule.Hit()
			if n := f.rows(row); n != tt.rows {
				t.Errorf("%d rows, want %d", n, tt.rows)
			}

			rule = tt.arm(f.proxy.On(pgtest.OnCommit, ""))
			calls, err := f.writeInOneFlight(f.acme, row)
			if err == nil || calls != 1 {
				t.Errorf("in one flight: %v after %d calls, want an error and one", err, calls)
			}
			<-rule.Hit()
			if n := f.rows(row); n != 2*tt.rows {
				t.Errorf("in one flight: %d rows, want %d", n-tt.rows, tt.rows)
			}
		})
	}
	f.recovers(2 * time.Second)
}

func TestFault_F16_flush_lost_before_COMMIT(t *testing.T) {
	t.Parallel()
	f := newFaultWorld(t, router.Config{})
	f.proxy.On(pgtest.OnBind, "(?i)^insert into projects").Kill()
	f.wants(f.write(f.acme, "acme", "early"), undone)
	f.proxy.On(pgtest.OnBind, "(?i)^insert into projects").Kill()
	if calls, err := f.writeInOneFlight(f.acme, "early"); err == nil || calls != 1 {
		t.Errorf("in one flight: %v after %d calls", err, calls)
	}
	f.recovers(2 * time.Second)
	await(t, "the server has rolled back", 5*time.Second, func() bool {
		return f.db.count(t, "select count(*) from pg_stat_activity where state like 'idle in%' and usename = '"+f.db.login+"'") == 0
	})
	if n := f.rows("early"); n != 0 {
		t.Errorf("%d rows", n)
	}
}

// What nothing may rest on: pgx says of a simple-protocol COMMIT whose answer was lost that it is safe to retry, though the
// server has made it. When an upgrade changes that, this test notices, and the reason not to use the flag may be retold.
func TestFault_F15_pgconn_says_safe_to_retry_of_a_commit_that_was_made(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	direct := db.Conn(t)
	if _, err := direct.Exec(t.Context(), "create table t (id int)"); err != nil {
		t.Fatal(err)
	}
	proxy := pgtest.Proxy(t, db.DSN())
	host, port, _ := strings.Cut(proxy.Addr(), ":")
	cfg, err := pgx.ParseConfig(db.DSN())
	if err != nil {
		t.Fatal(err)
	}
	cfg.Host = host
	_, _ = fmt.Sscan(port, &cfg.Port)
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	proxy.On(pgtest.OnCommit, "").DropReply()
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), "insert into t values (1)"); err != nil {
		t.Fatal(err)
	}
	err = tx.Commit(t.Context())
	if err == nil {
		t.Fatal("the commit's answer arrived")
	}
	var n int
	if err := direct.QueryRow(t.Context(), "select count(*) from t").Scan(&n); err != nil || n != 1 {
		t.Fatalf("%d rows, %v: the commit was not made", n, err)
	}
	if !pgconn.SafeToRetry(err) {
		t.Errorf("%q: no longer said to be safe to retry; faults and style pages tell otherwise", err)
	}
}

func TestNothing_rests_on_SafeToRetry(t *testing.T) {
	forbidden, files := "SafeTo"+"Retry", 0
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == "node_modules" || len(entry.Name()) > 2 && entry.Name()[0] == '.') {
			return filepath.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		files++
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) { // it was being written
			return nil
		}
		for i, line := range strings.Split(string(text), "\n") {
			code, _, _ := strings.Cut(line, "//")
			if strings.Contains(code, forbidden) {
				t.Errorf("%s:%d: %s says yes of statements that were executed: see TestFault_F15", path, i+1, forbidden)
			}
		}
		return err
	})
	if err != nil || files < 50 {
		t.Errorf("%d files looked at, %v", files, err)
	}
}
