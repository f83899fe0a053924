package tenants

import (
	"context"
	"maps"

	"github.com/rowhouse/rowhouse/catalog"
)

// SetServer changes what an operator decides of a server. What stands there already stays: a lower limit keeps others out.
func (s *Service) SetServer(ctx context.Context, ref string, limits ServerLimits) (*catalog.Server, error) {
	server, err := s.catalog.Server(ctx, ref)
	if err != nil {
		return nil, err
	}
	if err := limits.apply(server); err != nil {
		return nil, err
	}
	event := catalog.Event{Action: "server.set", Target: server.Ref(), Actor: actorOf(ctx), Detail: map[string]any{
		"max_connections": server.MaxConnections, "max_in_use": server.MaxInUse, "max_databases": server.MaxDatabases,
		"spares": server.Spares, "labels": server.Labels,
	}}
	if err := s.catalog.Update(ctx, event, func(tx *catalog.Tx) error { return tx.SetServer(ctx, server) }); err != nil {
		return nil, err
	}
	return s.catalog.Server(ctx, server.ID.String())
}

// maxSpares is how many spare databases a server may have: each takes some 8 MB and 350 files.
const maxSpares = 1000

// apply lays the limits over a server, each within its range.
func (l ServerLimits) apply(server *catalog.Server) error {
	for _, set := range []struct {
		name        string
		value       *int
		into        *int
		least, most int
	}{
		{"max_connections", l.MaxConnections, &server.MaxConnections, 1, 100_000},
		{"max_in_use", l.MaxInUse, &server.MaxInUse, 0, 100_000},
		{"max_databases", l.MaxDatabases, &server.MaxDatabases, 1, 1_000_000},
		{"spares", l.Spares, &server.Spares, 0, maxSpares},
	} {
		if set.value == nil {
			continue
		}
		if *set.value < set.least || *set.value > set.most {
			return catalog.Invalid("%s must be %d to %d", set.name, set.least, set.most)
		}
		*set.into = *set.value
	}
	labels := maps.Clone(server.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	for key, value := range l.Labels {
		if !isLabel(key) || value != "" && !isLabel(value) {
			return catalog.Invalid("a label's key and value must be letters, digits, '.', '_', '/' and '-', 63 at most")
		}
		if value == "" {
			delete(labels, key)
			continue
		}
		labels[key] = value
	}
	server.Labels = labels
	return nil
}

func isLabel(text string) bool {
	if text == "" || len(text) > 63 {
		return false
	}
	for _, r := range text {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '_', r == '/', r == '-':
		default:
			return false
		}
	}
	return true
}
