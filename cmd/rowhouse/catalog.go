package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

func (a *app) catalogGroup() *cobra.Command {
	return group("catalog", "The catalog database", a.catalogInit(), a.catalogMigrate(), a.catalogCheck(), a.catalogRekey(), a.catalogConfirm())
}

// catalogLock is the advisory lock under which a catalog is migrated: a constant, because one database holds one catalog.
const catalogLock = 0x726f77686f757365

// migrateCatalog brings the catalog at url, and River's tables in it, to this program's schema.
func migrateCatalog(ctx context.Context, url string) (migrations.Result, error) {
	m, err := migrations.ForCatalog(migrations.Config{Then: jobs.Migrate})
	if err != nil {
		return migrations.Result{}, err
	}
	return m.Up(ctx, migrations.Target{Name: "catalog", Key: catalogLock, Connect: func(ctx context.Context) (*pgx.Conn, error) {
		cfg, err := pgx.ParseConfig(url)
		if err != nil {
			return nil, errors.New("catalog.url cannot be read")
		}
		cfg.ConnectTimeout = 10 * time.Second
		migrations.ConnConfig(cfg, "")
		conn, err := pgx.ConnectConfig(ctx, cfg)
		if err != nil {
			return nil, errors.New(err.Error()) // pgx's own holds the password
		}
		return conn, nil
	}})
}

func (a *app) catalogConfig() (*config, error) {
	cfg, err := a.loadConfig(nil)
	if err != nil {
		return nil, err
	}
	if cfg.String("catalog.url") == "" {
		return nil, &coded{err: cfg.problem("catalog.url", "is needed"), code: exitConfig, hint: "ROWHOUSE_CATALOG_URL"}
	}
	return cfg, nil
}

func (a *app) catalogInit() *cobra.Command {
	return &cobra.Command{
		Use: "init", Short: "Make a catalog in the database of catalog.url, and its keyset where there is none", Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ []string) error {
			cfg, err := a.catalogConfig()
			if err != nil {
				return err
			}
			file := cfg.String("catalog.keys")
			if file == "" {
				return &coded{err: cfg.problem("catalog.keys", "is needed: it names the keyset file that will be made"), code: exitConfig, hint: "ROWHOUSE_CATALOG_KEYS=keys.json"}
			}
			if _, err := keyring.OpenOrCreate(file); err != nil {
				return &coded{err: cfg.problem("catalog.keys", "%v", err), code: exitConfig}
			}
			return a.bringCatalogUp(ctx, cfg)
		}),
	}
}

func (a *app) catalogMigrate() *cobra.Command {
	return &cobra.Command{
		Use: "migrate", Short: "Bring the catalog's own schema to this program's", Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ []string) error {
			cfg, err := a.catalogConfig()
			if err != nil {
				return err
			}
			return a.bringCatalogUp(ctx, cfg)
		}),
	}
}

func (a *app) bringCatalogUp(ctx context.Context, cfg *config) error {
	result, err := migrateCatalog(ctx, cfg.String("catalog.url"))
	if err != nil {
		return err
	}
	cat, err := openCatalog(ctx, cfg, a.logger("warn", "text"))
	if err != nil {
		return err
	}
	defer cat.Close()
	fmt.Fprintf(a.stderr, "catalog %s is at version %d\n", cat.ID(), result.To.Number)
	return nil
}

type differenceRow struct{ jobs.Finding }

func (differenceRow) columns() []string {
	return []string{"server", "kind", "name", "critical", "problem", "did", "cure"}
}

func (f differenceRow) row() []any {
	return []any{f.Server, f.Kind, f.Finding.Name, f.Critical, f.Problem, f.Did, f.Cure}
}

func (f differenceRow) name() string { return f.Finding.Name }

func (a *app) catalogCheck() *cobra.Command {
	var cfg jobs.ReconcileConfig
	c := &cobra.Command{
		Use: "check", Short: "Check that keys, schema and servers are sound", Args: exactly(),
		Long:    "Compares databases, roles and gates on every server with the catalog, and lists what differs. With --mend databases that\nnobody knows are closed and renamed rh_orphan_…, and roles without a database log in no more; nothing is dropped. A\nrunning service does that every hour. What keeps a tenant from being served makes it fail.",
		Example: "  rowhouse catalog check\n  rowhouse catalog check --mend -o json",
		RunE: a.do(func(ctx context.Context, _ []string) error {
			r, err := a.reachCatalog(ctx)
			if err != nil {
				return err
			}
			defer r.close()
			servers, err := r.Servers(ctx)
			if err != nil {
				return err
			}
			var problems []error
			for _, s := range servers {
				if err := answers(ctx, r.catalog, s); err != nil {
					problems = append(problems, fmt.Errorf("server %q: %w", s.Name, err))
				}
			}
			if err := errors.Join(problems...); err != nil {
				return err
			}
			found, err := r.runner.Reconcile(ctx, cfg)
			if err != nil {
				return err
			}
			if len(found) > 0 || a.output != "table" {
				if err := a.print(rows(found, func(f jobs.Finding) differenceRow { return differenceRow{f} })); err != nil {
					return err
				}
			}
			critical := 0
			for _, f := range found {
				if f.Critical {
					critical++
				}
			}
			if critical > 0 {
				return &coded{err: fmt.Errorf("catalog %s: %s", r.catalog.ID(), counted(critical, "thing keeps tenants from being served", "things keep tenants from being served")), code: exitFailure}
			}
			fmt.Fprintf(a.stderr, "catalog %s is sound; %s\n", r.catalog.ID(), counted(len(servers), "server answers", "servers answer"))
			return nil
		}),
	}
	c.Flags().BoolVar(&cfg.Mend, "mend", false, "set aside what nobody knows")
	return c
}

func (a *app) catalogConfirm() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "confirm", Short: "Say that a catalog restored from a backup is the right one, so that it is served by again", Args: exactly(),
		Long: "Running processes that see the catalog become older than they remember are not ready, and serve what they knew for 15\nminutes. After confirm they read it anew. What happened since the backup is not in it: look at the databases first.",
		RunE: a.do(func(ctx context.Context, _ []string) error {
			r, err := a.reachCatalog(ctx)
			if err != nil {
				return err
			}
			defer r.close()
			if !yes {
				return usage("this has every process serve by catalog %s as it is now: --yes", r.catalog.ID())
			}
			return r.catalog.Confirm(byHand(ctx))
		}),
	}
	c.Flags().BoolVar(&yes, "yes", false, "do it")
	return c
}

// answers says whether a server lets its provisioner in, and what keeps that from being one.
func answers(ctx context.Context, cat *catalog.Catalog, s *catalog.Server) error {
	provisioner, err := cat.Credential(ctx, s.ID, catalog.DatabaseID{}, catalog.LoginProvisioner)
	if err != nil {
		return err
	}
	return s.Probe(ctx, "postgres", provisioner)
}
