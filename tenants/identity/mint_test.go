package identity

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

func TestMint(t *testing.T) {
	t.Parallel()
	t.Run("what is minted holds", func(t *testing.T) {
		t.Parallel()
		v := newVerifier(t, Config{Secret: secret, Issuer: issuer, Audience: audience})
		seen := map[any]bool{}
		for range 2 {
			minted, err := Mint(secret, MintConfig{
				Tenant: tenantID, Role: "authenticated", Subject: "ann", Issuer: issuer, Audience: audience, TTL: time.Hour,
				Extra: map[string]any{"email": "ann@example.com"},
			})
			if err != nil {
				t.Fatal(err)
			}
			claims, err := v.Verify(withToken(minted.Reveal()), nil)
			if err != nil {
				t.Fatal(err)
			}
			if claims.Subject != "ann" || claims.Role != "authenticated" || claims.All["tenant"] != tenantID.String() || claims.All["email"] != "ann@example.com" {
				t.Errorf("claims are %v", claims.All)
			}
			if seen[claims.All["jti"]] || claims.All["jti"] == nil || claims.All["iat"] == nil {
				t.Errorf("claims are %v", claims.All)
			}
			seen[claims.All["jti"]] = true
		}
	})
	t.Run("an anonymous one names nobody", func(t *testing.T) {
		t.Parallel()
		minted, err := Mint(secret, MintConfig{Tenant: tenantID, Role: "anon", TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		claims, err := newVerifier(t, Config{Secret: secret}).Verify(withToken(minted.Reveal()), nil)
		if err != nil || claims.Subject != "" || claims.Role != "anon" {
			t.Errorf("got %+v, %v", claims, err)
		}
		if _, there := claims.All["iss"]; there {
			t.Errorf("claims are %v", claims.All)
		}
	})
	t.Run("claims have the names that are configured", func(t *testing.T) {
		t.Parallel()
		minted, err := Mint(secret, MintConfig{Tenant: tenantID, Role: "authenticated", TenantClaim: "org", RoleClaim: ".db_role", TTL: time.Hour})
		if err != nil {
			t.Fatal(err)
		}
		v := newVerifier(t, Config{Secret: secret, TenantClaim: "org", RoleClaim: ".db_role"})
		claims, err := v.Verify(withToken(minted.Reveal()), nil)
		if err != nil || claims.Role != "authenticated" || claims.All["org"] != tenantID.String() {
			t.Errorf("got %+v, %v", claims, err)
		}
	})
	for name, c := range map[string]struct {
		secret catalog.Secret
		cfg    MintConfig
	}{
		"no secret":       {catalog.Secret{}, MintConfig{Tenant: tenantID, TTL: time.Hour}},
		"short secret":    {catalog.NewSecret("RHCANARY"), MintConfig{Tenant: tenantID, TTL: time.Hour}},
		"no tenant":       {secret, MintConfig{TTL: time.Hour}},
		"no lifetime":     {secret, MintConfig{Tenant: tenantID}},
		"another exp":     {secret, MintConfig{Tenant: tenantID, TTL: time.Hour, Extra: map[string]any{"exp": 1}}},
		"another role":    {secret, MintConfig{Tenant: tenantID, TTL: time.Hour, Extra: map[string]any{"role": "service_role"}}},
		"an impersonator": {secret, MintConfig{Tenant: tenantID, TTL: time.Hour, Extra: map[string]any{"act": map[string]any{"sub": "x"}}}},
		"too long":        {secret, MintConfig{Tenant: tenantID, TTL: time.Hour, Subject: strings.Repeat("x", maxToken)}},
		"no JSON":         {secret, MintConfig{Tenant: tenantID, TTL: time.Hour, Extra: map[string]any{"f": func() {}}}},
		"role deep down":  {secret, MintConfig{Tenant: tenantID, TTL: time.Hour, RoleClaim: ".a.b"}},
	} {
		t.Run("refused: "+name, func(t *testing.T) {
			t.Parallel()
			minted, err := Mint(c.secret, c.cfg)
			if !errors.Is(err, catalog.ErrInvalid) || !minted.IsZero() || strings.Contains(err.Error(), "RHCANARY") {
				t.Errorf("got %v", err)
			}
		})
	}
}
