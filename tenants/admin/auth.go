package admin

import (
	"context"
	"net/http"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowhouse/rowhouse/tenants"
)

// grants are the permissions of whoever asks.
type grants []string

func (g grants) permit(permission string) bool {
	return permission != "" && (slices.Contains(g, permission) || slices.Contains(g, tenants.PermitAll))
}

type grantsKey struct{}

func grantsFrom(ctx context.Context) grants {
	g, _ := ctx.Value(grantsKey{}).(grants)
	return g
}

// bearer is the request's only bearer token, or empty.
func bearer(values []string) string {
	if len(values) != 1 {
		return ""
	}
	scheme, token, _ := strings.Cut(values[0], " ")
	if !strings.EqualFold(scheme, "bearer") {
		return ""
	}
	return strings.TrimSpace(token)
}

// signIn finds who a token stands for. Only the host's side is let in, whatever a token of a tenant may say.
func (s *service) signIn(ctx context.Context, token string) (context.Context, error) {
	if token == "" {
		return nil, tenants.ErrCredential
	}
	session, permitted, err := s.cfg.Authenticate(ctx, token)
	switch {
	case err != nil:
		return nil, err
	case session.Side() != tenants.SideHost:
		return nil, tenants.ErrCredential
	}
	return context.WithValue(tenants.NewContext(ctx, session), grantsKey{}, grants(permitted)), nil
}

// permissionKey is where a route keeps what it needs.
const permissionKey = "permission"

// authorize lets a request through to its route when its token permits what the route needs.
func (s *service) authorize(hc huma.Context, next func(huma.Context)) {
	var authorization []string
	hc.EachHeader(func(name, value string) {
		if http.CanonicalHeaderKey(name) == "Authorization" {
			authorization = append(authorization, value)
		}
	})
	ctx, err := s.signIn(hc.Context(), bearer(authorization))
	if err != nil {
		s.refuse(hc, err)
		return
	}
	needed, _ := hc.Operation().Metadata[permissionKey].(string)
	if !grantsFrom(ctx).permit(needed) {
		s.refuse(hc, newProblem(http.StatusForbidden, "", "The token lacks the permission "+needed))
		return
	}
	next(huma.WithContext(hc, ctx))
}

// refuse answers in place of a route.
func (s *service) refuse(hc huma.Context, err error) {
	p := s.problem(hc.Context(), err)
	for name, values := range p.GetHeaders() {
		hc.SetHeader(name, values[0])
	}
	hc.SetHeader("Content-Type", p.ContentType(""))
	hc.SetStatus(p.Status)
	_ = s.api.Marshal(hc.BodyWriter(), "application/json", p) // a client that left is told nothing
}

// problem is what an error becomes for the client. What is nobody's fault outside goes to the log.
func (s *service) problem(ctx context.Context, err error) *Problem {
	p, internal := problemOf(err)
	if internal {
		s.cfg.Logger.Error("request failed", "request_id", requestID(ctx), "error", err)
	}
	return p.of(requestID(ctx))
}
