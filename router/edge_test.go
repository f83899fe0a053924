package router_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// reached is what a handler behind an Edge sees.
type reached struct {
	path, query, host, remote, forwarded, pathTenant, queryTenant string
	err                                                           error
}

// through sends a request through an Edge and tells what reached the handler; nil when nothing did.
func through(t *testing.T, cfg router.EdgeConfig, r *http.Request) (*httptest.ResponseRecorder, *reached) {
	t.Helper()
	var got *reached
	w := httptest.NewRecorder()
	router.Edge(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got = &reached{path: r.URL.Path, query: r.URL.RawQuery, host: r.Host, remote: r.RemoteAddr, forwarded: r.Header.Get("X-Forwarded-Host")}
		got.pathTenant, _, _ = tenants.FromPath().Contribute(r)
		got.queryTenant, _, _ = tenants.FromQuery().Contribute(r)
		_, got.err = io.ReadAll(r.Body)
	}), cfg).ServeHTTP(w, r)
	return w, got
}

func request(method, target string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "/", nil)
	r.RequestURI = target
	r.Method = method
	if u, err := url.ParseRequestURI(target); err == nil {
		r.URL = u
	}
	r.Host = "acme.example.com"
	for i := 0; i < len(headers); i += 2 {
		if headers[i] == "Host" {
			r.Host = headers[i+1]
			continue
		}
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func TestEdge_lets_in_and_refuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 40<<10)
	for _, c := range []struct {
		name   string
		r      *http.Request
		status int
		code   string
	}{
		{"an ordinary path", request("GET", "/rest/v1/projects?select=id"), 200, ""},
		{"a trailing slash", request("GET", "/rest/v1/"), 200, ""},
		{"a path with a space", request("GET", "/rest/v1/a%20b"), 200, ""},
		{"a host with port and dot", request("GET", "/", "Host", "ACME.Example.COM.:8080"), 200, ""},
		{"an address as host", request("GET", "/", "Host", "[::1]:80"), 200, ""},
		{"HEAD", request("HEAD", "/"), 200, ""},
		{"OPTIONS without an origin", request("OPTIONS", "/"), 200, ""},
		{"TRACE", request("TRACE", "/"), 405, "method_not_allowed"},
		{"CONNECT", request("CONNECT", "/"), 405, "method_not_allowed"},
		{"a lower-case method", request("get", "/"), 405, "method_not_allowed"},
		{"an absolute-form target", request("GET", "http://globex.example.com/x"), 400, "bad_target"},
		{"an asterisk", request("OPTIONS", "*"), 400, "bad_target"},
		{"a target that is too long", request("GET", "/"+long), 414, "uri_too_long"},
		{"headers that are too large", request("GET", "/", "X-Long", long+long), 431, "headers_too_large"},
		{"no host", request("GET", "/", "Host", ""), 400, "tenant_invalid"},
		{"two hosts", request("GET", "/", "Host", "a.example.com,b.example.com"), 400, "tenant_invalid"},
		{"a host with a percent sign", request("GET", "/", "Host", "a%2eexample.com"), 400, "tenant_invalid"},
		{"a host with a bad port", request("GET", "/", "Host", "a.example.com:99999"), 400, "tenant_invalid"},
		{"a host with an empty label", request("GET", "/", "Host", "a..example.com"), 400, "tenant_invalid"},
		{"a dot segment", request("GET", "/rest/v1/./x"), 404, "not_found"},
		{"a double dot segment", request("GET", "/rest/v1/../x"), 404, "not_found"},
		{"an encoded dot segment", request("GET", "/rest/v1/%2e%2E/x"), 404, "not_found"},
		{"a double slash", request("GET", "/rest//v1"), 404, "not_found"},
		{"an encoded slash", request("GET", "/rest/v1/a%2fb"), 404, "not_found"},
		{"NUL", request("GET", "/rest/v1/a%00b"), 400, "bad_target"},
		{"bad UTF-8", request("GET", "/rest/v1/%ff"), 400, "bad_target"},
		{"an overlong slash", request("GET", "/rest/v1/%c0%af"), 400, "bad_target"},
		{"a compressed body", request("POST", "/", "Content-Encoding", "gzip"), 415, "encoding_unsupported"},
		{"no encoding by name", request("POST", "/", "Content-Encoding", "identity"), 200, ""},
	} {
		w, got := through(t, router.EdgeConfig{}, c.r)
		var b struct {
			Code    string
			Message string
		}
		_ = json.Unmarshal(w.Body.Bytes(), &b)
		if w.Code != c.status || b.Code != c.code || (got == nil) != (c.code != "") {
			t.Errorf("%s: %d %s, want %d %s", c.name, w.Code, w.Body, c.status, c.code)
		}
		if w.Header().Get("X-Request-Id") == "" {
			t.Errorf("%s: no request id", c.name)
		}
		if c.code != "" && b.Message == "" {
			t.Errorf("%s: no message", c.name)
		}
	}
}

func TestEdge_request_id(t *testing.T) {
	t.Parallel()
	for sent, kept := range map[string]bool{
		"abc-1.2_X": true, strings.Repeat("a", 128): true, strings.Repeat("a", 129): false, "a b": false, "a\nb": false, "<script>": false, "": false, "é": false,
	} {
		w, _ := through(t, router.EdgeConfig{}, request("GET", "/", "X-Request-Id", sent))
		if got := w.Header().Get("X-Request-Id"); (got == sent) != kept || got == "" {
			t.Errorf("sent %q, got %q", sent, got)
		}
	}
	w, _ := through(t, router.EdgeConfig{}, request("GET", "/", "X-Request-Id", "a", "X-Request-Id", "b"))
	if got := w.Header().Get("X-Request-Id"); got == "a" || got == "b" {
		t.Errorf("two ids: got %q", got)
	}
}

func TestEdge_strips_the_tenant(t *testing.T) {
	t.Parallel()
	on := router.EdgeConfig{PathTenant: true, QueryTenant: "__tenant"}
	for _, c := range []struct {
		name, target string
		cfg          router.EdgeConfig
		want         reached
		status       int
	}{
		{"in the path", "/t/acme/rest/v1/x%20y?a=1", on, reached{path: "/rest/v1/x y", query: "a=1", pathTenant: "acme"}, 200},
		{"alone in the path", "/t/acme", on, reached{path: "/", pathTenant: "acme"}, 200},
		{"in the path, where nobody asked for it", "/t/acme/x", router.EdgeConfig{}, reached{path: "/t/acme/x"}, 200},
		{"in the query", "/x?a=1&__tenant=acme&b=%2f", on, reached{path: "/x", query: "a=1&b=%2f", queryTenant: "acme"}, 200},
		{"in the query, encoded", "/x?%5f_tenant=ac%6de", on, reached{path: "/x", queryTenant: "acme"}, 200},
		{"in the query, where nobody asked for it", "/x?__tenant=acme", router.EdgeConfig{}, reached{path: "/x", query: "__tenant=acme"}, 200},
		{"another parameter that ends alike", "/x?not__tenant=acme", on, reached{path: "/x", query: "not__tenant=acme"}, 200},
		{"a semicolon separates as it does for the data API", "/x?a=1;__tenant=acme", on, reached{path: "/x", query: "a=1", queryTenant: "acme"}, 200},
		{"what cannot be read", "/x?__tenant=%zz", on, reached{}, 400},
	} {
		w, got := through(t, c.cfg, request("GET", c.target))
		if w.Code != c.status {
			t.Errorf("%s: %d %s", c.name, w.Code, w.Body)
		}
		if got == nil {
			continue
		}
		if got.path != c.want.path || got.query != c.want.query || got.pathTenant != c.want.pathTenant || got.queryTenant != c.want.queryTenant {
			t.Errorf("%s: reached %+v, want %+v", c.name, *got, c.want)
		}
	}
	// An escape is no part of a name, and is not decoded into one.
	_, got := through(t, on, request("GET", "/t/ac%6de/x"))
	if got == nil || got.pathTenant != "" {
		t.Errorf("an escaped tenant: %+v", got)
	}
}

func TestEdge_proxies(t *testing.T) {
	t.Parallel()
	trusting := router.EdgeConfig{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}}
	headers := []string{"X-Forwarded-Host", "globex.example.com", "X-Forwarded-For", "203.0.113.9, 10.1.2.3"}
	_, got := through(t, router.EdgeConfig{}, request("GET", "/", headers...)) // httptest's client is 192.0.2.1
	if got.host != "acme.example.com" || got.forwarded != "" || !strings.HasPrefix(got.remote, "192.0.2.1:") {
		t.Errorf("nobody is trusted: %+v", got)
	}
	_, got = through(t, trusting, request("GET", "/", headers...))
	if got.host != "globex.example.com" || !strings.HasPrefix(got.remote, "203.0.113.9:") {
		t.Errorf("a trusted proxy: %+v", got)
	}
	if w, got := through(t, trusting, request("GET", "/", "X-Forwarded-Host", "a.example.com", "X-Forwarded-Host", "b.example.com")); got != nil || w.Code != 400 {
		t.Errorf("two forwarded hosts: %d", w.Code)
	}
}

func TestEdge_body(t *testing.T) {
	t.Parallel()
	cfg := router.EdgeConfig{MaxBody: 10}
	r := request("POST", "/")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("12345678901")), 11
	if w, got := through(t, cfg, r); w.Code != 413 || got != nil {
		t.Errorf("announced: %d", w.Code)
	}
	r = request("POST", "/")
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader("12345678901")), -1
	_, got := through(t, cfg, r)
	var tooLarge *http.MaxBytesError
	if got == nil || !errors.As(got.err, &tooLarge) {
		t.Errorf("not announced: %+v", got)
	}
}

func TestEdge_CORS(t *testing.T) {
	t.Parallel()
	w, got := through(t, router.EdgeConfig{}, request("OPTIONS", "/rest/v1/projects", "Origin", "https://app.example.com",
		"Access-Control-Request-Method", "PATCH", "Access-Control-Request-Headers", "apikey,x-client-info,prefer"))
	h := w.Header()
	if got != nil || w.Code != 200 || w.Body.Len() != 0 || h.Get("Access-Control-Allow-Origin") != "*" ||
		h.Get("Access-Control-Allow-Headers") != "Authorization, apikey,x-client-info,prefer, Accept, Accept-Language, Content-Language" ||
		h.Get("Access-Control-Allow-Methods") != "GET, POST, PATCH, PUT, DELETE, OPTIONS, HEAD" || h.Get("Access-Control-Max-Age") != "86400" {
		t.Errorf("preflight: %d %v", w.Code, h)
	}
	for _, target := range []string{"/", "/rest/../x"} { // errors included
		w, _ = through(t, router.EdgeConfig{}, request("GET", target, "Origin", "https://app.example.com"))
		exposed := w.Header().Values("Access-Control-Expose-Headers")
		if w.Header().Get("Access-Control-Allow-Origin") != "*" || len(exposed) != 2 || !strings.Contains(exposed[1], "Retry-After") {
			t.Errorf("%s: %v", target, w.Header())
		}
	}
	if w, _ = through(t, router.EdgeConfig{}, request("GET", "/")); w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Error("nobody asked from another origin")
	}
}

func TestEdge_panic(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	cfg := router.EdgeConfig{Logger: slog.New(slog.NewTextHandler(&log, nil))}
	w := httptest.NewRecorder()
	router.Edge(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("the secret") }), cfg).ServeHTTP(w, request("POST", "/", "X-Request-Id", "r1"))
	if w.Code != 500 || !strings.Contains(w.Body.String(), `"code":"internal"`) || !strings.Contains(w.Body.String(), "r1") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if strings.Contains(w.Body.String(), "secret") || !strings.Contains(log.String(), "the secret") || !strings.Contains(log.String(), "r1") {
		t.Errorf("the detail belongs into the log: %s, %s", w.Body, log.String())
	}
	if w.Header().Get("Rowhouse-Outcome") != "" {
		t.Error("nobody knows what a handler did before it panicked")
	}
	defer func() {
		if p := recover(); p != http.ErrAbortHandler {
			t.Errorf("an answer that has begun must be broken off: %v", p)
		}
	}()
	router.Edge(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte(`[{"half":`))
		panic("boom")
	}), cfg).ServeHTTP(httptest.NewRecorder(), request("GET", "/"))
}

// lost is a connection that ended under a statement.
type lost struct{ error }

func (e lost) Unwrap() error { return e.error }
func (lost) Outcome() string { return "rolled_back" }

// coded is an error that knows its own answer.
type coded struct{ error }

func (coded) Code() string              { return "PGRST301" }
func (coded) Status() int               { return 401 }
func (coded) Challenge() string         { return `Bearer error="invalid_token"` }
func (coded) Details() string           { return "the details" }
func (coded) Hint() string              { return "the hint" }
func (coded) RetryAfter() time.Duration { return 1500 * time.Millisecond }

func TestWriteError(t *testing.T) {
	t.Parallel()
	overdue, cancel := context.WithTimeout(t.Context(), -1)
	defer cancel()
	for _, c := range []struct {
		err     error
		status  int
		code    string
		headers map[string]string
	}{
		{tenants.ErrNoTenant, 400, "tenant_required", nil},
		{fmt.Errorf(`header "X-Tenant": %w`, tenants.ErrInvalid), 400, "tenant_invalid", nil},
		{fmt.Errorf("key: %w", tenants.ErrCredential), 401, "credential_invalid", map[string]string{"WWW-Authenticate": "Bearer"}},
		{&tenants.MismatchError{Signal: "host"}, 403, "tenant_mismatch", map[string]string{"Set-Cookie": ""}},
		{&tenants.CookieError{Cookie: "rowhouse_tenant", Err: tenants.ErrMismatch}, 403, "tenant_mismatch", map[string]string{"Set-Cookie": "rowhouse_tenant=; Path=/; Max-Age=0; HttpOnly"}},
		{tenants.ErrSuspended, 403, "tenant_suspended", nil},
		{tenants.ErrMaintenance, 503, "tenant_upgrading", map[string]string{"Retry-After": "1"}},
		{fmt.Errorf("tenant: %w", tenants.ErrNotFound), 404, "tenant_not_found", map[string]string{"Retry-After": ""}},
		{fmt.Errorf("%w: %w", tenants.ErrUnavailable, errors.New("dial tcp 10.0.0.1: refused")), 503, "database_unavailable", map[string]string{"Retry-After": "1"}},
		{fmt.Errorf("%w: user=x host=y", router.ErrUnavailable), 503, "database_unavailable", map[string]string{"Retry-After": "1", "Proxy-Status": "rowhouse; error=database_unavailable"}},
		{router.ErrOverloaded, 503, "overloaded", map[string]string{"Retry-After": "1"}},
		{router.ErrReadOnly, 403, "tenant_read_only", nil},
		{tenants.ErrWrongTenant, 500, "internal", nil},
		{errors.New("password=hunter2"), 500, "internal", nil},
		{&pgconn.PgError{Code: "40001", Message: "hunter2"}, 409, "40001", map[string]string{"Rowhouse-Outcome": "rolled_back"}},
		{&pgconn.PgError{Code: "57014"}, 504, "statement_timeout", map[string]string{"Rowhouse-Outcome": "rolled_back"}},
		{&pgconn.PgError{Code: "25006"}, 503, "database_unavailable", nil},
		{&pgconn.PgError{Code: "42P01", Message: "hunter2"}, 500, "internal", nil},
		{&pgconn.PgError{Code: "23505"}, 500, "internal", nil},
		{fmt.Errorf("an application's own: %w", io.ErrUnexpectedEOF), 500, "internal", nil},
		{lost{io.ErrUnexpectedEOF}, 503, "database_unavailable", map[string]string{"Retry-After": "1", "Rowhouse-Outcome": "rolled_back"}},
		{&pgconn.PgError{Code: "57P05", Severity: "FATAL"}, 503, "database_unavailable", nil},
		{notStarted{}, 503, "database_unavailable", map[string]string{"Rowhouse-Outcome": "not_started"}},
		{overdue.Err(), 504, "statement_timeout", nil},
		{&http.MaxBytesError{Limit: 1}, 413, "payload_too_large", nil},
		{fmt.Errorf("outer: %w", coded{errors.New("Expected 3 parts in JWT; got 1")}), 401, "PGRST301", map[string]string{"WWW-Authenticate": `Bearer error="invalid_token"`}},
	} {
		w, r := httptest.NewRecorder(), request("POST", "/")
		router.WriteError(w, r, c.err)
		var body map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil || len(body) != 4 {
			t.Errorf("%v: body %s: want four keys", c.err, w.Body)
		}
		if w.Code != c.status || body["code"] != c.code || body["message"] == "" {
			t.Errorf("%v: %d %s, want %d %s", c.err, w.Code, w.Body, c.status, c.code)
		}
		if strings.Contains(w.Body.String(), "hunter2") || strings.Contains(w.Body.String(), "10.0.0.1") || strings.Contains(w.Body.String(), "user=") {
			t.Errorf("%v: the answer shows what is for the log: %s", c.err, w.Body)
		}
		for name, want := range c.headers {
			if got := w.Header().Get(name); got != want {
				t.Errorf("%v: %s is %q, want %q", c.err, name, got, want)
			}
		}
		if w.Header().Get("X-Request-Id") == "" {
			t.Errorf("%v: no request id", c.err)
		}
	}
	w := httptest.NewRecorder()
	router.WriteError(w, request("GET", "/"), tenants.ErrNoTenant)
	if w.Header().Get("Rowhouse-Outcome") != "" {
		t.Error("a read has no outcome")
	}
	w = httptest.NewRecorder()
	router.WriteError(w, request("DELETE", "/"), tenants.ErrNoTenant)
	if w.Header().Get("Rowhouse-Outcome") != "not_started" {
		t.Error("a refused write was not started")
	}
}

// serve is an application with the router in it, as the contract shows it.
func serve(w *world, rt *router.Router) http.Handler {
	e := echo.New()
	e.HTTPErrorHandler = router.ErrorHandler
	e.Use(rt.Middleware(&tenants.Resolver{Contributors: []tenants.Contributor{
		tenants.FromDomain("{tenant}.example.com"), tenants.FromHeader("X-Tenant"), tenants.FromCookie("rowhouse_tenant"), tenants.FromPath(),
	}}))
	list := func(ctx context.Context, out io.Writer) error {
		tx, err := rt.Begin(ctx)
		if err != nil {
			return err
		}
		defer tx.Rollback(ctx)
		seen, err := owners(ctx, tx)
		fmt.Fprint(out, strings.Join(seen, ","))
		return err
	}
	e.GET("/projects", func(c echo.Context) error { return list(c.Request().Context(), c.Response()) })
	e.POST("/break", func(echo.Context) error { return errors.New("dsn=postgres://hunter2") })
	return router.Edge(e, router.EdgeConfig{PathTenant: true})
}

func TestMiddleware(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	db := w.database()
	w.tenant("acme", db)
	w.tenant("globex", db)
	app := serve(w, w.router(router.Config{}))
	answer := func(r *http.Request) *httptest.ResponseRecorder {
		rec := httptest.NewRecorder()
		app.ServeHTTP(rec, r)
		return rec
	}
	for _, c := range []struct {
		name   string
		r      *http.Request
		status int
		has    string
	}{
		{"acme by its host", request("GET", "/projects"), 200, "acme"},
		{"globex by its header", request("GET", "/projects", "Host", "localhost", "X-Tenant", "globex"), 200, "globex"},
		{"globex by the path", request("GET", "/t/globex/projects", "Host", "localhost"), 200, "globex"},
		{"two tenants", request("GET", "/projects", "X-Tenant", "globex"), 403, "tenant_mismatch"},
		{"a stale cookie", request("GET", "/projects", "Cookie", "rowhouse_tenant=globex"), 403, "tenant_mismatch"},
		{"nobody", request("GET", "/projects", "Host", "localhost"), 400, "tenant_required"},
		{"nobody known", request("GET", "/projects", "Host", "nosuch.example.com"), 404, "tenant_not_found"},
		{"a malformed one", request("GET", "/projects", "X-Tenant", "a,b"), 400, "tenant_invalid"},
		{"no route", request("GET", "/nowhere"), 404, `"code":"not_found"`},
		{"another method", request("DELETE", "/projects"), 405, "method_not_allowed"},
		{"an unforeseen error", request("POST", "/break"), 500, `"code":"internal"`},
	} {
		rec := answer(c.r)
		if rec.Code != c.status || !strings.Contains(rec.Body.String(), c.has) {
			t.Errorf("%s: %d %s, want %d and %s", c.name, rec.Code, rec.Body, c.status, c.has)
		}
		if strings.Contains(rec.Body.String(), "hunter2") || c.has == "acme" && strings.Contains(rec.Body.String(), "globex") {
			t.Errorf("%s: %s", c.name, rec.Body)
		}
	}
	t.Run("an unknown and a foreign tenant are told apart by nothing", func(t *testing.T) {
		foreign := answer(request("GET", "/projects", "X-Tenant", "globex", "X-Request-Id", "r"))
		missing := answer(request("GET", "/projects", "X-Tenant", "nosuch", "X-Request-Id", "r"))
		if foreign.Code != missing.Code || foreign.Body.String() != missing.Body.String() || fmt.Sprint(foreign.Header()) != fmt.Sprint(missing.Header()) {
			t.Errorf("%d %s %v\n%d %s %v", foreign.Code, foreign.Body, foreign.Header(), missing.Code, missing.Body, missing.Header())
		}
	})
	t.Run("a cookie that disagrees is expired", func(t *testing.T) {
		rec := answer(request("GET", "/projects", "Cookie", "rowhouse_tenant=globex"))
		if c := rec.Header().Get("Set-Cookie"); !strings.HasPrefix(c, "rowhouse_tenant=;") || !strings.Contains(c, "Max-Age=0") {
			t.Errorf("Set-Cookie %q", c)
		}
	})
}

func TestRouter_Resolve(t *testing.T) {
	t.Parallel()
	w := newWorld(t, 20)
	w.tenant("acme", w.database())
	rt := w.router(router.Config{})
	h := rt.Resolve(&tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromHeader("X-Tenant")}}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, err := tenants.FromContext(r.Context())
		if err != nil {
			t.Error(err)
		}
		fmt.Fprint(w, s.Tenant().Name)
	}))
	for header, want := range map[string]string{"acme": "acme", "nosuch": "tenant_not_found"} {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, request("GET", "/", "X-Tenant", header))
		if !strings.Contains(rec.Body.String(), want) {
			t.Errorf("%s: %s", header, rec.Body)
		}
	}
}

// Whatever a path is, what reaches the handler has no dot segments, no empty ones and no NUL.
func FuzzEdge(f *testing.F) {
	for _, seed := range []string{"/", "/a/../b", "/t/acme/x", "/%2e%2e/", "//", "/a%2fb?__tenant=x&__tenant", "/t//..%2f", "/%"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Skip()
		}
		r := request("GET", "/")
		r.URL, r.RequestURI = u, target
		_, got := through(t, router.EdgeConfig{PathTenant: true, QueryTenant: "__tenant"}, r)
		if got == nil {
			return
		}
		if strings.ContainsRune(got.path, 0) || !strings.HasPrefix(got.path, "/") {
			t.Errorf("%q reached the handler as %q", target, got.path)
		}
		for i, segment := range strings.Split(got.path, "/") {
			if segment == "." || segment == ".." || segment == "" && i > 0 && i < strings.Count(got.path, "/") {
				t.Errorf("%q reached the handler as %q", target, got.path)
			}
		}
		for pair := range strings.SplitSeq(got.query, "&") {
			if key, _, _ := strings.Cut(pair, "="); key == "__tenant" {
				t.Errorf("%q left the tenant in the query: %q", target, got.query)
			}
		}
	})
}

func TestEdge_Origins(t *testing.T) {
	t.Parallel()
	const app = "https://app.example.com"
	h := router.Edge(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*") // as a handler may that knows of no list
		fmt.Fprint(w, "rows")
	}), router.EdgeConfig{Origins: func(r *http.Request) []string {
		return map[string][]string{"acme.example.com": {app, "https://two.example.com"}, "closed.example.com": {}}[r.Host]
	}})
	for _, c := range []struct {
		name, host, origin  string
		allowed, credential string
	}{
		{"no list: every origin, without credentials", "globex.example.com", app, "*", ""},
		{"one of the list, with credentials", "acme.example.com", app, app, "true"},
		{"another of the list", "acme.example.com", "https://two.example.com", "https://two.example.com", "true"},
		{"one that is not on it", "acme.example.com", "https://evil.example.com", "", ""},
		{"a look-alike with a longer host", "acme.example.com", app + ".evil.com", "", ""},
		{"a look-alike with a longer name", "acme.example.com", "https://evilapp.example.com", "", ""},
		{"another scheme", "acme.example.com", "http://app.example.com", "", ""},
		{"another port", "acme.example.com", app + ":8443", "", ""},
		{"another case", "acme.example.com", "https://APP.example.com", "", ""},
		{"null", "acme.example.com", "null", "", ""},
		{"an empty list", "closed.example.com", app, "", ""},
	} {
		for _, method := range []string{"GET", "POST", "OPTIONS"} {
			r := request(method, "/rest/v1/projects", "Host", c.host, "Origin", c.origin)
			if method == "OPTIONS" {
				r.Header.Set("Access-Control-Request-Method", "DELETE")
				r.Header.Set("Access-Control-Request-Headers", "apikey, x-tenant")
			}
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, r)
			got := rec.Header()
			if rec.Code != 200 || got.Get("Access-Control-Allow-Origin") != c.allowed || got.Get("Access-Control-Allow-Credentials") != c.credential {
				t.Errorf("%s, %s: %d %v", c.name, method, rec.Code, got)
			}
			if (got.Get("Vary") == "Origin") == (c.allowed == "*") {
				t.Errorf("%s, %s: a cache would mix answers up: %v", c.name, method, got)
			}
			if method == "OPTIONS" && strings.Contains(got.Get("Access-Control-Allow-Headers"), "x-tenant") != (c.allowed != "") {
				t.Errorf("%s: a preflight: %v", c.name, got)
			}
		}
	}
	t.Run("two origins are none", func(t *testing.T) {
		r := request("GET", "/", "Host", "acme.example.com")
		r.Header["Origin"] = []string{app, "https://evil.example.com"}
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		if got := rec.Header().Get("Access-Control-Allow-Origin"); got != "" {
			t.Errorf("allowed %q", got)
		}
	})
}
