package identity

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/maypok86/otter/v2"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// Config says whose tokens hold. The zero value verifies nothing: every token is then answered with the server's lack of
// a key.
type Config struct {
	// Secret is a shared secret of 32 bytes or more: HS256.
	Secret catalog.Secret
	// JWKSFile is a file with a JWK set, read again when a token names a key that it did not hold.
	JWKSFile string
	// JWKSURL is where an issuer publishes its keys, by https. It needs Issuer and Audience.
	JWKSURL string
	// AllowHTTP lets JWKSURL be http, for development.
	AllowHTTP bool

	// Issuer is what iss must be. Empty: it is not looked at.
	Issuer string
	// Audience is what aud must name. Empty: it is not looked at.
	Audience string
	// TenantClaim is the claim that holds the tenant's id or name.
	//
	// Empty means "tenant".
	TenantClaim string
	// RoleClaim is the claim that holds the database role: its name, or a path such as .app.roles[0].
	//
	// Empty means "role".
	RoleClaim string
	// Leeway is how far the issuer's clock may be from ours. Negative: not at all.
	//
	// Zero means 30 seconds.
	Leeway time.Duration
	// RequireExp refuses tokens that do not expire.
	//
	// Nil means true.
	RequireExp *bool
	// RequireAudience refuses tokens without aud where Audience is set.
	//
	// Nil means true.
	RequireAudience *bool

	// PerTenant is what differs for a tenant. It is asked with a reference that nobody has verified yet, the token's
	// claim or else the first hint, does no I/O, and answers false for a tenant it does not know.
	//
	// Nil: nothing differs.
	PerTenant func(ref string) (Override, bool)

	// Logger is told of key sets that cannot be fetched or hold odd keys.
	//
	// Nil means slog.Default().
	Logger *slog.Logger
}

// Override is what differs from the Config for one tenant. What is empty or nil does not.
type Override struct {
	// Tenant is whose it is.
	Tenant catalog.TenantID
	// Secret, JWKSFile and JWKSURL, if any is set, take the place of all keys of the Config, and vouch for this tenant only.
	// The set is read when a token needs it; JWKSURL needs Issuer and Audience, and an address that is not this machine's.
	Secret            catalog.Secret
	JWKSFile, JWKSURL string

	Issuer, Audience, TenantClaim, RoleClaim string

	Leeway                      *time.Duration
	RequireExp, RequireAudience *bool
}

const (
	defaultTenantClaim = "tenant"
	defaultRoleClaim   = "role"
	defaultLeeway      = 30 * time.Second
)

func (c Config) withDefaults() Config {
	if c.TenantClaim == "" {
		c.TenantClaim = defaultTenantClaim
	}
	if c.RoleClaim == "" {
		c.RoleClaim = defaultRoleClaim
	}
	if c.Leeway == 0 {
		c.Leeway = defaultLeeway
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

func (c Config) validate() error {
	if c.JWKSURL == "" {
		return nil
	}
	u, err := url.Parse(c.JWKSURL)
	switch {
	case c.JWKSFile != "":
		return fmt.Errorf("key set is given as a file and as a url: %w", catalog.ErrInvalid)
	case err != nil || u.Host == "" || u.User != nil || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("key set url must be https://host/path: %w", catalog.ErrInvalid)
	case u.Scheme == "http" && !c.AllowHTTP:
		return fmt.Errorf("key set url must be https: %w", catalog.ErrInvalid)
	case c.Issuer == "" || c.Audience == "":
		return fmt.Errorf("key set url needs an issuer and an audience: %w", catalog.ErrInvalid)
	}
	return nil
}

// ownKeys says that the Config's keys are not the tenant's.
func (o Override) ownKeys() bool { return o.JWKSFile != "" || o.JWKSURL != "" || !o.Secret.IsZero() }

// with is the Config as it is for one tenant.
func (c Config) with(o Override) Config {
	if o.ownKeys() {
		c.Secret, c.JWKSFile, c.JWKSURL = o.Secret, o.JWKSFile, o.JWKSURL
	}
	for _, f := range []struct{ to, from *string }{
		{&c.Issuer, &o.Issuer}, {&c.Audience, &o.Audience}, {&c.TenantClaim, &o.TenantClaim}, {&c.RoleClaim, &o.RoleClaim},
	} {
		if *f.from != "" {
			*f.to = *f.from
		}
	}
	if o.Leeway != nil {
		c.Leeway = *o.Leeway
	}
	if o.RequireExp != nil {
		c.RequireExp = o.RequireExp
	}
	if o.RequireAudience != nil {
		c.RequireAudience = o.RequireAudience
	}
	return c
}

// Verifier verifies the bearer tokens of requests. It is safe for concurrent use.
type Verifier struct {
	cfg    Config
	rules  *rules
	secret keySet
	source source // nil without one
	own    *sources
	cache  *otter.Cache[[sha256.Size]byte, *token]
	now    func() time.Time // the clock, which tests set
}

var _ tenants.Verifier = (*Verifier)(nil)

// How much the verifier remembers, in bytes of tokens, and for how long at most.
const (
	cacheBytes = 8 << 20
	cacheTime  = 10 * time.Minute
)

// NewVerifier makes a verifier. It reads a key file, and waits for the keys of a URL for a few seconds: an issuer that is
// away is asked again in the background, and its tokens are tenants.ErrUnavailable until it answers.
func NewVerifier(ctx context.Context, cfg Config) (*Verifier, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	v := &Verifier{cfg: cfg, now: time.Now}
	var err error
	if v.rules, err = cfg.rules(v.time); err != nil {
		return nil, err
	}
	if v.secret, err = secretKey(cfg.Secret); err != nil {
		return nil, err
	}
	v.cache, err = otter.New(&otter.Options[[sha256.Size]byte, *token]{
		MaximumWeight:    cacheBytes,
		Weigher:          func(_ [sha256.Size]byte, t *token) uint32 { return uint32(len(t.text)) },
		ExpiryCalculator: otter.ExpiryCreatingFunc(func(e otter.Entry[[sha256.Size]byte, *token]) time.Duration { return v.memory(e.Value) }),
	})
	if err != nil {
		return nil, fmt.Errorf("token cache: %w", err)
	}
	if v.own, err = newSources(cfg); err != nil {
		return nil, err
	}
	switch {
	case cfg.JWKSFile != "":
		v.source, err = openKeyFile(cfg.JWKSFile, cfg.Logger)
	case cfg.JWKSURL != "":
		v.source, err = openKeyURL(ctx, cfg)
	}
	if err != nil {
		return nil, err
	}
	return v, nil
}

// Close ends what fetches keys in the background.
func (v *Verifier) Close() error {
	v.cache.StopAllGoroutines()
	v.own.close()
	if v.source == nil {
		return nil
	}
	return v.source.close()
}

func (v *Verifier) time() time.Time { return v.now() }

// memory is how long a token that holds is remembered: no longer than it could hold.
func (v *Verifier) memory(t *token) time.Duration {
	exp, err := jwt.MapClaims(t.claims).GetExpirationTime()
	if err != nil || exp == nil {
		return cacheTime
	}
	return min(cacheTime, max(exp.Sub(v.now())+v.rules.leeway, time.Nanosecond))
}

// Verify verifies the request's bearer token. Without one it answers nil; one that does not hold is a *CredentialError. The
// claims are shared with other requests and must not be changed.
func (v *Verifier) Verify(r *http.Request, hints []string) (*tenants.Claims, error) {
	text, found, err := bearer(r)
	if err != nil || !found {
		return nil, err
	}
	hash := sha256.Sum256([]byte(text))
	t, known := v.cache.GetIfPresent(hash)
	if !known {
		if t, err = readToken(text); err != nil {
			return nil, v.orNoKey(err)
		}
	}
	tr, err := v.trust(r.Context(), t, hints)
	if err != nil {
		return nil, err
	}
	known = known && tr.keys.holds(t.by)
	if !known {
		if t, err = tr.verify(r.Context(), t); err != nil {
			return nil, err
		}
	}
	if err := tr.rules.check(t); err != nil {
		return nil, err
	}
	if !known {
		v.cache.Set(hash, t)
	}
	return tr.rules.speak(t, v.rules.tenantClaim, tr.vouchesFor)
}

// orNoKey answers a token with the server's lack of a key where there is none: no other check has a meaning then.
func (v *Verifier) orNoKey(err error) error {
	if v.secret == nil && v.source == nil && v.cfg.PerTenant == nil {
		return errNoKey
	}
	return err
}

// trust is what a token is judged by.
type trust struct {
	keys       keySet
	rules      *rules
	vouchesFor catalog.TenantID // set when the keys belong to one tenant
	secret     keySet
	source     source // nil without one; it may have newer keys
}

// trust chooses by what the token claims of itself, or else by the first hint. Neither is verified, so they choose what to
// try and nothing else: a key of one tenant vouches for that tenant only.
func (v *Verifier) trust(ctx context.Context, t *token, hints []string) (trust, error) {
	tr := trust{rules: v.rules, secret: v.secret, source: v.source}
	if o, ok := v.override(t, hints); ok {
		if err := v.become(ctx, &tr, o); err != nil {
			return trust{}, fmt.Errorf("settings of tenant %s: %w", o.Tenant, err)
		}
	}
	err := tr.look()
	if isUnavailable(err) {
		tr.source.refresh(ctx)
		err = tr.look()
	}
	return tr, err
}

// become makes a trust one tenant's.
func (v *Verifier) become(ctx context.Context, tr *trust, o Override) (err error) {
	cfg := v.cfg.with(o)
	if tr.rules, err = cfg.rules(v.time); err != nil || !o.ownKeys() {
		return err
	}
	if err := cfg.validate(); err != nil {
		return err
	}
	tr.source, tr.vouchesFor = v.own.of(ctx, cfg), o.Tenant
	tr.secret, err = secretKey(o.Secret)
	return err
}

// look takes the keys of now: the secret and the source's. A source that has none is an error only where no secret could do.
func (tr *trust) look() error {
	tr.keys = tr.secret
	if tr.source == nil {
		return nil
	}
	keys, err := tr.source.keys()
	if err == nil {
		tr.keys = append(keys[:len(keys):len(keys)], tr.secret...)
	} else if tr.secret != nil {
		err = nil
	}
	return err
}

func (v *Verifier) override(t *token, hints []string) (Override, bool) {
	if v.cfg.PerTenant == nil {
		return Override{}, false
	}
	ref, _ := t.claims[v.rules.tenantClaim].(string)
	if ref == "" && len(hints) > 0 {
		ref = hints[0]
	}
	if ref == "" {
		return Override{}, false
	}
	return v.cfg.PerTenant(ref)
}

// verify finds the key that made the token's signature. A key that is not known makes the source look for it.
func (tr *trust) verify(ctx context.Context, t *token) (*token, error) {
	if len(tr.keys) == 0 {
		return nil, errNoKey
	}
	if tr.source != nil && t.hasKid && !tr.keys.knows(t.kid) {
		tr.source.refresh(ctx)
		if err := tr.look(); err != nil {
			return nil, err
		}
	}
	k, ok := tr.keys.verify(t)
	if !ok {
		return nil, errUnsuitable
	}
	verified := *t
	verified.by = k.print
	return &verified, nil
}

func isUnavailable(err error) bool { return errors.Is(err, tenants.ErrUnavailable) }
