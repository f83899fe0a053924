package catalog

import (
	"context"
	"time"
)

// DatabaseLook is what was found in a database when somebody looked.
type DatabaseLook struct {
	Database DatabaseID
	Name     string
	At       time.Time
	Version  int64
	// Stale and Drift say that the version, or the schema, is not what the catalog says.
	Stale, Drift bool
	// Leak says which rows were shown to somebody without a tenant; empty when none.
	Leak string
	// Error is why it could not be looked into.
	Error string
}

const selectLook = `
select l.database, d.name, l.at, l.version, l.stale, l.drift, l.leak, l.error
  from rowhouse.database_looks l
  join rowhouse.databases d on d.id = l.database and ` + inFleet

// DueLooks takes up to n databases of the fleet that nobody has looked into for so long, the longest first. Whoever takes one looks: it is
// due for nobody else.
func (c *Catalog) DueLooks(ctx context.Context, every time.Duration, n int) ([]*FleetMember, error) {
	return all[FleetMember](ctx, c.pool, "databases to look into", `
		with due as (
			select d.id from rowhouse.databases d left join rowhouse.database_looks l on l.database = d.id
			 where `+inFleet+` and d.state = 'active' and (l.at is null or l.at < now() - $1::interval)
			 order by l.at nulls first limit $2),
		taken as (
			insert into rowhouse.database_looks as l (database) select id from due
			on conflict (database) do update set at = now() where l.at < now() - $1::interval
			returning database)
		`+selectMember+` and d.id in (select database from taken) order by d.id`, every, n)
}

// RecordLook writes what was found.
func (c *Catalog) RecordLook(ctx context.Context, l DatabaseLook) error {
	_, err := c.pool.Exec(ctx, `
		insert into rowhouse.database_looks (database, version, stale, drift, leak, error) values ($1, $2, $3, $4, $5, $6)
		on conflict (database) do update
		   set at = now(), version = excluded.version, stale = excluded.stale, drift = excluded.drift, leak = excluded.leak, error = excluded.error`,
		l.Database, l.Version, l.Stale, l.Drift, l.Leak, l.Error)
	return refine(err, "look into database "+l.Name)
}

// OddLooks lists the databases that were not as the catalog says when somebody looked last, by name.
func (c *Catalog) OddLooks(ctx context.Context) ([]*DatabaseLook, error) {
	return all[DatabaseLook](ctx, c.pool, "looks", selectLook+` where l.stale or l.drift or l.leak <> '' or l.error <> '' order by d.name`)
}

// LastLook is when a database was looked into last; nil when none ever was.
func (c *Catalog) LastLook(ctx context.Context) (*time.Time, error) {
	var at *time.Time
	err := c.pool.QueryRow(ctx, `select max(at) from rowhouse.database_looks`).Scan(&at)
	return at, refine(err, "looks")
}
