package parse

import (
	"slices"
	"strconv"
	"strings"
)

// A Media is one media type of an Accept header.
type Media struct {
	Type   string // lower case, without parameters
	Params []Pair // lower-case keys, without q
	Text   string // as sent, for errors
}

// Param is the value of a parameter, "" when it has none of that name.
func (m Media) Param(key string) string {
	for _, p := range m.Params {
		if p.Key == key {
			return p.Value
		}
	}
	return ""
}

const maxAccept = 50

// ReadAccept reads Accept headers, best type first: by q, then by how specific it is, then as given.
func ReadAccept(headers []string) []Media {
	type weighed struct {
		Media
		q        float64
		specific int
	}
	var all []weighed
	for _, header := range headers {
		for _, item := range splitUnquoted(header, ',') {
			item = strings.TrimSpace(item)
			if item == "" || len(all) == maxAccept {
				continue
			}
			pieces := splitUnquoted(item, ';')
			w := weighed{q: 1, Media: Media{Type: strings.ToLower(strings.TrimSpace(pieces[0])), Text: strings.TrimRight(item, "; ")}}
			for _, piece := range pieces[1:] {
				key, value, ok := strings.Cut(strings.TrimSpace(piece), "=")
				if !ok {
					continue
				}
				key, value = strings.ToLower(key), strings.Trim(value, `"`)
				if key == "q" {
					if q, err := strconv.ParseFloat(value, 64); err == nil && q >= 0 && q <= 1 {
						w.q = q
					}
					continue
				}
				w.Params = append(w.Params, Pair{Key: key, Value: value})
			}
			w.specific = len(w.Params) - strings.Count(w.Type, "*")
			all = append(all, w)
		}
	}
	slices.SortStableFunc(all, func(a, b weighed) int {
		switch {
		case a.q != b.q && a.q > b.q:
			return -1
		case a.q != b.q:
			return 1
		}
		return b.specific - a.specific
	})
	var media []Media
	for _, w := range all {
		if w.q > 0 {
			media = append(media, w.Media)
		}
	}
	return media
}

// splitUnquoted splits at a byte that does not stand inside quotes.
func splitUnquoted(s string, at byte) []string {
	var pieces []string
	start, quoted := 0, false
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '"':
			quoted = !quoted
		case s[i] == at && !quoted:
			pieces = append(pieces, s[start:i])
			start = i + 1
		}
	}
	return append(pieces, s[start:])
}
