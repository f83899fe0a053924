package jobs_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// River's migrator takes no lock: two at once are kept apart by the one it runs under.
func TestMigrate(t *testing.T) {
	t.Parallel()
	db := pgtest.DB(t)
	m, err := migrations.ForCatalog(migrations.Config{Then: jobs.Migrate})
	must(t, err)
	var g errgroup.Group
	for range 3 {
		g.Go(func() error {
			_, err := m.Up(t.Context(), migrations.Target{Name: "catalog", Key: 1, Connect: func(ctx context.Context) (*pgx.Conn, error) {
				cfg, err := pgx.ParseConfig(db.DSN())
				if err != nil {
					return nil, err
				}
				migrations.ConnConfig(cfg, "")
				return pgx.ConnectConfig(ctx, cfg)
			}})
			return err
		})
	}
	must(t, g.Wait())
	var jobs, elsewhere bool
	must(t, db.Conn(t).QueryRow(t.Context(), `
		select to_regclass('river.river_job') is not null,
		       exists (select from pg_class where relname like 'river%' and relnamespace <> 'river'::regnamespace)`).Scan(&jobs, &elsewhere))
	if !jobs || elsewhere {
		t.Errorf("River's tables stand in schema river: %v, elsewhere: %v", jobs, elsewhere)
	}
}
