package pgtest_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

// BenchmarkDB is what a test pays for a database of its own, its dropping not counted.
func BenchmarkDB(b *testing.B) {
	filled := pgtest.Template("benchmark: a hundred tables", func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, `
			do $$ begin for i in 1..100 loop execute format('create table t%s (id uuid primary key, name text unique)', i); end loop; end $$`)
		return err
	})
	for _, bm := range []struct {
		name string
		opts []pgtest.Option
	}{{"empty", nil}, {"template", []pgtest.Option{filled}}} {
		b.Run(bm.name, func(b *testing.B) {
			pgtest.DB(b, bm.opts...)
			for b.Loop() {
				pgtest.DB(b, bm.opts...)
			}
		})
	}
}
