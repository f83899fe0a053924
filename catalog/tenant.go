package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/jackc/pgx/v5"
)

// State is where a tenant stands in its life.
type State string

// The states of a tenant. Only an active, read-only or maintained one has ever served.
const (
	StateProvisioning State = "provisioning"
	StateFailed       State = "failed"
	StateActive       State = "active"
	StateSuspended    State = "suspended"
	StateReadOnly     State = "read_only"
	StateMaintenance  State = "maintenance"
	StateDeleting     State = "deleting"
	StateDeleted      State = "deleted"
)

// Tenant is a customer of the host: an id that never changes, a name that may, and the database that holds its rows.
// What a reader gives out is shared and must not be changed.
type Tenant struct {
	ID          TenantID   `json:"id"`
	Name        string     `json:"name"`
	Aliases     []string   `json:"aliases,omitempty"`
	Domains     []string   `json:"domains,omitempty"`
	State       State      `json:"state"`
	StateReason string     `json:"state_reason,omitempty"`
	StateUntil  *time.Time `json:"state_until,omitempty"`
	// StateBefore is the state that undelete gives back.
	StateBefore State `json:"state_before,omitempty"`
	// PurgeAfter is when a deleted tenant is purged; PurgeBegan since when that can no longer be taken back.
	PurgeAfter *time.Time `json:"purge_after,omitempty"`
	PurgeBegan *time.Time `json:"purge_began,omitempty"`
	Edition    string     `json:"edition,omitempty"`
	Placement  Placement  `json:"placement,omitempty"`
	Database   DatabaseID `json:"database,omitzero"`
	Epoch      int64      `json:"epoch"`
	// PlacementEpoch counts the tenant's placements; the gate of its database has the same. Zero: its database has no gate.
	PlacementEpoch int64 `json:"placement_epoch,omitzero"`
	// Moving says that the tenant is about to change its database.
	Moving    bool                       `json:"moving,omitempty"`
	Settings  map[string]json.RawMessage `json:"-"`
	CreatedAt time.Time                  `json:"created_at"`
	UpdatedAt time.Time                  `json:"updated_at"`
}

// Ref names the tenant in an audit event.
func (t *Tenant) Ref() Ref { return Ref{Kind: "tenant", ID: [16]byte(t.ID), Name: t.Name} }

// StateAt is the state that holds at a moment: one that was set until then is over, and the tenant active again.
func (t *Tenant) StateAt(moment time.Time) State {
	if t.StateUntil != nil && !moment.Before(*t.StateUntil) && (t.State == StateReadOnly || t.State == StateMaintenance) {
		return StateActive
	}
	return t.State
}

const selectTenant = `
select t.id, t.name, t.state, coalesce(t.state_reason, '') state_reason, t.state_until, coalesce(t.state_before, '') state_before,
       t.purge_after, t.purge_began, coalesce(t.edition, '') edition,
       coalesce(d.kind, '') placement, t.database, t.epoch, t.placement_epoch, t.moving, t.created_at, t.updated_at,
       array(select a.name from rowhouse.aliases a where a.tenant = t.id and a.until > now() order by 1) aliases,
       array(select o.host from rowhouse.domains o where o.tenant = t.id order by not o.is_primary, 1) domains,
       coalesce((select jsonb_object_agg(s.key, s.value) from rowhouse.settings s where s.tenant = t.id), '{}') settings
  from rowhouse.tenants t
  left join rowhouse.databases d on d.id = t.database`

// Tenant finds a tenant by id, name or alias. A deleted one is found by its id only. Unknown: ErrNotFound.
func (c *Catalog) Tenant(ctx context.Context, ref string) (*Tenant, error) {
	noun := fmt.Sprintf("tenant %q", ref)
	if id, err := ParseID[Tenant](ref); err == nil {
		return one[Tenant](ctx, c.pool, noun, selectTenant+` where t.id = $1`, id)
	}
	t, err := one[Tenant](ctx, c.pool, noun, selectTenant+` where t.name = $1 and t.state <> 'deleted'`, ref)
	if errors.Is(err, ErrNotFound) {
		return one[Tenant](ctx, c.pool, noun, selectTenant+`
			where t.id = (select a.tenant from rowhouse.aliases a where a.name = $1 and a.until > now()) and t.state <> 'deleted'`, ref)
	}
	return t, err
}

// Tenants goes through the tenants by name, deleted ones left out.
func (c *Catalog) Tenants(ctx context.Context) iter.Seq2[*Tenant, error] {
	return each[Tenant](ctx, c.pool, "tenants", selectTenant+` where t.state <> 'deleted' order by t.name`)
}

// NewTenant is what a tenant begins with.
type NewTenant struct {
	ID       TenantID
	Name     string
	Edition  string
	Database DatabaseID
	// Gated says that its database will have a gate for it.
	Gated bool
}

// CreateTenant inserts a tenant that is being provisioned. A name in use, as name or alias, is ErrExists.
func (tx *Tx) CreateTenant(ctx context.Context, t NewTenant) error {
	noun := fmt.Sprintf("tenant %q", t.Name)
	if err := tx.freeName(ctx, t.Name); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `
		insert into rowhouse.tenants (id, name, state, edition, database, placement_epoch)
		values ($1, $2, 'provisioning', nullif($3, ''), $4, $5::boolean::integer)`, t.ID, t.Name, t.Edition, t.Database, t.Gated)
	return refine(err, noun)
}

// freeName refuses a name that still leads to another tenant as its alias.
func (tx *Tx) freeName(ctx context.Context, name string) error {
	noun := fmt.Sprintf("tenant %q", name)
	var taken bool
	if err := tx.QueryRow(ctx, `select exists (select from rowhouse.aliases where name = $1 and until > now())`, name).Scan(&taken); err != nil {
		return refine(err, noun)
	}
	if taken {
		return fmt.Errorf("%s: %w", noun, ErrExists)
	}
	return nil
}

// SetTenantState changes the state and raises the epoch. Where states are named, the tenant must be in one of them, else
// it is ErrConflict.
func (tx *Tx) SetTenantState(ctx context.Context, id TenantID, state State, reason string, from ...State) error {
	noun := "tenant " + id.String()
	tag, err := tx.Exec(ctx, `
		update rowhouse.tenants
		   set state = $2, state_reason = nullif($3, ''), state_until = null, epoch = epoch + 1, updated_at = now()
		 where id = $1 and (cardinality($4::text[]) = 0 or state = any($4))`, id, state, reason, append([]State{}, from...))
	if err != nil {
		return refine(err, noun)
	}
	if tag.RowsAffected() == 1 {
		return nil
	}
	var is State
	if err := tx.QueryRow(ctx, `select state from rowhouse.tenants where id = $1`, id).Scan(&is); err != nil {
		return refine(err, noun)
	}
	return fmt.Errorf("%s is %s: %w", noun, is, ErrConflict)
}

// SetTenantUntil says when the state that the tenant is in ends by itself.
func (tx *Tx) SetTenantUntil(ctx context.Context, id TenantID, until time.Time) error {
	return tx.exactlyOne(ctx, "tenant "+id.String(), `update rowhouse.tenants set state_until = $2 where id = $1`, id, until)
}

// Lapsed lists the tenants in a state whose time is over.
func (c *Catalog) Lapsed(ctx context.Context) ([]*Tenant, error) {
	return all[Tenant](ctx, c.pool, "tenants", selectTenant+` where t.state in ('read_only', 'maintenance') and t.state_until <= now()`)
}

// LapseTenant makes a tenant active again whose state's time is over. One that is in another state by now is ErrConflict.
func (tx *Tx) LapseTenant(ctx context.Context, id TenantID) error {
	tag, err := tx.Exec(ctx, `
		update rowhouse.tenants
		   set state = 'active', state_reason = null, state_until = null, epoch = epoch + 1, updated_at = now()
		 where id = $1 and state in ('read_only', 'maintenance') and state_until <= now()`, id)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("tenant %s: %w", id, ErrConflict)
	}
	return refine(err, "tenant "+id.String())
}

// PlaceTenant says which database the tenant lives in and raises the epoch.
func (tx *Tx) PlaceTenant(ctx context.Context, id TenantID, database DatabaseID) error {
	return tx.exactlyOne(ctx, "tenant "+id.String(), `
		update rowhouse.tenants set database = $2, epoch = epoch + 1, updated_at = now() where id = $1`, id, database)
}

// querier is what reads need of a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

func one[Row any](ctx context.Context, q querier, noun, sql string, args ...any) (*Row, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, refine(err, noun)
	}
	row, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByNameLax[Row])
	return row, refine(err, noun)
}

func all[Row any](ctx context.Context, q querier, noun, sql string, args ...any) ([]*Row, error) {
	rows, err := q.Query(ctx, sql, args...)
	if err != nil {
		return nil, refine(err, noun)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByNameLax[Row])
	return found, refine(err, noun)
}

func each[Row any](ctx context.Context, q querier, noun, sql string, args ...any) iter.Seq2[*Row, error] {
	return func(yield func(*Row, error) bool) {
		rows, err := q.Query(ctx, sql, args...)
		if err != nil {
			yield(nil, refine(err, noun))
			return
		}
		defer rows.Close()
		for rows.Next() {
			row, err := pgx.RowToAddrOfStructByNameLax[Row](rows)
			if !yield(row, refine(err, noun)) || err != nil {
				return
			}
		}
		if err := rows.Err(); err != nil {
			yield(nil, refine(err, noun))
		}
	}
}

// aliasTerm is how long a tenant's old name leads to it and is nobody else's.
const aliasTerm = 30 * 24 * time.Hour

// RenameTenant gives a tenant another name; the old one stays an alias for 30 days and goes to nobody else meanwhile. A
// name in use, as name or as another's alias, is ErrExists.
func (tx *Tx) RenameTenant(ctx context.Context, t *Tenant, name string) error {
	noun := fmt.Sprintf("tenant %q", name)
	var taken bool
	err := tx.QueryRow(ctx, `
		select exists (select from rowhouse.aliases where name = $1 and until > now() and tenant <> $2)`, name, t.ID).Scan(&taken)
	if err != nil {
		return refine(err, noun)
	}
	if taken {
		return fmt.Errorf("%s: %w", noun, ErrExists)
	}
	// The new name may be an alias of before: of this tenant, or one that has run out.
	if _, err := tx.Exec(ctx, `delete from rowhouse.aliases where name = $1`, name); err != nil {
		return refine(err, noun)
	}
	if err := tx.exactlyOne(ctx, noun, `
		update rowhouse.tenants set name = $2, epoch = epoch + 1, updated_at = now()
		 where id = $1 and state <> 'deleted'`, t.ID, name); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `
		insert into rowhouse.aliases (name, tenant, until) values ($1, $2, now() + $3::interval)
		on conflict (name) do update set tenant = excluded.tenant, until = excluded.until`, t.Name, t.ID, aliasTerm)
	return refine(err, noun)
}

// AddDomain gives a tenant a host name of its own. One that another tenant has is ErrExists.
func (tx *Tx) AddDomain(ctx context.Context, id TenantID, host string) error {
	_, err := tx.Exec(ctx, `insert into rowhouse.domains (host, tenant) values ($1, $2)`, host, id)
	return refine(err, fmt.Sprintf("domain %q", host))
}

// RemoveDomain takes a host name back. One that the tenant does not have is ErrNotFound.
func (tx *Tx) RemoveDomain(ctx context.Context, id TenantID, host string) error {
	return tx.exactlyOne(ctx, fmt.Sprintf("domain %q", host), `delete from rowhouse.domains where host = $1 and tenant = $2`, host, id)
}
