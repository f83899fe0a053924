// Package driver puts golang-migrate's core onto a bare connection, with the ledger written in the migration's own transaction.
package driver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/migrations/internal/lint"
)

// Options are what a Driver is made of besides its connection.
type Options struct {
	Key              int64    // of the advisory lock
	Ledgers          []string // schema.table; the last one is that of the application's own set
	LockWait         time.Duration
	LockTimeout      time.Duration
	StatementTimeout time.Duration
	// Apart sends each statement as a message of its own, in a transaction of ours. On Citus, where most DDL fails in a message of several
	// statements, it is so whatever stands here.
	Apart bool
}

// Step is one file as the driver needs it.
type Step struct {
	Version       int64
	Name          string
	SHA256        string
	Chain         string
	NoTransaction bool
	Timeout       time.Duration // statement_timeout; zero means that of the Options
	Epilogue      []string      // statements behind the body, in its transaction: may refuse what the body left behind
	RowhouseBuild string
	Rollout       string
	Kind          string // how the row came to be: "" is apply
	By, Reason    string // who marked it, and why
}

// Row is one row of a ledger.
type Row struct {
	Version int64
	Name    string
	SHA256  string
	Chain   string
	State   string
}

// Driver satisfies golang-migrate's database.Driver for one run on one connection. It is made by Up, used by one goroutine at a time,
// and never registered: there is no URL that opens it.
type Driver struct {
	ctx  context.Context // of the run: golang-migrate knows no contexts
	conn *pgx.Conn
	opts Options

	locked int     // how many times Lock was called without its Unlock
	keys   []int64 // held while locked
	last   []Row   // per ledger the last row; Version 0 means empty
	active int     // the ledger that golang-migrate sees
	step   Step    // what the next Run applies
	stock  bool    // golang-migrate's own table is there
}

var _ database.Driver = (*Driver)(nil)

// ErrRefused is what golang-migrate's core gets when it asks for something that this driver never does.
var ErrRefused = errors.New("refused by rowhouse's driver")

// New makes a Driver for one run. The caller keeps the connection and closes it.
func New(ctx context.Context, conn *pgx.Conn, opts Options) *Driver {
	return &Driver{ctx: ctx, conn: conn, opts: opts, last: make([]Row, len(opts.Ledgers))}
}

// Use chooses the ledger that golang-migrate sees from here on.
func (d *Driver) Use(ledger int) { d.active = ledger }

// Next announces the file that the next Run applies.
func (d *Driver) Next(step Step) { d.step = step }

// Last is the last row of a ledger, as read under the lock and kept up to date by Run. A zero Row means that nothing was applied.
func (d *Driver) Last(ledger int) Row { return d.last[ledger] }

// Open is refused: a driver belongs to one run.
func (d *Driver) Open(string) (database.Driver, error) { return nil, ErrRefused }

// Drop is refused: nobody empties a database through its migrator.
func (d *Driver) Drop() error { return ErrRefused }

// Close does nothing: the connection is the caller's.
func (d *Driver) Close() error { return nil }

// Version answers from what Lock read.
func (d *Driver) Version() (int, bool, error) {
	row := d.last[d.active]
	if row.Version == 0 {
		return database.NilVersion, false, nil
	}
	return int(row.Version), row.State != stateApplied, nil
}

// SetVersion is called around Run, and has nothing to do: Run writes the ledger. It refuses to go down, whatever the core asks.
func (d *Driver) SetVersion(version int, _ bool) error {
	if int64(version) < d.last[d.active].Version {
		return fmt.Errorf("version %d is below the current %d: %w", version, d.last[d.active].Version, ErrRefused)
	}
	if int64(version) != d.step.Version {
		return fmt.Errorf("version %d was not announced: %w", version, ErrRefused)
	}
	return nil
}

// Run applies the announced file. It reads the whole body before anything else: the core writes it from a goroutine that ends only
// when somebody has read.
func (d *Driver) Run(body io.Reader) error {
	text, err := io.ReadAll(body)
	if err != nil {
		return fmt.Errorf("read migration %d: %w", d.step.Version, err)
	}
	switch {
	case d.step.NoTransaction:
		return d.runAlone(string(text))
	case d.opts.Apart:
		err = d.runApart(string(text))
	default:
		err = d.runTogether(string(text))
	}
	var split *SplitError
	if errors.As(err, &split) {
		err = errors.Join(err, d.mark(stateFailed)) // a part stands: nobody may take the file for applied, or for not begun
	}
	return err
}

// runTogether sends body and ledger row as one message: one implicit transaction, so that either both stand or neither.
// The reset comes before the row, so that the row is written as the owner whatever the body set.
func (d *Driver) runTogether(body string) error {
	head := d.settings(d.opts.LockTimeout)
	var msg strings.Builder
	msg.WriteString(head)
	msg.WriteString(body)
	msg.WriteString("\n;\n") // the body may end in a comment
	msg.WriteString("reset all; reset role;\n")
	for _, sql := range d.step.Epilogue {
		msg.WriteString(sql + ";\n")
	}
	msg.WriteString(insertRow(d.opts.Ledgers[d.active], d.step, stateApplied))
	tags, err := d.exec(msg.String())
	if err != nil {
		return failed(err, len(tags)-2, len(head), body)
	}
	if err := d.whole(tags); err != nil {
		return err
	}
	d.last[d.active] = d.step.row(stateApplied)
	return nil
}

// whole refuses the tags of statements that end a transaction or begin one.
func (d *Driver) whole(tags []string) error {
	for _, tag := range tags {
		if tag == "BEGIN" || tag == "COMMIT" || tag == "ROLLBACK" {
			return &SplitError{Version: d.step.Version, Tag: tag}
		}
	}
	return nil
}

// runApart does what runTogether does, each statement in a message of its own and the transaction around them ours.
func (d *Driver) runApart(body string) (err error) {
	statements, err := lint.Split(body)
	if err != nil {
		return fmt.Errorf("migration %d: %w", d.step.Version, err)
	}
	if _, err := d.exec("begin"); err != nil {
		return err
	}
	defer func() {
		if err != nil && !d.conn.IsClosed() {
			err = errors.Join(err, d.rollback()) // before the lock is given back: an aborted transaction could not
		}
	}()
	for _, sql := range strings.Split(strings.TrimSuffix(d.settings(d.opts.LockTimeout), ";\n"), ";") {
		if _, err := d.exec(sql); err != nil {
			return err
		}
	}
	for i, s := range statements {
		tags, err := d.exec(body[s.Pos:s.End])
		if err != nil {
			err = failed(err, i, 0, body[s.Pos:s.End])
			var f *Failure
			if errors.As(err, &f) && f.Offset >= 0 {
				f.Offset += s.Pos
			}
			return err
		}
		if err := d.whole(tags); err != nil {
			return err
		}
	}
	rest := append([]string{"reset all", "reset role"}, d.step.Epilogue...)
	rest = append(rest, insertRow(d.opts.Ledgers[d.active], d.step, stateApplied), "commit")
	for _, sql := range rest {
		if _, err := d.exec(sql); err != nil {
			return failed(err, len(statements), 0, "")
		}
	}
	d.last[d.active] = d.step.row(stateApplied)
	return nil
}

// rollback ends a failed transaction, also when the run's context has ended.
func (d *Driver) rollback() error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(d.ctx), 5*time.Second)
	defer cancel()
	_, err := d.conn.PgConn().Exec(ctx, "rollback").ReadAll()
	return err
}

// runAlone sends a statement that cannot run in a transaction. Its ledger row is written first, in state running, so that a broken run
// can be seen. There is no lock_timeout: CONCURRENTLY blocks nobody while it waits, and a time-out would only leave an invalid index.
func (d *Driver) runAlone(body string) error {
	if err := d.mark(stateRunning); err != nil {
		return err
	}
	if _, err := d.exec(d.settings(0)); err != nil {
		return err
	}
	tags, err := d.exec(body)
	if err != nil {
		err = failed(err, len(tags), 0, body)
	}
	if d.conn.IsClosed() {
		return err
	}
	_, resetErr := d.exec("reset all; reset role")
	switch {
	case err != nil:
		return errors.Join(err, resetErr, d.mark(stateFailed))
	case resetErr != nil:
		return resetErr
	}
	return d.mark(stateApplied)
}

// MarkApplied writes that the announced file, broken off earlier, has had its effect after all.
func (d *Driver) MarkApplied() error { return d.mark(stateApplied) }

// Forget takes the last row of the ledger in use away: the file that broke off has had no effect.
func (d *Driver) Forget() error {
	ledger := d.opts.Ledgers[d.active]
	_, err := d.exec(fmt.Sprintf("delete from %s where version = %d and state <> 'applied'", ledger, d.last[d.active].Version))
	if err != nil {
		return fmt.Errorf("ledger row of %d: %w", d.last[d.active].Version, err)
	}
	return d.ReadLast()
}

// InvalidIndexes lists the indexes of a name that a broken build left behind, as DROP INDEX takes them.
func (d *Driver) InvalidIndexes(name string) ([]string, error) {
	if name == "" {
		return nil, nil
	}
	results, err := d.query(`select format('%I.%I', n.nspname, c.relname)
from pg_catalog.pg_index i
join pg_catalog.pg_class c on c.oid = i.indexrelid
join pg_catalog.pg_namespace n on n.oid = c.relnamespace
where not i.indisvalid and c.relname = ` + literal(name))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, row := range results[0] {
		names = append(names, row[0])
	}
	return names, nil
}

// Ask runs a query and says whether its first column is true.
func (d *Driver) Ask(query string) (bool, error) {
	results, err := d.query(query)
	if err != nil {
		return false, err
	}
	if len(results) == 0 || len(results[0]) == 0 || len(results[0][0]) == 0 {
		return false, nil
	}
	return results[0][0][0] == "t", nil
}

// DropInvalidIndex drops an index that a broken CREATE INDEX CONCURRENTLY left behind. An index that is whole stays.
func (d *Driver) DropInvalidIndex(name string) error {
	names, err := d.InvalidIndexes(name)
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := d.exec("drop index " + n); err != nil {
			return err
		}
	}
	return nil
}

// settings are put before each body rather than once on the connection, because a RESET ALL in between would take them away.
func (d *Driver) settings(lock time.Duration) string {
	statement := d.opts.StatementTimeout
	if d.step.Timeout > 0 {
		statement = d.step.Timeout
	}
	return fmt.Sprintf("set lock_timeout = %d; set statement_timeout = %d;\n", lock.Milliseconds(), statement.Milliseconds())
}

// mark writes the row of a file without a transaction.
func (d *Driver) mark(state string) error {
	_, err := d.exec(upsertRow(d.opts.Ledgers[d.active], d.step, state))
	if err != nil {
		return fmt.Errorf("ledger row of %d: %w", d.step.Version, err)
	}
	d.last[d.active] = d.step.row(state)
	return nil
}

// exec sends one message of the simple protocol and returns the command tags of what was done before an error, if there was one.
func (d *Driver) exec(sql string) ([]string, error) {
	results := d.conn.PgConn().Exec(d.ctx, sql)
	var tags []string
	for results.NextResult() {
		tag, err := results.ResultReader().Close()
		if err != nil {
			break
		}
		tags = append(tags, tag.String())
	}
	return tags, results.Close()
}

func (s Step) row(state string) Row {
	return Row{Version: s.Version, Name: s.Name, SHA256: s.SHA256, Chain: s.Chain, State: state}
}

// Failure is a statement of a body that the server refused.
type Failure struct {
	Err       *pgconn.PgError
	Statement int // index of the statement in the body; beyond the last one when what follows the body failed
	Offset    int // byte offset in the body, or -1
}

func (f *Failure) Error() string { return f.Err.Message }
func (f *Failure) Unwrap() error { return f.Err }

// failed tells where in the body an error arose. The server counts characters of the whole message, from 1; the head is ASCII.
func failed(err error, statement, head int, body string) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	f := &Failure{Err: pg, Statement: statement, Offset: -1}
	at := int(pg.Position) - 1 - head
	for offset := range body {
		if at == 0 && pg.Position > 0 {
			f.Offset = offset
		}
		at--
	}
	return f
}

// SplitError is a body that ended the transaction it was sent in: the ledger's word is no longer the whole truth.
type SplitError struct {
	Version int64
	Tag     string
}

func (e *SplitError) Error() string {
	return fmt.Sprintf("migration %d ended its own transaction (%s)", e.Version, e.Tag)
}
