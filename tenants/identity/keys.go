package identity

import (
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/golang-jwt/jwt/v5"
	"github.com/lestrrat-go/jwx/v3/jwa"
	"github.com/lestrrat-go/jwx/v3/jwk"

	"github.com/rowhouse/rowhouse/catalog"
)

// What a set of keys may be at most: its text in bytes, its number of keys; and a secret at least.
const (
	maxKeysText = 1 << 20
	maxKeys     = 50
	minSecret   = 32
	minRSABits  = 2048
)

// key verifies signatures of one algorithm and of no other, whatever a token claims of itself.
type key struct {
	id       string // the kid; empty without one
	alg      string
	material any // []byte, *rsa.PublicKey or *ecdsa.PublicKey
	print    fingerprint
	parser   *jwt.Parser
}

// fingerprint tells keys apart: id, algorithm and material.
type fingerprint [sha256.Size]byte

func newKey(id, alg string, material any) (*key, error) {
	var der []byte
	switch m := material.(type) {
	case []byte:
		der = m
	default:
		var err error
		if der, err = x509.MarshalPKIXPublicKey(m); err != nil {
			return nil, errors.New("key cannot be read")
		}
	}
	text := fmt.Appendf(nil, "%s\x00%d\x00%s\x00", alg, len(id), id)
	return &key{
		id: id, alg: alg, material: material, print: sha256.Sum256(append(text, der...)),
		// Claims are judged with every request, apart from the signature.
		parser: jwt.NewParser(jwt.WithValidMethods([]string{alg}), jwt.WithStrictDecoding(), jwt.WithJSONNumber(), jwt.WithoutClaimsValidation()),
	}, nil
}

// verifies says whether the key made the token's signature.
func (k *key) verifies(token string) bool {
	_, err := k.parser.Parse(token, func(*jwt.Token) (any, error) { return k.material, nil })
	return err == nil
}

// keySet is what tokens are verified with. It does not change.
type keySet []*key

// holds says that a key is still one of the set.
func (s keySet) holds(print fingerprint) bool {
	for _, k := range s {
		if k.print == print {
			return true
		}
	}
	return false
}

// knows says that a key has the id.
func (s keySet) knows(id string) bool {
	for _, k := range s {
		if k.id == id {
			return true
		}
	}
	return false
}

// verify finds the key that made the token's signature: among those of its algorithm, and of its key id when it has one.
func (s keySet) verify(t *token) (*key, bool) {
	for _, k := range s {
		if k.alg == t.alg && (!t.hasKid || k.id == t.kid) && k.verifies(t.text) {
			return k, true
		}
	}
	return nil, false
}

// secretKey is the key of a shared secret.
func secretKey(secret catalog.Secret) (keySet, error) {
	if secret.IsZero() {
		return nil, nil
	}
	text := secret.Reveal()
	if len(text) < minSecret {
		return nil, fmt.Errorf("jwt secret is shorter than %d bytes: %w", minSecret, catalog.ErrInvalid)
	}
	k, err := newKey("", jwt.SigningMethodHS256.Alg(), []byte(text))
	return keySet{k}, err
}

// parseKeys reads a JWK set. Keys that are for something else than HS*, RS* or ES* signatures are left out; skipped says
// how many. Secrets are taken only where symmetric says so, and never beside public keys.
func parseKeys(text []byte, symmetric bool) (keys keySet, skipped int, err error) {
	if len(text) > maxKeysText {
		return nil, 0, fmt.Errorf("key set is larger than %d bytes: %w", maxKeysText, catalog.ErrInvalid)
	}
	set, err := jwk.Parse(text, jwk.WithMaxKeys(maxKeys), jwk.WithStrictKeySetParsing(false))
	if err != nil { // its text may hold pieces of a key
		return nil, 0, fmt.Errorf("key set cannot be read, or has more than %d keys: %w", maxKeys, catalog.ErrInvalid)
	}
	secrets := 0
	for i := range set.Len() {
		source, _ := set.Key(i)
		k, err := fromJWK(source)
		switch {
		case err != nil:
			skipped++
			continue
		case isSecret(k) && !symmetric:
			return nil, 0, fmt.Errorf("key set holds a secret, which only its owner may know: %w", catalog.ErrInvalid)
		case isSecret(k):
			secrets++
		}
		keys = append(keys, k)
	}
	switch {
	case len(keys) == 0:
		return nil, skipped, fmt.Errorf("key set has no key that verifies HS, RS or ES signatures: %w", catalog.ErrInvalid)
	case secrets > 0 && secrets < len(keys):
		return nil, skipped, fmt.Errorf("key set mixes secrets and public keys: %w", catalog.ErrInvalid)
	}
	return keys, skipped, nil
}

func isSecret(k *key) bool {
	_, ok := k.material.([]byte)
	return ok
}

var errOtherKey = errors.New("key is not for signatures of this kind")

// fromJWK pins the key to the algorithm it names, or to the usual one of its kind.
func fromJWK(source jwk.Key) (*key, error) {
	if use, ok := source.KeyUsage(); ok && use != "sig" {
		return nil, errOtherKey
	}
	var pinned string
	if alg, ok := source.Algorithm(); ok {
		pinned = alg.String()
	}
	id, _ := source.KeyID()
	material, algs, err := exportKey(source)
	if err != nil {
		return nil, err
	}
	if pinned == "" {
		return newKey(id, algs[0], material)
	}
	for _, alg := range algs {
		if alg == pinned {
			return newKey(id, alg, material)
		}
	}
	return nil, errOtherKey
}

// exportKey gives the key as the standard library knows it, and the algorithms it can be for, the usual one first.
func exportKey(source jwk.Key) (material any, algs []string, err error) {
	switch source.KeyType() {
	case jwa.OctetSeq():
		var secret []byte
		if err := jwk.Export(source, &secret); err != nil || len(secret) < minSecret {
			return nil, nil, errOtherKey
		}
		return secret, []string{"HS256", "HS384", "HS512"}, nil
	case jwa.RSA():
		var public rsa.PublicKey
		if err := exportPublic(source, &public); err != nil || public.N.BitLen() < minRSABits {
			return nil, nil, errOtherKey
		}
		return &public, []string{"RS256", "RS384", "RS512"}, nil
	case jwa.EC():
		var public ecdsa.PublicKey
		if err := exportPublic(source, &public); err != nil {
			return nil, nil, errOtherKey
		}
		alg, ok := map[int]string{256: "ES256", 384: "ES384", 521: "ES512"}[public.Curve.Params().BitSize]
		if !ok || public.Curve.Params().Name[:2] != "P-" {
			return nil, nil, errOtherKey
		}
		return &public, []string{alg}, nil
	}
	return nil, nil, errOtherKey
}

func exportPublic(source jwk.Key, to any) error {
	public, err := source.PublicKey()
	if err != nil {
		return errOtherKey
	}
	return jwk.Export(public, to)
}
