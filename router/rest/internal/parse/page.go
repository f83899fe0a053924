package parse

import (
	"math"
	"strconv"
	"strings"
)

// A Page is the rows that a read asks for, from Offset on.
type Page struct {
	Offset int64 // may be negative: PostgreSQL says what it thinks of that
	Limit  *int64
}

var (
	errNegativeLimit = &Error{Code: "PGRST103", Message: "Requested range not satisfiable", Details: "Limit should be greater than or equal to zero."}
	errLowerUpper    = &Error{Code: "PGRST103", Message: "Requested range not satisfiable", Details: "The lower boundary must be lower than or equal to the upper boundary in the Range header."}
)

// ReadPage intersects limit and offset with a Range header ("a-b" or "a-"; anything else is ignored).
func ReadPage(r Range, header string) (Page, error) {
	var p Page
	if r.Offset != nil {
		p.Offset = *r.Offset
	}
	if r.Limit != nil {
		if *r.Limit < 0 {
			return p, errNegativeLimit
		}
		p.Limit = r.Limit
	}
	lower, upper, ok := rangeHeader(header)
	if !ok {
		return p, nil
	}
	if lower > upper {
		return p, errLowerUpper
	}
	end := int64(math.MaxInt64) // first row behind the page
	if p.Limit != nil && p.Offset <= math.MaxInt64-*p.Limit {
		end = p.Offset + *p.Limit
	}
	if upper < math.MaxInt64 {
		end = min(end, upper+1)
	}
	empty := p.Limit != nil && *p.Limit == 0
	p.Offset = max(p.Offset, lower)
	if end <= p.Offset && !empty {
		return p, errNegativeLimit
	}
	if end < math.MaxInt64 {
		limit := max(end-p.Offset, 0)
		p.Limit = &limit
	}
	return p, nil
}

func rangeHeader(header string) (lower, upper int64, ok bool) {
	from, to, found := strings.Cut(header, "-")
	if !found || from == "" || strings.Trim(from+to, "0123456789") != "" {
		return 0, 0, false
	}
	lower, err := strconv.ParseInt(from, 10, 64)
	if err != nil {
		return 0, 0, false
	}
	if to == "" {
		return lower, math.MaxInt64, true
	}
	if upper, err = strconv.ParseInt(to, 10, 64); err != nil {
		return 0, 0, false
	}
	return lower, upper, true
}
