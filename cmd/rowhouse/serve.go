package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
)

func (a *app) serve() *cobra.Command {
	return &cobra.Command{
		Use: "serve", Short: "Serve the tenants of a catalog", Args: exactly(),
		Long: "Serves the data plane and the control plane of the catalog at catalog.url (ROWHOUSE_CATALOG_URL).\nSIGTERM drains: it says that it is not ready, goes on for a moment, lets requests finish, and exits with 0.",
		RunE: a.do(func(ctx context.Context, _ []string) error {
			cfg, err := a.catalogConfig()
			if err != nil {
				return err
			}
			if cfg.String("catalog.keys") == "" {
				return &coded{err: cfg.problem("catalog.keys", "is needed"), code: exitConfig, hint: "ROWHOUSE_CATALOG_KEYS names the keyset file that `rowhouse catalog init` made"}
			}
			log := a.logger(cfg.String("log.level"), cfg.String("log.format"))
			slog.SetDefault(log)
			cat, err := a.waitForCatalog(ctx, cfg, log)
			if err != nil {
				return err
			}
			defer cat.Close()
			h, err := newHouse(ctx, cfg, cat, cfg.place(), serveLease, log)
			if err != nil {
				return err
			}
			l, err := cfg.listen()
			if err != nil {
				return err
			}
			log.Info("serving", "data", l.publicURL(), "admin", l.adminURL(), "version", release)
			return h.run(ctx, l, drainDelay, nil)
		}),
	}
}

// place is the address that this process listens at, on this machine since it was started, in this network namespace:
// who listens there now is the only one. Empty where that cannot be said.
func (c *config) place() string {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	namespace, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return ""
	}
	if _, port, err := net.SplitHostPort(c.String("listen")); err != nil || port == "" || port == "0" {
		return ""
	}
	return strings.Join([]string{strings.TrimSpace(string(boot)), namespace, c.String("listen")}, "/")
}

// waitForCatalog opens the catalog, again and again while it is away. What waiting cannot mend ends it.
func (a *app) waitForCatalog(ctx context.Context, cfg *config, log *slog.Logger) (*catalog.Catalog, error) {
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		cat, err := openCatalog(ctx, cfg, log)
		var refused *coded
		switch {
		case err == nil:
			return cat, nil
		case errors.Is(err, catalog.ErrSchema), errors.Is(err, catalog.ErrInvalid):
			return nil, &coded{err: err, code: exitConfig, hint: hintOf(err)}
		case errors.Is(err, catalog.ErrSealed):
			return nil, &coded{err: cfg.problem("catalog.keys", "%v", err), code: exitConfig}
		case errors.As(err, &refused):
			return nil, err
		}
		log.Warn("catalog does not answer; asking again", "wait", wait, "error", err)
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(wait):
		}
	}
}
