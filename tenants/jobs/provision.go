package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// provision is one attempt at making a tenant: a database of its own, or a place in a shared one, which is made first where
// there is none.
type provision struct {
	*Runner
	op     *catalog.Operation
	args   tenants.ProvisionArgs
	tenant *catalog.Tenant
	db     *catalog.Database // nil until the tenant is placed
	server *host             // nil until a step needs it
	// cloned is the schema of the template which this attempt has cloned, and thus of the database; nil where it has not.
	cloned *catalog.Migrated
	// inside is the provisioner's session in the database that is being made; nil until a step needs it.
	inside *pgx.Conn
}

func beginProvision(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	p := &provision{Runner: r, op: op}
	if err := json.Unmarshal(op.Args, &p.args); err != nil {
		return nil, permanently("operation %s: arguments cannot be read", op.ID)
	}
	var err error
	if p.tenant, err = r.catalog.Tenant(ctx, op.Tenant.String()); err != nil {
		return nil, err
	}
	if !p.tenant.Database.IsZero() {
		p.db, err = r.catalog.Database(ctx, p.tenant.Database)
	}
	return p, err
}

// provisionFailed lets the tenant be seen as one that was not made.
func provisionFailed(ctx context.Context, tx *catalog.Tx, op *catalog.Operation) error {
	return tx.SetTenantState(ctx, op.Tenant, catalog.StateFailed, "provisioning failed", catalog.StateProvisioning, catalog.StateFailed)
}

// undo drops the database that was being made. Where the tenant was only to have a place in one, there is nothing to drop.
func (p *provision) undo(ctx context.Context) error {
	if p.db == nil || !p.making() || p.db.ID != p.op.Database {
		return nil
	}
	return p.drop(ctx)
}

// cancelled leaves a tombstone of a tenant that was taken back, and of one that was not, something to retry or purge.
func (p *provision) cancelled(ctx context.Context, tx *catalog.Tx, undone bool) error {
	if !undone {
		return tx.SetTenantState(ctx, p.tenant.ID, catalog.StateFailed, "provisioning was cancelled", catalog.StateProvisioning, catalog.StateFailed)
	}
	var own catalog.DatabaseID
	if p.db != nil && p.making() && p.db.ID == p.op.Database {
		own = p.db.ID
	}
	return tx.BuryTenant(ctx, p.tenant.ID, own)
}

func (p *provision) close() {
	if p.inside != nil {
		closeConn(p.inside)
	}
	if p.server != nil {
		p.giveBack(p.server)
	}
}

// steps are what tenants.ProvisionSteps names. Each looks first whether its effect is there.
func (p *provision) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"placed": p.placed, "roles": p.roles, "database": p.database, "secured": p.secured, "owned": p.owned,
		"migrated": p.migrated, "seeded": p.seeded, "verified": p.verified, "active": p.active,
	}
}

// passes says that a step has nothing to do: the database is not being made.
func (p *provision) passes(step string) bool {
	switch step {
	case "roles", "secured", "owned", "verified":
		return !p.making() && step != "verified" || p.db.Spare // it had all that before it became one
	case "database", "migrated":
		return !p.making()
	}
	return false
}

// making says that the tenant's database is this operation's to make.
func (p *provision) making() bool { return p.db.State == catalog.DatabaseCreating }

// points between a statement and the next within a step, for tests that end the process there.
var (
	pointDatabaseCreated = fp.Point("provision.database.created")
	pointTemplateCreated = fp.Point("provision.template.created")
	pointTemplateFilled  = fp.Point("provision.template.filled")
	pointActiveChosen    = fp.Point("provision.active.chosen")
)

// update writes to the catalog as long as the claim holds.
func (p *provision) update(ctx context.Context, action string, target catalog.Ref, detail map[string]any, fn func(*catalog.Tx) error) error {
	return p.updateUnder(ctx, p.op, action, target, detail, fn)
}

// roles makes the database's owner and its login, each with its mark, in one transaction.
func (p *provision) roles(ctx context.Context) error {
	h, err := p.host(ctx)
	if err != nil {
		return err
	}
	login, err := p.catalog.Credential(ctx, p.db.Server, p.db.ID, catalog.LoginData)
	if err != nil {
		return err
	}
	verifier, err := scramVerifier(login.Secret)
	if err != nil {
		return err
	}
	owner, mark := ownerOf(p.db.ID), p.mark(p.db.ID)
	there, err := p.ensureServerRoles(ctx, h, owner, login.Role)
	if err != nil {
		return err
	}
	for name, role := range there {
		if !p.isOurs(role.Comment, p.db.ID) {
			return permanently("role %q is there and not this catalog's", name)
		}
	}
	var sql script
	if _, ok := there[owner]; !ok {
		sql.add("create role %s nologin noinherit", ident(owner))
		sql.add("comment on role %s is %s", ident(owner), literal(mark))
	}
	if _, ok := there[login.Role]; ok {
		sql.add("alter role %s password %s", ident(login.Role), literal(verifier))
	} else {
		sql.add("create role %s login noinherit password %s", ident(login.Role), literal(verifier))
		sql.add("comment on role %s is %s", ident(login.Role), literal(mark))
	}
	sql.add("grant %s to %s", identList(requestRoles), ident(login.Role))
	sql.add("grant %s to %s", ident(owner), ident(migratorOf(p.db.Server)))
	if !h.super {
		sql.add("grant %s to %s", ident(owner), ident(h.role))
	}
	return h.run(ctx, sql)
}

// database clones the template. A clone without a mark that our own owner role owns and that is closed is one that we had
// no time to mark; whatever else has the name is not touched.
func (p *provision) database(ctx context.Context) error {
	h, err := p.host(ctx)
	if err != nil {
		return err
	}
	owner := ownerOf(p.db.ID)
	there, err := h.database(ctx, p.db.Name)
	switch {
	case err != nil:
		return err
	case there != nil && p.isOurs(there.Comment, p.db.ID):
		return nil
	case there != nil && (there.Comment != "" || there.Owner != owner || there.Open):
		return permanently("database %q is there and not this catalog's", p.db.Name)
	case there == nil && p.db.Spare:
		return p.renameSpare(ctx, h)
	case there == nil:
		template, schema, err := p.template(ctx, h)
		if err != nil {
			return err
		}
		if err := h.exec(ctx, "create database %s template %s owner %s allow_connections false strategy wal_log",
			ident(p.db.Name), ident(template), ident(owner)); err != nil {
			return err
		}
		p.cloned = &schema
		if err := fp.Hit(pointDatabaseCreated); err != nil {
			return err
		}
	}
	return h.exec(ctx, "comment on database %s is %s", ident(p.db.Name), literal(p.mark(p.db.ID)))
}

// secured closes the database to everybody but its owner and the migrator before it can be connected to. Neither grants
// nor settings come from a template.
func (p *provision) secured(ctx context.Context) error {
	h, err := p.host(ctx)
	if err != nil {
		return err
	}
	var sql script
	sql.add("revoke all on database %s from public", ident(p.db.Name))
	sql.add("grant connect on database %s to %s", ident(p.db.Name), ident(migratorOf(p.db.Server)))
	sql.add("alter database %s set client_connection_check_interval = '500ms'", ident(p.db.Name))
	sql.add("alter database %s set idle_in_transaction_session_timeout = '10s'", ident(p.db.Name))
	sql.add("alter database %s set search_path = public, extensions, pg_temp", ident(p.db.Name))
	sql.add("alter database %s allow_connections true", ident(p.db.Name))
	return h.run(ctx, sql)
}

// owned gives what came from the template to the database's own owner, and says in the database which one it is.
func (p *provision) owned(ctx context.Context) error {
	if _, err := p.host(ctx); err != nil { // its lock covers what is done inside, too
		return err
	}
	var err error
	if p.inside, err = p.connect(ctx, p.db.Server, p.db.Name); err != nil {
		return err
	}
	// One message, and so one transaction: the identity is what the statement before left there.
	_, err = p.inside.Exec(ctx, takeOver(templateOwnerOf(p.db.Server), ownerOf(p.db.ID))+fmt.Sprintf(`;
		insert into rowhouse.identity (database_id, catalog_id) values (%s, %s) on conflict do nothing`,
		literal(p.db.ID.String()), literal(p.catalog.ID())), pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return fmt.Errorf("database %q: %w", p.db.Name, err)
	}
	return p.identify(ctx, p.inside)
}

// takeOver gives everything in the database from one owner to another, the schemas first: where the provisioner is no
// superuser, the new owner of a function must be able to create in its schema.
func takeOver(from, to string) string {
	return fmt.Sprintf(`
do $$
declare
  s name;
begin
  for s in select nspname from pg_namespace where nspowner = %[3]s::regrole loop
    execute format('alter schema %%I owner to %%I', s, %[4]s);
  end loop;
end $$;
reassign owned by %[1]s to %[2]s`, ident(from), ident(to), literal(from), literal(to))
}

// identify insists that a connection leads to the tenant's database.
func (p *provision) identify(ctx context.Context, q interface {
	QueryRow(context.Context, string, ...any) pgx.Row
},
) error {
	var itself bool
	err := q.QueryRow(ctx, `select database_id = $1 and catalog_id = $2 from rowhouse.identity`, p.db.ID, p.catalog.ID()).Scan(&itself)
	switch {
	case errors.Is(err, pgx.ErrNoRows), err == nil && !itself:
		return permanently("database %q is another one than its name says", p.db.Name)
	case err != nil:
		return fmt.Errorf("identity of database %q: %w", p.db.Name, err)
	}
	return nil
}

// migrated brings the database to the active set. There is nothing to do in a clone of that set's template, whose schema is
// recorded when the database becomes active.
func (p *provision) migrated(ctx context.Context) error {
	set, err := p.born(ctx)
	if err != nil {
		return err
	}
	if p.chain() == set.Latest().Chain {
		return nil
	}
	known := ""
	if p.cloned != nil {
		known = p.cloned.Fingerprint
	}
	result, schema := p.bring(ctx, set.Migrator, p.targetOf(p.db), known)
	if result.Err != nil {
		return result.Err
	}
	if err := p.update(ctx, "database.migrate", p.db.Ref(), map[string]any{"version": schema.Version}, func(tx *catalog.Tx) error {
		return tx.SetDatabaseSchema(ctx, p.db.ID, schema)
	}); err != nil {
		return err
	}
	p.cloned = nil
	p.db, err = p.catalog.Database(ctx, p.db.ID)
	return err
}

// verified looks at the database as its login will: that it is itself, that it shows nothing to somebody without a tenant,
// and that the login is turned away next door. A shared database in use has passed that before.
func (p *provision) verified(ctx context.Context) error {
	if !p.making() {
		return p.asLogin(ctx, p.db.Name, func(conn *pgx.Conn) error { return p.identify(ctx, conn) })
	}
	h, err := p.host(ctx)
	if err != nil {
		return err
	}
	if err := h.exec(ctx, "grant connect on database %s to %s", ident(p.db.Name), ident(loginOf(p.db.ID))); err != nil {
		return err
	}
	if err := p.turnedAway(ctx, h); err != nil {
		return err
	}
	return p.asLogin(ctx, p.db.Name, func(conn *pgx.Conn) error {
		if err := p.identify(ctx, conn); err != nil {
			return err
		}
		if p.cloned != nil {
			return migrations.CheckRoles(ctx, conn, requestRoles)
		}
		return migrations.SelfTest(ctx, conn, requestRoles)
	})
}

// turnedAway insists that the login may enter no other database of ours on the server. Those that are still closed have
// not been taken from the public yet.
func (p *provision) turnedAway(ctx context.Context, h *host) error {
	var neighbour string
	err := h.QueryRow(ctx, `
		select datname::text from pg_database
		 where datallowconn and datname <> $1 and starts_with(shobj_description(oid, 'pg_database'), $2)
		   and has_database_privilege($3::name, oid, 'connect')
		 limit 1`, p.db.Name, "rowhouse catalog="+p.catalog.ID()+" ", loginOf(p.db.ID)).Scan(&neighbour)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("neighbours of database %q: %w", p.db.Name, err)
	}
	return permanently("login of database %q may enter database %q", p.db.Name, neighbour)
}

func (p *provision) asLogin(ctx context.Context, dbname string, fn func(*pgx.Conn) error) error {
	cfg, err := p.catalog.ServerConnConfig(ctx, p.db.Server, p.db.ID, dbname, catalog.LoginData)
	if err != nil {
		return err
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return fmt.Errorf("login of database %q: %w", p.db.Name, err)
	}
	defer closeConn(conn)
	return fn(conn)
}

// active opens the door: operation, database and tenant in one transaction, which the routers hear of. A database that was
// made while another set became the active one is brought up to it first: no rollout knows of it yet.
func (p *provision) active(ctx context.Context) error {
	for {
		set, err := p.born(ctx)
		if err != nil {
			return err
		}
		if p.making() && p.chain() != set.Latest().Chain {
			if err := p.migrated(ctx); err != nil {
				return err
			}
		}
		if err := fp.Hit(pointActiveChosen); err != nil {
			return err
		}
		err = p.activate(ctx, set.chain)
		if errors.Is(err, errAgain) {
			continue
		}
		if p.db.Spare {
			p.wake() // the next one is missing now
		}
		return err
	}
}

// chain is of the schema that the database has.
func (p *provision) chain() string {
	if p.cloned != nil {
		return p.cloned.Chain
	}
	return p.db.SchemaChain
}

func (p *provision) activate(ctx context.Context, chain string) error {
	detail := map[string]any{"placement": p.db.Kind, "database": p.db.ID.String()}
	return p.update(ctx, "tenant.provisioned", p.tenant.Ref(), detail, func(tx *catalog.Tx) error {
		if p.making() {
			if err := p.recordCloned(ctx, tx, chain); err != nil {
				return err
			}
			if err := tx.SetDatabaseState(ctx, p.db.ID, catalog.DatabaseActive); err != nil {
				return err
			}
		}
		if err := tx.FinishOperation(ctx, p.op, catalog.OperationDone, ""); err != nil {
			return err
		}
		return tx.SetTenantState(ctx, p.tenant.ID, catalog.StateActive, "")
	})
}
