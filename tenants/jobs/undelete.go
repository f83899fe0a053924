package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
)

// undeletion is one attempt at giving a deleted tenant back.
type undeletion struct{ *provision }

func beginUndeletion(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	p, err := r.onTenant(ctx, op)
	if err != nil {
		return nil, err
	}
	return &undeletion{p}, p.stillDeleting()
}

func (u *undeletion) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"restored": u.restored, "migrated": u.migrated, "opened": u.opened, "undeleted": u.undeleted}
}

func (u *undeletion) passes(step string) bool {
	switch step {
	case "restored", "migrated":
		return !u.isSole()
	case "opened":
		return u.db.Adopted
	}
	return false
}

// restored gives the database its name back and lets the migrator in. Its logins cannot connect yet.
func (u *undeletion) restored(ctx context.Context) error {
	h, err := u.host(ctx)
	if err != nil {
		return err
	}
	there, err := u.marked(ctx, h)
	switch {
	case err != nil:
		return err
	case there == nil:
		return permanently("database %q is not on its server", u.db.Name)
	}
	name := databaseName(u.db.ID)
	if there.Name != name {
		if err := h.rename(ctx, there.Name, name, true); err != nil {
			return err
		}
	} else if err := h.exec(ctx, "alter database %s allow_connections true", ident(name)); err != nil {
		return err
	}
	if err := fp.Hit(pointUndeleteRenamed); err != nil {
		return err
	}
	if err := u.update(ctx, "database.restore", u.db.Ref(), map[string]any{"name": name}, func(tx *catalog.Tx) error {
		return tx.MoveDatabase(ctx, u.db.ID, name, catalog.DatabaseHeld)
	}); err != nil {
		return err
	}
	u.db, err = u.catalog.Database(ctx, u.db.ID)
	return err
}

// opened lets requests in again: a shared database's gate, or the login of the tenant's own.
func (u *undeletion) opened(ctx context.Context) error {
	if !u.isSole() {
		return u.setGate(ctx, "closed", "open")
	}
	h, err := u.host(ctx)
	if err != nil {
		return err
	}
	login, err := u.catalog.Credential(ctx, u.db.Server, u.db.ID, catalog.LoginData)
	if err != nil {
		return err
	}
	var sql script
	sql.add("alter role %s login", ident(login.Role))
	if err := h.run(ctx, sql); err != nil {
		return err
	}
	before := *u.tenant
	before.State = u.tenant.StateBefore
	if err := u.admitLogins(ctx, h, &before, false); err != nil {
		return err
	}
	if u.tenant.StateBefore == catalog.StateSuspended || u.tenant.StateBefore == catalog.StateMaintenance {
		return nil // its login may not connect
	}
	return u.asLogin(ctx, u.db.Name, func(conn *pgx.Conn) error { return u.identify(ctx, conn) })
}

// undeleted serves the tenant again. A database of its own is brought up first to a set that became the active one meanwhile:
// no rollout knows of it yet.
func (u *undeletion) undeleted(ctx context.Context) error {
	for {
		err := u.giveBack(ctx)
		if !errors.Is(err, errAgain) {
			return err
		}
		if err := u.migrated(ctx); err != nil {
			return err
		}
	}
}

func (u *undeletion) giveBack(ctx context.Context) error {
	return u.update(ctx, "tenant.undeleted", u.tenant.Ref(), nil, func(tx *catalog.Tx) error {
		if u.isSole() {
			// The share lock makes the next set wait until this database is one of those it finds.
			var current string
			err := tx.QueryRow(ctx, `select chain from rowhouse.migration_sets where active for share`).Scan(&current)
			switch {
			case err != nil && !errors.Is(err, pgx.ErrNoRows):
				return fmt.Errorf("migration set: %w", err)
			case err == nil && current != u.db.SchemaChain:
				return errAgain
			}
			if err := tx.SetDatabaseState(ctx, u.db.ID, catalog.DatabaseActive); err != nil {
				return err
			}
		}
		if err := tx.UndeleteTenant(ctx, u.tenant.ID); err != nil {
			return err
		}
		return tx.FinishOperation(ctx, u.op, catalog.OperationDone, "")
	})
}
