package migrations

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
//
// It takes two flights whatever the number of roles, because every new tenant waits for it.
func SelfTest(ctx context.Context, conn *pgx.Conn, roles []string) error {
	tables, err := readableTables(ctx, conn, roles)
	if err != nil {
		return err
	}
	var looks []look
	for _, role := range roles {
		if len(tables[role]) == 0 {
			continue
		}
		for _, tenant := range []string{"", nobody} {
			looks = append(looks, look{role, tenant, []string{rowsOf(tables[role])}})
		}
	}
	return fly(ctx, conn, looks, func(l look, _ int, seen []string) error {
		if len(seen) > 0 {
			return &LeakError{Role: l.role, Tables: seen, Tenant: l.tenant}
		}
		return nil
	})
}

// CheckRoles is the part of SelfTest that a clone needs whose template is known: it has no rows to show yet and the template's own
// fence, but a login of its own. That must be able to become each of the roles, and neither may be exempt from row-level security.
func CheckRoles(ctx context.Context, conn *pgx.Conn, roles []string) error {
	looks := make([]look, len(roles))
	for i, role := range roles {
		looks[i] = look{role, "", []string{isExempt}}
	}
	return fly(ctx, conn, looks, func(l look, _ int, found []string) error { return l.bound(found) })
}

const isExempt = `
	select bool_or(rolsuper or rolbypassrls)
	from pg_catalog.pg_roles
	where rolname in (current_user, session_user)`

// bound is the answer to isExempt, as an error.
func (l look) bound(found []string) error {
	if len(found) != 1 || found[0] != "f" {
		return errors.New("self-test: the login or role " + l.role + " is exempt from row-level security")
	}
	return nil
}

// rowsOf is the query for those of the tables that show a row.
func rowsOf(tables []string) string {
	queries := make([]string, len(tables))
	for i, t := range tables {
		queries[i] = "select " + quoteLiteral(t) + " where exists (select from " + t + ")"
	}
	return strings.Join(queries, " union all ")
}

// readableTables lists, for each role, the bound tables and their partitions that it may read. A role that is exempt from
// row-level security is an error.
func readableTables(ctx context.Context, conn *pgx.Conn, roles []string) (map[string][]string, error) {
	looks := make([]look, len(roles))
	for i, role := range roles {
		looks[i] = look{role, "", []string{isExempt, `
			select format('%I.%I', n.nspname, c.relname)
			from rowhouse.tables t
			cross join lateral (select t.relation::oid as relid union select relid from pg_catalog.pg_partition_tree(t.relation)) p
			join pg_catalog.pg_class c on c.oid = p.relid
			join pg_catalog.pg_namespace n on n.oid = c.relnamespace
			where t.kind in ('bind', 'bind_optional')
			  and pg_catalog.has_table_privilege(c.oid, 'select')
			  and pg_catalog.has_schema_privilege(n.oid, 'usage')`}}
	}
	tables := map[string][]string{}
	return tables, fly(ctx, conn, looks, func(l look, query int, found []string) error {
		if query == 0 {
			return l.bound(found)
		}
		tables[l.role] = found
		return nil
	})
}

// look is queries of one column, asked in one transaction as a role and a tenant.
type look struct {
	role, tenant string
	queries      []string
}

// fly asks all looks in one flight and gives each answer to judge, in order. The transactions only read, and are rolled back.
func fly(ctx context.Context, conn *pgx.Conn, looks []look, judge func(l look, query int, found []string) error) error {
	if len(looks) == 0 {
		return nil
	}
	const before = 3 // statements of a look before its queries
	batch := &pgconn.Batch{}
	for _, l := range looks {
		statements := []string{"begin read only", "set local rowhouse.tenant_id = " + quoteLiteral(l.tenant), "set local role " + pgx.Identifier{l.role}.Sanitize()}
		for _, sql := range append(append(statements, l.queries...), "rollback") {
			batch.ExecParams(sql, nil, nil, nil, nil)
		}
	}
	results, err := conn.PgConn().ExecBatch(ctx, batch).ReadAll()
	if err != nil {
		if conn.PgConn().TxStatus() != 'I' && !conn.IsClosed() {
			_, rollback := conn.Exec(ctx, "rollback")
			err = errors.Join(err, rollback)
		}
		return fmt.Errorf("self-test as %s: %w", looks[min(atLook(looks, len(results)), len(looks)-1)].role, err)
	}
	for _, l := range looks {
		for i := range l.queries {
			if err := judge(l, i, firstColumn(results[before+i])); err != nil {
				return err
			}
		}
		results = results[before+len(l.queries)+1:]
	}
	return nil
}

// atLook is the look that the statement after the first n belongs to.
func atLook(looks []look, n int) int {
	for i, l := range looks {
		if n -= len(l.queries) + 4; n <= 0 {
			return i
		}
	}
	return len(looks)
}

func firstColumn(r *pgconn.Result) []string {
	found := make([]string, len(r.Rows))
	for i, row := range r.Rows {
		found[i] = string(row[0])
	}
	return found
}

// quoteLiteral quotes a name that came from the database.
func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
