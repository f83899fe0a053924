package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
)

// host is the provisioner's session on a server's maintenance database. It holds the advisory lock of the database that is
// worked on: a worker that lost its claim and lives on holds it too, so that its successor waits instead of racing it.
type host struct {
	*pgx.Conn
	role  string
	super bool
}

// maintenance is the database that statements about databases and roles are run in.
const maintenance = "postgres"

// lockWait is how long a step waits for an advisory lock before it gives its worker back.
const lockWait = 20 * time.Second

// host connects for this attempt, once.
func (p *provision) host(ctx context.Context) (*host, error) {
	if p.server != nil {
		return p.server, nil
	}
	conn, err := p.connect(ctx, p.db.Server, maintenance)
	if err != nil {
		return nil, err
	}
	h := &host{Conn: conn}
	if err := h.begin(ctx, lockKey(p.catalog.ID(), "database "+p.db.ID.String())); err != nil {
		closeConn(conn)
		return nil, err
	}
	p.server = h
	return h, nil
}

func (h *host) begin(ctx context.Context, key int64) error {
	// A dead session has neither lock nor running statements.
	if err := h.hangUp(ctx, "set client_connection_check_interval = '1s'"); err != nil {
		return err
	}
	if err := h.QueryRow(ctx, `select rolname, rolsuper from pg_roles where rolname = current_user`).Scan(&h.role, &h.super); err != nil {
		return fmt.Errorf("provisioner: %w", err)
	}
	return h.lock(ctx, key)
}

// connect opens a provisioner's connection.
func (r *Runner) connect(ctx context.Context, server catalog.ServerID, dbname string) (*pgx.Conn, error) {
	cfg, err := r.catalog.ServerConnConfig(ctx, server, catalog.DatabaseID{}, dbname, catalog.LoginProvisioner)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = "rowhouse-provision"
	cfg.RuntimeParams["search_path"] = "pg_catalog, pg_temp"
	cfg.RuntimeParams["standard_conforming_strings"] = "on"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, fmt.Errorf("provisioner: %w", err)
	}
	return conn, nil
}

// closing is how long a server may take to hear that a session, or a lock of it, is given up.
const closing = 5 * time.Second

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	_ = conn.Close(ctx) // nothing is left to lose
}

// hangUp runs a setting that lets the server notice a client that is gone. Not every platform can.
func (h *host) hangUp(ctx context.Context, sql string) error {
	err := h.exec(ctx, "%s", sql)
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == "22023" {
		return nil
	}
	return err
}

// lock polls: a blocked session would wait for ever, and hold a snapshot meanwhile.
func (h *host) lock(ctx context.Context, key int64) error {
	for began := time.Now(); ; {
		var got bool
		if err := h.QueryRow(ctx, `select pg_try_advisory_lock($1)`, key).Scan(&got); err != nil {
			return fmt.Errorf("advisory lock: %w", err)
		}
		if got {
			return nil
		}
		if time.Since(began) > lockWait {
			return &waitError{time.Second, "another session works on it"}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// under runs fn while this session also holds another lock.
func (h *host) under(ctx context.Context, key int64, fn func() error) error {
	if err := h.lock(ctx, key); err != nil {
		return err
	}
	err := fn()
	if h.IsClosed() {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closing)
	defer cancel()
	if _, unlock := h.Exec(ctx, `select pg_advisory_unlock($1)`, key); unlock != nil {
		return errors.Join(err, fmt.Errorf("advisory lock: %w", unlock))
	}
	return err
}

// exec runs one statement made of quoted parts.
func (h *host) exec(ctx context.Context, format string, args ...any) error {
	_, err := h.Exec(ctx, fmt.Sprintf(format, args...), pgx.QueryExecModeSimpleProtocol)
	return err
}

// run sends a script as one message, which the server makes one transaction of.
func (h *host) run(ctx context.Context, s script) error {
	return h.exec(ctx, "%s", strings.Join(s.statements, ";\n"))
}

// role is what a server says of a role.
type role struct {
	Name    string
	Comment string
	// Exempt roles are not bound by row-level security.
	Exempt bool
}

func (h *host) roles(ctx context.Context, names ...string) (map[string]role, error) {
	rows, err := h.Query(ctx, `
		select rolname::text, coalesce(shobj_description(oid, 'pg_authid'), ''), rolsuper or rolbypassrls
		  from pg_roles where rolname = any ($1)`, names)
	if err != nil {
		return nil, fmt.Errorf("roles: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[role])
	found := make(map[string]role, len(list))
	for _, r := range list {
		found[r.Name] = r
	}
	return found, err
}

// stored is what a server says of a database.
type stored struct {
	Name     string
	Owner    string
	Comment  string
	Open     bool
	Template bool
}

const selectStored = `
	select datname::text, datdba::regrole::text, coalesce(shobj_description(oid, 'pg_database'), ''), datallowconn, datistemplate
	  from pg_database`

// database finds a database by name; nil means that there is none.
func (h *host) database(ctx context.Context, name string) (*stored, error) {
	rows, err := h.Query(ctx, selectStored+` where datname = $1`, name)
	if err != nil {
		return nil, fmt.Errorf("database %q: %w", name, err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByPos[stored])
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return found, err
}
