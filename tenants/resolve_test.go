package tenants_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// The look-up of these tests: what a directory would know. Resolving itself does no I/O.
type known []*catalog.Tenant

func (k known) Tenant(_ context.Context, ref string) (*catalog.Tenant, error) {
	for _, t := range k {
		if t.Name == ref || t.ID.String() == ref {
			return t, nil
		}
		for _, a := range t.Aliases {
			if a == ref {
				return t, nil
			}
		}
	}
	return nil, fmt.Errorf("tenant: %w", catalog.ErrNotFound)
}

// bearer verifies tokens that say in clear what they claim: "acme", "host", or "bad".
type bearer struct{}

func (bearer) Verify(r *http.Request, _ []string) (*tenants.Claims, error) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch token {
	case "":
		return nil, nil
	case "bad":
		return nil, fmt.Errorf("signature: %w", tenants.ErrCredential)
	case "host":
		return &tenants.Claims{Subject: "ops", Host: true}, nil
	case "list":
		return &tenants.Claims{Subject: "u", All: map[string]any{"tenant": []any{"acme"}}}, nil
	case "none":
		return &tenants.Claims{Subject: "u", All: map[string]any{}}, nil
	}
	return &tenants.Claims{Subject: "u", Role: "authenticated", All: map[string]any{"tenant": token}}, nil
}

func TestResolver_Resolve(t *testing.T) {
	t.Parallel()
	tenant := func(name string, state catalog.State, aliases ...string) *catalog.Tenant {
		return &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: name, State: state, Aliases: aliases}
	}
	acme, beta := tenant("acme", catalog.StateActive, "acme-old"), tenant("beta", catalog.StateActive)
	suspended, coming := tenant("asleep", catalog.StateSuspended), tenant("coming", catalog.StateProvisioning)
	closed, leaving := tenant("closed", catalog.StateMaintenance), tenant("leaving", catalog.StateDeleting)
	all := known{acme, beta, suspended, coming, closed, leaving}
	resolver := &tenants.Resolver{
		Contributors: []tenants.Contributor{
			tenants.FromClaim("tenant"), tenants.FromDomain("{tenant}.mydomain.com"), tenants.FromHeader("X-Tenant", "Abp-TenantId"), tenants.FromCookie("rowhouse_tenant"),
		},
		Verifier: bearer{},
	}
	const none = "-"
	for _, c := range []struct {
		name                        string
		token, host, header, cookie string
		want                        string
		err                         error
	}{
		// The rows of the truth table.
		{"1 a token", "acme", none, none, none, "acme", nil},
		{"2 token against header", "acme", none, "beta", none, "", tenants.ErrMismatch},
		{"2 token against an unknown header", "acme", none, "nosuch", none, "", tenants.ErrMismatch},
		{"3 the host's token and a hint", "host", none, "beta", none, "", tenants.ErrMismatch},
		{"3 the host's token alone", "host", none, none, none, "", tenants.ErrNoTenant},
		{"4 host name against header", none, "acme.mydomain.com", "beta", none, "", tenants.ErrMismatch},
		{"5 a reserved label and a cookie", none, "www.mydomain.com", none, "beta", "beta", nil},
		{"6 an unknown label", none, "nosuch.mydomain.com", none, none, "", tenants.ErrNotFound},
		{"7 an unknown label and a header", none, "nosuch.mydomain.com", "beta", none, "", tenants.ErrNotFound},
		{"8 a look-alike", none, "acme.mydomain.com.evil.com", none, none, "", tenants.ErrNoTenant},
		{"9 two labels", none, "a.b.mydomain.com", none, none, "", tenants.ErrNoTenant},
		{"10 case and port", none, "ACME.MyDomain.com:8443", none, none, "acme", nil},
		{"11 two headers", none, none, "acme|acme", none, "", tenants.ErrInvalid},
		{"12 suspended", "asleep", none, none, none, "", tenants.ErrSuspended},
		{"14 nothing", none, none, none, none, "", tenants.ErrNoTenant},

		{"all agree, by name, id and alias", "acme", "acme-old.mydomain.com", acme.ID.String(), "ACME", "acme", nil},
		{"a bad token is never anonymous", "bad", "acme.mydomain.com", none, none, "", tenants.ErrCredential},
		{"a claim that is a list", "list", none, none, none, "", tenants.ErrCredential},
		{"a token without the claim", "none", none, "acme", none, "", tenants.ErrCredential},
		{"malformed comes before the credential", "bad", none, "a,b", none, "", tenants.ErrInvalid},
		{"a header with a list", none, none, "acme,beta", none, "", tenants.ErrInvalid},
		{"an empty header", none, none, "", none, "", tenants.ErrInvalid},
		{"a header with blanks", none, none, " acme", none, "", tenants.ErrInvalid},
		{"a header with an encoded name", none, none, "%61cme", none, "", tenants.ErrInvalid},
		{"a header of 10 KiB", none, none, strings.Repeat("a", 10<<10), none, "", tenants.ErrInvalid},
		{"an id without dashes", none, none, acme.ID.Compact(), none, "", tenants.ErrInvalid},
		{"a reserved name in a header", none, none, "default", none, "", tenants.ErrNotFound},
		{"an encoded cookie", none, none, none, "%61cme", "", tenants.ErrInvalid},
		{"a cookie against a host name", none, "acme.mydomain.com", none, "beta", "", tenants.ErrMismatch},
		{"a trailing dot", none, "acme.mydomain.com.", none, none, "acme", nil},
		{"a label that cannot be a name", none, "a_b.mydomain.com", none, none, "", tenants.ErrNotFound},
		{"punycode", none, "xn--80ak6aa92e.mydomain.com", none, none, "", tenants.ErrNotFound},
		{"the bare domain", none, "mydomain.com", none, none, "", tenants.ErrNoTenant},
		{"no dot before the domain", none, "acmemydomain.com", none, none, "", tenants.ErrNoTenant},
		{"an address", none, "10.0.0.1:80", none, none, "", tenants.ErrNoTenant},
		{"an IPv6 address", none, "[::1]:80", none, none, "", tenants.ErrNoTenant},
		{"a comma in the host", none, "acme.mydomain.com,evil.com", none, none, "", tenants.ErrInvalid},
		{"a percent sign in the host", none, "ac%6de.mydomain.com", none, none, "", tenants.ErrInvalid},
		{"an empty label", none, "acme..mydomain.com", none, none, "", tenants.ErrInvalid},
		{"a label of 64", none, strings.Repeat("a", 64) + ".mydomain.com", none, none, "", tenants.ErrInvalid},
		{"port 0", none, "acme.mydomain.com:0", none, none, "", tenants.ErrInvalid},
		{"port 65536", none, "acme.mydomain.com:65536", none, none, "", tenants.ErrInvalid},
		{"a port that is none", none, "acme.mydomain.com:80a", none, none, "", tenants.ErrInvalid},
		{"never active", none, "coming.mydomain.com", none, none, "", tenants.ErrNotFound},
		{"being deleted", none, "leaving.mydomain.com", none, none, "", tenants.ErrNotFound},
		{"in maintenance", none, "closed.mydomain.com", none, none, "", tenants.ErrMaintenance},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := httptest.NewRequest(http.MethodGet, "/", nil)
			r.Host = "10.1.1.1"
			if c.host != none {
				r.Host = c.host
			}
			if c.token != none {
				r.Header.Set("Authorization", "Bearer "+c.token)
			}
			if c.header != none {
				r.Header["X-Tenant"] = strings.Split(c.header, "|")
			}
			if c.cookie != none {
				r.Header.Set("Cookie", "rowhouse_tenant="+c.cookie)
			}
			s, err := resolver.Resolve(r, all)
			if !errors.Is(err, c.err) {
				t.Fatalf("got %v, want %v", err, c.err)
			}
			if c.err == nil && (s.Tenant() == nil || s.Tenant().Name != c.want) {
				t.Fatalf("resolved to %+v, want %s", s.Tenant(), c.want)
			}
		})
	}
}

func TestResolver_contributors(t *testing.T) {
	t.Parallel()
	acme := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "acme", State: catalog.StateActive}
	request := func(header, value string) *http.Request {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		if header != "" {
			r.Header.Set(header, value)
		}
		return r
	}
	t.Run("Always names one tenant, whatever the request carries", func(t *testing.T) {
		rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.Always("acme")}}
		if s, err := rs.Resolve(request("X-Tenant", "beta"), known{acme}); err != nil || s.Tenant() != acme {
			t.Fatalf("%+v, %v", s, err)
		}
	})
	t.Run("an application's own contributor must agree too", func(t *testing.T) {
		own := tenants.ContributorFunc(func(r *http.Request) (string, bool, error) {
			v := r.Header.Get("X-Org")
			return v, v != "", nil
		})
		rs := &tenants.Resolver{Contributors: []tenants.Contributor{own, tenants.FromHeader("X-Tenant")}}
		if s, err := rs.Resolve(request("X-Org", "acme"), known{acme}); err != nil || s.Tenant() != acme {
			t.Fatalf("%+v, %v", s, err)
		}
		r := request("X-Org", "acme")
		r.Header.Set("X-Tenant", "beta")
		if _, err := rs.Resolve(r, known{acme}); !errors.Is(err, tenants.ErrMismatch) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("a bearer token that nobody verified is refused where claims count", func(t *testing.T) {
		rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromClaim("tenant"), tenants.FromHeader("X-Tenant")}}
		r := request("Authorization", "Bearer x")
		r.Header.Set("X-Tenant", "acme")
		if _, err := rs.Resolve(r, known{acme}); !errors.Is(err, tenants.ErrCredential) {
			t.Fatalf("got %v", err)
		}
		verified := r.WithContext(tenants.WithClaims(r.Context(), &tenants.Claims{Subject: "u", All: map[string]any{"tenant": "acme"}}))
		if s, err := rs.Resolve(verified, known{acme}); err != nil || s.Subject() != "u" {
			t.Fatalf("claims of the application: %+v, %v", s, err)
		}
	})
	t.Run("a key of one tenant vouches for that one only", func(t *testing.T) {
		rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromClaim("tenant")}}
		beta := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "beta", State: catalog.StateActive}
		claims := &tenants.Claims{Subject: "u", KeyTenant: acme.ID, All: map[string]any{"tenant": "beta"}}
		r := request("", "")
		if _, err := rs.Resolve(r.WithContext(tenants.WithClaims(r.Context(), claims)), known{acme, beta}); !errors.Is(err, tenants.ErrCredential) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("an error knows the cookie that caused it", func(t *testing.T) {
		rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromHeader("X-Tenant"), tenants.FromCookie("c")}}
		for _, c := range []struct {
			header, cookie string
			want           error
		}{
			{"acme", "c=stale", tenants.ErrMismatch},
			{"", "c=nobody", tenants.ErrNotFound},
			{"", "c=acme; c=acme", tenants.ErrInvalid},
			{"", `c="acme"`, tenants.ErrInvalid},
			{"", `c=ac\me`, tenants.ErrInvalid},
			{"", "c=", tenants.ErrInvalid},
		} {
			r := request("Cookie", c.cookie)
			if c.header != "" {
				r.Header.Set("X-Tenant", c.header)
			}
			_, err := rs.Resolve(r, known{acme})
			var of *tenants.CookieError
			if !errors.Is(err, c.want) || !errors.As(err, &of) || of.Cookie != "c" {
				t.Errorf("%s: got %v", c.cookie, err)
			}
		}
	})
	t.Run("a catalog that is away is not an unknown tenant", func(t *testing.T) {
		rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.FromHeader("X-Tenant")}}
		_, err := rs.Resolve(request("X-Tenant", "acme"), away{})
		if !errors.Is(err, tenants.ErrUnavailable) || errors.Is(err, tenants.ErrNotFound) {
			t.Fatalf("got %v", err)
		}
	})
}

type away struct{}

func (away) Tenant(context.Context, string) (*catalog.Tenant, error) {
	return nil, errors.New("connection refused")
}

func FuzzFromDomain(f *testing.F) {
	for _, seed := range []string{"acme.example.com", "a.b.example.com", "acme.example.com:80", "acme.example.com.", "[::1]:80", ",", "%", "acme.example.com.evil", "\x00"} {
		f.Add(seed)
	}
	c := tenants.FromDomain("{tenant}.example.com")
	f.Fuzz(func(t *testing.T, host string) {
		r := &http.Request{Host: host}
		ref, found, err := c.Contribute(r)
		if !found || err != nil {
			return
		}
		folded := strings.ToLower(host)
		if !strings.HasPrefix(folded, ref+".example.com") || strings.Contains(ref, ".") || ref == "" {
			t.Errorf("host %q gave %q", host, ref)
		}
	})
}
