package parse

import (
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Bounds of one request. They are checked while reading, before anything recurses or a connection is taken.
const (
	maxEmbedDepth = 10
	maxEmbeds     = 50
	maxItems      = 500
	maxFilters    = 300
	maxLogicDepth = 20
	maxJSONPath   = 64
)

// A Pair is one key and value of the query string, decoded.
type Pair struct{ Key, Value string }

// A Query is what a query string asks for.
type Query struct {
	Pairs      []Pair // all of them, in the order sent
	Select     []Item // nil: everything
	Columns    []string
	OnConflict []string
	Filters    []Filter
	Logic      []Logic
	Orders     []Orders
	Ranges     []Range
	Args       []Pair // of a function: what is not a filter
}

// A Range is the page of one level. Nil means not said.
type Range struct {
	Path          []string
	Limit, Offset *int64
}

// ReadQuery reads a raw query string. For a function, pairs that are no operator expression are arguments.
func ReadQuery(raw string, function bool) (*Query, error) {
	q := &Query{}
	pairs, err := split(raw)
	if err != nil {
		return nil, err
	}
	q.Pairs = pairs
	filters := 0
	for i, p := range q.Pairs {
		var err *Error
		switch key := lastWord(p.Key); {
		case p.Key == "select":
			if first(q.Pairs[:i], p.Key) && p.Value != "" {
				q.Select, err = readSelect(p.Value)
			}
		case p.Key == "columns":
			if first(q.Pairs[:i], p.Key) {
				q.Columns, err = nameList("columns parameter", p.Value)
			}
		case p.Key == "on_conflict":
			if first(q.Pairs[:i], p.Key) {
				q.OnConflict, err = nameList("on_conflict parameter", p.Value)
			}
		case key == "order":
			err = q.addOrder(p)
		case key == "limit" || key == "offset":
			err = q.addRange(p, key)
		case key == "and" || key == "or":
			err = q.addLogic(p, &filters)
		case p.Key == "":
		default:
			filters++
			err = q.addFilter(p, function)
		}
		if err == nil && filters > maxFilters {
			err = tooMany("filters", maxFilters)
		}
		if err != nil {
			return nil, err
		}
	}
	return q, nil
}

// Nameless says whether a key is empty. Such a pair says nothing.
func (q *Query) Nameless() bool {
	return slices.ContainsFunc(q.Pairs, func(p Pair) bool { return p.Key == "" })
}

func lastWord(key string) string { return key[strings.LastIndexByte(key, '.')+1:] }

func first(before []Pair, key string) bool {
	for _, p := range before {
		if p.Key == key {
			return false
		}
	}
	return true
}

func samePath(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// split cuts a raw query string at & and ; and decodes the pieces. A key without "=" says nothing.
func split(raw string) ([]Pair, error) {
	var pairs []Pair
	for raw != "" {
		piece := raw
		if i := strings.IndexAny(raw, "&;"); i >= 0 {
			piece, raw = raw[:i], raw[i+1:]
		} else {
			raw = ""
		}
		key, value, found := strings.Cut(piece, "=")
		if !found {
			continue
		}
		p := Pair{Key: decode(key), Value: decode(value)}
		if !Text(p.Key) || !Text(p.Value) {
			return nil, &Error{Code: "PGRST100", Message: "the query string is not valid text", Details: "invalid UTF-8 or a zero byte"}
		}
		if pairs = append(pairs, p); len(pairs) > 2*maxItems {
			return nil, tooMany("parameters", 2*maxItems)
		}
	}
	return pairs, nil
}

// Text says whether PostgreSQL accepts s as text: valid UTF-8 without a zero byte.
func Text(s string) bool { return utf8.ValidString(s) && strings.IndexByte(s, 0) < 0 }

// decode undoes percent-encoding; "+" is a blank. A percent sign without two digits stands for itself.
func decode(s string) string {
	if strings.IndexByte(s, '%') < 0 && strings.IndexByte(s, '+') < 0 {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '+':
			b = append(b, ' ')
		case s[i] == '%' && i+2 < len(s) && hex(s[i+1]) >= 0 && hex(s[i+2]) >= 0:
			b = append(b, byte(hex(s[i+1])<<4|hex(s[i+2])))
			i += 2
		default:
			b = append(b, s[i])
		}
	}
	return string(b)
}

func hex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// addRange takes limit or offset. What is no number is ignored; a number that 64 bits cannot hold is not.
func (q *Query) addRange(p Pair, word string) *Error {
	n, ok, err := number(p.Value)
	if err != nil || !ok {
		return err
	}
	path, _, err := treePath(p.Key)
	if err != nil {
		return err
	}
	r := q.rangeAt(path)
	if word == "limit" {
		r.Limit = &n
	} else {
		r.Offset = &n
	}
	return nil
}

func (q *Query) rangeAt(path []string) *Range {
	for i := range q.Ranges {
		if samePath(q.Ranges[i].Path, path) {
			return &q.Ranges[i]
		}
	}
	q.Ranges = append(q.Ranges, Range{Path: path})
	return &q.Ranges[len(q.Ranges)-1]
}

func number(s string) (int64, bool, *Error) {
	digits := strings.TrimPrefix(s, "-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		return 0, false, &Error{Code: "22003", Message: "value is out of range for type bigint"}
	}
	return n, true, nil
}
