package migrations_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rowhouse/rowhouse/migrations"
)

func TestRing_Selects(t *testing.T) {
	t.Parallel()
	m := migrations.Member{ID: "7", Kind: "dedicated", State: "active", Labels: map[string]string{"canary": "true", "region": "north"}}
	for selector, want := range map[string]bool{
		"all": true, "kind=dedicated": true, "kind=shared": false, "state=active": true, "state=spare": false, "database=7": true,
		"database=8": false, "canary": true, "canary=true": true, "region=north": true, "region=south": false, "test": false, "": false,
	} {
		if got := (migrations.Ring{Selectors: []string{"nothing", selector}}).Selects(m); got != want {
			t.Errorf("selector %q: %v", selector, got)
		}
	}
	if (migrations.Ring{}).Selects(m) {
		t.Error("a ring without selectors selects nothing")
	}
}

func TestRing_Next(t *testing.T) {
	t.Parallel()
	canary := migrations.Ring{MaxFailures: 1, Soak: time.Minute}
	many := migrations.Ring{MaxFailurePct: 5}
	for name, c := range map[string]struct {
		ring          migrations.Ring
		state         migrations.RingState
		last, bounded bool
		want          migrations.Step
	}{
		"work is left":                     {ring: canary, state: migrations.RingState{Total: 2, Done: 1}, want: migrations.Migrate},
		"one failed canary":                {ring: canary, state: migrations.RingState{Total: 2, Failed: 1}, want: migrations.Stop},
		"its last one failed":              {ring: canary, state: migrations.RingState{Total: 1, Failed: 1, Closed: true}, want: migrations.Stop},
		"a forgiven failure":               {ring: canary, state: migrations.RingState{Total: 2, Failed: 1, Forgiven: 1}, want: migrations.Migrate},
		"a skipped one":                    {ring: canary, state: migrations.RingState{Total: 1, Skipped: 1}, want: migrations.Close},
		"it soaks":                         {ring: canary, state: migrations.RingState{Total: 1, Done: 1, Closed: true, Since: time.Second}, want: migrations.Rest},
		"it soaks and somebody passes it":  {ring: canary, state: migrations.RingState{Total: 1, Done: 1, Closed: true, Passed: true}, want: migrations.OpenNext},
		"it has soaked":                    {ring: canary, state: migrations.RingState{Total: 1, Done: 1, Closed: true, Since: time.Hour}, want: migrations.OpenNext},
		"an empty ring does not soak":      {ring: canary, state: migrations.RingState{Closed: true}, want: migrations.OpenNext},
		"an empty manual ring is no gate":  {ring: migrations.Ring{Manual: true}, state: migrations.RingState{Closed: true}, want: migrations.OpenNext},
		"a gate":                           {ring: migrations.Ring{Manual: true}, state: migrations.RingState{Total: 1, Done: 1, Closed: true}, want: migrations.Ask},
		"no further ring was allowed":      {ring: many, state: migrations.RingState{Total: 1, Done: 1, Closed: true}, bounded: true, want: migrations.Ask},
		"the last ring":                    {ring: many, state: migrations.RingState{Total: 1, Done: 1, Closed: true}, last: true, bounded: true, want: migrations.LookForLate},
		"four failures of nine":            {ring: many, state: migrations.RingState{Total: 99, Done: 5, Failed: 4}, want: migrations.Migrate},
		"five failures":                    {ring: many, state: migrations.RingState{Total: 9999, Done: 999, Failed: 5}, want: migrations.Stop},
		"one failure in ten is too many":   {ring: many, state: migrations.RingState{Total: 99, Done: 9, Failed: 1}, want: migrations.Stop},
		"one failure in twenty is allowed": {ring: many, state: migrations.RingState{Total: 99, Done: 19, Failed: 1}, want: migrations.Migrate},
	} {
		if got, _ := c.ring.Next(c.state, c.last, c.bounded); got != c.want {
			t.Errorf("%s: %d, want %d", name, got, c.want)
		}
	}
}

// However results come, a ring never goes on over its bound, and never ends while something is left.
func TestRing_Next_bounds(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		ring := migrations.Ring{MaxFailures: rapid.IntRange(1, 6).Draw(t, "max")}
		s := migrations.RingState{Total: rapid.IntRange(0, 40).Draw(t, "total")}
		for left := s.Total; ; left-- {
			step, _ := ring.Next(s, false, false)
			switch {
			case step == migrations.Stop && s.Failed != ring.MaxFailures:
				t.Fatalf("stopped at %d failures of %d", s.Failed, ring.MaxFailures)
			case step == migrations.Close && left > 0:
				t.Fatalf("closed with %d left", left)
			case step != migrations.Migrate:
				return
			}
			if rapid.Bool().Draw(t, "fails") {
				s.Failed++
			} else {
				s.Done++
			}
		}
	})
}
