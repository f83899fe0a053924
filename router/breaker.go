package router

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/internal/budget"
)

// A breaker opens when connecting fails again and again, and lets one attempt through from time to time. It stands outside
// the pools, so that a new pool forgets nothing and all tenants of a dead server cost one attempt.
type breaker struct {
	after  int           // so many failures
	within time.Duration // in this time open it
	pause  time.Duration // the least time between attempts; up to twice as long

	until atomic.Int64 // Unix nanoseconds: nothing is tried before; 0 is closed

	mu       sync.Mutex // guards the fields below, and changes of until
	failures []time.Time
	probing  bool
	cause    error
	opened   int64
}

// What is tried on a server that does not answer, and with a login that it refuses: a password is not tried again and again,
// lest an account be locked.
func serverBreaker() *breaker {
	return &breaker{after: 5, within: 10 * time.Second, pause: time.Second}
}

func loginBreaker() *breaker {
	return &breaker{after: 1, within: time.Second, pause: 30 * time.Second}
}

// isOpen is cheap enough to be asked for every request.
func (b *breaker) isOpen() bool { return b.until.Load() != 0 }

// blocked says why nothing is tried now; nil when something may be.
func (b *breaker) blocked(now time.Time) error {
	if !b.isOpen() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.refusal(now)
}

func (b *breaker) refusal(now time.Time) error {
	until := b.until.Load()
	if until == 0 || !b.probing && now.UnixNano() >= until {
		return nil
	}
	return &refusal{kind: ErrUnavailable, cause: b.cause, wait: time.Unix(0, until).Sub(now)}
}

// try begins an attempt. While the breaker is open there is one at a time.
func (b *breaker) try(now time.Time) error {
	if !b.isOpen() {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.refusal(now); err != nil {
		return err
	}
	b.probing = b.isOpen()
	return nil
}

// failed ends an attempt that says something about the server.
func (b *breaker) failed(now time.Time, cause error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing, b.cause = false, cause
	for len(b.failures) > 0 && now.Sub(b.failures[0]) > b.within {
		b.failures = b.failures[1:]
	}
	b.failures = append(b.failures, now)
	if !b.isOpen() && len(b.failures) < b.after {
		return
	}
	if !b.isOpen() {
		b.opened++
	}
	b.failures = b.failures[:0]
	b.until.Store(now.Add(b.pause + rand.N(b.pause)).UnixNano())
}

// spared ends an attempt that says nothing, such as one for which we had no room.
func (b *breaker) spared() {
	if !b.isOpen() {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.probing = false
}

// succeeded closes the breaker and says whether it was open.
func (b *breaker) succeeded() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	wasOpen := b.isOpen()
	b.probing, b.cause, b.failures = false, nil, b.failures[:0]
	b.until.Store(0)
	return wasOpen
}

// verdict is what a failed connect speaks of.
type verdict int

const (
	ofUs     verdict = iota // our own waits and closings
	ofServer                // it does not answer, or not as PostgreSQL
	ofRoom                  // it has no connection left
	ofLogin                 // it answers and refuses this login or this database
)

func judge(err error) verdict {
	var pg *pgconn.PgError
	switch {
	case errors.Is(err, budget.ErrFull), errors.Is(err, context.Canceled), errors.Is(err, errUnasked):
		return ofUs
	case errors.Is(err, errIdentity):
		return ofLogin
	case !errors.As(err, &pg):
		return ofServer
	case pg.Code == "53300":
		return ofRoom
	case pg.Code[:min(2, len(pg.Code))] == "08", pg.Code[:min(3, len(pg.Code))] == "57P":
		return ofServer
	}
	return ofLogin
}
