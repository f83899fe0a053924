package admin_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/admin"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// queue keeps what it is given in a table, in the transaction that it is given.
type queue struct{}

func (queue) Enqueue(ctx context.Context, tx pgx.Tx, op *catalog.Operation) error {
	_, err := tx.Exec(ctx, `insert into rowhouse_test.queue values ($1)`, op.ID)
	return err
}

// house is an admin listener over a catalog of its own.
type house struct {
	url     string
	catalog *catalog.Catalog
	service *tenants.Service
	log     *lockedBuffer
	all     catalog.Secret // a token that permits everything
}

type lockedBuffer struct {
	mu sync.Mutex // guards the buffer
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newHouse(t *testing.T) *house {
	t.Helper()
	cat, _ := catalogtest.New(t)
	if _, err := cat.Pool().Exec(t.Context(), `create schema rowhouse_test; create table rowhouse_test.queue (operation uuid primary key)`, pgx.QueryExecModeSimpleProtocol); err != nil {
		t.Fatal(err)
	}
	h := &house{catalog: cat, service: tenants.NewService(cat, queue{}), log: &lockedBuffer{}}
	e := echo.New()
	err := admin.Register(e, h.service, admin.Config{
		Version: "1.2.3", Logger: slog.New(slog.NewTextHandler(h.log, nil)), Hosts: []string{"admin.example.com"},
		Authenticate: func(ctx context.Context, text string) (tenants.Session, []string, error) {
			session, token, err := h.service.Authenticate(ctx, text)
			if err != nil {
				return session, nil, err
			}
			return session, token.Permissions, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	e.GET("/panic", func(echo.Context) error { panic("RHCANARY") })
	server := httptest.NewServer(e)
	t.Cleanup(server.Close)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log: %s", h.log)
		}
	})
	h.url = server.URL
	h.all = h.token(t, "*")
	return h
}

func (h *house) token(t *testing.T, permissions ...string) catalog.Secret {
	t.Helper()
	text, _, err := h.service.CreateToken(t.Context(), tenants.TokenSpec{Subject: "ops", Permissions: permissions, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func (h *house) client(t *testing.T, token catalog.Secret) *admin.Client {
	t.Helper()
	c, err := admin.NewClient(h.url, token)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// request is a request as a literal: "POST /admin/v1/tenants", then headers by pairs.
func (h *house) request(t *testing.T, do, body string, headers ...string) (*http.Response, string) {
	t.Helper()
	method, path, _ := strings.Cut(do, " ")
	r, err := http.NewRequestWithContext(t.Context(), method, h.url+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(headers); i += 2 {
		switch {
		case headers[i] == "Host":
			r.Host = headers[i+1]
		case headers[i] == "Content-Type":
			r.Header.Set(headers[i], headers[i+1])
		default:
			r.Header.Add(headers[i], headers[i+1])
		}
	}
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	answer, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(text)
}

func TestAPI(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bearer := "Bearer " + h.all.Reveal()
	reader := "Bearer " + h.token(t, "tenants.read").Reveal()
	nothing := "Bearer " + h.token(t).Reveal()
	flipped := bearer[:len(bearer)-1] + string(bearer[len(bearer)-1]^1)
	revoked := h.token(t, "*").Reveal()
	if err := h.service.RevokeToken(t.Context(), strings.Split(revoked, "_")[1]); err != nil {
		t.Fatal(err)
	}
	if _, err := h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: "acme"}); err != nil {
		t.Fatal(err)
	}
	absent := catalog.NewID[catalog.Operation]().String()
	const tenantsPath = "/admin/v1/tenants"
	jwt := "Bearer eyJhbGciOiJIUzI1NiJ9.eyJ0ZW5hbnQiOiJhY21lIn0.c2ln"
	for _, c := range []struct {
		name    string
		do      string
		body    string
		headers []string // besides a token for everything
		as      string   // "" is the token for everything, "-" none
		status  int
		has     []string
	}{
		{name: "list", do: "GET " + tenantsPath, status: 200, has: []string{`"name":"acme"`, `"next_cursor":null`}},
		{name: "list with a token that may", do: "GET " + tenantsPath, as: reader, status: 200, has: []string{`"name":"acme"`}},
		{name: "get", do: "GET " + tenantsPath + "/acme", status: 200, has: []string{`"state":"provisioning"`}},
		{name: "empty list", do: "GET /admin/v1/servers", status: 200, has: []string{`{"items":[],"next_cursor":null}`}},

		{name: "no token", do: "GET " + tenantsPath, as: "-", status: 401, has: []string{`"code":"unauthorized"`}},
		{name: "flipped token", do: "GET " + tenantsPath, as: flipped, status: 401, has: []string{`"code":"unauthorized"`}},
		{name: "revoked token", do: "GET " + tenantsPath, as: "Bearer " + revoked, status: 401, has: []string{`"code":"unauthorized"`}},
		{name: "token of a tenant", do: "GET " + tenantsPath, as: jwt, status: 401, has: []string{`"code":"unauthorized"`}},
		{name: "another scheme", do: "GET " + tenantsPath, as: "Basic " + h.all.Reveal(), status: 401},
		{name: "two tokens", do: "GET " + tenantsPath, as: "-", headers: []string{"Authorization", bearer, "Authorization", bearer}, status: 401},
		{name: "the console's cookie is no credential", do: "GET " + tenantsPath, as: "-", headers: []string{"Cookie", "rowhouse_console=" + h.all.Reveal()}, status: 401},
		{name: "token in the query", do: "GET " + tenantsPath + "?token=" + h.all.Reveal(), as: "-", status: 401},
		{name: "token that permits nothing", do: "GET " + tenantsPath, as: nothing, status: 403, has: []string{`"code":"forbidden"`, "tenants.read"}},
		{name: "token that permits something else", do: "POST " + tenantsPath, body: `{"name":"beta"}`, as: reader, status: 403, has: []string{"tenants.create"}},
		{name: "reader that suspends", do: "POST " + tenantsPath + "/acme/suspend", as: reader, status: 403},
		{name: "reader that reads tokens", do: "GET /admin/v1/tokens", as: reader, status: 403},

		{name: "unknown tenant", do: "GET " + tenantsPath + "/RHCANARY", status: 404, has: []string{`"code":"not_found"`}},
		{name: "unknown operation", do: "GET /admin/v1/operations/" + absent, status: 404, has: []string{`"code":"not_found"`}},
		{name: "events of an unknown operation", do: "GET /admin/v1/operations/" + absent + "/events", status: 404},
		{name: "retry of an unknown operation", do: "POST /admin/v1/operations/" + absent + ":retry", status: 404, has: []string{`"code":"not_found"`}},
		{name: "unknown verb", do: "POST /admin/v1/operations/" + absent + ":RHCANARY", status: 404, has: []string{`"code":"not_found"`}},
		{name: "operation that is no id", do: "GET /admin/v1/operations/RHCANARY", status: 422, has: []string{`"location":"path.id"`}},
		{name: "unknown path", do: "GET /admin/v1/RHCANARY", status: 404, has: []string{`"code":"not_found"`}},
		{name: "unknown path outside", do: "GET /rest/v1/projects", status: 404},
		{name: "another method", do: "PATCH " + tenantsPath + "/acme", status: 405, has: []string{`"code":"method_not_allowed"`}},
		{name: "name in use", do: "POST " + tenantsPath, body: `{"name":"acme"}`, status: 409, has: []string{`"code":"already_exists"`}},
		{name: "state that does not allow it", do: "POST " + tenantsPath + "/acme/suspend", body: `{"reason":"RHCANARY"}`, status: 409, has: []string{`"code":"conflict"`}},
		{name: "operation that has not failed", do: "POST /admin/v1/operations/OPERATION:retry", status: 409, has: []string{`"code":"conflict"`}},

		{name: "name outside the grammar", do: "POST " + tenantsPath, body: `{"name":"RHCANARY_x"}`, status: 422, has: []string{`"code":"invalid"`}},
		{name: "reserved name", do: "POST " + tenantsPath, body: `{"name":"postgres"}`, status: 422, has: []string{"reserved"}},
		{name: "name that is no string", do: "POST " + tenantsPath, body: `{"name":["RHCANARY"]}`, status: 422, has: []string{`"location":"body.name"`}},
		{name: "name too long", do: "POST " + tenantsPath, body: `{"name":"RHCANARY` + strings.Repeat("x", 300) + `"}`, status: 422, has: []string{`"location":"body.name"`}},
		{name: "no name", do: "POST " + tenantsPath, body: `{"edition":"RHCANARY"}`, status: 422},
		{name: "unknown placement", do: "POST " + tenantsPath, body: `{"name":"beta","placement":"RHCANARY"}`, status: 422, has: []string{`"location":"body.placement"`}},
		{name: "unknown property", do: "POST " + tenantsPath, body: `{"name":"beta","state":"RHCANARY"}`, status: 422, has: []string{`body.state`}},
		{name: "unknown query parameter", do: "GET " + tenantsPath + "?limt=RHCANARY", status: 422, has: []string{`query.limt`}},
		{name: "limit that is no number", do: "GET " + tenantsPath + "?limit=RHCANARY", status: 422, has: []string{`query.limit`}},
		{name: "limit of nothing", do: "GET " + tenantsPath + "?limit=0", status: 422},
		{name: "cursor that is none of ours", do: "GET " + tenantsPath + "?cursor=RHCANARY!", status: 400, has: []string{`"code":"cursor_invalid"`}},
		{name: "body that is no JSON", do: "POST " + tenantsPath, body: `RHCANARY`, status: 400, has: []string{`"code":"malformed"`}},
		{name: "body cut short", do: "POST " + tenantsPath, body: `{"name":"RHCANARY`, status: 400},
		{name: "body of a form", do: "POST " + tenantsPath, body: `name=RHCANARY`, headers: []string{"Content-Type", "application/x-www-form-urlencoded"}, status: 415, has: []string{"curl --json"}},
		{name: "body too large", do: "POST " + tenantsPath, body: `{"name":"` + strings.Repeat("RHCANARY", 200_000) + `"}`, status: 413, has: []string{`"code":"too_large"`}},
		{name: "no body", do: "POST " + tenantsPath, status: 400},
		{name: "password in a connection string that does not fit", do: "POST /admin/v1/servers", body: `{"name":"s1","dsn":"postgres://u:RHCANARY@h/db?sslrootcert=/etc/passwd"}`, status: 422, has: []string{"sslrootcert"}},
		{name: "connection string that is none", do: "POST /admin/v1/servers", body: `{"name":"s1","dsn":"RHCANARY"}`, status: 422},
		{name: "connection string of another type", do: "POST /admin/v1/servers", body: `{"name":"s1","dsn":{"password":"RHCANARY"}}`, status: 422, has: []string{`"location":"body.dsn"`}},
		{name: "connection string too long", do: "POST /admin/v1/servers", body: `{"name":"s1","dsn":"postgres://u:RHCANARY` + strings.Repeat("x", 5000) + `@h/db"}`, status: 422},
		{name: "setting there is not", do: "PUT /admin/v1/settings/RHCANARY", body: `{"value":1}`, status: 422},
		{name: "setting of another type", do: "PUT /admin/v1/settings/rest.max_rows", body: `{"value":"RHCANARY"}`, status: 422, has: []string{"rest.max_rows"}},
		{name: "permission there is not", do: "POST /admin/v1/tokens", body: `{"subject":"x","permissions":["RHCANARY"],"ttl":"1h"}`, status: 422},
		{name: "token for ever", do: "POST /admin/v1/tokens", body: `{"subject":"x","permissions":[],"ttl":"1000000h"}`, status: 422},
		{name: "token of no duration", do: "POST /admin/v1/tokens", body: `{"subject":"x","permissions":[],"ttl":"RHCANARY"}`, status: 422},
		{name: "panic", do: "GET /panic", status: 500, has: []string{`"code":"internal"`}},

		{name: "host of a page that made up a name for us", do: "GET " + tenantsPath, headers: []string{"Host", "RHCANARY.evil.example"}, status: 421, has: []string{`"code":"misdirected"`}},
		{name: "console under a made-up host", do: "GET /console/", headers: []string{"Host", "evil.example:8081"}, status: 421},
		{name: "address that is not ours", do: "GET " + tenantsPath, headers: []string{"Host", "192.0.2.7:8081"}, status: 421},
		{name: "host that begins like ours", do: "GET " + tenantsPath, headers: []string{"Host", "localhost.evil.example"}, status: 421},
		{name: "localhost", do: "GET " + tenantsPath, headers: []string{"Host", "LOCALHOST:8081"}, status: 200},
		{name: "loopback of the other family", do: "GET " + tenantsPath, headers: []string{"Host", "[::1]:8081"}, status: 200},
		{name: "configured host", do: "GET " + tenantsPath, headers: []string{"Host", "admin.example.com."}, status: 200},
	} {
		t.Run(c.name, func(t *testing.T) {
			headers := c.headers
			switch c.as {
			case "":
				headers = append(headers, "Authorization", bearer)
			case "-":
			default:
				headers = append(headers, "Authorization", c.as)
			}
			if strings.Contains(c.do, "OPERATION") {
				ops, err := h.service.Operations(t.Context(), "acme")
				if err != nil || len(ops) != 1 {
					t.Fatalf("got %v, %v", ops, err)
				}
				c.do = strings.Replace(c.do, "OPERATION", ops[0].ID.String(), 1)
			}
			answer, body := h.request(t, c.do, c.body, headers...)
			if answer.StatusCode != c.status {
				t.Fatalf("status is %d, want %d: %s", answer.StatusCode, c.status, body)
			}
			for _, has := range c.has {
				if !strings.Contains(body, has) {
					t.Errorf("%s does not hold %s", body, has)
				}
			}
			for _, never := range []string{"RHCANARY", h.all.Reveal(), "$schema"} {
				if strings.Contains(body, never) {
					t.Errorf("%s holds %s", body, never)
				}
			}
			id := answer.Header.Get("X-Request-Id")
			if id == "" {
				t.Error("no request id")
			}
			if c.status < 400 {
				return
			}
			if got := answer.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("Content-Type is %q", got)
			}
			for _, has := range []string{`"request_id":"` + id + `"`, `"type":"urn:rowhouse:problem:`, fmt.Sprintf(`"status":%d`, c.status)} {
				if !strings.Contains(body, has) {
					t.Errorf("%s does not hold %s", body, has)
				}
			}
			if got := answer.Header.Get("WWW-Authenticate"); (got == "Bearer") != (c.status == 401) {
				t.Errorf("WWW-Authenticate is %q", got)
			}
		})
	}
	if !strings.Contains(h.log.String(), "panic=RHCANARY") || strings.Contains(h.log.String(), h.all.Reveal()) {
		t.Errorf("log is %s", h.log)
	}
}

func TestAPI_Headers(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	bearer := "Bearer " + h.all.Reveal()
	answer, body := h.request(t, "POST /admin/v1/tenants", `{"name":"acme"}`, "Authorization", bearer, "X-Request-Id", "mine-1")
	if answer.StatusCode != 202 {
		t.Fatalf("got %d: %s", answer.StatusCode, body)
	}
	location := answer.Header.Get("Location")
	if !strings.HasPrefix(location, "/admin/v1/operations/") || answer.Header.Get("Retry-After") != "1" || answer.Header.Get("X-Request-Id") != "mine-1" || answer.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers are %v", answer.Header)
	}
	if answer, body := h.request(t, "GET "+location, "", "Authorization", bearer); answer.StatusCode != 200 || !strings.Contains(body, `"progress":{"done":0,"total":9}`) || len(answer.Header.Values("Location")) != 0 {
		t.Errorf("got %d, %v: %s", answer.StatusCode, answer.Header, body)
	}
	if answer, _ := h.request(t, "GET /admin/v1/tenants", "", "Authorization", bearer, "X-Request-Id", "no spaces please"); answer.Header.Get("X-Request-Id") == "no spaces please" {
		t.Error("a malformed request id is taken")
	}

	for _, name := range []string{"beta", "globex", "initech"} {
		if _, err := h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: name}); err != nil {
			t.Fatal(err)
		}
	}
	answer, body = h.request(t, "GET /admin/v1/tenants?limit=3", "", "Authorization", bearer)
	link := answer.Header.Get("Link")
	next, ok := strings.CutSuffix(strings.TrimPrefix(link, "<"), `>; rel="next"`)
	if !ok || !strings.Contains(body, `"globex"`) || strings.Contains(body, `"initech"`) {
		t.Fatalf("link is %q: %s", link, body)
	}
	answer, body = h.request(t, "GET "+next, "", "Authorization", bearer)
	if answer.Header.Get("Link") != "" || !strings.Contains(body, `"initech"`) || strings.Contains(body, `"globex"`) || !strings.Contains(body, `"next_cursor":null`) {
		t.Errorf("got %v: %s", answer.Header, body)
	}
}

func TestAPI_TokensRaiseNobody(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	maker := h.client(t, h.token(t, "tokens.manage", "tenants.read"))
	for _, permissions := range [][]string{{"*"}, {"tenants.create"}, {"tenants.read", "servers.manage"}} {
		if _, _, err := maker.CreateToken(t.Context(), tenants.TokenSpec{Subject: "x", Permissions: permissions, TTL: time.Hour}); err == nil || !strings.Contains(err.Error(), "lacks") {
			t.Errorf("%v: got %v", permissions, err)
		}
	}
	text, _, err := maker.CreateToken(t.Context(), tenants.TokenSpec{Subject: "x", Permissions: []string{"tenants.read"}, TTL: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.client(t, text).Tenants(t.Context()); err != nil {
		t.Error(err)
	}
}

// A session that is not the host's has no business here, even if whoever authenticates lets it through with permissions.
func TestAPI_HostOnly(t *testing.T) {
	t.Parallel()
	acme := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "acme", State: catalog.StateActive}
	var session tenants.Session
	err := tenants.With(t.Context(), acme, func(ctx context.Context) (err error) {
		session, err = tenants.FromContext(ctx)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for name, session := range map[string]tenants.Session{"a tenant's": session, "nobody's": {}} {
		e := echo.New()
		err := admin.Register(e, tenants.NewService(nil, nil), admin.Config{
			Authenticate: func(context.Context, string) (tenants.Session, []string, error) { return session, []string{"*"}, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest("GET", "http://localhost/admin/v1/tenants", nil)
		r.Header.Set("Authorization", "Bearer x")
		w := httptest.NewRecorder()
		e.ServeHTTP(w, r)
		if w.Code != 401 {
			t.Errorf("%s session is answered %d", name, w.Code)
		}
	}
	if err := admin.Register(echo.New(), tenants.NewService(nil, nil), admin.Config{}); err == nil {
		t.Error("an API that authenticates nobody is registered")
	}
}

func TestOpenAPI(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	answer, generated := h.request(t, "GET /openapi.json", "")
	if answer.StatusCode != 200 || answer.Header.Get("Content-Type") != "application/openapi+json" {
		t.Fatalf("got %d, %v", answer.StatusCode, answer.Header)
	}
	if *update {
		if err := os.WriteFile("openapi.json", []byte(generated), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(committed), generated); d != "" {
		t.Errorf("openapi.json is not what is served; go test ./tenants/admin -run OpenAPI -update writes it\n%s", d)
	}
	for _, has := range []string{`"openapi": "3.1.0"`, `"/admin/v1/operations/{id}:retry"`, `"application/problem+json"`} {
		if !strings.Contains(generated, has) {
			t.Errorf("it does not hold %s", has)
		}
	}
	if strings.Contains(generated, `\\:`) {
		t.Error("a path stands in it as Echo writes it")
	}
}

var update = flag.Bool("update", false, "write openapi.json")
