package main

import (
	"encoding/json"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/rowhouse/rowhouse/"

// mayImport says, for each room, which of our own packages it may import. Whatever is not here may import nothing of ours.
var mayImport = map[string][]string{
	"catalog":                  {},
	"catalog/keyring":          {},
	"internal/fp":              {},
	"migrations":               {"internal/fp", "migrations/internal/"},
	"migrations/internal/":     {"internal/fp", "migrations/internal/"},
	"tenants":                  {"catalog", "internal/fp"},
	"tenants/identity":         {"tenants", "catalog", "internal/fp"},
	"tenants/jobs":             {"tenants", "catalog", "migrations", "internal/fp"},
	"tenants/admin":            {"tenants", "catalog", "internal/fp", "tenants/admin/"},
	"router":                   {"tenants", "catalog", "router/internal/", "internal/fp"},
	"router/internal/":         {"internal/fp"},
	"router/rest":              {"router/rest/internal/", "internal/fp"},
	"router/rest/internal/":    {"router/rest/internal/", "internal/fp"},
	"deploy/localpg":           {"deploy/localpg/internal/"},
	"deploy/localpg/internal/": {"deploy/localpg/internal/", "deploy/localpg"},
	"docs/examples/":           {"catalog", "catalog/keyring", "tenants", "router"},
	// What only tests import.
	"deploy/localpg/pgtest": {"deploy/localpg", "deploy/localpg/internal/"},
	"catalog/catalogtest":   {"catalog", "catalog/keyring", "migrations", "deploy/localpg/pgtest"},
}

// onlyIn says which packages may import a library, by the library's path.
var onlyIn = map[string][]string{
	"github.com/labstack/echo/":        {"router", "router/rest", "tenants/admin", "cmd/", "docs/examples/"},
	"github.com/riverqueue/":           {"tenants/jobs"},
	"github.com/danielgtaylor/huma/":   {"tenants/admin"},
	"github.com/golang-migrate/":       {"migrations", "migrations/internal/", "cmd/rowhouse/internal/bench"},
	"github.com/tink-crypto/":          {"catalog/keyring"},
	"github.com/golang-jwt/":           {"tenants/identity"},
	"github.com/lestrrat-go/":          {"tenants/identity"},
	"github.com/hashicorp/golang-lru/": {"router/internal/lease", "router/rest", "router/rest/internal/", "cmd/rowhouse/internal/bench"},
	"github.com/spf13/cobra":           {"cmd/"},
	"github.com/knadh/koanf":           {"cmd/"},
	"github.com/prometheus/":           {"cmd/"},
	"github.com/jedib0t/":              {"cmd/"},
	"github.com/vbauerster/":           {"cmd/"},
}

type listedPackage struct {
	ImportPath string
	Imports    []string
	GoFiles    []string
	Dir        string
}

func listPackages(t *testing.T, args ...string) []listedPackage {
	t.Helper()
	out, err := exec.Command("go", append([]string{"list", "-json=ImportPath,Imports,GoFiles,Dir"}, args...)...).Output()
	if err != nil {
		t.Fatal(err)
	}
	var found []listedPackage
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		var p listedPackage
		if err := d.Decode(&p); err != nil {
			t.Fatal(err)
		}
		found = append(found, p)
	}
	return found
}

// matches says whether a package is named by one of patterns: itself, or with a trailing slash what is below it.
func matches(pkg string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		return pkg == p || strings.HasSuffix(p, "/") && strings.HasPrefix(pkg, p)
	})
}

func rulesOf(pkg string) []string {
	if rules, ok := mayImport[pkg]; ok {
		return rules
	}
	for prefix, rules := range mayImport {
		if strings.HasSuffix(prefix, "/") && strings.HasPrefix(pkg, prefix) {
			return rules
		}
	}
	return nil
}

// Every arrow goes down, and no room imports a neighbour.
func TestImports(t *testing.T) {
	t.Parallel()
	for _, p := range listPackages(t, module+"...") {
		pkg := strings.TrimPrefix(p.ImportPath, module)
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, module)
			if isOurs && !strings.HasPrefix(pkg, "cmd/") && !matches(ours, rulesOf(pkg)) {
				t.Errorf("%s imports %s", pkg, ours)
			}
			for library, rooms := range onlyIn {
				if strings.HasPrefix(imported, library) && !matches(pkg, rooms) {
					t.Errorf("%s imports %s, which belongs to %v", pkg, imported, rooms)
				}
			}
		}
	}
}

// What a program that imports the packages links does not grow by what only the command needs, and the command links no
// test harness.
func TestImports_linked(t *testing.T) {
	t.Parallel()
	heavy := []string{
		"github.com/spf13/cobra", "github.com/knadh/koanf", "github.com/prometheus/", "github.com/riverqueue/", "github.com/danielgtaylor/huma/",
		"github.com/golang-migrate/", "github.com/tink-crypto/", "github.com/lestrrat-go/", "github.com/golang-jwt/",
	}
	for pkg, forbidden := range map[string][]string{
		"catalog":       append([]string{"github.com/labstack/"}, heavy...),
		"tenants":       append([]string{"github.com/labstack/"}, heavy...),
		"router":        heavy,
		"router/rest":   append([]string{module + "catalog", module + "tenants"}, heavy...),
		"cmd/rowhouse":  {module + "deploy/localpg/pgtest", module + "catalog/catalogtest", "testing"},
		"migrations":    {"github.com/labstack/", "github.com/riverqueue/", "github.com/tink-crypto/"},
		"tenants/admin": {"github.com/riverqueue/", "github.com/golang-migrate/", module + "router", module + "tenants/jobs"},
	} {
		for _, p := range listPackages(t, "-deps", module+pkg) {
			if slices.ContainsFunc(forbidden, func(f string) bool { return p.ImportPath == f || strings.HasPrefix(p.ImportPath, f) && f != "testing" }) {
				t.Errorf("%s links %s", pkg, p.ImportPath)
			}
		}
	}
}
