package jobs

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/migrations"
)

// keptTemplates is how many templates of this catalog stay on a server: while replicas of two versions run, each needs one.
const keptTemplates = 2

// template is the name of a database that has the active set already, and its schema. It is built by whoever needs it
// first, under a lock, and is closed: with a session on it, CREATE DATABASE would fail.
func (p *provision) template(ctx context.Context, h *host) (name string, schema catalog.Migrated, err error) {
	set, err := p.born(ctx)
	if err != nil {
		return "", schema, err
	}
	latest := set.Latest()
	schema.Version, schema.Chain = latest.Number, latest.Chain
	name = fmt.Sprintf("rh_tpl_v%d_%.8s_%s", latest.Number, latest.Chain, tail(p.db.Server))
	mark := p.serverMark() + "template=" + latest.Chain + " fingerprint="
	if schema.Fingerprint, err = h.templateMarked(ctx, name, mark); schema.Fingerprint != "" || err != nil {
		return name, schema, err
	}
	return name, schema, h.under(ctx, lockKey(p.catalog.ID(), "templates of server "+p.db.Server.String()), func() (err error) {
		if schema.Fingerprint, err = h.templateMarked(ctx, name, mark); schema.Fingerprint != "" || err != nil {
			return err
		}
		if schema.Fingerprint, err = p.buildTemplate(ctx, h, set.Migrator, name, mark); err != nil {
			return fmt.Errorf("template %s: %w", name, err)
		}
		return h.dropTemplates(ctx, p.serverMark(), name)
	})
}

// templateMarked is the fingerprint in the template's mark, empty where there is no such template.
func (h *host) templateMarked(ctx context.Context, name, mark string) (string, error) {
	there, err := h.database(ctx, name)
	if err != nil || there == nil {
		return "", err
	}
	fingerprint, ours := strings.CutPrefix(there.Comment, mark)
	if !ours || fingerprint == "" || !there.Template || there.Open {
		return "", permanently("database %q is there and not this catalog's template", name)
	}
	return fingerprint, nil
}

// buildTemplate fills a database under a name of its own and renames it at the end: what has a template's name is whole.
func (p *provision) buildTemplate(ctx context.Context, h *host, m *migrations.Migrator, name, mark string) (fingerprint string, err error) {
	building, owner := "rh_tpl_build_"+p.db.Server.Compact(), templateOwnerOf(p.db.Server)
	if err := p.openBuilding(ctx, h, building, "template0"); err != nil {
		return "", err
	}
	result, schema := p.bring(ctx, m, p.target(p.db.Server, building, owner, building), "")
	if result.Err != nil {
		return "", result.Err
	}
	if err := p.guard(ctx, building); err != nil {
		return "", err
	}
	if err := fp.Hit(pointTemplateFilled); err != nil {
		return "", err
	}
	var done script
	done.add("revoke all on database %s from %s, %s", ident(building), ident(migratorOf(p.db.Server)), ident(owner))
	done.add("alter database %s is_template true allow_connections false", ident(building))
	done.add("alter database %s rename to %s", ident(building), ident(name))
	done.add("comment on database %s is %s", ident(name), literal(mark+schema.Fingerprint))
	return schema.Fingerprint, h.run(ctx, done)
}

// openBuilding makes a database to be filled by the migrator, in place of one that a builder which was killed left behind.
func (p *provision) openBuilding(ctx context.Context, h *host, building, from string) error {
	if err := p.clearBuilding(ctx, h, building); err != nil {
		return err
	}
	if err := h.exec(ctx, "create database %s template %s encoding 'UTF8' allow_connections false", ident(building), ident(from)); err != nil {
		return err
	}
	if err := fp.Hit(pointTemplateCreated); err != nil {
		return err
	}
	owner := templateOwnerOf(p.db.Server)
	var open script
	open.add("comment on database %s is %s", ident(building), literal(p.serverMark()))
	open.add("revoke all on database %s from public", ident(building))
	open.add("grant connect on database %s to %s", ident(building), ident(migratorOf(p.db.Server)))
	open.add("grant create on database %s to %s", ident(building), ident(owner))
	open.add("alter database %s allow_connections true", ident(building))
	if err := h.run(ctx, open); err != nil {
		return err
	}
	return p.handOver(ctx, building, owner)
}

// guard has a template, and so all that is cloned from it, refuse tables that nobody declared. It takes a superuser; where the
// provisioner is none, the contract's check after each migration is the gate alone.
func (p *provision) guard(ctx context.Context, dbname string) error {
	conn, err := p.connect(ctx, p.db.Server, dbname)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	_, err = migrations.InstallGuard(ctx, conn)
	return err
}

// clearBuilding drops what a builder that was killed left behind. Under the lock nobody else builds.
func (p *provision) clearBuilding(ctx context.Context, h *host, building string) error {
	left, err := h.database(ctx, building)
	if err != nil || left == nil {
		return err
	}
	if left.Comment != p.serverMark() && (left.Comment != "" || left.Open) {
		return permanently("database %q is there and not this catalog's", building)
	}
	err = h.exec(ctx, "drop database %s", ident(building))
	if migrations.SQLState(err) == objectInUse {
		// Not at once: one that is vacuumed just now is given up without force, which for that would need a superuser.
		err = h.exec(ctx, "drop database %s with (force)", ident(building))
	}
	return err
}

const objectInUse = "55006"

// handOver makes the owner of what will stand in templates the owner of schema public, where migrations make tables.
func (p *provision) handOver(ctx context.Context, dbname, owner string) error {
	conn, err := p.connect(ctx, p.db.Server, dbname)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	_, err = conn.Exec(ctx, "alter schema public owner to "+ident(owner))
	return err
}

// dropTemplates drops this catalog's older templates on the server, but for the newest few.
func (h *host) dropTemplates(ctx context.Context, serverMark, current string) error {
	rows, err := h.Query(ctx, selectStored+`
		 where datistemplate and not datallowconn and datname <> $1
		   and starts_with(shobj_description(oid, 'pg_database'), $2 || 'template=')
		 order by oid desc offset $3`, current, serverMark, keptTemplates-1)
	if err != nil {
		return fmt.Errorf("old templates: %w", err)
	}
	old, err := pgx.CollectRows(rows, pgx.RowToStructByPos[stored])
	if err != nil {
		return fmt.Errorf("old templates: %w", err)
	}
	for _, t := range old {
		if err := h.exec(ctx, "alter database %s is_template false", ident(t.Name)); err != nil {
			return err
		}
		if err := h.exec(ctx, "drop database %s", ident(t.Name)); err != nil {
			return err
		}
	}
	return nil
}

// target is a database for the migrator: whatever it makes belongs to owner.
func (r *Runner) target(server catalog.ServerID, name, owner, key string) migrations.Target {
	return migrations.Target{Name: name, Key: lockKey(r.catalog.ID(), "migrate "+key), Connect: func(ctx context.Context) (*pgx.Conn, error) {
		cfg, err := r.catalog.ServerConnConfig(ctx, server, catalog.DatabaseID{}, name, catalog.LoginMigrator)
		if err != nil {
			return nil, err
		}
		migrations.ConnConfig(cfg, owner)
		return pgx.ConnectConfig(ctx, cfg)
	}}
}

func (r *Runner) targetOf(db *catalog.Database) migrations.Target {
	return r.target(db.Server, db.Name, ownerOf(db.ID), db.ID.String())
}
