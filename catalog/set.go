package catalog

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// MigrationFile is one migration of the application, as it was stored.
type MigrationFile struct {
	Version int64
	Name    string
	SHA256  string `db:"sha256"`
	Up      string
	Down    string
}

// MigrationSet is the application's migrations as they were when a rollout began.
type MigrationSet struct {
	Version   int64           `json:"version"`
	Chain     string          `json:"chain"`
	CreatedAt time.Time       `json:"created_at"`
	Files     []MigrationFile `json:"-" db:"-"`
}

// ActiveSet is the set that new databases are born with. None yet: ErrNotFound.
func (c *Catalog) ActiveSet(ctx context.Context) (*MigrationSet, error) {
	return c.migrationSet(ctx, `active`)
}

// ActiveChain is the active set's chain, without its files. None yet: ErrNotFound.
func (c *Catalog) ActiveChain(ctx context.Context) (string, error) {
	var chain string
	err := c.pool.QueryRow(ctx, `select chain from rowhouse.migration_sets where active`).Scan(&chain)
	return chain, refine(err, "migration set")
}

// MigrationSet finds a stored set by its chain. Unknown: ErrNotFound.
func (c *Catalog) MigrationSet(ctx context.Context, chain string) (*MigrationSet, error) {
	return c.migrationSet(ctx, `chain = $1`, chain)
}

func (c *Catalog) migrationSet(ctx context.Context, where string, args ...any) (*MigrationSet, error) {
	set, err := one[MigrationSet](ctx, c.pool, "migration set", `
		select version, chain, created_at from rowhouse.migration_sets where `+where, args...)
	if err != nil {
		return nil, err
	}
	files, err := all[MigrationFile](ctx, c.pool, "migration files", `
		select f.version, f.name, f.sha256, f.up, coalesce(f.down, '') down
		  from rowhouse.migration_files f join rowhouse.migration_sets s on s.id = f.set
		 where s.chain = $1 order by f.version`, set.Chain)
	for _, f := range files {
		set.Files = append(set.Files, *f)
	}
	return set, err
}

// ActivateSet stores a set, unless one of its chain is there, and makes it the one that new databases are born with.
func (tx *Tx) ActivateSet(ctx context.Context, set *MigrationSet) error {
	if _, err := tx.Exec(ctx, `update rowhouse.migration_sets set active = false where active and chain <> $1`, set.Chain); err != nil {
		return refine(err, "migration set")
	}
	id := uuid.Must(uuid.NewV7())
	tag, err := tx.Exec(ctx, `
		insert into rowhouse.migration_sets (id, version, chain, active) values ($1, $2, $3, true)
		on conflict (chain) do update set active = true where not rowhouse.migration_sets.active`, id.String(), set.Version, set.Chain)
	if err != nil || tag.RowsAffected() == 0 {
		return refine(err, "migration set")
	}
	for _, f := range set.Files {
		if _, err := tx.Exec(ctx, `
			insert into rowhouse.migration_files (set, version, name, sha256, up, down)
			select id, $2, $3, $4, $5, nullif($6, '') from rowhouse.migration_sets where chain = $1
			on conflict do nothing`, set.Chain, f.Version, f.Name, f.SHA256, f.Up, f.Down); err != nil {
			return refine(err, "migration file "+f.Name)
		}
	}
	return nil
}

// Tried is what was written of the trial of a set's files that follow a version, and how long it took; nil when there was none.
func (c *Catalog) Tried(ctx context.Context, chain string, after int64) (effects []byte, took time.Duration, err error) {
	err = c.pool.QueryRow(ctx, `
		select effects, took from rowhouse.migration_sets where chain = $1 and tried_after = $2`, chain, after).Scan(&effects, &took)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, 0, nil
	}
	return effects, took, refine(err, "trial of the migration set")
}

// SetTried writes what the trial of a stored set's files showed that follow a version. One that is not stored is ErrNotFound.
func (c *Catalog) SetTried(ctx context.Context, chain string, after int64, effects []byte, took time.Duration) error {
	return c.Update(ctx, Event{Action: "migrations.try", Target: Ref{Kind: "migration_set", Name: chain}}, func(tx *Tx) error {
		return tx.exactlyOne(ctx, "migration set", `
			update rowhouse.migration_sets set tried_after = $2, effects = $3, took = $4 where chain = $1`, chain, after, effects, took)
	})
}
