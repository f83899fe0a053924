// Package exec runs one statement in one transaction, in one round trip where the connection's owner allows it.
//
// It alone knows whether bytes of a transaction were sent, and so what became of one that failed.
package exec

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// Beginner begins transactions; rest.Beginner says more.
type Beginner interface {
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// Lender lends connections; rest.Lender says more.
type Lender interface {
	Lend(ctx context.Context, o pgx.TxOptions, fn func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error) error
}

// A Job is a statement with all that its transaction needs.
type Job struct {
	ReadOnly   bool
	Settings   Settings
	Limits     Limits
	PreRequest string // statement to run before the main one; "" is none
	Statement  sqlgen.Statement
	Expected   *sqlgen.Statement // runs after it; its answer becomes the row's Planned
	Lines      bool              // the statement answers lines of text, which become the row's Body
	Scope      string            // what besides its text makes a prepared statement another one: role and schema
	Rollback   bool              // end with ROLLBACK whatever happens
	Dirty      bool              // the job runs functions that may leave something in the session
	// Decide looks at the row while COMMIT is held back; its error rolls back. Nil: COMMIT goes out with the
	// statement.
	Decide func(Row) error
	// Waited grows by how long a connection was waited for. Nil: nobody asks.
	Waited *time.Duration
	// Keep keeps the answer with the data: COMMIT is held back for it. Nil: it is not kept.
	Keep *Keep
}

func (j Job) waited(since time.Time) {
	if j.Waited != nil {
		*j.Waited += time.Since(since)
	}
}

// Settings are transaction-local. All are written for every job, empty ones too: a value that a function left in
// the session must not show.
type Settings struct {
	SearchPath, Method, Path string
	Claims, Headers, Cookies []byte // JSON
	Timezone                 string // "" is the session's own
}

// given is b as a parameter that is not NULL.
func given(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

// Limits are what a function asks for the transaction that it is called in.
type Limits struct {
	Timeout   time.Duration // of each statement, unless less is allowed anyway; zero asks for nothing
	CostLimit string
	Isolation pgx.TxIsoLevel
}

const (
	setTimeout = `select set_config('statement_timeout', $1, true) from pg_settings
		where name = 'statement_timeout' and (setting = '0' or setting::bigint > $2::bigint)`
	setCostLimit = `select set_config('plan_filter.statement_cost_limit', $1, true)`
)

func (l Limits) statements() []sqlgen.Statement {
	var list []sqlgen.Statement
	if l.Timeout > 0 {
		ms := strconv.AppendInt(nil, max(l.Timeout.Milliseconds(), 1), 10)
		list = append(list, sqlgen.Statement{SQL: setTimeout, Args: [][]byte{ms, ms}})
	}
	if l.CostLimit != "" {
		list = append(list, sqlgen.Statement{SQL: setCostLimit, Args: [][]byte{[]byte(l.CostLimit)}})
	}
	return list
}

const (
	// None of them is ever null, so all of them are set, and one column comes back instead of every value.
	setSettings = `select set_config('search_path', $1, true) is null or set_config('request.jwt.claims', $2, true) is null or ` +
		`set_config('request.method', $3, true) is null or set_config('request.path', $4, true) is null or ` +
		`set_config('request.headers', $5, true) is null or set_config('request.cookies', $6, true) is null or ` +
		`set_config('response.headers', '', true) is null or set_config('response.status', '', true) is null or set_config('rest.inserted', '', true) is null`
	setSettingsAndZone = setSettings + ` or set_config('timezone', $7, true) is null`
	resetZone          = `set local timezone to default`
	checkConstraints   = `set constraints all immediate`
)

func (s Settings) statements() []sqlgen.Statement {
	args := [][]byte{[]byte(s.SearchPath), given(s.Claims), []byte(s.Method), []byte(s.Path), given(s.Headers), given(s.Cookies)}
	if s.Timezone == "" {
		return []sqlgen.Statement{{SQL: setSettings, Args: args}, {SQL: resetZone}}
	}
	return []sqlgen.Statement{{SQL: setSettingsAndZone, Args: append(args, []byte(s.Timezone))}}
}

// A Row is the one row that a statement answers, in the columns of sqlgen.
type Row [sqlgen.Columns][]byte

// The outcomes of a failed transaction.
const (
	NotStarted = "not_started"
	RolledBack = "rolled_back"
	Unknown    = "unknown"
	Committed  = "committed"
)

// A Failure is a transaction that failed, with what became of it.
type Failure struct {
	Cause    error
	ReadOnly bool // the transaction was to be
	Overdue  bool // the deadline had passed
	outcome  string
	stale    bool // a prepared statement was out of date
}

func (f *Failure) Error() string { return f.Cause.Error() }
func (f *Failure) Unwrap() error { return f.Cause }

// Outcome is not_started, rolled_back or unknown.
func (f *Failure) Outcome() string { return f.outcome }

// A Runner runs jobs.
type Runner struct {
	beginner Beginner
	lender   Lender // nil: transactions are begun, and statements go one by one
	unnamed  bool
}

// New makes a runner over b. If b is also a Lender, jobs take one round trip. Unnamed keeps it from preparing
// statements on connections.
func New(b Beginner, unnamed bool) *Runner {
	lender, _ := b.(Lender)
	return &Runner{beginner: b, lender: lender, unnamed: unnamed}
}

// writeLimit ends a write that outlives its client and has no deadline of its own.
const writeLimit = 2 * time.Minute

// maxTries bounds how often a transaction is run that the engine refused for another one's sake.
const maxTries = 3

// Run runs a job to its end. A client that hangs up ends a read; a write goes on, since killing it would only
// turn a known outcome into an unknown one.
func (r *Runner) Run(ctx context.Context, job Job) (Row, error) {
	if !job.ReadOnly {
		deadline, ok := ctx.Deadline()
		if !ok {
			deadline = time.Now().Add(writeLimit)
		}
		detached, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
		defer cancel()
		ctx = detached
	}
	for try := 1; ; try++ {
		row, err := r.once(ctx, job)
		var f *Failure
		if errors.As(err, &f) {
			f.Overdue = errors.Is(ctx.Err(), context.DeadlineExceeded)
		}
		if err == nil || ctx.Err() != nil || !again(err, job, try) {
			return row, err
		}
	}
}

func (r *Runner) once(ctx context.Context, job Job) (row Row, err error) {
	opts := pgx.TxOptions{AccessMode: pgx.ReadWrite, IsoLevel: job.Limits.Isolation}
	if job.ReadOnly {
		opts.AccessMode = pgx.ReadOnly
	}
	if r.lender == nil {
		return r.stepwise(ctx, opts, job)
	}
	waiting := time.Now()
	err = r.lender.Lend(ctx, opts, func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error {
		job.waited(waiting)
		var err error
		row, err = r.fly(ctx, conn, open, job)
		if job.Dirty || fromFunction(err) {
			soil(conn)
		}
		return err
	})
	return row, err
}

// dirtyKey is what the owner of a connection finds in its CustomData, as true, when the session has to be cleaned
// before anybody else has it; rest.Lender says more.
const dirtyKey = "rowhouse.dirty"

func soil(conn *pgx.Conn) {
	if conn != nil {
		conn.PgConn().CustomData()[dirtyKey] = true
	}
}

// fromFunction says whether an error came up inside a function: locks of the session outlive the rollback.
func fromFunction(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Where != ""
}

// again says whether a failed job is run once more: a stale plan once, a lost connection once for reads, what the
// engine refused for another transaction's sake a few times. SafeToRetry has no say (it is wrong).
func again(err error, job Job, try int) bool {
	var f *Failure
	if !errors.As(err, &f) || f.outcome == NotStarted { // not started is the lender's to retry
		return false
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		var decided interface{ Decided() }
		return job.ReadOnly && try == 1 && f.outcome != Unknown && !errors.As(err, &decided)
	}
	switch {
	case f.outcome != RolledBack:
		return false
	case f.stale:
		return try == 1
	case pg.Code == "40001" || pg.Code == "40P01":
		return EngineRaised(pg) && try < maxTries
	case strings.HasPrefix(pg.Code, "57P0") || strings.HasPrefix(pg.Code, "08"):
		return job.ReadOnly && try == 1
	}
	return false
}

// EngineRaised tells an error of the engine's own from one that a function raised with the same code.
func EngineRaised(pg *pgconn.PgError) bool { return pg.Routine != "exec_stmt_raise" }

// stale recognises the errors of a prepared statement whose time is over.
func stale(pg *pgconn.PgError) bool {
	switch pg.Code {
	case "0A000":
		return pg.Routine == "RevalidateCachedQuery"
	case "26000", "08P01":
		return true
	}
	return false
}

// decided marks the error of a Decide.
type decided struct{ error }

func (d decided) Unwrap() error { return d.error }
func (decided) Decided()        {}

// failed gives err its outcome. sent: bytes went out; commit: COMMIT was among them.
func failed(err error, job Job, sent, commit bool) *Failure {
	f := &Failure{Cause: err, ReadOnly: job.ReadOnly, outcome: Unknown}
	var pg *pgconn.PgError
	switch {
	case !sent:
		f.outcome = NotStarted
	case job.ReadOnly || job.Rollback || !commit:
		f.outcome = RolledBack // nothing that could stay was asked for
	case errors.As(err, &pg) && pg.Severity == "ERROR":
		f.outcome = RolledBack
	}
	return f
}

var errNoRow = errors.New("a statement answered no row")

// stepwise runs a job over a plain transaction, statement by statement.
func (r *Runner) stepwise(ctx context.Context, opts pgx.TxOptions, job Job) (_ Row, err error) {
	waiting := time.Now()
	tx, err := r.beginner.BeginTx(ctx, opts)
	job.waited(waiting)
	if err != nil {
		return Row{}, err // as it is: the beginner's to explain
	}
	defer func() { // a no-op once it ended
		if fromFunction(err) {
			soil(tx.Conn())
		}
		_ = tx.Rollback(context.WithoutCancel(ctx))
	}()
	if job.Dirty { // before the end: with it the connection is given back
		soil(tx.Conn())
	}
	before := append(job.Settings.statements(), job.Limits.statements()...)
	if job.PreRequest != "" {
		before = append(before, sqlgen.Statement{SQL: job.PreRequest})
	}
	for _, s := range before {
		if _, err := query(ctx, tx, s, false); err != nil {
			return Row{}, failed(err, job, true, false)
		}
	}
	if job.Keep != nil {
		if err := job.Keep.claim(ctx, tx); err != nil {
			return Row{}, failed(err, job, true, false)
		}
		if job.Keep.Found != nil {
			return Row{}, nil
		}
	}
	row, err := query(ctx, tx, job.Statement, job.Lines)
	if err == nil && row == nil {
		err = errNoRow
	}
	if err == nil && job.Expected != nil {
		var expected *Row
		if expected, err = query(ctx, tx, *job.Expected, false); err == nil && expected != nil {
			row[sqlgen.Planned] = expected[0]
		}
	}
	if err == nil && job.Decide != nil {
		if err = job.Decide(*row); err != nil {
			err = decided{err}
		}
	}
	if err == nil && job.Keep != nil {
		err = job.Keep.keep(ctx, tx, *row)
	}
	if err == nil && job.Rollback {
		_, err = query(ctx, tx, sqlgen.Statement{SQL: checkConstraints}, false)
	}
	if err != nil {
		return Row{}, failed(err, job, true, false)
	}
	if job.Rollback {
		if err := tx.Rollback(ctx); err != nil {
			return Row{}, failed(err, job, true, false)
		}
		return *row, nil
	}
	err = tx.Commit(ctx)
	switch {
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return Row{}, failed(err, job, true, false)
	case err != nil:
		return Row{}, failed(err, job, true, true)
	}
	return *row, nil
}

// query runs a statement with text parameters of no type and gives its first row, nil without one; or all of its
// lines as the Body of one row.
func query(ctx context.Context, tx pgx.Tx, s sqlgen.Statement, lines bool) (*Row, error) {
	args := make([]any, 0, len(s.Args)+1)
	args = append(args, pgx.QueryExecModeExec)
	for _, a := range s.Args {
		if a == nil {
			args = append(args, nil)
		} else {
			args = append(args, string(a))
		}
	}
	rows, err := tx.Query(ctx, s.SQL, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var row *Row
	for rows.Next() {
		row = take(row, rows.RawValues(), lines)
		if !lines {
			break
		}
	}
	rows.Close()
	return row, rows.Err()
}

// take takes a row: the first, or one more line of a text.
func take(row *Row, values [][]byte, line bool) *Row {
	switch {
	case row == nil:
		row = &Row{}
	case line:
		row[sqlgen.Body] = append(row[sqlgen.Body], '\n')
	}
	if line {
		row[sqlgen.Body] = append(row[sqlgen.Body], values[0]...)
	} else {
		copyRow(row, values)
	}
	return row
}

// copyRow takes the values out of the connection's buffer.
func copyRow(row *Row, values [][]byte) {
	for i := 0; i < len(values) && i < len(row); i++ {
		if values[i] != nil {
			row[i] = append(make([]byte, 0, len(values[i])), values[i]...)
		}
	}
}

// errRolledBack is a commit whose tag was ROLLBACK though no statement had failed.
var errRolledBack = fmt.Errorf("commit answered with rollback: %w", pgx.ErrTxCommitRollback)
