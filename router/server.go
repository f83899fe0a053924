package router

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router/internal/budget"
)

// server is what all pools of a PostgreSQL server share. It outlives them.
type server struct {
	router  *Router
	id      catalog.ServerID
	budget  *budget.Budget
	share   atomic.Int64 // of its connections, ours
	floor   atomic.Int64 // of our share, what we keep when the registry cannot be asked
	told    notice
	inUse   budget.Slots[catalog.TenantID] // transactions that run
	row     atomic.Pointer[catalog.Server] // as it was last seen; nil when not known
	breaker *breaker

	retries   allowance
	retried   atomic.Int64
	confirmed atomic.Int64 // when it was last asked whether it takes writes, in Unix nanoseconds
	resets    atomic.Int64

	cleaned, unclean atomic.Int64 // connections after work that may leave something behind

	failures tally // connections that could not be made, by cause
	answers  tally // of the server to statements, by SQLSTATE
	primary  primary

	thrash atomic.Int64 // dials of databases that had just lost a connection to another one

	mu     sync.Mutex // guards the fields below
	pools  map[*pool]struct{}
	logins map[poolKey]*refused
	// What gates of pools that are gone have counted.
	gateRefused int64
	gateWaited  time.Duration

	// troubled is whether logins holds any, for those who do not want to lock.
	troubled atomic.Bool
}

// refused is a login, or a database, that the server refused.
type refused struct {
	breaker *breaker
	by      *pool // that found out; nil once its credential has been read anew
}

// defaultShare is the budget of a server of which nothing is known.
const defaultShare = 80

func (rt *Router) server(id catalog.ServerID) *server {
	row := rt.serverRow(context.Background(), id)
	rt.mu.Lock()
	defer rt.mu.Unlock()
	s := rt.servers[id]
	if s == nil {
		s = &server{router: rt, id: id, breaker: serverBreaker(), pools: map[*pool]struct{}{}, logins: map[poolKey]*refused{}}
		s.retries.tenths.Store(inHand)
		share := defaultShare
		switch {
		case rt.cfg.Registry != nil: // nothing is ours yet
			share = 0
		case row != nil:
			share = row.MaxConnections
		}
		s.budget = budget.New(budget.Config{Share: share, ConnectTimeout: rt.cfg.ConnectTimeout, Reclaim: s.reclaim})
		s.row.Store(row)
		s.setShare(share)
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

// setShare keeps to a part of the server's connections, and to the same part of what may run at once.
func (s *server) setShare(n int) {
	s.share.Store(int64(n))
	s.budget.SetShare(n)
	s.limitUse()
}

func (s *server) limitUse() {
	row, share := s.row.Load(), int(s.share.Load())
	if row == nil {
		s.inUse.SetLimit(maxInUse(0, share))
		return
	}
	most := maxInUse(row.MaxInUse, row.MaxConnections) * min(share, row.MaxConnections)
	s.inUse.SetLimit(max(1, (most+row.MaxConnections-1)/row.MaxConnections))
}

// maxInUse is how many transactions run at once where nobody said: a third of the connections, at least 8.
func maxInUse(said, connections int) int {
	if said > 0 {
		return said
	}
	return max(connections/3, 8)
}

// know takes a new row in. A server that moved is tried at once.
func (s *server) know(row *catalog.Server) {
	old := s.row.Swap(row)
	if old != nil && !slices.Equal(old.Hosts, row.Hosts) {
		s.breaker.succeeded()
	}
	s.limitUse()
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
	_, _, refused, waited := p.gate.moment()
	s.gateRefused += refused
	s.gateWaited += waited
}

// made hears of a connection that leads where it should.
func (s *server) made(p *pool) {
	if s.breaker.succeeded() {
		s.budget.Recovered()
		s.router.log.Info("server is back", "server", s.id)
	}
	if s.troubled.Load() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.logins, p.key)
		s.troubled.Store(len(s.logins) > 0)
	}
}

// missed hears of a connection that could not be made.
func (s *server) missed(p *pool, err error) {
	now, cause := time.Now(), causeOf(err)
	if judge(err) != ofUs {
		s.failures.add(cause)
	}
	switch judge(err) {
	case ofUs:
		s.breaker.spared()
	case ofRoom:
		s.breaker.spared()
		s.budget.Penalize()
		p.isFull(now)
		s.router.log.Warn("server has no connection left", "server", s.id, "database", p.key.database)
	case ofServer:
		was := s.breaker.isOpen()
		s.breaker.failed(now, bare(err))
		if !was && s.breaker.isOpen() {
			s.router.log.Error("server is not asked for a while", "server", s.id, "cause", cause, "error", bare(err).Error())
		}
	case ofLogin:
		s.breaker.succeeded() // it answers
		s.refuse(p, now, err)
		return
	}
	if login := s.login(p.key); login != nil {
		login.spared()
	}
}

// refuse notes that the server refused a login. The first time, the credential may only have changed since it was read: then
// it is read once more, and only what a newer pool finds refused is left alone for a while.
func (s *server) refuse(p *pool, now time.Time, cause error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.logins[p.key]
	if r == nil {
		r = &refused{breaker: loginBreaker()}
		s.logins[p.key] = r
		s.troubled.Store(true)
		if isLoginRefused(cause) {
			r.by = p
			return
		}
	}
	if r.by != p || r.breaker.isOpen() {
		r.by = p
		r.breaker.failed(now, bare(cause))
		s.router.log.Error("database refuses us and is not asked for a while", "server", s.id, "database", p.key.database, "cause", causeOf(cause), "error", bare(cause).Error())
	}
}

// login is the breaker of a login that is in trouble; nil for all others.
func (s *server) login(key poolKey) *breaker {
	if !s.troubled.Load() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if r := s.logins[key]; r != nil {
		return r.breaker
	}
	return nil
}

// suspects says whether p's credential was refused and is not known to be the newest.
func (s *server) suspects(p *pool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.logins[p.key]
	return r != nil && r.by == p && !r.breaker.isOpen()
}

// rereads says whether p's login was refused for good and it is time to try again: with what the catalog says by then.
func (s *server) rereads(p *pool) bool {
	if !s.troubled.Load() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.logins[p.key]
	return r != nil && r.by == p && r.breaker.isOpen() && r.breaker.blocked(time.Now()) == nil
}

// A connection stays where it was last used for about two dials: without that floor, two databases would take each other's
// only one in turns. Whoever has found nothing above the floor for a while may look below it.
const (
	floor     = 20 * time.Millisecond
	desperate = 200 * time.Millisecond
)

// thrashing is how soon a database that lost a connection dials again, when that was a mistake.
const thrashing = 10 * time.Second

// reclaim closes one idle connection: one of those that a database has beyond its soft share, else the only one of the
// database that was used least recently.
func (s *server) reclaim() bool {
	began := time.Now()
	for {
		p := s.longestIdle()
		if p == nil {
			return false
		}
		if rest := floor - time.Since(time.Unix(0, p.released.Load())); rest > 0 && time.Since(began) < desperate {
			time.Sleep(rest)
			continue // another may be idle by now, or this one busy
		}
		if p.giveUpOldest() {
			p.reclaimed.Store(time.Now().UnixNano())
			return true
		}
		if time.Since(began) > desperate {
			return false // whoever gives one back next calls again
		}
		time.Sleep(time.Millisecond) // it is on its way out, or taken by now
	}
}

// giveUpOldest closes the connection that has been idle for longest and gives the others back, the oldest first: the newest
// is lent next.
func (p *pool) giveUpOldest() bool {
	idle := p.AcquireAllIdle(context.Background())
	slices.SortFunc(idle, func(a, b *pgxpool.Conn) int { return int(idleSince(a) - idleSince(b)) })
	for i, conn := range idle {
		if i == 0 {
			p.discard(conn)
		} else {
			conn.Release()
		}
	}
	return len(idle) > 0
}

func idleSince(conn *pgxpool.Conn) int64 {
	if t := tagOf(conn.Conn()); t != nil {
		return t.released
	}
	return 0
}

// longestIdle finds the pool that a connection is taken from.
func (s *server) longestIdle() *pool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest *pool
	var rich bool
	for p := range s.pools {
		idle, beyond := p.gate.surplus()
		if idle <= 0 || rich && !beyond {
			continue
		}
		if oldest == nil || beyond && !rich || p.released.Load() < oldest.released.Load() {
			oldest, rich = p, beyond
		}
	}
	return oldest
}
