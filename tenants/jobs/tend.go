package jobs

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"
)

// tendEvery is about how often the stock of spare databases is looked at when nobody has taken one.
const tendEvery = 20 * time.Second

// reconcileEvery is about how often servers are compared with the catalog.
const reconcileEvery = time.Hour

// tend keeps the stock of spare databases. Several processes may do it at once: the catalog lets one of them begin each.
func (r *Runner) tend(ctx context.Context) {
	next := time.Now().Add(rand.N(reconcileEvery)) // not every process at the same time
	for {
		if time.Now().After(next) {
			r.reconcile(ctx)
			next = time.Now().Add(reconcileEvery)
		}
		if _, err := r.Restock(ctx); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "spare databases cannot be looked at", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-r.woken:
		case <-time.After(tendEvery/2 + rand.N(tendEvery)):
		}
	}
}

// reconcile compares the servers with the catalog, mends what can be mended without loss, and tells the log.
func (r *Runner) reconcile(ctx context.Context) {
	found, err := r.Reconcile(ctx, ReconcileConfig{Mend: true})
	if err != nil && ctx.Err() == nil {
		r.log.WarnContext(ctx, "servers cannot be compared with the catalog", "error", err)
	}
	for _, f := range found {
		level := slog.LevelWarn
		if f.Critical {
			level = slog.LevelError
		}
		r.log.Log(ctx, level, "server and catalog differ", "server", f.Server, "kind", f.Kind, "name", f.Name, "problem", f.Problem, "did", f.Did, "cure", f.Cure)
	}
}
