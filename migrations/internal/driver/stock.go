package driver

import (
	"fmt"
	"strconv"
)

// StockTable is where golang-migrate's own command keeps its version. In a database of ours it tells a second story.
const StockTable = "public.schema_migrations"

// stockThere recognises it by its columns: other tools use the same name.
const stockThere = `exists (select from pg_catalog.pg_attribute a join pg_catalog.pg_class c on c.oid = a.attrelid
	where c.oid = to_regclass('` + StockTable + `') and c.relkind = 'r' and a.attname = 'dirty' and a.atttypid = 'boolean'::regtype)`

// Stock is what golang-migrate's own table says.
type Stock struct {
	Version int64 // 0 when it is empty
	Dirty   bool
}

// Stock reads golang-migrate's own table; false: there is none. It counts only what Lock has seen.
func (d *Driver) Stock() (Stock, bool, error) {
	if !d.stock {
		return Stock{}, false, nil
	}
	results, err := d.query("select version, dirty from " + StockTable + " limit 1")
	if err != nil {
		return Stock{}, true, fmt.Errorf("read %s: %w", StockTable, err)
	}
	if len(results[0]) == 0 {
		return Stock{}, true, nil
	}
	version, err := strconv.ParseInt(results[0][0][0], 10, 64)
	if err != nil {
		return Stock{}, true, fmt.Errorf("read %s: %w", StockTable, err)
	}
	return Stock{Version: version, Dirty: results[0][0][1] == "t"}, true, nil
}

// TakeOver replaces golang-migrate's own table by rows of ours. When the table is gone,
// decide looks at what stands without it and says which rows shall be written; its error leaves everything as it was.
func (d *Driver) TakeOver(decide func() ([]Step, error)) (err error) {
	if _, err := d.exec("begin"); err != nil {
		return err
	}
	defer func() {
		if err != nil && !d.conn.IsClosed() {
			_ = d.rollback() // the first error tells more
		}
	}()
	if _, err := d.exec("drop table " + StockTable); err != nil {
		return fmt.Errorf("drop %s: %w", StockTable, err)
	}
	steps, err := decide()
	if err != nil {
		return err
	}
	for _, s := range steps {
		if _, err := d.exec(upsertRow(d.opts.Ledgers[d.active], s, stateApplied)); err != nil {
			return fmt.Errorf("ledger row of %d: %w", s.Version, err)
		}
	}
	if _, err := d.exec("commit"); err != nil {
		return err
	}
	d.stock = false
	return d.ReadLast()
}
