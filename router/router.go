package router

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router/internal/lease"
	"github.com/rowhouse/rowhouse/tenants"
)

// Directory says who lives where. It is satisfied by *tenants.Directory, in memory, and *catalog.Catalog, straight.
//
// One that also has Server(ctx, catalog.ServerID) (*catalog.Server, error) is asked for the budget of a server and for
// its hosts, so that a changed address takes effect.
type Directory interface {
	// Tenant finds a tenant by id, name or alias.
	Tenant(ctx context.Context, ref string) (*catalog.Tenant, error)
	// Database finds a database.
	Database(ctx context.Context, id catalog.DatabaseID) (*catalog.Database, error)
	// ConnConfig says how to connect to a database as one of its logins. It is asked when a pool is made.
	ConnConfig(ctx context.Context, id catalog.DatabaseID, login catalog.Login) (*pgx.ConnConfig, error)
}

// Registry knows the other replicas. It is satisfied by *catalog.Catalog.
type Registry interface {
	// Renew reports that this process lives and learns its share of each server's connections.
	Renew(ctx context.Context, r catalog.Report) (*catalog.Grant, error)
}

// DefaultRoles are the roles that requests run as in a database that rowhouse made.
var DefaultRoles = []string{"anon", "authenticated", "service_role"}

// Config is how a router works. The zero value works.
type Config struct {
	// MaxPools is how many databases stay connected when nobody is using them.
	// Databases in use are never cut off, so the number open can exceed it for a while.
	//
	// Zero means 1000.
	MaxPools int

	// MaxConnsPerDatabase is how many connections this process opens to one database at most.
	//
	// Zero means 10.
	MaxConnsPerDatabase int

	// IdleTimeout is how long a connection may do nothing before it is closed.
	//
	// Zero means 60 s.
	IdleTimeout time.Duration

	// AcquireTimeout is how long a transaction waits for a connection before it is refused as ErrOverloaded.
	//
	// Zero means 5 s.
	AcquireTimeout time.Duration

	// ConnectTimeout is how long a server has to accept a connection and to tell which database it leads to.
	//
	// Zero means 3 s.
	ConnectTimeout time.Duration

	// Limits are those of a tenant whose settings name none (limits.*). In a shared database no tenant has more than half
	// of MaxConnsPerDatabase at a time, whatever its limits say. Rows are the data API's to count.
	//
	// Zero ConcurrentRequests mean 8, a negative number no limit. Zero of the others means none.
	Limits tenants.Limits

	// Roles are the database roles that a transaction may run as.
	//
	// Nil means DefaultRoles.
	Roles []string

	// AnonRole is the role of a request whose credential names none. A tenant's setting rest.anon_role comes first.
	//
	// Empty means anon, or with NoAnon that such requests are refused.
	AnonRole string

	// NoAnon refuses requests whose credential names no role, if the tenant's setting rest.anon_role does not allow them.
	NoAnon bool

	// Registry tells Run how much of each server's budget is ours. Until Run has asked it, that is nothing, and transactions
	// wait.
	//
	// Nil: this process has the whole of it.
	Registry Registry

	// Instance is what Run reports of this process. Its revision is filled in.
	//
	// A zero id means a new one.
	Instance catalog.Report

	// Recording says what is kept of the requests of a tenant that come through Middleware, in the tenant's own database. Run
	// writes the records; what it cannot write is dropped and counted.
	//
	// Nil keeps none.
	Recording func(t *catalog.Tenant) Recording

	// Audit keeps what BeginUnscoped is asked for, before anything is begun; an error of it refuses the transaction. It is
	// satisfied by catalog.Catalog.Note.
	//
	// Nil refuses every BeginUnscoped.
	Audit func(ctx context.Context, e catalog.Event) error

	// Logger is told what went wrong with databases and servers.
	//
	// Nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	c.MaxPools = or(c.MaxPools, 1000)
	c.MaxConnsPerDatabase = or(c.MaxConnsPerDatabase, 10)
	c.IdleTimeout = or(c.IdleTimeout, 60*time.Second)
	c.AcquireTimeout = or(c.AcquireTimeout, 5*time.Second)
	c.ConnectTimeout = or(c.ConnectTimeout, 3*time.Second)
	c.Limits.ConcurrentRequests = max(0, or(c.Limits.ConcurrentRequests, 8))
	if c.Roles == nil {
		c.Roles = DefaultRoles
	}
	if c.AnonRole == "" && !c.NoAnon {
		c.AnonRole = "anon"
	}
	if c.Instance.Instance.IsZero() {
		c.Instance.Instance = catalog.NewID[catalog.Instance]()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func or[T comparable](value, otherwise T) T {
	var zero T
	if value == zero {
		return otherwise
	}
	return value
}

func (c Config) validate() error {
	switch {
	case c.MaxPools < 0 || c.MaxConnsPerDatabase < 0:
		return errors.New("router: a number of pools or connections is negative")
	case c.IdleTimeout < 0 || c.AcquireTimeout < 0 || c.ConnectTimeout < 0:
		return errors.New("router: a timeout is negative")
	case c.Limits.RequestsPerSecond < 0 || c.Limits.StatementTimeout < 0:
		return errors.New("router: a limit is negative")
	case c.NoAnon && c.AnonRole != "":
		return errors.New("router: an anonymous role is given and refused at once")
	case c.AnonRole != "" && !slices.Contains(c.Roles, c.AnonRole):
		return fmt.Errorf("router: anonymous role %q is not among the roles", c.AnonRole)
	}
	for _, role := range c.Roles {
		if role == "" || len(role) > 63 || slices.Contains([]byte(role), 0) {
			return fmt.Errorf("router: %q cannot be a role", role)
		}
	}
	return nil
}

// Router lends connections of tenants' databases. It is safe for concurrent use.
type Router struct {
	dir    Directory
	cfg    Config
	log    *slog.Logger
	frame  *frame
	frames sync.Map // of adopted databases, by their roles
	pools  *lease.Cache[poolKey, *pool]

	held time.Duration // how long a transaction waits for its tenant to have a home again

	accounts   accounts
	requests   *records
	host       *account // what BeginUnscoped uses
	unscoped   atomic.Int64
	member     member
	background sync.WaitGroup // what nobody waits for but Close

	mu      sync.Mutex // guards servers
	servers map[catalog.ServerID]*server
}

// New makes a router over a directory. It connects to nothing yet.
func New(dir Directory, cfg Config) (*Router, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	rt := &Router{dir: dir, cfg: cfg, log: cfg.Logger, frame: newFrame(cfg.Roles), requests: newRecords(), servers: map[catalog.ServerID]*server{}, held: held}
	rt.accounts.tenants = map[catalog.TenantID]*account{}
	rt.host = &account{all: &rt.accounts, limits: tenants.Limits{ConcurrentRequests: atOnce}}
	rt.pools = lease.New(lease.Config[poolKey, *pool]{
		Size: cfg.MaxPools, Open: rt.openPool, Retire: (*pool).retire, Close: (*pool).close,
	})
	return rt, nil
}

// drain is how long Close waits for what is lent.
const drain = 30 * time.Second

// Close lends nothing more and waits until everything lent is back and closed, at most half a minute. Then it tells the
// registry that this process has nothing open any more. Run may end before or after it.
func (rt *Router) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), drain)
	defer cancel()
	defer rt.background.Wait()
	stop := rt.stay(ctx)
	err := rt.pools.Close(ctx)
	stop()
	if err != nil {
		rt.log.Warn("router closed while connections were lent", "pools", rt.pools.Stat().Draining)
	}
	rt.leave(ctx)
}

// Begin begins a transaction that sees only the rows of ctx's tenant. See BeginTx.
func (rt *Router) Begin(ctx context.Context) (pgx.Tx, error) { return rt.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx begins a transaction in the database of ctx's tenant, in its scope and as its session's role.
//
// The transaction belongs to the tenant: each of its methods refuses a context of another one with ErrWrongTenant. The
// first of Commit and Rollback gives the connection back. A nested Begin is a savepoint. Large objects are not available:
// no policy fences them. For a read-only tenant the transaction is READ ONLY, and asking for ReadWrite is ErrReadOnly.
//
// It answers tenants.ErrNoTenant without a tenant in ctx (the host's session has none), what the tenant's state says,
// ErrRateLimited, ErrOverloaded or ErrUnavailable.
func (rt *Router) BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error) {
	var tx *scopedTx
	err := rt.run(ctx, opts, func(s *scope) (broken *server, err error) {
		tx, broken, err = rt.begin(ctx, s)
		return broken, err
	})
	if err != nil {
		return nil, err
	}
	return tx, nil
}

// begin borrows a connection and sends the scope's flight. When that fails because the connection was dead, nothing ran
// and another one of that server may do better.
func (rt *Router) begin(ctx context.Context, s *scope) (tx *scopedTx, broken *server, err error) {
	l, err := rt.borrow(ctx, s)
	if err != nil {
		return nil, nil, err
	}
	// A server that lives answers this at once, whatever the transaction will do.
	opening, cancel := context.WithTimeout(ctx, rt.cfg.ConnectTimeout)
	_, err = flight(opening, l.pgx(), l.opens(s))
	late := opening.Err() != nil
	cancel()
	switch {
	case err != nil && ctx.Err() == nil && late: // its peer is gone, and so are those of its neighbours
		broken = l.server()
		l.lease.Value().reset()
		err = &refusal{kind: ErrUnavailable, cause: errors.New("connection does not answer")}
	case l.isHunted(ctx, err):
		broken = l.server()
	case err == nil:
		l.opened(s)
		return &scopedTx{loan: l, tenant: s.tenant, readOnly: s.readOnly, unscoped: s.unscoped}, nil, nil
	case l.pgx().IsClosed():
		broken = l.server()
	case s.asks && isGateShut(err):
		err = &refusal{kind: ErrMoving, cause: bare(err)}
		_, _ = flight(ctx, l.pgx(), func(p *pgconn.Pipeline) int { // many may come again: the connection is worth keeping
			p.SendQueryPrepared(stmtRollback, nil, nil, nil)
			return 1
		})
	}
	l.giveBack() // which destroys what is left in a transaction
	return nil, broken, refuse(ctx, err)
}

// BeginFunc runs fn in a transaction and commits it. An error of fn comes back as it is, after the rollback; so does a
// panic. If the connection was lost in fn, the error is wrapped: its Outcome() is "rolled_back". Called within fn,
// BeginFunc opens a transaction of its own, on another connection; tx.Begin is a savepoint. Within one request, or one
// tenants.With, both count as one against the tenant's concurrency.
func (rt *Router) BeginFunc(ctx context.Context, fn func(pgx.Tx) error) error {
	tx, err := rt.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	switch err := fn(tx); {
	case err != nil && tx.Conn().IsClosed():
		return &ended{err, rolledBack}
	case err != nil:
		return err
	}
	return tx.Commit(ctx)
}

// Lend lends a connection for one transaction that fn sends by itself, in one flight if it likes. Fn calls open on its
// pipeline first: that queues BEGIN and the tenant's scope and says how many results they produce. The rest, COMMIT
// included, is fn's. A connection that fn leaves in a transaction is destroyed.
//
// When fn's error says that nothing ran (Outcome() "not_started") because the connection broke, fn is called again with
// another one, a few times; so it is when all was rolled back because a request to cancel the connection's transaction
// before came late.
func (rt *Router) Lend(ctx context.Context, opts pgx.TxOptions, fn func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error) error {
	return rt.run(ctx, opts, func(s *scope) (*server, error) { return rt.lend(ctx, s, fn) })
}

// run tries to begin a transaction until that succeeds, or fails for another reason than a connection that broke before
// anything was sent or a gate that was shut.
func (rt *Router) run(ctx context.Context, opts pgx.TxOptions, try func(*scope) (*server, error)) error {
	s, err := rt.scope(ctx, opts)
	if err != nil {
		return err
	}
	var shut closure
	for n := 0; ; {
		broken, err := s.tryAt(try)
		switch {
		case err == nil:
			return nil
		case s.asks && isNotAdmitted(err):
			if s, err = rt.readmit(ctx, opts, s, &shut, err); err != nil {
				return err
			}
		case broken != nil && broken.again(ctx, n):
			n++
		case shut.crowded(ctx, err):
		default:
			return err
		}
	}
}

func (rt *Router) lend(ctx context.Context, s *scope, fn func(*pgx.Conn, func(*pgconn.Pipeline) int) error) (broken *server, err error) {
	l, err := rt.borrow(ctx, s)
	if err != nil {
		return nil, err
	}
	defer l.giveBack()
	switch err = fn(l.pgx(), l.opens(s)); {
	case err == nil:
		l.opened(s)
	case isBroken(err), l.isHunted(ctx, err):
		broken = l.server()
	}
	return broken, err
}
