package tenants

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/rowhouse/rowhouse/catalog"
)

// Side is which side of the house somebody stands on.
type Side string

// The sides. Somebody who presents no credential is anonymous, in a tenant or nowhere.
const (
	SideAnonymous Side = "anonymous"
	SideTenant    Side = "tenant"
	SideHost      Side = "host"
)

// RoleService is the database role of work that the program itself does for a tenant: all of its rows, and no one else's.
const RoleService = "service_role"

// Session is who asks, on which side, for which tenant. It cannot be changed, and only this package makes one.
// The zero Session is anonymous, belongs to no tenant and sees nothing.
type Session struct {
	subject      string
	impersonator string
	role         string
	reason       string
	host         bool
	permissions  []Permission
	tenant       *catalog.Tenant
	claims       json.RawMessage
}

// Subject is who asks; empty when anonymous.
func (s Session) Subject() string { return s.subject }

// Impersonator is the operator who acts as the subject; empty when nobody does.
func (s Session) Impersonator() string { return s.impersonator }

// Side is the side that asks. The host is a side of its own and never a missing tenant.
func (s Session) Side() Side {
	switch {
	case s.host:
		return SideHost
	case s.subject == "":
		return SideAnonymous
	}
	return SideTenant
}

// Tenant is the tenant that is asked for, as it was when the session began, or nil. It must not be changed.
func (s Session) Tenant() *catalog.Tenant { return s.tenant }

// Role is the database role that the credential claims; empty leaves it to the configuration's anonymous role.
func (s Session) Role() string { return s.role }

// Claims are all claims of the verified credential, as a JSON object; nil without one.
func (s Session) Claims() json.RawMessage { return s.claims }

// Actor names the session in an audit event.
func (s Session) Actor() catalog.Actor {
	side := "tenant"
	if s.host {
		side = "host"
	}
	return catalog.Actor{Side: side, Subject: s.subject, Impersonator: s.impersonator}
}

// Host is the session of an operator whom the caller has authenticated, with what that one may do.
func Host(subject string, permissions ...Permission) Session {
	return Session{subject: subject, host: true, permissions: slices.Clone(permissions)}
}

// May says whether the session is the host's and has a permission, by itself or by PermitAll.
func (s Session) May(p Permission) bool {
	return s.host && (slices.Contains(s.permissions, p) || slices.Contains(s.permissions, PermitAll))
}

type sessionKey struct{}

// NewContext puts a session into a context.
func NewContext(ctx context.Context, s Session) context.Context {
	return context.WithValue(ctx, sessionKey{}, s)
}

// FromContext finds the session of a context. A context without one is ErrNoTenant.
func FromContext(ctx context.Context) (Session, error) {
	s, ok := ctx.Value(sessionKey{}).(Session)
	if !ok {
		return Session{}, ErrNoTenant
	}
	return s, nil
}

// With runs fn for a tenant, under a context of its own: the outer one is untouched, so leaving restores it, whatever
// happens in fn. Within a session of the same tenant fn keeps that session's role; otherwise the program itself acts, as
// RoleService. A tenant that may not be served is refused as it would be at the door.
func With(ctx context.Context, t *catalog.Tenant, fn func(ctx context.Context) error) error {
	if t == nil {
		return ErrNoTenant
	}
	if err := Served(t); err != nil {
		return err
	}
	outer, _ := FromContext(ctx)
	inner := Session{subject: outer.subject, impersonator: outer.impersonator, role: RoleService, tenant: t}
	if outer.tenant != nil && outer.tenant.ID == t.ID {
		inner = outer
		inner.tenant = t
	}
	if inner.subject == "" && inner.role == RoleService {
		inner.subject = "system"
	}
	return fn(NewContext(InWork(ctx), inner))
}

// AsHost runs fn on the host side, for a reason that the audit trail keeps. It needs a session of the host: nothing else
// becomes one.
func AsHost(ctx context.Context, reason string, fn func(ctx context.Context) error) error {
	s, err := FromContext(ctx)
	switch {
	case err != nil || !s.host:
		return ErrNotHost
	case reason == "":
		return fmt.Errorf("a reason is needed: %w", ErrInvalid)
	}
	return fn(NewContext(ctx, Session{subject: s.subject, host: true, reason: reason, permissions: s.permissions}))
}
