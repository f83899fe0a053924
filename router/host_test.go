package router_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
)

// What a request line and its headers can say of the host, as bytes on a socket: what net/http makes of them is part of it.
func TestHosts_on_raw_sockets(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	dir := tenants.NewDirectory(cat)
	for _, name := range []string{"acme", "globex"} {
		err := cat.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
			id := catalog.NewID[catalog.Tenant]()
			if err := tx.CreateTenant(t.Context(), catalog.NewTenant{ID: id, Name: name}); err != nil {
				return err
			}
			if err := tx.AddDomain(t.Context(), id, name+".test"); err != nil {
				return err
			}
			return tx.SetTenantState(t.Context(), id, catalog.StateActive, "")
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	rt, err := router.New(dir, router.Config{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rt.Close)
	resolver := &tenants.Resolver{Contributors: []tenants.Contributor{
		tenants.FromDomain("{tenant}.example.com"), tenants.FromCustomDomain(dir), tenants.FromHeader("X-Tenant"), tenants.FromPath(), tenants.FromQuery(),
	}}
	served := rt.Resolve(resolver, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s, _ := tenants.FromContext(r.Context())
		fmt.Fprintf(w, "%s %s?%s", s.Tenant().Name, r.URL.EscapedPath(), r.URL.RawQuery)
	}))
	start := func(proxies ...netip.Prefix) string {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		s := &http.Server{
			Handler:  router.Edge(served, router.EdgeConfig{PathTenant: true, QueryTenant: "__tenant", TrustedProxies: proxies}),
			ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError),
		}
		go func() { _ = s.Serve(router.Listener(l)) }()
		t.Cleanup(func() { _ = s.Close() })
		return l.Addr().String()
	}
	direct, behind := start(), start(netip.MustParsePrefix("127.0.0.0/8"))
	const get = "GET / HTTP/1.1\r\nHost: "
	for _, c := range []struct {
		name, sent string
		proxied    bool
		status     int
		has        string
	}{
		{name: "a host", sent: get + "acme.example.com\r\n\r\n", status: 200, has: "acme /?"},
		{name: "case, port and a trailing dot", sent: get + "ACME.Example.COM.:8443\r\n\r\n", status: 200, has: "acme /?"},
		{name: "its own domain", sent: get + "Globex.TEST.\r\n\r\n", status: 200, has: "globex /?"},
		{name: "absolute form, of the same host", sent: "GET http://acme.example.com/ HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 400, has: "bad_target"},
		{name: "absolute form, of another tenant's host", sent: "GET http://globex.example.com/ HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 400, has: "bad_target"},
		{name: "a target that begins with two slashes", sent: "GET //globex.example.com/ HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 404, has: "not_found"},
		{name: "authority form", sent: "CONNECT globex.example.com:80 HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 405, has: "method_not_allowed"},
		{name: "the asterisk, which net/http answers by itself", sent: "OPTIONS * HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 200},
		{name: "two Hosts", sent: get + "acme.example.com\r\nHost: globex.example.com\r\n\r\n", status: 400},
		{name: "two Hosts that agree", sent: get + "acme.example.com\r\nHost: acme.example.com\r\n\r\n", status: 400},
		{name: "no Host", sent: "GET / HTTP/1.1\r\n\r\n", status: 400},
		{name: "no Host in HTTP/1.0", sent: "GET / HTTP/1.0\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "an empty Host", sent: get + "\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "a comma", sent: get + "acme.example.com,globex.example.com\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "an encoded dot", sent: get + "acme%2eexample.com\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "an encoded letter", sent: get + "%61cme.example.com\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "two trailing dots", sent: get + "acme.example.com..\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "an empty label", sent: get + "acme..example.com\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "port 0", sent: get + "acme.example.com:0\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "user information", sent: get + "x@acme.example.com\r\n\r\n", status: 400},
		{name: "a quote", sent: get + "acme'.example.com\r\n\r\n", status: 400},
		{name: "letters of another script", sent: get + "\u0430cme.example.com\r\n\r\n", status: 400},
		{name: "a nested label", sent: get + "evil.acme.example.com\r\n\r\n", status: 400, has: "tenant_required"},
		{name: "a longer host", sent: get + "acme.example.com.evil.org\r\n\r\n", status: 400, has: "tenant_required"},
		{name: "an address", sent: get + "[::1]:80\r\n\r\n", status: 400, has: "tenant_required"},
		{name: "a label that nobody has", sent: get + "nosuch.example.com\r\n\r\n", status: 404, has: "tenant_not_found"},
		{name: "punycode", sent: get + "xn--80ak6aa92e.example.com\r\n\r\n", status: 404, has: "tenant_not_found"},
		{name: "two lengths", sent: "POST / HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", status: 400},
		{name: "two Content-Lengths", sent: "POST / HTTP/1.1\r\nHost: acme.example.com\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", status: 400},
		{name: "a folded header", sent: get + "acme.example.com\r\nX-Tenant: acme\r\n globex\r\n\r\n", status: 400},
		{name: "a forwarded host that nobody trusts", sent: get + "acme.example.com\r\nX-Forwarded-Host: globex.example.com\r\nForwarded: host=globex.example.com\r\n\r\n", status: 200, has: "acme"},
		{name: "the path against the host", sent: "GET /t/globex/x HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 403, has: "tenant_mismatch"},
		{name: "the path alone", sent: "GET /t/globex/x%20y HTTP/1.1\r\nHost: localhost\r\n\r\n", status: 200, has: "globex /x%20y?"},
		{name: "an encoded tenant in the path", sent: "GET /t/%67lobex/x HTTP/1.1\r\nHost: localhost\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "no tenant in the path", sent: "GET /t//x HTTP/1.1\r\nHost: localhost\r\n\r\n", status: 404},
		{name: "dot segments behind the tenant", sent: "GET /t/globex/../acme/x HTTP/1.1\r\nHost: localhost\r\n\r\n", status: 404, has: "not_found"},
		{name: "the query alone", sent: "GET /x?a=1&__tenant=globex&b=2 HTTP/1.1\r\nHost: localhost\r\n\r\n", status: 200, has: "globex /x?a=1&b=2"},
		{name: "the query twice", sent: "GET /x?__tenant=globex&__tenant=globex HTTP/1.1\r\nHost: localhost\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "the query behind a semicolon", sent: "GET /x?a=1;__tenant=globex HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 403, has: "tenant_mismatch"},
		{name: "the query's name encoded", sent: "GET /x?%5f_tenant=globex HTTP/1.1\r\nHost: acme.example.com\r\n\r\n", status: 403, has: "tenant_mismatch"},
		{name: "path, query, header and host agree", sent: "GET /t/acme/x?__tenant=acme HTTP/1.1\r\nHost: acme.example.com\r\nX-Tenant: ACME\r\n\r\n", status: 200, has: "acme /x?"},

		{name: "a trusted proxy's word", proxied: true, sent: get + "internal\r\nX-Forwarded-Host: globex.example.com\r\n\r\n", status: 200, has: "globex"},
		{name: "a trusted proxy that says two", proxied: true, sent: get + "internal\r\nX-Forwarded-Host: globex.example.com, acme.example.com\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "a trusted proxy that says it twice", proxied: true, sent: get + "internal\r\nX-Forwarded-Host: globex.example.com\r\nX-Forwarded-Host: globex.example.com\r\n\r\n", status: 400, has: "tenant_invalid"},
		{name: "a trusted proxy's encoded dot", proxied: true, sent: get + "internal\r\nX-Forwarded-Host: globex%2eexample.com\r\n\r\n", status: 400, has: "tenant_invalid"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			address := direct
			if c.proxied {
				address = behind
			}
			status, body := sent(t, address, c.sent)
			for range 300 { // the directory may have been read before the domain was there
				if status == c.status || c.name != "its own domain" {
					break
				}
				time.Sleep(10 * time.Millisecond)
				status, body = sent(t, address, c.sent)
			}
			if status != c.status || !strings.Contains(body, c.has) {
				t.Errorf("%d %s, want %d %s", status, body, c.status, c.has)
			}
		})
	}
}

// sent is the answer to what is written on a socket.
func sent(t *testing.T, address, request string) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	return resp.StatusCode, string(text)
}
