package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/admin"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// reach is how a command gets at a rowhouse: through a running service's API, or on the catalog itself.
type reach struct {
	tenants.Operator
	catalog *catalog.Catalog // nil when far
	runner  *jobs.Runner     // nil when far
	config  *config
	close   func()
}

// near says that the command works on the catalog itself.
func (r *reach) near() bool { return r.catalog != nil }

// reach finds the rowhouse to work on: --admin-url with ROWHOUSE_TOKEN, else the catalog that is configured, else the dev
// whose directory stands here.
func (a *app) reach(ctx context.Context) (*reach, error) {
	if adminURL := a.farURL(); adminURL != "" {
		client, err := admin.NewClient(adminURL, catalog.NewSecret(a.env("ROWHOUSE_TOKEN")))
		if err != nil {
			return nil, err
		}
		return &reach{Operator: client, close: func() {}}, nil
	}
	return a.reachCatalog(ctx)
}

// doAt is do for what is done at a rowhouse, near or far.
func (a *app) doAt(fn func(ctx context.Context, r *reach, args []string) error) func(*cobra.Command, []string) error {
	return a.do(func(ctx context.Context, args []string) error {
		r, err := a.reach(ctx)
		if err != nil {
			return err
		}
		defer r.close()
		return fn(byHand(ctx), r, args)
	})
}

// showAt is show for what is asked of a rowhouse, near or far.
func (a *app) showAt(fn func(ctx context.Context, r *reach, args []string) (any, error)) func(*cobra.Command, []string) error {
	return a.show(func(ctx context.Context, args []string) (any, error) {
		r, err := a.reach(ctx)
		if err != nil {
			return nil, err
		}
		defer r.close()
		return fn(byHand(ctx), r, args)
	})
}

// byHand says in the audit trail that somebody on this machine acts. From far it is whom the token names.
func byHand(ctx context.Context) context.Context {
	return catalog.WithActor(ctx, catalog.Actor{Side: "host", Subject: "command:" + operatorName()})
}

// farURL is the running service that the command was told to speak to, or empty.
func (a *app) farURL() string {
	if a.adminURL != "" {
		return a.adminURL
	}
	return a.env("ROWHOUSE_ADMIN_URL")
}

// reachCatalog is reach for what needs the catalog itself. It never turns to another rowhouse than the one that was named.
func (a *app) reachCatalog(ctx context.Context) (*reach, error) {
	if a.farURL() != "" {
		return nil, &coded{
			err: errors.New("this needs the catalog itself and cannot go through --admin-url"), code: exitUsage,
			hint: "leave --admin-url and ROWHOUSE_ADMIN_URL out, and set ROWHOUSE_CATALOG_URL",
		}
	}
	cfg, err := a.loadConfig(nil)
	if err != nil {
		return nil, err
	}
	if cfg.String("catalog.url") == "" {
		if cfg, err = a.devConfig(); err != nil {
			return nil, err
		}
	}
	cat, err := openCatalog(ctx, cfg, a.logger("warn", "text"))
	if err != nil {
		return nil, err
	}
	runner, err := jobs.New(cat, jobs.Config{Drain: cfg.duration("move.drain"), Cooling: cfg.duration("promote.cooling"), Exports: cfg.String("exports.dir"), Logger: a.logger("error", "text")})
	if err != nil {
		cat.Close()
		return nil, err
	}
	service := tenants.NewService(cat, runner)
	service.Grace = cfg.duration("delete.grace")
	service.MaxPause = cfg.duration("move.max_pause")
	return &reach{service, cat, runner, cfg, cat.Close}, nil
}

// devConfig is the configuration of the dev that serves a directory here.
func (a *app) devConfig() (*config, error) {
	dir := a.devDir()
	running, err := localpg.Running(dir)
	if errors.Is(err, localpg.ErrNotRunning) {
		return nil, &coded{
			err: errors.New("no rowhouse to work on: no --admin-url, no catalog.url, and no dev serves " + dir), code: exitConfig,
			hint: "rowhouse dev, or set ROWHOUSE_ADMIN_URL and ROWHOUSE_TOKEN, or ROWHOUSE_CATALOG_URL",
		}
	}
	if err != nil {
		return nil, err
	}
	secret, err := os.ReadFile(devFile(dir, jwtSecretFile))
	if err != nil {
		return nil, fmt.Errorf("%s: is still starting, or belongs to somebody else", dir)
	}
	return loadConfig("", nil, map[string]string{
		"catalog.url": running.DSN(catalogDatabase), "catalog.keys": devFile(dir, keysFile), "exports.dir": devFile(dir, exportsDir), "auth.jwt_secret": string(secret),
	})
}

// catalogConns is enough for directory, operations, River and the control plane side by side.
const catalogConns = 8

// openCatalog opens the configured catalog under the configured keys.
func openCatalog(ctx context.Context, cfg *config, log *slog.Logger) (*catalog.Catalog, error) {
	keys, err := openKeys(cfg)
	if err != nil {
		return nil, err
	}
	schema, err := catalogSchema()
	if err != nil {
		return nil, err
	}
	return catalog.Open(ctx, cfg.String("catalog.url"), catalog.Config{Keys: keys, MaxConns: catalogConns, Schema: schema, Logger: log})
}

// catalogSchema is the version of the catalog's schema that this program was built with.
func catalogSchema() (int64, error) {
	m, err := migrations.ForCatalog(migrations.Config{})
	if err != nil {
		return 0, err
	}
	files := m.Files()
	return files[len(files)-1].Version, nil
}

func openKeys(cfg *config) (catalog.Keys, error) {
	file := cfg.String("catalog.keys")
	if file == "" {
		return nil, nil
	}
	keys, err := keyring.Open(file)
	if err != nil {
		return nil, &coded{err: cfg.problem("catalog.keys", "%v", err), code: exitConfig}
	}
	return keys, nil
}
