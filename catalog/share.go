package catalog

// floorPart is what part of its equal share a process has at least.
const floorPart = 4

// shareOf is one process's share of a server's connections, and its floor, of what all have. It is at most what the others
// leave: those that are to have less have it until they report that they do not.
func shareOf(instance InstanceID, all []holding) (share, floor int) {
	budget := all[0].Budget
	floor = max(1, budget/(floorPart*len(all)))
	free, living, me := budget, budget, 0
	var demands []int
	for _, h := range all {
		switch {
		case h.Instance == instance:
			me = len(demands)
		case h.Alive:
			free -= max(h.Share, h.Held)
		default: // it may be cut off from us and serve all the same
			free -= h.Floor
			living -= h.Floor
		}
		if h.Alive || h.Instance == instance {
			demands = append(demands, h.Demand)
		}
	}
	return max(0, min(divide(living, floor, demands)[me], free)), floor
}

// divide shares n out, one by one and by turns: first the floor to each, then to those that want more, and what nobody wants
// to all.
func divide(n, floor int, wants []int) []int {
	got := make([]int, len(wants))
	for _, enough := range []func(i int) bool{
		func(i int) bool { return got[i] >= floor },
		func(i int) bool { return got[i] >= wants[i] },
		func(int) bool { return false },
	} {
		for gave := true; gave && n > 0; {
			gave = false
			for i := range got {
				if n > 0 && !enough(i) {
					got[i]++
					n--
					gave = true
				}
			}
		}
	}
	return got
}
