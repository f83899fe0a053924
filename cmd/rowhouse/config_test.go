package main

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// Every key is documented with its default, and nothing else is.
func TestConfig_documented(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), "\n## Configuration\n")
	if !found {
		t.Fatal("docs/operations.md has no section Configuration")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	documented := map[string]string{}
	for line := range strings.SplitSeq(section, "\n") {
		if cells := strings.Split(line, "|"); len(cells) > 3 && strings.HasPrefix(cells[1], " `") && !strings.Contains(cells[1], "/") {
			documented[strings.Trim(cells[1], " `")] = strings.Trim(cells[2], " `–")
		}
	}
	for _, k := range keys {
		if got, ok := documented[k.name]; !ok || got != k.fallback {
			t.Errorf("%s: documented with %q, is %q", k.name, got, k.fallback)
		}
		delete(documented, k.name)
	}
	for name := range documented {
		t.Errorf("%s is documented and not known", name)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add("listen: :1\nrouter: {max_pools: 5}\n")
	f.Add("rest:\n  schemas: [a, b]\n")
	f.Add("a: &x 1\nb: *x\n")
	f.Add("[")
	f.Fuzz(func(t *testing.T, content string) {
		file := t.TempDir() + "/c.yaml"
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg, err := loadConfig(file, nil, nil)
		if err == nil && cfg.Int("router.max_pools") < 1 {
			t.Error(fmt.Sprint("taken: ", content))
		}
	})
}
