package router

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// ErrRateLimited means that a tenant has reached one of its limits. Others are not concerned.
var ErrRateLimited = errors.New("limit of the tenant is reached")

// queued is how many transactions of a tenant may wait for each one that may run.
const queued = 4

// accounts is what each tenant uses of this process. One mutex guards all of it: it is held for a few instructions.
type accounts struct {
	mu      sync.Mutex // guards the fields below and every account
	tenants map[catalog.TenantID]*account
	swept   int // how many there were when those that use nothing were last dropped
	refused int64
	waiting int
}

// account is one tenant's.
type account struct {
	all *accounts

	of       *catalog.Tenant // and the revision that the limits were read at
	revision int64
	limits   tenants.Limits

	shut atomic.Int64 // when the tenant's gate was last found shut, in Unix nanoseconds; 0: it was open since

	running int
	works   map[*tenants.Work]int // that have a place, and how many transactions each
	queue   []*waiter
	arrival time.Time // when the next request would be on time if all came evenly
}

// waiter waits for its turn; granted is closed when it has come.
type waiter struct {
	granted chan struct{}
	work    *tenants.Work
}

// place is what a transaction has of its tenant's concurrency. Those of one piece of work have it together: one that is
// begun within another never waits for the place that the other has.
type place struct {
	account *account
	work    *tenants.Work // nil: a place of its own
}

// sweepAbove is how many accounts are kept without asking whether they are used.
const sweepAbove = 1024

// account finds the account of a tenant, with the limits that hold now.
func (rt *Router) account(t *catalog.Tenant) (*account, tenants.Limits) {
	revision := int64(0)
	if d, ok := rt.dir.(interface{ Revision() int64 }); ok {
		revision = d.Revision()
	}
	as := &rt.accounts
	as.mu.Lock()
	defer as.mu.Unlock()
	a := as.tenants[t.ID]
	if a == nil {
		as.sweep()
		a = &account{all: as}
		as.tenants[t.ID] = a
	}
	if a.of != t || a.revision != revision {
		a.of, a.revision, a.limits = t, revision, rt.limits(t)
		a.grant()
	}
	return a, a.limits
}

// sweep drops the accounts that use nothing, once they have doubled since the last time.
func (as *accounts) sweep() {
	if len(as.tenants) < max(sweepAbove, 2*as.swept) {
		return
	}
	now := time.Now()
	for id, a := range as.tenants {
		if a.running == 0 && len(a.queue) == 0 && now.After(a.arrival) {
			delete(as.tenants, id)
		}
	}
	as.swept = len(as.tenants)
}

// tinyPool is a pool that is not worth halving.
const tinyPool = 4

// limits are a tenant's. In a shared database it never has more than half the pool.
func (rt *Router) limits(t *catalog.Tenant) tenants.Limits {
	l := tenants.ReadLimits(func(key string) json.RawMessage { return rt.setting(t, key) }, rt.cfg.Limits)
	half := rt.cfg.MaxConnsPerDatabase / 2
	if t.Placement == catalog.Shared && rt.cfg.MaxConnsPerDatabase >= tinyPool && (l.ConcurrentRequests == 0 || l.ConcurrentRequests > half) {
		l.ConcurrentRequests = half
	}
	return l
}

// setting is what the host decided under key for a tenant, or for everybody if the directory knows that; else nil.
func (rt *Router) setting(t *catalog.Tenant, key string) json.RawMessage {
	value, ok := t.Settings[key]
	if d, has := rt.dir.(interface {
		Setting(*catalog.Tenant, string) json.RawMessage
	}); !ok && has {
		value = d.Setting(t, key)
	}
	return value
}

// enter takes one of the tenant's places, for which it waits in order of arrival until the deadline. Whoever finds too many
// before it does not wait.
func (p place) enter(ctx context.Context, deadline time.Time) error {
	a := p.account
	as := a.all
	as.mu.Lock()
	limit := a.limits.ConcurrentRequests
	if limit == 0 || a.running < limit && len(a.queue) == 0 || a.works[p.work] > 0 {
		a.admit(p.work)
		as.mu.Unlock()
		return nil
	}
	if len(a.queue) >= queued*limit {
		as.refused++
		as.mu.Unlock()
		return &limited{concurrent: limit, wait: time.Second}
	}
	w := &waiter{make(chan struct{}), p.work}
	a.queue = append(a.queue, w)
	as.waiting++
	as.mu.Unlock()

	ended := wait(ctx, w, deadline)
	as.mu.Lock()
	defer as.mu.Unlock()
	as.waiting--
	if ended == nil {
		return nil
	}
	if !a.forget(w) { // its turn came while it gave up: the next one has it
		a.release(p.work)
	}
	if errors.Is(ended, errTooLate) {
		as.refused++
		return &limited{concurrent: limit, wait: time.Second}
	}
	return ended
}

// errTooLate is the end of the time that a transaction waits for its connection.
var errTooLate = errors.New("waited too long")

// wait waits until w is granted: nil; the deadline: errTooLate; or the end of ctx: its error.
func wait(ctx context.Context, w *waiter, deadline time.Time) error {
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-w.granted:
		return nil
	case <-timer.C:
		return errTooLate
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (a *account) forget(w *waiter) bool {
	for i, other := range a.queue {
		if other == w {
			a.queue = append(a.queue[:i], a.queue[i+1:]...)
			return true
		}
	}
	return false
}

// leave gives the place back, with the last transaction that has it.
func (p place) leave() {
	p.account.all.mu.Lock()
	defer p.account.all.mu.Unlock()
	p.account.release(p.work)
}

// admit counts a transaction: the first of a piece of work takes a place.
func (a *account) admit(w *tenants.Work) {
	if w == nil {
		a.running++
		return
	}
	if a.works == nil {
		a.works = map[*tenants.Work]int{}
	}
	if a.works[w]++; a.works[w] == 1 {
		a.running++
	}
}

func (a *account) release(w *tenants.Work) {
	if w != nil {
		if a.works[w]--; a.works[w] > 0 {
			return
		}
		delete(a.works, w)
	}
	a.running--
	a.grant()
}

func (a *account) grant() {
	limit := a.limits.ConcurrentRequests
	for len(a.queue) > 0 && (limit == 0 || a.running < limit || a.works[a.queue[0].work] > 0) {
		a.admit(a.queue[0].work)
		close(a.queue[0].granted)
		a.queue = a.queue[1:]
	}
}

// take counts a request against the tenant's rate and tells the client how much is left of it.
func (a *account) take(h http.Header, now time.Time) error {
	as := a.all
	as.mu.Lock()
	defer as.mu.Unlock()
	rate := a.limits.RequestsPerSecond
	if rate == 0 {
		return nil
	}
	each := time.Second / time.Duration(rate)
	if a.arrival.Before(now) {
		a.arrival = now
	}
	ahead := a.arrival.Sub(now)
	if ahead+each > time.Second {
		as.refused++
		return &limited{rate: rate, wait: ahead + each - time.Second}
	}
	a.arrival = a.arrival.Add(each)
	h.Set("RateLimit-Policy", ratePolicy(rate))
	h.Set("RateLimit", fmt.Sprintf(`"requests";r=%d;t=1`, int((time.Second-ahead-each)/each)))
	return nil
}

func ratePolicy(rate int) string { return `"requests";q=` + strconv.Itoa(rate) + `;w=1` }

// limited is an ErrRateLimited: which limit, and when it is worth asking again.
type limited struct {
	rate, concurrent int
	wait             time.Duration
}

func (e *limited) Error() string {
	if e.rate > 0 {
		return "The tenant's limit of " + strconv.Itoa(e.rate) + " requests a second is reached."
	}
	return "The tenant's limit of " + strconv.Itoa(e.concurrent) + " concurrent requests is reached."
}

func (e *limited) Unwrap() error             { return ErrRateLimited }
func (e *limited) Code() string              { return "rate_limited" }
func (e *limited) Status() int               { return http.StatusTooManyRequests }
func (e *limited) Outcome() string           { return notStarted }
func (e *limited) RetryAfter() time.Duration { return e.wait }

// RateLimit is what the headers RateLimit-Policy and RateLimit say.
func (e *limited) RateLimit() (policy, state string) {
	if e.rate > 0 {
		return ratePolicy(e.rate), `"requests";r=0;t=1`
	}
	return `"concurrent";q=` + strconv.Itoa(e.concurrent) + `;qu="concurrent-requests"`, `"concurrent";r=0;t=1`
}

// admit counts a request against its tenant's rate.
func (rt *Router) admit(w http.ResponseWriter, s tenants.Session) error {
	if s.Tenant() == nil {
		return nil
	}
	a, _ := rt.account(s.Tenant())
	return a.take(w.Header(), time.Now())
}
