package budget

import (
	"context"
	"sync"
	"time"
)

// Slots let a number of holders go on at a time. Who waits is served by turns of its key. The zero Slots have no limit.
type Slots[K comparable] struct {
	mu    sync.Mutex // guards the fields below
	limit int        // 0 is none
	turns Turns[K]
	stat  SlotsStat
}

// SlotsStat is a moment of Slots.
type SlotsStat struct {
	Limit, Used, Waiting int
	// Peak is the most that were used and waited for at once since Peak was last asked for.
	Peak int
	// Refused found none in time.
	Refused int64
	// WaitedFor is how long all together have waited.
	WaitedFor time.Duration
}

// SetLimit changes how many go on at a time; those that do are left alone.
func (s *Slots[K]) SetLimit(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limit = n
	s.grant()
}

// Enter takes a slot, for which it waits until the deadline, if that is not zero: ErrFull; or the end of ctx: its error.
func (s *Slots[K]) Enter(ctx context.Context, key K, deadline time.Time) error {
	s.mu.Lock()
	if s.turns.Len() == 0 && (s.limit == 0 || s.stat.Used < s.limit) {
		s.stat.Used++
		s.stat.Peak = max(s.stat.Peak, s.stat.Used)
		s.mu.Unlock()
		return nil
	}
	w := s.turns.Push(key)
	s.stat.Peak = max(s.stat.Peak, s.stat.Used+s.turns.Len())
	s.mu.Unlock()
	began := time.Now()
	err := w.Wait(ctx, deadline)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stat.WaitedFor += time.Since(began)
	if err != nil {
		s.stat.Refused++
		if !s.turns.Remove(w) { // its turn came while it gave up: the next one has it
			s.stat.Used--
			s.grant()
		}
	}
	return err
}

// Leave gives a slot back.
func (s *Slots[K]) Leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stat.Used--
	s.grant()
}

func (s *Slots[K]) grant() {
	for (s.limit == 0 || s.stat.Used < s.limit) && s.turns.Grant() {
		s.stat.Used++
	}
}

// Stat is the slots' moment.
func (s *Slots[K]) Stat() SlotsStat {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.stat
	st.Limit, st.Waiting = s.limit, s.turns.Len()
	return st
}

// Peak is the most that were used and waited for at once since it was last asked for.
func (s *Slots[K]) Peak() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	peak := max(s.stat.Peak, s.stat.Used+s.turns.Len())
	s.stat.Peak = s.stat.Used + s.turns.Len()
	return peak
}
