package migrations_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rowhouse/rowhouse/migrations"
)

func member(name, server string, shared bool) migrations.Member {
	return migrations.Member{Target: migrations.Target{Name: name}, Server: server, Shared: shared}
}

// order works a fleet through with one worker and gives the names in the order they were begun.
func order(f *migrations.Fleet, fails func(name string) bool) []string {
	var names []string
	for {
		m, step := f.Next()
		if step != migrations.Start {
			return names
		}
		names = append(names, m.Name)
		r := migrations.Result{Target: m.Name}
		if fails(m.Name) {
			r.Err = errors.New("no")
		}
		f.Done(m, r)
	}
}

func TestFleet(t *testing.T) {
	t.Parallel()
	never := func(string) bool { return false }

	t.Run("servers take turns, shared databases come last", func(t *testing.T) {
		f := migrations.NewFleet([]migrations.Member{
			member("s1", "a", true), member("d1", "a", false), member("d2", "a", false), member("d3", "b", false), member("s2", "b", true),
		}, migrations.FleetConfig{Workers: 1})
		if diff := cmp.Diff([]string{"d1", "d3", "d2", "s2", "s1"}, order(f, never)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("no further database is begun after too many failures", func(t *testing.T) {
		var members []migrations.Member
		for i := range 10 {
			members = append(members, member(fmt.Sprint(i), "a", false))
		}
		f := migrations.NewFleet(members, migrations.FleetConfig{MaxFailures: 2})
		got := order(f, func(name string) bool { return name == "1" || name == "3" })
		if diff := cmp.Diff([]string{"0", "1", "2", "3"}, got); diff != "" {
			t.Error(diff)
		}
		if !f.Stopped() || len(f.Pending()) != 6 {
			t.Errorf("stopped %v with %d left, want true with 6", f.Stopped(), len(f.Pending()))
		}
	})
	t.Run("a shared database waits for a dedicated one that still runs", func(t *testing.T) {
		f := migrations.NewFleet([]migrations.Member{member("d", "a", false), member("s", "b", true)}, migrations.FleetConfig{})
		d, _ := f.Next()
		if m, step := f.Next(); step != migrations.Wait {
			t.Fatalf("Next gives %q, %v while a dedicated one runs", m.Name, step)
		}
		f.Done(d, migrations.Result{})
		if m, step := f.Next(); step != migrations.Start || m.Name != "s" {
			t.Fatalf("Next gives %q, %v", m.Name, step)
		}
	})
}

// Whatever the fleet and the order of ends: the limits hold at every moment, and without failures each database is begun once.
func TestFleet_limits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cfg := migrations.FleetConfig{Workers: rapid.IntRange(1, 6).Draw(t, "workers"), PerServer: rapid.IntRange(1, 3).Draw(t, "per server")}
		var members []migrations.Member
		for i := range rapid.IntRange(0, 30).Draw(t, "members") {
			members = append(members, member(fmt.Sprint(i), rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "server"), rapid.Bool().Draw(t, "shared")))
		}
		f := migrations.NewFleet(members, cfg)
		var running []migrations.Member
		begun := map[string]int{}
		for {
			m, step := f.Next()
			switch step {
			case migrations.Start:
				running = append(running, m)
				begun[m.Name]++
				judge(t, cfg, running)
				continue
			case migrations.Wait:
				i := rapid.IntRange(0, len(running)-1).Draw(t, "ends")
				f.Done(running[i], migrations.Result{})
				running = slices.Delete(running, i, i+1)
				continue
			}
			break
		}
		for _, m := range members {
			if begun[m.Name] != 1 {
				t.Fatalf("%s was begun %d times", m.Name, begun[m.Name])
			}
		}
	})
}

func judge(t *rapid.T, cfg migrations.FleetConfig, running []migrations.Member) {
	servers, shared := map[string]int{}, map[string]int{}
	dedicated := false
	for _, m := range running {
		servers[m.Server]++
		if m.Shared {
			shared[m.Server]++
		} else {
			dedicated = true
		}
	}
	if len(running) > cfg.Workers {
		t.Fatalf("%d run, %d may", len(running), cfg.Workers)
	}
	for s, n := range servers {
		if n > cfg.PerServer || shared[s] > 1 || shared[s] > 0 && dedicated {
			t.Fatalf("on %s run %d, %d of them shared, dedicated ones: %v", s, n, shared[s], dedicated)
		}
	}
}
