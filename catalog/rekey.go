package catalog

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// rotating is what keys can be asked that can be changed while they are used. *keyring.Keyset can.
type rotating interface {
	KeyIDs() []string
	IsCurrent(sealed []byte) bool
}

// rekeyBatch is how many secrets are sealed anew in one transaction.
const rekeyBatch = 50

// Rekeyed counts secrets by the key that they are sealed under.
type Rekeyed struct {
	// Done were sealed anew this time, Current stood under the key that seals before, and Old still do under another.
	Done    int `json:"done"`
	Current int `json:"current"`
	Old     int `json:"old"`
}

// sealedRow is a secret and what it is bound to.
type sealedRow struct {
	sealed []byte
	bound  []byte
	// store replaces it, if it is still the one that was read.
	store func(ctx context.Context, tx *Tx, fresh []byte) error
}

// Rekey seals every secret anew that is not sealed under the key that seals now. Each is replaced only if it is still the one
// that was read, so that others may write meanwhile, and what was done stays done: called again it goes on. after is told how
// many were done so far, and may end it.
func (c *Catalog) Rekey(ctx context.Context, after func(done int) error) (Rekeyed, error) {
	keys, ok := c.keys.(rotating)
	if !ok {
		return Rekeyed{}, fmt.Errorf("%w: the keys cannot be changed", ErrSealed)
	}
	var n Rekeyed
	old, current, err := c.sealedUnder(ctx, keys)
	if err != nil {
		return n, err
	}
	n.Current = current
	for len(old) > 0 {
		batch := old[:min(rekeyBatch, len(old))]
		old = old[len(batch):]
		event := Event{Action: "catalog.rekey", Target: Ref{Kind: "catalog", Name: c.id}, Detail: map[string]any{"secrets": len(batch), "key": keys.KeyIDs()[0]}}
		if err := c.Update(ctx, event, func(tx *Tx) error {
			for _, row := range batch {
				plain, err := c.keys.Unseal(row.sealed, row.bound)
				if err != nil {
					return ErrSealed
				}
				fresh, err := c.keys.Seal(plain, row.bound)
				if err != nil {
					return fmt.Errorf("rekey: %w", err)
				}
				if err := row.store(ctx, tx, fresh); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return n, err
		}
		n.Done += len(batch)
		if after != nil {
			if err := after(n.Done); err != nil {
				return n, err
			}
		}
	}
	left, _, err := c.sealedUnder(ctx, keys)
	n.Old = len(left)
	return n, err
}

// SealedUnderOld counts what would no longer open if the keys that do not seal were taken away: secrets, and answers that are
// kept for requests which may be sent again.
func (c *Catalog) SealedUnderOld(ctx context.Context) (int, error) {
	keys, ok := c.keys.(rotating)
	if !ok {
		return 0, nil
	}
	old, _, err := c.sealedUnder(ctx, keys)
	if err != nil {
		return 0, err
	}
	n := len(old)
	rows, err := c.pool.Query(ctx, `
		select request from rowhouse.requests_once where expires_at > now()
		union all select answer from rowhouse.requests_once where expires_at > now() and answer is not null`)
	if err != nil {
		return 0, refine(err, "kept answers")
	}
	kept, err := pgx.CollectRows(rows, pgx.RowTo[[]byte])
	for _, sealed := range kept {
		if !keys.IsCurrent(sealed) {
			n++
		}
	}
	return n, refine(err, "kept answers")
}

// sealedUnder lists the secrets that are not sealed under the key that seals, and counts those that are.
func (c *Catalog) sealedUnder(ctx context.Context, keys rotating) (old []sealedRow, current int, err error) {
	var every []sealedRow
	for _, list := range []func(context.Context) ([]sealedRow, error){c.sealedCredentials, c.sealedSettings, c.sealedCheck, c.sealedHeads} {
		found, err := list(ctx)
		if err != nil {
			return nil, 0, err
		}
		every = append(every, found...)
	}
	for _, row := range every {
		if keys.IsCurrent(row.sealed) {
			current++
		} else {
			old = append(old, row)
		}
	}
	return old, current, nil
}

func (c *Catalog) sealedCredentials(ctx context.Context) ([]sealedRow, error) {
	found, err := all[SealedLogin](ctx, c.pool, "credentials", `
		select server, database, login, version, role, secret from rowhouse.credentials where secret is not null`)
	if err != nil {
		return nil, err
	}
	rows := make([]sealedRow, len(found))
	for i, cr := range found {
		rows[i] = sealedRow{cr.Secret, boundTo(cr.Server, cr.Database, cr.Login, cr.Version), func(ctx context.Context, tx *Tx, fresh []byte) error {
			_, err := tx.Exec(ctx, `
				update rowhouse.credentials set secret = $5
				 where server = $1 and database is not distinct from $2 and login = $3 and version = $4 and secret = $6`,
				cr.Server, cr.Database, cr.Login, cr.Version, fresh, cr.Secret)
			return refine(err, "credential")
		}}
	}
	return rows, nil
}

func (c *Catalog) sealedSettings(ctx context.Context) ([]sealedRow, error) {
	type row struct {
		Tenant TenantID
		Key    string
		Value  json.RawMessage
	}
	found, err := all[row](ctx, c.pool, "settings", `
		select tenant, key, value from rowhouse.settings where jsonb_typeof(value) = 'string' and starts_with(value #>> '{}', '`+sealedSetting+`')`)
	if err != nil {
		return nil, err
	}
	var rows []sealedRow
	for _, s := range found {
		var text string
		if err := json.Unmarshal(s.Value, &text); err != nil {
			return nil, fmt.Errorf("setting %q: %w", s.Key, ErrSealed)
		}
		sealed, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(text, sealedSetting))
		if err != nil {
			continue // a text that happens to begin so
		}
		rows = append(rows, sealedRow{sealed, settingBound(s.Tenant, s.Key), func(ctx context.Context, tx *Tx, fresh []byte) error {
			_, err := tx.Exec(ctx, `
				update rowhouse.settings set value = to_jsonb($3::text) where tenant is not distinct from $1 and key = $2 and value = $4`,
				s.Tenant, s.Key, sealedSetting+base64.StdEncoding.EncodeToString(fresh), s.Value)
			return refine(err, fmt.Sprintf("setting %q", s.Key))
		}})
	}
	return rows, nil
}

func (c *Catalog) sealedCheck(ctx context.Context) ([]sealedRow, error) {
	var sealed []byte
	if err := c.pool.QueryRow(ctx, `select key_check from rowhouse.catalog`).Scan(&sealed); err != nil || sealed == nil {
		return nil, refine(err, "catalog")
	}
	return []sealedRow{{sealed, c.checkBound(), func(ctx context.Context, tx *Tx, fresh []byte) error {
		_, err := tx.Exec(ctx, `update rowhouse.catalog set key_check = $1 where key_check = $2`, fresh, sealed)
		return refine(err, "catalog")
	}}}, nil
}

func (c *Catalog) sealedHeads(ctx context.Context) ([]sealedRow, error) {
	type seal struct {
		Position int64
		Sealed   []byte
	}
	found, err := all[seal](ctx, c.pool, "audit seals", `select position, sealed from rowhouse.audit_seals`)
	if err != nil {
		return nil, err
	}
	rows := make([]sealedRow, len(found))
	for i, s := range found {
		rows[i] = sealedRow{s.Sealed, c.sealBound(s.Position), func(ctx context.Context, tx *Tx, fresh []byte) error {
			_, err := tx.Exec(ctx, `update rowhouse.audit_seals set sealed = $2 where position = $1 and sealed = $3`, s.Position, fresh, s.Sealed)
			return refine(err, "audit seal")
		}}
	}
	return rows, nil
}

func (c *Catalog) checkBound() []byte { return []byte("rowhouse/v1/catalog.key_check\x00" + c.id) }

// reportKeys says which keys this process knows. It is told at each renewal, so that a change of the file is heard of.
func (c *Catalog) reportKeys(ctx context.Context, id InstanceID) error {
	keys, ok := c.keys.(rotating)
	if !ok {
		return nil
	}
	_, err := c.pool.Exec(ctx, `update rowhouse.instances set keys = $2 where id = $1 and keys <> $2`, id, keys.KeyIDs())
	return refine(err, "instance")
}

// WithoutKey lists the live processes that do not know a key yet, or with sealing, do not seal with it yet.
func (c *Catalog) WithoutKey(ctx context.Context, key string, sealing bool) ([]string, error) {
	rows, err := c.pool.Query(ctx, `
		select concat_ws(' ', nullif(host, ''), id::text) from rowhouse.instances
		 where lease_until > now() and case when $2 then keys[1] is distinct from $1 else not $1 = any (keys) end order by 1`, key, sealing)
	if err != nil {
		return nil, refine(err, "instances")
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return names, refine(err, "instances")
}
