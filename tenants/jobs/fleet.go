package jobs

import (
	"context"
	"errors"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
)

// FleetConfig says how MigrateFleet works.
type FleetConfig struct {
	// Workers is how many databases are migrated at the same time.
	//
	// Zero means 8.
	Workers int
	// PerServer is how many of them on one server. Of shared databases it is always one.
	//
	// Zero means as many as the server allows.
	PerServer int
	// MaxFailures is after how many failed databases no further one is begun.
	//
	// Zero means 5.
	MaxFailures int
}

// Summary counts databases.
type Summary struct {
	Done   int // brought to the set
	Noop   int // were there already
	Failed int // the catalog says why
	Held   int // not begun, because others failed or the work was stopped
}

// MigrateFleet makes files the set that new databases are born with, and brings every database to it: a rollout without
// canaries, the databases of one tenant first, followed to its end. A fleet that is there costs one query. Report is told of
// each database as it ends; it is called from one goroutine.
//
// It is for whoever has the fleet to himself: a rollout of the same set goes on where it was, its failures are tried again,
// and one of another set that is paused is given up.
//
// Databases that fail are counted, and the reason stands in the catalog. The error is for what concerns all of them: a set
// that is older than the active one, or differs from it in a released file, is catalog.ErrConflict, and nothing was done. A
// context that ends leaves the rest to be done by the next call.
func (r *Runner) MigrateFleet(ctx context.Context, files []migrations.File, cfg FleetConfig, report func(migrations.Result)) (Summary, error) {
	spec := RolloutSpec{Files: files, Confirmed: true, Supersede: true, Rings: []migrations.Ring{
		{Name: "dedicated", Selectors: []string{"kind=dedicated"}, MaxFailures: cfg.MaxFailures, Slots: cfg.PerServer},
		{Name: "shared", Selectors: []string{"kind=shared"}, MaxFailures: cfg.MaxFailures, Slots: 1},
	}}
	ro, err := r.StartRollout(ctx, spec)
	if err == nil && ro != nil && ro.State == catalog.RolloutPaused {
		err = r.ResumeRollout(ctx, ro.ID, false)
	}
	if err != nil {
		return Summary{}, err
	}
	summary := Summary{}
	if ro != nil {
		err = r.FollowRollout(ctx, ro.ID, cfg.Workers, func(t *catalog.RolloutTarget) {
			if report != nil && (t.State == catalog.TargetDone || t.State == catalog.TargetFailed || t.State == catalog.TargetNeedsRepair) {
				report(resultOf(t))
			}
		})
	}
	return r.summed(context.WithoutCancel(ctx), ro, summary, err)
}

// summed counts what became of a rollout, and of the databases that were no part of it.
func (r *Runner) summed(ctx context.Context, ro *catalog.Rollout, s Summary, cause error) (Summary, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	fleet, err := r.catalog.Fleet(ctx)
	if err != nil {
		return s, errors.Join(cause, err)
	}
	if ro == nil {
		s.Noop = len(fleet)
		return s, cause
	}
	targets, err := r.catalog.RolloutTargets(ctx, ro.ID)
	if err != nil {
		return s, errors.Join(cause, err)
	}
	s.Noop = max(len(fleet)-len(targets), 0)
	for _, t := range targets {
		switch {
		case t.State == catalog.TargetDone && (t.Noop || t.Seq <= ro.Seq): // by us or before us
			s.Noop++
		case t.State == catalog.TargetDone:
			s.Done++
		case t.State == catalog.TargetFailed, t.State == catalog.TargetNeedsRepair:
			s.Failed++
		default:
			s.Held++
		}
	}
	return s, cause
}

func resultOf(t *catalog.RolloutTarget) migrations.Result {
	result := migrations.Result{Target: t.Name, From: migrations.Version{Number: t.From}}
	if t.To != nil {
		result.To.Number = *t.To
	}
	if t.State != catalog.TargetDone {
		result.Err = errors.New(t.Error)
	}
	return result
}

// ErrHeld is a rollout of which nothing is left but databases of servers that let nobody in.
var ErrHeld = errors.New("what is left stands on servers that refuse connections")

// givenUp is how often in a row a server must have refused for nobody to wait for it: about half a minute.
const givenUp = 6

// FollowRollout works on a rollout until it is finished or paused, and tells of each result as it is written, whichever
// process wrote it. Report is called from one goroutine, and for a database that is tried again once each time. When only
// databases of servers are left that let nobody in, it gives up with ErrHeld; they can be taken up later.
func (r *Runner) FollowRollout(ctx context.Context, id catalog.RolloutID, workers int, report func(*catalog.RolloutTarget)) error {
	ro, err := r.catalog.Rollout(ctx, id)
	if err != nil {
		return err
	}
	working, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	ended := make(chan error, 1)
	go func() { ended <- r.DriveRollout(working, id, workers) }()
	after, looked := ro.Seq, time.Now()
	for {
		var driven error
		over := false
		select {
		case driven = <-ended:
			over = true
		case <-time.After(100 * time.Millisecond):
		}
		// What ended is told also when we are asked to stop.
		asking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		results, err := r.catalog.RolloutResults(asking, id, after)
		if err == nil && !over && time.Since(looked) > 2*time.Second {
			looked = time.Now()
			if r.onlyHeld(asking, id) {
				stop(ErrHeld)
			}
		}
		cancel()
		for _, t := range results {
			after = t.Seq
			report(t)
		}
		if over {
			if errors.Is(context.Cause(working), ErrHeld) {
				driven = ErrHeld
			}
			return errors.Join(driven, err)
		}
		if err != nil {
			r.log.WarnContext(ctx, "rollout cannot be followed", "rollout", id, "error", err)
		}
	}
}

// onlyHeld says that nothing of the open ring is left but what waits for servers that were asked for long enough.
func (r *Runner) onlyHeld(ctx context.Context, id catalog.RolloutID) bool {
	held, err := r.catalog.HeldServers(ctx, id)
	if err != nil || len(held) == 0 {
		return false
	}
	away := map[string]bool{}
	for _, s := range held {
		away[s.Server] = s.Refused >= givenUp
	}
	ro, err := r.catalog.Rollout(ctx, id)
	if err != nil {
		return false
	}
	targets, err := r.catalog.RolloutTargets(ctx, id)
	for _, t := range targets {
		waits := t.State == catalog.TargetPending || t.State == catalog.TargetRetryWait
		if t.Ring == ro.Ring && (t.State == catalog.TargetRunning || waits && !away[t.Server]) {
			return false
		}
	}
	return err == nil
}
