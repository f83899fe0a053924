package parse

import (
	"encoding/json"
	"slices"
	"unicode/utf8"
)

const (
	maxBodyDepth  = 64
	maxBodyDigits = 400
)

// A Body is a JSON body that was looked at but not taken apart: PostgreSQL gets the bytes as they came.
type Body struct {
	Raw   []byte
	Array bool     // "[" comes first
	Keys  []string // of its objects, in the order of the first; nil without objects
	Rows  int      // objects in it
}

var errBody = &Error{Code: "PGRST102", Message: "Empty or invalid json"}

// ReadBody checks a JSON body and finds the keys of its objects. Unless mixed, all objects must have the same.
func ReadBody(raw []byte, mixed bool) (*Body, error) {
	if !utf8.Valid(raw) {
		return nil, errBody
	}
	s := &bodyScanner{src: raw, mixed: mixed}
	body := &Body{Raw: raw}
	s.blanks()
	if s.at('[') {
		body.Array = true
	}
	if err := s.top(body); err != nil {
		return nil, err
	}
	s.blanks()
	if s.pos != len(s.src) {
		return nil, errBody
	}
	if !body.Array && body.Rows == 0 { // a bare scalar: nothing to write
		body.Raw, body.Array = []byte("[]"), true
	}
	return body, nil
}

type bodyScanner struct {
	src   []byte
	pos   int
	mixed bool
}

func (s *bodyScanner) at(c byte) bool { return s.pos < len(s.src) && s.src[s.pos] == c }

func (s *bodyScanner) take(c byte) bool {
	if s.at(c) {
		s.pos++
		return true
	}
	return false
}

func (s *bodyScanner) blanks() {
	for s.pos < len(s.src) {
		switch s.src[s.pos] {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return
		}
	}
}

func (s *bodyScanner) top(body *Body) error {
	if s.at('{') {
		keys, err := s.object(1, true)
		body.Keys, body.Rows = keys, 1
		return err
	}
	if !s.take('[') {
		return s.value(1)
	}
	s.blanks()
	if s.take(']') {
		return nil
	}
	uneven := false
	for {
		s.blanks()
		if s.at('{') {
			keys, err := s.object(2, body.Rows == 0 || !s.mixed)
			if err != nil {
				return err
			}
			if body.Rows++; body.Rows == 1 {
				body.Keys = keys
			} else if !s.mixed && !sameKeys(body.Keys, keys) {
				uneven = true
			}
		} else {
			uneven = true
			if err := s.value(2); err != nil {
				return err
			}
		}
		s.blanks()
		if s.take(',') {
			continue
		}
		if !s.take(']') {
			return errBody
		}
		break
	}
	if uneven {
		return &Error{Code: "PGRST102", Message: "All object keys must match"}
	}
	return nil
}

func sameKeys(a, b []string) bool {
	if slices.Equal(a, b) {
		return true
	}
	if len(a) != len(b) {
		return false
	}
	for _, key := range b {
		if !slices.Contains(a, key) {
			return false
		}
	}
	return true
}

// object walks over {…} and, if wanted, gives its keys without repeats.
func (s *bodyScanner) object(depth int, wanted bool) ([]string, error) {
	if depth > maxBodyDepth {
		return nil, &Error{Code: "PGRST102", Message: "Empty or invalid json", Details: "nested more than 64 levels deep"}
	}
	s.pos++
	keys := []string{}
	seen := map[string]bool{}
	s.blanks()
	if s.take('}') {
		return keys, nil
	}
	for {
		s.blanks()
		start := s.pos
		if err := s.text(); err != nil {
			return nil, err
		}
		if wanted {
			var key string
			if json.Unmarshal(s.src[start:s.pos], &key) != nil || !Text(key) {
				return nil, errBody
			}
			if !seen[key] {
				seen[key] = true
				if keys = append(keys, key); len(keys) > 2*maxItems {
					return nil, tooMany("columns", 2*maxItems)
				}
			}
		}
		s.blanks()
		if !s.take(':') {
			return nil, errBody
		}
		s.blanks()
		if err := s.value(depth + 1); err != nil {
			return nil, err
		}
		s.blanks()
		if s.take(',') {
			continue
		}
		if !s.take('}') {
			return nil, errBody
		}
		return keys, nil
	}
}

func (s *bodyScanner) value(depth int) error {
	if s.pos >= len(s.src) {
		return errBody
	}
	switch c := s.src[s.pos]; {
	case c == '{':
		_, err := s.object(depth, false)
		return err
	case c == '[':
		return s.array(depth)
	case c == '"':
		return s.text()
	case c == '-' || c >= '0' && c <= '9':
		return s.number()
	}
	for _, word := range []string{"true", "false", "null"} {
		if len(s.src)-s.pos >= len(word) && string(s.src[s.pos:s.pos+len(word)]) == word {
			s.pos += len(word)
			return nil
		}
	}
	return errBody
}

func (s *bodyScanner) array(depth int) error {
	if depth > maxBodyDepth {
		return &Error{Code: "PGRST102", Message: "Empty or invalid json", Details: "nested more than 64 levels deep"}
	}
	s.pos++
	s.blanks()
	if s.take(']') {
		return nil
	}
	for {
		s.blanks()
		if err := s.value(depth + 1); err != nil {
			return err
		}
		s.blanks()
		if s.take(',') {
			continue
		}
		if !s.take(']') {
			return errBody
		}
		return nil
	}
}

func (s *bodyScanner) text() error {
	if !s.take('"') {
		return errBody
	}
	for s.pos < len(s.src) {
		c := s.src[s.pos]
		s.pos++
		switch {
		case c == '"':
			return nil
		case c < ' ':
			return errBody
		case c == '\\':
			if err := s.escape(); err != nil {
				return err
			}
		}
	}
	return errBody
}

func (s *bodyScanner) escape() error {
	if s.pos >= len(s.src) {
		return errBody
	}
	c := s.src[s.pos]
	s.pos++
	switch c {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return nil
	case 'u':
		for range 4 {
			if s.pos >= len(s.src) || hex(s.src[s.pos]) < 0 {
				return errBody
			}
			s.pos++
		}
		return nil
	}
	return errBody
}

// number walks over a number. Its written-out length is bounded: jsonb would expand 1e9999 to ten thousand digits.
func (s *bodyScanner) number() error {
	s.take('-')
	whole := s.digits()
	if whole == 0 || whole > 1 && s.src[s.pos-whole] == '0' {
		return errBody
	}
	fraction := 0
	if s.take('.') {
		if fraction = s.digits(); fraction == 0 {
			return errBody
		}
	}
	exponent := 0
	if s.take('e') || s.take('E') {
		if !s.take('-') {
			s.take('+')
		}
		start := s.pos
		n := s.digits()
		if n == 0 {
			return errBody
		}
		for _, c := range s.src[start:s.pos] {
			if exponent = exponent*10 + int(c-'0'); exponent > maxBodyDigits {
				break
			}
		}
	}
	if whole+fraction+exponent > maxBodyDigits {
		return &Error{Code: "PGRST102", Message: "Empty or invalid json", Details: "a number of more than 400 digits"}
	}
	return nil
}

func (s *bodyScanner) digits() int {
	start := s.pos
	for s.pos < len(s.src) && s.src[s.pos] >= '0' && s.src[s.pos] <= '9' {
		s.pos++
	}
	return s.pos - start
}
