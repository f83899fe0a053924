package driver_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations/internal/driver"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func connect(t *testing.T, dsn string) *pgx.Conn {
	t.Helper()
	config, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	config.RuntimeParams["row_security"] = "off"
	conn, err := pgx.ConnectConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Close(ctx)
	})
	return conn
}

func options() driver.Options {
	return driver.Options{Key: 1, Ledgers: []string{"l.first", "l.second"}, LockTimeout: time.Second, StatementTimeout: time.Minute}
}

func step(version int64) driver.Step {
	return driver.Step{Version: version, Name: "x", SHA256: "s", Chain: "c"}
}

func TestDriver(t *testing.T) {
	t.Parallel()
	for name, apart := range map[string]bool{"together": false, "apart": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts := options()
			opts.Apart = apart
			testDriver(t, opts)
		})
	}
}

func testDriver(t *testing.T, opts driver.Options) {
	conn := connect(t, pgtest.DB(t).DSN())
	d := driver.New(t.Context(), conn, opts)
	if err := d.Lock(); err != nil {
		t.Fatal(err)
	}
	d.Use(1)

	t.Run("an empty ledger is no version", func(t *testing.T) {
		if v, dirty, err := d.Version(); v != -1 || dirty || err != nil {
			t.Errorf("%d, %v, %v", v, dirty, err)
		}
	})
	t.Run("body and row go together, into the ledger in use", func(t *testing.T) {
		d.Next(step(5))
		if err := errors.Join(d.SetVersion(5, true), d.Run(strings.NewReader("create table a ()")), d.SetVersion(5, false)); err != nil {
			t.Fatal(err)
		}
		if d.Last(0) != (driver.Row{}) || d.Last(1).Version != 5 {
			t.Errorf("%v, %v", d.Last(0), d.Last(1))
		}
	})
	t.Run("a version below the current is refused", func(t *testing.T) {
		d.Next(step(4))
		if err := d.SetVersion(4, true); !errors.Is(err, driver.ErrRefused) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a version that was not announced is refused", func(t *testing.T) {
		if err := d.SetVersion(9, true); !errors.Is(err, driver.ErrRefused) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a version applied before rolls its body back", func(t *testing.T) {
		d.Next(step(5))
		err := d.Run(strings.NewReader("create table again ()"))
		var failure *driver.Failure
		if !errors.As(err, &failure) || failure.Err.Code != "23505" || failure.Statement < 1 {
			t.Errorf("%v", err)
		}
		var there bool
		if err := conn.QueryRow(t.Context(), "select to_regclass('again') is not null").Scan(&there); err != nil || there {
			t.Errorf("table there: %v, %v", there, err)
		}
	})
	t.Run("a body that ends the transaction is found out", func(t *testing.T) {
		d.Next(step(6))
		err := d.Run(strings.NewReader("create table b (); commit; create table c ()"))
		var split *driver.SplitError
		if !errors.As(err, &split) || split.Tag != "COMMIT" {
			t.Errorf("%v", err)
		}
		if err := d.ReadLast(); err != nil || d.Last(1).Version != 6 || d.Last(1).State != "failed" {
			t.Errorf("a part of it stands, and the ledger says %+v, %v", d.Last(1), err)
		}
	})
	t.Run("what never happens here", func(t *testing.T) {
		if _, err := d.Open(""); !errors.Is(err, driver.ErrRefused) {
			t.Errorf("open: %v", err)
		}
		if err := d.Drop(); !errors.Is(err, driver.ErrRefused) {
			t.Errorf("drop: %v", err)
		}
		if err := d.Close(); err != nil || conn.IsClosed() {
			t.Errorf("close: %v, the caller's connection is closed: %v", err, conn.IsClosed())
		}
	})
	t.Run("the lock counts, and losing it is an error", func(t *testing.T) {
		if err := errors.Join(d.Lock(), d.Unlock()); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "select pg_advisory_unlock_all()"); err != nil {
			t.Fatal(err)
		}
		if err := d.Unlock(); !errors.Is(err, driver.ErrLockLost) {
			t.Errorf("%v", err)
		}
	})
}

func TestDriver_LockKeepsNothingWhenItFails(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	first, second := connect(t, db.DSN()), connect(t, db.DSN())
	one := driver.New(t.Context(), first, options())
	if err := one.Lock(); err != nil {
		t.Fatal(err)
	}
	other := options()
	other.Key = 2 // another key, so that only stock's are in the way
	two := driver.New(t.Context(), second, other)
	var busy *driver.BusyError
	if err := two.Lock(); !errors.As(err, &busy) {
		t.Fatalf("%v", err)
	}
	var held int
	if err := second.QueryRow(t.Context(), "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()").Scan(&held); err != nil || held != 0 {
		t.Errorf("%d locks kept, %v", held, err)
	}
	if err := one.Unlock(); err != nil {
		t.Fatal(err)
	}
	if err := two.Lock(); err != nil {
		t.Errorf("%v", err)
	}
}
