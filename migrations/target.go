package migrations

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
)

// Target is one database to bring to a version.
type Target struct {
	// Name stands in results, events and errors. It is not used to reach the database.
	Name string
	// Key is the advisory lock's key. Whoever migrates this database must use the same one; an HMAC of the database's id is hard to
	// guess for a neighbour who would like to stall us.
	Key int64
	// Connect opens a direct connection, not one through a pooler, made from a config that ConnConfig has prepared. Up closes it.
	Connect func(context.Context) (*pgx.Conn, error)
}

// Result is what became of one target.
type Result struct {
	Target   string
	From, To Version
	Applied  []Applied // nil when the database was current
	Duration time.Duration
	Err      error // what Up returned
}

// Applied is one file that a run applied.
type Applied struct {
	Version  int64
	Name     string
	Baseline bool // rowhouse's own file, not the application's
	Duration time.Duration
}

// Version is how far a database has come, or how far a set leads. The zero Version means that nothing was applied.
type Version struct {
	Number int64
	// Chain is a hash over everything applied up to here, rowhouse's baseline included: two databases of one chain have one history.
	Chain string
}

// ConnConfig prepares a config for a migrator's connection. Owner is the role that shall own what migrations make; empty means the
// login itself, as in the catalog.
//
// They are start-up parameters because that is what RESET returns to: whatever one file sets, the next begins from here.
func ConnConfig(config *pgx.ConnConfig, owner string) {
	p := config.RuntimeParams
	if p == nil {
		p = map[string]string{}
		config.RuntimeParams = p
	}
	if owner != "" {
		p["role"] = owner
	}
	// Under FORCE the owner sees no rows. With row_security on, an update changes nothing and a foreign key is called valid though
	// it is violated; with off both are errors.
	p["row_security"] = "off"
	// The check of a function in SQL that reads a bound table would be such an error. In tenants' databases it is made up for at the end
	// of the file (rowhouse.check_functions).
	p["check_function_bodies"] = "off"
	p["standard_conforming_strings"] = "on"
	p["lock_timeout"] = "2s"
	p["statement_timeout"] = "5min"
	p["idle_in_transaction_session_timeout"] = "30s"
	// The backend of a migrator that died must not go on and commit minutes later.
	p["client_connection_check_interval"] = "1s"
	// pg_temp last, or a temporary table could stand in for a real one. pg_catalog stays implicit: named first, it would be where
	// tables are made.
	p["search_path"] = "public, extensions, pg_temp"
	p["application_name"] = "rowhouse-migrate"
	// A cancelled context cancels the statement and leaves the connection usable, so that the lock is given back.
	config.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 5 * time.Second}
	}
}
