package lease

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// value is a thing that knows whether it was closed.
type value struct {
	key    string
	closed atomic.Bool
}

// bench is a cache of values that records what became of them.
type bench struct {
	*Cache[string, *value]
	opens  atomic.Int64
	closes chan *value
}

func newBench(size int, open func(context.Context, string) error) *bench {
	b := &bench{closes: make(chan *value, 20_000)}
	b.Cache = New(Config[string, *value]{
		Size: size,
		Open: func(ctx context.Context, key string) (*value, error) {
			b.opens.Add(1)
			if open != nil {
				if err := open(ctx, key); err != nil {
					return nil, err
				}
			}
			return &value{key: key}, nil
		},
		Close: func(v *value) {
			if v.closed.Swap(true) {
				panic("closed twice")
			}
			b.closes <- v
		},
	})
	return b
}

func mustAcquire(t testing.TB, b *bench, key string) Lease[string, *value] {
	t.Helper()
	l, err := b.Acquire(context.Background(), key)
	if err != nil {
		t.Fatalf("Acquire(%q): %v", key, err)
	}
	return l
}

func closeNow(t testing.TB, b *bench) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := b.Close(ctx); err != nil {
		t.Fatalf("Close: %v", err)
	}
}

func TestCache_a_value_pushed_out_while_lent_is_closed_after_its_release(t *testing.T) {
	b := newBench(1, nil)
	defer closeNow(t, b)
	a := mustAcquire(t, b, "a")
	mustAcquire(t, b, "b").Release()
	if a.Value().closed.Load() {
		t.Fatal("a was closed while it was lent")
	}
	a.Release()
	if v := <-b.closes; v.key != "a" {
		t.Errorf("closed %q, want a", v.key)
	}
	if s := b.Stat(); s.Evictions != 1 || s.EvictionsLent != 1 {
		t.Errorf("stat = %+v: want one eviction, of a lent value", s)
	}
}

func TestCache_prefers_to_push_out_what_nobody_holds(t *testing.T) {
	b := newBench(2, nil)
	defer closeNow(t, b)
	a := mustAcquire(t, b, "a") // oldest, and lent
	mustAcquire(t, b, "b").Release()
	mustAcquire(t, b, "c").Release()
	if v := <-b.closes; v.key != "b" {
		t.Errorf("closed %q, want b", v.key)
	}
	a.Release()
	if mustRelease := mustAcquire(t, b, "a"); mustRelease.entry != a.entry {
		t.Error("a was opened again though it was lent all the time")
	} else {
		mustRelease.Release()
	}
}

func TestCache_opens_once_however_many_wait(t *testing.T) {
	gate := make(chan struct{})
	b := newBench(4, func(context.Context, string) error { <-gate; return nil })
	defer closeNow(t, b)
	var wg sync.WaitGroup
	leases := make(chan Lease[string, *value], 20)
	for range 20 {
		wg.Go(func() {
			l, err := b.Acquire(context.Background(), "a")
			if err != nil {
				t.Error(err)
				return
			}
			leases <- l
		})
	}
	for b.waiting("a") < 20 {
		time.Sleep(time.Millisecond) // no signal says that a goroutine waits
	}
	close(gate)
	wg.Wait()
	close(leases)
	for l := range leases {
		l.Release()
	}
	if n := b.opens.Load(); n != 1 {
		t.Errorf("opened %d times, want once", n)
	}
}

func (b *bench) waiting(key string) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.flights[key]; f != nil {
		return f.waiters
	}
	return 0
}

func TestCache_a_failed_open_is_not_remembered(t *testing.T) {
	broken := errors.New("broken")
	fail := atomic.Bool{}
	fail.Store(true)
	b := newBench(4, func(context.Context, string) error {
		if fail.Load() {
			return broken
		}
		return nil
	})
	defer closeNow(t, b)
	for range 2 {
		if _, err := b.Acquire(context.Background(), "a"); !errors.Is(err, broken) {
			t.Fatalf("Acquire = %v, want the error of open", err)
		}
	}
	if n := b.opens.Load(); n != 2 {
		t.Fatalf("opened %d times, want at each call: the first failure was remembered", n)
	}
	fail.Store(false)
	mustAcquire(t, b, "a").Release()
	if s := b.Stat(); s.OpenErrors != 2 || s.Kept != 1 {
		t.Errorf("stat = %+v", s)
	}
}

func TestCache_a_panic_while_opening_is_an_error(t *testing.T) {
	b := newBench(4, func(context.Context, string) error { panic("boom") })
	defer closeNow(t, b)
	if _, err := b.Acquire(context.Background(), "a"); err == nil || err.Error() != "opening panicked: boom" {
		t.Errorf("Acquire = %v", err)
	}
}

func TestCache_the_first_callers_impatience_fails_nobody_else(t *testing.T) {
	gate, began := make(chan struct{}), make(chan context.Context, 1)
	b := newBench(4, func(ctx context.Context, _ string) error { began <- ctx; <-gate; return ctx.Err() })
	defer closeNow(t, b)
	ctx, cancel := context.WithCancel(context.Background())
	first := make(chan error, 1)
	go func() { _, err := b.Acquire(ctx, "a"); first <- err }()
	<-began
	second := make(chan error, 1)
	go func() {
		l, err := b.Acquire(context.Background(), "a")
		if err == nil {
			l.Release()
		}
		second <- err
	}()
	for b.waiting("a") < 2 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v, want its own context's error", err)
	}
	close(gate)
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
}

func TestCache_forget_opens_anew_and_cuts_nobody_off(t *testing.T) {
	b := newBench(4, nil)
	defer closeNow(t, b)
	old := mustAcquire(t, b, "a")
	b.Forget("a")
	b.Forget("a")
	fresh := mustAcquire(t, b, "a")
	if fresh.entry == old.entry {
		t.Error("the forgotten value was lent again")
	}
	if old.Value().closed.Load() {
		t.Error("the forgotten value was closed while it was lent")
	}
	old.Release()
	if v := <-b.closes; v != old.Value() {
		t.Error("another value was closed")
	}
	fresh.Release()
}

func TestCache_forget_while_opening(t *testing.T) {
	gates, began := make(chan chan struct{}, 2), make(chan struct{}, 2)
	one, two := make(chan struct{}), make(chan struct{})
	gates <- one
	gates <- two
	b := newBench(4, func(context.Context, string) error { g := <-gates; began <- struct{}{}; <-g; return nil })
	defer closeNow(t, b)
	leases := make(chan Lease[string, *value], 2)
	go func() { leases <- mustAcquire(t, b, "a") }()
	<-began
	b.Forget("a")
	go func() { leases <- mustAcquire(t, b, "a") }()
	<-began // the second one does not wait for the forgotten one
	close(two)
	fresh := <-leases
	close(one)
	stale := <-leases
	stale.Release()
	if v := <-b.closes; v != stale.Value() {
		t.Error("the forgotten value must not be kept")
	}
	again := mustAcquire(t, b, "a")
	if again.entry != fresh.entry {
		t.Error("the fresh value must be kept")
	}
	again.Release()
	fresh.Release()
}

func TestCache_close_waits_for_what_is_lent(t *testing.T) {
	b := newBench(4, nil)
	l := mustAcquire(t, b, "a")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.Close(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("Close = %v, want to give up with its context while a is lent", err)
	}
	if _, err := b.Acquire(context.Background(), "b"); !errors.Is(err, ErrClosed) {
		t.Errorf("Acquire after Close = %v, want ErrClosed", err)
	}
	if l.Value().closed.Load() {
		t.Error("a was closed while it was lent")
	}
	l.Release()
	closeNow(t, b)
	if !l.Value().closed.Load() {
		t.Error("Close returned before a was closed")
	}
}

func TestCache_retire_is_told_while_somebody_still_holds_the_value(t *testing.T) {
	told := make(chan *value, 1)
	c := New(Config[string, *value]{
		Size: 1, Open: func(_ context.Context, key string) (*value, error) { return &value{key: key}, nil },
		Retire: func(v *value) { told <- v },
		Close:  func(v *value) { v.closed.Store(true) },
	})
	l, _ := c.Acquire(context.Background(), "a")
	c.Forget("a")
	if v := <-told; v.closed.Load() {
		t.Error("told after closing")
	}
	l.Release()
	if err := c.Close(context.Background()); err != nil || !l.Value().closed.Load() {
		t.Error("the value must be closed in the end", err)
	}
}

func TestCache_a_visit_leaves_no_trace(t *testing.T) {
	t.Parallel()
	b := newBench(2, nil)
	mustAcquire(t, b, "a").Release()
	mustAcquire(t, b, "b").Release()
	visit := func(key string) {
		t.Helper()
		l, err := b.Visit(t.Context(), key)
		if err != nil {
			t.Fatal(err)
		}
		l.Release()
	}
	visit("a") // which does not become younger than b
	visit("c") // which is not kept
	if v := <-b.closes; v.key != "c" {
		t.Errorf("%s was closed, want c", v.key)
	}
	mustAcquire(t, b, "d").Release()
	if v := <-b.closes; v.key != "a" {
		t.Errorf("%s was pushed out, want a", v.key)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// Who comes to stay while a visitor opens the value keeps it.
func TestCache_a_guest_joins_a_visit(t *testing.T) {
	t.Parallel()
	opening, open := make(chan struct{}), make(chan struct{})
	b := newBench(2, func(context.Context, string) error { close(opening); <-open; return nil })
	leases := make(chan Lease[string, *value], 2)
	go func() { l, _ := b.Visit(context.Background(), "a"); leases <- l }()
	<-opening
	go func() { l, _ := b.Acquire(context.Background(), "a"); leases <- l }()
	for waiting := 0; waiting < 2; {
		b.mu.Lock()
		waiting = b.flights["a"].waiters
		b.mu.Unlock()
	}
	close(open)
	(<-leases).Release()
	(<-leases).Release()
	if st := b.Stat(); st.Kept != 1 || st.Opens != 1 || st.Draining != 0 {
		t.Errorf("%+v", st)
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestLease_released_twice_panics(t *testing.T) {
	b := newBench(1, nil)
	l := mustAcquire(t, b, "a")
	b.Forget("a")
	l.Release()
	closeNow(t, b)
	defer func() {
		if recover() == nil {
			t.Error("a second release must not go unnoticed")
		}
		b.mu.TryLock()
		b.mu.Unlock()
	}()
	l.Release()
}

// The model: what is lent is open, what is kept is at most Size of the unheld, and in the end everything was closed once.
func TestCache_model(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(1, 4).Draw(t, "size")
		broken := map[string]bool{}
		var made []*value
		b := newBench(size, nil)
		open := b.cfg.Open
		b.cfg.Open = func(ctx context.Context, key string) (*value, error) {
			if broken[key] {
				return nil, errors.New("broken")
			}
			v, err := open(ctx, key)
			made = append(made, v)
			return v, err
		}
		var held []Lease[string, *value]
		key := rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"})
		t.Repeat(map[string]func(*rapid.T){
			"acquire": func(t *rapid.T) {
				k := key.Draw(t, "key")
				before := b.opens.Load()
				kept := b.lru.Contains(k)
				l, err := b.Acquire(context.Background(), k)
				switch {
				case err != nil && (!broken[k] || kept):
					t.Fatalf("Acquire(%q): %v", k, err)
				case err == nil && l.Value().key != k:
					t.Fatalf("asked for %q, got %q", k, l.Value().key)
				case kept && b.opens.Load() != before:
					t.Fatalf("%q was opened again though it was kept", k)
				}
				if err == nil {
					held = append(held, l)
				}
			},
			"release": func(t *rapid.T) {
				if len(held) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(held)-1).Draw(t, "i")
				held[i].Release()
				held = append(held[:i], held[i+1:]...)
			},
			"forget": func(t *rapid.T) { b.Forget(key.Draw(t, "key")) },
			"break":  func(t *rapid.T) { k := key.Draw(t, "key"); broken[k] = !broken[k] },
			"": func(t *rapid.T) {
				for _, l := range held {
					if l.Value().closed.Load() {
						t.Fatalf("%q was closed while it was lent", l.Value().key)
					}
				}
				if n := b.Stat().Kept; n > size {
					t.Fatalf("%d values kept, want at most %d", n, size)
				}
			},
		})
		for _, l := range held {
			l.Release()
		}
		if err := b.Close(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, v := range made {
			if !v.closed.Load() {
				t.Fatalf("%q was never closed", v.key)
			}
		}
	})
}

func TestCache_many_at_once(t *testing.T) {
	b := newBench(4, func(_ context.Context, key string) error {
		if key == "k7" {
			return errors.New("broken")
		}
		return nil
	})
	var wg sync.WaitGroup
	for g := range 16 {
		wg.Go(func() {
			for i := range 1000 {
				key := fmt.Sprintf("k%d", (g*7+i*13)%20)
				ctx, cancel := context.WithCancel(context.Background())
				if i%17 == 0 {
					cancel()
				}
				l, err := b.Acquire(ctx, key)
				if i%31 == 0 {
					b.Forget(key)
				}
				if err == nil {
					if l.Value().closed.Load() || l.Value().key != key {
						t.Errorf("%q: wrong or closed", key)
					}
					l.Release()
				}
				cancel()
			}
		})
	}
	wg.Wait()
	closeNow(t, b)
}

func BenchmarkCache_hit(b *testing.B) {
	c := newBench(64, nil)
	defer closeNow(b, c)
	ctx := context.Background()
	mustAcquire(b, c, "a").Release()
	b.ReportAllocs()
	for b.Loop() {
		l, _ := c.Acquire(ctx, "a")
		l.Release()
	}
}

func BenchmarkCache_hit_parallel(b *testing.B) {
	c := newBench(64, nil)
	defer closeNow(b, c)
	ctx := context.Background()
	mustAcquire(b, c, "a").Release()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l, _ := c.Acquire(ctx, "a")
			l.Release()
		}
	})
}
