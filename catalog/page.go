package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Page is the part of a list that is wanted: at most Limit rows after the one whose key is After; an empty key means from
// the beginning. A key that the list cannot have is ErrInvalid.
type Page struct {
	After string
	Limit int
}

// TenantsPage lists tenants by name, deleted ones left out. A tenant's key is its name.
func (c *Catalog) TenantsPage(ctx context.Context, p Page) ([]*Tenant, error) {
	return all[Tenant](ctx, c.pool, "tenants", selectTenant+`
		where t.state <> 'deleted' and ($1 = '' or t.name > $1) order by t.name limit $2`, p.After, p.Limit)
}

// ServersPage lists servers by name, which is their key.
func (c *Catalog) ServersPage(ctx context.Context, p Page) ([]*Server, error) {
	return all[Server](ctx, c.pool, "servers", selectServer+`
		where $1 = '' or name > $1 order by name limit $2`, p.After, p.Limit)
}

// DatabasesPage lists the databases that are not gone, the oldest first; a zero server means all. Their key is their id.
func (c *Catalog) DatabasesPage(ctx context.Context, server ServerID, p Page) ([]*Database, error) {
	after, err := afterID[Database](p.After)
	if err != nil {
		return nil, err
	}
	return all[Database](ctx, c.pool, "databases", selectDatabase+`
		where state <> 'gone' and ($1::uuid is null or server = $1) and ($2::uuid is null or id > $2) order by id limit $3`,
		server, after, p.Limit)
}

// OperationsPage lists operations, the newest first; a zero tenant means everybody's. Their key is their id.
func (c *Catalog) OperationsPage(ctx context.Context, tenant TenantID, p Page) ([]*Operation, error) {
	after, err := afterID[Operation](p.After)
	if err != nil {
		return nil, err
	}
	return all[Operation](ctx, c.pool, "operations", selectOperation+`
		where ($1::uuid is null or o.tenant = $1) and ($2::uuid is null or o.id < $2) order by o.id desc limit $3`,
		tenant, after, p.Limit)
}

// Key is the token's in a list.
func (t *Token) Key() string { return fmt.Sprintf("%d.%s", t.CreatedAt.UnixMicro(), t.ID) }

// TokensPage lists operators' tokens, the newest first.
func (c *Catalog) TokensPage(ctx context.Context, p Page) ([]*Token, error) {
	at, id, ok := strings.Cut(p.After, ".")
	micros, err := strconv.ParseInt(at, 10, 64)
	if p.After != "" && (!ok || err != nil) {
		return nil, Invalid("tokens have no such key")
	}
	return all[Token](ctx, c.pool, "tokens", selectToken+`
		where $1 = '' or (created_at, id) < ($2, $1) order by created_at desc, id desc limit $3`,
		id, time.UnixMicro(micros), p.Limit)
}

// SettingsPage lists what the host decides for a tenant or, with a zero id, for everybody, by key.
func (c *Catalog) SettingsPage(ctx context.Context, tenant TenantID, p Page) ([]*Setting, error) {
	return all[Setting](ctx, c.pool, "settings", `
		select key, value, updated_at from rowhouse.settings
		 where tenant is not distinct from $1 and ($2 = '' or key > $2) order by key limit $3`, tenant, p.After, p.Limit)
}

// Setting is one thing that the host decided. A secret stands in it sealed.
type Setting struct {
	Key       string          `json:"key"`
	Value     json.RawMessage `json:"value"`
	UpdatedAt time.Time       `json:"updated_at"`
}

// EventFilter is which part of the audit trail is wanted. The zero value is all of it.
type EventFilter struct {
	// Target is the id of what was changed.
	Target [16]byte
	// Since leaves out what is older.
	Since time.Time
	// Oldest lists the oldest first, so that a reader can go on where it ended.
	Oldest bool
}

// EventsPage lists audit events, the newest first unless the filter says otherwise. Their key is their seq.
func (c *Catalog) EventsPage(ctx context.Context, f EventFilter, p Page) ([]Event, error) {
	after, err := strconv.ParseInt(p.After, 10, 64)
	if p.After != "" && err != nil {
		return nil, Invalid("audit events have no such key")
	}
	where, order := `$3 = 0 or seq < $3`, `desc`
	if f.Oldest {
		where, order = `seq > $3`, `asc`
	}
	return c.events(ctx, `
		where ($1::uuid is null or target_id = $1) and ($2::timestamptz is null or at >= $2) and (`+where+`)
		order by seq `+order+` limit $4`, ID[struct{}](f.Target), timeOrNull(f.Since), after, p.Limit)
}

func timeOrNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

func afterID[Row any](key string) (ID[Row], error) {
	if key == "" {
		return ID[Row]{}, nil
	}
	return ParseID[Row](key)
}
