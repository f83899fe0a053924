package catalog

import (
	"context"
	"time"
)

// SetPlacementEpoch says which number the gate in the tenant's database has for its placement; 0 says that it has no gate.
func (tx *Tx) SetPlacementEpoch(ctx context.Context, id TenantID, epoch int64) error {
	return tx.exactlyOne(ctx, "tenant "+id.String(), `
		update rowhouse.tenants set placement_epoch = $2, epoch = epoch + 1, updated_at = now() where id = $1`, id, epoch)
}

// SetTenantMoving says whether the tenant is about to change its database: routers then ask the gate for reads too.
func (tx *Tx) SetTenantMoving(ctx context.Context, id TenantID, moving bool) error {
	return tx.exactlyOne(ctx, "tenant "+id.String(), `
		update rowhouse.tenants set moving = $2, epoch = epoch + 1, updated_at = now() where id = $1`, id, moving)
}

// MoveTenant says that the tenant lives in another database now, by its next placement.
func (tx *Tx) MoveTenant(ctx context.Context, id TenantID, database DatabaseID, placementEpoch int64) error {
	return tx.exactlyOne(ctx, "tenant "+id.String(), `
		update rowhouse.tenants
		   set database = $2, placement_epoch = $3, moving = false, epoch = epoch + 1, updated_at = now()
		 where id = $1`, id, database, placementEpoch)
}

// Unaware counts the processes that may not have applied the catalog's revision yet: those that live and have not reported
// it, and those that were last heard of so long ago, or less, before it.
func (c *Catalog) Unaware(ctx context.Context, revision int64, silence time.Duration) (int, error) {
	var n int
	err := c.pool.QueryRow(ctx, `
		select count(*) from rowhouse.instances
		 where revision < $1 and lease_until + greatest($2::interval - $3::interval, '0') > now()`, revision, silence, Lease).Scan(&n)
	return n, refine(err, "instances")
}

// RoomiestOther finds the active shared database with most room among those of the same schema as the one that a tenant
// leaves; a zero server means any. None: ErrNotFound.
func (c *Catalog) RoomiestOther(ctx context.Context, server ServerID, left *Database) (*Database, error) {
	return one[Database](ctx, c.pool, "shared database with room", selectDatabase+` d
		 where kind = 'shared' and state = 'active' and not adopted and schema_chain = $2 and id <> $3
		   and ($1::uuid is null or server = $1)
		   and server in (select id from rowhouse.servers where state = 'active')
		   and (select count(*) from rowhouse.tenants t where t.database = d.id and t.state <> 'deleted') < max_tenants
		 order by (select count(*) from rowhouse.tenants t where t.database = d.id and t.state <> 'deleted'), created_at
		 limit 1`, server, left.SchemaChain, left.ID)
}

// MovesFull names one of the servers that has as many moves under way as it may; empty when none has. It keeps others from
// counting until the transaction ends.
func (tx *Tx) MovesFull(ctx context.Context, op OperationID, servers []ServerID) (string, error) {
	var full string
	err := tx.QueryRow(ctx, `
		with locked as (select id, name, move_slots from rowhouse.servers where id = any ($2) order by id for update)
		select coalesce(min(s.name), '') from locked s
		 where (select count(*) from rowhouse.operations o
		         where o.id <> $1 and o.kind in ('tenant.promote', 'tenant.demote', 'tenant.move')
		           and o.state not in ('done', 'failed', 'cancelled') and o.args -> 'servers' ? s.id::text) >= s.move_slots`,
		op, servers).Scan(&full)
	return full, refine(err, "servers of a move")
}

// DropDatabase says that a database is gone, and its logins with it.
func (tx *Tx) DropDatabase(ctx context.Context, id DatabaseID) error {
	if _, err := tx.Exec(ctx, `delete from rowhouse.credentials where database = $1`, id); err != nil {
		return refine(err, "database "+id.String())
	}
	return tx.SetDatabaseState(ctx, id, DatabaseGone)
}

// NoteOperation adds a line to the record of an operation that this worker holds.
func (c *Catalog) NoteOperation(ctx context.Context, o *Operation, step, message string) error {
	_, err := c.pool.Exec(ctx, `
		insert into rowhouse.operation_events (operation, state, step, message)
		select id, state, $3, $4 from rowhouse.operations where id = $1 and op_epoch = $2`, o.ID, o.Epoch, step, message)
	return refine(err, "operation "+o.ID.String())
}
