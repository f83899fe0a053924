package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// portable are rowhouse's own tables that an export holds. All others, those to come too, are about sessions and requests
// that mean nothing elsewhere, and may hold secrets.
var portable = []string{"users", "roles", "user_roles", "permissions", "settings", "audit"}

// credentialColumns are left out of an export unless they are asked for.
var credentialColumns = []string{"rowhouse.users.password_hash"}

// pinText makes values print the same on every server.
const pinText = `set local datestyle = 'ISO, YMD'; set local timezone = 'UTC'; set local intervalstyle = 'postgres';
	set local bytea_output = 'hex'; set local extra_float_digits = 1; set local xmloption = 'content'`

// Export writes a tenant's rows as they are at one moment, while it is served. One is made at a time on each server.
func (r *Runner) Export(ctx context.Context, t *catalog.Tenant, spec tenants.ExportSpec, w io.Writer) error {
	db, err := r.catalog.Database(ctx, t.Database)
	if err != nil {
		return err
	}
	if db.Adopted {
		return catalog.Invalid("tenant %q lives in an adopted database, whose tables are not bound to tenants; use pg_dump", t.Name)
	}
	h, err := r.hostOf(ctx, db.Server, lockKey(r.catalog.ID(), "exports of server "+db.Server.String()))
	var wait *waitError
	if errors.As(err, &wait) {
		return fmt.Errorf("another export is being made on the tenant's server: %w", catalog.ErrConflict)
	}
	if err != nil {
		return err
	}
	defer r.giveBack(h)
	return r.onRows(ctx, db, func(conn *pgx.Conn) error {
		if err := seesRows(ctx, conn); err != nil {
			return err
		}
		return pgx.BeginTxFunc(ctx, conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
			return r.export(ctx, tx, t, db, spec, w)
		})
	})
}

func (r *Runner) export(ctx context.Context, tx pgx.Tx, t *catalog.Tenant, db *catalog.Database, spec tenants.ExportSpec, w io.Writer) error {
	schema, err := r.holdSchema(ctx, tx, db)
	if err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "set local rowhouse.tenant_id = '"+t.ID.String()+"'; "+pinText, pgx.QueryExecModeSimpleProtocol); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	var home bool
	err = tx.QueryRow(ctx, `select not exists (select from rowhouse.gate where tenant_id = $1 and state in ('moved', 'incoming'))`, t.ID).Scan(&home)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	if !home {
		return fmt.Errorf("tenant %q has just been moved: %w", t.Name, catalog.ErrConflict)
	}
	tables, err := exportedTables(ctx, tx, spec.WithCredentials)
	if err != nil {
		return err
	}
	settings := map[string]json.RawMessage{}
	for key, value := range t.Settings {
		if tenants.Portable(key) {
			settings[key] = value
		}
	}
	a := newArchiveWriter(w, Manifest{
		CreatedAt: time.Now().UTC().Truncate(time.Second), Catalog: r.catalog.ID(), Schema: schema, Settings: settings, Credentials: spec.WithCredentials,
		Tenant: ManifestTenant{t.ID, t.Name, db.Kind, t.Edition},
	})
	for _, table := range tables {
		if table.Rows, table.Sum, err = sumOf(ctx, tx, table, t.ID); err != nil {
			return err
		}
		sql := fmt.Sprintf("copy (select %s from %s where tenant_id = '%s') to stdout", identList(table.Columns), table.ident(), t.ID)
		if err := a.add(table, func(w io.Writer) error {
			tag, err := tx.Conn().PgConn().CopyTo(ctx, w, sql)
			if err == nil && tag.RowsAffected() != table.Rows {
				err = fmt.Errorf("%d rows were counted and %d copied", table.Rows, tag.RowsAffected())
			}
			return err
		}); err != nil {
			return fmt.Errorf("export of table %s: %w", table.ident(), err)
		}
	}
	if err := a.close(); err != nil {
		return fmt.Errorf("export: %w", err)
	}
	return nil
}

// holdSchema keeps the tables as they are until the transaction ends, before it has its snapshot: a table that was rewritten
// later would look empty in it. It answers which schema that is.
func (r *Runner) holdSchema(ctx context.Context, tx pgx.Tx, db *catalog.Database) (ManifestSchema, error) {
	var names []string
	if err := r.asOwner(ctx, db, func(conn *pgx.Conn) error {
		tables, err := boundTables(ctx, conn)
		for _, t := range tables {
			names = append(names, t.Name)
		}
		return err
	}); err != nil {
		return ManifestSchema{}, err
	}
	if _, err := tx.Exec(ctx, "lock table "+strings.Join(names, ", ")+" in access share mode", pgx.QueryExecModeSimpleProtocol); err != nil {
		return ManifestSchema{}, fmt.Errorf("export: the schema is being changed: %w", err)
	}
	set, err := r.born(ctx)
	if err != nil {
		return ManifestSchema{}, err
	}
	v, err := set.Version(ctx, r.targetOf(db))
	if err != nil {
		return ManifestSchema{}, fmt.Errorf("export: %w", err)
	}
	return ManifestSchema{Version: v.Number, Chain: v.Chain}, nil
}

func (t ManifestTable) ident() string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// exportedTables are the tables of an export with the columns that it holds: not tenant_id, which says itself, and nothing
// that is computed.
func exportedTables(ctx context.Context, tx pgx.Tx, credentials bool) ([]ManifestTable, error) {
	left := credentialColumns
	if credentials {
		left = []string{}
	}
	rows, err := tx.Query(ctx, `
		select n.nspname::text, c.relname::text,
		       array(select a.attname::text from pg_attribute a
		              where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' and a.attname <> 'tenant_id'
		                and format('%s.%s.%s', n.nspname, c.relname, a.attname) <> all ($2) order by a.attnum)
		  from rowhouse.tables t join pg_class c on c.oid = t.relation join pg_namespace n on n.oid = c.relnamespace
		 where t.kind in ('bind', 'bind_optional') and (n.nspname <> 'rowhouse' or c.relname = any ($1))
		 order by 1, 2`, portable, left)
	if err != nil {
		return nil, fmt.Errorf("tables of tenants: %w", err)
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (t ManifestTable, err error) {
		err = row.Scan(&t.Schema, &t.Name, &t.Columns)
		return t, err
	})
}

// sumOf counts a tenant's rows of a table and sums their values up, whatever their order.
func sumOf(ctx context.Context, tx pgx.Tx, t ManifestTable, tenant catalog.TenantID) (rows int64, sum string, err error) {
	err = tx.QueryRow(ctx, fmt.Sprintf(`
		select count(*), coalesce(sum(hashtextextended(row(%s)::text, 0)), 0)::text from %s where tenant_id = $1`,
		identList(t.Columns), t.ident()), tenant).Scan(&rows, &sum)
	if err != nil {
		return 0, "", fmt.Errorf("sum of table %s: %w", t.ident(), err)
	}
	return rows, sum, nil
}

// exported keeps what the tenant has before it is put away. What an earlier attempt wrote is written anew: nobody can have
// changed it.
func (d *deletion) exported(ctx context.Context) error {
	if err := d.CanKeep(); err != nil {
		return err
	}
	name := fmt.Sprintf("%s-%s.zip", d.tenant.Name, d.op.ID)
	if err := d.keepExport(name, func(w io.Writer) error {
		return d.Export(ctx, d.tenant, tenants.ExportSpec{WithCredentials: true}, w)
	}); err != nil {
		return err
	}
	return d.update(ctx, "tenant.exported", d.tenant.Ref(), map[string]any{"file": name}, func(*catalog.Tx) error { return nil })
}
