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
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
)

// Fleet is the operator of rollouts on the catalog itself. What it begins is worked on by whoever runs operations.
type Fleet struct{ *Runner }

var _ tenants.RolloutOperator = Fleet{}

// specOf reads what was asked for. Files and names that do not fit are catalog.ErrInvalid.
func (f Fleet) specOf(ctx context.Context, asked tenants.RolloutSpec) (RolloutSpec, error) {
	spec := RolloutSpec{Until: asked.Until, Confirmed: asked.Confirmed, By: actorOf(ctx)}
	for _, file := range asked.Files {
		spec.Files = append(spec.Files, migrations.File{Version: file.Version, Name: file.Name, Up: file.Up, Down: file.Down})
	}
	if asked.Soak != "" {
		soak, err := time.ParseDuration(asked.Soak)
		if err != nil || soak < 0 {
			return spec, fmt.Errorf("soak: want a time such as 10m that is not negative: %w", catalog.ErrInvalid)
		}
		spec.Soak = &soak
	}
	if len(spec.Files) == 0 {
		set, err := f.catalog.ActiveSet(ctx)
		if errors.Is(err, catalog.ErrNotFound) {
			return spec, fmt.Errorf("no migrations were given and no set is active: %w", catalog.ErrInvalid)
		}
		if err != nil {
			return spec, err
		}
		spec.Files = FilesOf(set)
	}
	var err error
	if spec.Files, err = migrations.ReadSet(migrations.FS(spec.Files)); err != nil {
		return spec, fmt.Errorf("%w: %w", catalog.ErrInvalid, err)
	}
	if asked.To > 0 {
		end := slices.IndexFunc(spec.Files, func(file migrations.File) bool { return file.Version == asked.To })
		if end < 0 {
			return spec, fmt.Errorf("to %d: no migration has that number: %w", asked.To, catalog.ErrInvalid)
		}
		spec.Files = spec.Files[:end+1]
	}
	spec.Canaries, err = f.databases(ctx, asked.Canaries)
	return spec, err
}

// actorOf is whoever acts, for the rollout's row.
func actorOf(ctx context.Context) string { return catalog.ActorOf(ctx).Subject }

// Database finds a database of the fleet by its name, its id, or the name of a tenant in it.
func (f Fleet) Database(ctx context.Context, ref string) (catalog.DatabaseID, error) {
	fleet, err := f.catalog.Fleet(ctx)
	if err != nil {
		return catalog.DatabaseID{}, err
	}
	for _, m := range fleet {
		if m.Name == ref || m.ID.String() == ref {
			return m.ID, nil
		}
	}
	t, err := f.catalog.Tenant(ctx, ref)
	if errors.Is(err, catalog.ErrNotFound) || err == nil && t.Database.IsZero() {
		return catalog.DatabaseID{}, fmt.Errorf("database or tenant %q: %w", ref, catalog.ErrNotFound)
	}
	if err != nil {
		return catalog.DatabaseID{}, err
	}
	return t.Database, nil
}

func (f Fleet) databases(ctx context.Context, refs []string) ([]catalog.DatabaseID, error) {
	var found []catalog.DatabaseID
	for _, ref := range refs {
		id, err := f.Database(ctx, ref)
		if err != nil {
			return nil, err
		}
		found = append(found, id)
	}
	return found, nil
}

// PlanRollout says what StartRollout would do, tries the files on a scratch database unless that is left out, and weighs how long
// it takes.
func (f Fleet) PlanRollout(ctx context.Context, asked tenants.RolloutSpec) (*tenants.RolloutPlan, error) {
	spec, err := f.specOf(ctx, asked)
	if err != nil {
		return nil, err
	}
	plan, err := f.Runner.PlanRollout(ctx, spec)
	if err != nil {
		return nil, err
	}
	var trial *Trial
	if !asked.Untried && plan.Pending > 0 {
		trial, err = f.TryRollout(ctx, spec, plan)
		var refused *migrations.Error
		switch {
		case errors.As(err, &refused):
			return nil, fmt.Errorf("%w: %w", catalog.ErrInvalid, err)
		case err != nil:
			plan.Untried = "no server can be used for a scratch database now: " + explain(err)
		case trial == nil:
			plan.Untried = "no server can be used for a scratch database now"
		default:
			plan.Effects = trial.Files
		}
	}
	estimate, err := f.Estimate(ctx, plan, trial)
	plan.Seconds = estimate.Seconds()
	return &plan.RolloutPlan, err
}

// StartRollout begins to bring the fleet to a set, or goes on with what does so already. Nil: the fleet is there.
func (f Fleet) StartRollout(ctx context.Context, asked tenants.RolloutSpec) (*catalog.Rollout, error) {
	spec, err := f.specOf(ctx, asked)
	if err != nil {
		return nil, err
	}
	return f.Runner.StartRollout(ctx, spec)
}

// Rollouts lists the newest hundred without their rings, the newest first.
func (f Fleet) Rollouts(ctx context.Context) ([]*catalog.Rollout, error) {
	return f.catalog.Rollouts(ctx, 100)
}

// Rollout finds one by its id; without one it is the unfinished one, else the last.
func (f Fleet) Rollout(ctx context.Context, id string) (*catalog.Rollout, error) {
	if id != "" {
		parsed, err := catalog.ParseID[catalog.Rollout](id)
		if err != nil {
			return nil, fmt.Errorf("rollout: want its id of 36 characters: %w", catalog.ErrInvalid)
		}
		return f.catalog.Rollout(ctx, parsed)
	}
	ro, err := f.catalog.OpenRollout(ctx)
	if errors.Is(err, catalog.ErrNotFound) {
		return f.catalog.LastRollout(ctx)
	}
	return ro, err
}

// RolloutResults lists what was written since the result numbered after, in its order.
func (f Fleet) RolloutResults(ctx context.Context, id catalog.RolloutID, after int64) ([]*catalog.RolloutTarget, error) {
	return f.catalog.RolloutResults(ctx, id, after)
}

// RetryRollout tries databases again that failed or need repair. In one where a file without a transaction broke off, the mark decides
// what became of it, or without one the evidence: where that does not suffice, the database still needs repair and the answer says why.
func (f Fleet) RetryRollout(ctx context.Context, id catalog.RolloutID, spec tenants.RetrySpec) (*tenants.Retried, error) {
	if spec.Mark != "" && len(spec.Databases) == 0 {
		return nil, fmt.Errorf("mark needs the databases that it is about: %w", catalog.ErrInvalid)
	}
	if spec.Mark != "" && spec.Mark != "applied" && spec.Mark != "not-applied" {
		return nil, fmt.Errorf("mark: want applied or not-applied: %w", catalog.ErrInvalid)
	}
	databases, err := f.databases(ctx, spec.Databases)
	if err != nil {
		return nil, err
	}
	ro, err := f.catalog.Rollout(ctx, id)
	if err != nil {
		return nil, err
	}
	done := &tenants.Retried{Marked: map[string]string{}, Evidence: map[string]string{}}
	decision := migrations.Decision{Applied: spec.Mark == "applied", By: actorOf(ctx), Reason: spec.Reason}
	for i, database := range databases {
		if spec.Mark == "" {
			break
		}
		file, err := f.MarkTarget(ctx, ro, database, decision)
		if err != nil {
			return nil, err
		}
		done.Marked[spec.Databases[i]] = file
	}
	if spec.Mark == "" {
		if err := f.repair(ctx, ro, databases, done); err != nil {
			return nil, err
		}
	}
	done.Databases, err = f.Runner.RetryRollout(ctx, id, databases)
	return done, err
}

// repair lets the evidence decide about the databases that need repair.
func (f Fleet) repair(ctx context.Context, ro *catalog.Rollout, databases []catalog.DatabaseID, done *tenants.Retried) error {
	targets, err := f.catalog.RolloutTargets(ctx, ro.ID)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if t.State != catalog.TargetNeedsRepair || len(databases) > 0 && !slices.Contains(databases, t.Database) {
			continue
		}
		evidence, err := f.RepairTarget(ctx, ro, t.Database)
		switch {
		case err != nil:
			done.Evidence[t.Name] = explain(err)
		case evidence.Version > 0:
			done.Evidence[t.Name] = fmt.Sprintf("%s: %s (%s)", evidence.Name, evidence.Proposal, evidence.Reason)
		}
	}
	return nil
}

// SkipTarget leaves a database behind, and says why.
func (f Fleet) SkipTarget(ctx context.Context, id catalog.RolloutID, database, reason string) error {
	if strings.TrimSpace(reason) == "" {
		return fmt.Errorf("a reason is missing: whoever finds the database behind will ask: %w", catalog.ErrInvalid)
	}
	found, err := f.Database(ctx, database)
	if err != nil {
		return err
	}
	return f.Runner.SkipTarget(ctx, id, found, reason)
}

// FleetStatus says which versions the databases have, and how a rollout stands.
func (f Fleet) FleetStatus(ctx context.Context, id string, drift bool) (*tenants.FleetStatus, error) {
	s := &tenants.FleetStatus{Versions: []tenants.VersionCount{}, Behind: []tenants.FleetBehind{}, Failures: []*catalog.RolloutTarget{}}
	set, err := f.catalog.ActiveSet(ctx)
	if errors.Is(err, catalog.ErrNotFound) {
		set, err = &catalog.MigrationSet{}, nil
	}
	if err != nil {
		return nil, err
	}
	served, err := f.catalog.ServedVersions(ctx)
	if err != nil {
		return nil, err
	}
	fleet, err := f.catalog.Fleet(ctx)
	if err != nil {
		return nil, err
	}
	s.Version, s.Served = set.Version, *served
	count(s, fleet, set.Chain)
	if s.Rollout, err = f.Rollout(ctx, id); err != nil && (id != "" || !errors.Is(err, catalog.ErrNotFound)) {
		return nil, err
	}
	if s.Rollout != nil {
		if err := f.failures(ctx, s); err != nil {
			return nil, err
		}
	}
	if !drift {
		s.Drift, s.Looked, err = f.lastLooks(ctx)
		return s, err
	}
	looks, err := f.Look(ctx)
	for _, l := range looks {
		if l.Odd() {
			s.Drift = append(s.Drift, l)
		}
	}
	return s, err
}

// count sorts the fleet by its versions.
func count(s *tenants.FleetStatus, fleet []*catalog.FleetMember, chain string) {
	counts := map[tenants.VersionCount]int{}
	for _, m := range fleet {
		current := m.Chain == chain && m.Error == ""
		counts[tenants.VersionCount{Version: m.Version, Kind: m.Kind, Current: current}]++
		if !current {
			s.Behind = append(s.Behind, tenants.FleetBehind{
				Database: m.Name, ID: m.ID, Server: m.ServerName, Kind: m.Kind, Version: m.Version, Error: m.Error,
			})
		}
	}
	s.Current = len(s.Behind) == 0
	for row, n := range counts {
		row.Databases = n
		s.Versions = append(s.Versions, row)
	}
	slices.SortFunc(s.Versions, func(a, b tenants.VersionCount) int {
		return cmp.Or(cmp.Compare(a.Version, b.Version), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Databases, b.Databases))
	})
}

// failures adds what of the rollout is not as it should be.
func (f Fleet) failures(ctx context.Context, s *tenants.FleetStatus) error {
	targets, err := f.catalog.RolloutTargets(ctx, s.Rollout.ID)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if t.Error != "" && t.State != catalog.TargetDone || t.State == catalog.TargetSkipped || t.Held {
			s.Failures = append(s.Failures, t)
		}
	}
	s.Servers, err = f.catalog.HeldServers(ctx, s.Rollout.ID)
	return err
}
