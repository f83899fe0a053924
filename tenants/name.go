package tenants

import (
	"fmt"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
)

// maxName is the longest name in bytes: it fits a host label with room for what provisioning puts before it.
const maxName = 40

// reserved names would be taken for something else: parts of hosts, sides, databases of PostgreSQL, files of old systems.
var reserved = map[string]bool{}

func init() {
	for _, name := range strings.Fields(`www api admin console host rowhouse catalog default template0 template1 postgres
		metrics null undefined localhost public con nul`) {
		reserved[name] = true
	}
}

// Reserved says that no tenant may take the name.
func Reserved(name string) bool { return reserved[name] }

// CheckName says why a new tenant cannot have the name: an ErrInvalid that tells which rule it breaks, without repeating
// the name.
func CheckName(name string) error {
	refuse := func(why string) error { return catalog.Invalid("tenant name %s", why) }
	switch {
	case name == "":
		return refuse("is empty")
	case len(name) > maxName:
		return refuse(fmt.Sprintf("is longer than %d characters", maxName))
	case isName(strings.ToLower(name)) && strings.ToLower(name) != name:
		return refuse(fmt.Sprintf("has upper case; did you mean %q?", strings.ToLower(name)))
	case !isName(name):
		return refuse("must be lower-case letters, digits and single hyphens, begin with a letter and not end with a hyphen")
	case reserved[name]:
		return refuse("is reserved")
	}
	if _, err := catalog.ParseID[catalog.Tenant](name); err == nil {
		return refuse("reads as an id")
	}
	return nil
}

// isName is the grammar ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ without "--".
func isName(s string) bool {
	if s == "" || len(s) > maxName || s[0] < 'a' || s[0] > 'z' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9':
		case c == '-' && s[i-1] != '-':
		default:
			return false
		}
	}
	return true
}

// parseRef reads a reference as it stands in a header, cookie or claim: an id in its canonical form, or a name, case
// folded. Nothing is trimmed and nothing is decoded.
func parseRef(s string) (string, error) {
	folded := foldASCII(s)
	if _, err := catalog.ParseID[catalog.Tenant](folded); err == nil {
		return folded, nil
	}
	if !isName(folded) {
		return "", ErrInvalid
	}
	return folded, nil
}

// foldASCII lowers ASCII letters only, so that no other character can become one.
func foldASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			b := []byte(s)
			for ; i < len(b); i++ {
				if 'A' <= b[i] && b[i] <= 'Z' {
					b[i] += 'a' - 'A'
				}
			}
			return string(b)
		}
	}
	return s
}
