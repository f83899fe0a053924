package admin

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// brake slows down what takes things away: a script gone wrong is stopped before it has emptied the house. Each token has a
// bucket that fills evenly.
type brake struct {
	perMinute int
	burst     int
	now       func() time.Time

	mu    sync.Mutex // guards ready
	ready map[string]time.Time
}

// maxBuckets is how many callers are remembered before those are dropped whose buckets are full again.
const maxBuckets = 1000

func newBrake(perMinute int) *brake {
	return &brake{perMinute: perMinute, burst: max(1, perMinute/2), now: time.Now, ready: map[string]time.Time{}}
}

// take takes one from the caller's bucket, or says after how long there is one again.
func (b *brake) take(principal string) (wait time.Duration) {
	if b.perMinute < 0 {
		return 0
	}
	each := time.Minute / time.Duration(b.perMinute)
	now := b.now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.ready) >= maxBuckets {
		for name, at := range b.ready {
			if at.Before(now) {
				delete(b.ready, name)
			}
		}
	}
	// What is kept is the moment at which the bucket is full again.
	full := b.ready[principal]
	if full.Before(now) {
		full = now
	}
	if wait := full.Add(each).Sub(now) - time.Duration(b.burst)*each; wait > 0 {
		return wait
	}
	b.ready[principal] = full.Add(each)
	return 0
}

// destructive says whether a route takes something away from somebody: service, data, or the right to ask.
func destructive(r route) bool {
	switch {
	case r.method == http.MethodGet:
		return false
	case r.method == http.MethodDelete:
		return true
	}
	switch r.permission {
	case "tenants.delete", "tenants.suspend", "tenants.placement.change":
		return true
	}
	return false
}

// tooMany answers a caller who takes away too much in too short a time.
func tooMany(wait time.Duration) *Problem {
	p := newProblem(http.StatusTooManyRequests, "", "")
	p.retryAfter = strconv.Itoa(int(math.Ceil(wait.Seconds())))
	return p
}
