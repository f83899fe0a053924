// Package budget keeps the connections open to each server within this process's share.
//
//	ctx = budget.WithTicket(ctx, &budget.Ticket{Deadline: arrival.Add(5 * time.Second)})
//	conn, err := b.Dial(ctx, "tcp", "10.0.0.7:5432") // waits for a permit
//	conn.Close()                                     // gives it back
//
// A permit is taken where a connection is dialled and given back where it is closed, because every way a connection can
// end passes there. A dial without a ticket passes free: it is a request to cancel, which must get through exactly when
// the server is full.
package budget

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"
)

// ErrFull means that no permit came free in time.
var ErrFull = errors.New("connections to the server are used up")

// Config is what a budget is made of.
type Config struct {
	// Share is how many connections may be open. Zero: none, until SetShare says so.
	Share int

	// ConnectTimeout bounds a connection's making, from its permit to Ticket.Connected. The time it waits for a permit is
	// not counted.
	//
	// Zero means 3 s.
	ConnectTimeout time.Duration

	// Reclaim asks for one idle connection to be closed, and says whether there was one. It is called in a goroutine of
	// its own, one call at a time, when somebody waits for a permit or the share has shrunk.
	//
	// Nil: nothing can be reclaimed.
	Reclaim func() bool

	// Dialer dials. Its timeout is not used.
	//
	// Nil: a net.Dialer with keepalive.
	Dialer func(ctx context.Context, network, address string) (net.Conn, error)
}

// Budget counts the connections open to one server. It is safe for concurrent use.
type Budget struct {
	cfg Config

	mu         sync.Mutex // guards the fields below
	share      int
	penalties  int // permits that the server itself refused lately
	open       int
	waiting    Turns[any]    // by the tickets' keys
	closing    int           // reclaimed, and not yet closed
	reclaiming bool          // reclaimAll runs
	asked      bool          // it is worth asking for another one
	empty      chan struct{} // closed when nothing is open; nil when nobody waits for that
	stat       Stat
	fastest    [2]time.Duration // dial of this half minute and the one before; 0 is none
	half       time.Time        // when this half minute began
	cautious   time.Time        // until when the server is only just back

	dials Slots[struct{}] // those being made; has a mutex of its own
}

// Stat is a moment of a budget.
type Stat struct {
	Share, Open, Waiting int
	// Dialing are being made, and WaitingToDial have a permit and wait for others to be made.
	Dialing, WaitingToDial int
	Dials, DialErrors      int64
	// DialTime is how long it took to make those that were made, all together.
	DialTime time.Duration
	// Refused dials found no permit in time.
	Refused   int64
	Reclaimed int64
	Lingered  int64 // closes after which the server did not let go in time
	// WaitedFor is how long dials have waited for permits, all together.
	WaitedFor time.Duration
}

// New makes a budget with nothing open.
func New(cfg Config) *Budget {
	if cfg.ConnectTimeout == 0 {
		cfg.ConnectTimeout = 3 * time.Second
	}
	if cfg.Dialer == nil {
		cfg.Dialer = dial
	}
	b := &Budget{cfg: cfg, share: max(cfg.Share, 0)}
	b.dials.SetLimit(fewDials)
	return b
}

// A server makes about so many connections a second, however many are asked for at once. What is dialled beyond that only
// waits; over a distant link a few more can be under way.
const (
	dialsPerSecond     = 150
	fewDials, manyDial = 2, 16
)

// caution is how long a server that was away is asked for few connections at once.
const caution = 5 * time.Second

// Recovered says that the server has been away: for a moment only a few connections are made at once.
func (b *Budget) Recovered() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.cautious = time.Now().Add(caution)
	b.dials.SetLimit(fewDials)
}

// dialed notes how long a connection took to make. The fastest of the last minute tells how far away the server is; a mean
// would grow with the queue and feed on itself.
func (b *Budget) dialed(took time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	b.stat.DialTime += took
	if now.Sub(b.half) > 30*time.Second {
		b.fastest[1], b.fastest[0], b.half = b.fastest[0], 0, now
	}
	if b.fastest[0] == 0 || took < b.fastest[0] {
		b.fastest[0] = took
	}
	fastest := b.fastest[0]
	if b.fastest[1] > 0 {
		fastest = min(fastest, b.fastest[1])
	}
	n := int(dialsPerSecond * fastest.Seconds())
	if now.Before(b.cautious) {
		n = fewDials
	}
	b.dials.SetLimit(min(max(n, fewDials), manyDial))
}

// penalty is how long a budget is smaller after the server said that it has no room.
const penalty = 10 * time.Second

// Penalize says that the server itself had no room for a connection that the budget allowed.
func (b *Budget) Penalize() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.penalties++
	b.reclaim()
	time.AfterFunc(penalty, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.penalties--
		b.grant()
	})
}

// room is how many connections may be open now. No penalty takes the last one.
func (b *Budget) room() int { return max(b.share-b.penalties, min(b.share, 1)) }

// HasRoom says whether an optional dial would get its permit.
func (b *Budget) HasRoom() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.open < b.room() && b.waiting.Len() == 0
}

// userTimeout is how long a peer may leave what was sent to it unacknowledged.
const userTimeout = 10 * time.Second

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{Control: bound, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return d.DialContext(ctx, network, address)
}

// SetShare changes how many connections may be open. Told less, the budget grants nothing until it is within its share,
// and reclaims what is idle; nothing in use is closed.
func (b *Budget) SetShare(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.share = max(n, 0)
	b.grant()
	b.reclaim()
}

// Nudge says that a connection became idle, so that whoever waits for a permit may have it.
func (b *Budget) Nudge() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reclaim()
}

// Stat is the budget's moment.
func (b *Budget) Stat() Stat {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.stat
	s.Share, s.Open, s.Waiting = b.share, b.open, b.waiting.Len()
	d := b.dials.Stat()
	s.Dialing, s.WaitingToDial = d.Used, d.Waiting
	return s
}

// Empty waits until nothing is open, or ctx ends: its error.
func (b *Budget) Empty(ctx context.Context) error {
	b.mu.Lock()
	if b.open == 0 {
		b.mu.Unlock()
		return nil
	}
	if b.empty == nil {
		b.empty = make(chan struct{})
	}
	empty := b.empty
	b.mu.Unlock()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Dial opens a connection. With a ticket in ctx it needs a permit, for which it waits until the ticket's deadline or the end
// of ctx: then ErrFull. The databases that wait have their turns. An optional ticket does not wait. With its permit it waits,
// as long, for those that are being made: few at a time.
func (b *Budget) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	ticket := ticketOf(ctx)
	if ticket == nil {
		return b.cfg.Dialer(ctx, network, address)
	}
	if err := b.acquire(ctx, ticket); err != nil {
		return nil, err
	}
	if err := b.dials.Enter(ctx, struct{}{}, ticket.Deadline); err != nil {
		b.release(func(s *Stat) { s.Refused++ })
		return nil, ErrFull
	}
	began := time.Now()
	dctx, cancel := context.WithTimeout(ctx, b.cfg.ConnectTimeout)
	defer cancel()
	raw, err := b.cfg.Dialer(dctx, network, address)
	if err != nil {
		b.dials.Leave()
		b.release(func(s *Stat) { s.Dials++; s.DialErrors++ })
		return nil, err
	}
	c := &conn{Conn: raw, budget: b, began: began}
	c.timer = time.AfterFunc(b.cfg.ConnectTimeout, c.expire)
	ticket.conn = c
	return c, nil
}

func (b *Budget) acquire(ctx context.Context, t *Ticket) error {
	b.mu.Lock()
	if b.open < b.room() && b.waiting.Len() == 0 {
		b.open++
		b.mu.Unlock()
		return nil
	}
	if t.Optional {
		b.mu.Unlock()
		return ErrFull
	}
	w := b.waiting.Push(t.Key)
	b.reclaim()
	b.mu.Unlock()

	began := time.Now()
	err := w.Wait(ctx, t.Deadline)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stat.WaitedFor += time.Since(began)
	if err == nil {
		return nil
	}
	b.stat.Refused++
	if !b.waiting.Remove(w) { // it was granted while we gave up: the next one has it
		b.open--
		b.grant()
	}
	return ErrFull
}

func (b *Budget) release(count func(*Stat)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	count(&b.stat)
	b.open--
	if b.open == 0 && b.empty != nil {
		close(b.empty)
		b.empty = nil
	}
	b.closing = max(b.closing-1, 0)
	b.grant()
	b.reclaim()
}

// grant hands free permits to those who wait, by turns.
func (b *Budget) grant() {
	for b.open < b.room() && b.waiting.Grant() {
		b.open++
	}
}

// reclaim asks for idle connections while more are wanted than will come free.
func (b *Budget) reclaim() {
	switch {
	case b.cfg.Reclaim == nil:
	case b.reclaiming:
		b.asked = true // the one that it looks for now may not be found
	case b.wants():
		b.asked, b.reclaiming = true, true
		go b.reclaimAll()
	}
}

// wants says whether there are fewer permits than those who wait for one, or a negative number of them, even after what
// was reclaimed has closed.
func (b *Budget) wants() bool { return b.waiting.Len()+b.open-b.room() > b.closing }

func (b *Budget) reclaimAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.asked && b.wants() {
		b.asked = false
		b.closing++ // before it can have closed, which counts it off
		b.mu.Unlock()
		found := b.cfg.Reclaim()
		b.mu.Lock()
		if found {
			b.asked = true
			b.stat.Reclaimed++
		} else {
			b.closing = max(b.closing-1, 0)
		}
	}
	b.reclaiming = false
}
