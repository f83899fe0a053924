package schema

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestCache(t *testing.T) {
	t.Parallel()
	key := Key{Fingerprint: "f", Schemas: Join([]string{"public"})}
	load := func(loads *atomic.Int64, wait <-chan struct{}, err error) func(context.Context) (*Schema, error) {
		return func(context.Context) (*Schema, error) {
			n := loads.Add(1)
			if wait != nil {
				<-wait
			}
			return &Schema{digest: [16]byte{byte(n)}}, err
		}
	}
	t.Run("many ask, one loads", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, loads, wait := NewCache(2), &atomic.Int64{}, make(chan struct{})
			var all sync.WaitGroup
			for range 20 {
				all.Go(func() {
					if _, err := c.Get(t.Context(), key, load(loads, wait, nil)); err != nil {
						t.Error(err)
					}
				})
			}
			synctest.Wait()
			close(wait)
			all.Wait()
			if loads.Load() != 1 {
				t.Errorf("%d loads", loads.Load())
			}
		})
	})
	t.Run("another's failure and another's patience are not mine", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, loads, wait := NewCache(2), &atomic.Int64{}, make(chan struct{})
			down := errors.New("down")
			var all sync.WaitGroup
			all.Go(func() {
				if _, err := c.Get(t.Context(), key, load(loads, wait, down)); !errors.Is(err, down) {
					t.Errorf("the leader got %v", err)
				}
			})
			synctest.Wait()
			all.Go(func() {
				if _, err := c.Get(t.Context(), key, load(loads, nil, nil)); err != nil {
					t.Errorf("the follower got %v", err)
				}
			})
			all.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				if _, err := c.Get(ctx, key, load(loads, nil, nil)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("the impatient one got %v", err)
				}
			})
			time.Sleep(2 * time.Second)
			close(wait)
			all.Wait()
			if loads.Load() != 2 {
				t.Errorf("%d loads", loads.Load())
			}
		})
	})
	t.Run("a refresh loads once a second at most", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, loads := NewCache(2), &atomic.Int64{}
			old, err := c.Get(t.Context(), key, load(loads, nil, nil))
			if err != nil {
				t.Fatal(err)
			}
			if _, changed, err := c.Refresh(t.Context(), key, old, load(loads, nil, nil)); err != nil || changed || loads.Load() != 1 {
				t.Errorf("at once: changed %v, %v, %d loads", changed, err, loads.Load())
			}
			time.Sleep(refreshEvery)
			fresh, changed, err := c.Refresh(t.Context(), key, old, load(loads, nil, nil))
			if err != nil || !changed || loads.Load() != 2 {
				t.Errorf("a second later: changed %v, %v, %d loads", changed, err, loads.Load())
			}
			if again, changed, _ := c.Refresh(t.Context(), key, old, load(loads, nil, nil)); again != fresh || !changed || loads.Load() != 2 {
				t.Errorf("another with the old one: changed %v, %d loads", changed, loads.Load())
			}
		})
	})
	t.Run("no more than so many are kept", func(t *testing.T) {
		t.Parallel()
		c, loads := NewCache(1), &atomic.Int64{}
		for _, f := range []string{"a", "b", "a"} {
			if _, err := c.Get(t.Context(), Key{Fingerprint: f}, load(loads, nil, nil)); err != nil {
				t.Fatal(err)
			}
		}
		if loads.Load() != 3 {
			t.Errorf("%d loads", loads.Load())
		}
	})
	t.Run("a database that drifted does not speak for the others", func(t *testing.T) {
		t.Parallel()
		synctest.Test(t, func(t *testing.T) {
			c, one, two := NewCache(4), key, key
			one.Database, two.Database = "one", "two"
			digest := func(n byte) func(context.Context) (*Schema, error) {
				return func(context.Context) (*Schema, error) { return &Schema{digest: [16]byte{n}}, nil }
			}
			shared, err := c.Get(t.Context(), one, digest(1))
			if err != nil {
				t.Fatal(err)
			}
			drifted, changed, err := c.Refresh(t.Context(), two, shared, digest(2))
			if err != nil || !changed || drifted.Schema == shared.Schema {
				t.Fatalf("a refresh of another schema: changed %v, %v", changed, err)
			}
			if again, err := c.Get(t.Context(), two, nil); err != nil || again != drifted {
				t.Errorf("the drifted one gets %p, %v", again, err)
			}
			if again, err := c.Get(t.Context(), one, nil); err != nil || again != shared {
				t.Errorf("the other one gets %p, %v", again, err)
			}
			same, changed, err := c.Refresh(t.Context(), one, shared, digest(1))
			if err != nil || changed || same.Schema != shared.Schema {
				t.Errorf("what did not change: changed %v, a copy %v, %v", changed, same.Schema != shared.Schema, err)
			}
			time.Sleep(2 * refreshEvery)
			repaired, changed, err := c.Refresh(t.Context(), two, drifted, digest(1))
			if err != nil || !changed || !repaired.Same(shared.Schema) {
				t.Errorf("after the repair: changed %v, %v", changed, err)
			}
		})
	})
}
