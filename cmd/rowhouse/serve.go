package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
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
			hup := make(chan os.Signal, 1)
			signal.Notify(hup, syscall.SIGHUP)
			defer signal.Stop(hup)
			log := a.logger(cfg.String("log.level"), cfg.String("log.format"))
			slog.SetDefault(log)
			// What is wrong for good is said before anything listens; a catalog that is only away is waited for at open doors.
			cat, err := a.tryCatalog(ctx, cfg, log)
			if err != nil && !errors.Is(err, catalog.ErrUnavailable) {
				return err
			}
			l, listenErr := cfg.listen()
			if listenErr != nil {
				if cat != nil {
					cat.Close()
				}
				return listenErr
			}
			if cat == nil {
				log.Warn("catalog does not answer: waiting for it", "data", l.publicURL(), "admin", l.adminURL(), "error", err)
				if cat, err = a.waitForCatalog(ctx, cfg, l, log); cat == nil {
					return errors.Join(err, l.close())
				}
			}
			defer cat.Close()
			h, err := newHouse(ctx, cfg, cat, cfg.place(), serveLease, log)
			if err != nil {
				return errors.Join(err, l.close())
			}
			log.Info("serving", "data", l.publicURL(), "admin", l.adminURL(), "version", release)
			h.unlogged = &a.unlogged
			return h.run(ctx, l, drainDelay, func(ctx context.Context) error { return a.followConfig(ctx, hup, h) })
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

// tryCatalog opens the catalog. An error that is not catalog.ErrUnavailable is one that waiting does not mend.
func (a *app) tryCatalog(ctx context.Context, cfg *config, log *slog.Logger) (*catalog.Catalog, error) {
	cat, err := openCatalog(ctx, cfg, log)
	switch {
	case err == nil:
		return cat, nil
	case errors.Is(err, catalog.ErrSchema), errors.Is(err, catalog.ErrInvalid), errors.Is(err, catalog.ErrRefused):
		return nil, &coded{err: err, code: exitConfig, hint: hintOf(err)}
	case errors.Is(err, catalog.ErrSealed):
		return nil, &coded{err: cfg.problem("catalog.keys", "%v", err), code: exitConfig}
	}
	return nil, err
}

// waitForCatalog opens the catalog again and again, while the doors are open and say that nothing is served yet. Told to
// stop, it answers nil.
func (a *app) waitForCatalog(ctx context.Context, cfg *config, l listeners, log *slog.Logger) (*catalog.Catalog, error) {
	leave, err := waitingRoom(l, log)
	if err != nil {
		return nil, err
	}
	cat, err := a.keepTrying(ctx, cfg, log)
	if leaving := leave(); leaving != nil && cat != nil {
		cat.Close()
		return nil, leaving
	}
	return cat, err
}

func (a *app) keepTrying(ctx context.Context, cfg *config, log *slog.Logger) (*catalog.Catalog, error) {
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, time.Second) { // served soon after it is back
		trying, cancel := context.WithTimeout(ctx, 5*time.Second)
		cat, err := a.tryCatalog(trying, cfg, log)
		cancel()
		if err == nil || !errors.Is(err, catalog.ErrUnavailable) && ctx.Err() == nil {
			return cat, err
		}
		log.Debug("catalog does not answer", "wait", wait, "error", err)
		select {
		case <-ctx.Done():
			return nil, nil
		case <-time.After(wait):
		}
	}
}
