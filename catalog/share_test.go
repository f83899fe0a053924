package catalog

import (
	"math/rand/v2"
	"slices"
	"testing"
)

func TestDivide(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		n, floor int
		wants    []int
		want     []int
	}{
		{"one alone has all of it", 80, 20, []int{0}, []int{80}},
		{"nobody wants any: equal parts, the first ones have what is over", 11, 1, []int{0, 0, 0}, []int{4, 4, 3}},
		{"who wants more has what the other leaves above its floor", 80, 10, []int{200, 3}, []int{70, 10}},
		{"all want more than there is: equal parts", 80, 5, []int{500, 90, 70}, []int{27, 27, 26}},
		{"who wants little has that, and others share the rest", 80, 5, []int{500, 12, 70}, []int{34, 12, 34}},
		{"what nobody wants is shared", 80, 10, []int{30, 10}, []int{50, 30}},
		{"more processes than connections", 2, 1, []int{9, 9, 9}, []int{1, 1, 0}},
		{"nothing is left", -3, 1, []int{9, 9}, []int{0, 0}},
	} {
		if got := divide(tt.n, tt.floor, tt.wants); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, got, tt.want)
		}
	}
}

// Whatever processes say, and in whatever order, what all may have open at once is never more than the budget: also when
// answers are lost, and when one is not heard of any more and keeps to its floor.
func TestShareOf_never_passes_the_budget(t *testing.T) {
	t.Parallel()
	for seed := range uint64(300) {
		rnd := rand.New(rand.NewPCG(seed, 1))
		budget, joined := 1+rnd.IntN(40), 1
		rows := make([]holding, 1+rnd.IntN(6))
		type process struct{ share, open, floor int }
		known := make([]process, len(rows))
		for i := range rows {
			rows[i] = holding{Budget: budget, Instance: NewID[Instance](), Alive: true}
		}
		for step := range 200 {
			i := rnd.IntN(len(rows))
			p, row := &known[i], &rows[i]
			switch {
			case i >= joined:
				joined++
				continue
			case row.Alive && rnd.IntN(40) == 0: // it is not heard of for a lease, and keeps to its floor long before that ends
				row.Alive, p.share, p.open = false, min(p.share, p.floor), min(p.open, p.share, p.floor)
				continue
			case p.open > p.share:
				p.open = p.share + rnd.IntN(p.open-p.share+1) // what is over closes when it comes back
			default:
				p.open = rnd.IntN(p.share + 1)
			}
			row.Alive, row.Held, row.Floor, row.Demand = true, max(p.share, p.open), p.floor, rnd.IntN(2*budget)
			share, floor := shareOf(row.Instance, rows[:joined])
			row.Share, row.Floor = share, max(row.Floor, min(share, floor))
			if rnd.IntN(5) > 0 { // else the answer is lost
				p.share, p.floor = share, min(share, floor)
			}
			sum := 0
			for _, p := range known {
				sum += max(p.share, p.open)
			}
			if sum > budget {
				t.Fatalf("seed %d, step %d: %d of %d may be open: %+v", seed, step, sum, budget, known)
			}
		}
	}
}
