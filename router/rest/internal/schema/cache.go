package schema

import (
	"context"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// A Key names one schema as the cache holds it: a database's fingerprint and what is exposed of it.
type Key struct {
	Fingerprint string
	Schemas     string // joined by Join
	Extra       string // the schemas that views are looked through in, likewise

	// Database is which one of the fingerprint's databases asks. What one of them was found to be unlike the others
	// is kept for it alone. Empty takes them for one.
	Database string
}

func (k Key) shared() Key {
	k.Database = ""
	return k
}

// Join makes a list of names a part of a key. Names hold no zero bytes.
func Join(names []string) string { return strings.Join(names, "\x00") }

// An Entry is a loaded schema with what was asked about it since.
type Entry struct {
	*Schema
	loaded time.Time

	mu      sync.Mutex // guards visible
	visible map[string]Visible

	descriptions descriptions
}

// Age is how long ago the schema was read.
func (e *Entry) Age() time.Duration { return time.Since(e.loaded) }

// Visible is what a role may see; read is called once per role and entry.
func (e *Entry) Visible(role string, read func() (Visible, error)) (Visible, error) {
	e.mu.Lock()
	known, ok := e.visible[role]
	e.mu.Unlock()
	if ok {
		return known, nil
	}
	known, err := read()
	if err != nil {
		return known, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.visible == nil {
		e.visible = map[string]Visible{}
	}
	if len(e.visible) < 64 {
		e.visible[role] = known
	}
	return known, nil
}

// A Cache holds the schemas used last, each loaded once however many ask for it.
type Cache struct {
	slots chan struct{} // bounds loads at once

	mu      sync.Mutex // guards the fields below
	entries *simplelru.LRU[Key, *Entry]
	own     *simplelru.LRU[Key, *Entry] // of databases that were looked at again
	loading map[Key]chan struct{}       // closed when the load ends
}

// loadsAtOnce bounds introspections per process: after a rollout every tenant's first request wants one.
const loadsAtOnce = 4

// refreshEvery is how soon after a load the same key may be loaded again: requests for tables that do not exist
// must not become a stream of introspections.
const refreshEvery = time.Second

// NewCache makes a cache of so many schemas.
func NewCache(size int) *Cache {
	entries, err := simplelru.NewLRU[Key, *Entry](size, nil)
	if err != nil {
		panic(err) // a size below one is the programmer's
	}
	own, err := simplelru.NewLRU[Key, *Entry](size, nil)
	if err != nil {
		panic(err)
	}
	return &Cache{slots: make(chan struct{}, loadsAtOnce), entries: entries, own: own, loading: map[Key]chan struct{}{}}
}

// Get gives the schema of key, loading it if it is not there.
func (c *Cache) Get(ctx context.Context, key Key, load func(context.Context) (*Schema, error)) (*Entry, error) {
	c.mu.Lock()
	e, ok := c.own.Get(key)
	c.mu.Unlock()
	if ok {
		return e, nil
	}
	return c.get(ctx, key.shared(), load, func(*Entry) bool { return true })
}

// Refresh loads key again unless somebody did within the last second, and says whether old is out of date. A
// database that has drifted gets a schema of its own; the others keep theirs.
func (c *Cache) Refresh(ctx context.Context, key Key, old *Entry, load func(context.Context) (*Schema, error)) (*Entry, bool, error) {
	again := func(ctx context.Context) (*Schema, error) {
		fresh, err := load(ctx)
		if err == nil && fresh.Same(old.Schema) {
			fresh = old.Schema // one copy is enough
		}
		return fresh, err
	}
	fresh, err := c.get(ctx, key, again, func(e *Entry) bool {
		return e != old || time.Since(e.loaded) < refreshEvery
	})
	if err != nil {
		return nil, false, err
	}
	return fresh, !fresh.Same(old.Schema), nil
}

// place is where the schema of a key is kept.
func (c *Cache) place(key Key) *simplelru.LRU[Key, *Entry] {
	if key.Database != "" {
		return c.own
	}
	return c.entries
}

// get waits for another's load, but takes on neither its impatience nor its failure: the key may be shared by
// databases of which only one is down.
func (c *Cache) get(ctx context.Context, key Key, load func(context.Context) (*Schema, error), good func(*Entry) bool) (*Entry, error) {
	for {
		c.mu.Lock()
		if e, ok := c.place(key).Get(key); ok && good(e) {
			c.mu.Unlock()
			return e, nil
		}
		wait, busy := c.loading[key]
		if !busy {
			c.loading[key] = make(chan struct{})
		}
		c.mu.Unlock()
		if !busy {
			return c.load(ctx, key, load)
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (c *Cache) load(ctx context.Context, key Key, load func(context.Context) (*Schema, error)) (*Entry, error) {
	var entry *Entry
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if entry != nil {
			c.place(key).Add(key, entry)
		}
		close(c.loading[key])
		delete(c.loading, key)
	}()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	loaded, err := load(ctx)
	if err != nil {
		return nil, err
	}
	entry = &Entry{Schema: loaded, loaded: time.Now()}
	return entry, nil
}
