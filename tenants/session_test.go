package tenants_test

import (
	"context"
	"errors"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestWith(t *testing.T) {
	t.Parallel()
	acme := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "acme", State: catalog.StateActive}
	beta := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "beta", State: catalog.StateActive}
	asleep := &catalog.Tenant{ID: catalog.NewID[catalog.Tenant](), Name: "asleep", State: catalog.StateSuspended}
	name := func(ctx context.Context) string {
		s, err := tenants.FromContext(ctx)
		if err != nil || s.Tenant() == nil {
			return "none"
		}
		return s.Tenant().Name
	}

	t.Run("nested, and the outer one is untouched whatever happens inside", func(t *testing.T) {
		boom := errors.New("boom")
		err := tenants.With(t.Context(), acme, func(outer context.Context) error {
			err := tenants.With(outer, beta, func(inner context.Context) error {
				if name(inner) != "beta" {
					t.Errorf("inside: %s", name(inner))
				}
				return boom
			})
			if !errors.Is(err, boom) || name(outer) != "acme" {
				t.Errorf("after an error: %v, %s", err, name(outer))
			}
			func() {
				defer func() { _ = recover() }()
				_ = tenants.With(outer, beta, func(context.Context) error { panic("boom") })
			}()
			if name(outer) != "acme" {
				t.Errorf("after a panic: %s", name(outer))
			}
			return nil
		})
		if err != nil || name(t.Context()) != "none" {
			t.Errorf("%v, %s", err, name(t.Context()))
		}
	})
	t.Run("a tenant that may not be served is not entered", func(t *testing.T) {
		entered := false
		err := tenants.With(t.Context(), asleep, func(context.Context) error { entered = true; return nil })
		if !errors.Is(err, tenants.ErrSuspended) || entered {
			t.Errorf("%v, entered %v", err, entered)
		}
		if err := tenants.With(t.Context(), nil, func(context.Context) error { return nil }); !errors.Is(err, tenants.ErrNoTenant) {
			t.Errorf("no tenant: %v", err)
		}
	})
	t.Run("the program acts as service_role, but never raises a session of the same tenant", func(t *testing.T) {
		rs := &tenants.Resolver{Contributors: []tenants.Contributor{tenants.Always("acme")}}
		visitor, err := rs.Resolve(newRequest(), known{acme})
		if err != nil {
			t.Fatal(err)
		}
		_ = tenants.With(tenants.NewContext(t.Context(), visitor), acme, func(ctx context.Context) error {
			if s, _ := tenants.FromContext(ctx); s.Role() != "" || s.Side() != tenants.SideAnonymous {
				t.Errorf("a visitor became %q on side %s", s.Role(), s.Side())
			}
			return nil
		})
		_ = tenants.With(t.Context(), acme, func(ctx context.Context) error {
			if s, _ := tenants.FromContext(ctx); s.Role() != tenants.RoleService || s.Side() != tenants.SideTenant {
				t.Errorf("the program is %q on side %s", s.Role(), s.Side())
			}
			return nil
		})
	})
}

func TestAsHost(t *testing.T) {
	t.Parallel()
	host := tenants.NewContext(t.Context(), tenants.Host("ops"))
	nothing := func(context.Context) error { return nil }
	if err := tenants.AsHost(t.Context(), "because", nothing); !errors.Is(err, tenants.ErrNotHost) {
		t.Errorf("no session: %v", err)
	}
	if err := tenants.AsHost(tenants.NewContext(t.Context(), tenants.Session{}), "because", nothing); !errors.Is(err, tenants.ErrNotHost) {
		t.Errorf("a session of nobody: %v", err)
	}
	if err := tenants.AsHost(host, "", nothing); !errors.Is(err, tenants.ErrInvalid) {
		t.Errorf("no reason: %v", err)
	}
	err := tenants.AsHost(host, "because", func(ctx context.Context) error {
		if s, _ := tenants.FromContext(ctx); s.Side() != tenants.SideHost || s.Tenant() != nil {
			t.Errorf("inside: %s, %v", s.Side(), s.Tenant())
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestSession_zero(t *testing.T) {
	t.Parallel()
	var s tenants.Session
	if s.Side() != tenants.SideAnonymous || s.Tenant() != nil || s.Role() != "" {
		t.Errorf("%s, %v, %q", s.Side(), s.Tenant(), s.Role())
	}
	if _, err := tenants.FromContext(t.Context()); !errors.Is(err, tenants.ErrNoTenant) {
		t.Errorf("a context without a session: %v", err)
	}
}
