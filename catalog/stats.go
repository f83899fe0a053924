package catalog

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// Stats are the numbers of a rowhouse at one moment.
type Stats struct {
	// Revision counts the changes of what routers must know.
	Revision   int64                  `json:"revision"`
	Tenants    map[State]int          `json:"tenants"`
	Databases  map[DatabaseState]int  `json:"databases"`
	Operations map[OperationState]int `json:"operations"`
	Servers    []*ServerStats         `json:"servers" nullable:"false"`
	Instances  []*InstanceStats       `json:"instances" nullable:"false"`
}

// ServerStats are one server's.
type ServerStats struct {
	Name           string `json:"name"`
	State          string `json:"state"`
	Databases      int    `json:"databases"`
	MaxDatabases   int    `json:"max_databases"`
	Tenants        int    `json:"tenants"`
	MaxConnections int    `json:"max_connections"`
}

// InstanceStats say which process lives, and how far its view of the catalog has come.
type InstanceStats struct {
	ID        InstanceID `json:"id"`
	Host      string     `json:"host"`
	Version   string     `json:"version"`
	Works     bool       `json:"works"`
	Revision  int64      `json:"revision"`
	StartedAt time.Time  `json:"started_at"`
}

// Stats counts, in one snapshot.
func (c *Catalog) Stats(ctx context.Context) (*Stats, error) {
	s := &Stats{}
	err := pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) (err error) {
		err = tx.QueryRow(ctx, `
			select (select value from rowhouse.revision),
			       (select coalesce(jsonb_object_agg(state, n), '{}') from (select state, count(*) n from rowhouse.tenants group by 1) t),
			       (select coalesce(jsonb_object_agg(state, n), '{}') from (select state, count(*) n from rowhouse.databases group by 1) d),
			       (select coalesce(jsonb_object_agg(state, n), '{}') from (select state, count(*) n from rowhouse.operations group by 1) o)`,
		).Scan(&s.Revision, &s.Tenants, &s.Databases, &s.Operations)
		if err != nil {
			return err
		}
		if s.Servers, err = all[ServerStats](ctx, tx, "servers", `
			select s.name, s.state, s.max_databases, s.max_connections, count(distinct d.id)::int databases, count(t.id)::int tenants
			  from rowhouse.servers s
			  left join rowhouse.databases d on d.server = s.id and d.state <> 'gone'
			  left join rowhouse.tenants t on t.database = d.id and t.state <> 'deleted'
			 group by s.id order by s.name`); err != nil {
			return err
		}
		s.Instances, err = all[InstanceStats](ctx, tx, "instances", `
			select id, host, version, works, revision, started_at from rowhouse.instances where lease_until > now() order by started_at`)
		return err
	})
	return s, refine(err, "stats")
}
