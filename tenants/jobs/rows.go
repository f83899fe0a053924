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

// onRows connects to a database so that all rows of a tenant can be seen: as the provisioner where no policy binds it, else as
// the owner, who sees them under rowhouse.tenant_id as long as the application has no policies of its own.
func (r *Runner) onRows(ctx context.Context, db *catalog.Database, fn func(conn *pgx.Conn) error) error {
	conn, err := r.connect(ctx, db.Server, db.Name)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	var exempt bool
	if err := conn.QueryRow(ctx, `select rolsuper or rolbypassrls from pg_roles where rolname = current_user`).Scan(&exempt); err != nil {
		return fmt.Errorf("provisioner: %w", err)
	}
	if exempt {
		return fn(conn)
	}
	return r.asOwner(ctx, db, fn)
}

// untriggered keeps the application's triggers from firing, where that is ours to say: all rows of the tenant go, and what a
// trigger does must not be done with a provisioner's rights. Elsewhere they fire as for anybody.
func untriggered(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.Exec(ctx, "set session_replication_role = 'replica'")
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "42501" {
		_, err = conn.Exec(ctx, "set search_path = public, extensions, pg_temp")
	}
	if err != nil {
		return fmt.Errorf("triggers: %w", err)
	}
	return nil
}

// seesRows refuses a session that the application's own policies hide rows from: what it counts would not be all.
func seesRows(ctx context.Context, conn *pgx.Conn) error {
	var table, policy string
	err := conn.QueryRow(ctx, `
		select t.relation::text, p.polname::text
		  from rowhouse.tables t join pg_policy p on p.polrelid = t.relation and p.polname not in ('rh_tenant', 'rh_all')
		 where t.kind in ('bind', 'bind_optional')
		   and not (select rolsuper or rolbypassrls from pg_roles where rolname = current_user)
		 order by 1, 2 limit 1`).Scan(&table, &policy)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("policies: %w", err)
	}
	return permanently("policy %q of table %s binds the owner too; give the server's provisioner BYPASSRLS", policy, table)
}

// emptyTenant deletes all rows of a tenant, and its gate. It answers how many rows of each table it deleted.
func emptyTenant(ctx context.Context, conn *pgx.Conn, tenant catalog.TenantID) (map[string]int64, error) {
	deleted, err := emptyTables(ctx, conn, tenant)
	if err != nil {
		return nil, err
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

// emptyTables deletes all rows of a tenant. Rows that others refer to come in a later round, and so do those that triggers
// add; the last round finds none.
func emptyTables(ctx context.Context, conn *pgx.Conn, tenant catalog.TenantID) (map[string]int64, error) {
	if err := seesRows(ctx, conn); err != nil {
		return nil, err
	}
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
			return deleted, nil
		}
	}
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
