package admin

import (
	"context"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type statsOutput struct{ Body *catalog.Stats }

func (s *service) registerStats() {
	add(s, route{"get-stats", "Stats", "Count tenants, databases, operations and live processes", http.MethodGet, "/stats", tenants.PermitServersRead, 0},
		func(ctx context.Context, _ *struct{}) (*statsOutput, error) {
			stats, err := s.operator.Stats(ctx)
			if err != nil {
				return nil, err
			}
			return &statsOutput{stats}, nil
		})
}
