package rest

import (
	"fmt"
	"time"
)

// timing is how long the steps of one request took.
type timing struct {
	last                               time.Time
	parse, plan, transaction, response time.Duration
}

// next ends a step, of which there may be several; nil starts the clock.
func (t *timing) next(step *time.Duration) {
	now := time.Now()
	if step != nil {
		*step += now.Sub(t.last)
	}
	t.last = now
}

// String is the value of Server-Timing: milliseconds, in the order in which the steps are taken.
func (t *timing) String() string {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return fmt.Sprintf("parse;dur=%.1f, plan;dur=%.1f, transaction;dur=%.1f, response;dur=%.1f", ms(t.parse), ms(t.plan), ms(t.transaction), ms(t.response))
}
