package admin

import (
	"context"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// Backend is what the API stands on: an operator, and what only answers over HTTP need. *tenants.Service is one.
type Backend interface {
	tenants.Operator
	Pages

	// BeginOnce claims a client's key for a request that is to be carried out once.
	BeginOnce(ctx context.Context, principal, route, key string, request []byte) (*catalog.Once, error)
	// Refuse records that whoever asks lacks the permission for a route.
	Refuse(ctx context.Context, route, permission string) error
}

// Pages are the lists, a page at a time, by key.
type Pages interface {
	TenantsPage(ctx context.Context, p catalog.Page) ([]*catalog.Tenant, error)
	ServersPage(ctx context.Context, p catalog.Page) ([]*catalog.Server, error)
	DatabasesPage(ctx context.Context, server string, p catalog.Page) ([]*catalog.Database, error)
	OperationsPage(ctx context.Context, tenant string, p catalog.Page) ([]*catalog.Operation, error)
	TokensPage(ctx context.Context, p catalog.Page) ([]*catalog.Token, error)
	SettingsPage(ctx context.Context, tenant string, p catalog.Page) ([]*catalog.Setting, error)
	EventsPage(ctx context.Context, q tenants.AuditQuery, p catalog.Page) ([]catalog.Event, error)
}

var _ Backend = (*tenants.Service)(nil)
