package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
)

// Contributor looks at a request for a reference to a tenant: an id or a name. It does no I/O. A signal that is there and
// cannot be read, or is there twice, is an error of ErrInvalid, never "not found".
type Contributor interface {
	Contribute(r *http.Request) (ref string, found bool, err error)
}

// ContributorFunc is a function that is a Contributor.
type ContributorFunc func(r *http.Request) (ref string, found bool, err error)

// Contribute calls the function.
func (f ContributorFunc) Contribute(r *http.Request) (string, bool, error) { return f(r) }

// signal is a contributor of this package: it has a name for messages.
type signal struct {
	ContributorFunc
	name   string
	cookie string // the cookie's name, when it is one
	claim  bool   // reads verified claims, so it runs after the Verifier
}

// blame says which cookie an error comes from, so that the answer can take it back: a stale one must lock nobody out.
func (s signal) blame(err error) error {
	if s.cookie == "" {
		return err
	}
	return &CookieError{Cookie: s.cookie, Err: err}
}

// Claims are what a verified credential says.
type Claims struct {
	// Subject is whom it names.
	Subject string
	// Role is the database role it claims; empty means the anonymous one.
	Role string
	// Impersonator is the operator who acts as the subject.
	Impersonator string
	// Host says that it is an operator's: it equals no tenant.
	Host bool
	// KeyTenant is set when the key that verified it belongs to one tenant: it vouches for that one only.
	KeyTenant catalog.TenantID
	// All are its claims, decoded; Raw is the JSON object they came from.
	All map[string]any
	Raw json.RawMessage
}

// Verifier verifies the credential of a request. Without one in the request it answers nil claims and no error; one that
// does not hold is an ErrCredential. The hints are what the other signals say, unverified: they may choose which key to
// try and nothing else.
type Verifier interface {
	Verify(r *http.Request, hints []string) (*Claims, error)
}

// Lookup finds a tenant by id, name or alias. It is satisfied by *Directory and *catalog.Catalog.
type Lookup interface {
	Tenant(ctx context.Context, ref string) (*catalog.Tenant, error)
}

// Resolver finds out which tenant a request is for.
type Resolver struct {
	// Contributors are asked in this order: the first that finds something names the tenant, and all others must agree.
	Contributors []Contributor

	// Verifier verifies credentials.
	//
	// Nil: only claims that the application verified itself and put into the context count (WithClaims).
	Verifier Verifier
}

type claimsKey struct{}

// WithClaims puts claims that the application has verified into a context, for FromClaim.
func WithClaims(ctx context.Context, c *Claims) context.Context {
	return context.WithValue(ctx, claimsKey{}, c)
}

func claimsFrom(ctx context.Context) *Claims {
	c, _ := ctx.Value(claimsKey{}).(*Claims)
	return c
}

// reference is what one signal says.
type reference struct {
	ref    string
	signal signal
}

// Resolve asks every contributor, verifies the credential, looks the first reference up and compares all others with that
// tenant's record: what they name is never looked up, so an unknown tenant and a foreign one cannot be told apart.
//
// It answers a session of a tenant that is served, or ErrInvalid, ErrCredential, ErrNoTenant, ErrNotFound, ErrMismatch,
// ErrSuspended, ErrMaintenance or ErrUnavailable.
func (rs *Resolver) Resolve(r *http.Request, tenants Lookup) (Session, error) {
	found := make([]reference, len(rs.Contributors))
	if err := rs.ask(r, found, false); err != nil {
		return Session{}, err
	}
	claims, err := rs.verify(r, found)
	if err != nil {
		return Session{}, err
	}
	if claims != nil {
		r = r.WithContext(WithClaims(r.Context(), claims))
	}
	if err := rs.ask(r, found, true); err != nil {
		return Session{}, err
	}
	return decide(r.Context(), tenants, claims, found)
}

// ask runs the contributors that read claims, or all the others, and keeps what they find in its place in the order.
func (rs *Resolver) ask(r *http.Request, found []reference, claim bool) error {
	for i, c := range rs.Contributors {
		s, ours := c.(signal)
		if !ours {
			s = signal{name: "signal"}
		}
		if s.claim != claim {
			continue
		}
		ref, ok, err := c.Contribute(r)
		if err != nil {
			return s.blame(fmt.Errorf("%s: %w", s.name, err))
		}
		if ok {
			found[i] = reference{ref, s}
		}
	}
	return nil
}

func (rs *Resolver) verify(r *http.Request, found []reference) (*Claims, error) {
	if claims := claimsFrom(r.Context()); claims != nil {
		return claims, nil
	}
	if rs.Verifier == nil {
		if rs.readsClaims() && hasBearer(r) {
			return nil, fmt.Errorf("nobody verified the bearer token: %w", ErrCredential)
		}
		return nil, nil
	}
	var hints []string
	for _, f := range found {
		if f.ref != "" {
			hints = append(hints, f.ref)
		}
	}
	return rs.Verifier.Verify(r, hints)
}

func (rs *Resolver) readsClaims() bool {
	for _, c := range rs.Contributors {
		if s, ok := c.(signal); ok && s.claim {
			return true
		}
	}
	return false
}

func hasBearer(r *http.Request) bool {
	scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	return strings.EqualFold(scheme, "bearer")
}

func decide(ctx context.Context, tenants Lookup, claims *Claims, found []reference) (Session, error) {
	var t *catalog.Tenant
	for _, f := range found {
		switch {
		case f.ref == "":
			continue
		case claims != nil && claims.Host: // an operator's credential equals no tenant
			return Session{}, f.disagrees()
		case t == nil:
			var err error
			if t, err = tenants.Tenant(ctx, f.ref); err != nil {
				return Session{}, f.signal.blame(lookupError(err))
			}
		case !names(t, f.ref):
			return Session{}, f.disagrees()
		}
	}
	if t == nil {
		return Session{}, ErrNoTenant
	}
	s := Session{tenant: t}
	if claims != nil {
		if !claims.KeyTenant.IsZero() && claims.KeyTenant != t.ID {
			return Session{}, fmt.Errorf("the key is another tenant's: %w", ErrCredential)
		}
		s.subject, s.role, s.impersonator, s.claims = claims.Subject, claims.Role, claims.Impersonator, claims.Raw
	}
	return s, Served(t)
}

// lookupError keeps what the lookup knows, without repeating what was asked for.
func lookupError(err error) error {
	if errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("tenant: %w", ErrNotFound)
	}
	return fmt.Errorf("%w: %w", ErrUnavailable, err)
}

func (f reference) disagrees() error {
	return f.signal.blame(&MismatchError{Signal: f.signal.name})
}

// names says whether ref is the tenant's id, name or one of its aliases.
func names(t *catalog.Tenant, ref string) bool {
	if ref == t.Name || ref == t.ID.String() {
		return true
	}
	for _, a := range t.Aliases {
		if ref == a {
			return true
		}
	}
	return false
}

// FromClaim reads a claim of the verified credential. A credential without the claim is refused, unless the key that
// verified it belongs to one tenant; so is a claim that is no string.
func FromClaim(claim string) Contributor {
	return signal{name: fmt.Sprintf("claim %q", claim), claim: true, ContributorFunc: func(r *http.Request) (string, bool, error) {
		c := claimsFrom(r.Context())
		switch {
		case c == nil:
			return "", false, nil
		case c.Host:
			return "", false, nil
		}
		value, there := c.All[claim]
		text, isString := value.(string)
		switch {
		case !there && !c.KeyTenant.IsZero():
			return c.KeyTenant.String(), true, nil
		case !there:
			return "", false, fmt.Errorf("is missing: %w", ErrCredential)
		case !isString:
			return "", false, fmt.Errorf("is not a string: %w", ErrCredential)
		}
		ref, err := parseRef(text)
		if err != nil {
			return "", false, fmt.Errorf("names no tenant: %w", ErrCredential)
		}
		return ref, true, nil
	}}
}

// FromHeader reads a header that holds an id or a name. Aliases are other names of the header: each is a signal of its own.
func FromHeader(name string, aliases ...string) Contributor {
	return signal{name: fmt.Sprintf("header %q", name), ContributorFunc: func(r *http.Request) (string, bool, error) {
		var ref string
		for _, n := range append([]string{name}, aliases...) {
			values := r.Header.Values(n)
			switch {
			case len(values) == 0:
				continue
			case len(values) > 1:
				return "", false, fmt.Errorf("stands there twice: %w", ErrInvalid)
			}
			parsed, err := parseRef(values[0])
			if err != nil {
				return "", false, err
			}
			if ref != "" && ref != parsed {
				return "", false, &MismatchError{Signal: fmt.Sprintf("header %q", n)}
			}
			ref = parsed
		}
		return ref, ref != "", nil
	}}
}

// FromCookie reads a cookie that holds an id or a name, verbatim.
func FromCookie(name string) Contributor {
	return signal{name: fmt.Sprintf("cookie %q", name), cookie: name, ContributorFunc: func(r *http.Request) (string, bool, error) {
		values := cookieValues(r, name)
		switch {
		case len(values) == 0:
			return "", false, nil
		case len(values) > 1:
			return "", false, fmt.Errorf("stands there twice: %w", ErrInvalid)
		}
		ref, err := parseRef(values[0])
		return ref, err == nil, err
	}}
}

// cookieValues are a cookie's values as they were sent. net/http takes quotes off and leaves malformed ones out, and what
// is malformed must not become nothing.
func cookieValues(r *http.Request, name string) []string {
	var values []string
	for _, line := range r.Header.Values("Cookie") {
		for part := range strings.SplitSeq(line, ";") {
			if key, value, _ := strings.Cut(strings.TrimLeft(part, " \t"), "="); key == name {
				values = append(values, value)
			}
		}
	}
	return values
}

type pathKey struct{}

// WithPathTenant keeps the tenant that stood in the path as /t/{tenant}/…, which whoever stripped it calls before routing.
func WithPathTenant(ctx context.Context, ref string) context.Context {
	return context.WithValue(ctx, pathKey{}, ref)
}

// FromPath reads what WithPathTenant kept. It finds nothing where nobody strips the path before routing.
func FromPath() Contributor {
	return signal{name: "path", ContributorFunc: func(r *http.Request) (string, bool, error) {
		ref, ok := r.Context().Value(pathKey{}).(string)
		if !ok {
			return "", false, nil
		}
		ref, err := parseRef(ref)
		return ref, err == nil, err
	}}
}

type queryKey struct{}

// WithQueryTenant keeps the values that the query parameter for the tenant had, which whoever took it out of the query calls.
func WithQueryTenant(ctx context.Context, values []string) context.Context {
	return context.WithValue(ctx, queryKey{}, values)
}

// FromQuery reads what WithQueryTenant kept.
func FromQuery() Contributor {
	return signal{name: "query", ContributorFunc: func(r *http.Request) (string, bool, error) {
		values, _ := r.Context().Value(queryKey{}).([]string)
		switch {
		case len(values) == 0:
			return "", false, nil
		case len(values) > 1:
			return "", false, fmt.Errorf("stands there twice: %w", ErrInvalid)
		}
		ref, err := parseRef(values[0])
		return ref, err == nil, err
	}}
}

// Always names the same tenant for every request: the only contributor of a house with one tenant.
func Always(ref string) Contributor {
	return signal{name: "configuration", ContributorFunc: func(*http.Request) (string, bool, error) { return ref, true, nil }}
}
