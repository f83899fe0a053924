package router

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router/internal/budget"
)

func newGate(soft, limit int, room bool) *gate {
	return &gate{soft: soft, limit: func() int { return limit }, room: func() bool { return room }}
}

func TestGate(t *testing.T) {
	t.Parallel()
	a, b := catalog.NewID[catalog.Tenant](), catalog.NewID[catalog.Tenant]()
	enter := func(t *testing.T, g *gate) bool {
		t.Helper()
		optional, err := g.enter(t.Context(), a, time.Time{}, false)
		if err != nil {
			t.Fatal(err)
		}
		return optional
	}
	t.Run("up to the soft share at once, beyond it one each time somebody waited for a dial", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(2, 4, true)
			began := time.Now()
			for i, want := range []struct {
				optional bool
				at       time.Duration
			}{{false, 0}, {false, 0}, {true, patience}, {true, 2 * patience}} {
				if optional := enter(t, g); optional != want.optional || time.Since(began) != want.at {
					t.Errorf("%d: optional %v after %v, want %+v", i, optional, time.Since(began), want)
				}
			}
			if _, err := g.enter(t.Context(), a, time.Now().Add(time.Second), false); !errors.Is(err, budget.ErrFull) {
				t.Errorf("beyond the limit: %v", err)
			}
		})
	})
	t.Run("without room it does not grow, and a connection that comes back serves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 4, false)
			enter(t, g)
			time.AfterFunc(time.Second, g.leave)
			began := time.Now()
			if optional := enter(t, g); optional || time.Since(began) != time.Second {
				t.Errorf("after %v", time.Since(began))
			}
		})
	})
	t.Run("an idle connection is there for whoever comes, and one that was made for nobody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 4, false)
			g.count(2)
			enter(t, g)
			enter(t, g)
			time.AfterFunc(time.Second, func() { g.count(1) })
			began := time.Now()
			enter(t, g)
			if time.Since(began) != time.Second {
				t.Errorf("after %v", time.Since(began))
			}
		})
	})
	t.Run("tenants are served by turns", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 1, false)
			enter(t, g)
			var order []catalog.TenantID
			done := make(chan struct{})
			for _, tenant := range []catalog.TenantID{a, a, a, b} {
				go func() {
					_, _ = g.enter(t.Context(), tenant, time.Time{}, false)
					order = append(order, tenant) // one at a time: that is what the gate is for
					g.leave()
					done <- struct{}{}
				}()
				synctest.Wait()
			}
			g.leave()
			for range 4 {
				<-done
			}
			if order[1] != b {
				t.Error("the quiet tenant waited behind all of the busy one's")
			}
			if idle, waiting, _, _ := g.moment(); g.held != 0 || waiting != 0 || idle != 0 {
				t.Errorf("left %+v", g)
			}
			time.Sleep(time.Minute) // the timer of growth ends by itself
			if g.armed {
				t.Error("the timer runs for nobody")
			}
		})
	})
	t.Run("who leaves keeps nothing", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 1, false)
			enter(t, g)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := g.enter(ctx, a, time.Time{}, false); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("got %v", err)
			}
			g.leave()
			enter(t, g)
		})
	})
	t.Run("whoever was let through for nothing waits for its turn", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 2, true)
			began := time.Now()
			if _, err := g.enter(t.Context(), a, time.Time{}, true); err != nil || time.Since(began) != patience {
				t.Errorf("%v after %v", err, time.Since(began))
			}
		})
	})
}
