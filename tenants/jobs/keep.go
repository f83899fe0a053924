package jobs

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/rowhouse/rowhouse/tenants"
)

// keepEvery is how often the catalog is looked through for what is due.
const keepEvery = 20 * time.Second

// keep does what is due: states that were set until a time that is over, and purges of what was deleted. Several processes
// may do it at once: the catalog lets each thing be done once.
func (r *Runner) keep(ctx context.Context) {
	service := tenants.NewService(r.catalog, r)
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(keepEvery/2 + rand.N(keepEvery)):
		}
		if err := r.Keep(ctx, service); err != nil && ctx.Err() == nil {
			r.log.WarnContext(ctx, "what is due cannot be done", "error", err)
		}
	}
}

// Keep does once what a running Runner does from time to time.
func (r *Runner) Keep(ctx context.Context, service *tenants.Service) error {
	return errors.Join(service.LapseStates(ctx), service.PurgeDue(ctx), service.SealAudit(ctx))
}
