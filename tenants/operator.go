package tenants

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// Operator is what an operator can do. It is satisfied by *Service, which works on the catalog itself, and by the client
// of the admin API, so that the command's verbs are the same near and far.
type Operator interface {
	TenantOperator
	LifeOperator
	TrailOperator
	PlanOperator
	MoveOperator
	OperationOperator
	ServerOperator
	SettingOperator
	TokenOperator
	DatabaseOperator
	AuditOperator
	StatOperator
}

// TenantSpec is what a tenant is asked to be.
type TenantSpec struct {
	Name string `json:"name"`
	// Placement is shared or dedicated; empty means shared.
	Placement catalog.Placement `json:"placement,omitempty"`
	// Server is the name of the server to place it on; empty leaves the choice to the policy.
	Server string `json:"server,omitempty"`
	// Database is the id of the shared database to place it in; empty leaves the choice to the policy.
	Database string `json:"database,omitempty"`
	// Labels are what the server must have where the policy chooses one.
	Labels  map[string]string `json:"labels,omitempty"`
	Edition string            `json:"edition,omitempty"`
}

// AdoptSpec is an existing database that becomes a tenant's.
type AdoptSpec struct {
	Name string `json:"name"`
	// DSN is how requests will connect: a role that may become the roles of the database, and no superuser.
	DSN catalog.Secret `json:"dsn"`
}

// TenantOperator manages tenants.
type TenantOperator interface {
	// AdoptTenant takes an existing database as a dedicated tenant. Nothing in it is changed.
	AdoptTenant(ctx context.Context, spec AdoptSpec) (*catalog.Tenant, error)
	// CreateTenant begins to provision a tenant. A name in use is catalog.ErrExists, one that cannot be catalog.ErrInvalid.
	CreateTenant(ctx context.Context, spec TenantSpec) (*catalog.Operation, error)
	Tenant(ctx context.Context, ref string) (*catalog.Tenant, error)
	Tenants(ctx context.Context) ([]*catalog.Tenant, error)
	SuspendTenant(ctx context.Context, ref, reason string) error
	ResumeTenant(ctx context.Context, ref string) error
	// RenameTenant gives a tenant another name; the old one leads to it for 30 more days.
	RenameTenant(ctx context.Context, ref, name string) error
	// AddDomain gives a tenant a host name of its own, which must be nobody else's.
	AddDomain(ctx context.Context, ref, host string) error
	RemoveDomain(ctx context.Context, ref, host string) error
}

// OperationOperator follows durable work.
type OperationOperator interface {
	Operation(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error)
	// Operations lists the newest hundred, the newest first; an empty tenant means everybody's.
	Operations(ctx context.Context, tenant string) ([]*catalog.Operation, error)
	OperationEvents(ctx context.Context, id catalog.OperationID, after int64) ([]*catalog.OperationEvent, error)
	// RetryOperation makes a failed operation go on at its step.
	RetryOperation(ctx context.Context, id catalog.OperationID) (*catalog.Operation, error)
	// CancelOperation asks for an operation to end early; with undo, what it did is taken back. One that is done or past its
	// point of no return is catalog.ErrConflict.
	CancelOperation(ctx context.Context, id catalog.OperationID, undo bool) (*catalog.Operation, error)
}

// ServerSpec is what a server is asked to be.
type ServerSpec struct {
	Name string `json:"name"`
	// DSN is how its provisioner connects, a role that may create databases and roles.
	DSN catalog.Secret `json:"dsn"`
	ServerLimits
}

// ServerLimits are what an operator decides of a server. Nil, and a label without a value, change nothing; a new server
// begins with the defaults.
type ServerLimits struct {
	// MaxConnections is the budget of open connections (80), MaxInUse that of busy ones (by its cores).
	MaxConnections *int `json:"max_connections,omitempty"`
	MaxInUse       *int `json:"max_in_use,omitempty"`
	// MaxDatabases is how many databases may stand on it (300).
	MaxDatabases *int `json:"max_databases,omitempty"`
	// Spares is how many databases stand ready for tenants to come (0).
	Spares *int `json:"spares,omitempty"`
	// Labels are added to those it has; an empty value takes one away.
	Labels map[string]string `json:"labels,omitempty"`
}

// ServerOperator manages the servers that tenants can be placed on.
type ServerOperator interface {
	// AddServer registers a server after its provisioner has been let in.
	AddServer(ctx context.Context, spec ServerSpec) (*catalog.Server, error)
	// SetServer changes what an operator decides of a server.
	SetServer(ctx context.Context, ref string, limits ServerLimits) (*catalog.Server, error)
	// DrainServer places nothing new on a server, ResumeServer does again.
	DrainServer(ctx context.Context, ref string) error
	ResumeServer(ctx context.Context, ref string) error
	// RemoveServer forgets a server. One that holds databases is catalog.ErrConflict.
	RemoveServer(ctx context.Context, ref string) error
	Server(ctx context.Context, ref string) (*catalog.Server, error)
	Servers(ctx context.Context) ([]*catalog.Server, error)
}

// SettingOperator decides what the host gives to one tenant or, with an empty tenant, to everybody.
type SettingOperator interface {
	SetSetting(ctx context.Context, tenant, key string, value json.RawMessage) error
	UnsetSetting(ctx context.Context, tenant, key string) error
	Settings(ctx context.Context, tenant string) (map[string]json.RawMessage, error)
}

// TokenSpec is what an operator's token is asked to be.
type TokenSpec struct {
	Subject     string        `json:"subject"`
	Permissions []string      `json:"permissions"`
	TTL         time.Duration `json:"ttl"`
}

// TokenOperator manages operators' tokens.
type TokenOperator interface {
	// CreateToken makes a token; its text is given this once.
	CreateToken(ctx context.Context, spec TokenSpec) (catalog.Secret, *catalog.Token, error)
	Token(ctx context.Context, id string) (*catalog.Token, error)
	Tokens(ctx context.Context) ([]*catalog.Token, error)
	RevokeToken(ctx context.Context, id string) error
}

// Queue takes an operation to be carried out. It is satisfied by *jobs.Runner: the job is in the transaction that records
// the operation, and appears or vanishes with it.
type Queue interface {
	Enqueue(ctx context.Context, tx pgx.Tx, op *catalog.Operation) error
}

// KindProvision is the kind of the operation that makes a tenant.
const KindProvision = "tenant.provision"

// ProvisionSteps are what making a tenant goes through, in order; each is recorded when its effect stands.
var ProvisionSteps = []string{"placed", "roles", "database", "secured", "owned", "migrated", "seeded", "verified", "active"}

// KindSpare is the kind of the operation that makes a database ready before a tenant asks for one.
const KindSpare = "database.spare"

// ProvisionArgs are the arguments of an operation of KindProvision.
type ProvisionArgs struct {
	Placement catalog.Placement  `json:"placement"`
	Server    catalog.ServerID   `json:"server,omitzero"`
	Database  catalog.DatabaseID `json:"database,omitzero"`
	Labels    map[string]string  `json:"labels,omitempty"`
}
