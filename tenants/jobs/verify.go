package jobs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"
)

// sum is how many rows there are, and what all of their values come to.
type sum struct {
	Rows int64
	Hash string
}

// sumsOf are those of the tenant's rows in each table, or of all rows where the table is common to all.
func sumsOf(ctx context.Context, s *side, tables []movingTable) (map[string]sum, error) {
	sums := make(map[string]sum, len(tables))
	err := pgx.BeginTxFunc(ctx, s.Conn, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, s.scoped()+"select 1", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		batch := &pgx.Batch{}
		for _, t := range tables {
			where := t.where(s.tenant)
			if t.Kind == "reference" {
				where = "true"
			}
			batch.Queue(fmt.Sprintf("select count(*), coalesce(sum(hashtextextended(row(%s)::text, 0)), 0)::text from %s where %s", t.columns(), t.Name, where)).
				QueryRow(func(row pgx.Row) error {
					var one sum
					if err := row.Scan(&one.Rows, &one.Hash); err != nil {
						return fmt.Errorf("%s: %w", t.Name, err)
					}
					sums[t.Name] = one
					return nil
				})
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, fmt.Errorf("sums of database %q: %w", s.db.Name, err)
	}
	return sums, nil
}

// sumsOfBoth takes them on both sides at the same time.
func sumsOfBoth(ctx context.Context, a, b *side, tables []movingTable) (ofA, ofB map[string]sum, err error) {
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() (err error) { ofA, err = sumsOf(ctx, a, tables); return err })
	both.Go(func() (err error) { ofB, err = sumsOf(ctx, b, tables); return err })
	return ofA, ofB, both.Wait()
}

// differing names the first table whose rows are not the same on both sides.
func differing(tables []movingTable, a, b map[string]sum) error {
	for _, t := range tables {
		if a[t.Name] != b[t.Name] {
			return permanently("%s differs: %d rows here and %d there, with other sums", t.Name, a[t.Name].Rows, b[t.Name].Rows)
		}
	}
	return nil
}

func rowsIn(sums map[string]sum) (n int64) {
	for _, s := range sums {
		n += s.Rows
	}
	return n
}
