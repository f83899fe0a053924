package router_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/router"
)

// Work in the background keeps nothing warm and takes nothing away.
func TestInBackground(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	for i := range 3 {
		w.tenant(fmt.Sprintf("t%d", i), w.alone(w.database()))
	}
	t.Run("a walk over all leaves the pools as they were", func(t *testing.T) {
		rt := w.router(router.Config{MaxPools: 1})
		if err := rt.BeginFunc(w.as("t0", "service_role"), nothing); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			if err := rt.BeginFunc(router.InBackground(w.as(fmt.Sprintf("t%d", i), "service_role")), nothing); err != nil {
				t.Errorf("t%d: %v", i, err)
			}
		}
		until(t, "only the pool of requests is open", func() bool {
			st := rt.Stat()
			return st.Pools.Draining == 0 && st.Servers[w.server].Open == 1
		})
		if st := rt.Stat(); st.Pools.Kept != 1 || st.Pools.Evictions != 0 || st.Servers[w.server].Reclaimed != 0 {
			t.Errorf("%+v", st)
		}
	})
	t.Run("where there is no room it waits, and others' idle connections stay", func(t *testing.T) {
		rt := w.router(router.Config{AcquireTimeout: 200 * time.Millisecond})
		for i := range 2 {
			if err := rt.BeginFunc(w.as(fmt.Sprintf("t%d", i), "service_role"), nothing); err != nil {
				t.Fatal(err)
			}
		}
		err := rt.BeginFunc(router.InBackground(w.as("t2", "service_role")), nothing)
		if st := rt.Stat().Servers[w.server]; !errors.Is(err, router.ErrOverloaded) || st.Reclaimed != 0 || st.Open != 2 {
			t.Errorf("%v, %+v", err, st)
		}
		if err := rt.BeginFunc(w.as("t2", "service_role"), nothing); err != nil {
			t.Errorf("a request has one: %v", err)
		}
	})
}

func TestRouter_Touch_opens_a_pool_and_no_connection(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 2)
	home := w.database()
	w.tenant("acme", home)
	rt := w.router(router.Config{})
	db, err := w.dir.Database(t.Context(), home.id)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := rt.Touch(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	if st := rt.Stat(); st.Pools.Kept != 1 || st.Pools.Opens != 1 || st.Servers[w.server].Open != 0 {
		t.Errorf("%+v", st)
	}
}
