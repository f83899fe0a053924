package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type moveTenantInput struct {
	Ref  string `path:"ref" maxLength:"64" doc:"Name or id"`
	Body moveBody
}

type moveBody struct {
	Server   string `json:"server,omitempty" maxLength:"40" doc:"Name of the server to go to"`
	Database string `json:"database,omitempty" maxLength:"36" doc:"Id of the shared database to go into"`
	Mode     string `json:"mode,omitempty" enum:"copy,replicate,auto" default:"auto" doc:"Copy all rows while writes wait, or replicate first"`
	MaxPause string `json:"max_pause,omitempty" maxLength:"40" doc:"How long writes may have to wait, such as 2s"`
	Verify   string `json:"verify,omitempty" enum:"full" doc:"Compare all rows while writes wait"`
}

func (b moveBody) spec() (tenants.MoveSpec, error) {
	spec := tenants.MoveSpec{Server: b.Server, Database: b.Database, Mode: tenants.MoveMode(b.Mode), Full: b.Verify != ""}
	if b.MaxPause != "" {
		pause, err := time.ParseDuration(b.MaxPause)
		if err != nil {
			return spec, catalog.Invalid("max_pause must be a duration, such as 2s")
		}
		spec.MaxPause = &pause
	}
	return spec, nil
}

func (s *service) registerMoves() {
	for _, verb := range []struct {
		name, summary string
		do            func(context.Context, string, tenants.MoveSpec) (*catalog.Operation, error)
	}{
		{"promote", "Give a tenant a database of its own while it is served", s.operator.PromoteTenant},
		{"demote", "Bring a tenant into a shared database while it is served", s.operator.DemoteTenant},
		{"move", "Bring a tenant to another server or shared database while it is served", s.operator.MoveTenant},
	} {
		add(s, route{verb.name + "-tenant", "Tenants", verb.summary, http.MethodPost, "/tenants/{ref}/" + verb.name, tenants.PermitPlacement, http.StatusAccepted},
			func(ctx context.Context, in *moveTenantInput) (*operationOutput, error) {
				spec, err := in.Body.spec()
				if err != nil {
					return nil, err
				}
				return accepted(verb.do(ctx, in.Ref, spec))
			})
	}
}
