package router

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// Stat is a moment of a Router.
type Stat struct {
	Pools   PoolsStat
	Tenants TenantsStat
	Servers map[catalog.ServerID]ServerStat
	// Requests are the records of requests in their tenants' databases.
	Requests RequestsStat
	// Unscoped transactions have begun, of the host over all tenants of a database.
	Unscoped int64
}

// PoolsStat counts pools: one for each database that was asked for and is kept.
type PoolsStat struct {
	// Kept, Opening and Draining pools: a draining one is pushed out or stale and still lent.
	Kept, Opening, Draining int
	Opens, OpenErrors       int64
	Evictions               int64
	// EvictionsLent are those of pools that somebody held, who was not cut off.
	EvictionsLent int64
}

// TenantsStat counts what tenants have of this process, all together.
type TenantsStat struct {
	// Known are those with an account; Running and Waiting count their requests.
	Known, Running, Waiting int
	// Limited were refused for their tenant's limits.
	Limited int64
}

func (as *accounts) stat() TenantsStat {
	as.mu.Lock()
	defer as.mu.Unlock()
	st := TenantsStat{Known: len(as.tenants), Waiting: as.waiting, Limited: as.refused}
	for _, a := range as.tenants {
		st.Running += a.running
	}
	return st
}

// ServerStat counts one server's connections.
type ServerStat struct {
	// Share is how many may be open, Open how many are, idle ones included, and Waiting how many more are asked for.
	Share, Open, Waiting int
	// Idle are open and lent to nobody. Dialing are being made, and WaitingToDial have room and wait for those.
	Idle, Dialing, WaitingToDial int
	// InUse transactions run, of MaxInUse that may at once; WaitingToRun hold a connection and wait.
	InUse, MaxInUse, WaitingToRun int
	// WaitingAtGate wait for a connection of their own database.
	WaitingAtGate int
	// BreakerOpen says that connecting failed and is only tried from time to time. BreakerOpened counts how often.
	BreakerOpen   bool
	BreakerOpened int64
	// Failures are connections that could not be made, by cause: refused, silent, lost, full, starting, auth, missing,
	// identity, tls, standby, other. Answers are those errors of the server that speak of itself or of work given up for
	// it, by SQLSTATE.
	Failures, Answers map[string]int64
	// LoginsRefused are databases whose login, or which themselves, the server refuses.
	LoginsRefused     int
	Dials, DialErrors int64
	// DialTime is how long it took to make those that were made, all together.
	DialTime time.Duration
	// Retried is work that was started again because its connection had broken before it began; Resets replaced every
	// connection, because the server did not take writes any more.
	Retried, Resets int64
	// Cleaned connections had done what may leave something behind; Unclean could not be cleaned and were closed.
	Cleaned, Unclean int64
	// Thrashed are dials of databases that had lost a connection to another one a moment before.
	Thrashed int64
	// RefusedToRun found no slot in time, and RefusedAtGate no connection of their database.
	RefusedToRun, RefusedAtGate int64
	// Refused found no room in time; Reclaimed are idle ones closed for another database.
	Refused, Reclaimed int64
	// Overdue are those that the server had not let go of a second after we closed them.
	Overdue int64
	// Waited is how long dials have waited for room, all together.
	Waited time.Duration
	// WaitedToRun and WaitedAtGate are the same for slots, and for connections of the own database.
	WaitedToRun, WaitedAtGate time.Duration
}

// PoolStat is a moment of the connections to one database.
type PoolStat struct {
	Database catalog.DatabaseID
	Server   catalog.ServerID
	// Open connections, of which Lent are in use; the others are idle.
	Open, Lent int
	// Dialing are being made, and Waiting wait for one.
	Dialing, Waiting int
	// Soft is how many it may have though the server is full: another database gives one up. Most is how many it may have
	// while there is room.
	Soft, Most int
	// LastUsed is when one last came back; zero when none has.
	LastUsed time.Time
	// TakenAway is when one was last closed for another database; zero when none was.
	TakenAway time.Time
}

// Pools explains every pool, the one with the most who wait or use it first.
func (rt *Router) Pools() []PoolStat {
	var all []PoolStat
	for _, s := range rt.all() {
		s.mu.Lock()
		for p := range s.pools {
			all = append(all, p.stat())
		}
		s.mu.Unlock()
	}
	slices.SortFunc(all, func(a, b PoolStat) int {
		return cmp.Or(cmp.Compare(b.Waiting+b.Dialing+b.Lent, a.Waiting+a.Dialing+a.Lent), b.LastUsed.Compare(a.LastUsed))
	})
	return all
}

func (p *pool) stat() PoolStat {
	st := PoolStat{
		Database: p.key.database, Server: p.server.id, Soft: p.gate.soft, Most: p.limit(),
		LastUsed: moment(p.released.Load()), TakenAway: moment(p.reclaimed.Load()),
	}
	p.gate.mu.Lock()
	defer p.gate.mu.Unlock()
	st.Open, st.Lent, st.Dialing, st.Waiting = max(p.gate.conns, 0), p.gate.lent, p.gate.dialing, p.gate.turns.Len()
	return st
}

// moment is a time in Unix nanoseconds; 0 is never.
func moment(ns int64) time.Time {
	if ns == 0 {
		return time.Time{}
	}
	return time.Unix(0, ns)
}

// Stat is the router's moment.
func (rt *Router) Stat() Stat {
	rt.mu.Lock()
	servers := maps.Clone(rt.servers)
	rt.mu.Unlock()
	st := Stat{Pools: PoolsStat(rt.pools.Stat()), Tenants: rt.accounts.stat(), Unscoped: rt.unscoped.Load(), Requests: rt.requests.stat(), Servers: make(map[catalog.ServerID]ServerStat, len(servers))}
	for id, s := range servers {
		st.Servers[id] = s.stat()
	}
	return st
}

func (s *server) stat() ServerStat {
	b, use := s.budget.Stat(), s.inUse.Stat()
	st := ServerStat{
		Share: b.Share, Open: b.Open, Waiting: b.Waiting, Dialing: b.Dialing, WaitingToDial: b.WaitingToDial,
		InUse: use.Used, MaxInUse: use.Limit, WaitingToRun: use.Waiting, RefusedToRun: use.Refused, WaitedToRun: use.WaitedFor,
		BreakerOpen: s.breaker.isOpen(), Dials: b.Dials, DialErrors: b.DialErrors, DialTime: b.DialTime, Thrashed: s.thrash.Load(),
		Refused: b.Refused, Reclaimed: b.Reclaimed, Overdue: b.Lingered, Waited: b.WaitedFor,
	}
	st.Failures, st.Answers = s.failures.all(), s.answers.all()
	st.Retried, st.Resets = s.retried.Load(), s.resets.Load()
	st.Cleaned, st.Unclean = s.cleaned.Load(), s.unclean.Load()
	s.breaker.mu.Lock()
	st.BreakerOpened = s.breaker.opened
	s.breaker.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	st.LoginsRefused = len(s.logins)
	st.RefusedAtGate, st.WaitedAtGate = s.gateRefused, s.gateWaited
	for p := range s.pools {
		idle, waiting, refused, waited := p.gate.moment()
		st.Idle += idle
		st.WaitingAtGate += waiting
		st.RefusedAtGate += refused
		st.WaitedAtGate += waited
	}
	return st
}
