package migrations

import "slices"

// Member is one database of a fleet.
type Member struct {
	Target
	// Server names the server that the database stands on.
	Server string
	// Shared databases hold many tenants.
	Shared bool
}

// FleetConfig says how a fleet is worked through.
type FleetConfig struct {
	// Workers is how many databases are migrated at the same time.
	//
	// Zero means 8.
	Workers int
	// PerServer is how many of them on one server. Of shared databases it is always one.
	//
	// Zero means 4.
	PerServer int
	// MaxFailures is after how many failed databases no further one is begun.
	//
	// Zero means 5.
	MaxFailures int
}

func (c FleetConfig) withDefaults() FleetConfig {
	if c.Workers == 0 {
		c.Workers = 8
	}
	if c.PerServer == 0 {
		c.PerServer = 4
	}
	if c.MaxFailures == 0 {
		c.MaxFailures = 5
	}
	return c
}

// Fleet says which database comes next. It does nothing itself: the caller migrates what Next gives and reports it with Done.
//
// Dedicated databases come first, and servers take turns. Shared databases wait until every dedicated one has ended, one at a time on
// each server: a failure there reaches many tenants. A Fleet belongs to one goroutine.
type Fleet struct {
	cfg     FleetConfig
	pending []Member
	running map[string]int // server -> databases
	begun   map[string]int // server -> databases ever begun: servers with fewer come first
	done    []Result
	failed  int

	dedicated int // dedicated databases that run or wait
}

// Step is Next's answer.
type Step int

// What Next can say.
const (
	Start Step = iota // migrate this database, then call Done
	Wait              // ask again after the next Done
	End               // nothing is left, or too much has failed
)

// NewFleet plans a fleet. The order of members with the same claim is kept.
func NewFleet(members []Member, cfg FleetConfig) *Fleet {
	f := &Fleet{cfg: cfg.withDefaults(), pending: slices.Clone(members), running: map[string]int{}, begun: map[string]int{}}
	for _, m := range members {
		if !m.Shared {
			f.dedicated++
		}
	}
	return f
}

// Next gives the database to migrate next, or says that none can be begun now.
func (f *Fleet) Next() (Member, Step) {
	if len(f.pending) == 0 || f.Stopped() {
		return Member{}, f.idle()
	}
	if f.active() >= f.cfg.Workers {
		return Member{}, Wait
	}
	best := -1
	for i, m := range f.pending {
		if f.mayStart(m) && (best < 0 || f.begun[m.Server] < f.begun[f.pending[best].Server]) {
			best = i
		}
	}
	if best < 0 {
		return Member{}, f.idle()
	}
	m := f.pending[best]
	f.pending = slices.Delete(f.pending, best, best+1)
	f.running[m.Server]++
	f.begun[m.Server]++
	return m, Start
}

// Done reports how a member ended; its Result's Err decides whether it has failed.
func (f *Fleet) Done(m Member, r Result) {
	f.running[m.Server]--
	if !m.Shared {
		f.dedicated--
	}
	f.done = append(f.done, r)
	if r.Err != nil {
		f.failed++
	}
}

// Stopped says that too many databases have failed. Those that run may end.
func (f *Fleet) Stopped() bool { return f.failed >= f.cfg.MaxFailures }

// Pending lists the members that were never begun.
func (f *Fleet) Pending() []Member { return slices.Clone(f.pending) }

// Results are those reported so far, in the order of their ends.
func (f *Fleet) Results() []Result { return slices.Clone(f.done) }

func (f *Fleet) mayStart(m Member) bool {
	if !m.Shared {
		return f.running[m.Server] < f.cfg.PerServer
	}
	return f.running[m.Server] == 0 && f.dedicated == 0
}

func (f *Fleet) active() int {
	n := 0
	for _, k := range f.running {
		n += k
	}
	return n
}

func (f *Fleet) idle() Step {
	if f.active() > 0 {
		return Wait
	}
	return End
}
