package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
)

// boundTable is a table that holds rows of tenants.
type boundTable struct {
	Name        string // qualified and quoted
	Partitioned bool
}

// boundTables are those of a database, by name.
func boundTables(ctx context.Context, q interface {
	Query(context.Context, string, ...any) (pgx.Rows, error)
},
) ([]boundTable, error) {
	rows, err := q.Query(ctx, `
		select format('%I.%I', n.nspname, c.relname), c.relkind = 'p'
		  from rowhouse.tables t join pg_class c on c.oid = t.relation join pg_namespace n on n.oid = c.relnamespace
		 where t.kind in ('bind', 'bind_optional') order by 1`)
	if err != nil {
		return nil, fmt.Errorf("tables of tenants: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[boundTable])
}

// How rows are deleted: so few at a time that nobody waits for a lock, and with a pause for the neighbours.
const (
	purgeBatch = 2000
	purgePause = 10 * time.Millisecond
)

var pointPurgeBatch = fp.Point("purge.emptied.batch")

// emptyTenant deletes all rows of a tenant, as the owner, whom the policies bind. Rows that others refer to come in a later
// round, and so do those that triggers add; the last round finds none. It answers how many rows of each table it deleted.
func emptyTenant(ctx context.Context, conn *pgx.Conn, tenant catalog.TenantID) (map[string]int64, error) {
	tables, err := boundTables(ctx, conn)
	if err != nil {
		return nil, err
	}
	deleted := map[string]int64{}
	for {
		var round int64
		var held error
		for _, t := range tables {
			n, err := emptyTable(ctx, conn, tenant, t)
			var pg *pgconn.PgError
			switch {
			case errors.As(err, &pg) && pg.Code == "23503": // its referrers come later in this round
				held = err
			case err != nil:
				return nil, err
			}
			round += n
			if n > 0 {
				deleted[t.Name] += n
			}
		}
		if round == 0 && held != nil {
			return nil, fmt.Errorf("rows cannot be deleted: %w", held)
		}
		if round == 0 {
			break
		}
	}
	_, err = conn.Exec(ctx, `
		do $$ begin
			if to_regclass('rowhouse.gate') is not null then
				delete from rowhouse.gate where tenant_id = '`+tenant.String()+`';
			end if;
		end $$`)
	if err != nil {
		return nil, fmt.Errorf("gate: %w", err)
	}
	return deleted, nil
}

// emptyTable deletes a tenant's rows of one table in batches of their own transactions.
func emptyTable(ctx context.Context, conn *pgx.Conn, tenant catalog.TenantID, t boundTable) (int64, error) {
	sql := fmt.Sprintf("delete from %[1]s where ctid = any (array(select ctid from %[1]s where tenant_id = $1 limit %[2]d)) and tenant_id = $1", t.Name, purgeBatch)
	if t.Partitioned { // a ctid is one partition's
		sql = fmt.Sprintf("delete from %[1]s where (tableoid, ctid) in (select tableoid, ctid from %[1]s where tenant_id = $1 limit %[2]d) and tenant_id = $1", t.Name, purgeBatch)
	}
	var total int64
	for {
		var n int64
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "set local rowhouse.tenant_id = '"+tenant.String()+"'"); err != nil {
				return err
			}
			tag, err := tx.Exec(ctx, sql, tenant)
			n = tag.RowsAffected()
			return err
		})
		if err != nil {
			return total, fmt.Errorf("rows of %s: %w", t.Name, err)
		}
		total += n
		if n == 0 {
			return total, nil
		}
		if err := fp.Hit(pointPurgeBatch); err != nil {
			return total, err
		}
		select {
		case <-ctx.Done():
			return total, ctx.Err()
		case <-time.After(purgePause):
		}
	}
}
