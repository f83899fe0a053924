package main

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/labstack/echo/v4"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
)

// metrics serves what Stat knows, read at scrape time. No label comes from a request.
func (h *house) metrics() http.Handler {
	registry := prometheus.NewRegistry()
	registry.MustRegister(
		collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		gauge("rowhouse_pools", "Pools of databases that are kept.", func() float64 { return float64(h.router.Stat().Pools.Kept) }),
		gauge("rowhouse_pools_draining", "Pools that are pushed out or stale and still lent.", func() float64 { return float64(h.router.Stat().Pools.Draining) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "rowhouse_log_errors_total", Help: "Lines of the log that could not be written."}, h.logErrors),
		gauge("rowhouse_connections", "Connections open to all servers, idle ones included.", h.connections),
		routerMetrics{h.router, h.directory},
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

func (h *house) logErrors() float64 {
	if h.unlogged == nil {
		return 0
	}
	return float64(h.unlogged.Load())
}

func (h *house) connections() float64 {
	open := 0
	for _, s := range h.router.Stat().Servers {
		open += s.Open
	}
	return float64(open)
}

// routerMetrics tells why requests wait, of each server. A server's name is its operator's, not a request's.
type routerMetrics struct {
	router  *router.Router
	servers interface {
		Server(context.Context, catalog.ServerID) (*catalog.Server, error)
	}
}

// Describe says nothing: which servers there are is known when they are looked at.
func (routerMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect reads Stat once.
func (m routerMetrics) Collect(ch chan<- prometheus.Metric) {
	st := m.router.Stat()
	send := func(kind prometheus.ValueType, name, help string, value float64, labels ...string) {
		var names, values []string
		for i := 0; i < len(labels); i += 2 {
			names, values = append(names, labels[i]), append(values, labels[i+1])
		}
		ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("rowhouse_"+name, help, names, nil), kind, value, values...)
	}
	const is, counts = prometheus.GaugeValue, prometheus.CounterValue
	send(is, "transactions_running", "Transactions of tenants that run.", float64(st.Tenants.Running))
	send(is, "transactions_waiting", "Transactions that wait for another one of their tenant.", float64(st.Tenants.Waiting))
	send(counts, "limited_total", "Requests refused for a limit of their tenant.", float64(st.Tenants.Limited))
	send(is, "request_records_waiting", "Records of requests that wait to be written to their tenant's database.", float64(st.Requests.Waiting))
	send(counts, "request_records_total", "Records of requests, those that were written and those that were lost.", float64(st.Requests.Written), "result", "written")
	send(counts, "request_records_total", "Records of requests, those that were written and those that were lost.", float64(st.Requests.Dropped), "result", "dropped")
	send(counts, "unscoped_transactions_total", "Transactions of the host over all tenants of a database.", float64(st.Unscoped))
	send(counts, "pool_open_errors_total", "Pools that could not be made: what the catalog says of a database is wrong.", float64(st.Pools.OpenErrors))
	send(counts, "pool_opens_total", "Pools made.", float64(st.Pools.Opens))
	send(counts, "pool_evictions_total", "Pools pushed out by others, those that were lent and those that were not.", float64(st.Pools.EvictionsLent), "lent", "true")
	send(counts, "pool_evictions_total", "Pools pushed out by others, those that were lent and those that were not.", float64(st.Pools.Evictions-st.Pools.EvictionsLent), "lent", "false")
	for id, s := range st.Servers {
		name, budget := id.String(), 0
		if row, err := m.servers.Server(context.Background(), id); err == nil {
			name, budget = row.Name, row.MaxConnections
		}
		of := func(kind prometheus.ValueType, metric, help string, value float64, labels ...string) {
			send(kind, "server_"+metric, help, value, append([]string{"server", name}, labels...)...)
		}
		of(is, "budget", "Connections all processes may have open to it.", float64(budget))
		of(is, "share", "Connections this process may have open to it.", float64(s.Share))
		for state, n := range map[string]int{"in_use": s.InUse + s.WaitingToRun, "idle": s.Idle, "dialing": s.Dialing} {
			of(is, "connections", "Connections this process has.", float64(n), "state", state)
		}
		of(is, "connections_open", "Connections this process has, those that are closing included.", float64(s.Open))
		of(is, "max_in_use", "Transactions this process may run at once.", float64(s.MaxInUse))
		for queue, q := range map[string]struct {
			waiting int
			refused int64
			waited  time.Duration
		}{
			"gate": {s.WaitingAtGate, s.RefusedAtGate, s.WaitedAtGate}, "permit": {s.Waiting, s.Refused, s.Waited},
			"slot": {s.WaitingToRun, s.RefusedToRun, s.WaitedToRun},
		} {
			of(is, "waiting", "Who waits: for a connection of its database, for room on the server, for its turn to run.", float64(q.waiting), "queue", queue)
			of(counts, "wait_refused_total", "Who waited too long, or left.", float64(q.refused), "queue", queue)
			of(counts, "wait_seconds_total", "How long all have waited together.", q.waited.Seconds(), "queue", queue)
		}
		of(is, "waiting_to_dial", "Connections that wait until others are made.", float64(s.WaitingToDial))
		of(counts, "dials_total", "Connections ended, and attempts that came to none.", float64(s.Dials-s.DialErrors), "result", "ok")
		of(counts, "dials_total", "Connections ended, and attempts that came to none.", float64(s.DialErrors), "result", "error")
		of(counts, "dial_seconds_total", "How long it took to make connections.", s.DialTime.Seconds())
		of(counts, "reclaims_total", "Idle connections closed for another database.", float64(s.Reclaimed))
		of(counts, "thrash_total", "Dials of databases that had just lost a connection to another one.", float64(s.Thrashed))
		of(counts, "permit_overdue_total", "Connections that the server had not let go of a second after they were closed.", float64(s.Overdue))
		open := 0.0
		if s.BreakerOpen {
			open = 1
		}
		of(is, "breaker_state", "1 while connecting fails and is only tried from time to time.", open)
		of(counts, "breaker_opened_total", "How often connecting began to fail.", float64(s.BreakerOpened))
		for cause, n := range s.Failures {
			of(counts, "connect_failures_total", "Connections that could not be made.", float64(n), "cause", cause)
		}
		for sqlstate, n := range s.Answers {
			of(counts, "errors_total", "Errors of the server that speak of itself, or of work given up for it.", float64(n), "sqlstate", sqlstate)
		}
		of(is, "logins_refused", "Databases whose login it refuses.", float64(s.LoginsRefused))
		of(counts, "retries_total", "Work that was started again because its connection had broken before it began.", float64(s.Retried))
		of(counts, "resets_total", "How often all connections were replaced because it took no writes.", float64(s.Resets))
		of(counts, "cleaned_total", "Connections cleaned before they were lent again, and those that could not be.", float64(s.Cleaned), "result", "ok")
		of(counts, "cleaned_total", "Connections cleaned before they were lent again, and those that could not be.", float64(s.Unclean), "result", "closed")
	}
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
