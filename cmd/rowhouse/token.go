package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/router"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/identity"
)

type tokenRow struct{ *catalog.Token }

func (tokenRow) columns() []string {
	return []string{"id", "subject", "permissions", "expires", "revoked"}
}

func (t tokenRow) row() []any {
	revoked := ""
	if t.RevokedAt != nil {
		revoked = t.RevokedAt.Format(time.DateTime)
	}
	return []any{t.ID, t.Subject, strings.Join(t.Permissions, " "), t.ExpiresAt.Format(time.DateTime), revoked}
}

func (t tokenRow) name() string { return t.ID }

// createdToken is a token that is shown this once.
type createdToken struct {
	Token     string    `json:"token"`
	ID        string    `json:"id,omitempty"`
	Tenant    string    `json:"tenant,omitempty"`
	Role      string    `json:"role,omitempty"`
	ExpiresAt time.Time `json:"expires_at"`
}

func (createdToken) columns() []string { return []string{"token"} }
func (t createdToken) row() []any      { return []any{t.Token} }
func (t createdToken) name() string    { return t.Token }

func (a *app) tokenGroup() *cobra.Command {
	return group("token", "Credentials of tenants and operators", a.tokenCreate(), a.tokenList(),
		rowVerb(a, "get ID", "Show an operator's token, without its text", func(ctx context.Context, r *reach, args []string) (*catalog.Token, error) {
			return r.Token(ctx, args[0])
		}, asTokenRow),
		a.tokenRevoke())
}

func (a *app) tokenCreate() *cobra.Command {
	var tenant, role, subject string
	var operator bool
	var permissions []string
	var ttl time.Duration
	c := &cobra.Command{
		Use: "create (--tenant T | --operator)", Short: "Make a token; it is shown this once", Args: exactly(),
		Example: "  curl -H \"Authorization: Bearer $(rowhouse token create --tenant acme -o name)\" http://acme.localhost:8080/rest/v1/projects",
		RunE: a.show(func(ctx context.Context, _ []string) (any, error) {
			switch {
			case operator == (tenant != ""):
				return nil, usage("want --tenant or --operator, one of them")
			case ttl <= 0:
				return nil, usage("--ttl must be longer than nothing")
			}
			if operator {
				return a.createOperatorToken(ctx, tenants.TokenSpec{Subject: subject, Permissions: permissions, TTL: ttl})
			}
			return a.createTenantToken(ctx, tenant, role, subject, ttl)
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "a token of this tenant")
	c.Flags().StringVar(&role, "role", "authenticated", "its database role")
	c.Flags().StringVar(&subject, "subject", "", "whom it names")
	c.Flags().BoolVar(&operator, "operator", false, "a token of an operator")
	c.Flags().StringArrayVar(&permissions, "permission", nil, "what the operator may do; repeatable; * is everything")
	c.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it lives")
	return c
}

func (a *app) createOperatorToken(ctx context.Context, spec tenants.TokenSpec) (any, error) {
	r, err := a.reach(ctx)
	if err != nil {
		return nil, err
	}
	defer r.close()
	if spec.Subject == "" {
		spec.Subject = "operator"
	}
	secret, token, err := r.CreateToken(ctx, spec)
	if err != nil {
		return nil, err
	}
	return createdToken{Token: secret.Reveal(), ID: token.ID, ExpiresAt: token.ExpiresAt}, nil
}

// createTenantToken signs with the configured secret, so it needs the configuration and not only a service.
func (a *app) createTenantToken(ctx context.Context, tenant, role, subject string, ttl time.Duration) (any, error) {
	r, err := a.reachCatalog(ctx)
	if err != nil {
		return nil, err
	}
	defer r.close()
	t, err := r.Tenant(ctx, tenant)
	if err != nil {
		return nil, err
	}
	if !slices.Contains(router.DefaultRoles, role) {
		return nil, usage("--role must be one of %s", strings.Join(router.DefaultRoles, ", "))
	}
	if r.config.String("auth.jwt_secret") == "" {
		return nil, &coded{err: errors.New("auth.jwt_secret is not configured: there is nothing to sign with"), code: exitConfig, hint: "ROWHOUSE_AUTH_JWT_SECRET_FILE names a file that holds it"}
	}
	token, err := mintFor(r.config, t, role, subject, ttl)
	if err != nil {
		return nil, err
	}
	return createdToken{Token: token, Tenant: t.Name, Role: role, ExpiresAt: time.Now().Add(ttl).UTC().Truncate(time.Second)}, nil
}

// mintFor signs a token of a tenant under the configured secret.
func mintFor(cfg *config, t *catalog.Tenant, role, subject string, ttl time.Duration) (string, error) {
	token, err := identity.Mint(catalog.NewSecret(cfg.String("auth.jwt_secret")), identity.MintConfig{
		Tenant: t.ID, Role: role, Subject: subject, TTL: ttl,
		Issuer: cfg.String("auth.issuer"), Audience: cfg.String("auth.audience"),
		TenantClaim: cfg.String("auth.tenant_claim"), RoleClaim: cfg.String("auth.role_claim"),
	})
	if err != nil {
		return "", fmt.Errorf("token of tenant %q: %w", t.Name, err)
	}
	return token.Reveal(), nil
}

func (a *app) tokenList() *cobra.Command {
	return listVerb(a, "List operators' tokens", func(ctx context.Context, r *reach) ([]*catalog.Token, error) { return r.Tokens(ctx) }, asTokenRow)
}

func asTokenRow(t *catalog.Token) tokenRow { return tokenRow{t} }

func (a *app) tokenRevoke() *cobra.Command {
	return a.destructive(&cobra.Command{Use: "revoke ID", Short: "End an operator's token now", Args: exactly("ID")},
		"revoke token %s", func(ctx context.Context, r *reach, args []string) error { return r.RevokeToken(ctx, args[0]) })
}
