package budget

import (
	"context"
	"time"
)

// Turns is a queue that is fair between keys: each key's waiters are served in order of arrival, and the keys by turns.
// The zero Turns is empty. Whoever uses one guards it.
type Turns[K comparable] struct {
	lines map[K]*line[K]
	next  []K // keys with waiters, whose turn it is first
	n     int
}

// line is those who wait under one key.
type line[K comparable] struct{ waiting []*Waiter[K] }

// Waiter waits for its turn. Granted is closed when it has come.
type Waiter[K comparable] struct {
	Granted chan struct{}
	// Note is for whoever grants to tell something to whoever waits, before Granted is closed.
	Note int
	key  K
}

// Wait waits until w is granted: nil; the deadline, unless it is zero: ErrFull; or the end of ctx: its error. After an error
// it may have been granted all the same: Remove tells.
func (w *Waiter[K]) Wait(ctx context.Context, deadline time.Time) error {
	var late <-chan time.Time
	if !deadline.IsZero() {
		timer := time.NewTimer(time.Until(deadline))
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-w.Granted:
		return nil
	case <-late:
		return ErrFull
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Len is how many wait.
func (t *Turns[K]) Len() int { return t.n }

// Push puts somebody behind the others of its key.
func (t *Turns[K]) Push(key K) *Waiter[K] {
	w := &Waiter[K]{Granted: make(chan struct{}), key: key}
	l := t.lines[key]
	if l == nil {
		if t.lines == nil {
			t.lines = map[K]*line[K]{}
		}
		l = &line[K]{}
		t.lines[key] = l
		t.next = append(t.next, key)
	}
	l.waiting = append(l.waiting, w)
	t.n++
	return w
}

// Grant tells the next one that its turn has come, and says whether there was one.
func (t *Turns[K]) Grant() bool { return t.GrantWith(0) }

// GrantWith grants with a note.
func (t *Turns[K]) GrantWith(note int) bool {
	if t.n == 0 {
		return false
	}
	key := t.next[0]
	t.next = t.next[1:]
	l := t.lines[key]
	l.waiting[0].Note = note
	close(l.waiting[0].Granted)
	l.waiting = l.waiting[1:]
	if len(l.waiting) == 0 {
		delete(t.lines, key)
	} else {
		t.next = append(t.next, key)
	}
	t.n--
	return true
}

// Remove takes somebody out who gave up. False means that its turn had come already.
func (t *Turns[K]) Remove(w *Waiter[K]) bool {
	l := t.lines[w.key]
	if l == nil {
		return false
	}
	for i, other := range l.waiting {
		if other == w {
			l.waiting = append(l.waiting[:i], l.waiting[i+1:]...)
			t.n--
			if len(l.waiting) == 0 {
				t.drop(w.key)
			}
			return true
		}
	}
	return false
}

func (t *Turns[K]) drop(key K) {
	delete(t.lines, key)
	for i, k := range t.next {
		if k == key {
			t.next = append(t.next[:i], t.next[i+1:]...)
			return
		}
	}
}
