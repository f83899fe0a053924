package driver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4/database"
)

// BusyError says who holds the lock that Lock waited for.
type BusyError struct {
	PID    int // of the holder's backend; 0 when it left meanwhile
	Role   string
	Waited time.Duration
}

func (e *BusyError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("lock not got within %s", e.Waited)
	}
	return fmt.Sprintf("lock not got within %s: held by backend %d of role %s", e.Waited, e.PID, e.Role)
}

var (
	// ErrPooled is a connection that goes through a pooler: session locks do not survive there.
	ErrPooled = errors.New("connection is pooled: a migrator needs a direct one")
	// ErrSettings is a connection whose start-up parameters would make migrations lie.
	ErrSettings = errors.New("connection lacks the migrator's start-up parameters (migrations.ConnConfig)")
	// ErrLockLost is a lock that was gone when it was given back: the session was lost, or somebody ended it.
	ErrLockLost = errors.New("lock was lost before it was given back")
)

// Lock takes the database's migration lock and reads the ledgers behind it. It counts: within a lock of ours golang-migrate's own
// calls cost nothing.
//
// It polls. A blocked pg_advisory_lock holds a snapshot, on which the holder's CREATE INDEX CONCURRENTLY waits in turn.
// Both keys of stock golang-migrate are taken too, so that it cannot work on the same database meanwhile; its two entry points use
// different ones.
func (d *Driver) Lock() error {
	if d.locked > 0 {
		d.locked++
		return nil
	}
	keys, err := d.lockKeys()
	if err != nil {
		return err
	}
	began := time.Now()
	for {
		missing, err := d.tryLock(keys)
		if err == nil {
			d.locked, d.keys = 1, keys
			return d.create(missing)
		}
		if !errors.Is(err, database.ErrLocked) {
			return err
		}
		pause := 50*time.Millisecond + rand.N(450*time.Millisecond)
		if time.Since(began)+pause > d.opts.LockWait {
			return d.busy(keys, time.Since(began))
		}
		select {
		case <-d.ctx.Done():
			return d.ctx.Err()
		case <-time.After(pause):
		}
	}
}

// lockKeys are our own key and those of stock golang-migrate for its default table.
func (d *Driver) lockKeys() ([]int64, error) {
	name := d.conn.Config().Database
	if name == "" {
		name = d.conn.Config().User
	}
	keys := []int64{d.opts.Key}
	for _, stock := range []string{name, "/" + name} {
		id, err := database.GenerateAdvisoryLockId(stock, "public", "schema_migrations")
		if err != nil {
			return nil, err
		}
		key, err := strconv.ParseInt(id, 10, 64)
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return keys, nil
}

// tryLock is one message: the locks, then the ledgers. They are statements of their own because a statement's snapshot is older than
// the lock it takes: read in one, the version may be stale. A missing ledger fails the message, and the locks stay.
func (d *Driver) tryLock(keys []int64) (missing []int, err error) {
	columns := []string{
		"pg_backend_pid()", "current_setting('row_security')", "current_setting('standard_conforming_strings')",
		citusLoaded, stockNamed,
	}
	for _, k := range keys {
		columns = append(columns, fmt.Sprintf("pg_try_advisory_lock(%d)", k))
	}
	sql := []string{"select " + strings.Join(columns, ", ")}
	for _, l := range d.opts.Ledgers {
		sql = append(sql, selectLast(l))
	}
	results, err := d.query(strings.Join(sql, ";"))
	if len(results) == 0 {
		return nil, fmt.Errorf("take migration lock: %w", err)
	}
	got := results[0][0]
	if held := got[5:]; strings.Join(held, "") != strings.Repeat("t", len(keys)) {
		return nil, errors.Join(database.ErrLocked, d.release(keys, held))
	}
	switch {
	case got[0] != strconv.FormatUint(uint64(d.conn.PgConn().PID()), 10):
		return nil, errors.Join(ErrPooled, d.release(keys, got[5:]))
	case got[1] != "off" || got[2] != "on":
		return nil, errors.Join(ErrSettings, d.release(keys, got[5:]))
	}
	if missing, err = d.ledgersRead(results[1:], err); err != nil {
		return nil, err
	}
	return missing, d.lookCloser(got[3] == "t", got[4] == "t")
}

// What the lock's message asks must cost next to nothing: a new connection knows none of the system's tables yet, and reading
// one for the first time takes as long as a small migration.
const (
	citusLoaded = "current_setting('citus.shard_count', true) is not null"
	stockNamed  = "to_regclass('" + StockTable + "') is not null"
)

// lookCloser asks for certain what the lock's message found possible.
func (d *Driver) lookCloser(citus, stock bool) error {
	var err error
	if citus && !d.opts.Apart {
		d.opts.Apart, err = d.Ask("select exists (select from pg_catalog.pg_extension where extname = 'citus')")
	}
	if d.stock = false; stock && err == nil {
		d.stock, err = d.Ask("select " + stockThere)
	}
	if err != nil {
		return fmt.Errorf("take migration lock: %w", err)
	}
	return nil
}

// ledgersRead takes over what the lock's message answered of the ledgers, and reads on behind one that is missing.
func (d *Driver) ledgersRead(answers [][][]string, cause error) (missing []int, err error) {
	if err := d.setLast(0, answers); err != nil || cause == nil {
		return nil, err
	}
	if !isMissing(cause) {
		return nil, fmt.Errorf("read ledgers: %w", cause)
	}
	return d.readLast(len(answers))
}

// create makes the ledgers that are missing.
func (d *Driver) create(missing []int) error {
	if len(missing) == 0 {
		return nil
	}
	var sql []string
	for _, i := range missing {
		sql = append(sql, createLedger(d.opts.Ledgers[i]))
	}
	if _, err := d.exec(strings.Join(sql, "\n")); err != nil {
		return fmt.Errorf("create ledger %s: %w", d.opts.Ledgers[missing[0]], err)
	}
	return nil
}

// Unlock gives the lock back when the outermost holder does.
func (d *Driver) Unlock() error {
	switch {
	case d.locked == 0:
		return database.ErrNotLocked
	case d.locked > 1:
		d.locked--
		return nil
	}
	d.locked = 0
	if d.conn.IsClosed() {
		return ErrLockLost
	}
	return d.release(d.keys, []string{"t", "t", "t"})
}

// release gives back the keys that were got, and insists that they were still ours.
func (d *Driver) release(keys []int64, got []string) error {
	var columns []string
	for i, k := range keys {
		if got[i] == "t" {
			columns = append(columns, fmt.Sprintf("pg_advisory_unlock(%d)", k))
		}
	}
	if len(columns) == 0 {
		return nil
	}
	results, err := d.query("select " + strings.Join(columns, ", "))
	if err != nil {
		return fmt.Errorf("give migration lock back: %w", err)
	}
	for _, answer := range results[0][0] {
		if answer != "t" {
			return ErrLockLost
		}
	}
	return nil
}

// busy finds who holds one of the keys.
func (d *Driver) busy(keys []int64, waited time.Duration) error {
	var in []string
	for _, k := range keys {
		in = append(in, strconv.FormatInt(k, 10))
	}
	results, err := d.query(`select l.pid, coalesce(a.usename, '?')
from pg_locks l left join pg_stat_activity a using (pid)
where l.locktype = 'advisory' and l.granted and l.objsubid = 1
  and l.database = (select oid from pg_database where datname = current_database())
  and (l.classid::bigint << 32 | l.objid::bigint) in (` + strings.Join(in, ", ") + `) limit 1`)
	if err != nil {
		return fmt.Errorf("find the lock's holder: %w", err)
	}
	e := &BusyError{Waited: waited}
	if len(results[0]) > 0 {
		e.PID, _ = strconv.Atoi(results[0][0][0])
		e.Role = results[0][0][1]
	}
	return e
}
