package admin_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/tenants"
)

func TestConsole(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if _, err := h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: "acme", Edition: "<script>alert(1)</script>"}); err != nil {
		t.Fatal(err)
	}
	form := []string{"Content-Type", "application/x-www-form-urlencoded"}
	signIn := url.Values{"token": {h.all.Reveal()}}.Encode()
	cookieOf := func(answer *http.Response) *http.Cookie {
		for _, c := range answer.Cookies() {
			if c.Name == "rowhouse_console" {
				return c
			}
		}
		return nil
	}

	answer, body := h.request(t, "GET /console/", "")
	if answer.StatusCode != 200 || !strings.Contains(body, `name="token"`) || strings.Contains(body, "acme") {
		t.Fatalf("got %d: %s", answer.StatusCode, body)
	}
	if answer, _ := h.request(t, "GET /console", ""); answer.StatusCode != 303 || answer.Header.Get("Location") != "/console/" {
		t.Errorf("got %d, %v", answer.StatusCode, answer.Header)
	}

	answer, body = h.request(t, "POST /console/login", "token=RHCANARY", form...)
	if answer.StatusCode != 401 || strings.Contains(body, "RHCANARY") || !strings.Contains(body, "does not hold") || cookieOf(answer).MaxAge >= 0 {
		t.Errorf("got %d, %v: %s", answer.StatusCode, answer.Header, body)
	}
	if answer, _ := h.request(t, "POST /console/login", signIn, append(form, "Sec-Fetch-Site", "cross-site")...); answer.StatusCode != 403 || cookieOf(answer) != nil {
		t.Errorf("another site's page signs in: %d", answer.StatusCode)
	}
	answer, _ = h.request(t, "POST /console/login", signIn, form...)
	cookie := cookieOf(answer)
	if answer.StatusCode != 303 || cookie == nil || !cookie.HttpOnly || cookie.SameSite != http.SameSiteStrictMode || cookie.Path != "/console/" {
		t.Fatalf("got %d, %v", answer.StatusCode, answer.Header)
	}

	answer, body = h.request(t, "GET /console/", "", "Cookie", cookie.Name+"="+cookie.Value)
	for _, has := range []string{"acme", "tenant.provision", "ops", "1.2.3", `http-equiv="refresh"`} {
		if !strings.Contains(body, has) {
			t.Errorf("it does not show %s", has)
		}
	}
	for _, never := range []string{h.all.Reveal(), "<script", "src=", "http://", "https://"} {
		if strings.Contains(body, never) {
			t.Errorf("it holds %s", never)
		}
	}
	if policy := answer.Header.Get("Content-Security-Policy"); !strings.HasPrefix(policy, "default-src 'none'; style-src 'sha256-") || strings.Contains(policy, "unsafe") {
		t.Errorf("policy is %q", policy)
	}

	reader := h.token(t, "servers.read")
	if _, body := h.request(t, "GET /console/", "", "Cookie", cookie.Name+"="+reader.Reveal()); strings.Contains(body, "acme") || !strings.Contains(body, "lacks the permission tenants.read") {
		t.Errorf("it shows what the token does not permit: %s", body)
	}
	if answer, _ := h.request(t, "POST /console/logout", "", "Cookie", cookie.Name+"="+cookie.Value); cookieOf(answer) == nil || cookieOf(answer).MaxAge >= 0 {
		t.Errorf("the cookie stays: %v", answer.Header)
	}
	if answer, _ := h.request(t, "GET /console/nothing", ""); answer.StatusCode != 404 {
		t.Errorf("got %d", answer.StatusCode)
	}
}

func TestDocs(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	answer, body := h.request(t, "GET /docs", "")
	if answer.StatusCode != 200 {
		t.Fatalf("got %d", answer.StatusCode)
	}
	for _, has := range []string{"/admin/v1/operations/{id}:retry", "tenants.suspend", "max_connections"} {
		if !strings.Contains(body, has) {
			t.Errorf("it does not show %s", has)
		}
	}
	for _, never := range []string{"<script", "src=", "http://", "https://"} {
		if strings.Contains(body, never) {
			t.Errorf("it holds %s", never)
		}
	}
}
