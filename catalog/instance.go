package catalog

import (
	"context"
	"time"
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
	// Works says that it carries out operations.
	Works bool
	// Revision is the catalog's revision that it has applied.
	Revision int64
	// Leaving ends the lease now.
	Leaving bool
}

// Grant is what a process may use until its lease ends.
type Grant struct {
	// Lease is how long the grant holds from now.
	Lease time.Duration
	// Connections are this process's share of each server's open connections.
	Connections map[ServerID]int
}

// Lease is how long a process counts as alive after it last renewed; it should renew three times in it.
const Lease = 15 * time.Second

// Renew reports that a process lives and learns its share of each server's connections: an equal part for each live
// process, at least one.
func (c *Catalog) Renew(ctx context.Context, r Report) (*Grant, error) {
	if r.Leaving {
		_, err := c.pool.Exec(ctx, `delete from rowhouse.instances where id = $1`, r.Instance)
		return &Grant{}, refine(err, "instance")
	}
	rows, err := c.pool.Query(ctx, `
		with renewed as (
			insert into rowhouse.instances (id, host, version, works, revision, lease_until)
			values ($1, $2, $3, $4, $5, now() + $6::interval)
			on conflict (id) do update
			   set lease_until = excluded.lease_until, revision = excluded.revision, works = excluded.works
			returning id),
		live as (select count(*) n from rowhouse.instances where lease_until > now() and id <> $1)
		select s.id, greatest(1, s.max_connections / (1 + live.n))::int from rowhouse.servers s, live, renewed`,
		r.Instance, r.Host, r.Version, r.Works, r.Revision, Lease)
	if err != nil {
		return nil, refine(err, "instance")
	}
	defer rows.Close()
	g := &Grant{Lease: Lease, Connections: map[ServerID]int{}}
	for rows.Next() {
		var id ServerID
		var share int
		if err := rows.Scan(&id, &share); err != nil {
			return nil, refine(err, "instance")
		}
		g.Connections[id] = share
	}
	return g, refine(rows.Err(), "instance")
}

// Workers counts the live processes that carry out operations.
func (c *Catalog) Workers(ctx context.Context) (int, error) {
	var n int
	err := c.pool.QueryRow(ctx, `select count(*) from rowhouse.instances where works and lease_until > now()`).Scan(&n)
	return n, refine(err, "instances")
}
