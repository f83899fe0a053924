package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
)

// The statements of every transaction's frame have names, so that they are parsed once a connection.
const (
	stmtBegin         = "rowhouse_begin"
	stmtBeginReadOnly = "rowhouse_begin_read_only"
	stmtCommit        = "rowhouse_commit"
	stmtRollback      = "rowhouse_rollback"
)

// frame is what a new connection prepares.
type frame struct {
	statements [][2]string // name, text
	roles      map[string]string
}

func newFrame(roles []string) *frame {
	f := &frame{roles: make(map[string]string, len(roles)), statements: [][2]string{
		{stmtBegin, "begin read write"}, {stmtBeginReadOnly, "begin read only"}, {stmtCommit, "commit"}, {stmtRollback, "rollback"},
	}}
	for i, role := range roles {
		name := fmt.Sprintf("rowhouse_role_%d", i)
		f.roles[role] = name
		f.statements = append(f.statements, [2]string{name, "set local role " + pgx.Identifier{role}.Sanitize()})
	}
	return f
}

// frameOf is what connections to a database prepare: that of its own roles, where an adopted one has them.
func (rt *Router) frameOf(db *catalog.Database) *frame {
	if len(db.Roles) == 0 {
		return rt.frame
	}
	key := strings.Join(db.Roles, "\x00")
	if f, ok := rt.frames.Load(key); ok {
		return f.(*frame)
	}
	f, _ := rt.frames.LoadOrStore(key, newFrame(db.Roles))
	return f.(*frame)
}

// prepare queues the frame's statements.
func (f *frame) prepare(p *pgconn.Pipeline) int {
	for _, s := range f.statements {
		p.SendPrepare(s[0], s[1], nil)
	}
	return len(f.statements)
}

// scope is what one transaction may see and do: one tenant's rows, as one role.
type scope struct {
	database *catalog.Database
	tenant   catalog.TenantID
	role     string // the name of the statement that sets it
	readOnly bool
	unscoped bool // the host's, over all tenants
	place    place
	timeout  time.Duration // of each statement; 0 is the server's own
	begin    string        // the text of BEGIN where it is not one of the frame's

	placement int64 // the number of the tenant's placement; 0: its database has no gate
	moving    bool  // the tenant is about to have another one
	asks      bool  // the transaction asks the gate
}

// switchScope is the guard that a test takes away to see foreign rows.
const switchScope = "router.scope"

// open queues BEGIN and the scope, and says how many results they produce. It is the only place that writes a scope.
//
// The tenant is a literal in a message of its own: what set_config sets never reaches the workers of Citus, and SET joined
// with other statements is shipped to them as a whole. The literal is a uuid that we print, no text of anybody's.
func (s *scope) open(p *pgconn.Pipeline, t *tag) int {
	n := s.queueBegin(p)
	if s.unscoped {
		return n + s.openUnscoped(p)
	}
	n++ // the role
	if !fp.Off(switchScope) {
		p.SendQueryParams("set local rowhouse.tenant_id = '"+s.tenant.String()+"'", nil, nil, nil, nil)
		n++
	}
	if s.timeout > 0 {
		p.SendQueryParams("set local statement_timeout = "+strconv.FormatInt(max(1, s.timeout.Milliseconds()), 10), nil, nil, nil, nil)
		n++
	}
	p.SendQueryPrepared(s.role, nil, nil, nil)
	if s.asks {
		n += s.ask(p, t)
	}
	return n
}

func (s *scope) queueBegin(p *pgconn.Pipeline) int {
	switch {
	case s.begin != "":
		p.SendQueryParams(s.begin, nil, nil, nil, nil)
	case s.readOnly:
		p.SendQueryPrepared(stmtBeginReadOnly, nil, nil, nil)
	default:
		p.SendQueryPrepared(stmtBegin, nil, nil, nil)
	}
	return 1
}

// scope decides what a transaction under ctx may see. Where the tenant lives and whether it is served is read anew, from
// memory: the session may be older.
func (rt *Router) scope(ctx context.Context, opts pgx.TxOptions) (*scope, error) {
	session, err := tenants.FromContext(ctx)
	if err != nil {
		return nil, err
	}
	if session.Tenant() == nil {
		return nil, tenants.ErrNoTenant
	}
	t, err := rt.tenant(ctx, session.Tenant())
	if err != nil {
		return nil, unlessKnown(err)
	}
	if err := tenants.Served(t); err != nil {
		return nil, err
	}
	s := &scope{tenant: t.ID, placement: t.PlacementEpoch, moving: t.Moving}
	var limits tenants.Limits
	s.place.work = tenants.WorkOf(ctx)
	s.place.account, limits = rt.account(t)
	s.timeout = limits.StatementTimeout
	if err := s.setMode(t, opts); err != nil {
		return nil, err
	}
	s.asks = rt.asks(t, s.readOnly)
	if s.database, err = rt.dir.Database(ctx, t.Database); err != nil {
		return nil, &refusal{kind: ErrUnavailable, cause: err}
	}
	if gate, ok := rt.dir.(interface{ Serves(*catalog.Database) bool }); ok && !gate.Serves(s.database) {
		return nil, &refusal{kind: ErrUpgrading, cause: fmt.Errorf("database %s is at version %d", s.database.ID, s.database.SchemaVersion)}
	}
	if s.role, err = rt.role(session, t, s.database); err != nil {
		return nil, err
	}
	if s.database.State != catalog.DatabaseActive {
		return nil, &refusal{kind: ErrUnavailable, cause: fmt.Errorf("database %s is %s", s.database.ID, s.database.State)}
	}
	return s, nil
}

// tenant reads a tenant anew. Its name is the shorter way to it, if it still has it.
func (rt *Router) tenant(ctx context.Context, old *catalog.Tenant) (*catalog.Tenant, error) {
	if t, err := rt.dir.Tenant(ctx, old.Name); err == nil && t.ID == old.ID {
		return t, nil
	}
	return rt.dir.Tenant(ctx, old.ID.String())
}

// role finds the statement that sets the session's role. A role that is not on the list never reaches SQL.
func (rt *Router) role(session tenants.Session, t *catalog.Tenant, db *catalog.Database) (string, error) {
	role := session.Role()
	if role == "" {
		role = rt.anonRole(t)
	}
	if role == "" {
		return "", errAnonymous
	}
	stmt, ok := rt.frameOf(db).roles[role]
	if !ok {
		return "", &roleError{role}
	}
	return stmt, nil
}

// anonRole is the role of those who have none: the tenant's or everybody's setting, else the configured one.
func (rt *Router) anonRole(t *catalog.Tenant) string {
	value := rt.setting(t, "rest.anon_role")
	if value == nil {
		return rt.cfg.AnonRole
	}
	var role string
	if json.Unmarshal(value, &role) != nil {
		return "" // what cannot be read grants nothing
	}
	return role
}

// setMode reads the transaction's mode. What the frame has no statement for becomes a text of fixed words.
func (s *scope) setMode(t *catalog.Tenant, opts pgx.TxOptions) error {
	if opts.BeginQuery != "" || opts.CommitQuery != "" {
		return errors.New("router: a transaction's BEGIN and COMMIT cannot be replaced")
	}
	s.readOnly = opts.AccessMode == pgx.ReadOnly
	if t.StateAt(time.Now()) == catalog.StateReadOnly {
		if opts.AccessMode == pgx.ReadWrite {
			return ErrReadOnly
		}
		s.readOnly = true
	}
	var words []string
	switch opts.IsoLevel {
	case "":
	case pgx.Serializable, pgx.RepeatableRead, pgx.ReadCommitted, pgx.ReadUncommitted:
		words = append(words, "isolation level "+string(opts.IsoLevel))
	default:
		return errors.New("router: unknown isolation level")
	}
	switch opts.DeferrableMode {
	case "":
	case pgx.Deferrable, pgx.NotDeferrable:
		words = append(words, string(opts.DeferrableMode))
	default:
		return errors.New("router: unknown deferrable mode")
	}
	if words == nil {
		return nil
	}
	mode := "read write"
	if s.readOnly {
		mode = "read only"
	}
	s.begin = "begin " + mode + ", " + strings.Join(words, ", ")
	return nil
}

// flight sends what queue queues and a Sync in one write, and reads every answer. It answers the tag of the last one, or
// the first error.
func flight(ctx context.Context, conn *pgx.Conn, queue func(*pgconn.Pipeline) int) (pgconn.CommandTag, error) {
	p := conn.PgConn().StartPipeline(ctx)
	n := queue(p)
	tag, err := pgconn.CommandTag{}, p.Sync()
	for i := 0; i < n && err == nil; i++ {
		var result any
		if result, err = p.GetResults(); err != nil {
			break
		}
		if reader, ok := result.(*pgconn.ResultReader); ok {
			tag, err = reader.Close()
		}
	}
	if closing := p.Close(); err == nil {
		err = closing
	}
	return tag, err
}
