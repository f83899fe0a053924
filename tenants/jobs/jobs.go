// Package jobs carries out operations on tenants as durable background jobs.
//
//	runner, err := jobs.New(cat, jobs.Config{})
//	service := tenants.NewService(cat, runner) // what it is asked for is inserted with its job, in one transaction
//	err = runner.Run(ctx)                      // on as many replicas as there are
//
// The operation's row is the state; a job only drives it. Each step looks whether its effect is there, does what is missing
// and records it, so that a step which ran twice changed nothing, and a worker that was killed anywhere is followed by
// another that goes on at the step.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// Config says how a Runner works. The zero value works.
type Config struct {
	// Workers is how many operations this process works on at once.
	//
	// Zero means 4.
	Workers int

	// Instance is this process among those of the catalog.
	//
	// Zero means one of its own.
	Instance catalog.InstanceID

	// Lease is how long an operation stays with a worker that is not heard of. It is renewed four times in that time.
	//
	// Zero means a minute.
	Lease time.Duration

	// Sweep is how often operations are looked for that nobody works on.
	//
	// Zero means two seconds.
	Sweep time.Duration

	// Attempts is how often a step is tried before its operation has failed.
	//
	// Zero means 8.
	Attempts int

	// Backoff is how long to wait after a step failed for the first time; it doubles up to five minutes.
	//
	// Zero means a second.
	Backoff time.Duration

	// StopTimeout is how long Run lets steps finish after its context ended.
	//
	// Zero means ten seconds.
	StopTimeout time.Duration

	// Drain is how long a move waits for transactions that write, before it lets writers in again and tries later.
	//
	// Zero means a second.
	Drain time.Duration

	// Cooling is how long what a moved tenant left behind is kept.
	//
	// Zero means 24 hours.
	Cooling time.Duration

	// Exports is the directory that tenants' rows are kept in when they are deleted, and until they are imported. It is
	// made where it is missing.
	//
	// Empty means that neither can be done here.
	Exports string

	// Logger is told of steps that failed.
	//
	// Nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Workers == 0 {
		c.Workers = 4
	}
	if c.Instance.IsZero() {
		c.Instance = catalog.NewID[catalog.Instance]()
	}
	c.Lease = orElse(c.Lease, time.Minute)
	c.Sweep = orElse(c.Sweep, 2*time.Second)
	c.Backoff = orElse(c.Backoff, time.Second)
	c.StopTimeout = orElse(c.StopTimeout, 10*time.Second)
	c.Drain = orElse(c.Drain, time.Second)
	c.Cooling = orElse(c.Cooling, 24*time.Hour)
	if c.Attempts == 0 {
		c.Attempts = 8
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	if c.Workers < 0 || c.Attempts < 0 || c.Lease < 0 || c.Sweep < 0 || c.Backoff < 0 || c.StopTimeout < 0 || c.Drain < 0 || c.Cooling < 0 {
		return errors.New("jobs: a count or a time is negative")
	}
	return nil
}

func orElse(d, or time.Duration) time.Duration {
	if d == 0 {
		return or
	}
	return d
}

// Runner carries out the operations of one catalog. It is safe for concurrent use.
type Runner struct {
	catalog *catalog.Catalog
	cfg     Config
	log     *slog.Logger
	river   *river.Client[pgx.Tx]
	leaving chan struct{} // closed when Run has been asked to stop
	woken   chan struct{} // asks for a look at the stock of spare databases

	mu    sync.Mutex // guards the fields below
	set   born       // the active set as it was read last
	hosts []*host    // sessions that nobody needs now, the last one given back at the end
}

var _ tenants.Queue = (*Runner)(nil)

// New makes a runner of the catalog's operations. It connects to nothing yet.
func New(cat *catalog.Catalog, cfg Config) (*Runner, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	r := &Runner{catalog: cat, cfg: cfg, log: cfg.Logger, leaving: make(chan struct{}), woken: make(chan struct{}, 1)}
	var err error
	if r.river, err = newRiver(r); err != nil {
		return nil, fmt.Errorf("jobs: %w", err)
	}
	return r, nil
}

// Enqueue inserts the operation's job in the caller's transaction: it appears or vanishes with the operation.
func (r *Runner) Enqueue(ctx context.Context, tx pgx.Tx, op *catalog.Operation) error {
	if _, err := r.river.InsertTx(ctx, tx, argsOf(op), nil); err != nil {
		return fmt.Errorf("job of operation %s: %w", op.ID, err)
	}
	return nil
}

// Run works on operations until ctx ends, then lets the steps at hand finish. It can be called once.
//
// The process should renew its lease with Report.Works set, so that others see that operations are worked on.
func (r *Runner) Run(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() { close(r.leaving) })
	defer stop()
	if err := r.river.Start(ctx); err != nil {
		return fmt.Errorf("jobs: %w", err)
	}
	var driving sync.WaitGroup
	driving.Go(func() { r.driveOpen(ctx) })
	driving.Go(func() { r.lookAround(ctx) })
	driving.Go(func() { r.keep(ctx) })
	driving.Go(func() { r.tend(ctx) })
	defer r.closeHosts(0)
	defer driving.Wait()
	tick := time.NewTicker(r.cfg.Sweep)
	defer tick.Stop()
	for {
		r.closeHosts(hostIdle)
		if err := r.sweep(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "operations cannot be looked through", "error", err)
		}
		select {
		case <-tick.C:
		case <-r.river.Stopped():
			return nil
		}
	}
}

// sweep inserts a job for each operation that nobody works on. It is what follows a worker that was killed: River itself
// would take minutes to notice. The operation's epoch in the job's arguments keeps it apart from the dead worker's job.
func (r *Runner) sweep(ctx context.Context) error {
	overdue, err := r.catalog.Overdue(ctx)
	if err != nil {
		return err
	}
	for _, op := range overdue {
		if _, err := r.river.Insert(ctx, argsOf(op), nil); err != nil {
			return fmt.Errorf("job of operation %s: %w", op.ID, err)
		}
	}
	return nil
}

// Work works on one operation in this process until it is finished, and waits where another worker has it. What comes back
// may have failed: its State says so, and its Error why.
func (r *Runner) Work(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error) {
	for {
		next, err := r.attempt(ctx, id)
		switch {
		case errors.Is(err, catalog.ErrConflict): // finished, or another worker's
			next = verdict{after: 200 * time.Millisecond}
			fallthrough
		case err == nil:
			op, err := r.catalog.Operation(ctx, id)
			if err != nil || op.State.Finished() {
				return op, err
			}
		default:
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("operation %s: %w", id, ctx.Err())
		case <-time.After(max(next.after, 20*time.Millisecond)):
		}
	}
}
