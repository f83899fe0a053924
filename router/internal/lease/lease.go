// Package lease is an LRU cache of values that are lent out; an evicted value is closed after its last borrower has given
// it back.
//
//	l, err := cache.Acquire(ctx, key) // opens the value, or waits for whoever is opening it
//	defer l.Release()
//	use(l.Value())
//
// Size bounds what the cache keeps. A value pushed out while lent lives on until it is given back, so more can be open
// for a while.
package lease

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// ErrClosed is what a closed cache answers.
var ErrClosed = errors.New("cache is closed")

// look is how many of the oldest values are asked whether they are lent before one that is lent is pushed out.
const look = 8

// Config is what a cache is made of. Open is needed.
type Config[K comparable, V any] struct {
	// Size is how many values are kept when nobody uses them, at least one.
	Size int

	// Open makes a value. It runs once a key, however many wait for it, in a goroutine of its own and under the values of
	// the first one's context, but not its cancellation or deadline: it must bring its own limit. An error is given to
	// all who wait, and forgotten.
	Open func(context.Context, K) (V, error)

	// Retire is told, in a goroutine of its own, that a value is not lent any more from now on.
	//
	// Nil: nobody is told.
	Retire func(V)

	// Close ends a value that nobody holds, in a goroutine of its own. It may take its time.
	//
	// Nil: nothing is to be done.
	Close func(V)
}

// Cache holds the most recently used values. It is safe for concurrent use.
type Cache[K comparable, V any] struct {
	cfg Config[K, V]

	mu      sync.Mutex // guards the fields below, and every field of entries and flights
	lru     *simplelru.LRU[K, *entry[K, V]]
	flights map[K]*flight[K, V]
	live    int // entries and flights that Close waits for
	closed  bool
	empty   chan struct{} // closed when closed and nothing lives
	stat    Stat
}

// entry is a value and who holds it: the cache counts one, and each lease.
type entry[K comparable, V any] struct {
	key     K
	value   V
	refs    int
	retired bool
}

// flight is a value being opened, for those who wait.
type flight[K comparable, V any] struct {
	done      chan struct{}
	waiters   int
	forgotten bool
	passing   bool // only visitors wait for it
	finished  bool
	entry     *entry[K, V]
	err       error
}

// Lease is a value that is lent. Release it exactly once.
type Lease[K comparable, V any] struct {
	cache *Cache[K, V]
	entry *entry[K, V]
}

// Stat is a moment of a cache.
type Stat struct {
	Kept, Opening, Draining int
	Opens, OpenErrors       int64
	Evictions               int64 // pushed out by another value
	EvictionsLent           int64 // of these, while somebody held them
}

// New makes an empty cache.
func New[K comparable, V any](cfg Config[K, V]) *Cache[K, V] {
	// The list never evicts by itself: it would call back under the mutex, and knows nothing of who holds what.
	cfg.Size = max(cfg.Size, 1)
	lru, _ := simplelru.NewLRU[K, *entry[K, V]](math.MaxInt, nil)
	return &Cache[K, V]{cfg: cfg, lru: lru, flights: map[K]*flight[K, V]{}, empty: make(chan struct{})}
}

// Acquire lends the value of key, opening it if it is not there. It answers Open's error, ctx's, or ErrClosed.
func (c *Cache[K, V]) Acquire(ctx context.Context, key K) (Lease[K, V], error) {
	return c.acquire(ctx, key, false)
}

// Visit lends the value of key as Acquire does, and changes nothing for others: what is kept grows no younger by it, and
// what is opened for visitors only is not kept.
func (c *Cache[K, V]) Visit(ctx context.Context, key K) (Lease[K, V], error) {
	return c.acquire(ctx, key, true)
}

func (c *Cache[K, V]) acquire(ctx context.Context, key K, visitor bool) (Lease[K, V], error) {
	find := c.lru.Get
	if visitor {
		find = c.lru.Peek
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return Lease[K, V]{}, ErrClosed
	}
	if e, ok := find(key); ok {
		e.refs++
		c.mu.Unlock()
		return Lease[K, V]{c, e}, nil
	}
	f := c.flights[key]
	if f == nil {
		f = &flight[K, V]{done: make(chan struct{}), passing: visitor}
		c.flights[key] = f
		c.live++
		go c.open(context.WithoutCancel(ctx), key, f)
	}
	f.waiters++
	f.passing = f.passing && visitor
	c.mu.Unlock()
	return c.wait(ctx, f)
}

func (c *Cache[K, V]) wait(ctx context.Context, f *flight[K, V]) (Lease[K, V], error) {
	select {
	case <-f.done:
	case <-ctx.Done():
		c.mu.Lock()
		if !f.finished {
			f.waiters--
			c.mu.Unlock()
			return Lease[K, V]{}, ctx.Err()
		}
		c.mu.Unlock() // it was lent to us meanwhile
		if f.err == nil {
			Lease[K, V]{c, f.entry}.Release()
		}
		return Lease[K, V]{}, ctx.Err()
	}
	if f.err != nil {
		return Lease[K, V]{}, f.err
	}
	return Lease[K, V]{c, f.entry}, nil
}

// open runs Open and lends what it made to all who still wait.
func (c *Cache[K, V]) open(ctx context.Context, key K, f *flight[K, V]) {
	value, err := c.callOpen(ctx, key)
	c.mu.Lock()
	defer c.mu.Unlock()
	defer close(f.done)
	f.finished = true
	if c.flights[key] == f { // else it was forgotten, and another may be opening the key
		delete(c.flights, key)
	}
	c.stat.Opens++
	if err != nil {
		f.err = err
		c.stat.OpenErrors++
		c.gone()
		return
	}
	f.entry = &entry[K, V]{key: key, value: value, refs: f.waiters + 1} // live goes over from the flight to the entry
	if c.closed || f.forgotten {
		c.retire(f.entry)
		return
	}
	if f.passing {
		f.entry.retired = true
		c.stat.Draining++
		c.drop(f.entry)
		return
	}
	c.lru.Add(key, f.entry)
	for c.lru.Len() > c.cfg.Size {
		c.evict()
	}
}

// callOpen turns a panic into an error: the goroutine is ours, and it would end the process.
func (c *Cache[K, V]) callOpen(ctx context.Context, key K) (value V, err error) {
	err = errors.New("opening did not return")
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("opening panicked: %v", p)
		}
	}()
	return c.cfg.Open(ctx, key)
}

// evict pushes out the oldest value that nobody holds, or the oldest one if the first few are all lent. The newest is not
// looked at: it was just opened for somebody.
func (c *Cache[K, V]) evict() {
	var victim *entry[K, V]
	for range min(look, c.lru.Len()-1) {
		key, e, _ := c.lru.GetOldest()
		if victim == nil || e.refs == 1 {
			victim = e
		}
		if e.refs == 1 {
			break
		}
		c.lru.Get(key) // lent, so it is in use: to the front
	}
	c.lru.Remove(victim.key)
	c.stat.Evictions++
	if victim.refs > 1 {
		c.stat.EvictionsLent++
	}
	c.retire(victim)
}

// retire takes the cache's own count off an entry that is out of the list.
func (c *Cache[K, V]) retire(e *entry[K, V]) {
	e.retired = true
	c.stat.Draining++
	if e.refs > 1 && c.cfg.Retire != nil {
		e.refs++ // whoever is told holds it
		go func() {
			defer func() { _ = recover() }()
			defer Lease[K, V]{c, e}.Release()
			c.cfg.Retire(e.value)
		}()
	}
	c.drop(e)
}

// drop takes one count off; the last one closes.
func (c *Cache[K, V]) drop(e *entry[K, V]) {
	e.refs--
	switch {
	case e.refs < 0:
		panic("lease: released twice")
	case e.refs > 0:
		return
	}
	go func() {
		defer func() {
			_ = recover() // a close that panics must not end the process
			c.mu.Lock()
			defer c.mu.Unlock()
			c.stat.Draining--
			c.gone()
		}()
		if c.cfg.Close != nil {
			c.cfg.Close(e.value)
		}
	}()
}

// gone says that an entry or a flight has ended.
func (c *Cache[K, V]) gone() {
	c.live--
	if c.closed && c.live == 0 {
		close(c.empty)
	}
}

// Value is what is lent.
func (l Lease[K, V]) Value() V { return l.entry.value }

// Release gives the value back.
func (l Lease[K, V]) Release() {
	l.cache.mu.Lock()
	defer l.cache.mu.Unlock()
	l.cache.drop(l.entry)
}

// Forget takes the value of key out, so that the next one who asks opens it anew. Who holds it keeps it, and so does who
// waits for it now.
func (c *Cache[K, V]) Forget(key K) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.flights[key]; f != nil {
		f.forgotten = true
		delete(c.flights, key)
	}
	if e, ok := c.lru.Peek(key); ok {
		c.lru.Remove(key)
		c.retire(e)
	}
}

// Keys are the keys of what is kept, the oldest first. Asking does not make them younger.
func (c *Cache[K, V]) Keys() []K {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lru.Keys()
}

// Stat is the cache's moment.
func (c *Cache[K, V]) Stat() Stat {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.stat
	s.Kept, s.Opening = c.lru.Len(), len(c.flights)
	return s
}

// Close lends nothing more and waits until everything lent is back and closed, or ctx ends. It may be called again.
func (c *Cache[K, V]) Close(ctx context.Context) error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		for _, e := range c.lru.Values() {
			c.lru.Remove(e.key)
			c.retire(e)
		}
		if c.live == 0 {
			close(c.empty)
		}
	}
	c.mu.Unlock()
	select {
	case <-c.empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
