package migrations

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations/internal/driver"
	"github.com/rowhouse/rowhouse/migrations/internal/lint"
)

// What is to be done with a file that broke off.
const (
	Retry       = "retry"        // nothing of it stands, or nothing that is in the way: Up runs it again
	MarkApplied = "mark_applied" // all of it stands
	Undecided   = "undecided"    // an operator looks, and calls Decide
)

// Evidence is what can be found out about a database in which a file broke off.
type Evidence struct {
	Target  string
	Version int64 // of the file; 0: nothing broke off
	Name    string
	State   string // of its ledger row: "running" or "failed"

	Verified       *bool    // what its verify query answers; nil without one
	InvalidIndexes []string // that it left behind
	Fingerprint    string   // of the database as it stands
	Before, After  string   // fingerprints of databases at the versions around it; empty where they are not known

	Proposal string // Retry, MarkApplied or Undecided
	Reason   string // for the proposal
}

// Fingerprints gives the Fingerprint of a sound database at a version of the application's set, 0 being the baseline alone; a template will
// do. An empty answer means that there is none to compare with.
type Fingerprints func(ctx context.Context, version int64) (string, error)

// Inspect looks for evidence of what a broken file has done, under the migration lock, and changes nothing. A nil known leaves
// fingerprints out of it.
//
// Errors: *LockError, *HistoryError, or what Connect or known returned.
func (m *Migrator) Inspect(ctx context.Context, t Target, known Fingerprints) (Evidence, error) {
	evidence := Evidence{Target: t.Name}
	err := m.locked(ctx, t, func(conn *pgx.Conn, drv *driver.Driver) (err error) {
		evidence, _, err = m.inspect(ctx, t, conn, drv, known)
		return err
	})
	return evidence, err
}

// Repair does what the evidence proposes. A broken file of which nothing stands is forgotten, so that Up runs it again; one that stands as a whole
// is marked applied. Golang-migrate's own table is taken over where the schema is that of a version of the set (the one it names, or the
// one before when it is dirty): the files up to there are entered into our ledger, and the table goes. Nothing is forced, and
// a database that has nothing to repair is left alone.
//
// Errors: *DirtyError or *StockError when the evidence does not suffice, those of Inspect, and those of Up for the baseline.
func (m *Migrator) Repair(ctx context.Context, t Target, known Fingerprints) (Evidence, error) {
	evidence := Evidence{Target: t.Name}
	err := m.locked(ctx, t, func(conn *pgx.Conn, drv *driver.Driver) error {
		if err := m.takeOver(ctx, t, conn, drv, known); err != nil {
			return err
		}
		var stage int
		var err error
		evidence, stage, err = m.inspect(ctx, t, conn, drv, known)
		if err != nil || evidence.Version == 0 {
			return err
		}
		m.cfg.Logger.InfoContext(ctx, "migration repaired", "target", t.Name, "migration", evidence.Name, "as", evidence.Proposal, "reason", evidence.Reason)
		return m.settle(drv, stage, evidence.Proposal, Decision{By: "rowhouse", Reason: evidence.Reason}, t)
	})
	return evidence, err
}

// inspect collects the evidence, and says to which ledger it belongs.
func (m *Migrator) inspect(ctx context.Context, t Target, conn *pgx.Conn, drv *driver.Driver, known Fingerprints) (Evidence, int, error) {
	e := Evidence{Target: t.Name}
	stage := slices.IndexFunc(m.last(drv), func(r driver.Row) bool { return r.Version > 0 && r.State != stateApplied })
	if stage < 0 {
		return e, 0, nil
	}
	s, row := &m.stages[stage], drv.Last(stage)
	if err := s.compare(t.Name, drv, stage); err != nil {
		return e, stage, err
	}
	e.Version, e.Name, e.State = row.Version, row.Name, row.State
	f := s.file(row.Version)
	var err error
	if e.InvalidIndexes, err = drv.InvalidIndexes(lint.IndexName(f.Up)); err != nil {
		return e, stage, fmt.Errorf("%s: %w", t.Name, err)
	}
	if f.Verify != "" {
		there, err := drv.Ask(f.Verify)
		if err != nil {
			return e, stage, fmt.Errorf("%s: verify query of %s: %w", t.Name, f, err)
		}
		e.Verified = &there
	}
	if e.Fingerprint, err = Fingerprint(ctx, conn); err != nil {
		return e, stage, fmt.Errorf("%s: %w", t.Name, err)
	}
	if known != nil && !s.baseline {
		if e.Before, err = known(ctx, s.versionBefore(f.Version)); err == nil {
			e.After, err = known(ctx, f.Version)
		}
		if err != nil {
			return e, stage, fmt.Errorf("%s: fingerprints to compare with: %w", t.Name, err)
		}
	}
	e.propose()
	return e, stage, nil
}

// propose draws the conclusion.
func (e *Evidence) propose() {
	switch {
	case e.Verified != nil && *e.Verified:
		e.Proposal, e.Reason = MarkApplied, "its verify query finds its effect"
	case e.After != "" && e.Fingerprint == e.After:
		e.Proposal, e.Reason = MarkApplied, "the schema is that of the version after it"
	case e.Before != "" && e.Fingerprint == e.Before:
		e.Proposal, e.Reason = Retry, "the schema is that of the version before it"
	case len(e.InvalidIndexes) > 0:
		e.Proposal, e.Reason = Retry, "its index was begun and is not valid"
	case e.Verified != nil:
		e.Proposal, e.Reason = Retry, "its verify query does not find its effect"
	default:
		e.Proposal, e.Reason = Undecided, "the schema is neither that of the version before it nor of the one after"
		if e.Before == "" && e.After == "" {
			e.Reason = "there is neither a verify query nor a schema to compare with"
		}
	}
}

// settle writes the decision into the ledger.
func (m *Migrator) settle(drv *driver.Driver, stage int, proposal string, d Decision, t Target) error {
	s, row := &m.stages[stage], drv.Last(stage)
	f := s.file(row.Version)
	drv.Use(stage)
	switch proposal {
	case MarkApplied:
		step := s.step(f)
		step.Kind, step.By, step.Reason = kindMarked, d.By, d.Reason
		drv.Next(step)
		return drv.MarkApplied()
	case Retry:
		if name := lint.IndexName(f.Up); name != "" {
			if err := drv.DropInvalidIndex(name); err != nil {
				return fmt.Errorf("%s: %w", t.Name, err)
			}
		}
		return drv.Forget()
	}
	return &DirtyError{Target: t.Name, Version: row.Version, Name: row.Name, State: row.State}
}

// Kinds of ledger rows that no run of ours wrote.
const (
	kindMarked   = "marked"
	kindBaseline = "baseline"
)

// refuseStock stops a run where golang-migrate's own command has been at work, or would seem to have been.
func (r *run) refuseStock(drv *driver.Driver) error {
	if r.stages[len(r.stages)-1].check == "" {
		return nil // not a tenants' database
	}
	stock, there, err := drv.Stock()
	if err != nil {
		return fmt.Errorf("%s: %w", r.target.Name, err)
	}
	if !there {
		return nil
	}
	return &StockError{Target: r.target.Name, Version: stock.Version, Dirty: stock.Dirty}
}

// takeOver brings golang-migrate's own table and our ledger together, if it is there.
func (m *Migrator) takeOver(ctx context.Context, t Target, conn *pgx.Conn, drv *driver.Driver, known Fingerprints) error {
	stock, there, err := drv.Stock()
	if err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	if !there {
		return nil
	}
	refused := &StockError{Target: t.Name, Version: stock.Version, Dirty: stock.Dirty}
	own := len(m.stages) - 1
	if known == nil {
		refused.Reason = "there is no schema to compare with"
		return refused
	}
	// The schemas to compare with have the baseline.
	base := run{Migrator: m, target: t}
	for i := range own {
		if err := m.stages[i].compare(t.Name, drv, i); err != nil {
			return err
		}
		if err := base.stage(ctx, drv, i); err != nil {
			return err
		}
	}
	if err := m.stages[own].compare(t.Name, drv, own); err != nil {
		return err
	}
	drv.Use(own)
	err = drv.TakeOver(func() ([]driver.Step, error) {
		version, reason, err := m.recognise(ctx, conn, drv.Last(own).Version, stock, known)
		if err != nil || reason != "" {
			refused.Reason = reason
			return nil, errors.Join(refused, err)
		}
		return m.stages[own].takenOver(drv.Last(own).Version, version, stock), nil
	})
	var e *StockError
	if err == nil || errors.As(err, &e) && refused.Reason != "" {
		if e != nil {
			return e
		}
		return nil
	}
	return fmt.Errorf("%s: %w", t.Name, err)
}

// recognise finds the version whose schema the database has, of those that golang-migrate's table and our ledger speak of; or the reason why
// there is none.
func (m *Migrator) recognise(ctx context.Context, conn *pgx.Conn, ledger int64, stock driver.Stock, known Fingerprints) (int64, string, error) {
	fingerprint, err := Fingerprint(ctx, conn)
	if err != nil {
		return 0, "", err
	}
	s := &m.stages[len(m.stages)-1]
	candidates := []int64{ledger, stock.Version}
	if stock.Dirty {
		candidates = append(candidates, s.versionBefore(stock.Version))
	}
	for _, v := range candidates {
		if v != 0 && !slices.ContainsFunc(s.files, func(f File) bool { return f.Version == v }) {
			continue // not a version of this set
		}
		want, err := known(ctx, v)
		if err != nil {
			return 0, "", err
		}
		if want == "" || want != fingerprint {
			continue
		}
		if v < ledger {
			return 0, fmt.Sprintf("the schema is that of version %d, below our ledger's %d", v, ledger), nil
		}
		return v, "", nil
	}
	return 0, fmt.Sprintf("the schema is that of none of the versions %v", slices.Compact(candidates)), nil
}

// takenOver are the ledger rows of files that golang-migrate has applied.
func (s *stage) takenOver(after, upTo int64, stock driver.Stock) []driver.Step {
	var steps []driver.Step
	for _, f := range s.files {
		if f.Version > after && f.Version <= upTo {
			step := s.step(f)
			step.Kind, step.By = kindBaseline, "rowhouse"
			step.Reason = fmt.Sprintf("the schema is that of version %d; golang-migrate's table said %d, dirty: %v", upTo, stock.Version, stock.Dirty)
			steps = append(steps, step)
		}
	}
	return steps
}

// versionBefore is the version of the file before one, or 0.
func (s *stage) versionBefore(version int64) int64 {
	before := int64(0)
	for _, f := range s.files {
		if f.Version < version {
			before = f.Version
		}
	}
	return before
}
