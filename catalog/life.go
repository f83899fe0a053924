package catalog

import (
	"context"
	"fmt"
	"time"
)

// DeleteTenant puts a tenant in the state that is kept until purgeAfter, and remembers which one to give back. One in
// another state than from is ErrConflict.
func (tx *Tx) DeleteTenant(ctx context.Context, t *Tenant, before State, purgeAfter time.Time) error {
	if err := tx.SetTenantState(ctx, t.ID, StateDeleting, t.StateReason, t.State); err != nil {
		return err
	}
	return tx.exactlyOne(ctx, "tenant "+t.ID.String(), `
		update rowhouse.tenants set state_before = $2, purge_after = $3 where id = $1`, t.ID, before, purgeAfter)
}

// UndeleteTenant gives a deleted tenant its state back. One that is being purged is ErrConflict.
func (tx *Tx) UndeleteTenant(ctx context.Context, id TenantID) error {
	tag, err := tx.Exec(ctx, `
		update rowhouse.tenants
		   set state = coalesce(state_before, 'active'), state_before = null, purge_after = null, epoch = epoch + 1, updated_at = now()
		 where id = $1 and state = 'deleting' and purge_began is null`, id)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("tenant %s is not deleted, or is being purged: %w", id, ErrConflict)
	}
	return refine(err, "tenant "+id.String())
}

// BeginPurge is the moment from which a tenant cannot be taken back. One that is neither deleted nor failed is ErrConflict.
func (tx *Tx) BeginPurge(ctx context.Context, id TenantID) error {
	tag, err := tx.Exec(ctx, `
		update rowhouse.tenants set purge_began = coalesce(purge_began, now()), epoch = epoch + 1, updated_at = now()
		 where id = $1 and state in ('deleting', 'failed')`, id)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("tenant %s is neither deleted nor failed: %w", id, ErrConflict)
	}
	return refine(err, "tenant "+id.String())
}

// BuryTenant leaves of a tenant its id and its name: names and domains that led to it are free, and what the host decided
// for it is forgotten. A database of its own is gone with its logins; a zero one is somebody else's too.
func (tx *Tx) BuryTenant(ctx context.Context, id TenantID, own DatabaseID) error {
	noun := "tenant " + id.String()
	for _, table := range []string{"aliases", "domains", "settings"} {
		if _, err := tx.Exec(ctx, `delete from rowhouse.`+table+` where tenant = $1`, id); err != nil {
			return refine(err, noun)
		}
	}
	if !own.IsZero() {
		if err := tx.BuryDatabase(ctx, own); err != nil {
			return err
		}
	}
	return tx.exactlyOne(ctx, noun, `
		update rowhouse.tenants
		   set state = 'deleted', state_reason = null, state_until = null, state_before = null, purge_after = null,
		       epoch = epoch + 1, updated_at = now()
		 where id = $1`, id)
}

// BuryDatabase leaves of a database its row: it is gone from its server, with its logins.
func (tx *Tx) BuryDatabase(ctx context.Context, id DatabaseID) error {
	if _, err := tx.Exec(ctx, `delete from rowhouse.credentials where database = $1`, id); err != nil {
		return refine(err, "database "+id.String())
	}
	return tx.SetDatabaseState(ctx, id, DatabaseGone)
}

// MoveDatabase records the name that a database has on its server now, and its state.
func (tx *Tx) MoveDatabase(ctx context.Context, id DatabaseID, name string, state DatabaseState) error {
	return tx.exactlyOne(ctx, "database "+id.String(), `
		update rowhouse.databases set name = $2, state = $3, epoch = epoch + 1, updated_at = now() where id = $1`, id, name, state)
}

// FreeOfRollouts says that no rollout is about to change a database. One that is is ErrConflict.
func (tx *Tx) FreeOfRollouts(ctx context.Context, id DatabaseID) error {
	var busy bool
	if err := tx.QueryRow(ctx, `
		select exists (
			select from rowhouse.rollout_targets t join rowhouse.rollouts r on r.id = t.rollout
			 where t.database = $1 and t.state in ('pending', 'running', 'retry_wait') and r.state in ('planned', 'running', 'paused'))`,
		id).Scan(&busy); err != nil {
		return refine(err, "database "+id.String())
	}
	if busy {
		return fmt.Errorf("a rollout is bringing the tenant's database to another version: %w", ErrConflict)
	}
	return nil
}

// PurgesDue lists the tenants whose time is over and that nobody has tried to purge: their deletion was carried out whole.
func (c *Catalog) PurgesDue(ctx context.Context) ([]*Tenant, error) {
	return all[Tenant](ctx, c.pool, "tenants", selectTenant+`
		 where t.state = 'deleting' and t.purge_after <= now() and t.purge_began is null
		   and not exists (select from rowhouse.operations o
		                    where o.tenant = t.id and (o.state not in ('done', 'failed', 'cancelled') or o.kind = 'tenant.purge'))
		   and (select o.state from rowhouse.operations o
		         where o.tenant = t.id and o.kind = 'tenant.delete' order by o.id desc limit 1) = 'done'`)
}

// ReviveTenant inserts a tenant that is being made, or, where one of that id was purged, lets it begin anew. An id of
// another tenant, and a name in use, are ErrExists.
func (tx *Tx) ReviveTenant(ctx context.Context, t NewTenant) error {
	var buried bool
	noun := fmt.Sprintf("tenant %q", t.Name)
	if err := tx.QueryRow(ctx, `
		select exists (select from rowhouse.tenants where id = $1 and state = 'deleted')`, t.ID).Scan(&buried); err != nil {
		return refine(err, noun)
	}
	if !buried {
		return tx.CreateTenant(ctx, t)
	}
	if err := tx.freeName(ctx, t.Name); err != nil {
		return err
	}
	return tx.exactlyOne(ctx, noun, `
		update rowhouse.tenants
		   set name = $2, state = 'provisioning', edition = nullif($3, ''), database = null, purge_began = null,
		       placement_epoch = $4::boolean::integer, epoch = epoch + 1, updated_at = now()
		 where id = $1 and state = 'deleted'`, t.ID, t.Name, t.Edition, t.Gated)
}
