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
