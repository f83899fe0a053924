package exec

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// one lends always the same connection.
type one struct{ conn *pgx.Conn }

func (o one) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	return o.conn.BeginTx(ctx, opts)
}

func (o one) Lend(_ context.Context, opts pgx.TxOptions, fn func(*pgx.Conn, func(*pgconn.Pipeline) int) error) error {
	return fn(o.conn, func(p *pgconn.Pipeline) int {
		p.SendQueryParams("begin "+string(opts.AccessMode), nil, nil, nil, nil)
		return 1
	})
}

// answering is a job whose statement answers one row with text in place of its body.
func answering(text string) Job {
	return Job{ReadOnly: true, Settings: Settings{SearchPath: "public"}, Statement: sqlgen.Statement{
		SQL: "select null, 1, $1, null, null, null, null /* " + text + " */", Args: [][]byte{[]byte(text)},
	}}
}

func prepared(t *testing.T, conn *pgx.Conn) int {
	t.Helper()
	var n int
	err := conn.QueryRow(context.Background(), "select count(*) from pg_prepared_statements where name like 'rest_%'", pgx.QueryExecModeExec).Scan(&n)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestRunner_names(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	run := func(t *testing.T, r *Runner, job Job) {
		t.Helper()
		row, err := r.Run(ctx, job)
		if err != nil {
			t.Fatal(err)
		}
		if string(row[sqlgen.Body]) != string(job.Statement.Args[0]) {
			t.Fatalf("got %q", row[sqlgen.Body])
		}
	}
	const common = 3 // the settings, the time zone and commit

	t.Run("a statement is prepared at its second use, once per role", func(t *testing.T) {
		t.Parallel()
		conn := pgtest.DB(t).Conn(t)
		r := New(one{conn}, false)
		for uses, want := range []int{common, common + 1, common + 1} {
			run(t, r, answering("x"))
			if n := prepared(t, conn); n != want {
				t.Errorf("after %d uses %d statements are prepared, want %d", uses+1, n, want)
			}
		}
		other := answering("x")
		other.Scope = "another role"
		run(t, r, other)
		run(t, r, other)
		if n := prepared(t, conn); n != common+2 {
			t.Errorf("with another role %d", n)
		}
	})
	t.Run("many shapes leave no more than the bound", func(t *testing.T) {
		t.Parallel()
		conn := pgtest.DB(t).Conn(t)
		r := New(one{conn}, false)
		for i := range namesPerConn * 2 {
			run(t, r, answering(fmt.Sprint(i)))
			run(t, r, answering(fmt.Sprint(i)))
			run(t, r, answering(fmt.Sprint(i/2))) // some come back after they were dropped
		}
		if n := prepared(t, conn); n > namesPerConn+1 { // what was dropped last goes with the next flight
			t.Errorf("%d statements are prepared", n)
		}
	})
	t.Run("a commit that is held back gets along with a full list", func(t *testing.T) {
		t.Parallel()
		conn := pgtest.DB(t).Conn(t)
		r := New(one{conn}, false)
		for i := range namesPerConn * 2 {
			job := answering(fmt.Sprint(i))
			job.ReadOnly = false
			job.Decide = func(Row) error { return nil }
			run(t, r, job)
			run(t, r, job)
		}
	})
	t.Run("statements that are gone are made again", func(t *testing.T) {
		t.Parallel()
		conn := pgtest.DB(t).Conn(t)
		r := New(one{conn}, false)
		for range 3 {
			run(t, r, answering("x"))
		}
		// Not the commit: without it the connection would be its pool's to destroy.
		commit := r.common("commit").text
		rows, _ := conn.Query(ctx, "select name from pg_prepared_statements where name like 'rest_%' and name <> $1", pgx.QueryExecModeExec, commit)
		gone, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil || len(gone) != common {
			t.Fatalf("%q, %v", gone, err)
		}
		for _, name := range gone {
			if err := conn.PgConn().Deallocate(ctx, name); err != nil {
				t.Fatal(err)
			}
		}
		run(t, r, answering("x"))
	})
	t.Run("unnamed leaves nothing", func(t *testing.T) {
		t.Parallel()
		conn := pgtest.DB(t).Conn(t)
		r := New(one{conn}, true)
		for range 3 {
			run(t, r, answering("x"))
		}
		if n := prepared(t, conn); n != 0 {
			t.Errorf("%d statements are prepared", n)
		}
	})
}

// TestRunner_connection looks at the connection after every way that a flight can end: it must be idle.
func TestRunner_connection(t *testing.T) {
	t.Parallel()
	refused := errors.New("refused")
	failing := func(sql string) Job {
		return Job{Settings: Settings{SearchPath: "public"}, Statement: sqlgen.Statement{SQL: sql}}
	}
	held := func(j Job, err error) Job {
		j.Decide = func(Row) error { return err }
		return j
	}
	badZone := answering("x")
	badZone.Settings.Timezone = "Mars/Olympus"
	rollback := answering("x")
	rollback.Rollback = true
	hook := answering("x")
	hook.PreRequest = "select 1/0"
	for _, c := range []struct {
		name    string
		job     Job
		outcome string
	}{
		{"success", answering("x"), ""},
		{"rollback", rollback, ""},
		{"held back, then committed", held(answering("x"), nil), ""},
		{"held back, then refused", held(answering("x"), refused), RolledBack},
		{"the statement fails", failing("select 1/0"), RolledBack},
		{"the statement fails to parse", failing("selct"), RolledBack},
		{"the statement fails in its second row", failing("select 1/(2-n) from generate_series(1,2) n"), RolledBack},
		{"held back, and the statement fails", held(failing("select 1/0"), nil), RolledBack},
		{"the settings fail", badZone, RolledBack},
		{"the hook fails", hook, RolledBack},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := pgtest.DB(t).Conn(t)
			r := New(one{conn}, false)
			for range 3 { // unnamed, prepared, named
				_, err := r.Run(context.Background(), c.job)
				var f *Failure
				switch {
				case c.outcome == "" && err != nil:
					t.Fatal(err)
				case c.outcome != "" && (!errors.As(err, &f) || f.Outcome() != c.outcome):
					t.Fatalf("got %v, want the outcome %s", err, c.outcome)
				}
				if status := conn.PgConn().TxStatus(); status != 'I' {
					t.Fatalf("the connection is left in status %q", status)
				}
				if row, err := r.Run(context.Background(), answering("after")); err != nil || string(row[sqlgen.Body]) != "after" {
					t.Fatalf("afterwards: %v", err)
				}
			}
		})
	}
	t.Run("nothing is sent for a client that is gone", func(t *testing.T) {
		t.Parallel()
		conn := pgtest.DB(t).Conn(t)
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		_, err := New(one{conn}, false).Run(ctx, answering("x"))
		var f *Failure
		if !errors.As(err, &f) || f.Outcome() != NotStarted || conn.IsClosed() {
			t.Errorf("got %v, closed %v", err, conn.IsClosed())
		}
	})
}

// TestFlight_result holds on to the tag: a COMMIT of a failed transaction succeeds, and says ROLLBACK.
func TestFlight_result(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, tag, outcome string
		rollback           bool
	}{
		{"committed", "COMMIT", "", false},
		{"rolled back against our will", "ROLLBACK", RolledBack, false},
		{"rolled back as wanted", "ROLLBACK", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := (&flight{row: &Row{}, tag: c.tag}).result(nil, Job{Rollback: c.rollback})
			var f *Failure
			if (err != nil) != (c.outcome != "") || errors.As(err, &f) && f.Outcome() != c.outcome {
				t.Errorf("got %v", err)
			}
		})
	}
}

// The settings are one expression that must not stop before its end.
func TestSettings_are_all_set(t *testing.T) {
	t.Parallel()
	conn := pgtest.DB(t).Conn(t)
	for _, r := range []*Runner{New(one{conn}, false), New(conn, false)} {
		for _, name := range []string{"search_path", "request.jwt.claims", "request.method", "request.path", "request.headers", "request.cookies", "timezone"} {
			job := Job{
				ReadOnly: true, Settings: Settings{SearchPath: "set", Method: "set", Path: "set", Claims: []byte("set"), Headers: []byte("set"), Timezone: "Asia/Tokyo"},
				Statement: sqlgen.Statement{SQL: "select coalesce(current_setting($1, true), 'not there')", Args: [][]byte{[]byte(name)}},
			}
			row, err := r.Run(t.Context(), job)
			want := map[string]string{"timezone": "Asia/Tokyo", "request.cookies": ""}
			expected, other := want[name]
			if !other {
				expected = "set"
			}
			if err != nil || string(row[0]) != expected {
				t.Errorf("%s is %q, %v", name, row[0], err)
			}
		}
	}
}
