package jobs

import (
	"context"
	"math/rand/v2"
	"time"
)

// tendEvery is about how often the stock of spare databases is looked at when nobody has taken one.
const tendEvery = 20 * time.Second

// tend keeps the stock of spare databases. Several processes may do it at once: the catalog lets one of them begin each.
func (r *Runner) tend(ctx context.Context) {
	for {
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
