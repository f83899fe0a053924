package router

import (
	"context"
	"sync"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router/internal/budget"
)

// A gate stands before a pool, because a pool dials for everybody who finds nothing idle, and waits for that dial even if a
// connection comes back a moment later. It lets through whoever finds one idle, and whoever is to have one made:
//
//   - the first of the database, for which another database may have to give one up (a required one);
//   - up to the soft share at once, if the server's budget has room; if not, when somebody has been waiting for as long as a
//     dial takes and none is being made, as a required one;
//   - up to the limit one by one, each when somebody has been waiting for so long, and only if there is room (optional ones).
//
// It asks the budget under its own lock; the budget never asks it under its.
type gate struct {
	soft  int
	limit func() int
	room  func() bool

	mu      sync.Mutex // guards the fields below
	conns   int        // made and not closed
	lent    int        // or about to be
	dialing int        // being made for somebody
	turns   budget.Turns[catalog.TenantID]
	since   time.Time // when the first of those who wait came, or somebody was let through to dial
	armed   bool      // the timer of growth runs

	refused int64
	waited  time.Duration
}

// pass is how somebody was let through a gate.
type pass int

const (
	passIdle     pass = iota // one is idle
	passRequired             // one is to be made
	passOptional             // one is to be made if there is room
)

// The soft share of a database: tenants of a shared one are many.
const (
	softDedicated = 1
	softShared    = 4
)

// patience is how long a connection may be waited for before another one is made: about a dial.
const patience = 5 * time.Millisecond

// enter lets one through, at the latest at the deadline, tenants by turns. Whoever was let through for nothing comes again,
// behind the others.
func (g *gate) enter(ctx context.Context, tenant catalog.TenantID, deadline time.Time, again bool) (pass, error) {
	g.mu.Lock()
	if g.turns.Len() == 0 && (!again || g.lent+g.dialing == 0 && g.conns <= 0) {
		if p, ok := g.open(); ok {
			g.mu.Unlock()
			return p, nil
		}
	}
	began := time.Now()
	if g.turns.Len() == 0 {
		g.since = began
	}
	w := g.turns.Push(tenant)
	g.arm(patience)
	g.mu.Unlock()

	err := w.Wait(ctx, deadline)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waited += time.Since(began)
	if err != nil {
		g.refused++
		if !g.turns.Remove(w) { // it was let through while it gave up
			g.back(pass(w.Note))
		}
	}
	return pass(w.Note), err
}

// open counts one more in, if one may pass at once.
func (g *gate) open() (pass, bool) {
	held := g.lent + g.dialing
	switch {
	case held >= g.limit():
		return 0, false
	case g.conns > g.lent:
		g.lent++
		return passIdle, true
	case held == 0:
		g.dialing++
		return passRequired, true
	case held < g.soft && g.room():
		g.dialing++
		return passOptional, true
	}
	return 0, false
}

func (g *gate) grant() {
	for g.turns.Len() > 0 {
		p, ok := g.open()
		if !ok {
			return
		}
		g.turns.GrantWith(int(p))
	}
}

// visit is somebody who was let through a gate. The gate's lock guards it.
type visit struct {
	pass pass
	over bool
}

// has says that a visitor has a connection.
func (g *gate) has(v *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.settle(v)
}

// settle counts one that is made for somebody as lent to it.
func (g *gate) settle(v *visit) {
	if v.pass != passIdle {
		g.dialing--
		g.lent++
		v.pass = passIdle
	}
}

// made counts a connection that was made for a visitor. It is idle if that one has left.
func (g *gate) made(v *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns++
	g.since = time.Now() // who waits may have it in a moment
	if v.over {
		g.grant()
		return
	}
	g.settle(v)
}

// closed counts a connection less.
func (g *gate) closed() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.conns--
	g.grant()
}

// leave says that a connection came back.
func (g *gate) leave() { g.turnBack(&visit{}) }

// turnBack says that a visitor got no connection.
func (g *gate) turnBack(v *visit) {
	g.mu.Lock()
	defer g.mu.Unlock()
	v.over = true
	g.back(v.pass)
}

func (g *gate) back(p pass) {
	if p == passIdle {
		g.lent--
	} else {
		g.dialing--
	}
	g.grant()
}

func (g *gate) arm(after time.Duration) {
	if !g.armed {
		g.armed = true
		time.AfterFunc(after, g.grow)
	}
}

// grow has one more made, if somebody has always been waiting for a while.
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
	p := passOptional
	held := g.lent + g.dialing
	if held < g.soft && g.dialing == 0 {
		p = passRequired
	}
	if held < g.limit() && (p == passRequired || g.room()) && g.turns.GrantWith(int(p)) {
		g.dialing++
	}
	g.since = time.Now()
	g.arm(patience)
}

// surplus is how many connections are idle, and whether there are more than the soft share.
func (g *gate) surplus() (idle int, beyond bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.conns - g.lent, g.conns > g.soft
}

// unmet is how many connections more the database could use of those that it may have.
func (g *gate) unmet(most int) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, min(g.turns.Len(), most-g.conns-g.dialing))
}

// moment is what Stat tells of a gate.
func (g *gate) moment() (idle, waiting int, refused int64, waited time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(g.conns-g.lent, 0), g.turns.Len(), g.refused, g.waited
}
