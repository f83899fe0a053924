package catalog

import (
	"context"
	"encoding/json"
	"fmt"
)

// SetSetting stores what the host decides under key, for one tenant or, with a zero id, for everybody. A nil value takes it back.
func (tx *Tx) SetSetting(ctx context.Context, tenant TenantID, key string, value json.RawMessage) error {
	var err error
	if value == nil {
		_, err = tx.Exec(ctx, `delete from rowhouse.settings where tenant is not distinct from $1 and key = $2`, tenant, key)
	} else {
		_, err = tx.Exec(ctx, `
			insert into rowhouse.settings (tenant, key, value) values ($1, $2, $3)
			on conflict (tenant, key) do update set value = excluded.value, updated_at = now()`, tenant, key, value)
	}
	return refine(err, fmt.Sprintf("setting %q", key))
}

// GlobalSettings are what the host decides for everybody.
func (c *Catalog) GlobalSettings(ctx context.Context) (map[string]json.RawMessage, error) {
	var values map[string]json.RawMessage
	err := c.pool.QueryRow(ctx, `
		select coalesce(jsonb_object_agg(key, value), '{}') from rowhouse.settings where tenant is null`).Scan(&values)
	return values, refine(err, "settings")
}
