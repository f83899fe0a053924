package identity

import (
	"errors"
	"fmt"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
)

func TestClaimPath(t *testing.T) {
	t.Parallel()
	claims := map[string]any{
		"role": "plain", "https://example.com/role": "url", "a.b": "dotted",
		"a":     map[string]any{"b": []any{"zero", map[string]any{"c": "deep"}}, "odd name": "quoted"},
		"empty": map[string]any{"": "nameless"},
	}
	for _, c := range []struct{ path, want string }{
		{"role", "plain"},
		{"https://example.com/role", "url"},
		{"a.b", "dotted"},
		{".role", "plain"},
		{"$.role", "plain"},
		{".a.b[0]", "zero"},
		{"$['a'].b[1].c", "deep"},
		{`.a["b"][1]['c']`, "deep"},
		{`.a."odd name"`, "quoted"},
		{`."https://example.com/role"`, "url"},
		{`.empty['']`, "nameless"},
		{".a.b[2]", ""},
		{".a[0]", ""},
		{".role.x", ""},
		{".role[0]", ""},
		{".nothing.at.all", ""},
	} {
		path, err := parseClaim(c.path)
		if err != nil {
			t.Errorf("%s: %v", c.path, err)
			continue
		}
		got, found := path.find(claims)
		if found != (c.want != "") || found && got != c.want {
			t.Errorf("%s: got %v, %v, want %q", c.path, got, found, c.want)
		}
	}
	for _, text := range []string{"", ".", "$", "..a", ".a.", ".a[", ".a[]", ".a[-1]", ".a[+1]", ".a[x]", ".a[99999]", ".a['b]", `.a."b`, ".a b", "$a", ".a[*]", ".a]"} {
		if err := CheckClaim(text); !errors.Is(err, catalog.ErrInvalid) {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func FuzzClaimPath(f *testing.F) {
	f.Add(".a.b[0]")
	f.Add(`$['x']."y z"[1]`)
	f.Fuzz(func(t *testing.T, text string) {
		path, err := parseClaim(text)
		if (err == nil) == (len(path) == 0) {
			t.Fatalf("%q: %v, %v", text, path, err)
		}
		path.find(map[string]any{"a": []any{fmt.Sprint(path)}})
	})
}
