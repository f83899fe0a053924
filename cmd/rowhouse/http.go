package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/router/rest"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/admin"
	"github.com/rowhouse/rowhouse/tenants/identity"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// publicHandler is the data plane: everything on it belongs to a tenant, but for the two health pages.
func (h *house) publicHandler() (http.Handler, error) {
	e := newEcho()
	e.HTTPErrorHandler = router.ErrorHandler
	for path, handler := range map[string]http.HandlerFunc{"/livez": h.health.livez, "/readyz": h.health.readyz} {
		e.Match([]string{http.MethodGet, http.MethodHead}, path, echo.WrapHandler(handler))
	}
	resolve := h.router.Middleware(h.resolver)
	rest.Register(e.Group("/rest/v1", resolve), rest.New(h.router, rest.Config{
		PerRequest: h.restOptions, Error: router.WriteError, Logger: h.log,
	}))
	session := identity.NewHandler(identity.HandlerConfig{
		AnonRole: func(t *catalog.Tenant) string {
			return effective(h, t, "rest.anon_role", h.config.String("rest.anon_role"))
		},
		Features:  h.directory.VisibleFeatures,
		Begin:     h.router,
		Retention: h.retention,
		Error:     router.WriteError,
	})
	e.Group("/tenant/v1", resolve).Any("/*", echo.WrapHandler(session))
	return clocked(router.Edge(e, h.edgeConfig())), nil
}

// adminHandler is the control plane. It has its own listener, its own credentials and no route of the data plane.
func (h *house) adminHandler() (http.Handler, error) {
	e := newEcho()
	for path, handler := range map[string]http.HandlerFunc{"/livez": h.health.livez, "/readyz": h.health.readyz} {
		e.Match([]string{http.MethodGet, http.MethodHead}, path, echo.WrapHandler(handler))
	}
	e.GET("/tls/ask", func(c echo.Context) error { // a TLS proxy asks before it gets a certificate; it has no token
		if !h.directory.Hosts(c.QueryParam("domain")) {
			return c.NoContent(http.StatusNotFound)
		}
		return c.NoContent(http.StatusOK)
	})
	e.GET("/metrics", echo.WrapHandler(h.metrics()))
	registerPprof(e)
	if !h.config.Bool("tenancy.enabled") { // one tenant, and no host side to manage others
		e.HTTPErrorHandler = router.ErrorHandler
		return e, nil
	}
	err := admin.Register(e, h.service, admin.Config{
		Authenticate: func(ctx context.Context, token string) (tenants.Session, []string, error) {
			session, t, err := h.service.Authenticate(ctx, token)
			if err != nil {
				return session, nil, err
			}
			return session, t.Permissions, nil
		},
		Rollouts: jobs.Fleet{Runner: h.runner},
		Version:  release,
		Hosts:    h.config.Strings("admin.hosts"),

		DestructivePerMinute: h.config.Int("admin.destructive_per_minute"),

		Logger: h.log,
	})
	return e, err
}

func newEcho() *echo.Echo {
	e := echo.New()
	e.HideBanner, e.HidePort = true, true
	e.IPExtractor = echo.ExtractIPDirect()
	return e
}

// newServer bounds what a client can make us wait for and hold. There is no limit on writing as a whole: it would cut
// streams of events.
func newServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler: h, ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ReadHeaderTimeout: 5 * time.Second, ReadTimeout: 60 * time.Second, IdleTimeout: 120 * time.Second, MaxHeaderBytes: 128 << 10, // above the edge's own bound, which answers in our form
	}
}

// serveUntil serves on l until ctx ends, then lets requests finish for as long as drain.
func serveUntil(ctx context.Context, s *http.Server, l net.Listener, drain time.Duration) error {
	stopped := make(chan error, 1)
	go func() {
		<-ctx.Done()
		bounded, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		err := s.Shutdown(bounded)
		if err != nil {
			_ = s.Close()
		}
		stopped <- err
	}()
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-stopped
}
