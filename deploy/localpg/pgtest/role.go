package pgtest

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/keeper"
)

// fixedRoles are the roles that every tenant database of ours has.
var fixedRoles = []string{"anon", "authenticated", "service_role"}

// makeFixedRoles is called under the harness's lock.
func makeFixedRoles(ctx context.Context, conn *pgx.Conn) error {
	for _, role := range fixedRoles {
		var exists bool
		if err := conn.QueryRow(ctx, "select exists (select from pg_roles where rolname = $1)", role).Scan(&exists); err != nil {
			return err
		}
		if exists {
			continue
		}
		if err := execAll(ctx, conn, "create role "+quote(role)+" nologin"); err != nil {
			return err
		}
	}
	return nil
}

// rolesLock is the advisory lock under which roles are made and dropped: PostgreSQL fails with "tuple concurrently
// updated" where it could wait.
const rolesLock = 7263615

// Role makes a role with the given attributes ("LOGIN NOINHERIT") and a password, both of them random. When t has
// ended, what the role owns or was granted is dropped in every database, and then the role.
func Role(t testing.TB, attributes string) (name, password string) {
	t.Helper()
	c := cluster(t)
	name, password = "r_"+randomHex(8), randomHex(16)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cleanup(t, "drop role", func(ctx context.Context) error { return dropRole(ctx, c, name) })
	if err := underRolesLock(ctx, c, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, fmt.Sprintf("create role %s with %s password '%s'", quote(name), attributes, password))
		return err
	}); err != nil {
		t.Fatalf("pgtest: create role with %s: %v", attributes, err)
	}
	return name, password
}

func underRolesLock(ctx context.Context, c *keeper.Cluster, f func(context.Context, *pgx.Conn) error) error {
	return onServer(ctx, c, "postgres", func(ctx context.Context, conn *pgx.Conn) error {
		if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", rolesLock); err != nil {
			return err
		}
		return f(ctx, conn) // the lock ends with the connection
	})
}

// dropRole ends the role's sessions and drops it with all that depends on it. Other tests' databases come and go
// meanwhile, so what fails is tried again a few times.
func dropRole(ctx context.Context, c *keeper.Cluster, name string) error {
	var err error
	for range 5 {
		err = underRolesLock(ctx, c, func(ctx context.Context, conn *pgx.Conn) error { return dropRoleOnce(ctx, c, conn, name) })
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
	return err
}

func dropRoleOnce(ctx context.Context, c *keeper.Cluster, server *pgx.Conn, name string) error {
	if _, err := server.Exec(ctx, "select pg_terminate_backend(pid) from pg_stat_activity where usename = $1", name); err != nil {
		return err
	}
	databases, err := column(ctx, server, `
		select distinct d.datname
		from pg_shdepend s join pg_database d on d.oid = s.dbid join pg_roles r on r.oid = s.refobjid
		where s.refclassid = 'pg_authid'::regclass and r.rolname = $1 and d.datallowconn`, name)
	if err != nil {
		return err
	}
	dropOwned := "drop owned by " + quote(name) + " cascade"
	for _, database := range databases {
		err := onServer(ctx, c, database, func(ctx context.Context, conn *pgx.Conn) error { return execAll(ctx, conn, dropOwned) })
		if err != nil && !isState(err, "3D000") { // invalid_catalog_name: its own test has dropped it
			return err
		}
	}
	var exists bool
	if err := server.QueryRow(ctx, "select exists (select from pg_roles where rolname = $1)", name).Scan(&exists); err != nil || !exists {
		return err
	}
	// Databases are not "owned" in that sense; they and grants on them are shared objects.
	return execAll(ctx, server, "reassign owned by "+quote(name)+" to rowhouse", dropOwned, "drop role "+quote(name))
}

func isState(err error, state string) bool {
	pgErr, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pgErr.Code == state
}
