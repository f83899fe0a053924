package identity

import (
	"crypto/rand"
	"fmt"
	"maps"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// MintConfig is what a token says.
type MintConfig struct {
	// Tenant is whose token it is.
	Tenant catalog.TenantID
	// Role is the database role that its bearer has. Empty: the anonymous one.
	Role string
	// Subject is whom it names. Empty: nobody, which is an anonymous session of the tenant.
	Subject string
	// Issuer and Audience are what the verifier expects; empty ones are left out.
	Issuer, Audience string
	// TenantClaim and RoleClaim are the names of those claims.
	//
	// Empty means "tenant" and "role".
	TenantClaim, RoleClaim string
	// TTL is how long it holds. It must be positive.
	TTL time.Duration
	// Extra are further claims. None may be one of the above.
	Extra map[string]any
}

// Mint makes a token of a tenant under a shared secret, HS256. What cannot be minted is catalog.ErrInvalid.
func Mint(secret catalog.Secret, c MintConfig) (catalog.Secret, error) {
	keys, err := secretKey(secret)
	switch {
	case err != nil:
		return catalog.Secret{}, err
	case keys == nil:
		return catalog.Secret{}, fmt.Errorf("jwt secret is missing: %w", catalog.ErrInvalid)
	}
	claims, err := c.claims(time.Now())
	if err != nil {
		return catalog.Secret{}, err
	}
	text, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString(keys[0].material)
	switch {
	case err != nil:
		return catalog.Secret{}, fmt.Errorf("token cannot be signed: %w", catalog.ErrInvalid)
	case len(text) > maxToken:
		return catalog.Secret{}, fmt.Errorf("token is longer than %d bytes: %w", maxToken, catalog.ErrInvalid)
	}
	return catalog.NewSecret(text), nil
}

func (c MintConfig) claims(now time.Time) (jwt.MapClaims, error) {
	if c.TenantClaim == "" {
		c.TenantClaim = defaultTenantClaim
	}
	if c.RoleClaim == "" {
		c.RoleClaim = defaultRoleClaim
	}
	path, err := parseClaim(c.RoleClaim)
	switch {
	case err != nil:
		return nil, fmt.Errorf("role claim: %w", err)
	case len(path) != 1:
		return nil, fmt.Errorf("role claim is not at the top: %w", catalog.ErrInvalid)
	case c.Tenant.IsZero():
		return nil, fmt.Errorf("token of no tenant: %w", catalog.ErrInvalid)
	case c.TTL <= 0:
		return nil, fmt.Errorf("token must live for a while: %w", catalog.ErrInvalid)
	}
	role, ok := path[0].(string)
	if !ok {
		return nil, fmt.Errorf("role claim has no name: %w", catalog.ErrInvalid)
	}
	claims := jwt.MapClaims{c.TenantClaim: c.Tenant.String(), "iat": now.Unix(), "exp": now.Add(c.TTL).Unix(), "jti": rand.Text()}
	for name, value := range map[string]string{role: c.Role, "sub": c.Subject, "iss": c.Issuer, "aud": c.Audience} {
		if value != "" {
			claims[name] = value
		}
	}
	for _, name := range []string{role, c.TenantClaim, "sub", "iss", "aud", "exp", "nbf", "iat", "jti", "act"} {
		if _, there := c.Extra[name]; there {
			return nil, fmt.Errorf("claim %q is not an extra one: %w", name, catalog.ErrInvalid)
		}
	}
	maps.Copy(claims, c.Extra)
	return claims, nil
}
