package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
)

// spare is one attempt at a database that is to stand ready for whoever asks: it is made as a tenant's is, or brought to
// the active set, or dropped because the server should have less of them.
type spare struct{ *provision }

func beginSpare(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	db, err := r.catalog.Database(ctx, op.Database)
	if err != nil {
		return nil, err
	}
	return &spare{&provision{Runner: r, op: op, tenant: &catalog.Tenant{}, db: db}}, nil
}

// The steps of a spare database: of a new one, of one that has another schema than the active set, of one too many.
var (
	spareSteps   = []string{"roles", "database", "secured", "owned", "migrated", "verified", "kept"}
	renewSteps   = []string{"migrated", "kept"}
	surplusSteps = []string{"dropped"}
)

func (s *spare) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"roles": s.roles, "database": s.database, "secured": s.secured, "owned": s.owned, "migrated": s.migrated, "verified": s.verified,
		"kept": s.kept, "dropped": s.surplus,
	}
}

// passes nothing: no step is here that has nothing to do.
func (s *spare) passes(string) bool { return false }

// kept puts the database among those that stand ready. One that is behind the active set by now is brought up to it first,
// like a tenant's.
func (s *spare) kept(ctx context.Context) error {
	for {
		set, err := s.born(ctx)
		if err != nil {
			return err
		}
		if err := s.migrated(ctx); err != nil {
			return err
		}
		err = s.update(ctx, "database.spare", s.db.Ref(), nil, func(tx *catalog.Tx) error {
			if err := s.recordCloned(ctx, tx, set.chain); err != nil {
				return err
			}
			if err := tx.KeepSpare(ctx, s.db.ID); err != nil {
				return err
			}
			return tx.FinishOperation(ctx, s.op, catalog.OperationDone, "")
		})
		if !errors.Is(err, errAgain) {
			s.wake() // there may be another one to make
			return err
		}
	}
}

// surplus drops a database that holds nothing.
func (s *spare) surplus(ctx context.Context) error {
	if err := s.drop(ctx); err != nil {
		return err
	}
	err := s.update(ctx, "database.drop", s.db.Ref(), nil, func(tx *catalog.Tx) error {
		if err := tx.BuryDatabase(ctx, s.db.ID); err != nil {
			return err
		}
		return tx.FinishOperation(ctx, s.op, catalog.OperationDone, "")
	})
	s.wake()
	return err
}

// undo drops the database whatever it came to.
func (s *spare) undo(ctx context.Context) error { return s.drop(ctx) }

func (s *spare) cancelled(ctx context.Context, tx *catalog.Tx, undone bool) error {
	if !undone {
		return nil
	}
	return tx.BuryDatabase(ctx, s.db.ID)
}

var pointSpareRenamed = fp.Point("spare.database.renamed")

// renameSpare gives a database that stood ready the name it serves under, and says whose it is. Nobody is connected to it:
// no login may be used before the tenant is active.
func (p *provision) renameSpare(ctx context.Context, h *host) error {
	there, err := h.database(ctx, spareName(p.db.ID))
	switch {
	case err != nil:
		return err
	case there == nil:
		return permanently("database %q is not on its server", spareName(p.db.ID))
	case !p.isOurs(there.Comment, p.db.ID):
		return permanently("database %q is there and not this catalog's", there.Name)
	}
	var sql script
	sql.add("alter database %s rename to %s", ident(there.Name), ident(p.db.Name))
	sql.add("comment on database %s is %s", ident(p.db.Name), literal(p.mark(p.db.ID)))
	if err := h.run(ctx, sql); err != nil {
		return err
	}
	return fp.Hit(pointSpareRenamed)
}

// wake has a running Runner look at the stock at once.
func (r *Runner) wake() {
	select {
	case r.woken <- struct{}{}:
	default: // it will look
	}
}

// Restock begins what is missing in the stock of spare databases: on each server one at a time is made, brought to the
// active set, or dropped. It gives the operations that were begun.
func (r *Runner) Restock(ctx context.Context) ([]*catalog.Operation, error) {
	set, err := r.born(ctx)
	if err != nil {
		return nil, err
	}
	chain := set.Latest().Chain
	stocks, err := r.catalog.Stocks(ctx, chain)
	if err != nil {
		return nil, err
	}
	var begun []*catalog.Operation
	for _, s := range stocks {
		if d := (due{s}); s.Busy || !d.surplus() && !d.stale() && !d.missing() {
			continue
		}
		op, err := r.restock(ctx, s.Server, chain)
		if err != nil && !errors.Is(err, catalog.ErrConflict) && !errors.Is(err, catalog.ErrNotFound) { // another process was first
			return begun, err
		}
		if op != nil {
			begun = append(begun, op)
		}
	}
	return begun, nil
}

// due is what a server's stock needs.
type due struct{ *catalog.Stock }

func (d due) surplus() bool { return d.There > d.Wanted && !d.Newest.IsZero() }
func (d due) stale() bool   { return !d.Stale.IsZero() }
func (d due) missing() bool { return d.There < d.Wanted && d.Room > 0 }

func (r *Runner) restock(ctx context.Context, server catalog.ServerID, chain string) (*catalog.Operation, error) {
	op := &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: tenants.KindSpare}
	event := catalog.Event{Action: "server.restock", Target: catalog.Ref{Kind: "server", ID: [16]byte(server)}, Operation: op.ID}
	err := r.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		s, err := tx.Stock(ctx, server, chain)
		if err != nil {
			return err
		}
		d := due{s}
		switch {
		case s.Busy:
			return errAgain
		case d.surplus():
			op.Database, op.Steps = s.Newest, surplusSteps
			err = tx.SetDatabaseState(ctx, s.Newest, catalog.DatabaseDropping)
		case d.stale():
			op.Database, op.Steps = s.Stale, renewSteps
			err = tx.SetDatabaseState(ctx, s.Stale, catalog.DatabaseCreating)
		case d.missing():
			op.Steps = spareSteps
			op.Database, err = r.newSpare(ctx, tx, server)
		default:
			return errAgain
		}
		if err != nil {
			return err
		}
		if err := tx.CreateOperation(ctx, op); err != nil {
			return err
		}
		return r.Enqueue(ctx, tx, op)
	})
	if errors.Is(err, errAgain) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("spare databases: %w", err)
	}
	return op, nil
}

// newSpare inserts the row of a spare database to be made, and its login.
func (r *Runner) newSpare(ctx context.Context, tx *catalog.Tx, server catalog.ServerID) (catalog.DatabaseID, error) {
	id := catalog.NewID[catalog.Database]()
	return id, insertDatabase(ctx, tx, catalog.NewDatabase{
		ID: id, Server: server, Name: spareName(id), Kind: catalog.Dedicated, State: catalog.DatabaseCreating,
	})
}

// insertDatabase inserts the row of a database to be made, and its login with a sealed secret.
func insertDatabase(ctx context.Context, tx *catalog.Tx, d catalog.NewDatabase) error {
	if err := tx.CreateDatabase(ctx, d); err != nil {
		return err
	}
	return tx.SetCredential(ctx, catalog.Credential{
		Server: d.Server, Database: d.ID, Login: catalog.LoginData, Version: 1, Role: loginOf(d.ID), Secret: newPassword(),
	})
}

// recordCloned records the schema that came with a clone, if the set it is of is still the active one; else errAgain. The
// share lock makes the next set wait until this database is one of those it finds.
func (p *provision) recordCloned(ctx context.Context, tx *catalog.Tx, chain string) error {
	var current string
	err := tx.QueryRow(ctx, `select chain from rowhouse.migration_sets where active for share`).Scan(&current)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("migration set: %w", err)
	}
	if current != chain {
		return errAgain
	}
	if p.cloned == nil {
		return nil
	}
	return tx.SetDatabaseSchema(ctx, p.db.ID, *p.cloned)
}
