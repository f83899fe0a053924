package admin

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

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

// signIn finds who a token stands for. Only the host's side is let in, whatever a token of a tenant may say. What is done
// under the context is done by them, from their address and under the request's id.
func (s *service) signIn(ctx context.Context, token, address string) (context.Context, *caller, error) {
	if token == "" {
		return nil, nil, tenants.ErrCredential
	}
	session, permitted, err := s.cfg.Authenticate(ctx, token)
	switch {
	case err != nil:
		return nil, nil, err
	case session.Side() != tenants.SideHost:
		return nil, nil, tenants.ErrCredential
	}
	actor := session.Actor()
	actor.Address, actor.RequestID = address, requestID(ctx)
	c := &caller{permissions: permitted, principal: principalOf(token), setHeader: func(string, string) {}}
	return context.WithValue(catalog.WithActor(tenants.NewContext(ctx, session), actor), callerKey{}, c), c, nil
}

// routeKey is where an operation of the API keeps its route.
const routeKey = "route"

// authorize lets a request through to its route when its token permits what the route needs.
func (s *service) authorize(hc huma.Context, next func(huma.Context)) {
	ctx, c, err := s.signIn(hc.Context(), bearer(headerValues(hc, "Authorization")), addressOf(hc.RemoteAddr()))
	if err != nil {
		s.refuse(hc, err)
		return
	}
	if err := c.readHeaders(hc); err != nil {
		s.refuse(hc, err)
		return
	}
	r, _ := hc.Operation().Metadata[routeKey].(route)
	if !c.permit(r.permission) {
		s.noteRefusal(ctx, c, r)
		s.refuse(hc, newProblem(http.StatusForbidden, "", "The token lacks the permission "+r.permission))
		return
	}
	if destructive(r) {
		if wait := s.brake.take(c.principal); wait > 0 {
			s.refuse(hc, tooMany(wait))
			return
		}
	}
	next(huma.WithContext(hc, ctx))
}

// noteTime is how long the audit of a refusal may take.
const noteTime = 2 * time.Second

// noteRefusal has a refusal in the audit trail. A token that is refused all the time does not fill it.
func (s *service) noteRefusal(ctx context.Context, c *caller, r route) {
	if s.refusals.take(c.principal) > 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	if err := s.operator.Refuse(ctx, r.id, r.permission); err != nil {
		s.cfg.Logger.Error("refusal is not in the audit trail", "request_id", requestID(ctx), "error", err)
	}
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
