package catalog

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// ReadySpare finds the oldest database that stands ready with the schema of chain: on the server, or with a zero one on
// any that is not drained and has all of the labels. None: ErrNotFound.
func (c *Catalog) ReadySpare(ctx context.Context, server ServerID, labels map[string]string, chain string) (*Database, error) {
	return one[Database](ctx, c.pool, "spare database", selectDatabase+`
		 where state = 'spare' and schema_chain = $3 and ($1::uuid is null or server = $1)
		   and server in (select id from rowhouse.servers where state = 'active' and labels @> $2)
		 order by created_at
		 limit 1`, server, orNone(labels), chain)
}

// TakeSpare makes a spare database of a server one that is being made into a tenant's; those that others are taking are
// passed over. None: ErrNotFound.
func (tx *Tx) TakeSpare(ctx context.Context, server ServerID, chain string) (id DatabaseID, err error) {
	err = tx.QueryRow(ctx, `
		update rowhouse.databases set state = 'creating', epoch = epoch + 1, updated_at = now()
		 where id = (
			select id from rowhouse.databases
			 where server = $1 and state = 'spare' and schema_chain = $2
			 order by created_at
			   for update skip locked
			 limit 1)
		returning id`, server, chain).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return id, fmt.Errorf("spare database: %w", ErrNotFound)
	}
	return id, refine(err, "spare database")
}

// KeepSpare records that a database stands ready for whoever asks.
func (tx *Tx) KeepSpare(ctx context.Context, id DatabaseID) error {
	return tx.exactlyOne(ctx, "database "+id.String(), `
		update rowhouse.databases set state = 'spare', spare = true, updated_at = now() where id = $1 and state = 'creating'`, id)
}

// Stock is what a server has in spare databases.
type Stock struct {
	Server ServerID
	Wanted int
	// There are those that stand ready or are being made; one that failed counts too, so that the next is not made in vain.
	There int
	// Busy says that one is being made, brought to another schema, or dropped.
	Busy bool
	// Room is how many databases the server has room for.
	Room int
	// Stale is one with another schema than the active set's, which no rollout brings to it; zero if there is none. Newest is
	// the last one made.
	Stale  DatabaseID
	Newest DatabaseID
}

// Stocks lists the servers that have spare databases or should have some, for a chain; drained ones are left out.
func (c *Catalog) Stocks(ctx context.Context, chain string) ([]*Stock, error) {
	return all[Stock](ctx, c.pool, "spare databases", selectStock+` order by s.name`, chain, ServerID{})
}

// Stock is one server's, whose row is locked: two cannot both find that one is missing.
func (tx *Tx) Stock(ctx context.Context, server ServerID, chain string) (*Stock, error) {
	if _, err := tx.Exec(ctx, `select from rowhouse.servers where id = $1 for update`, server); err != nil {
		return nil, refine(err, "server "+server.String())
	}
	return one[Stock](ctx, tx, "server "+server.String(), selectStock, chain, server)
}

const selectStock = `
select s.id server, s.spares wanted, count(d.id) there, coalesce(bool_or(d.busy), false) busy,
       s.max_databases - (select count(*) from rowhouse.databases o where o.server = s.id and o.state <> 'gone') room,
       (array_agg(d.id order by d.id) filter (where d.state = 'spare' and d.schema_chain <> $1
           and not exists (select from rowhouse.rollouts r where r.state in ('planned', 'running', 'paused'))))[1] stale,
       (array_agg(d.id order by d.id desc) filter (where d.state = 'spare'))[1] newest
  from rowhouse.servers s
  left join (
	select d.id, d.server, d.state, d.schema_chain, o.state not in ('done', 'failed', 'cancelled') busy
	  from rowhouse.databases d
	  left join lateral (
		select kind, state from rowhouse.operations o where o.database = d.id order by o.id desc limit 1) o on true
	 where d.state = 'spare' or d.state in ('creating', 'dropping') and o.kind = 'database.spare') d on d.server = s.id
 where s.state = 'active' and ($2::uuid is null or s.id = $2)
 group by s.id
having s.spares > 0 or count(d.id) > 0`
