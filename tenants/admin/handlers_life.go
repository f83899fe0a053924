package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type stateTenantInput struct {
	Ref  string `path:"ref" maxLength:"64" doc:"Name or id"`
	Body struct {
		State  string    `json:"state" enum:"active,suspended,read_only,maintenance"`
		Reason string    `json:"reason,omitempty" maxLength:"500"`
		Until  time.Time `json:"until,omitzero" required:"false" doc:"When read_only or maintenance ends by itself"`
		Now    bool      `json:"now,omitempty" doc:"Also end the requests that run, where the tenant has a database of its own"`
	}
}

func (s *service) registerLife() {
	s.registerEnd()
	s.registerExports()
	const tag = "Tenants"
	add(s, route{"set-tenant-state", tag, "Put a tenant in a state", http.MethodPost, "/tenants/{ref}/state", tenants.PermitTenantsSuspend, 0},
		func(ctx context.Context, in *stateTenantInput) (*tenantOutput, error) {
			b := in.Body
			t, err := s.operator.SetTenantState(ctx, in.Ref, tenants.StateSpec{State: catalog.State(b.State), Reason: b.Reason, Until: b.Until, Now: b.Now})
			if err != nil {
				return nil, err
			}
			return &tenantOutput{Body: t}, nil
		})
}

type deleteTenantInput struct {
	Ref      string `path:"ref" maxLength:"64" doc:"Name or id"`
	Grace    string `query:"grace" maxLength:"40" doc:"How long it can be taken back, such as 720h; the configured time without one"`
	NoExport bool   `query:"no_export" doc:"Leave out the export at the end"`
}

func (s *service) registerEnd() {
	const tag = "Tenants"
	add(s, route{"delete-tenant", tag, "Stop serving a tenant for good", http.MethodDelete, "/tenants/{ref}", tenants.PermitTenantsDelete, http.StatusAccepted},
		func(ctx context.Context, in *deleteTenantInput) (*operationOutput, error) {
			spec := tenants.DeleteSpec{NoExport: in.NoExport}
			if in.Grace != "" {
				grace, err := time.ParseDuration(in.Grace)
				if err != nil {
					return nil, catalog.Invalid("grace must be a duration, such as 720h")
				}
				spec.Grace = &grace
			}
			return accepted(s.operator.DeleteTenant(ctx, in.Ref, spec))
		})
	add(s, route{"undelete-tenant", tag, "Take a deletion back", http.MethodPost, "/tenants/{ref}/undelete", tenants.PermitTenantsDelete, http.StatusAccepted},
		func(ctx context.Context, in *tenantInput) (*operationOutput, error) {
			return accepted(s.operator.UndeleteTenant(ctx, in.Ref))
		})
	add(s, route{"purge-tenant", tag, "Destroy a deleted tenant", http.MethodPost, "/tenants/{ref}/purge", tenants.PermitTenantsDelete, http.StatusAccepted},
		func(ctx context.Context, in *tenantInput) (*operationOutput, error) {
			return accepted(s.operator.PurgeTenant(ctx, in.Ref))
		})
}
