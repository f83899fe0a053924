package admin

import (
	"context"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type listDatabasesInput struct {
	PageInput
	Server string `query:"server" maxLength:"64" doc:"Name or id; the databases of all without one"`
}

type databaseInput struct {
	Ref string `path:"ref" maxLength:"64" doc:"Id, or the name that rowhouse gave it"`
}

type databaseOutput struct{ Body *catalog.Database }

func (s *service) registerDatabases() {
	const tag = "Databases"
	add(s, route{"list-databases", tag, "List databases, the oldest first", http.MethodGet, "/databases", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *listDatabasesInput) (*listOutput[*catalog.Database], error) {
			return paged("/databases", filters("server", in.Server), in.PageInput, func(d *catalog.Database) string { return d.ID.String() },
				func(p catalog.Page) ([]*catalog.Database, error) { return s.operator.DatabasesPage(ctx, in.Server, p) })
		})
	add(s, route{"get-database", tag, "Show a database", http.MethodGet, "/databases/{ref}", tenants.PermitServersRead, 0},
		func(ctx context.Context, in *databaseInput) (*databaseOutput, error) {
			d, err := s.operator.Database(ctx, in.Ref)
			if err != nil {
				return nil, err
			}
			return &databaseOutput{d}, nil
		})
	add(s, route{"rotate-database", tag, "Change the login and the password that requests use", http.MethodPost, "/databases/{ref}/rotate", tenants.PermitServersManage, http.StatusAccepted},
		func(ctx context.Context, in *databaseInput) (*operationOutput, error) {
			return accepted(s.operator.RotateDatabase(ctx, in.Ref))
		})
}
