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
	// enter is let through and has its connection at once.
	enter := func(t *testing.T, g *gate) pass {
		t.Helper()
		p, err := g.enter(t.Context(), a, time.Time{}, false)
		if err != nil {
			t.Fatal(err)
		}
		v := &visit{pass: p}
		if p != passIdle {
			g.made(v)
		}
		g.has(v)
		return p
	}
	t.Run("up to the soft share at once, beyond it one each time somebody waited for a dial", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(2, 4, true)
			began := time.Now()
			for i, want := range []struct {
				pass pass
				at   time.Duration
			}{{passRequired, 0}, {passOptional, 0}, {passOptional, patience}, {passOptional, 2 * patience}} {
				if p := enter(t, g); p != want.pass || time.Since(began) != want.at {
					t.Errorf("%d: %d after %v, want %+v", i, p, time.Since(began), want)
				}
			}
			if _, err := g.enter(t.Context(), a, time.Now().Add(time.Second), false); !errors.Is(err, budget.ErrFull) {
				t.Errorf("beyond the limit: %v", err)
			}
		})
	})
	t.Run("without room it grows to its soft share only, and a connection that comes back serves", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(2, 4, false)
			enter(t, g)
			began := time.Now()
			if p := enter(t, g); p != passRequired || time.Since(began) != patience {
				t.Errorf("the second: %d after %v", p, time.Since(began))
			}
			began = time.Now()
			time.AfterFunc(time.Second, g.leave)
			if p := enter(t, g); p != passIdle || time.Since(began) != time.Second {
				t.Errorf("the third: %d after %v", p, time.Since(began))
			}
		})
	})
	t.Run("while the first is being made, the others wait for it", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(4, 4, false)
			p, err := g.enter(t.Context(), a, time.Time{}, false)
			if err != nil || p != passRequired {
				t.Fatalf("%d, %v", p, err)
			}
			v := &visit{pass: p}
			time.AfterFunc(time.Second, func() { g.made(v); g.has(v) })
			began := time.Now()
			if p := enter(t, g); p != passRequired || time.Since(began) != time.Second+patience {
				t.Errorf("%d after %v", p, time.Since(began))
			}
			if g.lent != 2 || g.conns != 2 || g.dialing != 0 {
				t.Errorf("left %+v", g)
			}
		})
	})
	t.Run("a connection that came back is idle though others are being made", func(t *testing.T) {
		g := newGate(4, 4, true)
		enter(t, g)
		for range 2 {
			if _, err := g.enter(t.Context(), a, time.Time{}, false); err != nil {
				t.Fatal(err)
			}
		}
		g.leave()
		if idle, _ := g.surplus(); idle != 1 {
			t.Errorf("%d idle", idle)
		}
		if p := enter(t, g); p != passIdle {
			t.Errorf("passed as %d", p)
		}
	})
	t.Run("an idle connection is there for whoever comes, and one that was made for nobody", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			g := newGate(1, 3, false)
			g.conns = 2
			enter(t, g)
			enter(t, g)
			time.AfterFunc(time.Second, func() { g.made(&visit{over: true}) })
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
					p, _ := g.enter(t.Context(), tenant, time.Time{}, false)
					order = append(order, tenant) // one at a time: that is what the gate is for
					g.turnBack(&visit{pass: p})
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
			if idle, waiting, _, _ := g.moment(); g.lent+g.dialing != 0 || waiting != 0 || idle != 1 {
				t.Errorf("left %+v", g)
			}
			time.Sleep(time.Minute) // the timer of growth ends by itself
			g.mu.Lock()
			defer g.mu.Unlock()
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
			if p, err := g.enter(t.Context(), a, time.Time{}, true); p != passRequired || err != nil || time.Since(began) != 0 {
				t.Errorf("there is nobody: %d, %v after %v", p, err, time.Since(began))
			}
			if p, err := g.enter(t.Context(), a, time.Time{}, true); p != passOptional || err != nil || time.Since(began) != patience {
				t.Errorf("there is somebody: %d, %v after %v", p, err, time.Since(began))
			}
		})
	})
}
