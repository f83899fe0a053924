package router

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
)

// A tenant that moves has two databases for a while. Which of them takes its writes is decided by a row in each, the gate
// (rowhouse.gate), and not by what a router remembers. Every transaction that writes asks it, in the flight of its BEGIN; one that
// reads asks while its tenant moves, or when it is not known whether it does.

// stmtEnter asks the gate. It is prepared on a connection with its first use: a database that has no gate for anybody may
// not have the function either.
const (
	stmtEnter = "rowhouse_enter"
	enter     = "select rowhouse.enter_tenant($1, $2, $3)"
)

// doubtful is how old the view of the catalog may be for a read to trust it with the tenant's home. A move waits longer
// than that for a process that is not heard of.
const trusted = 10 * time.Second

// asks says whether a transaction of the tenant asks the gate.
func (rt *Router) asks(t *catalog.Tenant, readOnly bool) bool {
	if t.PlacementEpoch == 0 {
		return false
	}
	if !readOnly || t.Moving {
		return true
	}
	d, ok := rt.dir.(interface{ Age() time.Duration })
	return ok && d.Age() > trusted
}

// ask queues the question and says how many results it produces. It does not set the tenant: what a function sets never
// reaches the workers of Citus.
func (s *scope) ask(p *pgconn.Pipeline, t *tag) int {
	n := 1
	if t == nil || !t.asked {
		p.SendDeallocate(stmtEnter) // one that was prepared by a flight that failed later
		p.SendPrepare(stmtEnter, enter, nil)
		n += 2
	}
	writes := "t"
	if s.readOnly {
		writes = "f"
	}
	p.SendQueryPrepared(stmtEnter, [][]byte{[]byte(s.tenant.String()), strconv.AppendInt(nil, s.placement, 10), []byte(writes)}, nil, nil)
	return n
}

// isGateShut says that the gate did not admit a transaction: its tenant is elsewhere, or is being moved right now, or the
// transaction's snapshot is older than the gate.
func isGateShut(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == "RH001" || pg.Code == "40001")
}

// isNotAdmitted is isGateShut for an error of whoever sent the flight. An application may raise the same code, but not
// before anything of its own ran.
func isNotAdmitted(err error) bool {
	return (isGateShut(err) || errors.Is(err, ErrMoving)) && outcomeOf(err) == notStarted
}

// held is how long a transaction waits for its tenant to have a home again.
const held = 1500 * time.Millisecond

// A gate that was found shut is asked again by one transaction in a while, and not by all that wait before it: the server
// has a tenant to move.
const (
	probeEvery = 50 * time.Millisecond
	shutFor    = 10 * probeEvery // after which nobody seems to wait any more
)

var errShut = &refusal{kind: ErrMoving, cause: errors.New("its gate was found shut a moment ago")}

// tryAt tries to begin a transaction, if it is worth asking the gate.
func (s *scope) tryAt(try func(*scope) (*server, error)) (*server, error) {
	if !s.asks {
		return try(s)
	}
	if !s.place.account.mayAsk(time.Now()) {
		return nil, errShut
	}
	broken, err := try(s)
	switch {
	case err == nil:
		s.place.account.opened()
	case isNotAdmitted(err):
		s.place.account.shut.Store(time.Now().UnixNano())
	}
	return broken, err
}

// mayAsk says whether to ask the gate: it was not found shut lately, or it is this one's turn.
func (a *account) mayAsk(now time.Time) bool {
	last := a.shut.Load()
	switch age := now.UnixNano() - last; {
	case last == 0, age > int64(shutFor):
		return true
	case age < int64(probeEvery):
		return false
	}
	return a.shut.CompareAndSwap(last, now.UnixNano())
}

// opened says that the gate is not shut, or is another one now.
func (a *account) opened() {
	if a.shut.Load() != 0 {
		a.shut.Store(0)
	}
}

// closure is how long a transaction has been standing before a gate that is shut.
type closure struct{ until time.Time }

// readmit finds out where the tenant lives now. If that is known already, the transaction goes there at once; else it
// comes again when the catalog says something new about the tenant, or after a while: the move may have been given up.
func (rt *Router) readmit(ctx context.Context, opts pgx.TxOptions, old *scope, shut *closure, cause error) (*scope, error) {
	changed := rt.changed()
	s := old
	if shut.until.IsZero() {
		shut.until = time.Now().Add(rt.held)
		var err error
		if s, err = rt.look(ctx, opts, old, rt.held); err != nil {
			return nil, err
		}
	}
	if !s.differs(old) {
		left := time.Until(shut.until)
		if left <= 0 {
			return nil, &refusal{kind: ErrMoving, cause: fmt.Errorf("tenant %s: %w", old.tenant, bare(cause))}
		}
		timer := time.NewTimer(min(probeEvery, left))
		defer timer.Stop()
		for over := false; !over; {
			select {
			case <-changed:
			case <-timer.C:
				over = true
			case <-ctx.Done():
				return nil, &refusal{kind: ctx.Err(), cause: errors.New("waiting for the tenant to be moved")}
			}
			changed = rt.changed()
			var err error
			if s, err = rt.scope(ctx, opts); err != nil {
				return nil, err
			}
			over = over || s.differs(old) || !s.moving
		}
	}
	if s.differs(old) || !s.moving {
		s.place.account.opened()
	}
	s.asks = s.placement > 0 // the gate was shut a moment ago, whatever the catalog says
	return s, nil
}

// differs says that the tenant has another home than it had.
func (s *scope) differs(old *scope) bool {
	return s.database.ID != old.database.ID || s.placement != old.placement
}

// crowdPause is how long one waits who did not get in with the others.
const crowdPause = 10 * time.Millisecond

// crowded says whether to come again: all who stood before a gate go through it at once, and there are more of them than
// the tenant may have at a time.
func (shut *closure) crowded(ctx context.Context, err error) bool {
	return !shut.until.IsZero() && errors.Is(err, ErrRateLimited) && time.Until(shut.until.Add(held)) > 0 && pause(ctx, crowdPause+rand.N(2*crowdPause))
}

// look is scope by what the catalog says now, where the directory does not know yet that the tenant moves. A catalog that
// does not answer in time leaves what is known.
func (rt *Router) look(ctx context.Context, opts pgx.TxOptions, old *scope, limit time.Duration) (*scope, error) {
	if d, ok := rt.dir.(interface{ Refresh(context.Context) error }); ok && !old.moving {
		asking, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		if err := d.Refresh(asking); err != nil { // it may tell us later by itself
			rt.log.WarnContext(ctx, "placement cannot be looked up", "err", bare(err).Error())
		}
	}
	return rt.scope(ctx, opts)
}

// changed is closed with the directory's next change; nil where the directory does not tell.
func (rt *Router) changed() <-chan struct{} {
	if d, ok := rt.dir.(interface{ Changed() <-chan struct{} }); ok {
		return d.Changed()
	}
	return nil
}

// isMoving says that some tenant is about to change its database.
func (rt *Router) isMoving() bool {
	d, ok := rt.dir.(interface{ Moving() bool })
	return ok && d.Moving()
}
