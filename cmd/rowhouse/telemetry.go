package main

import (
	"net/http"
	"net/http/pprof"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics serves what Stat knows, read at scrape time. No label comes from a request.
func (h *house) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("rowhouse_pools", "Pools of databases that are kept.", func() float64 { return float64(h.router.Stat().Pools.Kept) }),
		gauge("rowhouse_pools_draining", "Pools that are pushed out or stale and still lent.", func() float64 { return float64(h.router.Stat().Pools.Draining) }),
		gauge("rowhouse_connections", "Connections open to all servers, idle ones included.", h.connections),
		gauge("rowhouse_catalog_revision", "Revision of the catalog that this process knows.", func() float64 { return float64(h.directory.Stat().Revision) }),
		gauge("rowhouse_catalog_age_seconds", "Seconds since the catalog last answered.", func() float64 { return h.directory.Stat().Age.Seconds() }),
		gauge("rowhouse_tenants", "Tenants this process knows.", func() float64 { return float64(h.directory.Stat().Tenants) }),
		gauge("rowhouse_databases", "Databases this process knows.", func() float64 { return float64(h.directory.Stat().Databases) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "rowhouse_build_info", Help: "Always 1; the labels say which build this is.",
			ConstLabels: prometheus.Labels{"version": buildInfo().Version, "go": buildInfo().Go},
		}, func() float64 { return 1 }),
	)
	return promhttp.HandlerFor(registry, promhttp.HandlerOpts{})
}

func (h *house) connections() float64 {
	open := 0
	for _, s := range h.router.Stat().Servers {
		open += s.Open
	}
	return float64(open)
}

func gauge(name, help string, value func() float64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, value)
}

// registerPprof mounts the profiler, which the standard library would put on a shared mux.
func registerPprof(e *echo.Echo) {
	e.GET("/debug/pprof/*", echo.WrapHandler(http.HandlerFunc(pprof.Index)))
	for path, handler := range map[string]http.HandlerFunc{
		"cmdline": pprof.Cmdline, "profile": pprof.Profile, "symbol": pprof.Symbol, "trace": pprof.Trace,
	} {
		e.GET("/debug/pprof/"+path, echo.WrapHandler(handler))
	}
}
