package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
)

func unscopedOf(id catalog.DatabaseID) string { return databaseName(id) + "_u" }

// AllowUnscoped gives a database the login that is bound by no tenant, for router.BeginUnscoped. A role that bypasses
// row-level security can be made by a superuser, from PostgreSQL 16 on also by a provisioner that bypasses it itself: super
// is the connection string of one who can, for a provisioner who cannot, and is kept nowhere. Allowing it again gives the
// login a new password.
func (r *Runner) AllowUnscoped(ctx context.Context, id catalog.DatabaseID, super catalog.Secret) error {
	db, err := r.catalog.Database(ctx, id)
	switch {
	case err != nil:
		return err
	case db.Adopted:
		return catalog.Invalid("database %s is adopted: nothing in it is changed", id)
	case db.State != catalog.DatabaseActive:
		return fmt.Errorf("database %s is %s: %w", id, db.State, catalog.ErrConflict)
	}
	h, err := r.unscopedHost(ctx, db, super)
	if err != nil {
		return err
	}
	defer closeConn(h.Conn)
	return h.under(ctx, lockKey(r.catalog.ID(), "unscoped "+id.String()), func() error {
		cr := catalog.Credential{Server: db.Server, Database: id, Login: catalog.LoginUnscoped, Version: db.CredentialVersion, Role: unscopedOf(id), Secret: newPassword()}
		if err := r.makeUnscoped(ctx, h, db, cr); err != nil {
			return err
		}
		event := catalog.Event{Action: "database.unscoped.allow", Target: db.Ref(), Detail: map[string]any{"role": cr.Role}}
		return r.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
			if err := tx.RemoveCredentials(ctx, id, catalog.LoginUnscoped); err != nil {
				return err
			}
			return tx.SetCredential(ctx, cr)
		})
	})
}

// DenyUnscoped takes the login away: first from the routers, then from the server.
func (r *Runner) DenyUnscoped(ctx context.Context, id catalog.DatabaseID, super catalog.Secret) error {
	db, err := r.catalog.Database(ctx, id)
	if err != nil {
		return err
	}
	err = r.catalog.Update(ctx, catalog.Event{Action: "database.unscoped.deny", Target: db.Ref()}, func(tx *catalog.Tx) error {
		return tx.RemoveCredentials(ctx, id, catalog.LoginUnscoped)
	})
	if err != nil {
		return err
	}
	h, err := r.unscopedHost(ctx, db, super)
	if err != nil {
		return err
	}
	defer closeConn(h.Conn)
	name := unscopedOf(id)
	switch there, err := r.unscopedRole(ctx, h, id); {
	case err != nil:
		return err
	case !there:
		return nil
	}
	if err := r.setEntry(ctx, db, "revoke all on function rowhouse.enter_all() from "+ident(name)); err != nil {
		return err
	}
	var sql script
	sql.add("revoke all on database %s from %s", ident(db.Name), ident(name))
	sql.add("drop role %s", ident(name))
	return h.run(ctx, sql)
}

// unscopedHost is a session on the server's maintenance database of the provisioner, or of whom super names.
func (r *Runner) unscopedHost(ctx context.Context, db *catalog.Database, super catalog.Secret) (*host, error) {
	h := &host{}
	var err error
	if super.IsZero() {
		h.Conn, err = r.connect(ctx, db.Server, maintenance)
	} else {
		h.Conn, err = r.connectAs(ctx, db.Server, super)
	}
	if err != nil {
		return nil, err
	}
	if err := h.QueryRow(ctx, `select rolname, rolsuper from pg_roles where rolname = current_user`).Scan(&h.role, &h.super); err != nil {
		closeConn(h.Conn)
		return nil, fmt.Errorf("role: %w", err)
	}
	return h, nil
}

// connectAs connects to a server as whom a connection string names. The address is the catalog's.
func (r *Runner) connectAs(ctx context.Context, id catalog.ServerID, dsn catalog.Secret) (*pgx.Conn, error) {
	address, secret, err := catalog.ParseAddress(dsn.Reveal())
	if err != nil {
		return nil, err
	}
	server, err := r.catalog.Server(ctx, id.String())
	if err != nil {
		return nil, err
	}
	if !slices.Equal(address.Hosts, server.Hosts) {
		return nil, catalog.Invalid("the connection string leads to another server than %q, where the database is", server.Name)
	}
	cfg, err := server.ConnConfig(maintenance, catalog.Credential{Role: address.User, Secret: secret})
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["search_path"] = "pg_catalog, pg_temp"
	cfg.RuntimeParams["standard_conforming_strings"] = "on"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("server %q: %s", server.Name, explain(err))
	}
	return conn, nil
}

// unscopedRole says whether the role is there. One that is not ours is refused.
func (r *Runner) unscopedRole(ctx context.Context, h *host, id catalog.DatabaseID) (bool, error) {
	name := unscopedOf(id)
	there, err := h.roles(ctx, name)
	if err != nil {
		return false, err
	}
	role, ok := there[name]
	if ok && role.Comment != r.unscopedMark(id) {
		return false, permanently("role %q is there and not this catalog's", name)
	}
	return ok, nil
}

func (r *Runner) unscopedMark(id catalog.DatabaseID) string {
	return markOf(r.catalog.ID(), "db="+id.String()) + "unscoped"
}

// makeUnscoped makes the role, or gives it a new password. It has the rights of service_role and no others: what it
// passes is the fence. By itself it begins READ ONLY.
func (r *Runner) makeUnscoped(ctx context.Context, h *host, db *catalog.Database, cr catalog.Credential) error {
	there, err := r.unscopedRole(ctx, h, db.ID)
	if err != nil {
		return err
	}
	verifier, err := scramVerifier(cr.Secret)
	if err != nil {
		return err
	}
	var sql script
	verb := "create"
	if there {
		verb = "alter"
	}
	sql.add("%s role %s login inherit bypassrls password %s", verb, ident(cr.Role), literal(verifier))
	sql.add("comment on role %s is %s", ident(cr.Role), literal(r.unscopedMark(db.ID)))
	sql.add("alter role %s set default_transaction_read_only = on", ident(cr.Role))
	sql.add("grant service_role to %s", ident(cr.Role))
	sql.add("grant connect on database %s to %s", ident(db.Name), ident(cr.Role))
	if h.PgConn().ParameterStatus("server_version") >= "16" { // who drops the database drops its roles
		provisioner, err := r.catalog.Credential(ctx, db.Server, catalog.DatabaseID{}, catalog.LoginProvisioner)
		if err != nil {
			return err
		}
		if provisioner.Role != h.role {
			sql.add("grant %s to %s with admin true, inherit false, set false", ident(cr.Role), ident(provisioner.Role))
		}
	}
	if err := h.run(ctx, sql); err != nil {
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42501" {
			return &needsSuper{h.role}
		}
		return fmt.Errorf("role %q: %w", cr.Role, err)
	}
	return r.setEntry(ctx, db, "grant execute on function rowhouse.enter_all() to "+ident(cr.Role))
}

// setEntry says whether the login may write for all tenants. A database that has no gate yet needs no say.
func (r *Runner) setEntry(ctx context.Context, db *catalog.Database, sql string) error {
	return r.asOwner(ctx, db, func(conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, sql)
		if pg, ok := errors.AsType[*pgconn.PgError](err); ok && pg.Code == "42883" {
			return nil
		}
		return err
	})
}

// needsSuper is a provisioner who may not make the role.
type needsSuper struct{ role string }

func (e *needsSuper) Error() string {
	return fmt.Sprintf("role %q may not make roles that bypass row-level security", e.role)
}

// Hint says who may.
func (*needsSuper) Hint() string {
	return "--dsn @FILE of a superuser of that server; it is used once and kept nowhere"
}
