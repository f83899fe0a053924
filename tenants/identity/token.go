package identity

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"
)

// maxToken is the longest token in bytes that is looked at.
const maxToken = 8 << 10

// token is a token that has been read. Nothing in it may be believed before a key has verified it.
type token struct {
	text   string
	alg    string
	kid    string
	hasKid bool
	claims map[string]any
	raw    json.RawMessage
	by     fingerprint // the key that verified it
}

// bearer finds the request's bearer token. There is one place for it, the Authorization header, which stands there once.
// Other schemes are no credential of ours.
func bearer(r *http.Request) (text string, found bool, err error) {
	values := r.Header.Values("Authorization")
	switch {
	case len(values) == 0:
		return "", false, nil
	case len(values) > 1:
		return "", false, badToken("Authorization header stands there twice", "")
	}
	scheme, text, _ := strings.Cut(strings.TrimLeft(values[0], " "), " ")
	if !strings.EqualFold(scheme, "bearer") {
		return "", false, nil
	}
	text = strings.Trim(text, " ")
	switch {
	case text == "":
		return "", true, badToken("Empty JWT is sent in Authorization header", "")
	case len(text) > maxToken:
		return "", true, badToken("JWT is too long", fmt.Sprintf("A JWT may have %d bytes", maxToken))
	}
	return text, true, nil
}

// operatorPrefix begins every operator's token.
const operatorPrefix = "rhop_"

// methods are the algorithms that a key can be pinned to.
var methods = map[string]bool{
	"HS256": true, "HS384": true, "HS512": true,
	"RS256": true, "RS384": true, "RS512": true,
	"ES256": true, "ES384": true, "ES512": true,
}

// readToken takes a token apart without believing any of it.
func readToken(text string) (*token, error) {
	parts := strings.Split(text, ".")
	if len(parts) != 3 {
		details := ""
		if strings.HasPrefix(text, operatorPrefix) {
			details = "An operator's token opens the admin API only"
		}
		return nil, badToken(fmt.Sprintf("Expected 3 parts in JWT; got %d", len(parts)), details)
	}
	head, _, err := readObject(parts[0])
	if err != nil {
		return nil, errUnreadable
	}
	t := &token{text: text}
	if err := t.readHead(head); err != nil {
		return nil, err
	}
	if t.claims, t.raw, err = readObject(parts[1]); err != nil {
		return nil, errUnparseable
	}
	return t, nil
}

func (t *token) readHead(head map[string]any) error {
	t.alg, _ = head["alg"].(string)
	switch {
	case strings.EqualFold(t.alg, "none"):
		return badToken("Wrong or unsupported encoding algorithm", "JWT is unsecured but expected 'alg' was not 'none'")
	case !methods[t.alg]:
		return badToken("Wrong or unsupported encoding algorithm", "")
	}
	if _, there := head["crit"]; there { // it names extensions that must be understood, and we understand none
		return badToken("Wrong or unsupported encoding algorithm", "JWT has critical extensions")
	}
	kid, there := head["kid"]
	if !there {
		return nil
	}
	text, isString := kid.(string)
	if !isString {
		return errUnsuitable
	}
	t.kid, t.hasKid = text, true
	return nil
}

// readObject decodes a part of a token that is a JSON object: valid UTF-8 and without NUL, because PostgreSQL gets the
// claims as they are and its jsonb holds no NUL.
func readObject(part string) (map[string]any, json.RawMessage, error) {
	text, err := base64.RawURLEncoding.Strict().DecodeString(part)
	if err != nil {
		return nil, nil, err
	}
	if !utf8.Valid(text) || bytes.Contains(text, []byte(`\u0000`)) || !json.Valid(text) {
		return nil, nil, fmt.Errorf("not json")
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	var object map[string]any
	if err := decoder.Decode(&object); err != nil {
		return nil, nil, err
	}
	if object == nil {
		return nil, nil, fmt.Errorf("not an object")
	}
	return object, text, nil
}
