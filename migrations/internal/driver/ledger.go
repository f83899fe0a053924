package driver

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	stateApplied = "applied"
	stateRunning = "running"
	stateFailed  = "failed"
)

// undefinedTable is what reading a ledger that is not there answers.
const undefinedTable = "42P01"

func selectLast(ledger string) string {
	return "select version, name, sha256, chain, state from " + ledger + " order by version desc limit 1"
}

// createLedger is run once in a database's life, under the lock.
func createLedger(ledger string) string {
	schema, _, _ := strings.Cut(ledger, ".")
	return "create schema if not exists " + schema + `;
create table if not exists ` + ledger + ` (
  version          bigint primary key,
  name             text not null,
  sha256           text not null,
  chain            text not null, -- over all rows up to this one: comparing the last row's proves the whole history
  state            text not null check (state in ('applied', 'running', 'failed')),
  kind             text not null default 'apply' check (kind in ('apply', 'baseline', 'marked')),
  rollout          text,
  applied_at       timestamptz not null default clock_timestamp(),
  duration_ms      bigint,
  rowhouse_version text,
  marked_by        text, -- of kind marked: who, and why
  reason           text
);`
}

func insertRow(ledger string, s Step, state string) string {
	columns := "version, name, sha256, chain, state, rollout, duration_ms, rowhouse_version"
	values := []string{
		strconv.FormatInt(s.Version, 10), literal(s.Name), literal(s.SHA256), literal(s.Chain), literal(state), nullable(s.Rollout),
		"1000 * extract(epoch from clock_timestamp() - transaction_timestamp())", nullable(s.RowhouseBuild),
	}
	if s.Kind != "" {
		columns += ", kind, marked_by, reason"
		values = append(values, literal(s.Kind), nullable(s.By), nullable(s.Reason))
	}
	return "insert into " + ledger + " as ledger (" + columns + ") values (" + strings.Join(values, ", ") + ")"
}

func upsertRow(ledger string, s Step, state string) string {
	marks := ""
	if s.Kind != "" {
		marks = "kind = excluded.kind, marked_by = excluded.marked_by, reason = excluded.reason, "
	}
	return insertRow(ledger, s, state) + " on conflict (version) do update set state = excluded.state, " + marks +
		"duration_ms = 1000 * extract(epoch from clock_timestamp() - ledger.applied_at), applied_at = clock_timestamp()"
}

// literal quotes a text under standard_conforming_strings, which our connections pin and Lock checks.
func literal(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

func nullable(s string) string {
	if s == "" {
		return "null"
	}
	return literal(s)
}

// ReadLast reads the last row of each ledger without a lock. A ledger that is not there counts as empty.
func (d *Driver) ReadLast() error {
	_, err := d.readLast(0)
	return err
}

// readLast reads the ledgers from the given one on and says which are missing. The server stops at the first missing one, so the
// rest goes in another message.
func (d *Driver) readLast(from int) (missing []int, err error) {
	for from < len(d.opts.Ledgers) {
		var sql []string
		for _, l := range d.opts.Ledgers[from:] {
			sql = append(sql, selectLast(l))
		}
		rows, err := d.query(strings.Join(sql, ";"))
		if err := d.setLast(from, rows); err != nil {
			return nil, err
		}
		from += len(rows)
		switch {
		case err == nil:
			return missing, nil
		case isMissing(err):
			d.last[from] = Row{}
			missing = append(missing, from)
			from++
		default:
			return nil, fmt.Errorf("read ledger %s: %w", d.opts.Ledgers[min(from, len(d.opts.Ledgers)-1)], err)
		}
	}
	return missing, nil
}

// ReadAll reads a whole ledger, lowest version first.
func (d *Driver) ReadAll(ledger int) ([]Row, error) {
	name := d.opts.Ledgers[ledger]
	results, err := d.query("select version, name, sha256, chain, state from " + name + " order by version")
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read ledger %s: %w", name, err)
	}
	rows := make([]Row, 0, len(results[0]))
	for _, r := range results[0] {
		row, err := toRow(r)
		if err != nil {
			return nil, fmt.Errorf("read ledger %s: %w", name, err)
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// setLast takes over what selectLast answered for the ledgers from the given one on.
func (d *Driver) setLast(from int, answers [][][]string) error {
	for i, rows := range answers {
		d.last[from+i] = Row{}
		if len(rows) == 0 {
			continue
		}
		row, err := toRow(rows[0])
		if err != nil {
			return fmt.Errorf("read ledger %s: %w", d.opts.Ledgers[from+i], err)
		}
		d.last[from+i] = row
	}
	return nil
}

func toRow(r []string) (Row, error) {
	version, err := strconv.ParseInt(r[0], 10, 64)
	if err != nil {
		return Row{}, fmt.Errorf("version %q: %w", r[0], err)
	}
	return Row{Version: version, Name: r[1], SHA256: r[2], Chain: r[3], State: r[4]}, nil
}

// query sends one message and returns the rows of every statement that was answered before an error, if there was one.
func (d *Driver) query(sql string) ([][][]string, error) {
	results := d.conn.PgConn().Exec(d.ctx, sql)
	var all [][][]string
	for results.NextResult() {
		var rows [][]string
		reader := results.ResultReader()
		for reader.NextRow() {
			row := make([]string, len(reader.Values()))
			for i, v := range reader.Values() {
				row[i] = string(v)
			}
			rows = append(rows, row)
		}
		if _, err := reader.Close(); err != nil {
			break
		}
		all = append(all, rows)
	}
	return all, results.Close()
}

func isMissing(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == undefinedTable
}
