package migrations

import (
	"slices"
	"strings"
	"time"
)

// Ring is the part of a fleet that is migrated together, before the next ring is opened.
type Ring struct {
	Name string
	// Selectors say which databases belong to it, by any of them: "all", "kind=shared", "state=spare", "database=ID",
	// or a label: "canary", "region=north". A database belongs to the first ring that selects it.
	Selectors []string
	// Soak is how long the ring rests when it is through, before the next one is opened.
	Soak time.Duration
	// Manual rings are followed by the next one only when an operator says so.
	Manual bool
	// MaxFailures is how many failed databases pause the rollout.
	//
	// Zero means 5.
	MaxFailures int
	// MaxFailurePct pauses too, when more than so many in a hundred have failed, of ten or more.
	//
	// Zero means no such bound.
	MaxFailurePct int
	// Slots is how many databases of one server are migrated at a time.
	//
	// Zero means as many as the server allows.
	Slots int
}

// DefaultRings are what a rollout goes through when nothing else was said: what serves nobody, the canaries, the databases
// of one tenant, and last the shared ones, where a failure reaches many.
func DefaultRings() []Ring {
	return []Ring{
		{Name: "spares", Selectors: []string{"state=template", "state=spare", "test"}},
		{Name: "canary", Selectors: []string{"canary"}, Soak: 10 * time.Minute, MaxFailures: 1},
		{Name: "dedicated", Selectors: []string{"kind=dedicated"}, MaxFailurePct: 5},
		{Name: "shared", Selectors: []string{"kind=shared"}, MaxFailurePct: 5, Slots: 1},
	}
}

// Member is what a selector can ask of a database.
type Member struct {
	ID     string
	Kind   string
	State  string
	Labels map[string]string
}

// Selects says whether a database belongs to the ring.
func (r Ring) Selects(m Member) bool {
	return slices.ContainsFunc(r.Selectors, func(s string) bool { return selects(s, m) })
}

func selects(selector string, m Member) bool {
	key, want, valued := strings.Cut(selector, "=")
	switch {
	case selector == "all":
		return true
	case valued && key == "kind":
		return m.Kind == want
	case valued && key == "state":
		return m.State == want
	case valued && key == "database":
		return m.ID == want
	}
	value, there := m.Labels[key]
	return there && (!valued || value == want)
}

// RingState is what became of a ring's databases so far.
type RingState struct {
	Total, Done, Failed, Skipped int
	// Forgiven failures do not count.
	Forgiven int
	// Closed says that nothing was left of it when it was looked at last, Since how long ago that was.
	Closed bool
	Since  time.Duration
	// Passed says that an operator opened the way to the next ring.
	Passed bool
}

func (s RingState) left() int { return s.Total - s.Done - s.Failed - s.Skipped }

// Exceeded says that too many of a ring's databases have failed.
func (r Ring) Exceeded(s RingState) bool {
	limit := r.MaxFailures
	if limit == 0 {
		limit = 5
	}
	failed := s.Failed - s.Forgiven
	if failed >= limit {
		return true
	}
	finished := s.Done + s.Failed
	return r.MaxFailurePct > 0 && finished >= 10 && failed*100 > r.MaxFailurePct*finished
}

// Step is what comes next in a rollout.
type Step int

// What Next can say.
const (
	Migrate     Step = iota // begin databases of the open ring
	Stop                    // too many have failed: begin none
	Close                   // nothing is left of the open ring: record it, then ask again
	Rest                    // the ring soaks
	Ask                     // an operator opens the next ring
	OpenNext                // open the next ring
	LookForLate             // the last ring is through: select again, for databases made meanwhile
)

// Next says what comes next when a ring is open, and for Rest how long it takes. Last is whether no ring follows, bounded
// whether an operator allowed no further one.
func (r Ring) Next(s RingState, last, bounded bool) (Step, time.Duration) {
	switch {
	case r.Exceeded(s):
		return Stop, 0
	case s.left() > 0:
		return Migrate, 0
	case !s.Closed:
		return Close, 0
	case last:
		return LookForLate, 0
	case s.Total > 0 && s.Since < r.Soak && !s.Passed:
		return Rest, r.Soak - s.Since
	case (bounded || r.Manual && s.Total > 0) && !s.Passed:
		return Ask, 0
	}
	return OpenNext, 0
}

// Proven is the same Migrator for databases that look as another one did, in which these files passed the checks of what
// they leave behind: they are not made again, for they can only come to the same. They cost more than most files do.
func (m *Migrator) Proven() *Migrator {
	p := &Migrator{cfg: m.cfg, stages: slices.Clone(m.stages)}
	if own := &p.stages[len(p.stages)-1]; own.check != "" {
		own.check, own.checkLast = "select true", ""
	}
	return p
}
