package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Edition is what the host sells: values that the tenants of it inherit.
type Edition struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Values are what it gives, by key: features.* and limits.*.
	Values map[string]json.RawMessage `json:"values"`
	// Tenants is how many have it.
	Tenants   int       `json:"tenants"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Feature is something that an application asks for.
type Feature struct {
	Key string `json:"key"`
	// Value is what a tenant has where neither itself nor its edition has another. Its type is the feature's.
	Value json.RawMessage `json:"value"`
	// Parent is the feature without which this one is off; empty: none.
	Parent string `json:"parent,omitempty"`
	// Visible features are told to a tenant's clients.
	Visible     bool      `json:"visible"`
	Description string    `json:"description,omitempty"`
	UpdatedAt   time.Time `json:"updated_at"`
}

// Plan is everything that editions give and applications ask for.
type Plan struct {
	Editions map[string]*Edition
	Features map[string]*Feature
}

const selectEdition = `
select e.name, e.description, e.updated_at,
       coalesce((select jsonb_object_agg(v.key, v.value) from rowhouse.edition_values v where v.edition = e.name), '{}') as values,
       (select count(*) from rowhouse.tenants t where t.edition = e.name and t.state <> 'deleted')::int as tenants
  from rowhouse.editions e`

const selectFeature = `select key, value, coalesce(parent, '') parent, visible, description, updated_at from rowhouse.features`

// Editions lists the editions by name.
func (c *Catalog) Editions(ctx context.Context) ([]*Edition, error) {
	return all[Edition](ctx, c.pool, "editions", selectEdition+` order by e.name`)
}

// Edition finds an edition by name. Unknown: ErrNotFound.
func (c *Catalog) Edition(ctx context.Context, name string) (*Edition, error) {
	return one[Edition](ctx, c.pool, fmt.Sprintf("edition %.60q", name), selectEdition+` where e.name = $1`, name)
}

// Features lists the features by key.
func (c *Catalog) Features(ctx context.Context) ([]*Feature, error) {
	return all[Feature](ctx, c.pool, "features", selectFeature+` order by key`)
}

// Feature finds a feature by key. Unknown: ErrNotFound.
func (c *Catalog) Feature(ctx context.Context, key string) (*Feature, error) {
	return one[Feature](ctx, c.pool, fmt.Sprintf("feature %.70q", key), selectFeature+` where key = $1`, key)
}

// plan reads the plan, unless it did not change after a revision; then it is nil.
func plan(ctx context.Context, tx pgx.Tx, since int64) (*Plan, error) {
	var changed bool
	err := tx.QueryRow(ctx, `
		select $1::bigint = 0 or exists (select from rowhouse.changes where kind = 'plan' and revision > $1)`, since).Scan(&changed)
	if err != nil || !changed {
		return nil, err
	}
	p := &Plan{map[string]*Edition{}, map[string]*Feature{}}
	editions, err := all[Edition](ctx, tx, "editions", selectEdition)
	if err != nil {
		return nil, err
	}
	for _, e := range editions {
		p.Editions[e.Name] = e
	}
	features, err := all[Feature](ctx, tx, "features", selectFeature)
	for _, f := range features {
		p.Features[f.Key] = f
	}
	return p, err
}

// SetEdition makes an edition, or describes it anew.
func (tx *Tx) SetEdition(ctx context.Context, name, description string) error {
	_, err := tx.Exec(ctx, `
		insert into rowhouse.editions (name, description) values ($1, $2)
		on conflict (name) do update set description = excluded.description, updated_at = now()`, name, description)
	return refine(err, fmt.Sprintf("edition %.60q", name))
}

// RemoveEdition forgets an edition and its values. One that tenants have is ErrConflict.
func (tx *Tx) RemoveEdition(ctx context.Context, name string) error {
	noun := fmt.Sprintf("edition %.60q", name)
	var n int
	if err := tx.QueryRow(ctx, `select count(*) from rowhouse.tenants where edition = $1 and state <> 'deleted'`, name).Scan(&n); err != nil {
		return refine(err, noun)
	}
	if n > 0 {
		return fmt.Errorf("%s is the one of %d tenants: %w", noun, n, ErrConflict)
	}
	if _, err := tx.Exec(ctx, `delete from rowhouse.edition_values where edition = $1`, name); err != nil {
		return refine(err, noun)
	}
	return tx.exactlyOne(ctx, noun, `delete from rowhouse.editions where name = $1`, name)
}

// AssignEdition gives a tenant an edition; an empty one takes it back.
func (tx *Tx) AssignEdition(ctx context.Context, id TenantID, name string) error {
	return tx.exactlyOne(ctx, "tenant "+id.String(), `
		update rowhouse.tenants set edition = nullif($2, ''), epoch = epoch + 1, updated_at = now() where id = $1`, id, name)
}

// SetEditionValue stores what an edition gives under key; nil takes it back. An unknown edition is ErrNotFound.
func (tx *Tx) SetEditionValue(ctx context.Context, edition, key string, value json.RawMessage) error {
	var err error
	if value == nil {
		_, err = tx.Exec(ctx, `delete from rowhouse.edition_values where edition = $1 and key = $2`, edition, key)
	} else {
		_, err = tx.Exec(ctx, `
			insert into rowhouse.edition_values (edition, key, value) values ($1, $2, $3)
			on conflict (edition, key) do update set value = excluded.value, updated_at = now()`, edition, key, value)
	}
	return unlessReferred(err, fmt.Sprintf("edition %.60q", edition), ErrNotFound)
}

// SetFeature makes a feature, or changes it. An unknown parent is ErrNotFound.
func (tx *Tx) SetFeature(ctx context.Context, f *Feature) error {
	_, err := tx.Exec(ctx, `
		insert into rowhouse.features (key, value, parent, visible, description) values ($1, $2, nullif($3, ''), $4, $5)
		on conflict (key) do update
		   set value = excluded.value, parent = excluded.parent, visible = excluded.visible, description = excluded.description, updated_at = now()`,
		f.Key, f.Value, f.Parent, f.Visible, f.Description)
	return unlessReferred(err, fmt.Sprintf("parent of feature %.70q", f.Key), ErrNotFound)
}

// RemoveFeature forgets a feature and all values of it. One that others depend on is ErrConflict.
func (tx *Tx) RemoveFeature(ctx context.Context, key string) error {
	noun := fmt.Sprintf("feature %.70q", key)
	for _, table := range []string{"settings", "edition_values"} {
		if _, err := tx.Exec(ctx, `delete from rowhouse.`+table+` where key = 'features.' || $1`, key); err != nil {
			return refine(err, noun)
		}
	}
	err := tx.exactlyOne(ctx, noun, `delete from rowhouse.features where key = $1`, key)
	return unlessReferred(err, noun+" is another one's parent", ErrConflict)
}

// unlessReferred is refine for statements that a foreign key may refuse.
func unlessReferred(err error, noun string, refused error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "23503" {
		return fmt.Errorf("%s: %w", noun, refused)
	}
	if errors.Is(err, ErrNotFound) {
		return err
	}
	return refine(err, noun)
}
