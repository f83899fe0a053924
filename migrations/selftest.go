package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// LeakError is a table that showed rows to somebody who must see none.
type LeakError struct {
	Role   string
	Tables []string
	Tenant string // "" without a tenant, or one that nobody is
}

func (e *LeakError) Error() string {
	who := "without a tenant"
	if e.Tenant != "" {
		who = "as a tenant that nobody is"
	}
	return fmt.Sprintf("role %s %s sees rows of %s", e.Role, who, strings.Join(e.Tables, ", "))
}

// nobody is a tenant id that is never given out: it is no UUIDv7.
const nobody = "00000000-0000-4000-8000-000000000000"

// SelfTest proves the fence by looking: as the data login, in each of the request roles, without a tenant and as one that nobody is,
// every bound table must show no row. That a policy exists would prove nothing. It also refuses a login that row-level security does
// not bind. It reads only, and leaves the connection as it was.
//
// The errors are a *LeakError, or what the database said.
func SelfTest(ctx context.Context, conn *pgx.Conn, roles []string) error {
	for _, role := range roles {
		for _, tenant := range []string{"", nobody} {
			if err := lookAs(ctx, conn, role, tenant); err != nil {
				return err
			}
		}
	}
	return nil
}

func lookAs(ctx context.Context, conn *pgx.Conn, role, tenant string) error {
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	defer tx.Rollback(context.WithoutCancel(ctx)) // a transaction that only reads has nothing to commit
	for _, sql := range []string{"set local rowhouse.tenant_id = '" + tenant + "'", "set local role " + pgx.Identifier{role}.Sanitize()} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return fmt.Errorf("self-test as %s: %w", role, err)
		}
	}
	var exempt bool
	err = tx.QueryRow(ctx, `
		select bool_or(rolsuper or rolbypassrls)
		from pg_catalog.pg_roles
		where rolname in (current_user, session_user)`).Scan(&exempt)
	if err != nil {
		return fmt.Errorf("self-test as %s: %w", role, err)
	}
	if exempt {
		return errors.New("self-test: the login or role " + role + " is exempt from row-level security")
	}
	tables, err := readableTables(ctx, tx)
	if err != nil {
		return fmt.Errorf("self-test as %s: %w", role, err)
	}
	var queries []string
	for _, t := range tables {
		queries = append(queries, "select "+quoteLiteral(t)+" where exists (select from "+t+")")
	}
	if len(queries) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, strings.Join(queries, " union all "))
	if err != nil {
		return fmt.Errorf("self-test as %s: %w", role, err)
	}
	seen, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("self-test as %s: %w", role, err)
	}
	if len(seen) > 0 {
		return &LeakError{Role: role, Tables: seen, Tenant: tenant}
	}
	return nil
}

// readableTables lists the bound tables, and their partitions, that the current role may read.
func readableTables(ctx context.Context, tx pgx.Tx) ([]string, error) {
	rows, err := tx.Query(ctx, `
		select format('%I.%I', n.nspname, c.relname)
		from rowhouse.tables t
		cross join lateral (select t.relation::oid as relid union select relid from pg_catalog.pg_partition_tree(t.relation)) p
		join pg_catalog.pg_class c on c.oid = p.relid
		join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where t.kind in ('bind', 'bind_optional')
		  and pg_catalog.has_table_privilege(c.oid, 'select')
		  and pg_catalog.has_schema_privilege(n.oid, 'usage')`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// quoteLiteral quotes a name that came from the database.
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
