package parse

import (
	"strconv"
	"strings"
)

// Prefer is what a request prefers; "" and nil mean not said.
type Prefer struct {
	Resolution string // merge-duplicates, ignore-duplicates
	Missing    string // default, null
	Return     string // representation, minimal, headers-only
	Count      string // exact, planned, estimated
	Tx         string // commit, rollback
	Handling   string // strict, lenient
	Timezone   string
	Max        *int64 // max-affected
	Timing     bool
	Unknown    []string // what is none of these, in the order sent
}

// ReadPrefer reads all Prefer headers of a request; the first of a kind counts.
func ReadPrefer(headers []string) Prefer {
	var p Prefer
	for _, header := range headers {
		for item := range strings.SplitSeq(header, ",") {
			if item = strings.TrimSpace(item); item != "" {
				p.add(item)
			}
		}
	}
	return p
}

func (p *Prefer) add(item string) {
	key, value, _ := strings.Cut(item, "=")
	var place *string
	var allowed string
	switch key {
	case "resolution":
		place, allowed = &p.Resolution, "merge-duplicates ignore-duplicates"
	case "missing":
		place, allowed = &p.Missing, "default null"
	case "return":
		place, allowed = &p.Return, "representation minimal headers-only"
	case "count":
		place, allowed = &p.Count, "exact planned estimated"
	case "tx":
		place, allowed = &p.Tx, "commit rollback"
	case "handling":
		place, allowed = &p.Handling, "strict lenient"
	case "timezone":
		place = &p.Timezone
	case "timing":
		p.Timing = true
		return
	case "max-affected":
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			if p.Max == nil {
				p.Max = &n
			}
			return
		}
	}
	known := place != nil && value != ""
	if known && allowed != "" {
		known = false
		for word := range strings.FieldsSeq(allowed) {
			known = known || word == value
		}
	}
	switch {
	case !known:
		p.Unknown = append(p.Unknown, item)
	case *place == "":
		*place = value
	}
}
