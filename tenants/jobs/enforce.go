package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// enforcement is one attempt at bringing a dedicated database to the state of its tenant.
type enforcement struct {
	*provision
	args tenants.EnforceArgs
}

func beginEnforcement(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	e := &enforcement{}
	if err := json.Unmarshal(op.Args, &e.args); err != nil {
		return nil, permanently("operation %s: arguments cannot be read", op.ID)
	}
	var err error
	e.provision, err = r.onTenant(ctx, op)
	return e, err
}

// onTenant is work on a tenant that is there, and on its database if it has one.
func (r *Runner) onTenant(ctx context.Context, op *catalog.Operation) (*provision, error) {
	p := &provision{Runner: r, op: op}
	var err error
	if p.tenant, err = r.catalog.Tenant(ctx, op.Tenant.String()); err != nil {
		return nil, err
	}
	if !p.tenant.Database.IsZero() {
		p.db, err = r.catalog.Database(ctx, p.tenant.Database)
	}
	return p, err
}

func (e *enforcement) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"enforced": e.enforced}
}

func (e *enforcement) passes(string) bool { return false }

// enforced reads the state under the database's lock, so that of two that were asked for in short order the later one holds.
func (e *enforcement) enforced(ctx context.Context) error {
	if e.isSole() {
		h, err := e.host(ctx)
		if err != nil {
			return err
		}
		t, err := e.catalog.Tenant(ctx, e.tenant.ID.String())
		if err != nil {
			return err
		}
		if err := e.admitLogins(ctx, h, t, e.args.Now); err != nil {
			return err
		}
	}
	return e.update(ctx, "tenant.enforced", e.tenant.Ref(), nil, func(tx *catalog.Tx) error {
		return tx.FinishOperation(ctx, e.op, catalog.OperationDone, "")
	})
}

// isSole says that the tenant has a database of its own that we made.
func (p *provision) isSole() bool {
	return p.db != nil && p.db.Kind == catalog.Dedicated && !p.db.Adopted
}

// admitLogins lets the database's logins in, or not, as the tenant's state has it. What is connected stays, or with now ends.
func (p *provision) admitLogins(ctx context.Context, h *host, t *catalog.Tenant, now bool) error {
	logins, err := p.logins(ctx, h)
	if err != nil {
		return err
	}
	limit, readOnly := 0, "off"
	switch t.State {
	case catalog.StateActive:
		limit = -1
	case catalog.StateReadOnly:
		limit, readOnly = -1, "on"
	case catalog.StateSuspended, catalog.StateMaintenance:
	default:
		return nil // another operation's to decide
	}
	var sql script
	for _, login := range logins {
		sql.add("alter role %s connection limit %d", ident(login), limit)
		sql.add("alter role %s set default_transaction_read_only = %s", ident(login), readOnly)
	}
	if err := h.run(ctx, sql); err != nil || !now {
		return err
	}
	return h.endSessions(ctx, logins)
}

// logins are the roles that carry the database's mark, but for its owner.
func (p *provision) logins(ctx context.Context, h *host) ([]string, error) {
	rows, err := h.Query(ctx, `
		select rolname::text from pg_roles
		 where rolname <> $2 and starts_with(shobj_description(oid, 'pg_authid'), $1) order by 1`,
		markOf(p.catalog.ID(), "db="+p.db.ID.String()), ownerOf(p.db.ID))
	if err != nil {
		return nil, fmt.Errorf("logins of database %q: %w", p.db.Name, err)
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// endSessions ends what the roles have connected to any database.
func (h *host) endSessions(ctx context.Context, roles []string) error {
	if len(roles) == 0 {
		return nil
	}
	if !h.super { // only a member may end a role's sessions
		if err := h.exec(ctx, "grant %s to %s", identList(roles), ident(h.role)); err != nil {
			return err
		}
	}
	_, err := h.Exec(ctx, `select pg_terminate_backend(pid) from pg_stat_activity where usename = any ($1)`, slices.Clone(roles))
	if err != nil {
		return fmt.Errorf("sessions of %s: %w", identList(roles), err)
	}
	return nil
}
