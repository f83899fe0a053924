// Package parse reads what a data API request says: its query string, its preferences and the head of its body.
//
// Nothing here knows a schema or a database. Names and values come out as they stood in the request, so nothing
// of a tree may be written into SQL text but through identifier quoting; the one exception, a cast, is held to a
// whitelist of characters here.
package parse

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// Error is a request that cannot be understood, in the words clients of the dialect know.
type Error struct {
	Code, Message, Details string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

func tooMany(what string, limit int) *Error {
	return &Error{Code: "PGRST100", Message: fmt.Sprintf("too many %s in one request", what), Details: fmt.Sprintf("at most %d are accepted", limit)}
}

func tooDeep(what string, limit int) *Error {
	return &Error{Code: "PGRST100", Message: fmt.Sprintf("%s is nested too deeply", what), Details: fmt.Sprintf("at most %d levels are accepted", limit)}
}

// A scanner walks over one decoded text and remembers how an error names it.
type scanner struct {
	label string // "filter", "order", …
	shown string // the input as the error quotes it
	src   string
	pos   int
}

func scan(label, src string) *scanner { return &scanner{label: label, shown: src, src: src} }

const endOfInput = "end of input"

// fail is the error at the current position. Columns count characters, from 1.
func (s *scanner) fail(expecting ...string) *Error {
	unexpected := "unexpected end of input"
	if s.pos < len(s.src) {
		_, size := utf8.DecodeRuneInString(s.src[s.pos:])
		quote := `"`
		if slices.Contains(expecting, endOfInput) { // what stands in the place of the end is quoted otherwise
			quote = "'"
		}
		unexpected = "unexpected " + quote + s.src[s.pos:s.pos+size] + quote
	}
	details := unexpected
	switch n := len(expecting); {
	case n == 1:
		details += " expecting " + expecting[0]
	case n > 1:
		details += " expecting " + strings.Join(expecting[:n-1], ", ") + " or " + expecting[n-1]
	}
	return &Error{
		Code:    "PGRST100",
		Message: fmt.Sprintf(`"failed to parse %s (%s)" (line 1, column %d)`, s.label, s.shown, utf8.RuneCountInString(s.src[:s.pos])+1),
		Details: details,
	}
}

func (s *scanner) done() bool   { return s.pos >= len(s.src) }
func (s *scanner) rest() string { return s.src[s.pos:] }

func (s *scanner) at(prefix string) bool { return strings.HasPrefix(s.src[s.pos:], prefix) }

// take consumes prefix if it stands here.
func (s *scanner) take(prefix string) bool {
	if !s.at(prefix) {
		return false
	}
	s.pos += len(prefix)
	return true
}

func (s *scanner) blanks() {
	for s.pos < len(s.src) && (s.src[s.pos] == ' ' || s.src[s.pos] == '\t') {
		s.pos++
	}
}

// until consumes up to the first byte of stop, or to the end.
func (s *scanner) until(stop string) string {
	start := s.pos
	if i := strings.IndexAny(s.src[start:], stop); i >= 0 {
		s.pos += i
	} else {
		s.pos = len(s.src)
	}
	return s.src[start:s.pos]
}
