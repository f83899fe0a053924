package pgtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/keeper"
)

// Template makes a new database a copy of one that build has filled. It is built once for all test processes, so key
// must tell everything that makes it: hash the files that build applies, name the versions of libraries that create
// tables. build gets a superuser's connection to an empty database.
func Template(key string, build func(ctx context.Context, conn *pgx.Conn) error) Option {
	return func(o *options) { o.template = &template{key: key, build: build} }
}

type template struct {
	key   string
	build func(context.Context, *pgx.Conn) error
}

// ready holds the names of templates that this process has seen whole. They stay until the server ends.
var ready sync.Map

// ensure returns the name of the template's database, building it when no process has done so yet.
func (tm *template) ensure(ctx context.Context, c *keeper.Cluster) (string, error) {
	sum := sha256.Sum256([]byte(tm.key))
	hash := hex.EncodeToString(sum[:12])
	name := "tmpl_" + hash
	if _, ok := ready.Load(name); ok {
		return name, nil
	}
	err := onServer(ctx, c, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		// Advisory locks belong to a database: all take it in this one. It ends with the connection.
		if _, err := conn.Exec(ctx, "select pg_advisory_lock(hashtextextended($1, 0))", name); err != nil {
			return err
		}
		var whole bool
		if err := conn.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", name).Scan(&whole); err != nil || whole {
			return err
		}
		return tm.buildAs(ctx, c, conn, name, "half_"+hash)
	})
	if err != nil {
		return "", fmt.Errorf("%s: %w", tm.key, err)
	}
	ready.Store(name, nil)
	return name, nil
}

// buildAs builds under a temporary name, so that a process which is killed leaves nothing that looks like a template.
// What such a process left is dropped: under the lock nobody else is building.
func (tm *template) buildAs(ctx context.Context, c *keeper.Cluster, server *pgx.Conn, name, half string) error {
	if err := dropHalf(ctx, server, half); err != nil {
		return err
	}
	if err := execAll(ctx, server, createDatabase(half, "template1")); err != nil {
		return err
	}
	if err := onServer(ctx, c, half, tm.build); err != nil {
		return fmt.Errorf("build: %w", err)
	}
	// The renaming is last: a database of that name is a whole template.
	return execAll(ctx, server,
		"alter database "+quote(half)+" with is_template true allow_connections false",
		"select pg_terminate_backend(pid) from pg_stat_activity where datname = '"+half+"'",
		"alter database "+quote(half)+" rename to "+quote(name))
}

func dropHalf(ctx context.Context, server *pgx.Conn, half string) error {
	var left bool
	if err := server.QueryRow(ctx, "select exists (select from pg_database where datname = $1)", half).Scan(&left); err != nil || !left {
		return err
	}
	return execAll(ctx, server,
		"alter database "+quote(half)+" with is_template false",
		"drop database "+quote(half)+" with (force)")
}
