package jobs

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"

	"github.com/rowhouse/rowhouse/catalog"
)

// schema is where River's tables stand, beside the catalog's.
const schema = "river"

// Migrate brings River's own tables up to this program's version. River takes no lock: call it under one, as
// migrations.Config.Then does.
//
// Each version is a transaction of its own, because one adds a value to a type that a later one uses.
func Migrate(ctx context.Context, conn *pgx.Conn) error {
	if _, err := conn.Exec(ctx, "create schema if not exists "+schema); err != nil {
		return fmt.Errorf("schema %s: %w", schema, err)
	}
	m, err := rivermigrate.New(riverpgxv5.New(nil), &rivermigrate.Config{Schema: schema, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("schema %s: %w", schema, err)
	}
	for applied := 1; applied > 0; {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			//lint:ignore SA1019 it is discouraged for several versions in one transaction; here each has its own, on the locked connection
			result, err := m.MigrateTx(ctx, tx, rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{MaxSteps: 1})
			if err == nil {
				applied = len(result.Versions)
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("schema %s: %w", schema, err)
		}
	}
	return nil
}

// argsVersion is the form of the arguments. A worker leaves a later one to a later program.
const argsVersion = 1

// args are ids and nothing else: no names, no secrets.
type args struct {
	V         int    `json:"v"`
	Operation string `json:"operation"`
	// Epoch is the operation's when the job was inserted: after a worker was killed, its job is still "running" for River,
	// and the next one must not count as its double.
	Epoch int64 `json:"epoch"`
}

func argsOf(op *catalog.Operation) args {
	return args{V: argsVersion, Operation: op.ID.String(), Epoch: op.Epoch}
}

// Kind is River's name for the job.
func (args) Kind() string { return "operation" }

// InsertOpts leave "completed" out of the states that make a job a double, or a finished job would block the operation's
// next one for a day.
func (args) InsertOpts() river.InsertOpts {
	return river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateRetryable, rivertype.JobStateScheduled,
	}}}
}

func newRiver(r *Runner) (*river.Client[pgx.Tx], error) {
	workers := river.NewWorkers()
	river.AddWorker(workers, &worker{runner: r})
	return river.NewClient(riverpgxv5.New(r.catalog.Pool()), &river.Config{
		ID:                   r.cfg.Instance.String(),
		Schema:               schema,
		Queues:               map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: r.cfg.Workers}},
		Workers:              workers,
		FetchOnlyKnownKinds:  true,
		FetchCooldown:        20 * time.Millisecond,
		JobTimeout:           2 * time.Minute,
		RescueStuckJobsAfter: 5 * time.Minute,
		SoftStopTimeout:      r.cfg.StopTimeout,
		Logger:               slog.New(atLeast{r.log.Handler(), slog.LevelWarn}),
	})
}

// worker turns a job into an attempt at its operation. Retries are the operation's own: a job is done or snoozes.
type worker struct {
	river.WorkerDefaults[args]
	runner *Runner
}

// Timeout is none: an attempt's own steps have theirs, and a move may take hours.
func (w *worker) Timeout(*river.Job[args]) time.Duration { return -1 }

func (w *worker) Work(ctx context.Context, job *river.Job[args]) error {
	id, err := catalog.ParseID[catalog.Operation](job.Args.Operation)
	if err != nil || job.Args.V != argsVersion {
		return river.JobSnooze(time.Minute)
	}
	next, err := w.runner.attempt(ctx, id)
	switch {
	case errors.Is(err, catalog.ErrConflict):
		return w.unlessFinished(ctx, id)
	case err != nil:
		w.runner.log.WarnContext(ctx, "operation cannot be worked on", "operation", id, "error", err)
		return river.JobSnooze(5 * time.Second)
	case next.finished:
		return nil
	}
	return river.JobSnooze(next.after)
}

// unlessFinished snoozes while another worker has the operation.
func (w *worker) unlessFinished(ctx context.Context, id catalog.OperationID) error {
	op, err := w.runner.catalog.Operation(ctx, id)
	if err == nil && op.State.Finished() || errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	return river.JobSnooze(2 * time.Second)
}

// atLeast drops what River says below a level.
type atLeast struct {
	slog.Handler
	level slog.Level
}

func (h atLeast) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= h.level && h.Handler.Enabled(ctx, l)
}

func (h atLeast) WithAttrs(attrs []slog.Attr) slog.Handler {
	return atLeast{h.Handler.WithAttrs(attrs), h.level}
}

func (h atLeast) WithGroup(name string) slog.Handler {
	return atLeast{h.Handler.WithGroup(name), h.level}
}
