package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

const (
	canary   = "RHCANARY-claim-value"
	issuer   = "https://issuer.example.com"
	audience = "rowhouse"
)

var (
	secret     = catalog.NewSecret("RHCANARY-secret-of-more-than-32-bytes")
	tenantID   = catalog.NewID[catalog.Tenant]()
	rsaKey     = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	ecKey      = sync.OnceValue(func() *ecdsa.PrivateKey { return must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader)) })
	now        = time.Now()
	hourAgo    = now.Add(-time.Hour).Unix()
	hourFrom   = now.Add(time.Hour).Unix()
	withinSkew = 20 * time.Second
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// claimsWith are claims that hold, changed by pairs; a nil value takes the claim out.
func claimsWith(pairs ...any) jwt.MapClaims {
	c := jwt.MapClaims{"tenant": "acme", "role": "authenticated", "sub": "ann", "iss": issuer, "aud": audience, "exp": hourFrom}
	for i := 0; i < len(pairs); i += 2 {
		if pairs[i+1] == nil {
			delete(c, pairs[i].(string))
		} else {
			c[pairs[i].(string)] = pairs[i+1]
		}
	}
	return c
}

type null struct{}

func (null) MarshalJSON() ([]byte, error) { return []byte("null"), nil }

func sign(method jwt.SigningMethod, key any, claims jwt.Claims, head ...string) string {
	t := jwt.NewWithClaims(method, claims)
	for i := 0; i < len(head); i += 2 {
		t.Header[head[i]] = head[i+1]
	}
	return must(t.SignedString(key))
}

func hs(claims jwt.MapClaims, head ...string) string {
	return sign(jwt.SigningMethodHS256, []byte(secret.Reveal()), claims, head...)
}

// raw signs what stands there, JSON or not, with the secret.
func raw(head, payload string) string {
	text := base64.RawURLEncoding.EncodeToString([]byte(head)) + "." + base64.RawURLEncoding.EncodeToString([]byte(payload))
	mac := hmac.New(sha256.New, []byte(secret.Reveal()))
	mac.Write([]byte(text))
	return text + "." + base64.RawURLEncoding.EncodeToString(mac.Sum(nil))
}

func jwkRSA(kid string, k *rsa.PrivateKey, more ...string) map[string]any {
	e := base64.RawURLEncoding.EncodeToString([]byte{1, 0, 1})
	return withMore(map[string]any{"kty": "RSA", "kid": kid, "n": base64.RawURLEncoding.EncodeToString(k.N.Bytes()), "e": e}, more)
}

func jwkEC(kid string, k *ecdsa.PrivateKey, more ...string) map[string]any {
	point := must(k.PublicKey.Bytes())[1:]
	return withMore(map[string]any{
		"kty": "EC", "crv": "P-256", "kid": kid,
		"x": base64.RawURLEncoding.EncodeToString(point[:32]), "y": base64.RawURLEncoding.EncodeToString(point[32:]),
	}, more)
}

func jwkSecret(kid string, key string, more ...string) map[string]any {
	return withMore(map[string]any{"kty": "oct", "kid": kid, "k": base64.RawURLEncoding.EncodeToString([]byte(key))}, more)
}

func withMore(key map[string]any, more []string) map[string]any {
	for i := 0; i < len(more); i += 2 {
		key[more[i]] = more[i+1]
	}
	if key["kid"] == "" {
		delete(key, "kid")
	}
	return key
}

func jwks(keys ...map[string]any) []byte { return must(json.Marshal(map[string]any{"keys": keys})) }

func keyFileOf(t testing.TB, keys ...map[string]any) string {
	path := filepath.Join(t.TempDir(), "keys.json")
	if err := os.WriteFile(path, jwks(keys...), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func newVerifier(t testing.TB, cfg Config) *Verifier {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	v, err := NewVerifier(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

func withToken(token string) *http.Request {
	r := httptest.NewRequest("GET", "http://acme.example.com/rest/v1/projects", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return r
}

// wantRefusal checks the whole of a refusal: class, code, message, and that nothing of the request stands in it.
func wantRefusal(t *testing.T, err error, code, message, details string) {
	t.Helper()
	var refusal *CredentialError
	if !errors.As(err, &refusal) || !errors.Is(err, tenants.ErrCredential) {
		t.Fatalf("got %v, want a CredentialError", err)
	}
	if refusal.Code() != code || refusal.Message() != message || !strings.Contains(refusal.Details(), details) || details == "" && refusal.Details() != "" {
		t.Errorf("got %s %q %q, want %s %q %q", refusal.Code(), refusal.Message(), refusal.Details(), code, message, details)
	}
	if refusal.Status() != 401 {
		t.Errorf("status is %d, want 401", refusal.Status())
	}
	if want := `Bearer error="invalid_token", error_description="` + message + `"`; refusal.Challenge() != want {
		t.Errorf("challenge is %q, want %q", refusal.Challenge(), want)
	}
	for _, text := range []string{refusal.Error(), refusal.Details(), refusal.Challenge(), fmt.Sprintf("%+v", err)} {
		if strings.Contains(text, "RHCANARY") || strings.Contains(text, secret.Reveal()) {
			t.Errorf("refusal gives away what it refused: %q", text)
		}
	}
}

func TestThreat_T25_Tokens(t *testing.T) {
	t.Parallel()
	const (
		tok, cl    = "PGRST301", "PGRST303"
		unsuitable = "No suitable key or wrong key type"
		noneDid    = "None of the keys was able to decode the JWT"
		algorithm  = "Wrong or unsupported encoding algorithm"
		unreadable = "JWT cryptographic operation failed"
		parsing    = "Parsing claims failed"
	)
	none := func(alg string) string {
		text := strings.TrimSuffix(raw(`{"alg":"`+alg+`","typ":"JWT"}`, string(must(json.Marshal(claimsWith())))), "")
		return text[:strings.LastIndex(text, ".")+1]
	}
	rsaDER := must(x509.MarshalPKIXPublicKey(&rsaKey().PublicKey))
	rsaPEM := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: rsaDER})
	good := hs(claimsWith())
	parts := strings.Split(good, ".")
	flip := func(s string) string { // one bit of its middle
		b := []byte(s)
		b[len(b)/2] ^= 1
		return string(b)
	}
	withSecret := Config{Secret: secret, Issuer: issuer, Audience: audience}
	withKeys := Config{JWKSFile: keyFileOf(t, jwkRSA("rsa", rsaKey()), jwkEC("ec", ecKey())), Issuer: issuer, Audience: audience}

	for _, c := range []struct {
		name    string
		cfg     Config
		token   string
		code    string
		message string
		details string
	}{
		{"alg none", withSecret, none("none"), tok, algorithm, "JWT is unsecured but expected 'alg' was not 'none'"},
		{"alg None", withSecret, none("None"), tok, algorithm, "JWT is unsecured"},
		{"alg NONE", withSecret, none("NONE"), tok, algorithm, "JWT is unsecured"},
		{"alg nOnE against public keys", withKeys, none("nOnE"), tok, algorithm, "JWT is unsecured"},
		{"no alg", withSecret, raw(`{"typ":"JWT"}`, `{}`), tok, algorithm, ""},
		{"alg a number", withSecret, raw(`{"alg":256}`, `{}`), tok, algorithm, ""},
		{"alg in lower case", withSecret, raw(`{"alg":"hs256"}`, `{}`), tok, algorithm, ""},
		{"HS256 keyed with the RSA public key in DER", withKeys, sign(jwt.SigningMethodHS256, rsaDER, claimsWith(), "kid", "rsa"), tok, unsuitable, noneDid},
		{"HS256 keyed with the RSA public key in PEM", withKeys, sign(jwt.SigningMethodHS256, rsaPEM, claimsWith()), tok, unsuitable, noneDid},
		{"PS256 under an RSA key", withKeys, sign(jwt.SigningMethodPS256, rsaKey(), claimsWith(), "kid", "rsa"), tok, algorithm, ""},
		{"RS512 under a key of RS256", withKeys, sign(jwt.SigningMethodRS512, rsaKey(), claimsWith(), "kid", "rsa"), tok, unsuitable, noneDid},
		{"HS512 under a secret of HS256", withSecret, sign(jwt.SigningMethodHS512, []byte(secret.Reveal()), claimsWith()), tok, unsuitable, noneDid},
		{"another's RSA key with our kid", withKeys, sign(jwt.SigningMethodRS256, otherRSA(), claimsWith(), "kid", "rsa"), tok, unsuitable, noneDid},
		{"another's RSA key without kid", withKeys, sign(jwt.SigningMethodRS256, otherRSA(), claimsWith()), tok, unsuitable, noneDid},
		{"right key, kid of another key", withKeys, sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "ec"), tok, unsuitable, noneDid},
		{"kid that is a path", withKeys, sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "../../../../dev/null"), tok, unsuitable, noneDid},
		{"kid that is SQL", withKeys, sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "x' union select 'key' --"), tok, unsuitable, noneDid},
		{"kid of 1 MiB", withKeys, sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", strings.Repeat("k", 1<<20)), tok, "JWT is too long", "8192"},
		{"kid a number", withKeys, raw(`{"alg":"RS256","kid":1}`, `{}`), tok, unsuitable, noneDid},
		{"kid under a secret, which has none", withSecret, hs(claimsWith(), "kid", "any"), tok, unsuitable, noneDid},
		{"empty kid", withKeys, sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", ""), tok, unsuitable, noneDid},
		{"key in the header", withKeys, sign(jwt.SigningMethodRS256, otherRSA(), claimsWith(), "jwk", string(must(json.Marshal(jwkRSA("", otherRSA())))), "jku", "http://127.0.0.1/keys", "x5u", "http://127.0.0.1/c"), tok, unsuitable, noneDid},
		{"critical extension", withSecret, raw(`{"alg":"HS256","crit":["b64"],"b64":false}`, string(must(json.Marshal(claimsWith())))), tok, algorithm, "critical"},

		{"stripped signature", withSecret, parts[0] + "." + parts[1] + ".", tok, unsuitable, noneDid},
		{"one part", withSecret, "eyJ" + canary, tok, "Expected 3 parts in JWT; got 1", ""},
		{"two parts", withSecret, parts[0] + "." + parts[1], tok, "Expected 3 parts in JWT; got 2", ""},
		{"four parts", withSecret, good + ".x", tok, "Expected 3 parts in JWT; got 4", ""},
		{"five parts, as an encrypted one has", withSecret, "a.b.c.d.e", tok, "Expected 3 parts in JWT; got 5", ""},
		{"operator's token", withSecret, "rhop_abc_RHCANARY_01234567", tok, "Expected 3 parts in JWT; got 1", "admin API"},
		{"flipped payload", withSecret, parts[0] + "." + strings.Split(hs(claimsWith("sub", "eve")), ".")[1] + "." + parts[2], tok, unsuitable, noneDid},
		{"flipped signature", withSecret, parts[0] + "." + parts[1] + "." + flip(parts[2]), tok, unsuitable, noneDid},
		{"padded signature", withSecret, good + "=", tok, unsuitable, noneDid},
		{"longer than 8 KiB", withSecret, hs(claimsWith("x", strings.Repeat("x", 8<<10))), tok, "JWT is too long", "8192"},
		{"header that is no base64", withSecret, "%%." + parts[1] + "." + parts[2], tok, unreadable, ""},
		{"header that is no JSON", withSecret, raw(`{"alg":"HS256"`, `{}`), tok, unreadable, ""},
		{"header that is a list", withSecret, raw(`["HS256"]`, `{}`), tok, unreadable, ""},

		{"payload that is null", withSecret, raw(`{"alg":"HS256"}`, `null`), cl, parsing, ""},
		{"payload that is a list", withSecret, raw(`{"alg":"HS256"}`, `[1]`), cl, parsing, ""},
		{"payload with something after it", withSecret, raw(`{"alg":"HS256"}`, `{"tenant":"acme"} {}`), cl, parsing, ""},
		{"payload that is not UTF-8", withSecret, raw(`{"alg":"HS256"}`, "{\"sub\":\"\xff\"}"), cl, parsing, ""},
		{"payload with NUL, which jsonb cannot hold", withSecret, raw(`{"alg":"HS256"}`, `{"sub":"a\u0000b"}`), cl, parsing, ""},

		{"exp past", withSecret, hs(claimsWith("exp", hourAgo)), cl, "JWT expired", ""},
		{"exp zero", withSecret, hs(claimsWith("exp", 0)), cl, "JWT expired", ""},
		{"exp negative", withSecret, hs(claimsWith("exp", -1)), cl, "JWT expired", ""},
		{"exp past beyond leeway", withSecret, hs(claimsWith("exp", now.Add(-2*withinSkew).Unix())), cl, "JWT expired", ""},
		{"exp missing", withSecret, hs(claimsWith("exp", nil)), cl, parsing, "'exp' claim is missing"},
		{"exp a string", withSecret, hs(claimsWith("exp", "RHCANARY")), cl, "The JWT 'exp' claim must be a number", ""},
		{"exp a numeric string", withSecret, hs(claimsWith("exp", fmt.Sprint(hourFrom))), cl, "The JWT 'exp' claim must be a number", ""},
		{"exp null", withSecret, hs(claimsWith("exp", null{})), cl, "The JWT 'exp' claim must be a number", ""},
		{"exp a list", withSecret, hs(claimsWith("exp", []int64{hourFrom})), cl, "The JWT 'exp' claim must be a number", ""},
		{"exp beyond all dates", withSecret, raw(`{"alg":"HS256"}`, `{"exp":1e300}`), cl, "The JWT 'exp' claim must be a number", ""},
		{"exp beyond all numbers", withSecret, raw(`{"alg":"HS256"}`, `{"exp":1e400}`), cl, "The JWT 'exp' claim must be a number", ""},
		{"nbf future", withSecret, hs(claimsWith("nbf", hourFrom)), cl, "JWT not yet valid", ""},
		{"nbf a string", withSecret, hs(claimsWith("nbf", "RHCANARY")), cl, "The JWT 'nbf' claim must be a number", ""},
		{"iat future", withSecret, hs(claimsWith("iat", hourFrom)), cl, "JWT issued at future", ""},
		{"iat a string", withSecret, hs(claimsWith("iat", "RHCANARY")), cl, "The JWT 'iat' claim must be a number", ""},

		{"aud foreign", withSecret, hs(claimsWith("aud", canary)), cl, "JWT not in audience", ""},
		{"aud foreign list", withSecret, hs(claimsWith("aud", []string{canary, "rowhouse2"})), cl, "JWT not in audience", ""},
		{"aud in another case", withSecret, hs(claimsWith("aud", "Rowhouse")), cl, "JWT not in audience", ""},
		{"aud missing", withSecret, hs(claimsWith("aud", nil)), cl, "JWT not in audience", ""},
		{"aud empty list", withSecret, hs(claimsWith("aud", []string{})), cl, "JWT not in audience", ""},
		{"aud list with something that is no string", withSecret, hs(claimsWith("aud", []any{audience, 7})), cl, "The JWT 'aud' claim must be a string or an array of strings", ""},
		{"aud an object", withSecret, hs(claimsWith("aud", map[string]any{audience: true})), cl, "The JWT 'aud' claim must be a string or an array of strings", ""},
		{"aud null", withSecret, hs(claimsWith("aud", null{})), cl, "The JWT 'aud' claim must be a string or an array of strings", ""},
		{"iss foreign", withSecret, hs(claimsWith("iss", "https://"+canary)), cl, "JWT not of issuer", ""},
		{"iss missing", withSecret, hs(claimsWith("iss", nil)), cl, "JWT not of issuer", ""},
		{"iss a list", withSecret, hs(claimsWith("iss", []string{issuer})), cl, parsing, "'iss' claim must be a string"},
		{"sub a number", withSecret, hs(claimsWith("sub", 7)), cl, parsing, "'sub' claim must be a string"},
		{"tenant a list", withSecret, hs(claimsWith("tenant", []string{"acme"})), cl, parsing, "'tenant' claim must be a string"},
		{"tenant an object", withSecret, hs(claimsWith("tenant", map[string]any{"id": "acme"})), cl, parsing, "'tenant' claim must be a string"},
		{"tenant null", withSecret, hs(claimsWith("tenant", null{})), cl, parsing, "'tenant' claim must be a string"},
		{"role a list", withSecret, hs(claimsWith("role", []string{"service_role"})), cl, parsing, "role claim must be a string"},
		{"act a string", withSecret, hs(claimsWith("act", "ops")), cl, parsing, "'act' claim"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, c.cfg)
			for range 2 { // the second time past the cache, if anything was put there
				claims, err := v.Verify(withToken(c.token), nil)
				if claims != nil {
					t.Fatalf("it holds: %+v", claims)
				}
				wantRefusal(t, err, c.code, c.message, c.details)
			}
		})
	}
}

func TestVerifier_Verify(t *testing.T) {
	t.Parallel()
	withSecret := Config{Secret: secret, Issuer: issuer, Audience: audience}
	es := sign(jwt.SigningMethodES256, ecKey(), claimsWith(), "kid", "ec")
	keys := Config{JWKSFile: keyFileOf(t, jwkRSA("rsa", rsaKey(), "alg", "RS384"), jwkEC("ec", ecKey()),
		jwkRSA("for encryption", otherRSA(), "use", "enc"), map[string]any{"kty": "AKP", "kid": "of a kind to come", "pub": "x"},
		jwkRSA("of an algorithm to come", rsaKey(), "alg", "RS1024"), jwkRSA("for other signatures", rsaKey(), "alg", "PS256"))}
	for _, c := range []struct {
		name  string
		cfg   Config
		token string
		want  tenants.Claims
	}{
		{"a shared secret", withSecret, hs(claimsWith()), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"one audience of several", withSecret, hs(claimsWith("aud", []string{"other", audience})), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"no role and no subject", withSecret, hs(claimsWith("role", nil, "sub", nil)), tenants.Claims{}},
		{"exp past within leeway", withSecret, hs(claimsWith("exp", now.Add(-withinSkew).Unix())), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"nbf and iat future within leeway", withSecret, hs(claimsWith("nbf", now.Add(withinSkew).Unix(), "iat", now.Add(withinSkew).Unix())), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"exp with a fraction", withSecret, hs(claimsWith("exp", float64(hourFrom)+0.5)), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"an impersonator", withSecret, hs(claimsWith("act", map[string]string{"sub": "ops@example.com"})), tenants.Claims{Subject: "ann", Role: "authenticated", Impersonator: "ops@example.com"}},
		{"role by path", Config{Secret: secret, RoleClaim: ".app.roles[1]"}, hs(claimsWith("app", map[string]any{"roles": []string{"a", "service_role"}})), tenants.Claims{Subject: "ann", Role: "service_role"}},
		{"role path that leads nowhere", Config{Secret: secret, RoleClaim: "$['app'][0]"}, hs(claimsWith("app", "x")), tenants.Claims{Subject: "ann"}},
		{"no audience where none is needed", Config{Secret: secret, Audience: audience, RequireAudience: new(false)}, hs(claimsWith("aud", nil)), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"no exp where none is needed", Config{Secret: secret, RequireExp: new(false)}, hs(claimsWith("exp", nil)), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"ES256 by kid", keys, es, tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"RS384, which the key names, without kid", keys, sign(jwt.SigningMethodRS384, rsaKey(), claimsWith()), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"a secret in a key file", Config{JWKSFile: keyFileOf(t, jwkSecret("s", secret.Reveal()))}, hs(claimsWith(), "kid", "s"), tenants.Claims{Subject: "ann", Role: "authenticated"}},
		{"secret beside a key file", Config{Secret: secret, JWKSFile: keys.JWKSFile}, hs(claimsWith()), tenants.Claims{Subject: "ann", Role: "authenticated"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			v := newVerifier(t, c.cfg)
			for range 2 {
				got, err := v.Verify(withToken(c.token), nil)
				if err != nil {
					t.Fatal(err)
				}
				if got.Subject != c.want.Subject || got.Role != c.want.Role || got.Impersonator != c.want.Impersonator || got.Host || !got.KeyTenant.IsZero() {
					t.Errorf("got %+v, want %+v", got, c.want)
				}
				if got.All["tenant"] != "acme" || !strings.Contains(string(got.Raw), `"tenant":"acme"`) {
					t.Errorf("claims are %v and %s", got.All, got.Raw)
				}
			}
		})
	}

	t.Run("no exp where none is needed does not make a past one hold", func(t *testing.T) {
		t.Parallel()
		v := newVerifier(t, Config{Secret: secret, RequireExp: new(false)})
		_, err := v.Verify(withToken(hs(claimsWith("exp", 0))), nil)
		wantRefusal(t, err, "PGRST303", "JWT expired", "")
	})
	t.Run("a foreign audience is refused where none is needed", func(t *testing.T) {
		t.Parallel()
		v := newVerifier(t, Config{Secret: secret, Audience: audience, RequireAudience: new(false)})
		_, err := v.Verify(withToken(hs(claimsWith("aud", "foreign"))), nil)
		wantRefusal(t, err, "PGRST303", "JWT not in audience", "")
	})
	t.Run("a remembered token expires at its time", func(t *testing.T) {
		t.Parallel()
		v := newVerifier(t, withSecret)
		r := withToken(hs(claimsWith()))
		if _, err := v.Verify(r, nil); err != nil {
			t.Fatal(err)
		}
		v.now = func() time.Time { return time.Unix(hourFrom, 0).Add(31 * time.Second) }
		_, err := v.Verify(r, nil)
		wantRefusal(t, err, "PGRST303", "JWT expired", "")
	})
	t.Run("a remembered token is not judged by its signature again", func(t *testing.T) {
		t.Parallel()
		v := newVerifier(t, withSecret)
		text := hs(claimsWith())
		if _, err := v.Verify(withToken(text), nil); err != nil {
			t.Fatal(err)
		}
		remembered, ok := v.cache.GetIfPresent(sha256.Sum256([]byte(text)))
		if !ok || remembered.by != v.secret[0].print {
			t.Errorf("it is not remembered with its key: %v", ok)
		}
	})
}

func TestVerifier_Header(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, Config{Secret: secret})
	token := hs(claimsWith())
	request := func(target string, headers ...string) *http.Request {
		r := httptest.NewRequest("GET", target, nil)
		for i := 0; i < len(headers); i += 2 {
			r.Header.Add(headers[i], headers[i+1])
		}
		return r
	}
	for _, c := range []struct {
		name    string
		request *http.Request
		holds   bool
		message string
	}{
		{"no header", request("/"), false, ""},
		{"another scheme", request("/", "Authorization", "Basic YTpi"), false, ""},
		{"a scheme that only begins like it", request("/", "Authorization", "Bearers "+token), false, ""},
		{"apikey is no credential", request("/", "apikey", token), false, ""},
		{"a token in the query is no credential", request("/?access_token=" + token + "&token=" + token + "&jwt=" + token), false, ""},
		{"a cookie is no credential", request("/", "Cookie", "Authorization="+token), false, ""},
		{"bearer in upper case", request("/", "Authorization", "BEARER "+token), true, ""},
		{"bearer in lower case, two spaces", request("/", "Authorization", "bearer  "+token), true, ""},
		{"nothing after the scheme", request("/", "Authorization", "Bearer"), false, "Empty JWT is sent in Authorization header"},
		{"spaces after the scheme", request("/", "Authorization", "Bearer  "), false, "Empty JWT is sent in Authorization header"},
		{"two headers", request("/", "Authorization", "Bearer "+token, "Authorization", "Bearer "+token), false, "Authorization header stands there twice"},
		{"two headers, one of another scheme", request("/", "Authorization", "Bearer "+token, "Authorization", "Basic YTpi"), false, "Authorization header stands there twice"},
		{"two tokens in one", request("/", "Authorization", "Bearer "+token+", Bearer "+token), false, "Expected 3 parts in JWT; got 5"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			claims, err := v.Verify(c.request, nil)
			if (claims != nil) != c.holds {
				t.Errorf("claims are %v", claims)
			}
			if c.message == "" && err != nil {
				t.Error(err)
			}
			if c.message != "" {
				wantRefusal(t, err, "PGRST301", c.message, "")
			}
		})
	}
}

func TestVerifier_NoKey(t *testing.T) {
	t.Parallel()
	v := newVerifier(t, Config{})
	for _, token := range []string{hs(claimsWith()), "x"} {
		_, err := v.Verify(withToken(token), nil)
		var refusal *CredentialError
		if !errors.As(err, &refusal) || refusal.Code() != "PGRST300" || refusal.Status() != 500 || refusal.Challenge() != "" || refusal.Error() != "Server lacks JWT secret" {
			t.Errorf("got %v", err)
		}
	}
	if claims, err := v.Verify(httptest.NewRequest("GET", "/", nil), nil); claims != nil || err != nil {
		t.Errorf("a request without a token: %v, %v", claims, err)
	}
	if e := AnonymousRefused(); e.Code() != "PGRST302" || e.Challenge() != "Bearer" || e.Status() != 401 || e.Error() != "Anonymous access is disabled" {
		t.Errorf("got %+v", e)
	}
}

func TestNewVerifier_Refuses(t *testing.T) {
	t.Parallel()
	many := make([]map[string]any, maxKeys+1)
	for i := range many {
		many[i] = jwkEC(fmt.Sprint(i), ecKey())
	}
	large := filepath.Join(t.TempDir(), "large.json")
	if err := os.WriteFile(large, append(jwks(jwkEC("ec", ecKey())), []byte(strings.Repeat(" ", maxKeysText))...), 0o600); err != nil {
		t.Fatal(err)
	}
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	for name, cfg := range map[string]Config{
		"short secret":              {Secret: catalog.NewSecret("RHCANARY")},
		"file that is not there":    {JWKSFile: filepath.Join(t.TempDir(), "nothing")},
		"file and url":              {JWKSFile: "x", JWKSURL: "https://example.com/keys", Issuer: issuer, Audience: audience},
		"url by http":               {JWKSURL: "http://example.com/keys", Issuer: issuer, Audience: audience},
		"url without issuer":        {JWKSURL: "https://example.com/keys", Audience: audience},
		"url without audience":      {JWKSURL: "https://example.com/keys", Issuer: issuer},
		"url with a password":       {JWKSURL: "https://a:RHCANARY@example.com/keys", Issuer: issuer, Audience: audience},
		"url that is a path":        {JWKSURL: "/keys", Issuer: issuer, Audience: audience},
		"too many keys":             {JWKSFile: keyFileOf(t, many...)},
		"too large a file":          {JWKSFile: large},
		"no key that could verify":  {JWKSFile: keyFileOf(t, jwkRSA("e", rsaKey(), "use", "enc"))},
		"RSA key of 1024 bits":      {JWKSFile: keyFileOf(t, jwkRSA("weak", weak))},
		"short secret in the file":  {JWKSFile: keyFileOf(t, jwkSecret("s", "RHCANARY"))},
		"secrets among public keys": {JWKSFile: keyFileOf(t, jwkSecret("s", secret.Reveal()), jwkRSA("r", rsaKey()))},
		"algorithm of another key":  {JWKSFile: keyFileOf(t, jwkRSA("r", rsaKey(), "alg", "HS256"))},
		"role claim unclosed":       {Secret: secret, RoleClaim: ".a['b"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v, err := NewVerifier(t.Context(), cfg)
			if err == nil {
				_ = v.Close()
				t.Fatal("it is taken")
			}
			if !errors.Is(err, catalog.ErrInvalid) && !errors.Is(err, os.ErrNotExist) {
				t.Errorf("got %v", err)
			}
			if strings.Contains(err.Error(), "RHCANARY") {
				t.Errorf("it gives away a secret: %v", err)
			}
		})
	}
}

// What the resolver makes of it: the last word on the tenant's claim.
func TestVerifier_InResolver(t *testing.T) {
	t.Parallel()
	acme := &catalog.Tenant{ID: tenantID, Name: "acme", State: catalog.StateActive}
	globex := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "globex", State: catalog.StateActive}
	known := lookup{"acme": acme, "globex": globex, acme.ID.String(): acme}
	ownSecret := catalog.NewSecret("a secret that acme's issuer has alone")
	resolver := &tenants.Resolver{
		Contributors: []tenants.Contributor{tenants.FromClaim("tenant"), tenants.FromHeader("X-Tenant")},
		Verifier: newVerifier(t, Config{Secret: secret, PerTenant: func(ref string) (Override, bool) {
			if ref != "acme" && ref != acme.ID.String() {
				return Override{}, false
			}
			return Override{Tenant: acme.ID, Secret: ownSecret, RequireExp: new(false)}, true
		}}),
	}
	own := func(claims jwt.MapClaims) string {
		return sign(jwt.SigningMethodHS256, []byte(ownSecret.Reveal()), claims)
	}
	for _, c := range []struct {
		name, token, header string
		tenant              string
		err                 error
	}{
		{"its tenant", hs(claimsWith("tenant", "globex")), "", "globex", nil},
		{"no tenant claim", hs(claimsWith("tenant", nil)), "globex", "", tenants.ErrCredential},
		{"empty tenant claim", hs(claimsWith("tenant", "")), "globex", "", tenants.ErrCredential},
		{"tenant claim outside the grammar", hs(claimsWith("tenant", "../acme")), "", "", tenants.ErrCredential},
		{"tenant claim a list", hs(claimsWith("tenant", []string{"globex"})), "globex", "", tenants.ErrCredential},
		{"header of another", hs(claimsWith("tenant", "globex")), "acme", "", tenants.ErrMismatch},
		{"own key", own(claimsWith()), "", "acme", nil},
		{"own key, own rules", own(claimsWith("exp", nil)), "", "acme", nil},
		{"own key, no claim, which it does not need", own(claimsWith("tenant", nil)), "acme", "acme", nil},
		{"own key with another's claim", own(claimsWith("tenant", "globex")), "", "", tenants.ErrCredential},
		{"own key with another's claim and its own header", own(claimsWith("tenant", "globex")), "acme", "", tenants.ErrCredential},
		{"own key, no claim, another's header", own(claimsWith("tenant", nil)), "globex", "", tenants.ErrCredential},
		{"the house's key for a tenant that has its own", hs(claimsWith("tenant", "acme")), "", "", tenants.ErrCredential},
		{"another's rules", hs(claimsWith("tenant", "globex", "exp", nil)), "", "", tenants.ErrCredential},
		{"another's rules by the header", hs(claimsWith("tenant", "globex", "exp", nil)), "acme", "", tenants.ErrCredential},
		{"no token", "", "globex", "globex", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				r := httptest.NewRequest("GET", "/", nil)
				if c.token != "" {
					r = withToken(c.token)
				}
				if c.header != "" {
					r.Header.Set("X-Tenant", c.header)
				}
				s, err := resolver.Resolve(r, known)
				if !errors.Is(err, c.err) || err == nil && s.Tenant().Name != c.tenant {
					t.Fatalf("got %v, %v", s.Tenant(), err)
				}
			}
		})
	}
}

type lookup map[string]*catalog.Tenant

func (l lookup) Tenant(_ context.Context, ref string) (*catalog.Tenant, error) {
	if t, ok := l[ref]; ok {
		return t, nil
	}
	return nil, catalog.ErrNotFound
}

// jwksServer publishes whatever set it was last given.
type jwksServer struct {
	*httptest.Server
	mu      sync.Mutex // guards the fields below
	keys    []byte
	status  int
	fetches int
}

func newJWKSServer(t *testing.T, keys ...map[string]any) *jwksServer {
	s := &jwksServer{keys: jwks(keys...), status: http.StatusOK}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.fetches++
		w.WriteHeader(s.status)
		_, _ = w.Write(s.keys)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *jwksServer) publish(status int, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status, s.keys = status, text
}

func (s *jwksServer) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fetches
}

func (s *jwksServer) config() Config {
	return Config{JWKSURL: s.URL + "/keys", AllowHTTP: true, Issuer: issuer, Audience: audience, Logger: slog.New(slog.DiscardHandler)}
}

func TestVerifier_Rotation(t *testing.T) {
	before := goleak.IgnoreCurrent()
	server := newJWKSServer(t, jwkRSA("old", rsaKey()))
	v, err := NewVerifier(t.Context(), server.config())
	if err != nil {
		t.Fatal(err)
	}
	oldToken := sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "old")
	newToken := sign(jwt.SigningMethodES256, ecKey(), claimsWith(), "kid", "new")
	holds := func(token string) {
		t.Helper()
		if claims, err := v.Verify(withToken(token), nil); err != nil || claims == nil {
			t.Fatalf("got %v, %v", claims, err)
		}
	}
	refused := func(token string) {
		t.Helper()
		_, err := v.Verify(withToken(token), nil)
		wantRefusal(t, err, "PGRST301", "No suitable key or wrong key type", "None of the keys")
	}
	holds(oldToken)

	// The issuer changes its key: the new one is fetched when a token names it, and the old one dies with its tokens.
	server.publish(http.StatusOK, jwks(jwkEC("new", ecKey())))
	holds(oldToken)
	holds(newToken)
	refused(oldToken)

	// Unknown keys make no more than one fetch a minute, however many there are.
	fetched := server.count()
	for i := range 20 {
		refused(sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", fmt.Sprint("unknown-", i)))
	}
	if n := server.count() - fetched; n != 0 {
		t.Errorf("%d fetches within the minute", n)
	}

	// Answers that cannot be taken leave the last good set in place.
	urls := v.source.(*keyURL)
	for name, publish := range map[string]func(){
		"an error": func() { server.publish(http.StatusInternalServerError, jwks(jwkRSA("bad", rsaKey()))) },
		"no JSON":  func() { server.publish(http.StatusOK, []byte("<html>")) },
		"no keys":  func() { server.publish(http.StatusOK, jwks()) },
		"a secret": func() { server.publish(http.StatusOK, jwks(jwkSecret("bad", secret.Reveal()))) },
		"more than 1MiB": func() {
			server.publish(http.StatusOK, append(jwks(jwkRSA("bad", rsaKey())), make([]byte, maxKeysText)...))
		},
	} {
		t.Run(name, func(t *testing.T) {
			publish()
			urls.turn.last = time.Time{} // a minute has passed
			fetched := server.count()
			refused(sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "bad"))
			if n := server.count() - fetched; n != 1 {
				t.Errorf("%d fetches, want 1", n)
			}
			holds(newToken)
		})
	}

	// A set that nobody could confirm for a day is believed no longer.
	urls.resource.Resource().at = time.Now().Add(-believe - time.Second)
	if _, err := v.Verify(withToken(newToken), nil); !errors.Is(err, tenants.ErrUnavailable) {
		t.Errorf("got %v, want ErrUnavailable", err)
	}
	if err := v.Close(); err != nil {
		t.Error(err)
	}
	server.Close()
	goleak.VerifyNone(t, before)
}

func TestVerifier_IssuerAwayAtStart(t *testing.T) {
	t.Parallel()
	server := newJWKSServer(t)
	server.publish(http.StatusServiceUnavailable, nil)
	v := newVerifier(t, server.config())
	token := sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "k")
	if _, err := v.Verify(withToken(token), nil); !errors.Is(err, tenants.ErrUnavailable) || errors.Is(err, tenants.ErrCredential) {
		t.Fatalf("got %v, want ErrUnavailable", err)
	}
	server.publish(http.StatusOK, jwks(jwkRSA("k", rsaKey())))
	v.source.(*keyURL).turn.last = time.Time{} // a minute has passed
	if claims, err := v.Verify(withToken(token), nil); err != nil || claims.Subject != "ann" {
		t.Errorf("got %v, %v", claims, err)
	}
}

func TestVerifier_RedirectOutOfHTTPS(t *testing.T) {
	t.Parallel()
	client := fetchClient(false)
	r := must(http.NewRequest("GET", "http://127.0.0.1/keys", nil))
	if err := client.CheckRedirect(r, nil); err == nil {
		t.Error("a redirect to http is followed")
	}
	r.URL.Scheme = "https"
	if err := client.CheckRedirect(r, nil); err != nil {
		t.Error(err)
	}
}

func TestVerifier_KeyFileIsReadAgain(t *testing.T) {
	t.Parallel()
	path := keyFileOf(t, jwkRSA("old", rsaKey()))
	v := newVerifier(t, Config{JWKSFile: path})
	if err := os.WriteFile(path, jwks(jwkEC("new", ecKey())), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Verify(withToken(sign(jwt.SigningMethodES256, ecKey(), claimsWith(), "kid", "new")), nil); err != nil {
		t.Error(err)
	}
	_, err := v.Verify(withToken(sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "old")), nil)
	wantRefusal(t, err, "PGRST301", "No suitable key or wrong key type", "None of the keys")
}

func FuzzVerifier_Verify(f *testing.F) {
	keyFile := keyFileOf(f, jwkRSA("rsa", rsaKey()), jwkEC("ec", ecKey()))
	v := newVerifier(f, Config{Secret: secret, JWKSFile: keyFile})
	good := hs(claimsWith("exp", 4102444800)) // the same in every process that fuzzes
	for _, text := range []string{
		"", "Bearer ", "Bearer " + good, "Bearer a.b.c", "bearer eyJhbGciOiJub25lIn0.e30.", "Basic x", "Bearer " + good + ".",
		"Bearer " + raw(`{"alg":"HS256","kid":null}`, `{"exp":9e99}`), "Bearer rhop_a_b_c",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, header string) {
		r := httptest.NewRequest("GET", "/", nil)
		r.Header["Authorization"] = []string{header}
		claims, err := v.Verify(r, nil)
		var refusal *CredentialError
		switch {
		case err != nil && !errors.As(err, &refusal):
			t.Fatalf("another error than a refusal: %v", err)
		case claims != nil && !strings.Contains(header, good):
			t.Fatalf("%q holds", header)
		}
	})
}

// FuzzVerifier_Claims signs whatever it is given, so that what stands behind the signature is reached.
func FuzzVerifier_Claims(f *testing.F) {
	v := newVerifier(f, Config{Secret: secret, RoleClaim: ".a.b[0]", RequireExp: new(false)})
	for _, payload := range []string{`{}`, `{"exp":1}`, `{"aud":[1]}`, `{"a":{"b":["x"]}}`, `{"act":{"sub":"x"}}`, `null`, `{"exp":-1e999}`} {
		f.Add(payload)
	}
	f.Fuzz(func(t *testing.T, payload string) {
		if len(payload) > 4096 {
			return
		}
		claims, err := v.Verify(withToken(raw(`{"alg":"HS256"}`, payload)), nil)
		var refusal *CredentialError
		if (claims == nil) == (err == nil) || err != nil && !errors.As(err, &refusal) {
			t.Fatalf("got %v, %v", claims, err)
		}
		if claims != nil && (!json.Valid(claims.Raw) || string(claims.Raw) != payload) {
			t.Fatalf("claims are %s", claims.Raw)
		}
	})
}

func BenchmarkVerifier_Verify(b *testing.B) {
	keyFile := keyFileOf(b, jwkRSA("rsa", rsaKey()), jwkEC("ec", ecKey()))
	for name, c := range map[string]struct{ token string }{
		"HS256": {hs(claimsWith())},
		"RS256": {sign(jwt.SigningMethodRS256, rsaKey(), claimsWith(), "kid", "rsa")},
		"ES256": {sign(jwt.SigningMethodES256, ecKey(), claimsWith(), "kid", "ec")},
	} {
		v := newVerifier(b, Config{Secret: secret, JWKSFile: keyFile, Issuer: issuer, Audience: audience})
		r := withToken(c.token)
		b.Run(name+"/cached", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Verify(r, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(name+"/fresh", func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				v.cache.InvalidateAll()
				if _, err := v.Verify(r, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func TestVerifier_OwnKeySets(t *testing.T) {
	before := goleak.IgnoreCurrent()
	acme, globex := catalog.NewID[catalog.Tenant](), catalog.NewID[catalog.Tenant]()
	server := newJWKSServer(t, jwkRSA("a", rsaKey()))
	overrides := map[string]Override{
		"acme":    {Tenant: acme, JWKSURL: server.URL + "/acme", Issuer: issuer, Audience: audience},
		"globex":  {Tenant: globex, JWKSFile: keyFileOf(t, jwkEC("g", ecKey())), Secret: secret},
		"nobody":  {Tenant: catalog.NewID[catalog.Tenant](), JWKSURL: server.URL + "/nobody"},
		"nowhere": {Tenant: catalog.NewID[catalog.Tenant](), JWKSFile: filepath.Join(t.TempDir(), "nothing")},
	}
	v, err := NewVerifier(t.Context(), Config{
		Secret: catalog.NewSecret("the house's own secret, which is long enough"), AllowHTTP: true, Logger: slog.New(slog.DiscardHandler),
		PerTenant: func(ref string) (Override, bool) { o, ok := overrides[ref]; return o, ok },
	})
	if err != nil {
		t.Fatal(err)
	}
	if n := server.count(); n != 0 {
		t.Errorf("%d fetches before any token came", n)
	}
	rs := func(tenant, kid string) string {
		return sign(jwt.SigningMethodRS256, rsaKey(), claimsWith("tenant", tenant), "kid", kid)
	}
	es := func(tenant, kid string) string {
		return sign(jwt.SigningMethodES256, ecKey(), claimsWith("tenant", tenant), "kid", kid)
	}
	for _, c := range []struct {
		name, token string
		err         error
	}{
		{"its url's key", rs("acme", "a"), nil},
		{"its file's key", es("globex", "g"), nil},
		{"its secret beside the file", hs(claimsWith("tenant", "globex")), nil},
		{"another's key", es("acme", "g"), tenants.ErrCredential},
		{"another's key by the other's name", rs("globex", "a"), tenants.ErrCredential},
		{"the house's key for a tenant that has its own", sign(jwt.SigningMethodHS256, []byte(v.cfg.Secret.Reveal()), claimsWith("tenant", "acme")), tenants.ErrCredential},
		{"a url without an issuer", rs("nobody", "a"), catalog.ErrInvalid},
		{"a file that is not there", rs("nowhere", "a"), tenants.ErrUnavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 2 {
				if _, err := v.Verify(withToken(c.token), nil); !errors.Is(err, c.err) {
					t.Fatalf("got %v, want %v", err, c.err)
				}
			}
		})
	}
	if n := server.count(); n > 2 {
		t.Errorf("%d fetches", n)
	}

	// A new key is fetched when a token names it; the old one dies. A set that is old is read again while it serves.
	holds := func(token string, want error) {
		t.Helper()
		if _, err := v.Verify(withToken(token), nil); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
	own := v.own.of(t.Context(), v.cfg.with(overrides["acme"])).(*tenantKeys)
	own.turn.last = time.Time{} // a minute has passed
	server.publish(http.StatusOK, jwks(jwkEC("n", ecKey())))
	holds(rs("acme", "a"), nil)
	holds(es("acme", "n"), nil)
	holds(rs("acme", "a"), tenants.ErrCredential)
	own.turn.last = time.Time{}
	server.publish(http.StatusOK, jwks(jwkRSA("a", rsaKey())))
	own.last.Store(&reading{own.last.Load().set, time.Now().Add(-readAgain - time.Second)})
	holds(es("acme", "n"), nil)
	v.own.busy.Wait()
	holds(es("acme", "n"), tenants.ErrCredential)
	holds(rs("acme", "a"), nil)

	if err := v.Close(); err != nil {
		t.Error(err)
	}
	server.Close()
	goleak.VerifyNone(t, before)
}

func TestVerifier_OwnKeySetsComeFromElsewhere(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"127.0.0.1:443": false, "[::1]:443": false, "[::ffff:127.0.0.1]:443": false, "169.254.169.254:80": false, "[fe80::1%eth0]:443": false,
		"0.0.0.0:443": false, "224.0.0.1:443": false, "nothing": false, "93.184.216.34:443": true, "10.1.2.3:443": true, "[2606:2800::1]:443": true,
	} {
		if err := outwards("tcp", address, nil); (err == nil) != want {
			t.Errorf("%s: %v", address, err)
		}
	}
	server := httptest.NewTLSServer(http.NotFoundHandler())
	defer server.Close()
	v := newVerifier(t, Config{Logger: slog.New(slog.DiscardHandler)})
	if _, _, err := v.own.fetch(t.Context(), server.URL); err == nil || !strings.Contains(err.Error(), "not allowed") {
		t.Errorf("got %v", err)
	}
}
