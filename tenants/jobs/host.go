package jobs

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// host is the provisioner's session on a server's maintenance database. It holds the advisory lock of the database that is
// worked on: a worker that lost its claim and lives on holds it too, so that its successor waits instead of racing it.
type host struct {
	*pgx.Conn
	server catalog.ServerID
	role   string
	super  bool
	since  time.Time // when nobody needed it any more
}

// maintenance is the database that statements about databases and roles are run in.
const maintenance = "postgres"

// lockWait is how long a step waits for an advisory lock before it gives its worker back.
const lockWait = 20 * time.Second

// hostIdle is how long a session that nobody needs is kept for the next operation: connecting takes longer than most of
// what is said in it.
const hostIdle = 15 * time.Second

// host connects for this attempt, once.
func (p *provision) host(ctx context.Context) (*host, error) {
	if p.server != nil {
		return p.server, nil
	}
	var err error
	p.server, err = p.hostOf(ctx, p.db.Server, lockKey(p.catalog.ID(), "database "+p.db.ID.String()))
	return p.server, err
}

// hostOf is a session that holds a lock, until it is given back.
func (r *Runner) hostOf(ctx context.Context, server catalog.ServerID, key int64) (*host, error) {
	for {
		h := r.idleHost(server)
		kept := h != nil
		if !kept {
			conn, err := r.connect(ctx, server, maintenance)
			if err != nil {
				return nil, err
			}
			h = &host{Conn: conn, server: server}
		}
		err := h.begin(ctx, key)
		if err == nil {
			return h, nil
		}
		lost := h.IsClosed()
		closeConn(h.Conn)
		if !kept || !lost || ctx.Err() != nil { // one that was kept may have ended in the meantime, before anything was asked of it
			return nil, err
		}
	}
}

func (h *host) begin(ctx context.Context, key int64) error {
	if h.role == "" {
		if err := h.QueryRow(ctx, `select rolname, rolsuper from pg_roles where rolname = current_user`).Scan(&h.role, &h.super); err != nil {
			return fmt.Errorf("provisioner: %w", err)
		}
	}
	return h.lock(ctx, key)
}

// idleHost takes a session that was given back, the last one first. Those that nobody needed for long are closed.
func (r *Runner) idleHost(server catalog.ServerID) *host {
	r.closeHosts(hostIdle)
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, h := range slices.Backward(r.hosts) {
		if h.server == server {
			r.hosts = slices.Delete(r.hosts, i, i+1)
			return h
		}
	}
	return nil
}

// giveBack keeps a session for the next operation, without its locks. One that is in the middle of something is closed.
func (r *Runner) giveBack(h *host) {
	ctx, cancel := context.WithTimeout(context.Background(), closing)
	defer cancel()
	if h.IsClosed() || h.PgConn().TxStatus() != 'I' {
		closeConn(h.Conn)
		return
	}
	if _, err := h.Exec(ctx, `select pg_advisory_unlock_all()`); err != nil {
		closeConn(h.Conn)
		return
	}
	h.since = time.Now()
	r.mu.Lock()
	r.hosts = append(r.hosts, h)
	over := len(r.hosts) - 2*r.cfg.Workers
	r.mu.Unlock()
	if over > 0 {
		r.closeHosts(0)
	}
}

// closeHosts closes the sessions that nobody has needed for that long.
func (r *Runner) closeHosts(idle time.Duration) {
	var old []*host
	r.mu.Lock()
	r.hosts = slices.DeleteFunc(r.hosts, func(h *host) bool {
		if time.Since(h.since) < idle {
			return false
		}
		old = append(old, h)
		return true
	})
	r.mu.Unlock()
	for _, h := range old {
		closeConn(h.Conn)
	}
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
	cfg.RuntimeParams["client_connection_check_interval"] = "1s" // a dead session has neither lock nor running statements
	cfg.DefaultQueryExecMode = pgx.QueryExecModeExec             // what is asked here is asked once
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
