package faultproxy_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/faultproxy"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

type bundle struct {
	proxy *faultproxy.Proxy
	db    *pgtest.Database
	t     *testing.T
}

func setup(t *testing.T) *bundle {
	t.Parallel()
	db := pgtest.DB(t)
	if _, err := db.Conn(t).Exec(t.Context(), "create table t (id int)"); err != nil {
		t.Fatal(err)
	}
	return &bundle{proxy: pgtest.Proxy(t, db.DSN()), db: db, t: t}
}

func (b *bundle) tryConnect() (*pgx.Conn, error) {
	cfg, err := pgx.ParseConfig(b.db.DSN())
	if err != nil {
		b.t.Fatal(err)
	}
	host, port, _ := strings.Cut(b.proxy.Addr(), ":")
	cfg.Host = host
	_, _ = fmt.Sscan(port, &cfg.Port)
	ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Second)
	defer cancel()
	return pgx.ConnectConfig(ctx, cfg)
}

func (b *bundle) connect() *pgx.Conn {
	b.t.Helper()
	conn, err := b.tryConnect()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = conn.Close(context.Background()) })
	return conn
}

func (b *bundle) rows() (n int) {
	b.t.Helper()
	if err := b.db.Conn(b.t).QueryRow(b.t.Context(), "select count(*) from t").Scan(&n); err != nil {
		b.t.Fatal(err)
	}
	return n
}

// pipelined sends BEGIN, an insert and COMMIT in one write, COMMIT by a name that was prepared before.
func pipelined(ctx context.Context, conn *pgx.Conn) (answers int, err error) {
	if _, err := conn.Prepare(ctx, "fin", "commit"); err != nil {
		return 0, err
	}
	p := conn.PgConn().StartPipeline(ctx)
	p.SendQueryParams("begin", nil, nil, nil, nil)
	p.SendQueryParams("insert into t values (1)", nil, nil, nil, nil)
	p.SendQueryPrepared("fin", nil, nil, nil)
	if err := p.Sync(); err != nil {
		return 0, err
	}
	for {
		got, err := p.GetResults()
		if rr, ok := got.(*pgconn.ResultReader); ok && err == nil {
			_, err = rr.Close()
		}
		if err != nil {
			_ = p.Close()
			return answers, err
		}
		if _, ok := got.(*pgconn.PipelineSync); ok {
			return answers, p.Close()
		}
		answers++
	}
}

func TestProxy_passes_everything_on(t *testing.T) {
	b := setup(t)
	conn := b.connect()
	if n, err := pipelined(t.Context(), conn); n != 3 || err != nil {
		t.Errorf("%d answers, %v", n, err)
	}
	if n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}, {2}})); n != 2 || err != nil {
		t.Errorf("copied %d, %v", n, err)
	}
	var pg *pgconn.PgError
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec} {
		if _, err := conn.Exec(t.Context(), "select 1/0", mode); !errors.As(err, &pg) || pg.Code != "22012" {
			t.Errorf("%v: %v", mode, err)
		}
	}
	var n int
	if err := conn.QueryRow(t.Context(), "select count(*) from generate_series(1, 100000) g, t").Scan(&n); n != 300000 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if s := b.proxy.Stat(); s.Startups != 1 || s.Open != 1 || s.MostStarting != 1 {
		t.Errorf("%+v", s)
	}
}

func TestProxy_a_commit_whose_answer_is_dropped_is_done(t *testing.T) {
	ways := map[string]func(context.Context, *pgx.Conn) error{
		"by the simple protocol": func(ctx context.Context, conn *pgx.Conn) error {
			tx, err := conn.Begin(ctx)
			if err != nil {
				return err
			}
			if _, err := tx.Exec(ctx, "insert into t values (1)"); err != nil {
				t.Error(err)
			}
			return tx.Commit(ctx)
		},
		"in a pipeline, by name": func(ctx context.Context, conn *pgx.Conn) error {
			n, err := pipelined(ctx, conn)
			if n != 2 {
				t.Errorf("%d answers, want those of BEGIN and the insert", n)
			}
			return err
		},
	}
	for name, commit := range ways {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			rule := b.proxy.On(faultproxy.Commit, "").DropReply()
			if err := commit(t.Context(), b.connect()); err == nil {
				t.Error("the client heard of the commit")
			}
			<-rule.Hit()
			if n := b.rows(); n != 1 {
				t.Errorf("%d rows, want 1", n)
			}
			if n, err := pipelined(t.Context(), b.connect()); n != 3 || err != nil {
				t.Errorf("the rule struck twice: %d answers, %v", n, err)
			}
		})
	}
}

func TestProxy_actions(t *testing.T) {
	for name, tt := range map[string]struct {
		arm     func(*faultproxy.Rule)
		answers int
		rows    int
		err     func(error) bool
	}{
		"kill ends before the message":         {func(r *faultproxy.Rule) { r.Kill() }, 2, 0, isEnd},
		"reset ends before the message":        {func(r *faultproxy.Rule) { r.Reset() }, 2, 0, isAny},
		"delay changes nothing else":           {func(r *faultproxy.Rule) { r.Delay(30 * time.Millisecond) }, 3, 1, isNil},
		"hang keeps the message":               {func(r *faultproxy.Rule) { r.Hang() }, 2, 0, isTimeout},
		"a reply that hangs comes of the deed": {func(r *faultproxy.Rule) { r.HangReply() }, 2, 1, isTimeout},
		"fail speaks for the server":           {func(r *faultproxy.Rule) { r.Fail("57P01") }, 2, 0, isCode("57P01")},
		"a rule lets some pass first":          {func(r *faultproxy.Rule) { r.After(1).Kill() }, 3, 1, isNil},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			conn := b.connect()
			tt.arm(b.proxy.On(faultproxy.Commit, "(?i)^commit$"))
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			// The server answers a pipeline when it ends, so a part that stays away takes the answers before it along.
			n, err := pipelined(ctx, conn)
			if !tt.err(err) || err == nil && n != tt.answers {
				t.Errorf("%d answers, %v", n, err)
			}
			if n := b.rows(); n != tt.rows {
				t.Errorf("%d rows, want %d", n, tt.rows)
			}
		})
	}
}

func isNil(err error) bool     { return err == nil }
func isAny(err error) bool     { return err != nil }
func isEnd(err error) bool     { return errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) }
func isTimeout(err error) bool { return pgconn.Timeout(err) }
func isCode(code string) func(error) bool {
	return func(err error) bool {
		var pg *pgconn.PgError
		return errors.As(err, &pg) && pg.Code == code
	}
}

func TestProxy_kinds(t *testing.T) {
	for name, tt := range map[string]struct {
		kind    faultproxy.Kind
		pattern string
		mode    pgx.QueryExecMode
	}{
		"a query by its text":            {faultproxy.Query, "select 42", pgx.QueryExecModeSimpleProtocol},
		"a parse by its text":            {faultproxy.Parse, "select 42", pgx.QueryExecModeCacheStatement},
		"a bind by what was parsed":      {faultproxy.Bind, "select 42", pgx.QueryExecModeCacheStatement},
		"an execute by what was parsed":  {faultproxy.Execute, "select 42", pgx.QueryExecModeCacheStatement},
		"an execute of what has no name": {faultproxy.Execute, "select 42", pgx.QueryExecModeExec},
	} {
		t.Run(name, func(t *testing.T) {
			b := setup(t)
			conn := b.connect()
			rule := b.proxy.On(tt.kind, tt.pattern).Fail("XX000")
			if _, err := conn.Exec(t.Context(), "select 41 + $1::int", tt.mode, 1); err != nil {
				t.Errorf("another text: %v", err)
			}
			if _, err := conn.Exec(t.Context(), "select 42 + $1::int", tt.mode, 1); !isCode("XX000")(err) {
				t.Errorf("got %v", err)
			}
			if rule.Hits() != 1 {
				t.Errorf("%d hits", rule.Hits())
			}
		})
	}
	t.Run("a startup by its user and database", func(t *testing.T) {
		b := setup(t)
		b.proxy.On(faultproxy.Startup, "^rowhouse/"+b.db.Name()+"$").Always().Fail("57P03")
		for range 2 {
			if _, err := b.tryConnect(); !isCode("57P03")(err) {
				t.Errorf("got %v", err)
			}
		}
		b.proxy.Clear()
		b.connect()
	})
}

func TestProxy_cancel_reaches_the_backend(t *testing.T) {
	b := setup(t)
	conn := b.connect()
	b.proxy.On(faultproxy.Execute, "pg_sleep").CancelBackend()
	if _, err := conn.Exec(t.Context(), "select pg_sleep($1)", 20); !isCode("57014")(err) {
		t.Errorf("got %v", err)
	}
	if _, err := conn.Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("the connection is of no use any more: %v", err)
	}
	// The client's own request to cancel goes through as well.
	if err := conn.PgConn().CancelRequest(t.Context()); err != nil || b.proxy.Stat().Cancels != 1 {
		t.Errorf("%v, %d cancels", err, b.proxy.Stat().Cancels)
	}
}

func TestProxy_a_result_is_cut_after_some_rows(t *testing.T) {
	b := setup(t)
	conn := b.connect()
	b.proxy.On(faultproxy.Execute, "generate_series").CutReply(3)
	rows, _ := conn.Query(t.Context(), "select g, repeat('x', 100) from generate_series(1, 100000) g")
	seen := 0
	for rows.Next() {
		seen++
	}
	if rows.Err() == nil || seen > 3 {
		t.Errorf("%d rows, %v", seen, rows.Err())
	}
}

func TestProxy_refuses_and_accepts_again_on_the_same_port(t *testing.T) {
	b := setup(t)
	open := b.connect()
	b.proxy.Refuse()
	if _, err := b.tryConnect(); err == nil {
		t.Error("it accepted")
	}
	if _, err := open.Exec(t.Context(), "select 1"); err != nil {
		t.Errorf("what was open: %v", err)
	}
	if err := b.proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	b.connect()
	b.proxy.KillAll()
	if _, err := open.Exec(t.Context(), "select 1"); err == nil {
		t.Error("a killed session answered")
	}
}

func TestProxy_a_frozen_session_says_nothing_and_new_ones_do(t *testing.T) {
	b := setup(t)
	open := b.connect()
	b.proxy.Freeze()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := open.Exec(ctx, "select 1"); !isTimeout(err) {
		t.Errorf("got %v", err)
	}
	if _, err := b.connect().Exec(t.Context(), "select 1"); err != nil {
		t.Error(err)
	}
}

func TestProxy_Close_leaves_nothing_running(t *testing.T) {
	b := setup(t)
	conns := []*pgx.Conn{b.connect(), b.connect(), b.connect()}
	b.proxy.Freeze()
	b.proxy.Close() // waits for its own goroutines
	for _, conn := range conns {
		if _, err := conn.Exec(t.Context(), "select 1"); err == nil {
			t.Error("a session outlived its proxy")
		}
	}
	if s := b.proxy.Stat(); s.Open != 0 {
		t.Errorf("%+v", s)
	}
	if err := b.proxy.Accept(); err != nil || b.proxy.Stat().Accepted != 3 {
		t.Errorf("a closed proxy accepts again: %v", err)
	}
}
