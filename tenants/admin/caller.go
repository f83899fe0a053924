package admin

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowhouse/rowhouse/tenants"
)

// caller is who asks, and what their request says besides its own matter.
type caller struct {
	permissions []string
	// principal tells the token from others and does not give it away.
	principal string

	key         string // Idempotency-Key
	ifMatch     string
	ifNoneMatch string
	setHeader   func(name, value string)
}

type callerKey struct{}

// callerFrom is who asks under the context; outside of the API that is nobody, who may nothing.
func callerFrom(ctx context.Context) *caller {
	c, _ := ctx.Value(callerKey{}).(*caller)
	if c == nil {
		return &caller{setHeader: func(string, string) {}}
	}
	return c
}

func (c *caller) permit(permission string) bool {
	return permission != "" && (slices.Contains(c.permissions, permission) || slices.Contains(c.permissions, tenants.PermitAll))
}

// principalOf is a name for a token.
func principalOf(token string) string {
	sum := sha256.Sum256([]byte("rowhouse/v1/principal\x00" + token))
	return hex.EncodeToString(sum[:16])
}

// readHeaders takes what every route understands from the request's headers.
func (c *caller) readHeaders(hc huma.Context) error {
	c.setHeader = hc.SetHeader
	for name, to := range map[string]*string{"Idempotency-Key": &c.key, "If-Match": &c.ifMatch, "If-None-Match": &c.ifNoneMatch} {
		values := headerValues(hc, name)
		if len(values) == 0 {
			continue
		}
		*to = strings.Join(values, ", ")
		if name == "Idempotency-Key" && (len(values) > 1 || !isKey(*to)) {
			return newProblem(http.StatusBadRequest, "", "Idempotency-Key must be one value of 1 to 255 printable ASCII characters")
		}
	}
	return nil
}

func isKey(key string) bool {
	return len(key) >= 1 && len(key) <= 255 && !strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' })
}

func headerValues(hc huma.Context, wanted string) (values []string) {
	hc.EachHeader(func(name, value string) {
		if http.CanonicalHeaderKey(name) == wanted {
			values = append(values, value)
		}
	})
	return values
}

// addressOf is the peer's address, without its port.
func addressOf(remote string) string {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return remote
	}
	return host
}
