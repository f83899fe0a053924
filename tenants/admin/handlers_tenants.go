package admin

import (
	"context"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// tenantInput names a tenant.
type tenantInput struct {
	Ref string `path:"ref" maxLength:"64" doc:"Name or id"`
}

type tenantOutput struct{ Body *catalog.Tenant }

type createTenantInput struct {
	Body struct {
		Name      string `json:"name" maxLength:"200" doc:"Lower-case letters, digits and single hyphens, 40 at most"`
		Placement string `json:"placement,omitempty" enum:"shared,dedicated" doc:"Shared without one"`
		Server    string `json:"server,omitempty" maxLength:"64" doc:"Name or id; the policy chooses without one"`
		Database  string `json:"database,omitempty" maxLength:"36" doc:"Id of a shared database; the policy chooses without one"`
		Edition   string `json:"edition,omitempty" maxLength:"64"`

		Labels map[string]string `json:"labels,omitempty" doc:"What the server must have where the policy chooses it"`
	}
}

type suspendTenantInput struct {
	Ref  string `path:"ref" maxLength:"64" doc:"Name or id"`
	Body *struct {
		Reason string `json:"reason,omitempty" maxLength:"500"`
	} `required:"false"`
}

type renameTenantInput struct {
	Ref  string `path:"ref" maxLength:"64" doc:"Name or id"`
	Body struct {
		Name string `json:"name" maxLength:"200" doc:"The new name; the old one leads to the tenant for 30 more days"`
	}
}

type adoptTenantInput struct {
	Body struct {
		Name string `json:"name" maxLength:"200"`
		DSN  string `json:"dsn" maxLength:"4096" doc:"How requests will connect: no superuser, and a member of the roles they run as"`
	}
}

type domainInput struct {
	Ref  string `path:"ref" maxLength:"64" doc:"Name or id"`
	Host string `path:"host" maxLength:"253" doc:"Host name"`
}

func (s *service) registerTenants() {
	const tag = "Tenants"
	add(s, route{"list-tenants", tag, "List tenants by name", http.MethodGet, "/tenants", tenants.PermitTenantsRead, 0},
		func(ctx context.Context, in *PageInput) (*listOutput[*catalog.Tenant], error) {
			return paged("/tenants", nil, *in, func(t *catalog.Tenant) string { return t.Name },
				func(p catalog.Page) ([]*catalog.Tenant, error) { return s.operator.TenantsPage(ctx, p) })
		})
	add(s, route{"create-tenant", tag, "Begin to provision a tenant", http.MethodPost, "/tenants", tenants.PermitTenantsCreate, http.StatusAccepted},
		func(ctx context.Context, in *createTenantInput) (*operationOutput, error) {
			b := in.Body
			op, err := s.operator.CreateTenant(ctx, tenants.TenantSpec{
				Name: b.Name, Placement: catalog.Placement(b.Placement), Server: b.Server, Database: b.Database, Edition: b.Edition, Labels: b.Labels,
			})
			return accepted(op, err)
		})
	add(s, route{"adopt-tenant", tag, "Take an existing database as a dedicated tenant, unchanged", http.MethodPost, "/adoptions", tenants.PermitTenantsCreate, http.StatusCreated},
		func(ctx context.Context, in *adoptTenantInput) (*tenantOutput, error) {
			t, err := s.operator.AdoptTenant(ctx, tenants.AdoptSpec{Name: in.Body.Name, DSN: catalog.NewSecret(in.Body.DSN)})
			if err != nil {
				return nil, err
			}
			return &tenantOutput{Body: t}, nil
		})
	add(s, route{"get-tenant", tag, "Show a tenant", http.MethodGet, "/tenants/{ref}", tenants.PermitTenantsRead, 0},
		func(ctx context.Context, in *tenantInput) (*tenantOutput, error) { return s.tenant(ctx, in.Ref) })
	add(s, route{"suspend-tenant", tag, "Stop serving a tenant", http.MethodPost, "/tenants/{ref}/suspend", tenants.PermitTenantsSuspend, 0},
		func(ctx context.Context, in *suspendTenantInput) (*tenantOutput, error) {
			reason := ""
			if in.Body != nil {
				reason = in.Body.Reason
			}
			if err := s.operator.SuspendTenant(ctx, in.Ref, reason); err != nil {
				return nil, err
			}
			return s.tenant(ctx, in.Ref)
		})
	add(s, route{"rename-tenant", tag, "Give a tenant another name", http.MethodPost, "/tenants/{ref}/rename", tenants.PermitTenantsUpdate, 0},
		func(ctx context.Context, in *renameTenantInput) (*tenantOutput, error) {
			if err := s.operator.RenameTenant(ctx, in.Ref, in.Body.Name); err != nil {
				return nil, err
			}
			return s.tenant(ctx, in.Body.Name)
		})
	add(s, route{"add-domain", tag, "Give a tenant a host name of its own", http.MethodPut, "/tenants/{ref}/domains/{host}", tenants.PermitTenantsUpdate, 0},
		func(ctx context.Context, in *domainInput) (*tenantOutput, error) {
			if err := s.operator.AddDomain(ctx, in.Ref, in.Host); err != nil {
				return nil, err
			}
			return s.tenant(ctx, in.Ref)
		})
	add(s, route{"remove-domain", tag, "Take a host name back", http.MethodDelete, "/tenants/{ref}/domains/{host}", tenants.PermitTenantsUpdate, 0},
		func(ctx context.Context, in *domainInput) (*tenantOutput, error) {
			if err := s.operator.RemoveDomain(ctx, in.Ref, in.Host); err != nil {
				return nil, err
			}
			return s.tenant(ctx, in.Ref)
		})
	add(s, route{"resume-tenant", tag, "Serve a tenant again", http.MethodPost, "/tenants/{ref}/resume", tenants.PermitTenantsSuspend, 0},
		func(ctx context.Context, in *tenantInput) (*tenantOutput, error) {
			if err := s.operator.ResumeTenant(ctx, in.Ref); err != nil {
				return nil, err
			}
			return s.tenant(ctx, in.Ref)
		})
}

func (s *service) tenant(ctx context.Context, ref string) (*tenantOutput, error) {
	t, err := s.operator.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	return &tenantOutput{t}, nil
}
