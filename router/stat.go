package router

import (
	"maps"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// Stat is a moment of a Router.
type Stat struct {
	Pools   PoolsStat
	Tenants TenantsStat
	Servers map[catalog.ServerID]ServerStat
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
	// Known are those with an account; Running and Waiting count their transactions.
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
	Dials, DialErrors    int64
	// Refused found no room in time; Reclaimed are idle ones closed for another database.
	Refused, Reclaimed int64
	// Overdue are those that the server had not let go of a second after we closed them.
	Overdue int64
	// Waited is how long dials have waited for room, all together.
	Waited time.Duration
}

// Stat is the router's moment.
func (rt *Router) Stat() Stat {
	rt.mu.Lock()
	servers := maps.Clone(rt.servers)
	rt.mu.Unlock()
	st := Stat{Pools: PoolsStat(rt.pools.Stat()), Tenants: rt.accounts.stat(), Servers: make(map[catalog.ServerID]ServerStat, len(servers))}
	for id, s := range servers {
		b := s.budget.Stat()
		st.Servers[id] = ServerStat{
			Share: b.Share, Open: b.Open, Waiting: b.Waiting, Dials: b.Dials, DialErrors: b.DialErrors,
			Refused: b.Refused, Reclaimed: b.Reclaimed, Overdue: b.Lingered, Waited: b.WaitedFor,
		}
	}
	return st
}
