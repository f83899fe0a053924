package router

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router/internal/budget"
	"github.com/rowhouse/rowhouse/router/internal/lease"
)

// poolKey is a database and all that makes an old connection to it wrong: what is stale cannot be found. Tenants are no
// part of it: those of a shared database share its pool.
type poolKey struct {
	database       catalog.DatabaseID
	login          catalog.Login
	version, epoch int64
}

func keyOf(db *catalog.Database) poolKey {
	return poolKey{db.ID, catalog.LoginData, db.CredentialVersion, db.Epoch}
}

// pool is the connections to one database.
type pool struct {
	*pgxpool.Pool
	router *Router
	key    poolKey
	server *server
	hosts  []string // of the server when the pool was made; nil when not known

	// Connections made before born rose are not used any more. Reset alone is no fence: one that is being made at that
	// moment would be handed out.
	born     atomic.Int64
	plans    atomic.Int64 // the database's plan epoch that the connections know
	released atomic.Int64 // when a connection last came back, in Unix nanoseconds
}

// openPool makes the pool of a database. It reads the credential and dials nothing.
func (rt *Router) openPool(ctx context.Context, key poolKey) (*pool, error) {
	ctx, cancel := context.WithTimeout(ctx, rt.cfg.ConnectTimeout)
	defer cancel()
	db, err := rt.dir.Database(ctx, key.database)
	if err != nil {
		return nil, err
	}
	cc, err := rt.dir.ConnConfig(ctx, key.database, key.login)
	if err != nil {
		return nil, err
	}
	p := &pool{router: rt, key: key, server: rt.server(db.Server)}
	if row := rt.serverRow(ctx, db.Server); row != nil {
		p.hosts = row.Hosts
	}
	p.plans.Store(db.PlanEpoch)
	if db.Adopted { // ours have these as settings of their logins
		cc.RuntimeParams["client_connection_check_interval"] = "500ms"
		cc.RuntimeParams["idle_in_transaction_session_timeout"] = "10s"
	}
	cfg, err := p.config(cc)
	if err != nil {
		return nil, err
	}
	if p.Pool, err = pgxpool.NewWithConfig(context.WithoutCancel(ctx), cfg); err != nil {
		return nil, err
	}
	p.server.add(p)
	for _, other := range rt.pools.Keys() { // an older generation leaves when its last borrower does
		if other.database == key.database && other.login == key.login && other != key {
			rt.pools.Forget(other)
		}
	}
	return p, nil
}

// A connection that was used a moment ago is taken as it is, one that was idle is looked at, and one that was idle for
// long is asked: what lies between may have forgotten it.
const (
	justUsed = 5 * time.Millisecond
	longIdle = 30 * time.Second
)

// template is parsed only because pgxpool takes no configuration that its parser has not made. Nothing of it is used.
const template = "host=localhost port=5432 user=nobody password=none dbname=none sslmode=disable passfile=/dev/null"

// config fills a pool's configuration. The limits that pgx counts itself are backstops: a dial waits for its permit within
// ConnectTimeout, and the budget's own timer is the true limit.
func (p *pool) config(cc *pgx.ConnConfig) (*pgxpool.Config, error) {
	cfg, err := pgxpool.ParseConfig(template)
	if err != nil {
		return nil, errors.New("the environment spoils every connection string (PGSERVICE?)")
	}
	rc := p.router.cfg
	cfg.ConnConfig = cc
	cfg.MaxConns = int32(min(rc.MaxConnsPerDatabase, p.server.budget.Share()))
	cfg.MinConns, cfg.MinIdleConns = 0, 0
	cfg.MaxConnIdleTime, cfg.HealthCheckPeriod = rc.IdleTimeout, max(rc.IdleTimeout/4, time.Millisecond)
	cfg.MaxConnLifetime, cfg.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	cfg.PingTimeout = time.Second
	cfg.ShouldPing = func(_ context.Context, params pgxpool.ShouldPingParams) bool {
		idle := params.IdleDuration
		return idle > longIdle || idle > justUsed && !isQuiet(params.Conn.PgConn().Conn())
	}
	cfg.AfterConnect = p.greet

	cc.ConnectTimeout = rc.AcquireTimeout + rc.ConnectTimeout
	cc.DialFunc = p.server.budget.Dial
	cc.StatementCacheCapacity, cc.DescriptionCacheCapacity = 64, 0
	cc.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	cc.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 2 * time.Second}
	}
	replica := rc.Instance.Instance.Compact()
	cc.RuntimeParams["application_name"] = fmt.Sprintf("rowhouse/%s/%.45s", replica[len(replica)-8:], cc.Database)
	return cfg, nil
}

// errIdentity means that a connection led to another database than the catalog says.
var errIdentity = errors.New("database is not the one that the catalog means")

const bornKey = "rowhouse.born"

// greet asks a new connection which database it is, and prepares the frame, in one flight. It ends the time to connect.
func (p *pool) greet(ctx context.Context, conn *pgx.Conn) error {
	a, _ := ctx.Value(acquisitionKey{}).(*acquisition)
	if a == nil { // nobody asked for this connection
		return errors.New("connection made outside a request")
	}
	conn.PgConn().CustomData()[bornKey] = a.born
	var id string
	pipeline := conn.PgConn().StartPipeline(ctx)
	pipeline.SendQueryParams("select database_id::text from rowhouse.identity", nil, nil, nil, nil)
	n := p.router.frame.prepare(pipeline)
	err := pipeline.Sync()
	for i := 0; i <= n && err == nil; i++ {
		var result any
		if result, err = pipeline.GetResults(); err != nil {
			break
		}
		if rows, ok := result.(*pgconn.ResultReader); ok {
			for rows.NextRow() {
				id = string(rows.Values()[0])
			}
			_, err = rows.Close()
		}
	}
	if closing := pipeline.Close(); err == nil {
		err = closing
	}
	switch {
	case err != nil:
		return fmt.Errorf("greeting: %w", err)
	case id != p.key.database.String():
		p.router.log.ErrorContext(ctx, "a connection led to the wrong database", "database", p.key.database, "found", id)
		return errIdentity
	}
	a.ticket.Connected()
	return nil
}

// acquisition is the context under which a connection is asked for. Whoever makes one sees the caller's values and not its
// deadline, so the deadline stands among the values.
type acquisition struct {
	context.Context
	ticket budget.Ticket
	born   int64
}

type acquisitionKey struct{}

// Value finds the budget's ticket and the acquisition itself.
func (a *acquisition) Value(key any) any {
	switch key {
	case budget.TicketKey():
		return &a.ticket
	case acquisitionKey{}:
		return a
	}
	return a.Context.Value(key)
}

// acquire takes a connection that is not older than the last reset.
func (p *pool) acquire(ctx context.Context) (*pgxpool.Conn, error) {
	deadline, _ := ctx.Deadline()
	for {
		a := &acquisition{Context: ctx, ticket: budget.Ticket{Deadline: deadline}, born: p.born.Load()}
		conn, err := p.Acquire(a)
		if err != nil {
			return nil, err
		}
		if born, _ := conn.Conn().PgConn().CustomData()[bornKey].(int64); born >= p.born.Load() {
			return conn, nil
		}
		discard(conn)
	}
}

// reset has every connection replaced before it is used again.
func (p *pool) reset() {
	p.born.Add(1)
	p.Reset()
}

// retire closes what is idle; what is lent closes when it comes back.
func (p *pool) retire() { p.reset() }

func (p *pool) close() {
	p.Close()
	p.server.remove(p)
}

// isCurrent says whether the pool still leads where the catalog says. Plans that a migration made stale are dropped.
func (p *pool) isCurrent(ctx context.Context, db *catalog.Database) bool {
	if known := p.plans.Load(); db.PlanEpoch > known && p.plans.CompareAndSwap(known, db.PlanEpoch) {
		p.reset()
	}
	row := p.router.serverRow(ctx, db.Server)
	if row != nil && p.router.cfg.Registry == nil && p.server.budget.Share() != row.MaxConnections {
		p.server.budget.SetShare(row.MaxConnections)
	}
	return row == nil || p.hosts == nil || slices.Equal(row.Hosts, p.hosts)
}

// loan is a connection and the pool that it belongs to, lent together.
type loan struct {
	conn  *pgxpool.Conn
	raw   *pgx.Conn
	lease lease.Lease[poolKey, *pool]

	account *account
}

func (l *loan) pgx() *pgx.Conn { return l.raw }

// giveBack ends the loan, once. A connection that is busy, closed or in a transaction is destroyed by the pool.
func (l *loan) giveBack() {
	p := l.lease.Value()
	l.conn.Release()
	p.released.Store(time.Now().UnixNano())
	p.server.budget.Nudge()
	l.lease.Release()
	l.account.leave()
}

// discard closes a connection, in a goroutine of its own: it waits until the server has let go. The pool counts it until
// then, and waits for it when it is closed itself.
func discard(conn *pgxpool.Conn) {
	go func() {
		defer conn.Release()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Conn().Close(ctx)
	}()
}

// borrow lends a connection to a database. What it answers has the outcome "not_started".
func (rt *Router) borrow(ctx context.Context, s *scope) (*loan, error) {
	outer := ctx
	deadline := time.Now().Add(rt.cfg.AcquireTimeout)
	if err := s.account.enter(ctx, deadline); err != nil {
		return nil, refuse(outer, err)
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	var err error
	for range 3 {
		var l *loan
		var again bool
		if l, again, err = rt.tryBorrow(ctx, s.database); err == nil {
			l.account = s.account
			return l, nil
		}
		if !again {
			break
		}
	}
	s.account.leave()
	return nil, refuse(outer, err)
}

// errMoved means that the pool led to where the server was.
var errMoved = errors.New("server has moved")

// tryBorrow says to try again when a new pool may do better: the server has moved, or the login was refused and its
// credential may have changed since the pool was made.
func (rt *Router) tryBorrow(ctx context.Context, db *catalog.Database) (l *loan, again bool, err error) {
	le, err := rt.pools.Acquire(ctx, keyOf(db))
	if err != nil {
		return nil, false, err
	}
	p := le.Value()
	if !p.isCurrent(ctx, db) {
		rt.pools.Forget(p.key)
		le.Release()
		return nil, true, errMoved
	}
	conn, err := p.acquire(ctx)
	if err != nil {
		if again = isLoginRefused(err); again {
			rt.pools.Forget(p.key)
		}
		le.Release()
		return nil, again, err
	}
	return &loan{conn: conn, raw: conn.Conn(), lease: le}, false, nil
}

func isLoginRefused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000")
}

// server is what all pools of a PostgreSQL server share. It outlives them.
type server struct {
	budget *budget.Budget

	mu    sync.Mutex // guards the fields below
	pools map[*pool]struct{}
}

// defaultShare is the budget of a server of which nothing is known.
const defaultShare = 80

func (rt *Router) server(id catalog.ServerID) *server {
	row := rt.serverRow(context.Background(), id)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	s := rt.servers[id]
	if s == nil {
		s = &server{pools: map[*pool]struct{}{}}
		share := defaultShare
		if row != nil {
			share = row.MaxConnections
		}
		s.budget = budget.New(budget.Config{Share: share, ConnectTimeout: rt.cfg.ConnectTimeout, Reclaim: s.reclaim})
		rt.servers[id] = s
	}
	return s
}

// serverRow is what the directory knows of a server, if it knows servers at all.
func (rt *Router) serverRow(ctx context.Context, id catalog.ServerID) *catalog.Server {
	d, ok := rt.dir.(interface {
		Server(context.Context, catalog.ServerID) (*catalog.Server, error)
	})
	if !ok {
		return nil
	}
	row, err := d.Server(ctx, id)
	if err != nil {
		return nil
	}
	return row
}

func (s *server) add(p *pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pools[p] = struct{}{}
}

func (s *server) remove(p *pool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.pools, p)
}

// floor is how long a connection stays where it was last used: about two dials. Without it, two databases would take each
// other's only connection in turns.
const floor = 20 * time.Millisecond

// reclaim closes one idle connection of the database that was used least recently.
func (s *server) reclaim() bool {
	for {
		p := s.longestIdle()
		if p == nil {
			return false
		}
		if rest := floor - time.Since(time.Unix(0, p.released.Load())); rest > 0 {
			time.Sleep(rest)
			continue // another may be idle by now, or this one busy
		}
		idle := p.AcquireAllIdle(context.Background())
		for i, conn := range idle {
			if i == 0 {
				discard(conn)
			} else {
				conn.Release()
			}
		}
		if len(idle) > 0 {
			return true
		}
	}
}

func (s *server) longestIdle() *pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *pool
	for p := range s.pools {
		if (oldest == nil || p.released.Load() < oldest.released.Load()) && p.Stat().IdleConns() > 0 {
			oldest = p
		}
	}
	return oldest
}
