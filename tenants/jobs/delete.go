package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
)

// deletion is one attempt at putting a tenant away. Its rows stay until it is purged.
type deletion struct {
	*provision
	args tenants.DeleteArgs
}

func beginDeletion(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	d := &deletion{}
	if err := json.Unmarshal(op.Args, &d.args); err != nil {
		return nil, permanently("operation %s: arguments cannot be read", op.ID)
	}
	var err error
	if d.provision, err = r.onTenant(ctx, op); err != nil {
		return nil, err
	}
	return d, d.stillDeleting()
}

// stillDeleting refuses to put away, or to give back, a tenant that something else was done with since.
func (p *provision) stillDeleting() error {
	if p.tenant.State != catalog.StateDeleting || p.tenant.PurgeBegan != nil {
		return permanently("tenant %q is no longer one that was deleted and can be taken back", p.tenant.Name)
	}
	return nil
}

func (d *deletion) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"closed": d.closed, "exported": d.exported, "retired": d.retired, "deleted": d.deleted}
}

func (d *deletion) passes(step string) bool {
	switch step {
	case "closed":
		return d.db.Adopted
	case "exported":
		return !d.args.Export || d.db.Adopted
	case "retired":
		return !d.isSole()
	}
	return false
}

// points between a statement and the next within a step.
var (
	pointDeleteRenamed   = fp.Point("delete.retired.renamed")
	pointUndeleteRenamed = fp.Point("undelete.restored.renamed")
)

// closed lets nobody write any more, whatever a router believes: a database of its own by its logins, a shared one by the
// tenant's gate.
func (d *deletion) closed(ctx context.Context) error {
	h, err := d.host(ctx)
	if err != nil {
		return err
	}
	if !d.isSole() {
		return d.setGate(ctx, "open", "closed")
	}
	logins, err := d.logins(ctx, h)
	if err != nil {
		return err
	}
	var sql script
	for _, login := range logins {
		sql.add("alter role %s nologin", ident(login))
	}
	if err := h.run(ctx, sql); err != nil {
		return err
	}
	return h.endSessions(ctx, logins)
}

// setGate turns the tenant's gate, when those who write have left. A tenant that was made before there were gates has none.
func (p *provision) setGate(ctx context.Context, from, to string) error {
	return p.asOwner(ctx, p.db, func(conn *pgx.Conn) error {
		return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, `select pg_advisory_xact_lock(lock) from rowhouse.gate where tenant_id = $1`, p.tenant.ID); err != nil {
				return fmt.Errorf("gate of tenant %q: %w", p.tenant.Name, err)
			}
			_, err := tx.Exec(ctx, `
				update rowhouse.gate set state = $3, operation = $4 where tenant_id = $1 and state = $2`, p.tenant.ID, from, to, p.op.ID)
			if err != nil {
				return fmt.Errorf("gate of tenant %q: %w", p.tenant.Name, err)
			}
			return nil
		})
	})
}

// asOwner connects to a database as its owner, whom the policies bind: what it sees is what rowhouse.tenant_id says.
func (r *Runner) asOwner(ctx context.Context, db *catalog.Database, fn func(*pgx.Conn) error) error {
	conn, err := r.targetOf(db).Connect(ctx)
	if err != nil {
		return fmt.Errorf("owner of database %q: %w", db.Name, err)
	}
	defer closeConn(conn)
	if _, err := conn.Exec(ctx, "set row_security = on"); err != nil {
		return fmt.Errorf("owner of database %q: %w", db.Name, err)
	}
	return fn(conn)
}

// retired closes the database to everybody and gives it a name that says what it is kept for.
func (d *deletion) retired(ctx context.Context) error {
	h, err := d.host(ctx)
	if err != nil {
		return err
	}
	there, err := d.marked(ctx, h)
	switch {
	case err != nil:
		return err
	case there == nil:
		return permanently("database %q is not on its server", d.db.Name)
	}
	kept := fmt.Sprintf("rh_del_%s_%s", time.Now().UTC().Format("20060102"), d.db.ID.Compact())
	if there.Name != databaseName(d.db.ID) {
		kept = there.Name // it was renamed before, and the process ended
	} else if err := h.rename(ctx, there.Name, kept, false); err != nil {
		return err
	}
	if err := fp.Hit(pointDeleteRenamed); err != nil {
		return err
	}
	return d.update(ctx, "database.retire", d.db.Ref(), map[string]any{"name": kept}, func(tx *catalog.Tx) error {
		return tx.MoveDatabase(ctx, d.db.ID, kept, catalog.DatabaseRetired)
	})
}

// marked finds the database by its mark, whatever it is called; nil means that there is none.
func (p *provision) marked(ctx context.Context, h *host) (*stored, error) {
	rows, err := h.Query(ctx, selectStored+`
		 where starts_with(shobj_description(oid, 'pg_database'), $1)`, markOf(p.catalog.ID(), "db="+p.db.ID.String()))
	if err != nil {
		return nil, fmt.Errorf("database %q: %w", p.db.Name, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[stored])
	switch {
	case err != nil:
		return nil, fmt.Errorf("database %q: %w", p.db.Name, err)
	case len(found) > 1:
		return nil, permanently("%d databases on the server carry the mark of database %s", len(found), p.db.ID)
	case len(found) == 0:
		return nil, nil
	}
	return found[0], nil
}

// rename closes a database, ends what is connected to it and renames it; it stays closed, or is open afterwards. A session
// that is not gone yet makes RENAME fail, and the step is tried again.
func (h *host) rename(ctx context.Context, from, to string, open bool) error {
	if err := h.exec(ctx, "alter database %s allow_connections false", ident(from)); err != nil {
		return err
	}
	if err := h.endSessionsIn(ctx, from); err != nil {
		return err
	}
	var sql script
	sql.add("alter database %s rename to %s", ident(from), ident(to))
	if open {
		sql.add("alter database %s allow_connections true", ident(to))
	}
	return h.run(ctx, sql)
}

// endSessionsIn ends what is connected to a database, as far as it is ours to end, and waits until all of it is gone.
func (h *host) endSessionsIn(ctx context.Context, dbname string) error {
	for began := time.Now(); ; {
		var left int
		if err := h.QueryRow(ctx, `
			select count(case when pg_has_role(usesysid, 'usage')
			                    or pg_has_role('pg_signal_backend', 'usage') and not (select rolsuper from pg_roles where oid = usesysid)
			                  then pg_terminate_backend(pid) else false end)
			  from pg_stat_activity where datname = $1 and pid <> pg_backend_pid() and backend_type = 'client backend'`, dbname).Scan(&left); err != nil {
			return fmt.Errorf("sessions in database %q: %w", dbname, err)
		}
		if left == 0 {
			return nil
		}
		if time.Since(began) > lockWait {
			return &waitError{time.Second, fmt.Sprintf("%d sessions in database %q do not end", left, dbname)}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func (d *deletion) deleted(ctx context.Context) error {
	return d.update(ctx, "tenant.deleted", d.tenant.Ref(), nil, func(tx *catalog.Tx) error {
		return tx.FinishOperation(ctx, d.op, catalog.OperationDone, "")
	})
}
