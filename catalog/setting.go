package catalog

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
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

// sealedSetting is how a secret stands among settings: as a text that says what it is.
const sealedSetting = "sealed:"

func settingBound(tenant TenantID, key string) []byte {
	return fmt.Appendf(nil, "rowhouse/v1/settings.value\x00%s\x00%s", tenant, key)
}

// SetSecretSetting stores a secret that the host decides, sealed and bound to its tenant and key.
func (tx *Tx) SetSecretSetting(ctx context.Context, tenant TenantID, key string, secret Secret) error {
	sealed, err := tx.catalog.seal(secret, settingBound(tenant, key))
	if err != nil {
		return fmt.Errorf("setting %q: %w", key, err)
	}
	value, err := json.Marshal(sealedSetting + base64.StdEncoding.EncodeToString(sealed))
	if err != nil {
		return fmt.Errorf("setting %q: %w", key, err)
	}
	return tx.SetSetting(ctx, tenant, key, value)
}

// UnsealSetting opens what SetSecretSetting stored.
func (c *Catalog) UnsealSetting(tenant TenantID, key string, value json.RawMessage) (Secret, error) {
	var text string
	if err := json.Unmarshal(value, &text); err != nil {
		return Secret{}, fmt.Errorf("setting %q: %w", key, ErrSealed)
	}
	sealed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, sealedSetting))
	if err != nil || !strings.HasPrefix(text, sealedSetting) {
		return Secret{}, fmt.Errorf("setting %q: %w", key, ErrSealed)
	}
	return c.unseal(sealed, settingBound(tenant, key))
}
