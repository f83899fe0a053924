package tenants_test

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestCheckName(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"a", "acme", "a1", "acme-2", strings.Repeat("a", 40), "x-y-z"} {
		if err := tenants.CheckName(name); err != nil {
			t.Errorf("%q is refused: %v", name, err)
		}
	}
	for _, c := range []struct{ name, why string }{
		{"", "is empty"},
		{strings.Repeat("a", 41), "longer than 40"},
		{"Acme", `did you mean "acme"`},
		{"ACME", `did you mean "acme"`},
		{"a_b", "must be"},
		{"-a", "must be"},
		{"a-", "must be"},
		{"a--b", "must be"},
		{"1a", "must be"},
		{"123", "must be"},
		{"../etc", "must be"},
		{`a"b`, "must be"},
		{"a\n", "must be"},
		{"a b", "must be"},
		{"a%62", "must be"},
		{"acme\u200b", "must be"},
		{"аcme", "must be"}, // the first letter is Cyrillic
		{"ａcme", "must be"}, // full width
		{"acme.com", "must be"},
		{"deadbeef-0000-4000-8000-00000000abcd", "reads as an id"},
		{"www", "is reserved"},
		{"default", "is reserved"},
		{"postgres", "is reserved"},
		{"host", "is reserved"},
		{"localhost", "is reserved"},
	} {
		err := tenants.CheckName(c.name)
		if !errors.Is(err, catalog.ErrInvalid) || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%q: got %v, want %s", c.name, err, c.why)
		}
	}
}

func FuzzCheckName(f *testing.F) {
	for _, seed := range []string{"acme", "a--b", "Acme", "a-", "\x00", "xn--a", "deadbeef-0000-4000-8000-00000000abcd"} {
		f.Add(seed)
	}
	grammar := regexp.MustCompile(`^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`)
	f.Fuzz(func(t *testing.T, name string) {
		if tenants.CheckName(name) == nil && (!grammar.MatchString(name) || strings.Contains(name, "--") || tenants.Reserved(name)) {
			t.Errorf("%q is taken", name)
		}
	})
}
