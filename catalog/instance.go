package catalog

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// Instance is a live process that uses this catalog.
type Instance struct {
	ID         InstanceID
	Host       string
	Version    string
	Works      bool
	Revision   int64
	StartedAt  time.Time
	LeaseUntil time.Time
}

// Report is what a process says of itself when it renews its lease.
type Report struct {
	Instance InstanceID
	Host     string
	Version  string
	// Place is where the process is and no other can be at the same time, such as its address on its machine. Whoever
	// reports a place proves that an earlier one there is dead, and what that one had is free at once.
	//
	// Empty: nothing is known about it.
	Place string
	// Works says that it carries out operations.
	Works bool
	// Revision is the catalog's revision that it has applied.
	Revision int64
	// Round rises with each report, so that one that was delayed is not believed any more.
	Round int64
	// Servers is what it has of each server's connections. A server that is not named: nothing.
	Servers map[ServerID]Use
	// Leaving ends the lease now: nothing of it is open any more.
	Leaving bool
}

// Use is what a process has of one server's connections.
type Use struct {
	// Share is how many it may open as it knows, and Open how many there are, closing ones included.
	Share, Open int
	// Floor is what it was told to keep to when it cannot ask.
	Floor int
	// Demand is how many it could use.
	Demand int
}

// Grant is what a process may use until its lease ends.
type Grant struct {
	// Lease is how long the grant holds from now.
	Lease time.Duration
	// Connections are this process's share of each server's open connections. It may be 0 until others have given theirs up.
	Connections map[ServerID]int
	// Floors are the least that a process that takes part has of each server, and what it keeps when it cannot renew.
	Floors map[ServerID]int
}

// Lease is how long a process counts as alive after it last renewed; it should renew three times in it.
const Lease = 15 * time.Second

// Remembered is how long a process that is not heard of may still serve what it knows, and its floor is kept for it.
const Remembered = 15 * time.Minute

// shareLock is held by whoever divides the servers' connections, until it has committed.
const shareLock = 0x726f7768_73686172

// Renew reports that a process lives and learns its share of each server's connections.
//
// All that live share by demand, each at least its floor. The sum of what they may have open never passes the server's
// max_connections: what one is told less is another's only once it has reported that it keeps to it. Of a process that is not
// heard of for a lease, all but its floor is free.
func (c *Catalog) Renew(ctx context.Context, r Report) (*Grant, error) {
	if r.Leaving {
		_, err := c.pool.Exec(ctx, `delete from rowhouse.instances where id = $1`, r.Instance)
		return &Grant{}, refine(err, "instance")
	}
	g := &Grant{Lease: Lease, Connections: map[ServerID]int{}, Floors: map[ServerID]int{}}
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if err := hear(ctx, tx, r); err != nil {
			return err
		}
		holdings, err := holdingsOf(ctx, tx)
		if err != nil {
			return err
		}
		for server, all := range holdings {
			g.Connections[server], g.Floors[server] = shareOf(r.Instance, all)
		}
		return keep(ctx, tx, r, g)
	})
	if err != nil {
		return nil, refine(err, "instance")
	}
	return g, c.reportKeys(ctx, r.Instance)
}

// hear notes a report. From here to the end of the transaction nobody else divides.
func hear(ctx context.Context, tx pgx.Tx, r Report) error {
	if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock($1)`, int64(shareLock)); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		delete from rowhouse.instances
		 where id <> $1 and (lease_until < now() - $2::interval or place = $3 and place <> '')`,
		r.Instance, Remembered, r.Place)
	if err != nil {
		return err
	}
	tag, err := tx.Exec(ctx, `
		insert into rowhouse.instances as i (id, host, version, works, revision, place, round, lease_until)
		values ($1, $2, $3, $4, $5, $6, $7, now() + $8::interval)
		on conflict (id) do update
		   set lease_until = excluded.lease_until, revision = excluded.revision, works = excluded.works, round = excluded.round
		 where i.round <= excluded.round`,
		r.Instance, r.Host, r.Version, r.Works, r.Revision, r.Place, r.Round, Lease)
	if err == nil && tag.RowsAffected() == 0 {
		err = fmt.Errorf("report %d came after a later one: %w", r.Round, ErrConflict)
	}
	if err != nil {
		return err
	}
	var servers []ServerID
	var held, floors, demands []int
	for id, use := range r.Servers {
		servers, held = append(servers, id), append(held, max(use.Share, use.Open))
		floors, demands = append(floors, use.Floor), append(demands, use.Demand)
	}
	_, err = tx.Exec(ctx, `
		insert into rowhouse.shares (server, instance, held, floor, demand)
		select s.id, $1, coalesce(u.held, 0), coalesce(u.floor, 0), coalesce(u.demand, 0)
		  from rowhouse.servers s
		  left join unnest($2::uuid[], $3::integer[], $4::integer[], $5::integer[]) u (server, held, floor, demand) on u.server = s.id
		on conflict (server, instance) do update
		   set held = excluded.held, floor = excluded.floor, demand = excluded.demand`,
		r.Instance, servers, held, floors, demands)
	return err
}

// holding is what a process has of a server, and the server's budget.
type holding struct {
	Server                     ServerID
	Budget                     int
	Instance                   InstanceID
	Alive                      bool
	Share, Held, Demand, Floor int
}

func holdingsOf(ctx context.Context, tx pgx.Tx) (map[ServerID][]holding, error) {
	rows, _ := tx.Query(ctx, `
		select h.server, s.max_connections as budget, h.instance, i.lease_until > now() as alive, h.share, h.held, h.demand, h.floor
		  from rowhouse.shares h
		  join rowhouse.servers s on s.id = h.server
		  join rowhouse.instances i on i.id = h.instance
		 order by h.server, h.instance`)
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[holding])
	of := map[ServerID][]holding{}
	for _, h := range all {
		of[h.Server] = append(of[h.Server], h)
	}
	return of, err
}

// keep writes down what was granted. A process that does not hear of it keeps to what it said, which is held for it as well.
func keep(ctx context.Context, tx pgx.Tx, r Report, g *Grant) error {
	var servers []ServerID
	var shares, floors []int
	for id, share := range g.Connections {
		servers, shares, floors = append(servers, id), append(shares, share), append(floors, min(share, g.Floors[id]))
	}
	_, err := tx.Exec(ctx, `
		update rowhouse.shares h
		   set share = g.share, floor = greatest(h.floor, g.floor)
		  from unnest($2::uuid[], $3::integer[], $4::integer[]) g (server, share, floor)
		 where h.instance = $1 and h.server = g.server`, r.Instance, servers, shares, floors)
	return err
}

// Workers counts the live processes that carry out operations.
func (c *Catalog) Workers(ctx context.Context) (int, error) {
	var n int
	err := c.pool.QueryRow(ctx, `select count(*) from rowhouse.instances where works and lease_until > now()`).Scan(&n)
	return n, refine(err, "instances")
}
