package tenants

import (
	"fmt"
	"net"
	"net/http"
	"strconv"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
)

const placeholder = "{tenant}"

// CheckDomain says why a pattern cannot be one for FromDomain: it must hold {tenant} once, as a whole label, with a
// domain after it.
func CheckDomain(pattern string) error {
	rest, ok := strings.CutPrefix(pattern, placeholder+".")
	if !ok || strings.ContainsAny(rest, "{}*:/ ") {
		return fmt.Errorf("domain pattern must be {tenant} and one domain, as in {tenant}.example.com: %w", ErrInvalid)
	}
	if _, err := ParseHost(rest); err != nil {
		return fmt.Errorf("domain pattern: %w", err)
	}
	return nil
}

// FromDomain reads the tenant's name out of the request's host by patterns such as {tenant}.example.com. A pattern is
// anchored at both ends and the placeholder is exactly one label. A host that fits no pattern is no signal, and neither
// is a reserved label; one that is no host at all is ErrInvalid.
//
// It panics on a pattern that CheckDomain refuses: patterns are the program's own.
func FromDomain(patterns ...string) Contributor {
	suffixes := make([]string, len(patterns))
	for i, p := range patterns {
		if err := CheckDomain(p); err != nil {
			panic(err)
		}
		suffixes[i] = foldASCII(strings.TrimPrefix(p, placeholder))
	}
	return signal{name: "host", ContributorFunc: func(r *http.Request) (string, bool, error) {
		host, err := ParseHost(r.Host)
		if err != nil {
			return "", false, err
		}
		for _, suffix := range suffixes {
			label, ok := strings.CutSuffix(host, suffix)
			if !ok || label == "" || strings.Contains(label, ".") {
				continue
			}
			if reserved[label] {
				return "", false, nil
			}
			return label, true, nil // a label that cannot be a name is unknown, as one that nobody has
		}
		return "", false, nil
	}}
}

// FromCustomDomain finds the tenant whose own domain the request's host is, whole.
func FromCustomDomain(d *Directory) Contributor {
	return signal{name: "host", ContributorFunc: func(r *http.Request) (string, bool, error) {
		host, err := ParseHost(r.Host)
		if err != nil {
			return "", false, err
		}
		t := d.owner(host)
		if t == nil {
			return "", false, nil
		}
		return t.ID.String(), true, nil
	}}
}

// CheckHost says why a host name cannot be a tenant's own domain, or gives it in the form that requests are compared with.
// An address, a single label and what has a port are none.
func CheckHost(host string) (string, error) {
	folded, err := ParseHost(host)
	if err != nil || folded == "" || strings.Contains(host, ":") || !strings.Contains(folded, ".") || net.ParseIP(folded) != nil {
		return "", catalog.Invalid("domain: want a host name such as www.example.com")
	}
	return folded, nil
}

// ParseHost reads a host as a request names it: it strips the port and one trailing dot and folds case. What is left must
// be labels of letters, digits, hyphens and underscores, or an IP address; anything else is ErrInvalid. An empty host is
// none.
func ParseHost(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	refuse := fmt.Errorf("is no host name: %w", ErrInvalid)
	if strings.HasPrefix(s, "[") {
		if end := strings.IndexByte(s, ']'); end > 0 && net.ParseIP(s[1:end]) != nil && (end+1 == len(s) || isPort(s[end+1:])) {
			return s[:end+1], nil
		}
		return "", refuse
	}
	if colon := strings.IndexByte(s, ':'); colon >= 0 {
		if !isPort(s[colon:]) {
			return "", refuse
		}
		s = s[:colon]
	}
	s = foldASCII(strings.TrimSuffix(s, "."))
	if s == "" || len(s) > 253 {
		return "", refuse
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return "", refuse
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return "", refuse
			}
		}
	}
	return s, nil
}

// isPort reads ":443".
func isPort(s string) bool {
	if len(s) < 2 || len(s) > 6 || s[0] != ':' || s[1] == '+' {
		return false
	}
	n, err := strconv.ParseUint(s[1:], 10, 16)
	return err == nil && n > 0
}
