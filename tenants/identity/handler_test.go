package identity

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// sessionOf resolves a request of acme's, with claims that somebody verified.
func sessionOf(t *testing.T, claims *tenants.Claims) context.Context {
	t.Helper()
	acme := &catalog.Tenant{ID: tenantID, Name: "acme", State: catalog.StateActive, Placement: catalog.Dedicated, StateReason: "RHCANARY", Settings: map[string]json.RawMessage{"auth.issuer": json.RawMessage(`"RHCANARY"`)}}
	resolver := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.Always("acme")}}
	r := httptest.NewRequest("GET", "/", nil)
	if claims != nil {
		r = r.WithContext(tenants.WithClaims(r.Context(), claims))
	}
	s, err := resolver.Resolve(r, lookup{"acme": acme})
	if err != nil {
		t.Fatal(err)
	}
	return tenants.NewContext(r.Context(), s)
}

func TestHandler(t *testing.T) {
	t.Parallel()
	tenant := `"tenant":{"name":"acme","id":"` + tenantID.String() + `"}`
	rest := `"permissions":[],"features":{},"settings":{}`
	ann := sessionOf(t, &tenants.Claims{Subject: "ann", Role: "authenticated", Impersonator: "ops"})
	notFound := `{"code":"not_found","message":"There is nothing at this path","details":null,"hint":null}`
	withSettings := HandlerConfig{
		AnonRole: func(*catalog.Tenant) string { return "" },
		Settings: func(t *catalog.Tenant) map[string]json.RawMessage {
			return map[string]json.RawMessage{"app.title": json.RawMessage(`"of ` + t.Name + `"`)}
		},
	}
	for _, c := range []struct {
		name   string
		cfg    HandlerConfig
		ctx    context.Context
		do     string
		status int
		body   string
	}{
		{
			"a user of the tenant",
			HandlerConfig{},
			ann, "GET /tenant/v1/session", 200,
			`{"subject":"ann","side":"tenant",` + tenant + `,"role":"authenticated",` + rest + `,"impersonator":"ops"}`,
		},
		{
			"nobody in the tenant",
			HandlerConfig{},
			sessionOf(t, nil), "GET /tenant/v1/session", 200,
			`{"subject":null,"side":"anonymous",` + tenant + `,"role":"anon",` + rest + `,"impersonator":null}`,
		},
		{
			"nobody where nobody may, and settings that may be seen", withSettings, sessionOf(t, nil), "GET /tenant/v1/session", 200,
			`{"subject":null,"side":"anonymous",` + tenant + `,"role":null,"permissions":[],"features":{},"settings":{"app.title":"of acme"},"impersonator":null}`,
		},
		{
			"the host, which is in no tenant",
			HandlerConfig{},
			tenants.NewContext(t.Context(), tenants.Host("ops")), "GET /tenant/v1/session", 200,
			`{"subject":"ops","side":"host","tenant":null,"role":null,` + rest + `,"impersonator":null}`,
		},
		{
			"no session",
			HandlerConfig{},
			t.Context(), "GET /tenant/v1/session", 400,
			`{"code":"tenant_required","message":"The request names no tenant","details":null,"hint":null}`,
		},
		{
			"another method",
			HandlerConfig{},
			ann, "POST /tenant/v1/session", 405,
			`{"code":"method_not_allowed","message":"This can only be read","details":null,"hint":null}`,
		},
		{"what is not there yet", HandlerConfig{}, ann, "POST /auth/v1/token?grant_type=password", 404, notFound},
		{"a path that is not cleaned", HandlerConfig{}, ann, "GET /tenant/v1/x/../session", 404, notFound},
		{"a path with an escape", HandlerConfig{}, ann, "GET /tenant/v1%2fsession", 404, notFound},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			method, target, _ := strings.Cut(c.do, " ")
			w := httptest.NewRecorder()
			NewHandler(c.cfg).ServeHTTP(w, httptest.NewRequest(method, target, nil).WithContext(c.ctx))
			if w.Code != c.status {
				t.Errorf("status is %d, want %d", w.Code, c.status)
			}
			if d := cmp.Diff(c.body, w.Body.String()); d != "" {
				t.Error(d)
			}
			if got := w.Header().Get("Cache-Control"); got != "private, no-store" {
				t.Errorf("Cache-Control is %q", got)
			}
			if got := w.Header().Get("Content-Type"); got != "application/json; charset=utf-8" {
				t.Errorf("Content-Type is %q", got)
			}
			if (c.status != 200) != strings.HasPrefix(w.Header().Get("Proxy-Status"), "rowhouse; error=") {
				t.Errorf("Proxy-Status is %q", w.Header().Get("Proxy-Status"))
			}
			if strings.Contains(w.Body.String(), "RHCANARY") || strings.Contains(w.Body.String(), "dedicated") {
				t.Errorf("it tells what is the host's: %s", w.Body)
			}
		})
	}

	t.Run("an error of the session is the router's to answer", func(t *testing.T) {
		t.Parallel()
		var got error
		h := NewHandler(HandlerConfig{Error: func(w http.ResponseWriter, _ *http.Request, err error) {
			got = err
			w.WriteHeader(http.StatusTeapot)
		}})
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest("GET", "/tenant/v1/session", nil))
		if w.Code != http.StatusTeapot || got != tenants.ErrNoTenant {
			t.Errorf("got %d, %v", w.Code, got)
		}
	})
}
