package jobs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
)

// purge is one attempt at destroying what there is of a tenant. Nothing is destroyed that does not carry our mark at that
// moment.
type purge struct{ *provision }

func beginPurge(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	p, err := r.onTenant(ctx, op)
	if err != nil {
		return nil, err
	}
	if p.tenant.State != catalog.StateDeleting && p.tenant.State != catalog.StateFailed {
		return nil, permanently("tenant %q is %s; only what was deleted can be purged", p.tenant.Name, p.tenant.State)
	}
	return &purge{p}, nil
}

func (p *purge) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"begun": p.begun, "emptied": p.emptied, "dropped": p.dropped, "purged": p.purged}
}

func (p *purge) passes(step string) bool {
	switch step {
	case "emptied":
		return p.db == nil || p.db.Kind != catalog.Shared || p.db.State == catalog.DatabaseCreating
	case "dropped":
		return p.db == nil || !p.isSole()
	}
	return false
}

var pointPurgeDropped = fp.Point("purge.dropped.database")

// begun is the point of no return.
func (p *purge) begun(ctx context.Context) error {
	return p.update(ctx, "tenant.purge_begun", p.tenant.Ref(), nil, func(tx *catalog.Tx) error {
		return tx.BeginPurge(ctx, p.tenant.ID)
	})
}

// emptied deletes the tenant's rows from a shared database, a batch at a time, until a whole look finds none.
func (p *purge) emptied(ctx context.Context) error {
	if _, err := p.host(ctx); err != nil { // its lock keeps a successor out
		return err
	}
	return p.onRows(ctx, p.db, func(conn *pgx.Conn) error {
		if err := untriggered(ctx, conn); err != nil {
			return err
		}
		deleted, err := emptyTenant(ctx, conn, p.tenant.ID)
		if err != nil {
			return err
		}
		return p.update(ctx, "tenant.purge_rows", p.tenant.Ref(), map[string]any{"deleted": deleted, "left": 0}, func(*catalog.Tx) error { return nil })
	})
}

func (p *purge) dropped(ctx context.Context) error { return p.drop(ctx) }

// drop drops the operation's database and then its roles, one database of a server at a time: each makes a checkpoint.
func (p *provision) drop(ctx context.Context) error {
	h, err := p.host(ctx)
	if err != nil {
		return err
	}
	there, err := p.marked(ctx, h)
	if err == nil && there == nil {
		there, err = p.unmarked(ctx, h)
	}
	if err != nil {
		return err
	}
	if there != nil {
		if err := h.under(ctx, lockKey(p.catalog.ID(), "drops on server "+p.db.Server.String()), func() error {
			return h.exec(ctx, "drop database %s with (force)", ident(there.Name))
		}); err != nil {
			return err
		}
	}
	if err := fp.Hit(pointPurgeDropped); err != nil {
		return err
	}
	return p.dropRoles(ctx, h)
}

// unmarked finds a database that its maker had no time to mark: closed, and owned by the owner that we marked.
func (p *provision) unmarked(ctx context.Context, h *host) (*stored, error) {
	there, err := h.database(ctx, p.db.Name)
	if err != nil || there == nil {
		return nil, err
	}
	if there.Comment != "" || there.Open || there.Owner != ownerOf(p.db.ID) {
		return nil, permanently("database %q is there and not this catalog's", p.db.Name)
	}
	return there, nil
}

func (p *provision) dropRoles(ctx context.Context, h *host) error {
	rows, err := h.Query(ctx, `
		select rolname::text from pg_roles where starts_with(shobj_description(oid, 'pg_authid'), $1) order by 1`,
		markOf(p.catalog.ID(), "db="+p.db.ID.String()))
	if err != nil {
		return fmt.Errorf("roles of database %q: %w", p.db.Name, err)
	}
	roles, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(roles) == 0 {
		return err
	}
	return h.exec(ctx, "drop role %s", identList(roles))
}

// purged leaves the tombstone.
func (p *purge) purged(ctx context.Context) error {
	var own catalog.DatabaseID
	detail := map[string]any{}
	if p.db != nil {
		detail["database"], detail["placement"] = p.db.Name, p.db.Kind
		if p.db.Kind == catalog.Dedicated {
			own = p.db.ID
		}
	}
	return p.update(ctx, "tenant.purged", p.tenant.Ref(), detail, func(tx *catalog.Tx) error {
		if err := tx.BuryTenant(ctx, p.tenant.ID, own); err != nil {
			return err
		}
		return tx.FinishOperation(ctx, p.op, catalog.OperationDone, "")
	})
}
