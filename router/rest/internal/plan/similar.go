package plan

import "strings"

// Similar is the candidate most like name, "" when none is like enough. Where the name itself is among them, nothing is
// wrong with it.
func Similar(name string, candidates []string, enough float64) string {
	best, score := "", enough
	lower := []rune(strings.ToLower(name))
	for _, c := range candidates {
		if c == name {
			return ""
		}
		if s := likeness(lower, []rune(strings.ToLower(c))); s > score || s == score && best == "" {
			best, score = c, s
		}
	}
	return best
}

// likeness is one minus the Levenshtein distance over the longer length.
func likeness(a, b []rune) float64 {
	longer := max(len(a), len(b))
	if longer == 0 {
		return 1
	}
	previous := make([]int, len(b)+1)
	for j := range previous {
		previous[j] = j
	}
	current := make([]int, len(b)+1)
	for i, x := range a {
		current[0] = i + 1
		for j, y := range b {
			cost := 1
			if x == y {
				cost = 0
			}
			current[j+1] = min(previous[j]+cost, previous[j+1]+1, current[j]+1)
		}
		previous, current = current, previous
	}
	return 1 - float64(previous[len(b)])/float64(longer)
}
