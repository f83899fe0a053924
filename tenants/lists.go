package tenants

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// DatabaseOperator manages the databases that hold tenants.
type DatabaseOperator interface {
	// Database finds a database by its id, or by the name that rowhouse gave it.
	Database(ctx context.Context, ref string) (*catalog.Database, error)
	// Databases lists the databases of a server, the oldest first; an empty server means of all.
	Databases(ctx context.Context, server string) ([]*catalog.Database, error)
	// RotateDatabase changes the login and the password that requests to a database use, without a gap. One that is adopted
	// or not active is catalog.ErrConflict.
	RotateDatabase(ctx context.Context, ref string) (*catalog.Operation, error)
}

// AuditQuery is which part of the audit trail is wanted. The zero value is the newest hundred events.
type AuditQuery struct {
	// Tenant is whose events are wanted, by name or id.
	Tenant string
	// Since leaves out what is older.
	Since time.Time
	// Oldest lists the oldest first, those after the seq After: so a reader goes on where it ended.
	Oldest bool
	After  int64
	// Limit is how many events at most; 0 means 100.
	Limit int
}

// auditLimit is how many events a query gives that does not say.
const auditLimit = 100

// AuditOperator reads what was done.
type AuditOperator interface {
	Events(ctx context.Context, q AuditQuery) ([]catalog.Event, error)
}

// StatOperator counts what there is.
type StatOperator interface {
	Stats(ctx context.Context) (*catalog.Stats, error)
}

// Database finds a database by its id, or by the name that rowhouse gave it.
func (s *Service) Database(ctx context.Context, ref string) (*catalog.Database, error) {
	id, err := catalog.ParseID[catalog.Database](ref)
	if compact, ours := strings.CutPrefix(ref, "rh_"); ours && err != nil {
		id, err = parseCompact(compact)
	}
	if err != nil {
		return nil, fmt.Errorf("database %.64q: %w", ref, catalog.ErrNotFound)
	}
	return s.catalog.Database(ctx, id)
}

func parseCompact(text string) (id catalog.DatabaseID, err error) {
	if len(text) != 2*len(id) {
		return id, catalog.ErrInvalid
	}
	_, err = hex.Decode(id[:], []byte(text))
	return id, err
}

// Databases lists the databases of a server, the oldest first; an empty server means of all.
func (s *Service) Databases(ctx context.Context, server string) ([]*catalog.Database, error) {
	return everyPage(func(p catalog.Page) ([]*catalog.Database, error) { return s.DatabasesPage(ctx, server, p) },
		func(d *catalog.Database) string { return d.ID.String() })
}

// Events lists what was done, as the query has it.
func (s *Service) Events(ctx context.Context, q AuditQuery) ([]catalog.Event, error) {
	p := catalog.Page{Limit: q.Limit}
	if p.Limit <= 0 {
		p.Limit = auditLimit
	}
	if q.After > 0 {
		p.After = fmt.Sprint(q.After)
	}
	return s.EventsPage(ctx, q, p)
}

// Stats counts what there is.
func (s *Service) Stats(ctx context.Context) (*catalog.Stats, error) { return s.catalog.Stats(ctx) }

// Token finds an operator's token by its id.
func (s *Service) Token(ctx context.Context, id string) (*catalog.Token, error) {
	return s.catalog.Token(ctx, id)
}

// pageSize is how many rows are read at a time where all are wanted.
const pageSize = 1000

// everyPage reads a list to its end.
func everyPage[Row any](read func(catalog.Page) ([]Row, error), key func(Row) string) ([]Row, error) {
	every := []Row{}
	for p := (catalog.Page{Limit: pageSize}); ; {
		rows, err := read(p)
		if err != nil {
			return nil, err
		}
		every = append(every, rows...)
		if len(rows) < p.Limit {
			return every, nil
		}
		p.After = key(rows[len(rows)-1])
	}
}

// TenantsPage lists tenants by name.
func (s *Service) TenantsPage(ctx context.Context, p catalog.Page) ([]*catalog.Tenant, error) {
	return s.catalog.TenantsPage(ctx, p)
}

// ServersPage lists servers by name.
func (s *Service) ServersPage(ctx context.Context, p catalog.Page) ([]*catalog.Server, error) {
	return s.catalog.ServersPage(ctx, p)
}

// DatabasesPage lists the databases of a server, or of all, by id.
func (s *Service) DatabasesPage(ctx context.Context, server string, p catalog.Page) ([]*catalog.Database, error) {
	var of catalog.ServerID
	if server != "" {
		found, err := s.catalog.Server(ctx, server)
		if err != nil {
			return nil, err
		}
		of = found.ID
	}
	return s.catalog.DatabasesPage(ctx, of, p)
}

// OperationsPage lists the operations of a tenant, or of everybody, by id, the newest first.
func (s *Service) OperationsPage(ctx context.Context, tenant string, p catalog.Page) ([]*catalog.Operation, error) {
	id, err := s.tenantID(ctx, tenant)
	if err != nil {
		return nil, err
	}
	return s.catalog.OperationsPage(ctx, id, p)
}

// TokensPage lists operators' tokens, the newest first.
func (s *Service) TokensPage(ctx context.Context, p catalog.Page) ([]*catalog.Token, error) {
	return s.catalog.TokensPage(ctx, p)
}

// SettingsPage lists what the host decided for a tenant, or for everybody, by key. Secrets are left out.
func (s *Service) SettingsPage(ctx context.Context, tenant string, p catalog.Page) ([]*catalog.Setting, error) {
	id, err := s.tenantID(ctx, tenant)
	if err != nil {
		return nil, err
	}
	found, err := s.catalog.SettingsPage(ctx, id, p)
	for _, one := range found {
		one.Value = shown(one.Key, one.Value)
	}
	return found, err
}

// shown is a setting's value as operators see it.
func shown(key string, value json.RawMessage) json.RawMessage {
	if settings[key].secret {
		return json.RawMessage(`"[redacted]"`)
	}
	return value
}

// EventsPage lists audit events as the query has it, from the page's key on.
func (s *Service) EventsPage(ctx context.Context, q AuditQuery, p catalog.Page) ([]catalog.Event, error) {
	id, err := s.tenantID(ctx, q.Tenant)
	if err != nil {
		return nil, err
	}
	return s.catalog.EventsPage(ctx, catalog.EventFilter{Target: [16]byte(id), Since: q.Since, Oldest: q.Oldest}, p)
}

// tenantID is the id of a tenant that may be left out.
func (s *Service) tenantID(ctx context.Context, ref string) (catalog.TenantID, error) {
	if ref == "" {
		return catalog.TenantID{}, nil
	}
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return catalog.TenantID{}, err
	}
	return t.ID, nil
}

// BeginOnce claims a client's key for a request that is to be carried out once.
func (s *Service) BeginOnce(ctx context.Context, principal, route, key string, request []byte) (*catalog.Once, error) {
	return s.catalog.BeginOnce(ctx, principal, route, key, request)
}

// Refuse records that an operator was refused what an action needs.
func (s *Service) Refuse(ctx context.Context, action, permission string) error {
	event := catalog.Event{
		Action: "api.refused", Target: catalog.Ref{Kind: "route", Name: action}, Actor: actorOf(ctx),
		Detail: map[string]any{"permission": permission},
	}
	return s.catalog.Update(ctx, event, func(*catalog.Tx) error { return nil })
}
