package migrations

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/migrations/internal/driver"
	"github.com/rowhouse/rowhouse/migrations/internal/lint"
)

var (
	// ErrPooled is a connection that goes through a pooler, where the migration lock would not hold.
	ErrPooled = driver.ErrPooled
	// ErrSettings is a connection that ConnConfig has not prepared.
	ErrSettings = driver.ErrSettings
	// ErrLockLost is a lock that was gone before it was given back.
	ErrLockLost = driver.ErrLockLost
)

// Error is a file that a database refused. Nothing of it was applied, unless it is a NoTransaction file.
type Error struct {
	Target   string
	File     string // as File.String gives it
	Line     int    // counted from 1; 0 means unknown, or behind the file's last statement
	SQLState string
	Message  string // the server's, without SQL
	Detail   string // the server's, may hold values of rows
	hint     string
	cause    error
}

func (e *Error) Error() string {
	place := e.File
	if e.Line > 0 {
		place = fmt.Sprintf("%s:%d", place, e.Line)
	}
	return fmt.Sprintf("%s: %s: %s (%s)", e.Target, place, e.Message, e.SQLState)
}

// Unwrap is the server's *pgconn.PgError.
func (e *Error) Unwrap() error { return e.cause }

// Hint is what the server, or our own functions in the database, advise.
func (e *Error) Hint() string { return e.hint }

// LockError is a database whose migration lock somebody else held for too long.
type LockError struct {
	Target string
	PID    int    // of the holder's backend; 0 means that it left meanwhile
	Role   string // the holder's login
	Waited time.Duration
}

func (e *LockError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("%s: migration lock not got within %s", e.Target, e.Waited.Round(time.Millisecond))
	}
	return fmt.Sprintf("%s: migration lock not got within %s: held by backend %d of role %s", e.Target, e.Waited.Round(time.Millisecond), e.PID, e.Role)
}

// The ways in which a database's history can differ from a set.
const (
	Changed        = "changed"         // a file was edited after it was applied
	OutOfOrder     = "out_of_order"    // a file was added below the last one applied
	UnknownVersion = "unknown_version" // the database is ahead of the set, or has applied a file that the set does not hold
)

// HistoryError is a database whose ledger and the set tell different stories. Nothing was run.
type HistoryError struct {
	Target   string
	Kind     string // Changed, OutOfOrder or UnknownVersion
	File     string // the first file that differs, as File.String gives it
	Baseline bool   // rowhouse's own files, not the application's
}

func (e *HistoryError) Error() string {
	what := map[string]string{
		Changed:        "was edited after it was applied here",
		OutOfOrder:     "is below the last version applied here and was never applied",
		UnknownVersion: "was applied here and is not in the set",
	}[e.Kind]
	return fmt.Sprintf("%s: %s: %s %s", e.Target, e.Kind, e.File, what)
}

// Hint says what to do about it.
func (e *HistoryError) Hint() string {
	switch e.Kind {
	case Changed:
		return "restore the released file and put the change into a new one"
	case OutOfOrder:
		return "give the file a number above all released ones"
	default:
		return "this set is too old for the database"
	}
}

// DirtyError is a database in which a file broke off and nothing says whether its effect is there.
type DirtyError struct {
	Target  string
	Version int64
	Name    string
	State   string // of the ledger row: "running" or "failed"
	cause   error
}

func (e *DirtyError) Error() string {
	text := fmt.Sprintf("%s: %06d_%s broke off and needs repair", e.Target, e.Version, e.Name)
	if e.cause != nil {
		text += ": " + e.cause.Error()
	}
	return text
}

// Unwrap is why the last attempt failed, or nil.
func (e *DirtyError) Unwrap() error { return e.cause }

// Hint says what to do about it.
func (e *DirtyError) Hint() string {
	return "look whether its effect is there, and mark it applied or not applied; a verify query lets such a file be resumed by itself"
}

// StockError is a tenants' database in which golang-migrate's own command keeps a version, in public.schema_migrations: two ledgers, of which one
// is wrong. Nothing was run.
type StockError struct {
	Target  string
	Version int64 // what its table says; 0 when it is empty
	Dirty   bool
	// Reason is why Repair could not bring the two together; empty from Up.
	Reason string
}

func (e *StockError) Error() string {
	state := ""
	if e.Dirty {
		state = ", dirty"
	}
	text := fmt.Sprintf("%s: golang-migrate's own table stands here, at version %d%s", e.Target, e.Version, state)
	if e.Reason != "" {
		text += ": " + e.Reason
	}
	return text
}

// Hint says what to do about it.
func (e *StockError) Hint() string {
	if e.Reason == "" {
		return "repair compares the schema with that of the set's versions and takes the table over where it finds which one it is"
	}
	return "bring the schema to that of a version of the set by hand, then repair again"
}

// explain turns what the driver reports about a file into our own error.
func explain(target string, f File, err error) error {
	var failure *driver.Failure
	var busy *driver.BusyError
	switch {
	case errors.As(err, &failure):
		return &Error{
			Target: target, File: f.String(), Line: lineOf(f.Up, failure), SQLState: failure.Err.Code,
			Message: failure.Err.Message, Detail: failure.Err.Detail, hint: advice(failure.Err), cause: failure.Err,
		}
	case errors.As(err, &busy):
		return &LockError{Target: target, PID: busy.PID, Role: busy.Role, Waited: busy.Waited}
	case f.Version > 0:
		return fmt.Errorf("%s: %s: %w", target, f, err)
	}
	return fmt.Errorf("%s: %w", target, err)
}

// advice is the server's hint, or ours where its error has a meaning of its own on bound tables.
func advice(err *pgconn.PgError) string {
	const noSuchKey = "42830"
	if err.Code == noSuchKey && err.Hint == "" {
		return "the keys of a bound table lead with tenant_id: bind the new table first, then add " +
			"foreign key (tenant_id, project_id) references projects (tenant_id, id)"
	}
	return err.Hint
}

// lineOf finds the line of a failure: where the server points, or else where the failing statement begins.
func lineOf(text string, failure *driver.Failure) int {
	if failure.Offset >= 0 {
		return lint.Line(text, failure.Offset)
	}
	statements, err := lint.Split(text)
	if err != nil || failure.Statement < 0 || failure.Statement >= len(statements) {
		return 0
	}
	return lint.Line(text, statements[failure.Statement].Pos)
}

// SQLState is the SQLSTATE in an error's chain, or "".
func SQLState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return strings.ToUpper(pg.Code)
	}
	return ""
}
