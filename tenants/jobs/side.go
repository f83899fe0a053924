package jobs

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// side is a session in one of the two databases of a move.
type side struct {
	*pgx.Conn
	db     *catalog.Database
	tenant catalog.TenantID
	// exempt sessions are not bound by policies, and super ones not by triggers and foreign keys either. Others work as the
	// database's owner.
	exempt, super bool
}

// pinned makes the text of a value the same on every server.
var pinned = strings.Join([]string{
	"set datestyle = 'ISO, YMD'", "set timezone = 'UTC'", "set intervalstyle = 'postgres'", "set bytea_output = 'hex'", "set extra_float_digits = 3",
	"set xmloption = 'content'", "set search_path = pg_catalog, pg_temp", "set statement_timeout = 0", "set idle_in_transaction_session_timeout = 0",
	"set jit = off", "set application_name = 'rowhouse-move'", "set tcp_keepalives_idle = 5", "set tcp_keepalives_interval = 2", "set tcp_keepalives_count = 3",
}, "; ")

// openSide connects to a database: as the provisioner where no policy binds it, else as the owner.
func (r *Runner) openSide(ctx context.Context, db *catalog.Database, tenant catalog.TenantID) (*side, error) {
	conn, err := r.connect(ctx, db.Server, db.Name)
	if err != nil {
		return nil, err
	}
	s := &side{Conn: conn, db: db, tenant: tenant}
	err = s.QueryRow(ctx, `select rolsuper, rolsuper or rolbypassrls from pg_roles where rolname = current_user`).Scan(&s.super, &s.exempt)
	if err == nil && !s.exempt {
		closeConn(conn)
		if s.Conn, err = r.targetOf(db).Connect(ctx); err != nil {
			return nil, fmt.Errorf("owner of database %q: %w", db.Name, err)
		}
	}
	if err == nil {
		err = s.exec(ctx, pinned)
	}
	if err != nil {
		closeConn(s.Conn)
		return nil, fmt.Errorf("database %q: %w", db.Name, err)
	}
	return s, nil
}

// exec runs statements of ours in one message.
func (s *side) exec(ctx context.Context, sql string) error {
	_, err := s.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol)
	return err
}

// scoped is what an owner needs to see the tenant's rows, which its policies would hide. Others see them anyway.
func (s *side) scoped() string {
	if s.exempt {
		return ""
	}
	return "set local row_security = on; set local rowhouse.tenant_id = " + literal(s.tenant.String()) + "; "
}

func (s *side) close() {
	if s != nil && s.Conn != nil {
		closeConn(s.Conn)
	}
}
