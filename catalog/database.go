package catalog

import (
	"context"
	"fmt"
	"iter"
	"time"
)

// Placement is how a tenant lives in its database: with others or alone.
type Placement string

// The two placements.
const (
	Shared    Placement = "shared"
	Dedicated Placement = "dedicated"
)

// DatabaseState is where a database stands in its life. Only an active one serves.
type DatabaseState string

// The states of a database.
const (
	DatabaseCreating DatabaseState = "creating"
	DatabaseActive   DatabaseState = "active"
	DatabaseHeld     DatabaseState = "held"
	DatabaseRetired  DatabaseState = "retired"
	DatabaseTemplate DatabaseState = "template"
	DatabaseSpare    DatabaseState = "spare"
	DatabaseFailed   DatabaseState = "failed"
	DatabaseDropping DatabaseState = "dropping"
	DatabaseGone     DatabaseState = "gone"
	DatabaseOrphan   DatabaseState = "orphan"
)

// Database is one PostgreSQL database that holds tenants.
type Database struct {
	ID      DatabaseID    `json:"id"`
	Server  ServerID      `json:"server"`
	Name    string        `json:"name"`
	Kind    Placement     `json:"kind"`
	State   DatabaseState `json:"state"`
	Adopted bool          `json:"adopted"`
	// Spare says that it was made, and looked at, before a tenant took it.
	Spare             bool   `json:"spare,omitempty"`
	Epoch             int64  `json:"epoch"`
	CredentialVersion int64  `json:"credential_version"`
	SchemaVersion     int64  `json:"schema_version"`
	SchemaChain       string `json:"schema_chain"`
	Fingerprint       string `json:"fingerprint"`
	PlanEpoch         int64  `json:"plan_epoch"`
	MigrateError      string `json:"migrate_error,omitempty"`
	MaxTenants        int    `json:"max_tenants"`
	// Roles are those that requests may run as; empty means the three that every database of ours has.
	Roles []string `json:"roles,omitempty"`
	// Identity says which database an adopted one was when it was taken: others have rowhouse.identity.
	Identity  string    `json:"-"`
	CreatedAt time.Time `json:"created_at"`
	UpdatedAt time.Time `json:"updated_at"`
}

// Ref names the database in an audit event.
func (d *Database) Ref() Ref { return Ref{Kind: "database", ID: [16]byte(d.ID), Name: d.Name} }

const selectDatabase = `
select id, server, name, kind, state, adopted, spare, epoch, credential_version, schema_version, schema_chain, fingerprint,
       plan_epoch, coalesce(migrate_error, '') migrate_error, max_tenants, roles, identity, created_at, updated_at
  from rowhouse.databases`

// Database finds a database by id. Unknown: ErrNotFound.
func (c *Catalog) Database(ctx context.Context, id DatabaseID) (*Database, error) {
	return one[Database](ctx, c.pool, "database "+id.String(), selectDatabase+` where id = $1`, id)
}

// Databases goes through the databases that are not gone, by server and name.
func (c *Catalog) Databases(ctx context.Context) iter.Seq2[*Database, error] {
	return each[Database](ctx, c.pool, "databases", selectDatabase+` where state <> 'gone' order by server, name`)
}

// DatabaseNamed finds the database of that name on a server. Unknown: ErrNotFound.
func (c *Catalog) DatabaseNamed(ctx context.Context, server ServerID, name string) (*Database, error) {
	return one[Database](ctx, c.pool, fmt.Sprintf("database %q", name), selectDatabase+`
		where server = $1 and name = $2 and state <> 'gone'`, server, name)
}

// RoomiestShared finds the active shared database that has most room for another tenant, on a server that is not drained; a
// zero server means any. It is at the schema of chain, or else served and soon brought there by a rollout. None: ErrNotFound.
func (c *Catalog) RoomiestShared(ctx context.Context, server ServerID, chain string) (*Database, error) {
	return one[Database](ctx, c.pool, "shared database with room", selectDatabase+` d
		 where kind = 'shared' and state = 'active'
		   and (schema_chain = $2 or migrate_error is null
		        and exists (select from rowhouse.served_versions v where d.schema_version between v.min_version and v.max_version)
		        and exists (select from rowhouse.rollouts r join rowhouse.rollout_targets t on t.rollout = r.id
		                     where t.database = d.id and r.state in ('planned', 'running', 'paused') and t.state in ('pending', 'running', 'retry_wait')))
		   and ($1::uuid is null or server = $1)
		   and server in (select id from rowhouse.servers where state = 'active')
		   and (select count(*) from rowhouse.tenants t where t.database = d.id and t.state <> 'deleted') < max_tenants
		 order by schema_chain = $2 desc, (select count(*) from rowhouse.tenants t where t.database = d.id and t.state <> 'deleted'), created_at
		 limit 1`, server, chain)
}

// NewDatabase is what a database begins with.
type NewDatabase struct {
	ID     DatabaseID
	Server ServerID
	Name   string
	Kind   Placement
	State  DatabaseState
	// Adopted says that rowhouse did not make it; then its Identity and Roles are what was found.
	Adopted  bool
	Identity string
	Roles    []string
}

// CreateDatabase inserts the row of a database that may not be there yet. A name in use on that server is ErrExists.
func (tx *Tx) CreateDatabase(ctx context.Context, d NewDatabase) error {
	_, err := tx.Exec(ctx, `
		insert into rowhouse.databases (id, server, name, kind, state, adopted, identity, roles)
		values ($1, $2, $3, $4, $5, $6, $7, coalesce($8, '{}'::text[]))`,
		d.ID, d.Server, d.Name, d.Kind, d.State, d.Adopted, d.Identity, d.Roles)
	return refine(err, fmt.Sprintf("database %q", d.Name))
}

// SetDatabaseState changes the state.
func (tx *Tx) SetDatabaseState(ctx context.Context, id DatabaseID, state DatabaseState) error {
	return tx.exactlyOne(ctx, "database "+id.String(), `
		update rowhouse.databases set state = $2, updated_at = now() where id = $1`, id, state)
}

// Migrated records which schema a database has, and that plans made before it are stale.
type Migrated struct {
	Version     int64
	Chain       string
	Fingerprint string
	// Error is why the database is not further on; empty when it is where it should be.
	Error string
}

// SetDatabaseSchema records what the migrator found or did. The plan epoch rises when the schema changed.
func (tx *Tx) SetDatabaseSchema(ctx context.Context, id DatabaseID, m Migrated) error {
	return tx.exactlyOne(ctx, "database "+id.String(), setDatabaseSchema, schemaRow(id, m)...)
}

const setDatabaseSchema = `
update rowhouse.databases
   set schema_version = $2, schema_chain = $3, fingerprint = $4, migrate_error = nullif($5, ''), checked_at = now(),
       plan_epoch = plan_epoch + case when fingerprint <> $4 or schema_chain <> $3 then 1 else 0 end, updated_at = now()
 where id = $1`

func schemaRow(id DatabaseID, m Migrated) []any {
	return []any{id, m.Version, m.Chain, m.Fingerprint, m.Error}
}
