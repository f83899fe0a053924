package tenants_test

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/catalogtest"
	"github.com/rowhouse/rowhouse/tenants"
)

// noQueue takes operations and does nothing: nobody works in these tests.
type noQueue struct{}

func (noQueue) Enqueue(context.Context, pgx.Tx, *catalog.Operation) error { return nil }

// A value is the tenant's own, else its edition's, else everybody's, in the service as in a directory that follows the catalog.
func TestService_SetValue(t *testing.T) {
	t.Parallel()
	cat, _ := catalogtest.New(t)
	s, dir := tenants.NewService(cat, noQueue{}), tenants.NewDirectory(cat)
	ctx := t.Context()
	try := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := s.CreateTenant(ctx, tenants.TenantSpec{Name: "acme"})
	try(err)
	acme, pro := tenants.Scope{Tenant: "acme"}, tenants.Scope{Edition: "pro"}
	holds := func(key, value, from string) {
		t.Helper()
		all, err := s.Values(ctx, acme)
		try(err)
		var found tenants.Value
		for _, v := range all {
			if v.Key == key {
				found = v
			}
		}
		if string(found.Value) != value || found.From != from {
			t.Errorf("%s is %s from %q; want %s from %q", key, found.Value, found.From, value, from)
		}
		try(dir.Load(ctx))
		tenant, err := dir.Tenant(ctx, "acme")
		try(err)
		got := dir.Setting(tenant, key)
		if feature, ok := cut(key); ok {
			got = dir.Feature(tenant, feature)
		}
		if string(got) != value {
			t.Errorf("in the directory %s is %s; want %s", key, got, value)
		}
	}
	set := func(scope tenants.Scope, key, value string) string {
		t.Helper()
		v, err := s.SetValue(ctx, scope, key, json.RawMessage(value))
		try(err)
		return v.From
	}

	try(s.SetFeature(ctx, catalog.Feature{Key: "export", Value: json.RawMessage("false"), Visible: true}))
	try(s.SetFeature(ctx, catalog.Feature{Key: "export.csv", Value: json.RawMessage("true"), Parent: "export"}))
	try(s.SetEdition(ctx, "pro", "for teams"))
	holds("features.export", "false", "default")
	holds("features.export.csv", "false", "parent export")
	set(pro, "features.export", "true")
	set(pro, tenants.LimitRequests, "50")
	holds("features.export", "false", "default")
	try(s.AssignEdition(ctx, "acme", "pro"))
	holds("features.export", "true", "edition")
	holds("features.export.csv", "true", "default")
	holds(tenants.LimitRequests, "50", "edition")
	set(pro, tenants.LimitRequests, "60") // flows through
	holds(tenants.LimitRequests, "60", "edition")
	set(acme, tenants.LimitRequests, "70")
	holds(tenants.LimitRequests, "70", "tenant")
	if from := set(acme, tenants.LimitRequests, "60"); from != "edition" {
		t.Errorf("a value that is inherited anyway is kept as the %s's", from)
	}
	set(pro, tenants.LimitRequests, "80")
	holds(tenants.LimitRequests, "80", "edition")
	tenant, err := dir.Tenant(ctx, "acme")
	try(err)
	if l := dir.Limits(tenant, tenants.Limits{}); l.RequestsPerSecond != 80 {
		t.Errorf("the router would enforce %+v; want 80 requests a second", l)
	}
	if got := dir.VisibleFeatures(tenant); len(got) != 1 || string(got["export"]) != "true" {
		t.Errorf("clients are told of %s; want export alone", got)
	}
	try(s.UnsetValue(ctx, pro, tenants.LimitRequests))
	set(tenants.Scope{}, tenants.LimitRequests, "5")
	holds(tenants.LimitRequests, "5", "default")

	for _, c := range []struct {
		what string
		err  error
		want error
	}{
		{"an edition in use", s.RemoveEdition(ctx, "pro"), catalog.ErrConflict},
		{"an unknown edition", s.AssignEdition(ctx, "acme", "nosuch"), catalog.ErrNotFound},
		{"a parent", s.RemoveFeature(ctx, "export"), catalog.ErrConflict},
		{"a feature that would be its own parent", s.SetFeature(ctx, catalog.Feature{Key: "export", Value: json.RawMessage("false"), Parent: "export.csv"}), catalog.ErrInvalid},
		{"another type", s.SetFeature(ctx, catalog.Feature{Key: "export", Value: json.RawMessage("3")}), catalog.ErrInvalid},
		{"a list", s.SetFeature(ctx, catalog.Feature{Key: "list", Value: json.RawMessage("[]")}), catalog.ErrInvalid},
		{"a key that is none", s.SetFeature(ctx, catalog.Feature{Key: "Export", Value: json.RawMessage("true")}), catalog.ErrInvalid},
		{"an unknown parent", s.SetFeature(ctx, catalog.Feature{Key: "pdf", Value: json.RawMessage("true"), Parent: "nosuch"}), catalog.ErrNotFound},
		{"an unknown feature", second(s.SetValue(ctx, acme, "features.nosuch", json.RawMessage("true"))), catalog.ErrNotFound},
		{"an unknown limit", second(s.SetValue(ctx, acme, "limits.nosuch", json.RawMessage("1"))), catalog.ErrInvalid},
		{"a value of another type", second(s.SetValue(ctx, pro, "features.export", json.RawMessage(`"yes"`))), catalog.ErrInvalid},
		{"a limit that does not fit", second(s.SetValue(ctx, pro, tenants.LimitStatement, json.RawMessage(`"-1s"`))), catalog.ErrInvalid},
		{"two scopes", second(s.SetValue(ctx, tenants.Scope{Tenant: "acme", Edition: "pro"}, "features.export", json.RawMessage("true"))), catalog.ErrInvalid},
	} {
		if !errors.Is(c.err, c.want) {
			t.Errorf("%s gives %v, want %v", c.what, c.err, c.want)
		}
	}
	try(s.AssignEdition(ctx, "acme", ""))
	try(s.RemoveEdition(ctx, "pro"))
	holds("features.export", "false", "default")
}

func second[V any](_ V, err error) error { return err }

func cut(key string) (string, bool) {
	if len(key) > len(tenants.FeaturePrefix) && key[:len(tenants.FeaturePrefix)] == tenants.FeaturePrefix {
		return key[len(tenants.FeaturePrefix):], true
	}
	return "", false
}
