package router

import (
	"context"
	"sync"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router/internal/budget"
)

// A gate stands before a pool, because a pool dials for everybody who finds nothing idle, and waits for that dial even if a
// connection comes back a moment later. It lets through as many as there are connections, and more by two rules: up to the
// soft share at once (required connections, for which others may have to give up theirs), and up to the limit one by one,
// when somebody has been waiting for as long as a dial takes (optional ones, if the server's budget has room).
//
// It is never locked by whoever holds the budget's lock; it asks the budget under its own.
type gate struct {
	soft  int
	limit func() int
	room  func() bool

	mu    sync.Mutex // guards the fields below
	held  int        // lent, or being asked of the pool
	conns int        // made and not closed
	turns budget.Turns[catalog.TenantID]
	since time.Time // when the first of those who wait came
	armed bool      // the timer of growth runs

	refused int64
	waited  time.Duration
}

// The soft share of a database: tenants of a shared one are many.
const (
	softDedicated = 1
	softShared    = 4
)

// patience is how long a connection may be waited for before another one is made: about a dial.
const patience = 5 * time.Millisecond

// enter lets one through, at the latest at the deadline, tenants by turns. It says whether the connection is optional, if one
// has to be made. Whoever was let through for nothing comes again, behind the others.
func (g *gate) enter(ctx context.Context, tenant catalog.TenantID, deadline time.Time, again bool) (optional bool, err error) {
	g.mu.Lock()
	if !again && g.turns.Len() == 0 && g.isFree() {
		g.held++
		optional = g.held > g.soft
		g.mu.Unlock()
		return optional, nil
	}
	began := time.Now()
	if g.turns.Len() == 0 {
		g.since = began
	}
	w := g.turns.Push(tenant)
	g.arm(patience)
	g.mu.Unlock()

	err = w.Wait(ctx, deadline)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waited += time.Since(began)
	if err != nil {
		g.refused++
		if !g.turns.Remove(w) { // it was let through while it gave up
			g.held--
			g.grant()
		}
	}
	return g.held > g.soft, err
}

// isFree says whether one more may pass without growth.
func (g *gate) isFree() bool { return g.held < g.limit() && (g.held < g.conns || g.held < g.soft) }

func (g *gate) grant() {
	for g.isFree() && g.turns.Grant() {
		g.held++
	}
}

// leave says that a connection came back, or that there was none.
func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.held--
	g.grant()
}

// count notes that a connection was made, or closed.
func (g *gate) count(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns += n
	g.grant()
}

func (g *gate) arm(after time.Duration) {
	if !g.armed {
		g.armed = true
		time.AfterFunc(after, g.grow)
	}
}

// grow lets one more through, if somebody has always been waiting for a while.
func (g *gate) grow() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.armed = false
	g.grant()
	if g.turns.Len() == 0 {
		return
	}
	if rest := patience - time.Since(g.since); rest > 0 {
		g.arm(rest)
		return
	}
	if g.held < g.limit() && g.room() && g.turns.Grant() {
		g.held++
	}
	g.since = time.Now()
	g.arm(patience)
}

// surplus is how many connections are idle, and whether some of them are beyond the soft share.
func (g *gate) surplus() (idle int, beyond bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns - g.held, g.conns > g.soft
}

// moment is what Stat tells of a gate.
func (g *gate) moment() (idle, waiting int, refused int64, waited time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.conns-g.held, 0), g.turns.Len(), g.refused, g.waited
}
