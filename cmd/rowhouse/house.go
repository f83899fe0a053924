package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/router/rest"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/identity"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

// house is a whole rowhouse put together: serve and dev differ in where its parts come from.
type house struct {
	config    *config
	log       *slog.Logger
	catalog   *catalog.Catalog
	directory *tenants.Directory
	router    *router.Router
	runner    *jobs.Runner
	service   *tenants.Service
	verifier  *identity.Verifier
	resolver  *tenants.Resolver
	byHost    []tenants.Contributor // of the resolver's
	health    *health
	instance  catalog.InstanceID // this process among those of the catalog

	restDefaults atomic.Pointer[rest.Options]
	unlogged     *atomic.Int64 // lines of the log that could not be written; nil where nobody counts
}

// How long an operation stays with a worker that is not heard of. A dev is the only one on its data, so what a killed one
// left is nobody's.
const (
	serveLease = 20 * time.Second
	devLease   = 4 * time.Second
)

// newHouse puts the rooms together, lowest first. The catalog stays the caller's to close. The place is where no other process
// of that catalog can be, as catalog.Report has it.
func newHouse(ctx context.Context, cfg *config, cat *catalog.Catalog, place string, lease time.Duration, log *slog.Logger) (*house, error) {
	h := &house{config: cfg, log: log, catalog: cat, directory: tenants.NewDirectory(cat), instance: catalog.NewID[catalog.Instance]()}
	options := cfg.restDefaults()
	h.restDefaults.Store(&options)
	var err error
	if h.router, err = router.New(h.directory, h.routerConfig(place)); err != nil {
		return nil, &coded{err: err, code: exitConfig}
	}
	h.health = &health{parts: []interface{ Ready() error }{h.directory, h.router}}
	if h.verifier, err = identity.NewVerifier(ctx, h.identityConfig()); err != nil {
		return nil, &coded{err: err, code: exitConfig}
	}
	if h.runner, err = jobs.New(cat, jobs.Config{Drain: cfg.duration("move.drain"), Cooling: cfg.duration("promote.cooling"), Instance: h.instance, Lease: lease, Exports: cfg.String("exports.dir"), Logger: log}); err != nil {
		return nil, err
	}
	h.service = tenants.NewService(cat, h.runner)
	h.service.Grace = cfg.duration("delete.grace")
	h.service.MaxPause = cfg.duration("move.max_pause")
	h.resolver = h.newResolver()
	return h, nil
}

func (h *house) routerConfig(place string) router.Config {
	c := h.config
	host, _ := os.Hostname()
	return router.Config{
		MaxPools:            c.Int("router.max_pools"),
		MaxConnsPerDatabase: c.Int("router.max_conns_per_database"),
		IdleTimeout:         c.duration("router.idle_timeout"),
		AcquireTimeout:      c.duration("router.acquire_timeout"),
		ConnectTimeout:      c.duration("router.connect_timeout"),
		AnonRole:            c.String("rest.anon_role"),
		NoAnon:              c.String("rest.anon_role") == "",
		Registry:            h.catalog,
		Recording:           h.recording,
		Audit:               h.catalog.Note,
		Instance:            catalog.Report{Instance: h.instance, Host: host, Place: place, Version: release, Works: c.Bool("jobs.enabled") && !h.catalog.ReadOnly()},
		Logger:              h.log,
	}
}

// recording is what is kept of a tenant's requests.
func (h *house) recording(t *catalog.Tenant) router.Recording {
	kept := effective(h, t, "audit.requests", h.config.String("audit.requests"))
	return router.Recording{Writes: kept != "off", Reads: kept == "all", Retention: h.retention(t)}
}

func (h *house) retention(t *catalog.Tenant) time.Duration {
	if d, err := time.ParseDuration(effective(h, t, "audit.retention", "")); err == nil {
		return d
	}
	return h.config.duration("audit.retention")
}

func (h *house) identityConfig() identity.Config {
	c := h.config
	return identity.Config{
		Secret:          catalog.NewSecret(c.String("auth.jwt_secret")),
		JWKSURL:         c.String("auth.jwks_url"),
		JWKSFile:        c.String("auth.jwks_file"),
		Issuer:          c.String("auth.issuer"),
		Audience:        c.String("auth.audience"),
		TenantClaim:     c.String("auth.tenant_claim"),
		RoleClaim:       c.String("auth.role_claim"),
		Leeway:          c.duration("auth.leeway"),
		PerTenant:       h.authOf,
		RequireExp:      new(c.Bool("auth.require_exp")),
		RequireAudience: new(c.Bool("auth.require_audience")),
		Logger:          h.log,
	}
}

// authOf is what the host decided about tokens for one tenant, or for everybody. It asks memory only: the reference is
// one that nobody has verified yet.
func (h *house) authOf(ref string) (identity.Override, bool) {
	t, err := h.directory.Tenant(context.Background(), ref)
	if err != nil {
		return identity.Override{}, false
	}
	o := identity.Override{
		Issuer: effective(h, t, "auth.issuer", ""), Audience: effective(h, t, "auth.audience", ""),
		TenantClaim: effective(h, t, "auth.tenant_claim", ""), RoleClaim: effective(h, t, "auth.role_claim", ""),
		RequireExp: effective[*bool](h, t, "auth.require_exp", nil), RequireAudience: effective[*bool](h, t, "auth.require_audience", nil),
	}
	o.JWKSURL, o.JWKSFile = h.keySetOf(t)
	if text := effective(h, t, "auth.leeway", ""); text != "" {
		if leeway, err := time.ParseDuration(text); err == nil {
			o.Leeway = &leeway
		}
	}
	if o.Secret, err = h.directory.SecretSetting(t, "auth.jwt_secret"); err != nil {
		h.log.Error("a tenant's secret does not open: its tokens are refused", "tenant", t.ID, "error", err)
		o.Secret = catalog.NewSecret(rand.Text() + rand.Text()) // no token holds, and nobody else's key does
	}
	if o == (identity.Override{}) {
		return o, false
	}
	o.Tenant = t.ID
	return o, true
}

// keySetOf is where a tenant's keys are published. A tenant with keys of its own trusts nobody else's.
func (h *house) keySetOf(t *catalog.Tenant) (address, file string) {
	own := slices.ContainsFunc([]string{"auth.jwt_secret", "auth.jwks_url", "auth.jwks_file"}, func(key string) bool { return t.Settings[key] != nil })
	of := func(key string) string {
		if own && t.Settings[key] == nil {
			return ""
		}
		return effective(h, t, key, "")
	}
	return of("auth.jwks_url"), of("auth.jwks_file")
}

// newResolver is the chain of tenancy.resolve.order; with tenancy off there is one tenant and nothing to ask.
func (h *house) newResolver() *tenants.Resolver {
	c := h.config
	rs := &tenants.Resolver{Verifier: clockedVerifier{h.verifier}}
	if !c.Bool("tenancy.enabled") {
		rs.Contributors = []tenants.Contributor{tenants.Always(tenants.DefaultTenant)}
		h.byHost = rs.Contributors
		return rs
	}
	for _, signal := range c.Strings("tenancy.resolve.order") {
		switch signal {
		case "token":
			rs.Contributors = append(rs.Contributors, tenants.FromClaim(c.String("auth.tenant_claim")))
		case "domain":
			h.byHost = []tenants.Contributor{tenants.FromDomain(c.Strings("tenancy.resolve.domains")...), tenants.FromCustomDomain(h.directory)}
			rs.Contributors = append(rs.Contributors, h.byHost...)
		case "header":
			names := c.Strings("tenancy.resolve.header")
			rs.Contributors = append(rs.Contributors, tenants.FromHeader(names[0], names[1:]...))
		case "cookie":
			rs.Contributors = append(rs.Contributors, tenants.FromCookie(c.String("tenancy.resolve.cookie")))
		case "path":
			rs.Contributors = append(rs.Contributors, tenants.FromPath())
		case "query":
			rs.Contributors = append(rs.Contributors, tenants.FromQuery())
		}
	}
	return rs
}

func (h *house) edgeConfig() router.EdgeConfig {
	c := h.config
	// The data API bounds a body by the tenant's own setting; this is what nobody's may pass.
	cfg := router.EdgeConfig{MaxBody: max(c.Int64("rest.max_body"), 64<<20), Logger: h.log}
	cfg.Origins = func(r *http.Request) []string { return h.directory.Origins(r, h.byHost) }
	order := c.Strings("tenancy.resolve.order")
	cfg.PathTenant = slices.Contains(order, "path")
	if slices.Contains(order, "query") {
		cfg.QueryTenant = "__tenant"
	}
	for _, network := range c.Strings("tenancy.trusted_proxies") {
		prefix, err := netip.ParsePrefix(network)
		if err != nil {
			addr := netip.MustParseAddr(network) // one or the other: config.check saw to it
			prefix = netip.PrefixFrom(addr, addr.BitLen())
		}
		cfg.TrustedProxies = append(cfg.TrustedProxies, prefix)
	}
	return cfg
}

// adoptedRecheck is how old the schema of an adopted database may be.
const adoptedRecheck = time.Minute

// restDefaults are the configured options of the data API, read once: what differs by tenant is laid over them.
func (c *config) restDefaults() rest.Options {
	return rest.Options{
		Schemas: c.Strings("rest.schemas"), ExtraSearchPath: c.Strings("rest.extra_search_path"), AnonRole: c.String("rest.anon_role"),
		MaxRows: c.Int64("rest.max_rows"), MaxBody: c.Int64("rest.max_body"), TxEnd: c.String("rest.tx_end"), PreRequest: c.String("rest.pre_request"),
		NoAggregates: !c.Bool("rest.aggregates"), Plan: c.Bool("rest.plan"), Timing: c.Bool("rest.server_timing"),
	}
}

// restOptions is what the data API needs to know of one request: the tenant's schema, and what the host decided for it.
func (h *house) restOptions(r *http.Request) (rest.Options, error) {
	session, err := tenants.FromContext(r.Context())
	if err != nil {
		return rest.Options{}, err
	}
	t := session.Tenant()
	if t == nil {
		return rest.Options{}, tenants.ErrNoTenant
	}
	db, err := h.directory.Database(r.Context(), t.Database)
	if err != nil {
		return rest.Options{}, fmt.Errorf("%w: %w", tenants.ErrUnavailable, err)
	}
	o := *h.restDefaults.Load()
	o.Schemas = effective(h, t, "rest.schemas", o.Schemas)
	o.ExtraSearchPath = effective(h, t, "rest.extra_search_path", o.ExtraSearchPath)
	o.AnonRole = effective(h, t, "rest.anon_role", o.AnonRole)
	o.MaxRows = effective(h, t, "rest.max_rows", o.MaxRows)
	o.MaxBody = effective(h, t, "rest.max_body", o.MaxBody)
	if rows := h.directory.Limits(t, tenants.Limits{}).Rows; rows > 0 {
		o.MaxRows = min(o.MaxRows, int64(rows))
	}
	o.TxEnd = effective(h, t, "rest.tx_end", o.TxEnd)
	o.PreRequest = effective(h, t, "rest.pre_request", o.PreRequest)
	o.Tenant, o.Claims = t.ID.String(), session.Claims()
	if o.Role = session.Role(); o.Role == "" {
		o.Role = o.AnonRole
	}
	o.NoAggregates = !effective(h, t, "rest.aggregates", !o.NoAggregates)
	o.Timing = effective(h, t, "rest.server_timing", o.Timing)
	o.Credential, o.Resolution = spentBefore(r.Context())
	// A plan shows policies and everybody's statistics: never where there are others.
	o.Plan = db.Kind == catalog.Dedicated && effective(h, t, "rest.plan", o.Plan)
	o.Fingerprint, o.Database = db.SchemaChain+"/"+db.Fingerprint, db.ID.String()
	if db.Adopted {
		o.Fingerprint, o.Recheck = o.Database, adoptedRecheck // its owner makes DDL without us
		o.Tenant = ""                                         // nothing of it is bound to tenants: it holds one
	}
	return o, nil
}

// effective is the tenant's own value of a key, else everybody's, else the configured one. Nothing is decoded where
// nothing was set.
func effective[T any](h *house, t *catalog.Tenant, key string, configured T) T {
	value := h.directory.Setting(t, key)
	if value == nil {
		return configured
	}
	var own T // not decoded into configured: a list would be written over for everybody
	if err := json.Unmarshal(value, &own); err != nil {
		h.log.Error("setting does not fit its key", "key", key, "tenant", t.ID, "error", err)
		return configured
	}
	return own
}

// How a service stops: it says that it is not ready and goes on serving for a moment, so that a balancer can notice; then
// requests may finish; then the rest is closed.
const (
	drainDelay = 2 * time.Second
	drainLimit = 25 * time.Second
)

// listeners are the two doors. They are open before anything is served, so that a port of 0 can be told.
type listeners struct{ public, admin net.Listener }

func (l listeners) publicURL() string { return "http://" + l.public.Addr().String() }
func (l listeners) adminURL() string  { return "http://" + l.admin.Addr().String() }

func (l listeners) close() error { return errors.Join(l.public.Close(), l.admin.Close()) }

func (c *config) listen() (listeners, error) {
	public, err := net.Listen("tcp", c.String("listen"))
	if err != nil {
		return listeners{}, &coded{err: c.problem("listen", "cannot listen: %v", err), code: exitFailure}
	}
	admin, err := net.Listen("tcp", c.String("admin.listen"))
	if err != nil {
		_ = public.Close()
		return listeners{}, &coded{err: c.problem("admin.listen", "cannot listen: %v", err), code: exitFailure}
	}
	return listeners{public, admin}, nil
}

// run serves until ctx ends and everything lent is back. ready is called when requests are answered.
func (h *house) run(ctx context.Context, l listeners, delay time.Duration, ready func(context.Context) error) error {
	public, err := h.publicHandler()
	if err != nil {
		return err
	}
	admin, err := h.adminHandler()
	if err != nil {
		return err
	}
	if err := h.directory.Load(ctx); err != nil {
		h.log.Warn("catalog does not answer yet", "error", err)
	}
	// What serves goes on for a while after ctx has ended; a part that fails ends all.
	serving, stopServing := context.WithCancel(context.WithoutCancel(ctx))
	defer stopServing()
	parts, failed := errgroup.WithContext(serving)
	parts.Go(func() error { return unlessDone(failed, h.directory.Run(failed)) })
	parts.Go(func() error { return unlessDone(failed, h.router.Run(failed)) })
	if h.config.Bool("jobs.enabled") && !h.catalog.ReadOnly() {
		parts.Go(func() error { return unlessDone(failed, h.runner.Run(failed)) })
	}
	doors, stopDoors := context.WithCancel(failed)
	defer stopDoors()
	var listening errgroup.Group
	for _, door := range []struct {
		handler http.Handler
		l       net.Listener
	}{{public, l.public}, {admin, l.admin}} {
		listening.Go(func() error {
			err := serveUntil(doors, newServer(h.health.windDown(door.handler), h.log), router.Listener(door.l), drainLimit)
			if err != nil {
				stopServing() // a door that closed by itself closes the house
			}
			return err
		})
	}
	if !h.config.Bool("tenancy.enabled") && !h.catalog.ReadOnly() {
		if _, err := h.service.EnsureDefault(ctx); err != nil {
			h.log.Error("the only tenant could not be made", "tenant", tenants.DefaultTenant, "error", err)
		}
	}
	if ready != nil {
		parts.Go(func() error { return unlessDone(failed, ready(failed)) })
	}
	select {
	case <-ctx.Done():
		h.health.draining.Store(true)
		h.log.Info("draining")
		select {
		case <-time.After(delay):
		case <-failed.Done():
		}
	case <-failed.Done():
	}
	stopDoors()
	err = listening.Wait()
	h.router.Close() // while it is still heard of: what it had is free for others when all of it is closed
	stopServing()
	return errors.Join(parts.Wait(), err, h.verifier.Close())
}

// unlessDone forgets the error of a part that was told to stop.
func unlessDone(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}
