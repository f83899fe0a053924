package jobs

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// preflight finds out what would be in the way while nothing has happened yet. Each finding names the table and the cure.
func (m *move) preflight(ctx context.Context) error {
	if err := m.ensureGate(ctx); err != nil {
		return err
	}
	if err := m.look(ctx); err != nil {
		return err
	}
	for _, t := range m.tables {
		switch {
		case len(t.Loose) > 0:
			return permanently("%s refers to %s, which was not declared; declare it (rowhouse.bind, rowhouse.reference) or drop the foreign key", t.Name, strings.Join(t.Loose, ", "))
		case !m.from.exempt && len(t.Policies) > 0:
			return permanently("policy %q of %s may hide rows from the owner; give the server's provisioner BYPASSRLS", t.Policies[0], t.Name)
		}
	}
	if m.args.Mode == tenants.MoveAuto {
		return m.chooseMode(ctx)
	}
	if m.args.Mode == tenants.MoveReplicate {
		return m.canReplicate(ctx)
	}
	return nil
}

// look opens the source and reads its tables, once an attempt.
func (m *move) look(ctx context.Context) (err error) {
	if m.from != nil {
		return nil
	}
	if m.from, err = m.openSide(ctx, m.source, m.tenant.ID); err != nil {
		return err
	}
	m.tables, err = movingTables(ctx, m.from)
	return err
}

// ensureGate gives a gate to a tenant that was made before there were gates. It is of use when every process knows of it:
// one that does not asks no gate and writes.
func (m *move) ensureGate(ctx context.Context) error {
	if m.args.Epoch == 0 {
		s, err := m.openSide(ctx, m.source, m.tenant.ID)
		if err != nil {
			return err
		}
		defer s.close()
		var there bool
		if err := s.QueryRow(ctx, `select to_regclass('rowhouse.gate') is not null`).Scan(&there); err != nil {
			return err
		}
		if !there {
			return permanently("database %q has no gates yet; bring it up to date first (rowhouse migrate up)", m.source.Name)
		}
		if err := s.exec(ctx, fmt.Sprintf(openGate, m.tenant.ID)); err != nil {
			return fmt.Errorf("gate: %w", err)
		}
		m.args.Epoch = 1
		if err := m.update(ctx, "tenant.gated", m.tenant.Ref(), nil, func(tx *catalog.Tx) error {
			if err := tx.SetPlacementEpoch(ctx, m.tenant.ID, 1); err != nil {
				return err
			}
			return m.saveArgs(ctx, tx)
		}); err != nil {
			m.args.Epoch = 0
			return err
		}
		revision, err := m.catalog.Revision(ctx)
		if err != nil {
			return err
		}
		m.args.Gated = revision
		if err := m.update(ctx, "tenant.gated", m.tenant.Ref(), nil, func(tx *catalog.Tx) error { return m.saveArgs(ctx, tx) }); err != nil {
			return err
		}
	}
	if m.args.Gated > 0 {
		return m.awaitReports(ctx, m.args.Gated, catalog.Remembered)
	}
	return nil
}

// reportsWait is how long a worker waits for reports before it lets go of the operation for a while.
const reportsWait = 20 * time.Second

// awaitReports waits until every process knows what the catalog said at a revision, or has not been heard of for so long
// that it serves nobody by what it knew.
func (m *move) awaitReports(ctx context.Context, revision int64, silence time.Duration) error {
	for began := time.Now(); ; {
		n, err := m.catalog.Unaware(ctx, revision, silence)
		if err != nil || n == 0 {
			return err
		}
		if time.Since(began) > reportsWait {
			return &waitError{5 * time.Second, fmt.Sprintf("waits for %d processes that have not said that they know of it", n)}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// copyRate is how many rows a second are copied and compared at least, where it was not measured.
const copyRate = 30_000

// chooseMode takes the copy where it needs half of the allowed pause at most, else replication where that is possible.
func (m *move) chooseMode(ctx context.Context) error {
	rows, err := m.countRows(ctx)
	if err != nil {
		return err
	}
	pause := time.Duration(float64(rows) / copyRate * float64(time.Second))
	mode := tenants.MoveCopy
	if pause > m.args.MaxPause/2 && m.target.db.Kind == catalog.Dedicated && m.canReplicate(ctx) == nil {
		mode = tenants.MoveReplicate
	}
	m.args.Mode = mode
	detail := map[string]any{"mode": mode, "rows": rows, "estimate": pause.Round(time.Millisecond).String()}
	return m.update(ctx, "tenant.move_mode", m.tenant.Ref(), detail, func(tx *catalog.Tx) error { return m.saveArgs(ctx, tx) })
}

// countRows counts the tenant's rows. It is for an estimate, and still an honest count: the planner's would be that of all
// tenants.
func (m *move) countRows(ctx context.Context) (rows int64, err error) {
	parts := make([]string, 0, len(m.tables))
	for _, t := range ofTenants(m.tables) {
		parts = append(parts, fmt.Sprintf("(select count(*) from %s where %s)", t.Name, t.where(m.tenant.ID)))
	}
	if len(parts) == 0 {
		return 0, nil
	}
	tx, err := m.from.Begin(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	if err := m.from.exec(ctx, m.from.scoped()+"select 1"); err != nil {
		return 0, err
	}
	err = tx.QueryRow(ctx, "select "+strings.Join(parts, " + ")).Scan(&rows)
	return rows, err
}

// alike insists that both databases have one schema, and the same rows where they are common to all.
func (m *move) alike(ctx context.Context) error {
	prints := make([]string, 2)
	for i, db := range []*catalog.Database{m.source, m.target.db} {
		conn, err := m.targetOf(db).Connect(ctx)
		if err != nil {
			return fmt.Errorf("owner of database %q: %w", db.Name, err)
		}
		prints[i], err = migrations.Fingerprint(ctx, conn)
		closeConn(conn)
		if err != nil {
			return fmt.Errorf("database %q: %w", db.Name, err)
		}
	}
	if m.source.SchemaChain != m.target.db.SchemaChain || prints[0] != prints[1] {
		return permanently("databases %q and %q have different schemas (versions %d and %d); bring both to the same one first (rowhouse migrate up, migrate status --drift)",
			m.source.Name, m.target.db.Name, m.source.SchemaVersion, m.target.db.SchemaVersion)
	}
	var common []movingTable
	for _, t := range m.tables {
		if t.Kind == "reference" {
			common = append(common, t)
		}
	}
	here, there, err := sumsOfBoth(ctx, m.from, m.to, common)
	if err != nil {
		return err
	}
	return differing(common, here, there)
}

// loadable insists that the tenant's rows can be written to the target as they are.
func (m *move) loadable() error {
	ordered, circle := parentsFirst(ofTenants(m.tables))
	if m.to.super {
		return nil
	}
	if circle != nil {
		return permanently("%s refer to each other, and only a superuser can load them; give the server a provisioner that is one", strings.Join(circle, ", "))
	}
	for _, t := range ordered {
		switch {
		case !m.alone() && len(t.Triggers) > 0:
			return permanently("trigger %q of %s would fire for rows that are only moved; give the server a provisioner that is a superuser", t.Triggers[0], t.Name)
		case !m.to.exempt && len(t.Policies) > 0:
			return permanently("policy %q of %s binds the owner too; give the server's provisioner BYPASSRLS", t.Policies[0], t.Name)
		}
	}
	return nil
}
