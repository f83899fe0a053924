package admin_test

import (
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// The verbs of editions, states and the trail are the same near and far, errors too.
func TestClient_life(t *testing.T) {
	t.Parallel()
	for name, of := range map[string]func(*testing.T, *house) tenants.Operator{
		"near": func(_ *testing.T, h *house) tenants.Operator { return h.service },
		"far":  func(t *testing.T, h *house) tenants.Operator { return h.client(t, h.all) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			op, ctx := of(t, h), t.Context()
			check := func(err, want error) {
				t.Helper()
				if !errors.Is(err, want) {
					t.Fatalf("got %v, want %v", err, want)
				}
			}
			made, err := op.CreateTenant(ctx, tenants.TenantSpec{Name: "acme"})
			check(err, nil)
			_, err = op.SetTenantState(ctx, "acme", tenants.StateSpec{State: catalog.StateReadOnly})
			check(err, catalog.ErrConflict) // it is being made
			_, err = op.DeleteTenant(ctx, "acme", tenants.DeleteSpec{NoExport: true})
			check(err, catalog.ErrConflict)
			check(h.catalog.Update(ctx, catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
				if _, err := tx.Exec(ctx, `update rowhouse.operations set state = 'done' where id = $1`, made.ID); err != nil {
					return err
				}
				return tx.SetTenantState(ctx, made.Tenant, catalog.StateActive, "")
			}), nil)
			until := time.Now().Add(time.Hour).Truncate(time.Second)
			tenant, err := op.SetTenantState(ctx, "acme", tenants.StateSpec{State: catalog.StateMaintenance, Until: until, Reason: "a new disk"})
			check(err, nil)
			if tenant.State != catalog.StateMaintenance || !tenant.StateUntil.Equal(until) || tenant.StateReason != "a new disk" {
				t.Errorf("tenant is %s until %v for %q", tenant.State, tenant.StateUntil, tenant.StateReason)
			}
			_, err = op.SetTenantState(ctx, "acme", tenants.StateSpec{State: catalog.StateSuspended, Until: until})
			check(err, catalog.ErrInvalid)
			_, err = op.SetTenantState(ctx, "nobody", tenants.StateSpec{State: catalog.StateActive})
			check(err, catalog.ErrNotFound)

			check(op.SetFeature(ctx, catalog.Feature{Key: "export", Value: json.RawMessage("false"), Visible: true, Description: "CSV"}), nil)
			check(op.SetEdition(ctx, "pro", "for teams"), nil)
			check(op.AssignEdition(ctx, "acme", "pro"), nil)
			check(op.AssignEdition(ctx, "acme", "nosuch"), catalog.ErrNotFound)
			v, err := op.SetValue(ctx, tenants.Scope{Edition: "pro"}, "features.export", json.RawMessage("true"))
			check(err, nil)
			if v.From != "edition" || string(v.Value) != "true" {
				t.Errorf("value is %s from %s", v.Value, v.From)
			}
			_, err = op.SetValue(ctx, tenants.Scope{Tenant: "acme"}, tenants.LimitRows, json.RawMessage("10"))
			check(err, nil)
			_, err = op.SetValue(ctx, tenants.Scope{Tenant: "acme"}, "features.nosuch", json.RawMessage("true"))
			check(err, catalog.ErrNotFound)
			values, err := op.Values(ctx, tenants.Scope{Tenant: "acme"})
			check(err, nil)
			want := []tenants.Value{
				{Key: "features.export", Value: json.RawMessage("true"), From: "edition", Visible: true},
				{Key: tenants.LimitRows, Value: json.RawMessage("10"), From: "tenant"},
			}
			if diff := cmp.Diff(want, values); diff != "" {
				t.Errorf("values (-want +got):\n%s", diff)
			}
			editions, err := op.Editions(ctx)
			check(err, nil)
			if diff := cmp.Diff([]*catalog.Edition{{Name: "pro", Description: "for teams", Tenants: 1, Values: map[string]json.RawMessage{"features.export": json.RawMessage("true")}}},
				editions, cmpopts.IgnoreFields(catalog.Edition{}, "UpdatedAt")); diff != "" {
				t.Errorf("editions (-want +got):\n%s", diff)
			}
			features, err := op.Features(ctx)
			check(err, nil)
			if len(features) != 1 || features[0].Description != "CSV" || !features[0].Visible {
				t.Errorf("features are %+v", features)
			}
			check(op.RemoveEdition(ctx, "pro"), catalog.ErrConflict)
			check(op.UnsetValue(ctx, tenants.Scope{Edition: "pro"}, "features.export"), nil)
			check(op.RemoveFeature(ctx, "export"), nil)
			check(op.RemoveFeature(ctx, "export"), catalog.ErrNotFound)

			deleted, err := op.DeleteTenant(ctx, "acme", tenants.DeleteSpec{NoExport: true})
			check(err, nil)
			if deleted.Kind != tenants.KindDelete || deleted.Tenant != made.Tenant {
				t.Errorf("operation is %+v", deleted)
			}
			_, err = op.UndeleteTenant(ctx, "acme")
			check(err, catalog.ErrConflict) // the deletion has not ended
			_, err = op.PurgeTenant(ctx, "acme")
			check(err, catalog.ErrConflict)
			verdict, err := op.VerifyAudit(ctx, "")
			check(err, nil)
			if verdict.Broken != nil || verdict.Events < 10 || verdict.Head == "" {
				t.Errorf("verdict is %+v", verdict)
			}
			if again, err := op.VerifyAudit(ctx, verdict.Head); err != nil || again.Broken != nil {
				t.Errorf("with the head that it told the verdict is %+v, %v", again, err)
			}
			_, err = op.VerifyAudit(ctx, "17:nonsense")
			check(err, catalog.ErrInvalid)
		})
	}
}
