package pgtest

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/keeper"
)

// Database is a database that belongs to one test.
type Database struct {
	cluster *keeper.Cluster
	name    string
}

// Option says what a new database is like.
type Option func(*options)

type options struct{ template *template }

// DB makes a database and drops it when t has ended, whoever is still connected. Without options it is empty.
func DB(t testing.TB, opts ...Option) *Database {
	t.Helper()
	d := &Database{cluster: cluster(t), name: "t_" + randomHex(8)}
	var o options
	for _, opt := range opts {
		opt(&o)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	source := "template1"
	if o.template != nil {
		var err error
		if source, err = o.template.ensure(ctx, d.cluster); err != nil {
			t.Fatalf("pgtest: template: %v", err)
		}
	}
	cleanup(t, "drop database", d.drop)
	if err := onServer(ctx, d.cluster, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		return execAll(ctx, conn, createDatabase(d.name, source))
	}); err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return d
}

// createDatabase copies files: with fsync off that is faster than writing the copy to the log.
func createDatabase(name, source string) string {
	return fmt.Sprintf("create database %s template %s strategy file_copy", quote(name), quote(source))
}

// Name is the database's name.
func (d *Database) Name() string { return d.name }

// DSN is the database's connection string as superuser, over the socket, without a password.
func (d *Database) DSN() string { return d.cluster.DSN(d.name) }

// DSNAs is the database's connection string as another role, which needs its password.
func (d *Database) DSNAs(role, password string) string {
	return d.cluster.DSNAs(role, password, d.name)
}

// Conn connects as superuser. The connection is closed when t has ended.
func (d *Database) Conn(t testing.TB) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), d.DSN())
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	cleanup(t, "close connection", conn.Close)
	return conn
}

// Pool makes a pool of superuser's connections. It is closed when t has ended; a test that has not given a connection
// back by then fails.
func (d *Database) Pool(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), d.DSN())
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	cleanup(t, "close pool", func(context.Context) error {
		closed := make(chan struct{})
		go func() { pool.Close(); close(closed) }()
		select {
		case <-closed:
			return nil
		case <-time.After(10 * time.Second):
			return fmt.Errorf("%d connections were never given back", pool.Stat().AcquiredConns())
		}
	})
	return pool
}

// drop drops the database. FORCE ends sessions, but neither logical slots nor subscriptions: they go first.
func (d *Database) drop(ctx context.Context) error {
	return onServer(ctx, d.cluster, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		var replicates bool
		if err := conn.QueryRow(ctx, `
			select exists (select from pg_replication_slots where database = $1)
			    or exists (select from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = $1)`,
			d.name).Scan(&replicates); err != nil {
			return err
		}
		if replicates {
			if err := onServer(ctx, d.cluster, d.name, endReplication); err != nil {
				return err
			}
		}
		return execAll(ctx, conn, "drop database if exists "+quote(d.name)+" with (force)")
	})
}

// endReplication drops the subscriptions and logical slots of the database that conn is connected to. A subscription's
// slot is left to the database that has it, because that one may be gone already.
func endReplication(ctx context.Context, conn *pgx.Conn) error {
	names, err := column(ctx, conn, `
		select s.subname from pg_subscription s join pg_database d on d.oid = s.subdbid where d.datname = current_database()`)
	if err != nil {
		return err
	}
	for _, name := range names {
		if err := dropSubscription(ctx, conn, name); err != nil {
			return err
		}
	}
	slots, err := column(ctx, conn, "select slot_name from pg_replication_slots where database = current_database()")
	if err != nil {
		return err
	}
	for _, slot := range slots {
		if err := dropSlot(ctx, conn, slot); err != nil {
			return err
		}
	}
	return nil
}

// dropSubscription waits for the subscription's workers before it drops. DROP SUBSCRIPTION alone can wait for ever: a
// table's first copy makes a slot, that waits for all running transactions, and the dropping one waits for the slot.
func dropSubscription(ctx context.Context, conn *pgx.Conn, name string) error {
	alter := "alter subscription " + quote(name)
	if err := execAll(ctx, conn, alter+" disable", alter+" set (slot_name = none)"); err != nil {
		return err
	}
	for {
		busy, err := column(ctx, conn, `
			select 'worker ' || w.pid from pg_stat_subscription w where w.subname = $1 and w.pid is not null
			union all
			select 'copy ' || pg_terminate_backend(c.active_pid)
			from pg_replication_slots c
			join pg_subscription s on starts_with(c.slot_name, format('pg_%s_sync_', s.oid))
			where s.subname = $1 and c.active_pid is not null`, name)
		if err != nil {
			return err
		}
		if len(busy) == 0 {
			return execAll(ctx, conn, "drop subscription "+quote(name))
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("subscription %s has %v: %w", name, busy, err)
		}
	}
}

// dropSlot ends whoever uses the slot, which takes a moment, and drops it.
func dropSlot(ctx context.Context, conn *pgx.Conn, slot string) error {
	for {
		if _, err := conn.Exec(ctx, "select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1", slot); err != nil {
			return err
		}
		_, err := conn.Exec(ctx, "select pg_drop_replication_slot(slot_name) from pg_replication_slots where slot_name = $1", slot)
		if !isState(err, "55006") { // object_in_use
			return err
		}
		if err := pause(ctx); err != nil {
			return fmt.Errorf("slot %s is in use: %w", slot, err)
		}
	}
}

// pause is the time between two looks at something that the server ends in its own time.
func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * time.Millisecond):
		return nil
	}
}

func column(ctx context.Context, conn *pgx.Conn, sql string, args ...any) ([]string, error) {
	rows, err := conn.Query(ctx, sql, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
