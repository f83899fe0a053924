package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/admin"
)

// health answers /livez and /readyz. Neither depends on a tenant's database.
type health struct {
	parts    []interface{ Ready() error } // that must be
	draining atomic.Bool
}

// ready says why this process should get no requests.
func (h *health) ready() error {
	if h.draining.Load() {
		return errors.New("draining")
	}
	for _, part := range h.parts {
		if err := part.Ready(); err != nil {
			return err
		}
	}
	return nil
}

// windDown asks clients of a draining process to let go of their connections with the next answer. A connection that the
// server closes by itself may just be carrying a request, which would be lost.
func (h *health) windDown(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h.draining.Load() {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

func (h *health) livez(w http.ResponseWriter, _ *http.Request) { writeHealth(w, nil) }

func (h *health) readyz(w http.ResponseWriter, _ *http.Request) { writeHealth(w, h.ready()) }

func writeHealth(w http.ResponseWriter, err error) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	body := map[string]string{"status": "ok"}
	if err != nil {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		body = map[string]string{"status": "unavailable"}
	}
	_ = json.NewEncoder(w).Encode(body)
}

// waitingRoom answers at both doors while there is no house behind them: the process lives, is not ready, and serves
// nobody. What it gives back closes it and leaves the doors as they were; who comes meanwhile waits.
func waitingRoom(l listeners, log *slog.Logger) (leave func() error, err error) {
	room := &health{}
	health := http.NewServeMux()
	health.HandleFunc("/livez", room.livez)
	health.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) { writeHealth(w, tenants.ErrUnavailable) })
	with := func(rest http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Connection", "close") // the next request finds the house
			if _, pattern := health.Handler(r); pattern != "" {
				health.ServeHTTP(w, r)
				return
			}
			rest.ServeHTTP(w, r)
		})
	}
	refuse := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { router.WriteError(w, r, tenants.ErrUnavailable) })
	ctx, stop := context.WithCancel(context.Background())
	var waiting errgroup.Group
	for _, door := range []struct {
		l       net.Listener
		handler http.Handler
	}{{l.public, router.Edge(with(refuse), router.EdgeConfig{Logger: log})}, {l.admin, with(admin.Unavailable())}} {
		tcp, ok := door.l.(*net.TCPListener)
		if !ok {
			stop()
			return nil, fmt.Errorf("listener %s cannot be handed over", door.l.Addr())
		}
		waiting.Go(func() error {
			err := serveUntil(ctx, newServer(door.handler, log), router.Listener(lent{tcp}), 5*time.Second)
			return errors.Join(err, tcp.SetDeadline(time.Time{}))
		})
	}
	return func() error { stop(); return waiting.Wait() }, nil
}

// lent is a listener that is left open when it is closed: whoever waits in Accept is sent away.
type lent struct{ *net.TCPListener }

// Close ends Accept.
func (l lent) Close() error { return l.SetDeadline(time.Unix(1, 0)) }

func (a *app) healthcheck() *cobra.Command {
	return &cobra.Command{
		Use: "healthcheck", Short: "Ask the service of this configuration whether it is ready: exit 0 or 1", Args: exactly(),
		RunE: a.do(func(ctx context.Context, _ []string) error {
			cfg, err := a.loadConfig(nil)
			if err != nil {
				return err
			}
			address := cfg.String("listen")
			if running, err := localpg.Running(a.devDir()); err == nil && cfg.String("catalog.url") == "" {
				address = strings.TrimPrefix(running.DataURL, "http://") // the dev that serves here
			}
			host, port, err := net.SplitHostPort(address)
			if err != nil {
				return &coded{err: cfg.problem("listen", "want host:port"), code: exitConfig}
			}
			if host == "" || host == "0.0.0.0" || host == "::" {
				host = "127.0.0.1"
			}
			ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			url := fmt.Sprintf("http://%s/readyz", net.JoinHostPort(host, port))
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
			if err != nil {
				return err
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				return fmt.Errorf("%s does not answer", url)
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusOK {
				return fmt.Errorf("%s answers %s", url, resp.Status)
			}
			return nil
		}),
	}
}
