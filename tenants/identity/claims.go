package identity

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// rules are what claims must hold.
type rules struct {
	tenantClaim string
	role        claimPath
	leeway      time.Duration
	validator   *jwt.Validator
	// without judges a token that names no audience, where it need not.
	without *jwt.Validator
}

func (c Config) rules(now func() time.Time) (*rules, error) {
	role, err := parseClaim(c.RoleClaim)
	if err != nil {
		return nil, fmt.Errorf("role claim: %w", err)
	}
	ru := &rules{tenantClaim: c.TenantClaim, role: role, leeway: max(c.Leeway, 0)}
	options := []jwt.ParserOption{jwt.WithTimeFunc(now), jwt.WithLeeway(ru.leeway), jwt.WithIssuedAt(), jwt.WithIssuer(c.Issuer)}
	if c.RequireExp == nil || *c.RequireExp {
		options = append(options, jwt.WithExpirationRequired())
	}
	ru.without = jwt.NewValidator(options...)
	if c.Audience != "" {
		options = append(options, jwt.WithAudience(c.Audience))
	}
	ru.validator = jwt.NewValidator(options...)
	if c.RequireAudience == nil || *c.RequireAudience {
		ru.without = ru.validator
	}
	return ru, nil
}

// lastDate is the last second of the year 9999: dates beyond it are no dates.
const lastDate = 253402300799

// check judges the claims of a verified token, the types first: a claim of another type than it should be would pass the
// checks of its value by being no value.
func (ru *rules) check(t *token) error {
	for _, name := range []string{"exp", "nbf", "iat"} {
		if !isDate(t.claims, name) {
			return badClaims(fmt.Sprintf("The JWT '%s' claim must be a number", name), "")
		}
	}
	audiences, ok := countAudiences(t.claims)
	if !ok {
		return badClaims("The JWT 'aud' claim must be a string or an array of strings", "")
	}
	for _, name := range []string{"iss", "sub", ru.tenantClaim} {
		if !isText(t.claims, name) {
			return badClaims("Parsing claims failed", fmt.Sprintf("The JWT '%s' claim must be a string", name))
		}
	}
	validator := ru.validator
	if audiences == 0 {
		validator = ru.without
	}
	return refused(t.claims, validator.Validate(jwt.MapClaims(t.claims)))
}

// refused says which check failed, in the order in which they matter.
func refused(claims map[string]any, err error) error {
	_, hasExp := claims["exp"]
	_, hasIss := claims["iss"]
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jwt.ErrTokenExpired):
		return badClaims("JWT expired", "")
	case !hasExp && errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return badClaims("Parsing claims failed", "The JWT 'exp' claim is missing")
	case errors.Is(err, jwt.ErrTokenNotValidYet):
		return badClaims("JWT not yet valid", "")
	case errors.Is(err, jwt.ErrTokenUsedBeforeIssued):
		return badClaims("JWT issued at future", "")
	case errors.Is(err, jwt.ErrTokenInvalidIssuer), !hasIss && errors.Is(err, jwt.ErrTokenRequiredClaimMissing):
		return badClaims("JWT not of issuer", "")
	}
	return badClaims("JWT not in audience", "")
}

// isDate says that a claim, when it is there, is a number of seconds that can be a date.
func isDate(claims map[string]any, name string) bool {
	value, there := claims[name]
	if !there {
		return true
	}
	number, ok := value.(json.Number)
	if !ok {
		return false
	}
	seconds, err := number.Float64()
	return err == nil && math.Abs(seconds) <= lastDate
}

// isText says that a claim, when it is there, is a string.
func isText(claims map[string]any, name string) bool {
	value, there := claims[name]
	_, isString := value.(string)
	return !there || isString
}

// countAudiences says how many audiences the claim names; ok is false when it is neither a string nor strings.
func countAudiences(claims map[string]any) (n int, ok bool) {
	value, there := claims["aud"]
	switch value := value.(type) {
	case string:
		return 1, true
	case []any:
		for _, a := range value {
			if _, ok := a.(string); !ok {
				return 0, false
			}
		}
		return len(value), true
	}
	return 0, !there
}

// speak turns the claims of a token that holds into what the resolver knows. The tenant's claim stands under the name
// that everybody else's has.
func (ru *rules) speak(t *token, tenantClaim string, vouchesFor catalog.TenantID) (*tenants.Claims, error) {
	c := &tenants.Claims{KeyTenant: vouchesFor, All: t.claims, Raw: t.raw}
	c.Subject, _ = t.claims["sub"].(string)
	if role, there := ru.role.find(t.claims); there {
		text, isString := role.(string)
		if !isString {
			return nil, badClaims("Parsing claims failed", "The JWT role claim must be a string")
		}
		c.Role = text
	}
	if act, there := t.claims["act"]; there {
		actor, _ := act.(map[string]any)
		name, isString := actor["sub"].(string)
		if !isString || name == "" {
			return nil, badClaims("Parsing claims failed", "The JWT 'act' claim must name a subject")
		}
		c.Impersonator = name
	}
	if ru.tenantClaim != tenantClaim {
		c.All = maps.Clone(t.claims)
		delete(c.All, tenantClaim)
		if value, there := t.claims[ru.tenantClaim]; there {
			c.All[tenantClaim] = value
		}
	}
	return c, nil
}
