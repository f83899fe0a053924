package admin

import (
	"context"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type serverInput struct {
	Ref string `path:"ref" maxLength:"64" doc:"Name or id"`
}

type serverOutput struct {
	Location string `header:"Location"`
	Body     *catalog.Server
}

type addServerInput struct {
	Body struct {
		Name string `json:"name" maxLength:"64"`
		DSN  string `json:"dsn" maxLength:"4096" doc:"How its provisioner connects; the password is kept sealed and never shown"`
		tenants.ServerLimits
	}
}

type setServerInput struct {
	Ref  string `path:"ref" maxLength:"64" doc:"Name or id"`
	Body tenants.ServerLimits
}

func (s *service) registerServers() {
	const tag = "Servers"
	add(s, route{"list-servers", tag, "List servers by name", http.MethodGet, "/servers", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *PageInput) (*listOutput[*catalog.Server], error) {
			return paged("/servers", nil, *in, func(server *catalog.Server) string { return server.Name },
				func(p catalog.Page) ([]*catalog.Server, error) { return s.operator.ServersPage(ctx, p) })
		})
	add(s, route{"add-server", tag, "Register a server", http.MethodPost, "/servers", tenants.PermitServersManage, http.StatusCreated},
		func(ctx context.Context, in *addServerInput) (*serverOutput, error) {
			server, err := s.operator.AddServer(ctx, tenants.ServerSpec{
				Name: in.Body.Name, DSN: catalog.NewSecret(in.Body.DSN), ServerLimits: in.Body.ServerLimits,
			})
			if err != nil {
				return nil, err
			}
			return &serverOutput{Location: basePath + "/servers/" + server.Name, Body: server}, nil
		})
	add(s, route{"get-server", tag, "Show a server", http.MethodGet, "/servers/{ref}", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *serverInput) (*serverOutput, error) {
			server, err := s.operator.Server(ctx, in.Ref)
			if err != nil {
				return nil, err
			}
			return &serverOutput{Body: server}, nil
		})
	add(s, route{"set-server", tag, "Change a server's limits, spare databases and labels", http.MethodPatch, "/servers/{ref}", tenants.PermitServersManage, 0},
		func(ctx context.Context, in *setServerInput) (*serverOutput, error) {
			server, err := s.operator.SetServer(ctx, in.Ref, in.Body)
			if err != nil {
				return nil, err
			}
			return &serverOutput{Body: server}, nil
		})
	for _, verb := range []struct {
		name, summary string
		do            func(context.Context, string) error
	}{{"drain", "Place nothing new on a server", s.operator.DrainServer}, {"resume", "Place on a server again", s.operator.ResumeServer}} {
		add(s, route{verb.name + "-server", tag, verb.summary, http.MethodPost, "/servers/{ref}/" + verb.name, tenants.PermitServersManage, 0},
			func(ctx context.Context, in *serverInput) (*serverOutput, error) {
				if err := verb.do(ctx, in.Ref); err != nil {
					return nil, err
				}
				server, err := s.operator.Server(ctx, in.Ref)
				if err != nil {
					return nil, err
				}
				return &serverOutput{Body: server}, nil
			})
	}
	add(s, route{"remove-server", tag, "Forget a server that holds no databases", http.MethodDelete, "/servers/{ref}", tenants.PermitServersManage, http.StatusNoContent},
		func(ctx context.Context, in *serverInput) (*struct{}, error) {
			return nil, s.operator.RemoveServer(ctx, in.Ref)
		})
}
