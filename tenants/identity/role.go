package identity

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
)

// claimPath leads to a value among the claims: names of members and indexes of elements.
type claimPath []any

// CheckClaim says why text cannot name a claim.
func CheckClaim(text string) error {
	_, err := parseClaim(text)
	return err
}

// parseClaim reads the name of a claim, as it is, or a path that begins with "." or "$": members as .name, ."any name"
// or ['any name'], elements as [0].
func parseClaim(text string) (claimPath, error) {
	if text == "" {
		return nil, fmt.Errorf("claim has no name: %w", catalog.ErrInvalid)
	}
	if text[0] != '.' && text[0] != '$' {
		return claimPath{text}, nil
	}
	var path claimPath
	for rest := strings.TrimPrefix(text, "$"); rest != ""; {
		step, after, ok := parseStep(rest)
		if !ok {
			return nil, fmt.Errorf("claim path cannot be read at character %d: %w", len(text)-len(rest)+1, catalog.ErrInvalid)
		}
		path, rest = append(path, step), after
	}
	if path == nil {
		return nil, fmt.Errorf("claim path leads nowhere: %w", catalog.ErrInvalid)
	}
	return path, nil
}

func parseStep(s string) (step any, rest string, ok bool) {
	switch {
	case strings.HasPrefix(s, `."`):
		name, rest, ok := strings.Cut(s[2:], `"`)
		return name, rest, ok
	case s[0] == '.':
		end := strings.IndexAny(s[1:], `.["'] `)
		if end < 0 {
			end = len(s) - 1
		}
		return s[1 : end+1], s[end+1:], end > 0
	case strings.HasPrefix(s, `['`), strings.HasPrefix(s, `["`):
		name, rest, ok := strings.Cut(s[2:], s[1:2]+"]")
		return name, rest, ok
	case s[0] == '[':
		digits, rest, ok := strings.Cut(s[1:], "]")
		index, err := strconv.ParseUint(digits, 10, 16)
		return int(index), rest, ok && err == nil && !strings.HasPrefix(digits, "+")
	}
	return nil, "", false
}

// find follows the path. What is not there is not found, whatever stands in its way.
func (p claimPath) find(claims map[string]any) (any, bool) {
	var value any = claims
	for _, step := range p {
		switch step := step.(type) {
		case string:
			object, _ := value.(map[string]any)
			member, there := object[step]
			if !there {
				return nil, false
			}
			value = member
		case int:
			list, _ := value.([]any)
			if step >= len(list) {
				return nil, false
			}
			value = list[step]
		}
	}
	return value, true
}
