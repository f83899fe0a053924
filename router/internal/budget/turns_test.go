package budget

import (
	"slices"
	"testing"
)

func TestTurns_keys_are_served_by_turns_and_each_in_order(t *testing.T) {
	var q Turns[string]
	var all []*Waiter[string]
	for _, key := range []string{"a", "a", "a", "b", "c", "b"} {
		all = append(all, q.Push(key))
	}
	gave := all[4] // the only c gives up, and so does the second a
	if !q.Remove(gave) || !q.Remove(all[1]) || q.Remove(gave) || q.Len() != 4 {
		t.Fatalf("%d wait after two of six gave up", q.Len())
	}
	var order []int
	for q.Grant() {
		for i, w := range all {
			select {
			case <-w.Granted:
				if !slices.Contains(order, i) {
					order = append(order, i)
				}
			default:
			}
		}
	}
	if want := []int{0, 3, 2, 5}; !slices.Equal(order, want) {
		t.Errorf("served %v, want %v", order, want)
	}
	if q.Len() != 0 || q.Remove(all[0]) || len(q.lines) != 0 || len(q.next) != 0 {
		t.Errorf("left behind: %+v", q)
	}
}
