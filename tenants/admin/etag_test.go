package admin_test

import (
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestAPI_ETag(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bearer := "Bearer " + h.all.Reveal()
	op, err := h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: "acme"})
	if err != nil {
		t.Fatal(err)
	}
	h.setState(t, op.Tenant, catalog.StateActive)
	etag := func(path string) string {
		answer, _ := h.request(t, "GET /admin/v1"+path, "", "Authorization", bearer)
		return answer.Header.Get("ETag")
	}
	before := etag("/tenants/acme")
	if len(before) < 10 || before != etag("/tenants/"+op.Tenant.String()) {
		t.Errorf("ETags are %q and %q", before, etag("/tenants/"+op.Tenant.String()))
	}
	for name, c := range map[string]struct {
		header string
		status int
	}{"the one that holds": {before, 304}, "among others": {`"x", ` + before, 304}, "weak": {"W/" + before, 304}, "any": {"*", 304}, "another": {`"x"`, 200}} {
		answer, body := h.request(t, "GET /admin/v1/tenants/acme", "", "Authorization", bearer, "If-None-Match", c.header)
		if answer.StatusCode != c.status || answer.Header.Get("ETag") != before || c.status == 304 && body != "" {
			t.Errorf("%s is answered %d, %v: %s", name, answer.StatusCode, answer.Header, body)
		}
	}
	change := func(do, match string) (int, string) {
		answer, body := h.request(t, do, "", "Authorization", bearer, "If-Match", match)
		return answer.StatusCode, body
	}
	const domain = "/admin/v1/tenants/acme/domains/www.acme.example"
	for name, stale := range map[string]string{"another": `"x"`, "weak": "W/" + before} {
		if status, body := change("PUT "+domain, stale); status != 412 || !strings.Contains(body, `"code":"precondition_failed"`) {
			t.Errorf("%s is answered %d: %s", name, status, body)
		}
	}
	if acme, err := h.service.Tenant(t.Context(), "acme"); err != nil || len(acme.Domains) != 0 {
		t.Errorf("a change that was refused stands: %+v, %v", acme, err)
	}
	if status, body := change("PUT "+domain, before); status != 200 {
		t.Errorf("got %d: %s", status, body)
	}
	if status, _ := change("DELETE "+domain, before); status != 412 {
		t.Errorf("the ETag of before the change is answered %d", status)
	}
	if status, body := change("POST /admin/v1/tenants/acme/suspend", etag("/tenants/acme")); status != 200 {
		t.Errorf("got %d: %s", status, body)
	}
	if status, _ := change("POST /admin/v1/tenants/acme/resume", "*"); status != 200 {
		t.Errorf("any is answered %d", status)
	}
	if status, _ := change("POST /admin/v1/tenants/nobody/resume", "*"); status != 404 {
		t.Errorf("nobody is answered %d", status)
	}
	if status, _ := change("DELETE /admin/v1/settings/rest.max_rows", "*"); status != 412 {
		t.Errorf("what has no ETag is answered %d", status)
	}
	operation := "/operations/" + op.ID.String()
	stale := etag(operation)
	h.finish(t, op, catalog.OperationFailed)
	if _, err := h.catalog.Pool().Exec(t.Context(), `delete from rowhouse_test.queue`); err != nil {
		t.Fatal(err)
	}
	if status, _ := change("POST /admin/v1"+operation+":retry", stale); status != 412 {
		t.Errorf("an operation that went on is answered %d", status)
	}
	if status, body := change("POST /admin/v1"+operation+":retry", etag(operation)); status != 202 {
		t.Errorf("got %d: %s", status, body)
	}
}

// What is done leaves its trace: who, from where, under which request; and who was refused.
func TestAPI_Trail(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bearer := "Bearer " + h.all.Reveal()
	if answer, body := h.request(t, "PUT /admin/v1/settings/rest.max_rows", `{"value":5}`, "Authorization", bearer, "X-Request-Id", "mine-7"); answer.StatusCode != 204 {
		t.Fatalf("got %d: %s", answer.StatusCode, body)
	}
	reader := "Bearer " + h.token(t, "tenants.read").Reveal()
	if answer, _ := h.request(t, "DELETE /admin/v1/settings/rest.max_rows", "", "Authorization", reader); answer.StatusCode != 403 {
		t.Fatalf("got %d", answer.StatusCode)
	}
	for _, c := range []struct{ path, has string }{
		{"?limit=1", `"action":"api.refused","target":{"kind":"route","name":"unset-setting"},"actor":{"side":"host","subject":"ops","address":"127.0.0.1","request_id":"`},
		{"", `"action":"setting.set","target":{"kind":"setting","name":"rest.max_rows"},"actor":{"side":"host","subject":"ops","address":"127.0.0.1","request_id":"mine-7"}`},
		{"?order=oldest&limit=1", `"action":"token.create"`},
		{"?since=2001-01-01T00:00:00Z&limit=1", `"action":"api.refused"`},
		{"?since=2999-01-01T00:00:00Z", `"items":[]`},
	} {
		answer, body := h.request(t, "GET /admin/v1/audit"+c.path, "", "Authorization", bearer)
		if answer.StatusCode != 200 || !strings.Contains(body, c.has) {
			t.Errorf("%s: got %d, without %s: %s", c.path, answer.StatusCode, c.has, body)
		}
	}
	if answer, body := h.request(t, "GET /admin/v1/audit?after=3", "", "Authorization", bearer); answer.StatusCode != 422 {
		t.Errorf("got %d: %s", answer.StatusCode, body)
	}
	if answer, body := h.request(t, "GET /admin/v1/stats", "", "Authorization", bearer); answer.StatusCode != 200 || !strings.Contains(body, `"revision":`) {
		t.Errorf("got %d: %s", answer.StatusCode, body)
	}
}

// A cursor goes on where its page ended, and in its own list only.
func TestAPI_Cursors(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bearer := "Bearer " + h.all.Reveal()
	for _, name := range []string{"acme", "beta", "gamma"} {
		if _, err := h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	get := func(path string) (int, string, string) {
		answer, body := h.request(t, "GET /admin/v1"+path, "", "Authorization", bearer)
		link := strings.TrimSuffix(strings.TrimPrefix(answer.Header.Get("Link"), "</admin/v1"), `>; rel="next"`)
		return answer.StatusCode, body, link
	}
	for _, path := range []string{"/tenants", "/operations", "/audit", "/operations?tenant=acme"} {
		seen, next := 0, path+map[bool]string{true: "&", false: "?"}[strings.Contains(path, "?")]+"limit=1"
		for next != "" {
			status, body, link := get(next)
			if status != 200 {
				t.Fatalf("%s: got %d: %s", next, status, body)
			}
			seen, next = seen+1, link
		}
		if want := map[string]int{"/tenants": 3, "/operations": 3, "/audit": 4, "/operations?tenant=acme": 1}[path]; seen != want {
			t.Errorf("%s has %d pages of one, want %d", path, seen, want)
		}
	}
	_, _, link := get("/operations?limit=1")
	_, cursor, _ := strings.Cut(link, "cursor=")
	cursor, _, _ = strings.Cut(cursor, "&")
	for _, path := range []string{"/tenants?cursor=" + cursor, "/operations?tenant=acme&cursor=" + cursor, "/operations?cursor=x" + cursor, "/operations?cursor=AAAA"} {
		if status, body, _ := get(path); status != 400 || !strings.Contains(body, `"code":"cursor_invalid"`) {
			t.Errorf("%s is answered %d: %s", path, status, body)
		}
	}
}
