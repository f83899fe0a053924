package jobs

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
)

// importation is one attempt at making a tenant of an export: it is made as any other, and its rows are loaded before it is
// looked at and opened.
type importation struct {
	*provision
	args     tenants.ImportArgs
	triggers []trigger // to be switched off by the loading transaction
}

func beginImport(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	i := &importation{}
	if err := json.Unmarshal(op.Args, &i.args); err != nil {
		return nil, permanently("operation %s: arguments cannot be read", op.ID)
	}
	if _, err := os.Stat(i.args.File); errors.Is(err, fs.ErrNotExist) {
		return nil, &waitError{5 * time.Second, fmt.Sprintf("needs %s, which is on host %s", i.args.File, i.args.Host)}
	}
	made, err := beginProvision(ctx, r, op)
	if err != nil {
		return nil, err
	}
	i.provision = made.(*provision)
	return i, nil
}

func (i *importation) steps() map[string]func(context.Context) error {
	steps := i.provision.steps()
	steps["loaded"] = i.loaded
	return steps
}

func (i *importation) close() {
	i.provision.close()
	op, err := i.catalog.Operation(context.Background(), i.op.ID)
	if err == nil && op.State == catalog.OperationDone {
		_ = os.Remove(i.args.File) // it was our copy
	}
}

var pointLoaded = fp.Point("import.loaded.committed")

// loaded loads all rows in one transaction: they are there or they are not. What an attempt left whose answer was lost is
// taken away first.
func (i *importation) loaded(ctx context.Context) error {
	if _, err := i.host(ctx); err != nil { // its lock keeps a successor out
		return err
	}
	e, err := OpenExport(i.args.File)
	if err != nil {
		return err
	}
	defer e.Close()
	if err := i.loading(ctx, func(conn *pgx.Conn) error {
		if _, err := emptyTables(ctx, conn, i.tenant.ID); err != nil {
			return err
		}
		return i.load(ctx, conn, e)
	}); err != nil {
		return err
	}
	return fp.Hit(pointLoaded)
}

// trigger is an application's that fires on insert: it must not do so again for rows that have been through it.
type trigger struct{ Table, Name, Mode string }

func triggersOf(ctx context.Context, conn *pgx.Conn) ([]trigger, error) {
	rows, err := conn.Query(ctx, `
		select format('%I.%I', n.nspname, c.relname), quote_ident(g.tgname), case g.tgenabled when 'A' then 'always' when 'R' then 'replica' else '' end
		  from rowhouse.tables t join pg_class c on c.oid = t.relation join pg_namespace n on n.oid = c.relnamespace
		  join pg_trigger g on g.tgrelid = c.oid and not g.tgisinternal and g.tgenabled <> 'D' and g.tgtype & 4 > 0 -- fires on insert
		 where t.kind in ('bind', 'bind_optional') order by 1, 2`)
	if err != nil {
		return nil, fmt.Errorf("triggers: %w", err)
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[trigger])
}

// loading runs fn on a connection whose inserts fire no trigger of the application. In the tenant's own database they are
// switched off by the loading transaction itself. In a shared one that would keep all tenants from writing: there the session
// must be one that triggers do not fire for, which is a superuser's to say.
func (i *importation) loading(ctx context.Context, fn func(*pgx.Conn) error) error {
	return i.onRows(ctx, i.db, func(conn *pgx.Conn) error {
		var err error
		if i.triggers, err = triggersOf(ctx, conn); err != nil {
			return err
		}
		if i.db.Kind == catalog.Shared && len(i.triggers) > 0 {
			if _, err := conn.Exec(ctx, "set session_replication_role = 'replica'"); err != nil {
				return permanently("trigger %s of table %s would fire for every row, and the provisioner may not prevent it in a shared database; give the server one that is a superuser, or import with --placement dedicated", i.triggers[0].Name, i.triggers[0].Table)
			}
			i.triggers = nil
		}
		return fn(conn)
	})
}

func (i *importation) load(ctx context.Context, conn *pgx.Conn, e *OpenedExport) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "set local rowhouse.tenant_id = '"+i.tenant.ID.String()+"'; "+pinText, pgx.QueryExecModeSimpleProtocol); err != nil {
			return fmt.Errorf("import: %w", err)
		}
		tables, err := inOrder(ctx, tx, e.Tables)
		if err != nil {
			return err
		}
		for _, g := range i.triggers {
			if _, err := tx.Exec(ctx, fmt.Sprintf("alter table %s disable trigger %s", g.Table, g.Name)); err != nil {
				return fmt.Errorf("trigger %s of table %s: %w", g.Name, g.Table, err)
			}
		}
		for n, t := range tables {
			if err := loadTable(ctx, tx, e, t, n); err != nil {
				return fmt.Errorf("import of table %s: %w", t.ident(), err)
			}
		}
		for _, t := range tables {
			if err := i.compare(ctx, tx, t); err != nil {
				return err
			}
		}
		for _, g := range i.triggers {
			if _, err := tx.Exec(ctx, fmt.Sprintf("alter table %s enable %s trigger %s", g.Table, g.Mode, g.Name)); err != nil {
				return fmt.Errorf("trigger %s of table %s: %w", g.Name, g.Table, err)
			}
		}
		return nil
	})
}

// compare insists that a table holds what was exported of it.
func (i *importation) compare(ctx context.Context, tx pgx.Tx, t ManifestTable) error {
	rows, sum, err := sumOf(ctx, tx, t, i.tenant.ID)
	if err != nil {
		return err
	}
	if rows != t.Rows || sum != t.Sum {
		return permanently("import of table %s: %d rows with the sum %s were loaded, and the export says %d with %s", t.ident(), rows, sum, t.Rows, t.Sum)
	}
	return nil
}

// inOrder puts tables behind those that they refer to. What the export holds must be what this database would export.
func inOrder(ctx context.Context, tx pgx.Tx, exported []ManifestTable) ([]ManifestTable, error) {
	here, err := exportedTables(ctx, tx, true)
	if err != nil {
		return nil, err
	}
	left := map[string]ManifestTable{}
	for _, t := range exported {
		k := slices.IndexFunc(here, func(h ManifestTable) bool { return h.Schema == t.Schema && h.Name == t.Name })
		if k < 0 {
			return nil, permanently("export: table %.130q does not hold tenants' rows here", t.Schema+"."+t.Name)
		}
		for _, column := range t.Columns {
			if !slices.Contains(here[k].Columns, column) {
				return nil, permanently("export: table %s has no column %.64q here", t.ident(), column)
			}
		}
		left[t.ident()] = t
	}
	parents, err := parentsOf(ctx, tx)
	if err != nil {
		return nil, err
	}
	var ordered []ManifestTable
	for len(left) > 0 {
		before := len(left)
		for _, name := range slices.Sorted(maps.Keys(left)) {
			if slices.ContainsFunc(parents[name], func(parent string) bool { _, waits := left[parent]; return waits && parent != name }) {
				continue
			}
			ordered = append(ordered, left[name])
			delete(left, name)
		}
		if len(left) == before {
			return nil, permanently("tables %s refer to each other in a circle, which an import cannot load", strings.Join(slices.Sorted(maps.Keys(left)), ", "))
		}
	}
	return ordered, nil
}

// parentsOf are the tables that each table refers to.
func parentsOf(ctx context.Context, tx pgx.Tx) (map[string][]string, error) {
	rows, err := tx.Query(ctx, `
		select format('"%s"."%s"', cn.nspname, c.relname), format('"%s"."%s"', pn.nspname, p.relname)
		  from pg_constraint k
		  join pg_class c on c.oid = k.conrelid join pg_namespace cn on cn.oid = c.relnamespace
		  join pg_class p on p.oid = k.confrelid join pg_namespace pn on pn.oid = p.relnamespace
		 where k.contype = 'f' and k.conparentid = 0`)
	if err != nil {
		return nil, fmt.Errorf("foreign keys: %w", err)
	}
	parents := map[string][]string{}
	var child, parent string
	_, err = pgx.ForEachRow(rows, []any{&child, &parent}, func() error {
		parents[child] = append(parents[child], parent)
		return nil
	})
	return parents, err
}

// loadTable loads one table by way of a temporary one: COPY itself is refused where policies bind, and they shall.
func loadTable(ctx context.Context, tx pgx.Tx, e *OpenedExport, t ManifestTable, n int) error {
	columns, stage := identList(t.Columns), fmt.Sprintf("pg_temp.rowhouse_import_%d", n)
	if _, err := tx.Exec(ctx, fmt.Sprintf("create temporary table rowhouse_import_%d on commit drop as select %s from %s with no data", n, columns, t.ident())); err != nil {
		return err
	}
	text, sum, err := e.open(t)
	if err != nil {
		return err
	}
	_, err = tx.Conn().PgConn().CopyFrom(ctx, text, fmt.Sprintf("copy %s (%s) from stdin", stage, columns))
	if err := errors.Join(err, text.Close()); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != t.SHA256 {
		return permanently("its file was changed since it was looked at")
	}
	if _, err := tx.Exec(ctx, fmt.Sprintf("insert into %s (%s) overriding system value select %s from %s", t.ident(), columns, columns, stage)); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "drop table "+stage); err != nil {
		return err
	}
	return drawAfter(ctx, tx, t)
}

// drawAfter makes the numbers that a table's sequences give out next larger than those that were loaded.
func drawAfter(ctx context.Context, tx pgx.Tx, t ManifestTable) error {
	for _, column := range t.Columns {
		var sequence *string
		if err := tx.QueryRow(ctx, `select pg_get_serial_sequence($1, $2)`, t.ident(), column).Scan(&sequence); err != nil || sequence == nil {
			if err != nil {
				return err
			}
			continue
		}
		if _, err := tx.Exec(ctx, fmt.Sprintf(`
			select setval($1::text::regclass, m.most) from (select max(%s)::bigint most from %s where tenant_id = rowhouse.tenant_id()) m
			 where m.most > (select last_value from %s)`, ident(column), t.ident(), *sequence), *sequence); err != nil {
			return fmt.Errorf("sequence of column %s: %w", ident(column), err)
		}
	}
	return nil
}
