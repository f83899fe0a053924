package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// KindRollout is the kind of the operation that a rollout stands under.
const KindRollout = "fleet.migrate"

// RolloutSpec says what a rollout is to do.
type RolloutSpec struct {
	// Files are the set that every database is brought to, and new ones are born with.
	Files []migrations.File
	// Rings are gone through in their order.
	//
	// Nil means migrations.DefaultRings, with one database as the canary where none is labelled as one.
	Rings []migrations.Ring
	// Canaries are migrated in the canary ring, whatever their labels. With them it does not rest, unless Soak says so.
	Canaries []catalog.DatabaseID
	// Soak is how long the canary ring rests before the next one.
	//
	// Nil means what the ring says.
	Soak *time.Duration
	// Until names the last ring that is opened without being asked again.
	//
	// Empty means all.
	Until string
	// Confirmed lets a rollout start though databases are so far behind that they will not be served until it reaches them.
	Confirmed bool
	// Supersede cancels a paused rollout of another set instead of refusing.
	Supersede bool
	// By is who asked.
	By string
}

// UnfinishedError is a rollout of another set that is not finished.
type UnfinishedError struct {
	Rollout *catalog.Rollout
}

func (e *UnfinishedError) Error() string {
	return fmt.Sprintf("rollout %s to version %d is %s and brings another set", e.Rollout.ID, e.Rollout.To, e.Rollout.State)
}

// Is makes it a catalog.ErrConflict.
func (e *UnfinishedError) Is(target error) bool { return target == catalog.ErrConflict }

// Hint says what to do about it.
func (e *UnfinishedError) Hint() string {
	return "let it finish (rowhouse migrate status), or give it up: rowhouse migrate cancel"
}

// BehindError are databases that a rollout would leave unserved until it reaches them.
type BehindError struct {
	Min       int64
	Databases []string
}

func (e *BehindError) Error() string {
	shown := e.Databases[:min(len(e.Databases), 10)]
	return fmt.Sprintf("%d databases are below version %d and will answer tenant_upgrading until they are migrated: %s",
		len(e.Databases), e.Min, strings.Join(shown, ", "))
}

// Is makes it a catalog.ErrConflict.
func (e *BehindError) Is(target error) bool { return target == catalog.ErrConflict }

// Hint says what to do about it.
func (e *BehindError) Hint() string { return "confirm it with --yes" }

var pointStarted = fp.Point("rollout.started")

// StartRollout stores the set and begins to bring the fleet to it, or finds the rollout that does so already. It does no
// work itself: whoever runs operations does, or DriveRollout. A fleet that is there has nothing to do: the answer is nil,
// after one query.
//
// Errors: *UnfinishedError, *BehindError, and catalog.ErrConflict for a set that is older than the active one or differs from
// it in a released file.
func (r *Runner) StartRollout(ctx context.Context, spec RolloutSpec) (*catalog.Rollout, error) {
	m, err := r.migrator(spec.Files)
	if err != nil {
		return nil, err
	}
	for range 3 {
		ro, err := r.startOrAttach(ctx, spec, m)
		var unfinished *UnfinishedError
		if err == nil || errors.As(err, &unfinished) || !errors.Is(err, errBegun) {
			return ro, err
		}
	}
	return nil, fmt.Errorf("rollout: others begin and end in between: %w", catalog.ErrConflict)
}

// errBegun is a rollout that somebody else began in between.
var errBegun = errors.New("begun in between")

func (r *Runner) startOrAttach(ctx context.Context, spec RolloutSpec, m *migrations.Migrator) (*catalog.Rollout, error) {
	chain := m.Latest().Chain
	fleet, err := r.catalog.FleetState(ctx, chain)
	switch {
	case err != nil:
		return nil, err
	case !fleet.Rollout.IsZero():
		ro, err := r.catalog.Rollout(ctx, fleet.Rollout)
		switch {
		case err != nil:
			return nil, err
		case ro.Chain == chain:
			return r.attach(ctx, spec, ro)
		case spec.Supersede && ro.State == catalog.RolloutPaused, untouched(ro):
			if err := r.CancelRollout(ctx, ro.ID, "another set takes its place"); err != nil {
				return nil, err
			}
		default:
			return nil, &UnfinishedError{ro}
		}
	case fleet.Active == chain && fleet.Behind == 0:
		return nil, nil
	}
	set, err := r.successor(ctx, m, fleet)
	if err != nil {
		return nil, err
	}
	behind, err := r.catalog.Behind(ctx, chain)
	if err != nil {
		return nil, err
	}
	return r.begin(ctx, spec, set, behind)
}

// attach goes on with a rollout of the same set.
func (r *Runner) attach(ctx context.Context, spec RolloutSpec, ro *catalog.Rollout) (*catalog.Rollout, error) {
	until, err := ringNamed(ro, spec.Until)
	if err != nil || until == nil && ro.Until == nil {
		return ro, err
	}
	err = r.decideOn(ctx, ro.ID, "rollout.open", nil, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		if err := tx.SetRolloutUntil(ctx, ro, until); err != nil {
			return err
		}
		if ro.Pause == catalog.PauseGate && (until == nil || *until > ro.Ring) {
			return tx.ResumeRollout(ctx, ro, false)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r.catalog.Rollout(ctx, ro.ID)
}

func ringNamed(ro *catalog.Rollout, name string) (*int, error) {
	if name == "" {
		return nil, nil
	}
	names := make([]string, len(ro.Rings))
	for i, ring := range ro.Rings {
		if names[i] = ring.Name; ring.Name == name || fmt.Sprint(ring.Ring) == name {
			return new(ring.Ring), nil
		}
	}
	return nil, fmt.Errorf("ring %q: there are %s: %w", name, strings.Join(names, ", "), catalog.ErrNotFound)
}

// successor is the set as it is stored, and the versions that are served from now on.
type successor struct {
	*catalog.MigrationSet
	from   int64 // what the fleet was meant to have before
	served catalog.ServedVersions
}

func (r *Runner) successor(ctx context.Context, m *migrations.Migrator, fleet *catalog.FleetState) (successor, error) {
	latest := m.Latest()
	s := successor{MigrationSet: &catalog.MigrationSet{Version: latest.Number, Chain: latest.Chain}, from: fleet.Version}
	for _, f := range m.Files() {
		s.Files = append(s.Files, catalog.MigrationFile{Version: f.Version, Name: f.Name, SHA256: f.SHA256, Up: f.Up, Down: f.Down})
	}
	served, err := r.catalog.ServedVersions(ctx)
	if err != nil {
		return s, err
	}
	s.served = *served
	if fleet.Active == s.Chain || fleet.Active == "" {
		s.from, s.served.Max = min(served.Min, latest.Number), latest.Number
		return s, nil
	}
	active, err := r.catalog.ActiveSet(ctx)
	if err != nil {
		return s, err
	}
	free, err := r.unreleased(ctx, active)
	if err != nil {
		return s, err
	}
	if free == noneFree {
		s.served = catalog.ServedVersions{Min: min(fleet.Version, latest.Number), Max: latest.Number}
	} else { // the set before was given up: what was served before it still is
		s.from, s.served.Max = served.Min, max(latest.Number, served.Min)
	}
	return s, succeeds(m.Files(), active, free)
}

const noneFree = int64(1)<<62 - 1

// unreleased is the version above which files of the active set may still be changed: those that no database has, after the
// rollout that brought them was given up.
func (r *Runner) unreleased(ctx context.Context, active *catalog.MigrationSet) (int64, error) {
	last, err := r.catalog.LastRollout(ctx)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return 0, err
	}
	if err != nil || last.Chain != active.Chain || last.State != catalog.RolloutCancelled && !untouched(last) {
		return noneFree, nil
	}
	return r.catalog.AppliedVersion(ctx)
}

// untouched says that a rollout was stopped before it touched any database.
func untouched(ro *catalog.Rollout) bool { return ro.State == catalog.RolloutPaused && !ro.Prepared }

// succeeds insists that files hold what the active set holds, unchanged up to a version: else every database would refuse
// them, and those born from now on would have another history.
func succeeds(files []migrations.File, active *catalog.MigrationSet, free int64) error {
	ours := make(map[int64]migrations.File, len(files))
	for _, f := range files {
		ours[f.Version] = f
	}
	for _, old := range active.Files {
		f, ok := ours[old.Version]
		switch {
		case old.Version > free:
		case !ok:
			return fmt.Errorf("migration %06d_%s is in the active set and not in this one: %w", old.Version, old.Name, catalog.ErrConflict)
		case f.SHA256 != old.SHA256:
			return fmt.Errorf("migration %s was changed after it was released: %w", f, catalog.ErrConflict)
		}
	}
	return nil
}

// begin writes the rollout, or the set alone where no database is behind.
func (r *Runner) begin(ctx context.Context, spec RolloutSpec, set successor, behind []*catalog.FleetMember) (*catalog.Rollout, error) {
	if !spec.Confirmed {
		unserved := &BehindError{Min: set.served.Min}
		for _, m := range behind {
			if m.State == catalog.DatabaseActive && m.Version < set.served.Min {
				unserved.Databases = append(unserved.Databases, m.Name)
			}
		}
		if len(unserved.Databases) > 0 {
			return nil, unserved
		}
	}
	rings := policy(spec, behind)
	ro := &catalog.Rollout{
		ID: catalog.NewID[catalog.Rollout](), Operation: catalog.NewID[catalog.Operation](), Chain: set.Chain,
		From: set.from, To: set.Version, CreatedBy: spec.By,
	}
	steps := make([]string, len(rings))
	for i, ring := range rings {
		steps[i] = ring.Name
		ro.Rings = append(ro.Rings, &catalog.RolloutRing{
			Ring: i, Name: ring.Name, Selectors: ring.Selectors, Soak: ring.Soak, Manual: ring.Manual,
			MaxFailures: cmp.Or(ring.MaxFailures, 5), MaxFailurePct: ring.MaxFailurePct, Slots: ring.Slots,
		})
	}
	var err error
	if ro.Until, err = ringNamed(ro, spec.Until); err != nil {
		return nil, err
	}
	event := catalog.Event{
		Action: "rollout.start", Target: ro.Ref(), Operation: ro.Operation,
		Detail: map[string]any{"version": set.Version, "files": len(set.Files), "databases": len(behind)},
	}
	if len(behind) == 0 {
		event.Action, event.Target = "migrations.activate", catalog.Ref{Kind: "migration_set", Name: set.Chain}
	}
	err = r.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.ActivateSet(ctx, set.MigrationSet); err != nil {
			return err
		}
		if err := tx.SetServedVersions(ctx, set.served); err != nil {
			return err
		}
		if len(behind) == 0 {
			return nil
		}
		op := &catalog.Operation{ID: ro.Operation, Kind: KindRollout, Steps: steps, CreatedBy: spec.By}
		if err := tx.CreateOperation(ctx, op); err != nil {
			return err
		}
		if err := tx.CreateRollout(ctx, ro); errors.Is(err, catalog.ErrConflict) {
			return errBegun
		} else if err != nil {
			return err
		}
		for i, members := range assign(rings, behind) {
			if _, err := tx.AddTargets(ctx, ro.ID, i, members); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil || len(behind) == 0 {
		return nil, err
	}
	if err := fp.Hit(pointStarted); err != nil {
		return nil, err
	}
	return r.catalog.Rollout(ctx, ro.ID)
}

// policy is the rings of a rollout.
func policy(spec RolloutSpec, behind []*catalog.FleetMember) []migrations.Ring {
	rings := slices.Clone(spec.Rings)
	if rings == nil {
		rings = migrations.DefaultRings()
	}
	canary := slices.IndexFunc(rings, func(ring migrations.Ring) bool { return ring.Name == "canary" })
	if canary < 0 {
		return rings
	}
	ring := &rings[canary]
	ring.Selectors = slices.Clone(ring.Selectors)
	for _, id := range spec.Canaries { // who names them watches them
		ring.Selectors, ring.Soak = append(ring.Selectors, "database="+id.String()), 0
	}
	if chosen := assign(rings, behind); spec.Rings == nil && len(chosen[canary]) == 0 {
		if id, ok := someCanary(rings[:canary], behind); ok {
			ring.Selectors, ring.Soak = append(ring.Selectors, "database="+id.String()), 0
		}
	}
	if spec.Soak != nil {
		ring.Soak = *spec.Soak
	}
	return rings
}

// someCanary is a database to go before all others where none was named: one of a single tenant, if there is any.
func someCanary(before []migrations.Ring, behind []*catalog.FleetMember) (catalog.DatabaseID, bool) {
	for _, kind := range []catalog.Placement{catalog.Dedicated, catalog.Shared} {
		for _, m := range behind {
			if m.Kind == kind && !slices.ContainsFunc(before, func(r migrations.Ring) bool { return r.Selects(traits(m)) }) {
				return m.ID, true
			}
		}
	}
	return catalog.DatabaseID{}, false
}

func traits(m *catalog.FleetMember) migrations.Member {
	return migrations.Member{ID: m.ID.String(), Kind: string(m.Kind), State: string(m.State), Labels: m.Labels}
}

// assign puts each database into the first ring that selects it. What no ring selects belongs to the last one: a rollout
// leaves nothing behind by oversight.
func assign(rings []migrations.Ring, members []*catalog.FleetMember) [][]catalog.DatabaseID {
	assigned := make([][]catalog.DatabaseID, len(rings))
	for _, m := range members {
		i := slices.IndexFunc(rings, func(r migrations.Ring) bool { return r.Selects(traits(m)) })
		if i < 0 {
			i = len(rings) - 1
		}
		assigned[i] = append(assigned[i], m.ID)
	}
	return assigned
}

// RolloutPlan is what a rollout of a set would do, from the catalog alone.
type RolloutPlan struct {
	tenants.RolloutPlan

	rings  []migrations.Ring
	behind []*catalog.FleetMember
}

// PlanRollout says what StartRollout would do. It writes nothing and connects to no database.
func (r *Runner) PlanRollout(ctx context.Context, spec RolloutSpec) (*RolloutPlan, error) {
	m, err := r.migrator(spec.Files)
	if err != nil {
		return nil, err
	}
	fleet, err := r.catalog.FleetState(ctx, m.Latest().Chain)
	if err != nil {
		return nil, err
	}
	plan := &RolloutPlan{RolloutPlan: tenants.RolloutPlan{
		From: fleet.Version, To: m.Latest().Number, Pending: fleet.Behind, Current: fleet.Current,
		Files: []string{}, Rings: []tenants.RingPlan{}, Effects: []tenants.FileEffects{},
	}}
	if !fleet.Rollout.IsZero() {
		if plan.Rollout, err = r.catalog.Rollout(ctx, fleet.Rollout); err != nil {
			return nil, err
		}
	}
	if plan.Rollout == nil || plan.Rollout.Chain != m.Latest().Chain {
		set, err := r.successor(ctx, m, fleet)
		if err != nil {
			return nil, err
		}
		plan.From = set.from
	} else {
		plan.From = plan.Rollout.From
	}
	behind, err := r.catalog.Behind(ctx, m.Latest().Chain)
	if err != nil {
		return nil, err
	}
	plan.behind = behind
	members, lowest := map[catalog.DatabaseID]*catalog.FleetMember{}, m.Latest().Number
	for _, b := range behind {
		members[b.ID], lowest = b, min(lowest, b.Version)
	}
	if len(behind) > 0 {
		for _, f := range m.Files() {
			if f.Version > lowest {
				plan.Files = append(plan.Files, f.String())
			}
		}
	}
	rings := policy(spec, behind)
	plan.rings = rings
	for i, ids := range assign(rings, behind) {
		ring := tenants.RingPlan{Ring: i, Name: rings[i].Name, Databases: len(ids), Servers: map[string]int{}}
		if rings[i].Soak > 0 && len(ids) > 0 {
			ring.Soak = rings[i].Soak.String()
		}
		for _, id := range ids {
			ring.Servers[members[id].ServerName]++
		}
		plan.Rings = append(plan.Rings, ring)
	}
	return plan, nil
}

// decideOn is an operator's act on a rollout, with its audit event, under the rollout's lock.
func (r *Runner) decideOn(ctx context.Context, id catalog.RolloutID, action string, detail map[string]any, fn func(*catalog.Tx, *catalog.Rollout) error) error {
	event := catalog.Event{Action: action, Target: catalog.Ref{Kind: "rollout", ID: [16]byte(id)}, Detail: detail}
	return r.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		ro, err := tx.LockRollout(ctx, id)
		if err != nil {
			return err
		}
		return fn(tx, ro)
	})
}

// PauseRollout lets what runs end and begins nothing more. One that is paused stays as it is.
func (r *Runner) PauseRollout(ctx context.Context, id catalog.RolloutID) error {
	return r.decideOn(ctx, id, "rollout.pause", nil, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		switch {
		case ro.State.Finished():
			return finished(ro)
		case ro.State == catalog.RolloutPaused:
			return nil
		}
		return tx.PauseRollout(ctx, ro, catalog.PauseOperator, "")
	})
}

// ResumeRollout lets a paused rollout go on. After too many failures the failed databases of its rings are tried again, or
// with reset left as they are and counted no more; at a gate the next ring is opened. One that runs goes on as it is.
func (r *Runner) ResumeRollout(ctx context.Context, id catalog.RolloutID, reset bool) error {
	return r.decideOn(ctx, id, "rollout.resume", map[string]any{"reset": reset}, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		if ro.State.Finished() {
			return finished(ro)
		}
		return tx.ResumeRollout(ctx, ro, reset)
	})
}

// RetryRollout tries databases again that failed or need repair, all of them when none is named. A rollout that ended with
// failures, or was paused by them, goes on. The answer is how many.
func (r *Runner) RetryRollout(ctx context.Context, id catalog.RolloutID, databases []catalog.DatabaseID) (n int, err error) {
	err = r.decideOn(ctx, id, "rollout.retry", map[string]any{"databases": len(databases)}, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		if ro.State.Finished() && ro.State != catalog.RolloutDoneWithFailures {
			return finished(ro)
		}
		if n, err = tx.RetryTargets(ctx, ro, databases); err != nil || n == 0 {
			return err
		}
		if ro.State.Finished() || ro.Pause == catalog.PauseThreshold {
			return tx.ReopenRollout(ctx, ro)
		}
		return nil
	})
	return n, err
}

// SkipTarget leaves a database behind, and says why.
func (r *Runner) SkipTarget(ctx context.Context, id catalog.RolloutID, database catalog.DatabaseID, reason string) error {
	return r.decideOn(ctx, id, "rollout.skip", map[string]any{"database": database.String(), "reason": reason}, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		if ro.State == catalog.RolloutCancelled {
			return finished(ro)
		}
		return tx.SkipTarget(ctx, ro, database, reason)
	})
}

// CancelRollout gives a rollout up. What runs ends; what was migrated stays.
func (r *Runner) CancelRollout(ctx context.Context, id catalog.RolloutID, why string) error {
	return r.decideOn(ctx, id, "rollout.cancel", map[string]any{"why": why}, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		if ro.State.Finished() {
			return finished(ro)
		}
		return tx.FinishRollout(ctx, ro, catalog.RolloutCancelled, why)
	})
}

func finished(ro *catalog.Rollout) error {
	return fmt.Errorf("rollout %s is %s: %w", ro.ID, ro.State, catalog.ErrConflict)
}
