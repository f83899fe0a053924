package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
)

// born is the set that new databases are born with, and its migrator.
type born struct {
	*migrations.Migrator
	chain string // of the set as it is stored; empty where none is
}

// born is the active set; without one it is the baseline alone. Its files are read when they are others than last time.
func (r *Runner) born(ctx context.Context) (born, error) {
	chain, err := r.catalog.ActiveChain(ctx)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return born{}, err
	}
	r.mu.Lock()
	last := r.set
	r.mu.Unlock()
	if last.Migrator != nil && last.chain == chain {
		return last, nil
	}
	set := &catalog.MigrationSet{}
	if chain != "" {
		if set, err = r.catalog.MigrationSet(ctx, chain); err != nil {
			return born{}, err
		}
	}
	m, err := r.migrator(FilesOf(set))
	if err != nil {
		return born{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.set = born{m, set.Chain}
	return r.set, nil
}

func (r *Runner) migrator(files []migrations.File) (*migrations.Migrator, error) {
	m, err := migrations.ForTenants(migrations.FS(files), migrations.Config{Then: takeFingerprint, Logger: r.log})
	if err != nil {
		return nil, fmt.Errorf("migration set: %w", err)
	}
	return m, nil
}

// FilesOf are the files of a stored set.
func FilesOf(set *catalog.MigrationSet) []migrations.File {
	files := make([]migrations.File, len(set.Files))
	for i, f := range set.Files {
		files[i] = migrations.File{Version: f.Version, Name: f.Name, SHA256: f.SHA256, Up: f.Up, Down: f.Down}
	}
	return files
}

type fingerprintKey struct{}

// takeFingerprint runs on the migrator's own connection, under its lock, and leaves the fingerprint where bring looks.
func takeFingerprint(ctx context.Context, conn *pgx.Conn) (err error) {
	if into, ok := ctx.Value(fingerprintKey{}).(*string); ok {
		*into, err = migrations.Fingerprint(ctx, conn)
	}
	return err
}

// bring brings one database to the migrator's version, and says which schema it has then. Its fingerprint is known already
// where it was cloned from a current template: it is the template's, and reading it costs more than all the rest.
func (r *Runner) bring(ctx context.Context, m *migrations.Migrator, t migrations.Target, known string) (migrations.Result, catalog.Migrated) {
	fingerprint := known
	taking := ctx
	if known == "" {
		taking = context.WithValue(ctx, fingerprintKey{}, &fingerprint)
	}
	result, _ := m.Up(taking, t) // the error is in the result too
	if known != "" && result.From != result.To {
		return r.bring(ctx, m, t, "")
	}
	return result, catalog.Migrated{Version: result.To.Number, Chain: result.To.Chain, Fingerprint: fingerprint}
}
