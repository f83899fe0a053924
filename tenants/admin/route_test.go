package admin_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// documented is a route as the API's own description has it.
type documented struct{ do, permission string }

var placeholder = regexp.MustCompile(`\{[^}]*\}`)

// routes reads all routes out of the description, so that one that is added is tested without being named here.
func (h *house) routes(t *testing.T) []documented {
	t.Helper()
	_, text := h.request(t, "GET /openapi.json", "")
	var api struct {
		Paths map[string]map[string]struct {
			Permission string `json:"x-permission"`
		}
	}
	if err := json.Unmarshal([]byte(text), &api); err != nil {
		t.Fatal(err)
	}
	var found []documented
	for path, methods := range api.Paths {
		path = placeholder.ReplaceAllString(path, catalog.NewID[catalog.Operation]().String())
		for method, op := range methods {
			found = append(found, documented{strings.ToUpper(method) + " " + path, op.Permission})
		}
	}
	if len(found) < 25 {
		t.Fatalf("only %d routes are described", len(found))
	}
	return found
}

// Whatever the route: without a token, on the wrong side, or without the permission it needs, nobody comes in; and nothing
// is said of what is there.
func TestAPI_EveryRouteIsGuarded(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tenantsToken := "Bearer eyJhbGciOiJIUzI1NiJ9.eyJ0ZW5hbnQiOiJhY21lIiwicm9sZSI6InNlcnZpY2Vfcm9sZSJ9.c2ln"
	lacking := map[string]string{}
	for _, route := range h.routes(t) {
		if !slices.Contains(tenants.Permissions, route.permission) {
			t.Errorf("%s needs %q, which no token can be given", route.do, route.permission)
			continue
		}
		if lacking[route.permission] == "" {
			others := slices.DeleteFunc(slices.Clone(tenants.Permissions), func(p string) bool { return p == route.permission })
			lacking[route.permission] = "Bearer " + h.token(t, others...).Reveal()
		}
		for _, c := range []struct {
			name, authorization string
			status              int
			code                string
		}{
			{"no token", "", http.StatusUnauthorized, "unauthorized"},
			{"a tenant's token", tenantsToken, http.StatusUnauthorized, "unauthorized"},
			{"every permission but the one", lacking[route.permission], http.StatusForbidden, "forbidden"},
		} {
			var headers []string
			if c.authorization != "" {
				headers = []string{"Authorization", c.authorization}
			}
			answer, body := h.request(t, route.do, "", headers...)
			if answer.StatusCode != c.status || !strings.Contains(body, `"code":"`+c.code+`"`) {
				t.Errorf("%s with %s is answered %d, want %d: %s", route.do, c.name, answer.StatusCode, c.status, body)
			}
			if c.status == http.StatusForbidden && !strings.Contains(body, route.permission) {
				t.Errorf("%s does not say that %s is lacking: %s", route.do, route.permission, body)
			}
		}
	}
}
