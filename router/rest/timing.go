package rest

import (
	"fmt"
	"strings"
	"time"
)

// timing is how long the steps of one request took.
type timing struct {
	last                               time.Time
	parse, plan, transaction, response time.Duration
	jwt, tenant, pool                  time.Duration // zero is not told
}

// next ends a step, of which there may be several; nil starts the clock.
func (t *timing) next(step *time.Duration) {
	now := time.Now()
	if step != nil {
		*step += now.Sub(t.last)
	}
	t.last = now
}

// String is the value of Server-Timing: milliseconds, the dialect's steps in its order, then ours.
func (t *timing) String() string {
	var b strings.Builder
	tell := func(name string, d time.Duration, always bool) {
		if d == 0 && !always {
			return
		}
		if b.Len() > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s;dur=%.1f", name, float64(d)/float64(time.Millisecond))
	}
	tell("jwt", t.jwt, false)
	tell("parse", t.parse, true)
	tell("plan", t.plan, true)
	tell("transaction", t.transaction, true)
	tell("response", t.response, true)
	tell("tenant", t.tenant, false)
	tell("pool", t.pool, false)
	return b.String()
}
