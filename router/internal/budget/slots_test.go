package budget

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSlots(t *testing.T) {
	t.Run("a quiet key does not wait behind a busy one", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var s Slots[string]
			s.SetLimit(1)
			if err := s.Enter(t.Context(), "noisy", time.Time{}); err != nil {
				t.Fatal(err)
			}
			var mu sync.Mutex
			var order []string
			var wg sync.WaitGroup
			for _, key := range []string{"noisy", "noisy", "noisy", "quiet"} {
				wg.Go(func() {
					if err := s.Enter(t.Context(), key, time.Time{}); err != nil {
						t.Error(err)
					}
					mu.Lock()
					order = append(order, key)
					mu.Unlock()
					s.Leave()
				})
				synctest.Wait()
			}
			if first, again := s.Peak(), s.Peak(); first != 5 || again != 5 {
				t.Error("the peak is what is used and waited for")
			}
			s.Leave()
			wg.Wait()
			if want := []string{"noisy", "quiet", "noisy", "noisy"}; !slices.Equal(order, want) {
				t.Errorf("served %v, want %v", order, want)
			}
			if st := s.Stat(); st.Used != 0 || st.Waiting != 0 || s.Peak() == 0 || s.Peak() != 0 {
				t.Errorf("left %+v", st)
			}
		})
	})
	t.Run("who is too late, or leaves, keeps nothing", func(t *testing.T) {
		var s Slots[int]
		s.SetLimit(1)
		_ = s.Enter(t.Context(), 0, time.Time{})
		if err := s.Enter(t.Context(), 0, time.Now().Add(time.Millisecond)); !errors.Is(err, ErrFull) {
			t.Errorf("too late: %v", err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if err := s.Enter(gone, 0, time.Time{}); !errors.Is(err, context.Canceled) {
			t.Errorf("left: %v", err)
		}
		s.Leave()
		if st := s.Stat(); st.Used != 0 || st.Waiting != 0 || st.Refused != 2 {
			t.Errorf("left %+v", st)
		}
	})
	t.Run("many come and go, and never are there too many", func(t *testing.T) {
		var s Slots[int]
		s.SetLimit(3)
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				for j := range 200 {
					if s.Enter(t.Context(), i%4, time.Now().Add(time.Duration(j%3)*100*time.Microsecond)) == nil {
						if n := s.Stat().Used; n > 3 {
							t.Errorf("%d at once", n)
						}
						s.Leave()
					}
				}
			})
		}
		wg.Wait()
		if st := s.Stat(); st.Used != 0 || st.Waiting != 0 {
			t.Errorf("left %+v", st)
		}
	})
}
