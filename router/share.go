package router

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// member is this process among those that share the servers' connections.
type member struct {
	renewing sync.Mutex // one report at a time; guards the fields below and every server's told
	round    int64
	left     bool
	away     bool // the registry did not answer the last time

	renewed atomic.Int64 // when the last report was sent that was answered, in Unix nanoseconds; 0 is never
	joined  atomic.Bool
}

// notice is what the registry was last told of a server.
type notice struct {
	share     atomic.Int64 // or what it answered, if that is more
	demand    int
	reclaimed int64 // so many had been by then
}

// How often Run tells the registry that this process lives, and how soon again when somebody waits for the answer: we for
// connections, or others for those that we had.
const (
	renewal = 2 * time.Second
	hurry   = 400 * time.Millisecond
)

// silence is how long a process that is not heard of keeps its share: shorter than its lease, after which others have it.
const silence = catalog.Lease * 2 / 3

// ErrNotReady means that the router has no share of the servers' connections yet.
var ErrNotReady = errors.New("no share of the servers' connections yet")

// Ready says whether the router may be sent requests: with a Registry it has its part of every server's connections
// first, ErrNotReady until then. Once ready it stays so.
func (rt *Router) Ready() error {
	if rt.cfg.Registry == nil || rt.member.joined.Load() {
		return nil
	}
	return ErrNotReady
}

// Run reports this process to the registry and keeps to the share of each server's connections that it learns, until ctx
// ends. Without a registry it need not run: the whole budget is this process's.
func (rt *Router) Run(ctx context.Context) error {
	var recording sync.WaitGroup
	recording.Go(func() { rt.record(ctx) })
	defer recording.Wait()
	if rt.cfg.Registry == nil {
		<-ctx.Done()
		return nil
	}
	tick := time.NewTicker(hurry / 2)
	defer tick.Stop()
	var tried time.Time
	for {
		rt.shrinkIfSilent(time.Now())
		if since := time.Since(tried); since >= renewal || since >= hurry && rt.hurries() {
			tried = time.Now()
			_ = rt.renew(ctx) // which logs, and the next one may do
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// all are the servers that are known here.
func (rt *Router) all() []*server {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return slices.Collect(maps.Values(rt.servers))
}

// shrinkIfSilent keeps to the floor of every share when the registry could not be asked for too long: others may have the
// rest soon.
func (rt *Router) shrinkIfSilent(now time.Time) {
	if at := rt.member.renewed.Load(); at == 0 || now.Sub(time.Unix(0, at)) < silence {
		return
	}
	for _, s := range rt.all() {
		if floor := s.floor.Load(); s.share.Load() > floor {
			s.setShare(int(floor))
			rt.log.Warn("share of connections is smaller until it is renewed", "server", s.id, "share", floor)
		}
	}
}

// hurries says that somebody waits for the next report: we have no share yet, or somebody waits for a connection though the
// share is used up, or others wait for what we have given up by now, or a tenant is moved as soon as all know that.
func (rt *Router) hurries() bool {
	if !rt.member.joined.Load() || rt.isMoving() {
		return true
	}
	for _, s := range rt.all() {
		b, share := s.budget.Stat(), s.share.Load()
		if b.Open >= b.Share && (b.Waiting > 0 || s.unmet() > 0) || s.told.share.Load() > share && int64(b.Open) <= share {
			return true
		}
	}
	return false
}

// unmet is how many connections more its databases could use than they have.
func (s *server) unmet() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.pools {
		n += p.gate.unmet(s.router.cfg.MaxConnsPerDatabase)
	}
	return n
}

// renew reports, and takes over what is granted.
func (rt *Router) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewal*2)
	defer cancel()
	m := &rt.member
	m.renewing.Lock()
	defer m.renewing.Unlock()
	if m.left {
		return nil
	}
	now := time.Now()
	grant, err := rt.cfg.Registry.Renew(ctx, rt.report())
	if away := err != nil; away != m.away {
		m.away = away
		rt.log.WarnContext(ctx, "registry of shares stopped or began to answer", "answers", !away, "err", err)
	}
	if err != nil {
		return err
	}
	m.renewed.Store(now.UnixNano())
	whole := true
	for id, share := range grant.Connections {
		s, floor := rt.server(id), grant.Floors[id]
		whole = whole && share >= floor
		s.floor.Store(int64(min(share, floor)))
		s.told.share.Store(max(s.told.share.Load(), int64(share)))
		s.setShare(share)
	}
	if whole {
		m.joined.Store(true)
	}
	return nil
}

// report is what this process says of itself.
func (rt *Router) report() catalog.Report {
	rt.member.round++
	r := rt.cfg.Instance
	r.Round, r.Servers = rt.member.round, map[catalog.ServerID]catalog.Use{}
	if d, ok := rt.dir.(interface{ Revision() int64 }); ok {
		r.Revision = d.Revision()
	}
	for _, s := range rt.all() {
		r.Servers[s.id] = s.use()
	}
	return r
}

// use is what we have of a server, and could use: what is open was used within the idle timeout. What had to be closed for
// another database would be used as well. Demand falls slowly, so that a pause takes nobody's connections away.
func (s *server) use() catalog.Use {
	share := int(s.share.Load())
	b := s.budget.Stat()
	now := b.Open + max(b.Waiting, s.unmet()) + int(b.Reclaimed-s.told.reclaimed)
	s.told.demand, s.told.reclaimed = max(now, s.told.demand*9/10), b.Reclaimed
	s.told.share.Store(int64(max(share, b.Open)))
	return catalog.Use{Share: share, Open: b.Open, Floor: int(s.floor.Load()), Demand: s.told.demand}
}

// stay goes on reporting while connections are closed, whether or not Run does, until it is stopped.
func (rt *Router) stay(ctx context.Context) (stop func()) {
	if rt.member.renewed.Load() == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var staying sync.WaitGroup
	staying.Go(func() {
		tick := time.NewTicker(renewal)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				_ = rt.renew(ctx)
			}
		}
	})
	return func() { cancel(); staying.Wait() }
}

// leave gives every share back, once nothing is open any more. What is not closed keeps it until the lease ends.
func (rt *Router) leave(ctx context.Context) {
	m := &rt.member
	m.renewing.Lock()
	defer m.renewing.Unlock()
	if m.round == 0 || m.left {
		return
	}
	m.left = true
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for _, s := range rt.all() {
		if s.budget.Empty(ctx) != nil {
			rt.log.Warn("connections were left open: their share is free when the lease ends", "server", s.id)
			return
		}
	}
	report := rt.cfg.Instance
	report.Leaving = true
	if _, err := rt.cfg.Registry.Renew(ctx, report); err != nil {
		rt.log.Warn("registry not told that this process leaves", "err", err)
	}
}
