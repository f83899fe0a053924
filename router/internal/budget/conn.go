package budget

import (
	"context"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// linger is how long a closing connection waits for the server to let go of it: until then it counts there.
const linger = time.Second

// Ticket says that a dial needs a permit. One ticket serves one connection, however many hosts are tried for it.
type Ticket struct {
	// Deadline is how long to wait for the permit. Dials do not see their caller's own deadline.
	Deadline time.Time

	// Key is whose turn it is: those who wait under different keys have theirs one after the other.
	Key any

	// Optional does without, when no permit is free.
	Optional bool

	conn *conn
}

type ticketKey struct{}

// WithTicket puts a ticket into a context, and into no other than the one that a connection is made under.
func WithTicket(ctx context.Context, t *Ticket) context.Context {
	return context.WithValue(ctx, ticketKey{}, t)
}

// TicketKey is the key under which a context of the caller's own making answers its *Ticket.
func TicketKey() any { return ticketKey{} }

func ticketOf(ctx context.Context) *Ticket {
	t, _ := ctx.Value(ticketKey{}).(*Ticket)
	return t
}

// Connected says that the connection is made: from here on it may be silent as long as it likes.
func (t *Ticket) Connected() {
	if t.conn != nil {
		t.conn.timer.Stop()
		t.conn.budget.dialed(time.Since(t.conn.began))
		t.conn.made()
	}
}

// conn is a connection that holds a permit.
type conn struct {
	net.Conn
	budget  *Budget
	began   time.Time
	slot    sync.Once // for those being made
	timer   *time.Timer
	expired atomic.Bool
	once    sync.Once
}

// made lets the next one be made.
func (c *conn) made() { c.slot.Do(c.budget.dials.Leave) }

// expire ends a connection that was not made in time, whatever its maker waits for.
func (c *conn) expire() {
	c.expired.Store(true)
	_ = c.Conn.Close()
}

// NetConn is the connection below.
func (c *conn) NetConn() net.Conn { return c.Conn }

// Read reads; after the time to connect ran out the error says so.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	return n, c.explain(err)
}

// Write writes; after the time to connect ran out the error says so.
func (c *conn) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	return n, c.explain(err)
}

func (c *conn) explain(err error) error {
	if err != nil && c.expired.Load() {
		return os.ErrDeadlineExceeded
	}
	return err
}

// Close closes, waits until the server has let go or a moment has passed, and gives the permit back.
func (c *conn) Close() error {
	var err error
	c.once.Do(func() {
		c.timer.Stop()
		c.made()
		overdue := !c.letGo()
		err = c.Conn.Close()
		c.budget.release(func(s *Stat) {
			s.Dials++
			if overdue {
				s.Lingered++
			}
		})
	})
	return err
}

func (c *conn) letGo() bool {
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		return !c.expired.Load()
	}
	_ = c.SetReadDeadline(time.Now().Add(linger))
	_, err := io.Copy(io.Discard, c.Conn)
	return err == nil
}
