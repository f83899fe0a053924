package router

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// ErrNotAllowed means that no operator has allowed what goes past the tenants' fence in this database.
var ErrNotAllowed = errors.New("unscoped access is not allowed in this database")

// atOnce is how many unscoped transactions a process runs at a time: tenants come first.
const atOnce = 2

// maxWhy is how much of a reason the trail keeps, in bytes.
const maxWhy = 500

// BeginUnscoped begins a READ ONLY transaction that sees the rows of all tenants of one database. See BeginUnscopedTx.
func (rt *Router) BeginUnscoped(ctx context.Context, database catalog.DatabaseID, why string) (pgx.Tx, error) {
	return rt.BeginUnscopedTx(ctx, database, why, pgx.TxOptions{})
}

// BeginUnscopedTx begins a transaction that no tenant's fence binds, by a login and a pool of its own. It is READ ONLY
// unless opts ask for ReadWrite. The context must be one of the host's, with tenants.PermitDataCross; Config.Audit keeps who
// asked, for which database and why, before anything is begun, refusals for a missing permission too.
//
// It answers tenants.ErrNotHost, tenants.ErrNotPermitted, tenants.ErrInvalid without a reason, ErrNotAllowed where no
// operator has made the login, and what BeginTx answers. Over several databases it is begun in each.
func (rt *Router) BeginUnscopedTx(ctx context.Context, database catalog.DatabaseID, why string, opts pgx.TxOptions) (pgx.Tx, error) {
	if rt.cfg.Audit == nil {
		return nil, errors.New("router: nothing is begun unscoped without Config.Audit")
	}
	session, err := tenants.FromContext(ctx)
	switch {
	case err != nil, session.Side() != tenants.SideHost:
		return nil, tenants.ErrNotHost
	case strings.TrimSpace(why) == "":
		return nil, fmt.Errorf("a reason is needed: %w", tenants.ErrInvalid)
	}
	s, err := rt.unscopedScope(ctx, database, opts)
	if err != nil {
		return nil, err
	}
	if err := rt.audit(ctx, session, s, why); err != nil {
		return nil, err
	}
	for try := 0; ; try++ {
		tx, broken, err := rt.begin(ctx, s)
		switch {
		case err == nil:
			rt.unscoped.Add(1)
			return tx, nil
		case broken == nil || !broken.again(ctx, try):
			return nil, err
		}
	}
}

// unscopedScope decides whether a database may be entered so: what the catalog says now counts, and not a pool that is
// still there.
func (rt *Router) unscopedScope(ctx context.Context, id catalog.DatabaseID, opts pgx.TxOptions) (*scope, error) {
	db, err := rt.dir.Database(ctx, id)
	if err != nil {
		return nil, unlessKnown(err)
	}
	if db.State != catalog.DatabaseActive {
		return nil, &refusal{kind: ErrUnavailable, cause: fmt.Errorf("database %s is %s", id, db.State)}
	}
	switch _, err := rt.dir.ConnConfig(ctx, id, catalog.LoginUnscoped); {
	case errors.Is(err, catalog.ErrNotFound):
		return nil, fmt.Errorf("database %s: %w", id, ErrNotAllowed)
	case err != nil:
		return nil, &refusal{kind: ErrUnavailable, cause: bare(err)}
	}
	s := &scope{database: db, unscoped: true, place: place{account: rt.host}}
	if opts.AccessMode != pgx.ReadWrite {
		opts.AccessMode = pgx.ReadOnly
	}
	if err := s.setMode(&catalog.Tenant{}, opts); err != nil {
		return nil, err
	}
	s.asks = !s.readOnly
	return s, nil
}

// audit keeps what was asked for, and refuses who may not.
func (rt *Router) audit(ctx context.Context, session tenants.Session, s *scope, why string) error {
	mode, action := "read write", "database.unscoped"
	if s.readOnly {
		mode = "read only"
	}
	permitted := session.May(tenants.PermitDataCross)
	if !permitted {
		action = "database.unscoped.refused"
	}
	event := catalog.Event{Action: action, Target: s.database.Ref(), Actor: session.Actor(), Detail: map[string]any{"why": cut(why, maxWhy), "mode": mode}}
	if err := rt.cfg.Audit(ctx, event); err != nil {
		return &refusal{kind: ErrUnavailable, cause: fmt.Errorf("audit: %w", bare(err))}
	}
	rt.log.InfoContext(ctx, "unscoped access", "action", action, "database", s.database.ID, "subject", session.Subject(), "mode", mode)
	if !permitted {
		return fmt.Errorf("%s: %w", tenants.PermitDataCross, tenants.ErrNotPermitted)
	}
	return nil
}

// cut shortens a text, visibly.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	for most > 0 && !utf8.RuneStart(s[most]) {
		most--
	}
	return s[:most] + "…"
}

// openUnscoped queues what stands in the place of a tenant's scope. A login that has lost its right to pass the fence gets
// an error, and not a part of the rows. Who writes for all tenants shares the lock that a move takes alone.
func (s *scope) openUnscoped(p *pgconn.Pipeline) int {
	p.SendQueryParams("set local row_security = off", nil, nil, nil, nil)
	if s.readOnly {
		return 1
	}
	p.SendQueryParams("select rowhouse.enter_all()", nil, nil, nil, nil)
	return 2
}
