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
	// Share is how many connections may be open, at least one.
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
	open       int
	waiting    []*waiter // in order of arrival
	closing    int       // reclaimed, and not yet closed
	reclaiming bool      // reclaimAll runs
	asked      bool      // it is worth asking for another one
	stat       Stat
}

// waiter waits for a permit. Granted is closed when it has one.
type waiter struct{ granted chan struct{} }

// Stat is a moment of a budget.
type Stat struct {
	Share, Open, Waiting int
	Dials, DialErrors    int64
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
	return &Budget{cfg: cfg, share: max(cfg.Share, 1)}
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}}
	return d.DialContext(ctx, network, address)
}

// SetShare changes how many connections may be open. Told less, the budget grants nothing until it is within its share,
// and reclaims what is idle; nothing in use is closed.
func (b *Budget) SetShare(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.share = max(n, 1)
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
	s.Share, s.Open, s.Waiting = b.share, b.open, len(b.waiting)
	return s
}

// Share is how many connections may be open.
func (b *Budget) Share() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.share
}

// Dial opens a connection. With a ticket in ctx it needs a permit, for which it waits in order of arrival until the
// ticket's deadline or the end of ctx: then ErrFull.
func (b *Budget) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	ticket := ticketOf(ctx)
	if ticket == nil {
		return b.cfg.Dialer(ctx, network, address)
	}
	if err := b.acquire(ctx, ticket.Deadline); err != nil {
		return nil, err
	}
	dctx, cancel := context.WithTimeout(ctx, b.cfg.ConnectTimeout)
	defer cancel()
	raw, err := b.cfg.Dialer(dctx, network, address)
	if err != nil {
		b.release(func(s *Stat) { s.Dials++; s.DialErrors++ })
		return nil, err
	}
	c := &conn{Conn: raw, budget: b}
	c.timer = time.AfterFunc(b.cfg.ConnectTimeout, c.expire)
	ticket.conn = c
	return c, nil
}

func (b *Budget) acquire(ctx context.Context, deadline time.Time) error {
	b.mu.Lock()
	if b.open < b.share && len(b.waiting) == 0 {
		b.open++
		b.mu.Unlock()
		return nil
	}
	w := &waiter{make(chan struct{})}
	b.waiting = append(b.waiting, w)
	b.reclaim()
	b.mu.Unlock()

	began := time.Now()
	if !deadline.IsZero() {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, deadline)
		defer cancel()
	}
	var over bool
	select {
	case <-w.granted:
	case <-ctx.Done():
		over = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stat.WaitedFor += time.Since(began)
	if !over {
		return nil
	}
	b.stat.Refused++
	if !b.leave(w) { // it was granted while we gave up: the next one has it
		b.open--
		b.grant()
	}
	return ErrFull
}

// leave takes a waiter out of the queue; false means that it was granted already.
func (b *Budget) leave(w *waiter) bool {
	for i, other := range b.waiting {
		if other == w {
			b.waiting = append(b.waiting[:i], b.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func (b *Budget) release(count func(*Stat)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	count(&b.stat)
	b.open--
	b.closing = max(b.closing-1, 0)
	b.grant()
	b.reclaim()
}

// grant hands free permits to those who wait, in order.
func (b *Budget) grant() {
	for b.open < b.share && len(b.waiting) > 0 {
		b.open++
		close(b.waiting[0].granted)
		b.waiting = b.waiting[1:]
	}
}

// reclaim asks for idle connections while more are wanted than will come free.
func (b *Budget) reclaim() {
	if b.cfg.Reclaim == nil || !b.wants() {
		return
	}
	b.asked = true
	if b.reclaiming {
		return
	}
	b.reclaiming = true
	go b.reclaimAll()
}

// wants says whether there are fewer permits than those who wait for one, or a negative number of them, even after what
// was reclaimed has closed.
func (b *Budget) wants() bool { return len(b.waiting)+b.open-b.share > b.closing }

func (b *Budget) reclaimAll() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.asked && b.wants() {
		b.asked = false
		b.mu.Unlock()
		found := b.cfg.Reclaim()
		b.mu.Lock()
		if found {
			b.asked = true
			b.closing++
			b.stat.Reclaimed++
		}
	}
	b.reclaiming = false
}
