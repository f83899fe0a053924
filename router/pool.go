package router

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
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

// key is that of the pool whose connections the transaction needs.
func (s *scope) key() poolKey {
	key := keyOf(s.database)
	if s.unscoped {
		key.login = catalog.LoginUnscoped
	}
	return key
}

// pool is the connections to one database.
type pool struct {
	*pgxpool.Pool
	router *Router
	key    poolKey
	server *server
	hosts  []string // of the server when the pool was made; nil when not known
	frame  *frame

	which, identity string // the question which database it is, and the right answer
	gate            gate

	// Connections made before born rose are not used any more. Reset alone is no fence: one that is being made at that
	// moment would be handed out.
	born     atomic.Int64
	plans    atomic.Int64 // the database's plan epoch that the connections know
	released atomic.Int64 // when a connection last came back, in Unix nanoseconds

	reclaimed atomic.Int64 // when one was last taken for another database
	filled    atomic.Int64 // when the server last had no connection left, in Unix nanoseconds
	full      atomic.Int64 // until when no connection is asked for: the server had none left, in Unix nanoseconds; 0 is not
	doubtful  atomic.Int64 // until when even a connection just used is asked before it is lent
}

// How a connection is asked which database it leads to. One that we made says so itself; of an adopted one we know which
// it was when it was taken.
const (
	identityQuery = "select database_id from rowhouse.identity" // as text: a cast would cost a cold backend a third more
	adoptedQuery  = `select (select system_identifier::text from pg_catalog.pg_control_system()) || '/' || oid
	                   from pg_catalog.pg_database where datname = pg_catalog.current_database()`
)

// openPool makes the pool of a database. It reads the credential and dials nothing.
func (rt *Router) openPool(ctx context.Context, key poolKey) (*pool, error) {
	ctx, cancel := context.WithTimeout(ctx, rt.cfg.ConnectTimeout)
	defer cancel()
	db, err := rt.dir.Database(ctx, key.database)
	if err != nil {
		return nil, err
	}
	server := rt.server(db.Server)
	if d, ok := rt.dir.(interface{ Load(context.Context) error }); ok && server.login(key) != nil {
		_ = d.Load(ctx) // its login was refused: what is remembered may be older than what the catalog says
	}
	cc, err := rt.dir.ConnConfig(ctx, key.database, key.login)
	if err != nil {
		return nil, err
	}
	p := &pool{router: rt, key: key, server: server, frame: rt.frameOf(db), which: identityQuery, identity: db.ID.String()}
	if db.Adopted {
		p.which, p.identity = adoptedQuery, db.Identity
	}
	p.gate.soft, p.gate.limit, p.gate.room = softDedicated, p.limit, p.server.budget.HasRoom
	if db.Kind == catalog.Shared {
		p.gate.soft = softShared
	}
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

// limit is how many connections the database may have now. The pool's own limit is fixed when it is made, so it is the
// widest there can be and the gate keeps to this one.
func (p *pool) limit() int {
	return min(p.router.cfg.MaxConnsPerDatabase, int(p.server.share.Load()))
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
	cfg.MaxConns = int32(min(rc.MaxConnsPerDatabase, math.MaxInt32))
	cfg.MinConns, cfg.MinIdleConns = 0, 0
	cfg.MaxConnIdleTime, cfg.HealthCheckPeriod = rc.IdleTimeout, max(rc.IdleTimeout/4, time.Millisecond)
	cfg.MaxConnLifetime, cfg.MaxConnLifetimeJitter = 30*time.Minute, 5*time.Minute
	cfg.PingTimeout = time.Second
	cfg.ShouldPing = func(_ context.Context, params pgxpool.ShouldPingParams) bool {
		idle := params.IdleDuration
		return idle > longIdle || p.isDoubtful() || idle > justUsed && !isQuiet(params.Conn.PgConn().Conn())
	}
	cfg.BeforeConnect = p.attempt
	cfg.AfterConnect = p.greet
	cfg.BeforeClose = p.gone

	cc.RuntimeParams["lock_timeout"] = lockTimeout
	cc.ConnectTimeout = rc.AcquireTimeout + rc.ConnectTimeout
	cc.DialFunc = p.server.budget.Dial
	cc.LookupFunc = p.server.primary.lookup
	cc.OnPgError = p.hear
	cc.Tracer = p
	cc.StatementCacheCapacity, cc.DescriptionCacheCapacity = 64, 0
	cc.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
	cc.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &canceller{pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: answering}}
	}
	replica := rc.Instance.Instance.Compact()
	cc.RuntimeParams["application_name"] = fmt.Sprintf("rowhouse/%s/%.45s", replica[len(replica)-8:], cc.Database)
	return cfg, nil
}

// attempt begins to make a connection, if there is reason to.
func (p *pool) attempt(_ context.Context, cc *pgx.ConnConfig) error {
	now := time.Now()
	login := p.server.login(p.key)
	if login != nil {
		if err := login.try(now); err != nil {
			return err
		}
	}
	if err := p.server.breaker.try(now); err != nil {
		if login != nil {
			login.spared()
		}
		return err
	}
	if now.Sub(time.Unix(0, p.reclaimed.Load())) < thrashing {
		p.server.thrash.Add(1)
	}
	p.server.primary.put(cc)
	return nil
}

// lockTimeout is how long a statement waits for a lock, unless its transaction says otherwise: DDL that holds a table must
// not gather everybody's requests behind it.
const lockTimeout = "2s"

// answering is how long a server may take to answer a request to cancel; then the connection is given up.
const answering = time.Second

// canceller has the server cancel what the end of a context ends, and notes on the connection that it was asked to: the
// request may arrive late, and hit the next transaction.
type canceller struct {
	pgconn.CancelRequestContextWatcherHandler
}

// HandleCancel is called when the context has ended.
func (c *canceller) HandleCancel(ctx context.Context) {
	if t, _ := c.Conn.CustomData()[tagKey].(*tag); t != nil {
		t.cancelled.Store(time.Now().UnixNano())
	}
	c.CancelRequestContextWatcherHandler.HandleCancel(ctx)
}

// The pool hears of every connect that fails, also of one that nobody waits for any more.
var _ pgx.ConnectTracer = (*pool)(nil)

// TraceConnectStart does nothing.
func (p *pool) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}

// TraceConnectEnd hears of a connect that failed. What was connected is greeted next.
func (p *pool) TraceConnectEnd(_ context.Context, data pgx.TraceConnectEndData) {
	if data.Err != nil {
		p.server.missed(p, data.Err)
	}
}

// TraceQueryStart does nothing.
func (p *pool) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}

// TraceQueryEnd does nothing.
func (p *pool) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// doubt is how long connections are asked before they are lent, after the server ended one.
const doubt = time.Second

func (p *pool) isDoubtful() bool {
	until := p.doubtful.Load()
	return until != 0 && time.Now().UnixNano() < until || p.server.breaker.isOpen()
}

// hear listens to every error that a server answers, whoever asked. What ends a connection has probably ended others.
func (p *pool) hear(conn *pgconn.PgConn, err *pgconn.PgError) bool {
	p.server.heard(err.Code)
	if t, _ := conn.CustomData()[tagKey].(*tag); err.Code == "25006" && t != nil && t.writes {
		p.server.doubtWrites(p, conn)
	}
	if strings.HasPrefix(err.Code, "57P") {
		p.doubtful.Store(time.Now().Add(doubt).UnixNano())
	}
	return !isFatal(err)
}

// errIdentity means that a connection led to another database than the catalog says.
var errIdentity = errors.New("database is not the one that the catalog means")

// errUnasked means that pgx wanted a connection that nobody had asked for.
var errUnasked = errors.New("connection made outside a request")

// tag is what we know of a connection.
type tag struct {
	born     int64
	released int64 // when it last came back, in Unix nanoseconds
	gone     bool  // given up, and not counted any more
	writes   bool  // its transaction was begun READ WRITE
	hunted   bool  // its transaction may be hit by a request to cancel the one before

	cancelled atomic.Int64 // when the server was last asked to cancel, in Unix nanoseconds
	asked     bool         // the question to the gate is prepared on it
}

const tagKey = "rowhouse"

func tagOf(conn *pgx.Conn) *tag {
	t, _ := conn.PgConn().CustomData()[tagKey].(*tag)
	return t
}

// greet takes a new connection in, if it leads where it should.
func (p *pool) greet(ctx context.Context, conn *pgx.Conn) error {
	if err := p.ask(ctx, conn); err != nil {
		p.server.missed(p, err)
		return err
	}
	if a, _ := ctx.Value(acquisitionKey{}).(*acquisition); a != nil {
		p.gate.made(&a.visit)
	}
	p.server.primary.made(p.Config().ConnConfig, conn)
	p.server.made(p)
	return nil
}

// ask asks a new connection which database it is, and prepares the frame, in one flight. It ends the time to connect.
func (p *pool) ask(ctx context.Context, conn *pgx.Conn) error {
	a, _ := ctx.Value(acquisitionKey{}).(*acquisition)
	if a == nil {
		return errUnasked
	}
	conn.PgConn().CustomData()[tagKey] = &tag{born: a.born}
	var id string
	pipeline := conn.PgConn().StartPipeline(ctx)
	pipeline.SendQueryParams(p.which, nil, nil, nil, nil)
	n := p.frame.prepare(pipeline)
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
	case id != p.identity:
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
	visit  visit
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

// acquire takes a connection that is not older than the last reset, and a slot to use it. It waits in each queue by turns of
// the tenants, until the deadline.
func (p *pool) acquire(ctx context.Context, tenant catalog.TenantID, deadline time.Time) (*pgxpool.Conn, error) {
	again := false
	for {
		if err := p.blocked(); err != nil {
			return nil, err
		}
		pass, err := p.gate.enter(ctx, tenant, deadline, again)
		if err != nil {
			return nil, err
		}
		until, cancel := ctx, func() {}
		if pass != passIdle { // who finds one idle does not wait: a timer would be for nothing
			until, cancel = context.WithDeadline(ctx, deadline)
		}
		background := isBackground(ctx)
		a := &acquisition{
			Context: until, ticket: budget.Ticket{Deadline: deadline, Key: p, Optional: background || pass != passRequired}, born: p.born.Load(), visit: visit{pass: pass},
		}
		conn, err := p.take(ctx, tenant, a)
		cancel()
		if err == nil && conn != nil {
			p.gate.has(&a.visit)
			return conn, nil
		}
		p.gate.turnBack(&a.visit)
		again = errors.Is(err, budget.ErrFull) && (background || pass != passRequired)
		if err != nil && (!again || ctx.Err() != nil) {
			return nil, err
		}
		if again && background && (time.Until(deadline) < backgroundPause || !pause(ctx, backgroundPause)) {
			return nil, err
		}
	}
}

// take takes a connection of the pool and a slot; neither, and no error, when it is one from before a reset.
func (p *pool) take(ctx context.Context, tenant catalog.TenantID, a *acquisition) (*pgxpool.Conn, error) {
	conn, err := p.Acquire(a)
	if err != nil {
		return nil, err
	}
	if t := tagOf(conn.Conn()); t == nil || t.born < p.born.Load() {
		p.discard(conn)
		return nil, nil
	}
	if err := p.server.inUse.Enter(ctx, tenant, a.ticket.Deadline); err != nil {
		conn.Release()
		if errors.Is(err, budget.ErrFull) {
			err = errTooLate
		}
		return nil, err
	}
	return conn, nil
}

// blocked says why no connection would be made now, if none is idle.
func (p *pool) blocked() error {
	login, full := p.server.login(p.key), p.full.Load()
	if login == nil && full == 0 && !p.server.breaker.isOpen() {
		return nil
	}
	if idle, _ := p.gate.surplus(); idle > 0 {
		return nil
	}
	now := time.Now()
	if wait := time.Unix(0, full).Sub(now); full != 0 && wait > 0 {
		return &refusal{kind: ErrOverloaded, cause: errors.New("server has no connection left"), wait: wait}
	}
	if login != nil {
		if err := login.blocked(now); err != nil {
			return err
		}
	}
	return p.server.breaker.blocked(now)
}

// dialer dials one address, whatever it is asked for.
func (p *pool) dialer(network, address string) pgconn.DialFunc {
	return func(ctx context.Context, _, _ string) (net.Conn, error) {
		return p.server.budget.Dial(ctx, network, address)
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
	if row == nil {
		return true
	}
	if p.router.cfg.Registry == nil && int(p.server.share.Load()) != row.MaxConnections {
		p.server.setShare(row.MaxConnections)
	}
	if p.server.row.Load() != row {
		p.server.know(row)
	}
	return p.hosts == nil || slices.Equal(row.Hosts, p.hosts)
}

// loan is a connection and the pool that it belongs to, lent together.
type loan struct {
	conn  *pgxpool.Conn
	raw   *pgx.Conn
	lease lease.Lease[poolKey, *pool]

	place place
}

func (l *loan) pgx() *pgx.Conn { return l.raw }

// opens queues the beginning of a transaction in a scope.
func (l *loan) opens(s *scope) func(*pgconn.Pipeline) int {
	return func(p *pgconn.Pipeline) int { return s.open(p, tagOf(l.raw)) }
}

// opened says that a transaction was begun in a scope.
func (l *loan) opened(s *scope) {
	if s.asks {
		tagOf(l.raw).asked = true
	}
}

func (l *loan) server() *server { return l.lease.Value().server }

// giveBack ends the loan, once. A connection that is busy, closed or in a transaction is destroyed by the pool.
func (l *loan) giveBack() {
	if isDirty(l.raw) && isWhole(l.raw) {
		go l.cleanUp()
		return
	}
	l.putBack()
}

// cleanUp cleans the connection and gives it back then; its slot is kept meanwhile. One that cannot be cleaned is closed.
// Whoever closes the pool waits for it.
func (l *loan) cleanUp() {
	s := l.server()
	if err := clean(l.raw); err != nil {
		s.unclean.Add(1)
		s.router.log.Warn("connection could not be cleaned and is closed", "database", l.lease.Value().key.database, "error", bare(err).Error())
	} else {
		s.cleaned.Add(1)
	}
	l.putBack()
}

func (l *loan) putBack() {
	p := l.lease.Value()
	now := time.Now().UnixNano()
	if t := tagOf(l.raw); t != nil {
		t.released = now
	}
	l.conn.Release()
	p.released.Store(now)
	p.gate.leave()
	p.server.inUse.Leave()
	p.server.budget.Nudge()
	l.lease.Release()
	l.place.leave()
}

// gone hears of a connection that is closed.
func (p *pool) gone(conn *pgx.Conn) {
	if t := tagOf(conn); t == nil || !t.gone {
		p.gate.closed()
	}
}

// discard closes a connection, in a goroutine of its own: it waits until the server has let go. The pool counts it until
// then, and waits for it when it is closed itself.
func (p *pool) discard(conn *pgxpool.Conn) {
	p.gone(conn.Conn())
	if t := tagOf(conn.Conn()); t != nil {
		t.gone = true
	}
	go func() {
		defer conn.Release()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = conn.Conn().Close(ctx)
	}()
}

// borrow lends a connection to a database. What it answers has the outcome "not_started".
func (rt *Router) borrow(ctx context.Context, s *scope) (*loan, error) {
	deadline := time.Now().Add(rt.cfg.AcquireTimeout)
	if err := s.place.enter(ctx, deadline); err != nil {
		return nil, refuse(ctx, err)
	}
	l, err := rt.tryBorrow(ctx, s, deadline)
	for try := 1; err != nil && try < 3 && mend(ctx, err); try++ {
		l, err = rt.tryBorrow(ctx, s, deadline)
	}
	if err != nil {
		s.place.leave()
		return nil, refuse(ctx, err)
	}
	return l, nil
}

// errMoved means that the pool led to where the server was.
var errMoved = errors.New("server has moved")

// errLogin means that the login was refused, for the first time since it was read.
type errLogin struct{ error }

func (e errLogin) Unwrap() error { return e.error }

// fullPause is how long to wait before a server that had no connection left is asked once more.
const fullPause = 50 * time.Millisecond

// isFull hears that the server had no connection left for the database. It may be asked once more, and then not for up to two
// seconds.
func (p *pool) isFull(now time.Time) {
	if last := p.filled.Swap(now.UnixNano()); now.Sub(time.Unix(0, last)) < time.Second {
		p.full.Store(now.Add(time.Second + rand.N(time.Second)).UnixNano())
	}
}

// mend says whether it is worth asking again: the server has moved, the credential may have changed since the pool was made,
// or the server may have a connection left by now.
func mend(ctx context.Context, err error) bool {
	switch {
	case errors.Is(err, errMoved), errors.As(err, new(errLogin)):
		return true
	case judge(err) == ofRoom:
		return pause(ctx, fullPause)
	}
	return false
}

// pause waits, and says whether ctx lasted.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (rt *Router) tryBorrow(ctx context.Context, s *scope, deadline time.Time) (*loan, error) {
	find := rt.pools.Acquire
	if isBackground(ctx) {
		find = rt.pools.Visit
	}
	le, err := find(ctx, s.key())
	if err != nil {
		return nil, err
	}
	p := le.Value()
	if !p.isCurrent(ctx, s.database) {
		rt.pools.Forget(p.key)
		le.Release()
		return nil, errMoved
	}
	if p.server.rereads(p) { // what was refused is read anew before it is tried again
		rt.pools.Forget(p.key)
		le.Release()
		return nil, errMoved
	}
	conn, err := p.acquire(ctx, s.tenant, deadline)
	if err != nil {
		if isLoginRefused(err) && p.server.suspects(p) {
			rt.pools.Forget(p.key)
			err = errLogin{err}
		}
		le.Release()
		return nil, err
	}
	t := tagOf(conn.Conn())
	t.writes, t.hunted = !s.readOnly, time.Since(time.Unix(0, t.cancelled.Load())) < lateness
	p.server.retries.earn()
	return &loan{conn: conn, raw: conn.Conn(), lease: le, place: s.place}, nil
}

// lateness is how long after it was sent a request to cancel may still arrive.
const lateness = time.Second

// isHunted says that a transaction was cancelled by a request that was meant for the one before it on its connection. All
// of it was rolled back.
func (l *loan) isHunted(ctx context.Context, err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	t := tagOf(l.raw)
	return ok && pg.Code == "57014" && ctx.Err() == nil && t != nil && t.hunted && outcomeOf(err) != unknown
}

// isLoginRefused says that the server knows the login, its password or the database otherwise than we do.
func isLoginRefused(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "28P01" || pg.Code == "28000" || pg.Code == "3D000")
}
