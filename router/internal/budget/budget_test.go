package budget

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen is a server that answers nothing and lets go of a connection when its client does, or when release is closed.
func listen(t *testing.T, release <-chan struct{}) (address string, dialed *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dialed = new(atomic.Int64)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			dialed.Add(1)
			wg.Go(func() {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
				if release != nil {
					<-release
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String(), dialed
}

func ticket(wait time.Duration) context.Context {
	return WithTicket(context.Background(), &Ticket{Deadline: time.Now().Add(wait)})
}

func mustDial(t *testing.T, b *Budget, address string) net.Conn {
	t.Helper()
	tk := &Ticket{Deadline: time.Now().Add(10 * time.Second)}
	c, err := b.Dial(WithTicket(context.Background(), tk), "tcp", address)
	if err != nil {
		t.Fatalf("Dial: %v", err)
	}
	tk.Connected()
	return c
}

func TestBudget_Dial(t *testing.T) {
	t.Run("a full budget refuses after the ticket's deadline, and a request to cancel passes free", func(t *testing.T) {
		address, _ := listen(t, nil)
		b := New(Config{Share: 1})
		held := mustDial(t, b, address)
		defer held.Close()
		if _, err := b.Dial(ticket(time.Millisecond), "tcp", address); !errors.Is(err, ErrFull) {
			t.Errorf("Dial over the share = %v, want ErrFull", err)
		}
		free, err := b.Dial(context.Background(), "tcp", address)
		if err != nil {
			t.Fatalf("Dial without a ticket = %v", err)
		}
		free.Close()
		if s := b.Stat(); s.Open != 1 || s.Refused != 1 || s.Waiting != 0 {
			t.Errorf("stat = %+v", s)
		}
	})
	t.Run("a permit comes back once, however often its connection is closed", func(t *testing.T) {
		address, _ := listen(t, nil)
		b := New(Config{Share: 2})
		c := mustDial(t, b, address)
		c.Close()
		c.Close()
		if s := b.Stat(); s.Open != 0 {
			t.Errorf("%d open, want 0", s.Open)
		}
	})
	t.Run("a failed dial gives its permit back", func(t *testing.T) {
		b := New(Config{Share: 1, Dialer: func(context.Context, string, string) (net.Conn, error) { return nil, io.EOF }})
		if _, err := b.Dial(ticket(time.Second), "tcp", "x"); !errors.Is(err, io.EOF) {
			t.Fatalf("Dial = %v", err)
		}
		if s := b.Stat(); s.Open != 0 || s.DialErrors != 1 {
			t.Errorf("stat = %+v", s)
		}
	})
	t.Run("a closed connection counts until the server has let go", func(t *testing.T) {
		release := make(chan struct{})
		address, _ := listen(t, release)
		b := New(Config{Share: 1})
		c := mustDial(t, b, address)
		closed := make(chan struct{})
		go func() { defer close(closed); c.Close() }()
		if _, err := b.Dial(ticket(20*time.Millisecond), "tcp", address); !errors.Is(err, ErrFull) {
			t.Errorf("Dial = %v while the server holds on, want ErrFull", err)
		}
		close(release)
		<-closed
		mustDial(t, b, address).Close()
	})
	t.Run("a silent server is left after the time to connect, but not once connected", func(t *testing.T) {
		address, _ := listen(t, nil)
		b := New(Config{Share: 2, ConnectTimeout: 30 * time.Millisecond})
		silent, err := b.Dial(ticket(10*time.Second), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		tk := &Ticket{Deadline: time.Now().Add(time.Second)}
		made, err := b.Dial(WithTicket(context.Background(), tk), "tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		tk.Connected()
		var timeout net.Error
		if _, err := silent.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("Read = %v, want a timeout", err)
		}
		if _, err := made.Write([]byte("x")); err != nil {
			t.Errorf("Write on the connected one = %v", err)
		}
		silent.Close()
		made.Close()
	})
}

func TestBudget_waiters_are_served_in_order_and_a_cancelled_one_passes_its_permit_on(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Share: 1, Dialer: func(context.Context, string, string) (net.Conn, error) {
			c, _ := net.Pipe()
			return c, nil
		}})
		held, err := b.Dial(ticket(time.Hour), "", "")
		if err != nil {
			t.Fatal(err)
		}
		var order []int
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 5 {
			ctx, cancel := context.WithCancel(ticket(time.Hour))
			if i == 2 {
				time.AfterFunc(time.Minute, cancel)
			}
			wg.Go(func() {
				defer cancel()
				c, err := b.Dial(ctx, "", "")
				if i == 2 {
					if !errors.Is(err, ErrFull) {
						t.Errorf("cancelled waiter: %v", err)
					}
					return
				}
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				c.Close()
			})
			synctest.Wait() // it stands in the queue
		}
		time.Sleep(2 * time.Minute)
		held.Close()
		wg.Wait()
		want := []int{0, 1, 3, 4}
		if len(order) != len(want) {
			t.Fatalf("served %v", order)
		}
		for i := range want {
			if order[i] != want[i] {
				t.Fatalf("served %v, want %v", order, want)
			}
		}
		if s := b.Stat(); s.Open != 0 || s.Waiting != 0 {
			t.Errorf("stat = %+v", s)
		}
	})
}

func TestBudget_reclaims_for_those_who_wait_and_no_more(t *testing.T) {
	address, _ := listen(t, nil)
	idle := make(chan net.Conn, 10)
	var reclaimed atomic.Int64
	b := New(Config{Share: 4, Reclaim: func() bool {
		select {
		case c := <-idle:
			reclaimed.Add(1)
			go c.Close()
			return true
		default:
			return false
		}
	}})
	for range 4 {
		idle <- mustDial(t, b, address)
	}
	var wg sync.WaitGroup
	held := make(chan net.Conn, 2)
	for range 2 {
		wg.Go(func() { held <- mustDial(t, b, address) })
	}
	wg.Wait()
	if n := reclaimed.Load(); n != 2 {
		t.Errorf("reclaimed %d, want one for each who waited", n)
	}
	b.SetShare(3) // shrinks: one more idle one goes
	for b.Stat().Open > 3 {
		time.Sleep(time.Millisecond)
	}
	if n := reclaimed.Load(); n != 3 {
		t.Errorf("reclaimed %d after the share shrank by one, want 3", n)
	}
	(<-held).Close()
	(<-held).Close()
	(<-idle).Close()
}

func TestBudget_nudge_serves_who_waits(t *testing.T) {
	address, _ := listen(t, nil)
	idle := make(chan net.Conn, 1)
	b := New(Config{Share: 1, Reclaim: func() bool {
		select {
		case c := <-idle:
			go c.Close()
			return true
		default:
			return false
		}
	}})
	busy := mustDial(t, b, address)
	got := make(chan net.Conn)
	go func() { got <- mustDial(t, b, address) }()
	for b.Stat().Waiting == 0 {
		time.Sleep(time.Millisecond)
	}
	idle <- busy // its user is done with it
	b.Nudge()
	(<-got).Close()
}

// A connection may have closed before the one who reclaimed it says so. Then nothing is closing any more, and the next who
// waits has another one reclaimed.
func TestBudget_reclaims_what_closes_at_once(t *testing.T) {
	address, _ := listen(t, nil)
	idle := make(chan net.Conn, 1)
	b := New(Config{Share: 1, Reclaim: func() bool {
		select {
		case c := <-idle:
			_ = c.Close()
			return true
		default:
			return false
		}
	}})
	conn := mustDial(t, b, address)
	for range 3 {
		idle <- conn
		conn = mustDial(t, b, address)
	}
	_ = conn.Close()
}

// counted is a connection that is counted from its dial to its close.
type counted struct {
	net.Conn
	open *atomic.Int64
}

func (c counted) Close() error {
	c.open.Add(-1)
	return c.Conn.Close()
}

func TestBudget_never_exceeds_its_share(t *testing.T) {
	const share = 3
	var open, most atomic.Int64
	b := New(Config{Share: share, Dialer: func(context.Context, string, string) (net.Conn, error) {
		n := open.Add(1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		c, _ := net.Pipe()
		return counted{c, &open}, nil
	}})
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Go(func() {
			for j := range 50 {
				ctx, cancel := context.WithTimeout(ticket(5*time.Second), time.Duration((i+j)%5)*time.Millisecond)
				if c, err := b.Dial(ctx, "", ""); err == nil {
					time.Sleep(100 * time.Microsecond) // in use
					c.Close()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	if n := most.Load(); n > share || n < 2 {
		t.Errorf("%d open at once: want the share of %d used and never exceeded", n, share)
	}
	if s := b.Stat(); s.Open != 0 || s.Waiting != 0 || open.Load() != 0 {
		t.Errorf("stat = %+v, %d open: permits leaked", s, open.Load())
	}
}

func TestBudget_few_are_made_at_a_time(t *testing.T) {
	address, dialed := listen(t, nil)
	b := New(Config{Share: 10})
	var tickets []*Ticket
	var wg sync.WaitGroup
	conns := make(chan net.Conn, 4)
	for range 4 {
		tk := &Ticket{Deadline: time.Now().Add(10 * time.Second)}
		tickets = append(tickets, tk)
		wg.Go(func() {
			c, err := b.Dial(WithTicket(context.Background(), tk), "tcp", address)
			if err != nil {
				t.Error(err)
			}
			conns <- c
		})
	}
	first, second := <-conns, <-conns
	for b.Stat().WaitingToDial < 2 {
		time.Sleep(time.Millisecond)
	}
	if st := b.Stat(); st.Dialing != fewDials || st.Open != 4 {
		t.Errorf("%+v while two are made", st)
	}
	first.Close() // one that failed makes way as one that was made
	second.Close()
	third, fourth := <-conns, <-conns
	wg.Wait()
	for _, tk := range tickets {
		tk.Connected()
	}
	third.Close()
	fourth.Close()
	for dialed.Load() < 4 { // the listener may be a moment behind
		time.Sleep(time.Millisecond)
	}
	if st := b.Stat(); st.Dialing != 0 || st.Open != 0 {
		t.Errorf("left %+v", st)
	}
}

func TestBudget_an_optional_dial_does_without(t *testing.T) {
	address, _ := listen(t, nil)
	b := New(Config{Share: 1})
	c := mustDial(t, b, address)
	if b.HasRoom() {
		t.Error("a full budget has no room")
	}
	began := time.Now()
	_, err := b.Dial(WithTicket(context.Background(), &Ticket{Deadline: began.Add(time.Minute), Optional: true}), "tcp", address)
	if !errors.Is(err, ErrFull) || time.Since(began) > 10*time.Second {
		t.Errorf("got %v", err)
	}
	c.Close()
	if !b.HasRoom() {
		t.Error("an empty one has")
	}
}

func TestBudget_a_refusal_of_the_server_makes_it_smaller_for_a_while(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := New(Config{Share: 2, Dialer: func(context.Context, string, string) (net.Conn, error) {
			c, _ := net.Pipe()
			return c, nil
		}})
		c, err := b.Dial(ticket(time.Hour), "", "")
		if err != nil {
			t.Fatal(err)
		}
		b.Penalize()
		b.Penalize() // never below one
		began := time.Now()
		d, err := b.Dial(ticket(time.Hour), "", "")
		if err != nil || time.Since(began) != penalty {
			t.Errorf("%v after %v, want %v", err, time.Since(began), penalty)
		}
		c.Close()
		d.Close()
	})
}

func TestBudget_more_are_made_at_a_time_over_a_distant_link(t *testing.T) {
	b := New(Config{Share: 10})
	for took, want := range map[time.Duration]int{time.Millisecond: 2, 40 * time.Millisecond: 6, time.Second: 16} {
		b.fastest = [2]time.Duration{}
		b.dialed(took)
		if n := b.dials.Stat().Limit; n != want {
			t.Errorf("%v a dial: %d at a time, want %d", took, n, want)
		}
	}
	b.Recovered()
	if n := b.dials.Stat().Limit; n != fewDials {
		t.Errorf("just back: %d at a time", n)
	}
}
