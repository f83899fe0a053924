package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// Finding is something on a server that the catalog does not know, or the other way round.
type Finding struct {
	Server string `json:"server"`
	// Kind is server, database, role or gate.
	Kind string `json:"kind"`
	Name string `json:"name"`
	// Problem says what is wrong, Did what was done about it (empty: nothing), Cure what an operator can do.
	Problem string `json:"problem"`
	Did     string `json:"did,omitempty"`
	Cure    string `json:"cure,omitempty"`
	// Critical says that a tenant is or may be without service.
	Critical bool `json:"critical"`
}

// orphanAge is how old what nobody knows must be before it is taken for an orphan: what is being made is younger.
const orphanAge = time.Hour

// ReconcileConfig says how servers are compared with the catalog.
type ReconcileConfig struct {
	// Mend closes and renames databases that nobody knows, and lets roles without a database log in no more. Nothing is
	// ever dropped. Without it they are only listed.
	Mend bool
	// Age is how old an orphan must be.
	//
	// Zero means an hour.
	Age time.Duration
}

// Reconcile compares each server with the catalog: databases and roles with their marks, and in each database its identity
// and its gates. What carries no mark, or another catalog's, is listed where its name looks like one of ours, and never touched.
//
// A server that does not answer is an error of its own; the others are looked at nevertheless.
func (r *Runner) Reconcile(ctx context.Context, cfg ReconcileConfig) ([]Finding, error) {
	cfg.Age = orElse(cfg.Age, orphanAge)
	var found []Finding
	var failed []error
	for server, err := range r.catalog.Servers(ctx) {
		if err != nil {
			return found, err
		}
		c := &comparison{Runner: r, cfg: cfg, server: server}
		if err := c.compare(ctx); err != nil && !errors.Is(err, errUnmanaged) {
			failed = append(failed, fmt.Errorf("server %q: %w", server.Name, err))
		}
		found = append(found, c.found...)
	}
	slices.SortFunc(found, func(a, b Finding) int {
		return cmp.Or(strings.Compare(a.Server, b.Server), strings.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return found, errors.Join(failed...)
}

// errUnmanaged is a server on which nothing is ours to make: it came with an adopted database.
var errUnmanaged = errors.New("server has no provisioner")

// comparison is one server's.
type comparison struct {
	*Runner
	cfg    ReconcileConfig
	server *catalog.Server
	host   *host
	rows   map[catalog.DatabaseID]*catalog.Database // not gone
	there  map[catalog.DatabaseID]*stored           // on the server, with our mark
	live   *catalog.Live
	// strange are databases that have a name like ours and not our mark.
	strange []string
	found   []Finding
}

func (c *comparison) add(f Finding) {
	f.Server = c.server.Name
	c.found = append(c.found, f)
}

func (c *comparison) compare(ctx context.Context) error {
	_, err := c.catalog.Credential(ctx, c.server.ID, catalog.DatabaseID{}, catalog.LoginProvisioner)
	if errors.Is(err, catalog.ErrNotFound) {
		return errUnmanaged
	}
	if err != nil {
		return err
	}
	if c.host, err = c.hostOf(ctx, c.server.ID, lockKey(c.catalog.ID(), "reconcile server "+c.server.ID.String())); err != nil {
		return err
	}
	defer func() { c.giveBack(c.host) }()
	// The server first: what is made meanwhile is in the catalog before it is there.
	if err := c.readServer(ctx); err != nil {
		return err
	}
	if err := c.readCatalog(ctx); err != nil {
		return err
	}
	c.strangers()
	if full, err := c.catalog.Capacity(ctx, c.server.ID); err == nil && full.NearlyFull() {
		c.add(Finding{Kind: "server", Name: full.Name, Problem: fmt.Sprintf("%d of %d databases", full.Databases, full.MaxDatabases), Cure: (&catalog.NoRoomError{}).Hint()})
	}
	for id, there := range c.there {
		if err := c.orphan(ctx, id, there); err != nil {
			return err
		}
	}
	for id, row := range c.rows {
		c.missing(id, row)
		if row.State == catalog.DatabaseActive && c.there[id] != nil && c.there[id].Open {
			c.inside(ctx, row)
		}
	}
	return c.roles(ctx)
}

func (c *comparison) readServer(ctx context.Context) error {
	rows, err := c.host.Query(ctx, selectStored+` order by datname`)
	if err != nil {
		return fmt.Errorf("databases: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[stored])
	if err != nil {
		return fmt.Errorf("databases: %w", err)
	}
	c.there = map[catalog.DatabaseID]*stored{}
	for _, s := range all {
		m := c.markOn(s.Comment)
		switch {
		case !m.ours && strings.HasPrefix(s.Name, "rh_"):
			c.strange = append(c.strange, s.Name)
		case m.database.IsZero():
		case c.there[m.database] != nil:
			c.add(Finding{Kind: "database", Name: s.Name, Critical: true, Problem: fmt.Sprintf("carries the mark of database %s, and so does %s", m.database, c.there[m.database].Name)})
		default:
			c.there[m.database] = s
		}
	}
	return nil
}

func (c *comparison) readCatalog(ctx context.Context) (err error) {
	c.rows = map[catalog.DatabaseID]*catalog.Database{}
	for db, err := range c.catalog.Databases(ctx) {
		if err != nil {
			return err
		}
		if db.Server == c.server.ID {
			c.rows[db.ID] = db
		}
	}
	c.live, err = c.catalog.Live(ctx)
	return err
}

// strangers lists what has a name like ours and is not: one that is being made has no mark yet for a moment.
func (c *comparison) strangers() {
	names := map[string]bool{}
	for _, row := range c.rows {
		names[row.Name] = true
	}
	for _, name := range c.strange {
		if !names[name] {
			c.add(Finding{Kind: "database", Name: name, Problem: "has a name like ours and not this catalog's mark; it is left alone"})
		}
	}
}

// mark is what a comment of ours says.
type mark struct {
	ours      bool
	database  catalog.DatabaseID
	operation catalog.OperationID
}

func (c *comparison) markOn(comment string) (m mark) {
	rest, ours := strings.CutPrefix(comment, "rowhouse catalog="+c.catalog.ID()+" ")
	m.ours = ours
	for _, field := range strings.Fields(rest) {
		switch key, value, _ := strings.Cut(field, "="); key {
		case "db":
			m.database, _ = catalog.ParseID[catalog.Database](value) // zero: nobody's
		case "op":
			m.operation, _ = catalog.ParseID[catalog.Operation](value)
		}
	}
	return m
}

// alive says that somebody works on what carries a mark, or only just did.
func (c *comparison) alive(m mark) bool {
	return c.live.Operations[m.operation] || c.live.Databases[m.database] ||
		time.Since(m.operation.Time()) < c.cfg.Age || time.Since(m.database.Time()) < c.cfg.Age
}

// orphan looks at a database of ours that has no row. It is closed and renamed; an operator may drop it.
func (c *comparison) orphan(ctx context.Context, id catalog.DatabaseID, there *stored) error {
	if row := c.rows[id]; row != nil {
		if row.Name != there.Name && !c.alive(c.markOn(there.Comment)) {
			c.add(Finding{Kind: "database", Name: there.Name, Critical: row.State == catalog.DatabaseActive, Problem: fmt.Sprintf("is called %s in the catalog", row.Name)})
		}
		return nil
	}
	if c.alive(c.markOn(there.Comment)) {
		return nil
	}
	f := Finding{
		Kind: "database", Name: there.Name, Problem: "carries this catalog's mark, and the catalog does not know it",
		Cure: fmt.Sprintf("look at it, then DROP DATABASE %s", ident(there.Name)),
	}
	if c.cfg.Mend && !strings.HasPrefix(there.Name, "rh_orphan_") {
		name := fmt.Sprintf("rh_orphan_%s_%s", time.Now().UTC().Format("20060102"), id.Compact())
		if err := c.setAside(ctx, there, name); err != nil {
			return err
		}
		f.Did, f.Cure = "closed and renamed to "+name, fmt.Sprintf("look at it, then DROP DATABASE %s", ident(name))
	}
	c.add(f)
	return nil
}

// setAside closes and renames a database whose mark is looked at once more, in the session that renames it.
func (c *comparison) setAside(ctx context.Context, there *stored, name string) error {
	now, err := c.host.database(ctx, there.Name)
	if err != nil {
		return err
	}
	if now == nil || now.Comment != there.Comment {
		return nil // another one by now
	}
	if now.Template {
		if err := c.host.exec(ctx, "alter database %s is_template false", ident(now.Name)); err != nil {
			return err
		}
	}
	if err := c.host.rename(ctx, now.Name, name, false); err != nil {
		return fmt.Errorf("database %q: %w", now.Name, err)
	}
	return nil
}

// missing looks at a row that has no database. It is never made anew: what was in it is somewhere else, or lost.
func (c *comparison) missing(id catalog.DatabaseID, row *catalog.Database) {
	switch {
	case c.there[id] != nil, row.Adopted, c.live.Databases[id]:
		return
	case row.State == catalog.DatabaseCreating, row.State == catalog.DatabaseFailed, row.State == catalog.DatabaseDropping:
		return // an operation that failed says more
	}
	c.add(Finding{
		Kind: "database", Name: row.Name, Critical: true, Problem: fmt.Sprintf("is %s in the catalog, and not on the server", row.State),
		Cure: "is it the right server? Restore the database from a backup; it is never made anew",
	})
}

// inside asks a database which one it is, and whether a gate stands as nobody left it.
func (c *comparison) inside(ctx context.Context, row *catalog.Database) {
	conn, err := c.connect(ctx, row.Server, row.Name)
	if err != nil {
		c.add(Finding{Kind: "database", Name: row.Name, Critical: true, Problem: "does not let its provisioner in: " + explain(err)})
		return
	}
	defer closeConn(conn)
	p := &provision{Runner: c.Runner, db: row}
	if err := p.identify(ctx, conn); err != nil {
		f := Finding{Kind: "database", Name: row.Name, Critical: true, Problem: explain(err)}
		if isPermanent(err) {
			f.Cure = "was it restored or renamed by hand? Routers refuse it (database_unavailable) until its identity is its own"
		}
		c.add(f)
		return
	}
	rows, err := conn.Query(ctx, `select tenant_id::text, state from rowhouse.gate where state in ('moved', 'incoming')`)
	if err != nil {
		return // it is older than gates are
	}
	gates, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ Tenant, State string }])
	if err != nil {
		return
	}
	for _, g := range gates {
		tenant, err := catalog.ParseID[catalog.Tenant](g.Tenant)
		if err != nil || c.live.Tenants[tenant] {
			continue
		}
		c.add(Finding{
			Kind: "gate", Name: row.Name, Problem: fmt.Sprintf("the gate of tenant %s is %s, and no operation works on the tenant", tenant, g.State),
			Cure: "rowhouse op list --tenant " + tenant.String() + ", then rowhouse op retry",
		})
	}
}

// roles looks at the roles of databases that are no more. They may log in no longer.
func (c *comparison) roles(ctx context.Context) error {
	rows, err := c.host.Query(ctx, `
		select rolname::text, shobj_description(oid, 'pg_authid'), rolcanlogin from pg_roles
		 where starts_with(shobj_description(oid, 'pg_authid'), $1) order by 1`, "rowhouse catalog="+c.catalog.ID()+" db=")
	if err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Name, Comment string
		Logs          bool
	}])
	if err != nil {
		return fmt.Errorf("roles: %w", err)
	}
	for _, role := range all {
		m := c.markOn(role.Comment)
		if c.rows[m.database] != nil || c.there[m.database] != nil || c.alive(m) {
			continue
		}
		f := Finding{
			Kind: "role", Name: role.Name, Problem: "belongs to a database that is no more",
			Cure: fmt.Sprintf("DROP ROLE %s", ident(role.Name)),
		}
		if c.cfg.Mend && role.Logs {
			if err := c.host.exec(ctx, "alter role %s nologin", ident(role.Name)); err != nil {
				return fmt.Errorf("role %q: %w", role.Name, err)
			}
			f.Did = "may log in no more"
		}
		c.add(f)
	}
	return nil
}
