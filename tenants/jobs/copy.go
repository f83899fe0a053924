package jobs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/catalog"
)

// copier brings a tenant's rows from one database to another: all of them in one transaction there, or none.
type copier struct {
	from, to *side
	tables   []movingTable // in the order of their foreign keys
	// alone says that nobody else uses the database that they go to.
	alone bool
}

// run copies, and answers how many rows.
func (c *copier) run(ctx context.Context) (int64, error) {
	there, err := inhabited(ctx, c.from, c.tables)
	if err != nil {
		return 0, err
	}
	var loaded []movingTable
	for _, t := range c.tables {
		if there[t.Name] {
			loaded = append(loaded, t)
		}
	}
	var total int64
	err = pgx.BeginTxFunc(ctx, c.from.Conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(reading pgx.Tx) error {
		if _, err := reading.Exec(ctx, c.from.scoped()+"select 1", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		return pgx.BeginFunc(ctx, c.to.Conn, func(tx pgx.Tx) error {
			if err := c.prepare(ctx, loaded); err != nil {
				return err
			}
			for _, t := range loaded {
				n, err := c.table(ctx, t)
				if err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
				total += n
			}
			return c.restore(ctx, loaded)
		})
	})
	if err != nil {
		return 0, fmt.Errorf("copy: %w", err)
	}
	return total, c.sequences(ctx)
}

// prepare lets rows be loaded as they are: no trigger fires, and no policy is in the way. What it alters is altered back in
// the same transaction; only where nobody else is.
func (c *copier) prepare(ctx context.Context, tables []movingTable) error {
	switch {
	case c.to.super:
		return c.to.exec(ctx, "set local session_replication_role = replica")
	case c.alone:
		return c.alter(ctx, tables, "disable trigger user", "no force row level security")
	}
	return c.to.exec(ctx, c.to.scoped()+"select 1")
}

func (c *copier) restore(ctx context.Context, tables []movingTable) error {
	if c.to.super || !c.alone {
		return nil
	}
	return c.alter(ctx, tables, "enable trigger user", "force row level security")
}

func (c *copier) alter(ctx context.Context, tables []movingTable, actions ...string) error {
	for _, t := range tables {
		for _, action := range actions {
			if strings.HasSuffix(action, "trigger user") && len(t.Triggers) == 0 {
				continue
			}
			if err := c.to.exec(ctx, "alter table "+t.Name+" "+action); err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
		}
	}
	return nil
}

// pipeBuffer is how much is sent at once: a row for itself would cost a message and two turns of the scheduler.
const pipeBuffer = 256 << 10

// table copies one table's rows, by columns that are named on both sides.
func (c *copier) table(ctx context.Context, t movingTable) (int64, error) {
	format := "binary"
	if t.Textual {
		format = "text"
	}
	into := t.Name
	staged := !c.to.exempt && !c.alone // COPY FROM is refused under policies
	if staged {
		into = "pg_temp.rowhouse_moving"
		if err := c.to.exec(ctx, fmt.Sprintf("create temp table rowhouse_moving on commit drop as select %s from %s with no data", t.columns(), t.Name)); err != nil {
			return 0, err
		}
	}
	reader, writer := io.Pipe()
	both, copying := errgroup.WithContext(ctx)
	both.Go(func() error {
		buffered := bufio.NewWriterSize(writer, pipeBuffer)
		_, err := c.from.PgConn().CopyTo(copying, buffered, fmt.Sprintf("copy (select %s from %s where %s) to stdout (format %s)", t.columns(), t.Name, t.where(c.from.tenant), format))
		if err == nil {
			err = buffered.Flush()
		}
		writer.CloseWithError(err)
		return err
	})
	var n int64
	both.Go(func() error {
		tag, err := c.to.PgConn().CopyFrom(copying, reader, fmt.Sprintf("copy %s (%s) from stdin (format %s)", into, t.columns(), format))
		n = tag.RowsAffected()
		reader.CloseWithError(errors.Join(err, io.ErrClosedPipe))
		return err
	})
	if err := both.Wait(); err != nil || !staged {
		return n, err
	}
	return n, c.to.exec(ctx, fmt.Sprintf("insert into %s (%s) overriding system value select %s from pg_temp.rowhouse_moving; drop table pg_temp.rowhouse_moving", t.Name, t.columns(), t.columns()))
}

// sequenceMargin is how far a sequence is set beyond the one that it follows.
const sequenceMargin = 1000

// sequences lets those of the new home go on where those of the old one are. One that is further on already stays.
func (c *copier) sequences(ctx context.Context) error {
	const list = `
		select format('%I.%I', schemaname, sequencename), last_value, increment_by from pg_sequences
		 where schemaname not in ('pg_catalog', 'information_schema', 'rowhouse_guard') and last_value is not null`
	type sequence struct {
		Name      string
		Last      int64
		Increment int64
	}
	rows, err := c.from.Query(ctx, list)
	if err != nil {
		return fmt.Errorf("sequences: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[sequence])
	if err != nil {
		return fmt.Errorf("sequences: %w", err)
	}
	var sql script
	for _, s := range found {
		margin, compare := int64(sequenceMargin), "greatest"
		if s.Increment < 0 {
			margin, compare = -margin, "least"
		}
		sql.add("select setval(%s, %s(last_value, %d)) from %s", literal(s.Name), compare, s.Last+margin*max(s.Increment, -s.Increment), s.Name)
	}
	if len(sql.statements) == 0 {
		return nil
	}
	if err := c.to.exec(ctx, strings.Join(sql.statements, ";\n")); err != nil {
		return fmt.Errorf("sequences: %w", err)
	}
	return nil
}

// emptied deletes what an earlier attempt has left, or a placement of before: at once where nobody else is.
func (r *Runner) emptied(ctx context.Context, s *side, tables []movingTable, alone bool) error {
	there, err := inhabited(ctx, s, tables)
	if err != nil {
		return err
	}
	var names []string
	for _, t := range tables {
		if there[t.Name] {
			names = append(names, t.Name)
		}
	}
	if len(names) == 0 {
		return nil
	}
	if alone {
		all := make([]string, len(tables))
		for i, t := range tables {
			all[i] = t.Name
		}
		return s.exec(ctx, "truncate "+strings.Join(all, ", "))
	}
	return r.deleteRows(ctx, s.db, s.tenant)
}

// deleteRows deletes a tenant's rows from a database that others live in, and its gate with them.
func (r *Runner) deleteRows(ctx context.Context, db *catalog.Database, tenant catalog.TenantID) error {
	return r.asOwner(ctx, db, func(conn *pgx.Conn) error {
		_, err := emptyTenant(ctx, conn, tenant)
		return err
	})
}
