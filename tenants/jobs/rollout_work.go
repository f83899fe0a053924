package jobs

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/migrations"
)

// gather is how long a result waits for others, so that several share a turn. The workers that have none meanwhile are not
// missed: a server has enough to do with half of them.
const gather = 10 * time.Millisecond

// idle is how long a driver waits before it looks again what it may do: what others pause, resume or finish is seen then.
const idle = 250 * time.Millisecond

// targetLease is how long a database stays with a worker that is not heard of. It may be short: whoever takes it up waits
// for the lock in the database, and finds there what was done.
const targetLease = 15 * time.Second

// rolloutWorkers is how many databases a process migrates at once, over all servers.
const rolloutWorkers = 8

// The moments at which a test ends the process.
var (
	pointPrepared  = fp.Point("rollout.prepared")
	pointClaimed   = fp.Point("rollout.claimed")
	pointMigrated  = fp.Point("rollout.migrated")
	pointRecording = fp.Point("rollout.recording")
	pointRecorded  = fp.Point("rollout.recorded")
)

// DriveRollout works on a rollout in this process until it is finished, or paused and nothing of it runs here. Any number of
// processes may do so at once: what each does is claimed in the catalog. Zero workers means 8.
//
// A context that ends stops what runs, which is then taken up by whoever drives next.
func (r *Runner) DriveRollout(ctx context.Context, id catalog.RolloutID, workers int) error {
	ro, err := r.catalog.Rollout(ctx, id)
	if err != nil || ro.State.Finished() || ro.State == catalog.RolloutPaused {
		return err
	}
	d, err := r.newDriver(ctx, ro, workers)
	if err != nil {
		return err
	}
	return d.run(ctx)
}

// driver is one process's part in a rollout.
type driver struct {
	*Runner
	rollout catalog.RolloutID
	worker  catalog.InstanceID
	workers int
	sets    map[catalog.Placement]*migrations.Migrator
	// dynamic files decide by what they find, so that two databases that were alike need not be alike after them.
	dynamic bool

	results chan *catalog.TargetResult
	running map[catalog.DatabaseID]claimed // of the goroutine that runs the driver
	lease   time.Duration

	mu      sync.Mutex                           // guards the fields below
	known   map[seen]string                      // which fingerprint a schema had after the set
	configs map[catalog.ServerID]*pgx.ConnConfig // of each server's migrator
}

// seen is how a database looked before.
type seen struct{ chain, fingerprint string }

// claimed is a target that runs here.
type claimed struct {
	epoch  int64
	cancel context.CancelFunc
}

var decides = regexp.MustCompile(`(?i)\bexecute\b|\bdo\s+(\$|'|language\b)`)

func (r *Runner) newDriver(ctx context.Context, ro *catalog.Rollout, workers int) (*driver, error) {
	if workers <= 0 {
		workers = rolloutWorkers
	}
	set, err := r.catalog.MigrationSet(ctx, ro.Chain)
	if err != nil {
		return nil, err
	}
	d := &driver{
		Runner: r, rollout: ro.ID, worker: catalog.NewID[catalog.Instance](), workers: workers,
		sets: map[catalog.Placement]*migrations.Migrator{}, results: make(chan *catalog.TargetResult, workers),
		running: map[catalog.DatabaseID]claimed{}, lease: min(r.cfg.Lease, targetLease), known: map[seen]string{}, configs: map[catalog.ServerID]*pgx.ConnConfig{},
	}
	files := FilesOf(set)
	for _, f := range files {
		d.dynamic = d.dynamic || f.Version > ro.From && decides.MatchString(f.Up)
	}
	// Behind a waiting ALTER every reader of the table waits too, and in a shared database they are many tenants.
	for kind, wait := range map[catalog.Placement]time.Duration{catalog.Dedicated: 0, catalog.Shared: 500 * time.Millisecond} {
		cfg := migrations.Config{Then: takeFingerprint, LockTimeout: wait, Logger: r.log}
		if d.sets[kind], err = migrations.ForTenants(migrations.FS(files), cfg); err != nil {
			return nil, fmt.Errorf("migration set: %w", err)
		}
	}
	if latest := d.sets[catalog.Shared].Latest(); latest.Chain != ro.Chain {
		return nil, fmt.Errorf("rollout %s is of another release's baseline: %w", ro.ID, catalog.ErrConflict)
	}
	return d, nil
}

// next is what a turn came to.
type next struct {
	rollout *catalog.Rollout
	claims  []*catalog.RolloutClaim
	wait    time.Duration
}

// run takes turns: record what ended, decide, claim, begin.
func (d *driver) run(ctx context.Context) error {
	working, stop := context.WithCancel(ctx)
	defer stop()
	renewed := make(chan struct{})
	lost := make(chan map[catalog.DatabaseID]int64, 1)
	renewing, stopRenewing := context.WithCancel(context.WithoutCancel(ctx)) // what is stopped still holds its claims
	go func() { defer close(renewed); d.renewTargets(renewing, lost) }()
	defer func() { stopRenewing(); <-renewed }()

	var ended []*catalog.TargetResult
	var failing time.Time
	for {
		n, err := d.turn(ctx, ended)
		switch {
		case err == nil:
			ended, failing = nil, time.Time{}
			for _, claim := range n.claims {
				d.begin(working, claim)
			}
		case failing.IsZero():
			failing, n.wait = time.Now(), idle
			d.log.WarnContext(ctx, "rollout cannot take its turn", "rollout", d.rollout, "error", err)
		case time.Since(failing) > d.lease && len(d.running) == 0 || errors.Is(err, catalog.ErrNotFound):
			stop()
			d.drain()
			return err
		default:
			n.wait = time.Second
		}
		if len(d.running) == 0 && len(ended) == 0 {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err == nil && (n.rollout.State.Finished() || n.rollout.State == catalog.RolloutPaused) {
				return nil
			}
		}
		ended = append(ended, d.await(ctx, n.wait, lost)...)
	}
}

// await waits for results, for what was lost, or for a while.
func (d *driver) await(ctx context.Context, wait time.Duration, lost <-chan map[catalog.DatabaseID]int64) []*catalog.TargetResult {
	stopped := ctx.Done()
	if ctx.Err() != nil {
		stopped = nil // it has been seen: what is waited for now are the ends of what ran
	}
	var ended []*catalog.TargetResult
	select {
	case r := <-d.results:
		ended = d.together(r)
	case held := <-lost:
		for id, c := range d.running {
			if held[id] != c.epoch {
				c.cancel() // another worker has it
			}
		}
	case <-stopped:
	case <-time.After(wait):
	}
	for _, r := range ended {
		delete(d.running, r.Database)
	}
	return ended
}

// together adds to a first result those that come within a moment, half of what runs at most.
func (d *driver) together(first *catalog.TargetResult) []*catalog.TargetResult {
	ended := []*catalog.TargetResult{first}
	enough := time.After(gather)
	for 2*len(ended) < len(d.running) {
		select {
		case r := <-d.results:
			ended = append(ended, r)
		case <-enough:
			return ended
		}
	}
	return ended
}

// drain waits for all that runs, and forgets what became of it: the next who drives finds out.
func (d *driver) drain() {
	for len(d.running) > 0 {
		delete(d.running, (<-d.results).Database)
	}
}

// renewTargets keeps this worker's claims, and tells which it has.
func (d *driver) renewTargets(ctx context.Context, lost chan<- map[catalog.DatabaseID]int64) {
	tick := time.NewTicker(d.lease / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, d.lease/4)
		asked := time.Now()
		held, err := d.catalog.RenewTargets(asking, d.rollout, d.worker, d.lease)
		cancel()
		if err != nil || time.Since(asked) > d.lease/2 {
			continue // the claims' own end decides
		}
		select {
		case lost <- held:
		default:
		}
	}
}

// turn records what ended, decides what comes next and claims for the workers that are free, in one transaction.
func (d *driver) turn(ctx context.Context, ended []*catalog.TargetResult) (next, error) {
	want := d.workers - len(d.running)
	if ctx.Err() != nil {
		want = 0
	}
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	var n next
	err := d.catalog.Turn(settling, d.rollout, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		n = next{rollout: ro, wait: idle}
		lost, err := tx.RecordTargets(settling, ro, ended)
		if err != nil {
			return err
		}
		for _, r := range lost {
			d.log.WarnContext(ctx, "result of a claim that was lost", "rollout", d.rollout, "database", r.Name)
		}
		if len(ended) > 0 {
			if err := fp.Hit(pointRecording); err != nil {
				return err
			}
		}
		if err := d.decide(settling, tx, &n); err != nil {
			return err
		}
		if ro.State != catalog.RolloutRunning {
			return nil
		}
		n.claims, err = tx.ClaimTargets(settling, ro, d.worker, want, d.lease)
		return err
	})
	if err != nil {
		return next{}, err
	}
	if len(ended) > 0 {
		if err := fp.Hit(pointRecorded); err != nil {
			return next{}, err
		}
	}
	if n.rollout.State == catalog.RolloutPlanned && want > 0 {
		n.wait = 0
		return n, d.prepare(ctx, n.rollout)
	}
	return n, nil
}

// decide moves the rollout as far as its rings allow.
func (d *driver) decide(ctx context.Context, tx *catalog.Tx, n *next) error {
	ro := n.rollout
	for ro.State == catalog.RolloutRunning {
		open := ro.Open()
		last := ro.Ring == len(ro.Rings)-1
		ring := migrations.Ring{Soak: open.Soak, Manual: open.Manual, MaxFailures: open.MaxFailures, MaxFailurePct: open.MaxFailurePct}
		step, rest := ring.Next(stateOf(open), last, ro.Until != nil && ro.Ring >= *ro.Until)
		var err error
		switch step {
		case migrations.Migrate:
			return nil
		case migrations.Rest:
			n.wait = min(rest, time.Second)
			return nil
		case migrations.Stop:
			err = tx.PauseRollout(ctx, ro, catalog.PauseThreshold, fmt.Sprintf("ring %s: %d of %d databases failed", open.Name, open.Failed, open.Total))
		case migrations.Ask:
			err = tx.PauseRollout(ctx, ro, catalog.PauseGate, fmt.Sprintf("ring %s is through; resume opens the next", open.Name))
		case migrations.Close:
			err = tx.CloseRing(ctx, ro)
		case migrations.OpenNext:
			err = tx.OpenRing(ctx, ro, ro.Ring+1)
		case migrations.LookForLate:
			err = d.late(ctx, tx, ro)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func stateOf(r *catalog.RolloutRing) migrations.RingState {
	return migrations.RingState{
		Total: r.Total, Done: r.Done, Failed: r.Failed, Skipped: r.Skipped, Forgiven: r.Forgiven,
		Closed: r.ClosedAt != nil, Since: r.Since, Passed: r.Passed,
	}
}

// late takes up what was made meanwhile at another version, and ends the rollout when there is nothing.
func (d *driver) late(ctx context.Context, tx *catalog.Tx, ro *catalog.Rollout) error {
	added, err := tx.AddLate(ctx, ro, ro.Ring)
	if err != nil {
		return err
	}
	if added > 0 {
		open := ro.Open()
		open.Total, open.ClosedAt = open.Total+added, nil
		return nil
	}
	failed := 0
	for _, ring := range ro.Rings {
		failed += ring.Failed
	}
	if failed > 0 {
		return tx.FinishRollout(ctx, ro, catalog.RolloutDoneWithFailures, fmt.Sprintf("%d databases are not at version %d", failed, ro.To))
	}
	return tx.FinishRollout(ctx, ro, catalog.RolloutDone, "")
}

// prepare makes the template of each server, which new tenants are cloned from, and which shows what the set does to a
// database before any tenant's is touched. A set that cannot make one pauses the rollout.
func (d *driver) prepare(ctx context.Context, ro *catalog.Rollout) error {
	servers, err := d.catalog.RolloutServers(ctx, ro.ID)
	if err != nil {
		return err
	}
	refused := d.tried(ctx, ro, servers)
	for _, server := range servers {
		if refused != nil {
			break
		}
		if err := d.prepareServer(ctx, server); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if c := classify(ctx, err); c == classPermanent || c == classHistory || c == classRepair || c == classTime {
				refused = err
				break
			}
			d.log.WarnContext(ctx, "template of a server cannot be made now", "server", server, "error", explain(err))
		}
	}
	if err := fp.Hit(pointPrepared); err != nil {
		return err
	}
	return d.catalog.Turn(ctx, ro.ID, func(tx *catalog.Tx, ro *catalog.Rollout) error {
		switch {
		case ro.State != catalog.RolloutPlanned:
			return nil
		case refused != nil:
			return tx.PauseRollout(ctx, ro, catalog.PauseThreshold, "no database was touched: "+explain(refused))
		}
		return tx.RolloutPrepared(ctx, ro)
	})
}

// tried says what of the files must not be done to tables that stand, found on a scratch database. Where none can be made now,
// the canaries show it.
func (d *driver) tried(ctx context.Context, ro *catalog.Rollout, servers []catalog.ServerID) error {
	behind, err := d.catalog.Behind(ctx, ro.Chain)
	if err != nil {
		d.log.WarnContext(ctx, "rollout cannot be tried", "rollout", d.rollout, "err", err)
		return nil
	}
	trial, err := d.trial(ctx, servers, d.sets[catalog.Shared], ro.From, behind)
	switch c := classify(ctx, err); {
	case err == nil && trial == nil:
		return nil
	case err != nil && (c == classPermanent || c == classHistory || c == classTime):
		return err
	case err != nil:
		d.log.WarnContext(ctx, "no scratch database can be made now to try the files on", "rollout", d.rollout, "err", explain(err))
		return nil
	}
	if found := trial.refused(); len(found) > 0 {
		more := ""
		if len(found) > 1 {
			more = fmt.Sprintf(", and %d more: rowhouse migrate plan lists them", len(found)-1)
		}
		return permanently("%s%s", found[0], more)
	}
	return nil
}

func (d *driver) prepareServer(ctx context.Context, server catalog.ServerID) error {
	p := &provision{Runner: d.Runner, op: &catalog.Operation{}, db: &catalog.Database{Server: server}}
	defer p.close()
	h, err := p.host(ctx)
	if err != nil {
		return err
	}
	if _, err := p.ensureServerRoles(ctx, h); err != nil {
		return err
	}
	_, _, err = p.template(ctx, h)
	return err
}

// begin migrates a claimed database in a goroutine of its own.
func (d *driver) begin(ctx context.Context, claim *catalog.RolloutClaim) {
	ctx, cancel := context.WithCancel(ctx)
	d.running[claim.Database] = claimed{claim.Epoch, cancel}
	go func() {
		defer cancel()
		d.results <- d.one(ctx, claim)
	}()
}

// one migrates a database. It records nothing: the turn does.
func (d *driver) one(ctx context.Context, claim *catalog.RolloutClaim) (r *catalog.TargetResult) {
	before := catalog.Migrated{Version: claim.Version, Chain: claim.Chain, Fingerprint: claim.Fingerprint}
	defer func() {
		if p := recover(); p != nil {
			d.log.ErrorContext(ctx, "migration panicked", "database", claim.Name, "panic", p)
			r = d.judged(ctx, claim, errors.New("panic; the log has it"))
			r.Schema = before
			r.Schema.Error = r.Error
		}
	}()
	if err := fp.Hit(pointClaimed); err != nil {
		return d.failed(ctx, claim, before, err)
	}
	if claim.Attempts > worked {
		return d.failed(ctx, claim, before, fmt.Errorf("%s: given up after %d workers", claim.Name, claim.Attempts-1))
	}
	m := d.sets[claim.Kind]
	result, after := d.up(ctx, m, claim)
	if after.Chain == "" { // not even read
		after = before
	}
	if result.Err != nil {
		if c := classify(ctx, result.Err); c == classCredential || c == classServer || c == classPassing {
			d.forget(claim.Server)
		}
		return d.failed(ctx, claim, after, result.Err)
	}
	if err := fp.Hit(pointMigrated); err != nil {
		return d.failed(ctx, claim, after, err)
	}
	return &catalog.TargetResult{RolloutClaim: claim, State: catalog.TargetDone, Schema: after, Noop: len(result.Applied) == 0}
}

// up brings a database to the set. Its fingerprint is read where it cannot be known: a database that looked as another did
// before the same files looks as that one after them.
func (d *driver) up(ctx context.Context, m *migrations.Migrator, claim *catalog.RolloutClaim) (migrations.Result, catalog.Migrated) {
	was := seen{claim.Chain, claim.Fingerprint}
	d.mu.Lock()
	known := d.known[was]
	d.mu.Unlock()
	t := d.targetFor(claim)
	if known != "" {
		if claim.Kind == catalog.Dedicated { // what a shared one lets through reaches many
			m = m.Proven()
		}
		result, _ := m.Up(ctx, t)
		if result.Err != nil || result.From.Chain == claim.Chain {
			return result, catalog.Migrated{Version: result.To.Number, Chain: result.To.Chain, Fingerprint: known}
		}
		again, after := d.bring(ctx, m, t, "") // the catalog's word was an old one
		again.Applied = append(result.Applied, again.Applied...)
		return again, after
	}
	result, after := d.bring(ctx, m, t, "")
	if result.Err == nil && !d.dynamic && result.From.Chain == claim.Chain && claim.Fingerprint != "" {
		d.mu.Lock()
		d.known[was] = after.Fingerprint
		d.mu.Unlock()
	}
	return result, after
}

// failed is the result of a database that is not at the set.
func (d *driver) failed(ctx context.Context, claim *catalog.RolloutClaim, schema catalog.Migrated, cause error) *catalog.TargetResult {
	r := d.judged(ctx, claim, cause)
	looking, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	r.Schema = schema
	switch {
	case schema.Chain != claim.Chain: // some of its files were applied
		r.Schema.Fingerprint = d.look(looking, claim)
	case existed(r.SQLState):
		r.Detail["drift"] = d.look(looking, claim) != claim.Fingerprint
		fallthrough
	default:
		r.Schema.Fingerprint = claim.Fingerprint
	}
	r.Schema.Error = r.Error
	return r
}

// look reads a database's fingerprint; empty makes whoever keeps plans by it look for himself.
func (d *driver) look(ctx context.Context, claim *catalog.RolloutClaim) string {
	conn, err := d.targetFor(claim).Connect(ctx)
	if err != nil {
		return ""
	}
	defer closeConn(conn)
	fingerprint, _ := migrations.Fingerprint(ctx, conn)
	return fingerprint
}

// targetFor is targetOf with a server's address and credential read once for many databases.
func (d *driver) targetFor(claim *catalog.RolloutClaim) migrations.Target {
	return migrations.Target{Name: claim.Name, Key: lockKey(d.catalog.ID(), "migrate "+claim.Database.String()), Connect: func(ctx context.Context) (*pgx.Conn, error) {
		base, err := d.configOf(ctx, claim.Server)
		if err != nil {
			return nil, err
		}
		cfg := base.Copy()
		cfg.Database = claim.Name
		migrations.ConnConfig(cfg, ownerOf(claim.Database))
		return pgx.ConnectConfig(ctx, cfg)
	}}
}

func (d *driver) configOf(ctx context.Context, server catalog.ServerID) (*pgx.ConnConfig, error) {
	d.mu.Lock()
	cfg := d.configs[server]
	d.mu.Unlock()
	if cfg != nil {
		return cfg, nil
	}
	cfg, err := d.catalog.ServerConnConfig(ctx, server, catalog.DatabaseID{}, maintenance, catalog.LoginMigrator)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	d.configs[server] = cfg
	d.mu.Unlock()
	return cfg, nil
}

// forget makes the next connection read the catalog again.
func (d *driver) forget(server catalog.ServerID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.configs, server)
}

// driveOpen looks for a rollout that is under way and takes part in it, until ctx ends.
func (r *Runner) driveOpen(ctx context.Context) {
	tick := time.NewTicker(r.cfg.Sweep)
	defer tick.Stop()
	for {
		ro, err := r.catalog.OpenRollout(ctx)
		if err == nil && ro.State != catalog.RolloutPaused {
			err = r.DriveRollout(ctx, ro.ID, 0)
		}
		if err != nil && !errors.Is(err, catalog.ErrNotFound) && ctx.Err() == nil {
			r.log.WarnContext(ctx, "rollout cannot be worked on", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
