package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// rotation is one attempt at giving a database another login. The old one goes on until its sessions have ended: changing
// a password would not end them, and would refuse the next one of a router that has not heard of it.
type rotation struct {
	*provision
	args tenants.RotateArgs
	old  catalog.Credential
	next catalog.Credential // without a secret until it is prepared
}

func beginRotation(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	o := &rotation{}
	if err := json.Unmarshal(op.Args, &o.args); err != nil {
		return nil, permanently("operation %s: arguments cannot be read", op.ID)
	}
	db, err := r.catalog.Database(ctx, op.Database)
	if err != nil {
		return nil, err
	}
	if db.CredentialVersion != o.args.Version && db.CredentialVersion != o.args.Version-1 {
		return nil, permanently("login of database %q was changed by another", db.Name)
	}
	o.provision = &provision{Runner: r, op: op, tenant: &catalog.Tenant{}, db: db}
	if o.old, err = r.catalog.CredentialUpTo(ctx, db.Server, db.ID, catalog.LoginData, o.args.Version-1); err != nil {
		return nil, err
	}
	return o, o.read(ctx)
}

// read finds the next credential where it is prepared.
func (o *rotation) read(ctx context.Context) error {
	newest, err := o.catalog.CredentialUpTo(ctx, o.db.Server, o.db.ID, catalog.LoginData, o.args.Version)
	if newest.Version == o.args.Version {
		o.next = newest
		return err
	}
	o.next = catalog.Credential{Server: o.db.Server, Database: o.db.ID, Login: catalog.LoginData, Version: o.args.Version, Role: otherLogin(o.db.ID, o.old.Role)}
	return err
}

func (o *rotation) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"prepared": o.prepared, "set": o.set, "tried": o.tried, "switched": o.switched, "drained": o.drained, "retired": o.retired,
	}
}

func (o *rotation) passes(string) bool { return false }

// prepared keeps the next password, sealed, before it is anywhere else.
func (o *rotation) prepared(ctx context.Context) error {
	if !o.next.Secret.IsZero() {
		return nil
	}
	if err := o.admitted(ctx); err != nil {
		return err
	}
	next := o.next
	next.Secret = newPassword()
	err := o.update(ctx, "database.rotate_prepared", o.db.Ref(), nil, func(tx *catalog.Tx) error { return tx.SetCredential(ctx, next) })
	if err != nil {
		return err
	}
	return o.read(ctx)
}

// admitted refuses a database whose tenant's state keeps its logins out: the new one would be let in.
func (o *rotation) admitted(ctx context.Context) error {
	if o.db.Kind != catalog.Dedicated {
		return nil
	}
	var states []string
	err := o.catalog.Pool().QueryRow(ctx, `
		select coalesce(array_agg(state), '{}') from rowhouse.tenants where database = $1 and state not in ('active', 'deleted')`, o.db.ID).Scan(&states)
	if err != nil {
		return fmt.Errorf("tenant of database %q: %w", o.db.Name, err)
	}
	if len(states) > 0 {
		return permanently("the tenant of database %q is %s", o.db.Name, states[0])
	}
	return nil
}

// set makes the other login, or gives it the next password.
func (o *rotation) set(ctx context.Context) error {
	h, err := o.host(ctx)
	if err != nil {
		return err
	}
	verifier, err := scramVerifier(o.next.Secret)
	if err != nil {
		return err
	}
	there, err := h.roles(ctx, o.next.Role)
	if err != nil {
		return err
	}
	var sql script
	if role, ok := there[o.next.Role]; !ok {
		sql.add("create role %s login noinherit password %s", ident(o.next.Role), literal(verifier))
		sql.add("comment on role %s is %s", ident(o.next.Role), literal(o.mark(o.db.ID)))
	} else {
		if !o.isOurs(role.Comment, o.db.ID) {
			return permanently("role %q is there and not this catalog's", role.Name)
		}
		sql.add("alter role %s login password %s", ident(o.next.Role), literal(verifier))
	}
	sql.add("grant %s to %s", identList(requestRoles), ident(o.next.Role))
	sql.add("grant connect on database %s to %s", ident(o.db.Name), ident(o.next.Role))
	return h.run(ctx, sql)
}

// tried logs in as requests will.
func (o *rotation) tried(ctx context.Context) error {
	cfg, err := o.catalog.CredentialConnConfig(ctx, o.db.Name, o.next)
	if err != nil {
		return err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("new login of database %q: %w", o.db.Name, err)
	}
	defer closeConn(conn)
	if err := o.identify(ctx, conn); err != nil {
		return err
	}
	return migrations.CheckRoles(ctx, conn, requestRoles)
}

// switched tells the routers: what they open from now on, they open with the new login.
func (o *rotation) switched(ctx context.Context) error {
	return o.update(ctx, "database.rotated", o.db.Ref(), map[string]any{"role": o.next.Role}, func(tx *catalog.Tx) error {
		return tx.UseCredential(ctx, o.db.ID, o.args.Version)
	})
}

// drainTime is how long sessions of the old login are waited for.
const drainTime = 5 * time.Minute

// drained waits until nobody uses the old login. What goes on for longer than drainTime is not ended: it only cannot come
// again.
func (o *rotation) drained(ctx context.Context) error {
	h, err := o.host(ctx)
	if err != nil {
		return err
	}
	var sessions int
	if err := h.QueryRow(ctx, `select count(*) from pg_stat_activity where usename = $1`, o.old.Role).Scan(&sessions); err != nil {
		return fmt.Errorf("sessions of role %q: %w", o.old.Role, err)
	}
	if sessions > 0 && time.Since(o.op.CreatedAt) < drainTime {
		return &waitError{time.Second, "sessions of the old login are still open"}
	}
	return nil
}

// retired shuts the old login.
func (o *rotation) retired(ctx context.Context) error {
	if err := o.shut(ctx, o.old.Role); err != nil {
		return err
	}
	return o.update(ctx, "database.rotate_done", o.db.Ref(), map[string]any{"retired": o.old.Role}, func(tx *catalog.Tx) error {
		if err := tx.DropCredential(ctx, o.old); err != nil {
			return err
		}
		return tx.FinishOperation(ctx, o.op, catalog.OperationDone, "")
	})
}

// shut lets a login of ours in no more, and forgets its password.
func (o *rotation) shut(ctx context.Context, name string) error {
	h, err := o.host(ctx)
	if err != nil {
		return err
	}
	there, err := h.roles(ctx, name)
	if err != nil {
		return err
	}
	if role, ok := there[name]; !ok || !o.isOurs(role.Comment, o.db.ID) {
		return nil
	}
	return h.exec(ctx, "alter role %s nologin password null", ident(name))
}

// undo shuts the new login, which nobody uses yet.
func (o *rotation) undo(ctx context.Context) error {
	if o.db.CredentialVersion == o.args.Version {
		return permanently("database %q uses its new login already", o.db.Name)
	}
	return o.shut(ctx, o.next.Role)
}

func (o *rotation) cancelled(ctx context.Context, tx *catalog.Tx, _ bool) error {
	return tx.DropCredential(ctx, o.next)
}
