package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// RolloutID is the id of a rollout.
type RolloutID = ID[Rollout]

// RolloutState is how far a rollout has come.
type RolloutState string

// The states of a rollout. The last three are finished.
const (
	RolloutPlanned          RolloutState = "planned"
	RolloutRunning          RolloutState = "running"
	RolloutPaused           RolloutState = "paused"
	RolloutDone             RolloutState = "done"
	RolloutDoneWithFailures RolloutState = "done_with_failures"
	RolloutCancelled        RolloutState = "cancelled"
)

// Finished says that nothing more will happen.
func (s RolloutState) Finished() bool {
	return s == RolloutDone || s == RolloutDoneWithFailures || s == RolloutCancelled
}

// Pause is why a rollout waits for an operator.
type Pause string

// The reasons of a pause.
const (
	PauseOperator  Pause = "operator"  // somebody asked for it
	PauseThreshold Pause = "threshold" // too much has failed
	PauseGate      Pause = "gate"      // the next ring is opened by hand
)

// Rollout brings the databases of a fleet to one set of migrations, ring by ring.
type Rollout struct {
	ID        RolloutID   `json:"id"`
	Operation OperationID `json:"operation"`
	// Chain names the set; From and To are the version that the fleet had been meant to have, and that of the set.
	Chain string       `json:"chain"`
	From  int64        `json:"from" db:"from_version"`
	To    int64        `json:"to" db:"to_version"`
	State RolloutState `json:"state"`
	// Pause is why a paused one waits; Note says more.
	Pause Pause  `json:"pause,omitempty"`
	Note  string `json:"note,omitempty"`
	// Prepared says that the set has made a database from nothing.
	Prepared bool `json:"prepared"`
	// Ring is the open one; Until, where it is set, the last one that is opened without being asked again.
	Ring  int   `json:"ring"`
	Until *int  `json:"until,omitempty" db:"until_ring"`
	Seq   int64 `json:"-"`
	// Away says that a server has refused connections lately.
	Away       bool           `json:"-"`
	CreatedBy  string         `json:"created_by,omitempty"`
	CreatedAt  time.Time      `json:"created_at"`
	UpdatedAt  time.Time      `json:"updated_at"`
	FinishedAt *time.Time     `json:"finished_at,omitempty"`
	Rings      []*RolloutRing `json:"rings" db:"-"`
}

// Ref names the rollout in an audit event.
func (r *Rollout) Ref() Ref {
	return Ref{Kind: "rollout", ID: [16]byte(r.ID), Name: fmt.Sprintf("to version %d", r.To)}
}

// Open is the open ring, or nil when a rollout has none.
func (r *Rollout) Open() *RolloutRing {
	for _, ring := range r.Rings {
		if ring.Ring == r.Ring {
			return ring
		}
	}
	return nil
}

// RolloutRing is one ring of a rollout and what became of its databases.
type RolloutRing struct {
	Ring          int           `json:"ring"`
	Name          string        `json:"name"`
	Selectors     []string      `json:"selectors"`
	Soak          time.Duration `json:"-"`
	Manual        bool          `json:"manual,omitempty"`
	MaxFailures   int           `json:"max_failures"`
	MaxFailurePct int           `json:"max_failure_pct,omitempty"`
	Slots         int           `json:"slots,omitempty"`

	Total    int        `json:"total"`
	Done     int        `json:"done"`
	Failed   int        `json:"failed"`
	Skipped  int        `json:"skipped"`
	Forgiven int        `json:"forgiven,omitempty"`
	ClosedAt *time.Time `json:"closed_at,omitempty"`
	Passed   bool       `json:"-"`
	// Since is how long the ring has been closed, by the catalog's clock.
	Since time.Duration `json:"-"`
}

// Left is how many databases wait or run.
func (r *RolloutRing) Left() int { return r.Total - r.Done - r.Failed - r.Skipped }

// TargetState is how far one database of a rollout has come.
type TargetState string

// The states of a target.
const (
	TargetPending     TargetState = "pending"
	TargetRunning     TargetState = "running"
	TargetRetryWait   TargetState = "retry_wait"
	TargetDone        TargetState = "done"
	TargetFailed      TargetState = "failed"
	TargetNeedsRepair TargetState = "needs_repair"
	TargetSkipped     TargetState = "skipped"
)

// RolloutTarget is one database of a rollout.
type RolloutTarget struct {
	Database DatabaseID  `json:"database"`
	Name     string      `json:"name"`
	Server   string      `json:"server"`
	Kind     Placement   `json:"kind"`
	Ring     int         `json:"ring"`
	State    TargetState `json:"state"`
	// Held says that it waits for its server to answer, or for another operation on the database.
	Held       bool            `json:"held,omitempty"`
	Noop       bool            `json:"noop,omitempty"`
	Attempts   int             `json:"attempts"`
	From       int64           `json:"from" db:"from_version"`
	To         *int64          `json:"to,omitempty" db:"to_version"`
	Class      string          `json:"class,omitempty"`
	SQLState   string          `json:"sqlstate,omitempty" db:"sqlstate"`
	Error      string          `json:"error,omitempty"`
	Detail     json.RawMessage `json:"detail,omitempty"`
	Seq        int64           `json:"seq,omitempty"`
	StartedAt  *time.Time      `json:"started_at,omitempty"`
	FinishedAt *time.Time      `json:"finished_at,omitempty"`
}

const selectRollout = `
select r.id, r.operation, s.chain, r.from_version, r.to_version, r.state, coalesce(r.pause, '') pause, r.note, r.prepared, r.ring,
       r.until_ring, r.seq, exists (select from rowhouse.rollout_servers h where h.rollout = r.id) away, r.created_by, r.created_at, r.updated_at, r.finished_at
  from rowhouse.rollouts r
  join rowhouse.migration_sets s on s.id = r.set`

// Rollout finds a rollout by id, with its rings. Unknown: ErrNotFound.
func (c *Catalog) Rollout(ctx context.Context, id RolloutID) (*Rollout, error) {
	return rolloutOf(ctx, c.pool, "rollout "+id.String(), selectRollout+` where r.id = $1`, id)
}

// RolloutOf finds the rollout that an operation stands for. Unknown: ErrNotFound.
func (c *Catalog) RolloutOf(ctx context.Context, id OperationID) (*Rollout, error) {
	return rolloutOf(ctx, c.pool, "rollout of operation "+id.String(), selectRollout+` where r.operation = $1`, id)
}

// OpenRollout finds the rollout that is not finished. None: ErrNotFound.
func (c *Catalog) OpenRollout(ctx context.Context) (*Rollout, error) {
	return rolloutOf(ctx, c.pool, "unfinished rollout", selectRollout+` where r.state in ('planned', 'running', 'paused')`)
}

// LastRollout finds the rollout that was begun last. None: ErrNotFound.
func (c *Catalog) LastRollout(ctx context.Context) (*Rollout, error) {
	return rolloutOf(ctx, c.pool, "rollout", selectRollout+` order by r.id desc limit 1`)
}

// Rollouts lists rollouts without their rings, the newest first.
func (c *Catalog) Rollouts(ctx context.Context, limit int) ([]*Rollout, error) {
	return all[Rollout](ctx, c.pool, "rollouts", selectRollout+` order by r.id desc limit $1`, limit)
}

func rolloutOf(ctx context.Context, q querier, noun, sql string, args ...any) (*Rollout, error) {
	ro, err := one[Rollout](ctx, q, noun, sql, args...)
	if err != nil {
		return nil, err
	}
	ro.Rings, err = all[RolloutRing](ctx, q, noun, selectRings, ro.ID)
	return ro, err
}

const selectRings = `
select ring, name, selectors, soak, manual, max_failures, max_failure_pct, slots, total, done, failed, skipped, forgiven,
       closed_at, passed, coalesce(clock_timestamp() - closed_at, '0') since
  from rowhouse.rollout_rings where rollout = $1 order by ring`

const selectTarget = `
select t.database, d.name, s.name server, d.kind, t.ring, t.state, t.noop, t.attempts, t.from_version, t.to_version, t.class,
       t.sqlstate, t.error, t.detail, t.seq, t.started_at, t.finished_at,
       t.state in ('pending', 'retry_wait') and (d.state not in ('active', 'template', 'spare')
         or exists (select from rowhouse.rollout_servers h where h.rollout = t.rollout and h.server = t.server and h.refused >= 3)
         or exists (select from rowhouse.operations o where o.database = d.id and o.state not in ('done', 'failed', 'cancelled'))) held
  from rowhouse.rollout_targets t
  join rowhouse.databases d on d.id = t.database
  join rowhouse.servers s on s.id = t.server`

// RolloutTargets lists a rollout's databases by ring and name.
func (c *Catalog) RolloutTargets(ctx context.Context, id RolloutID) ([]*RolloutTarget, error) {
	return all[RolloutTarget](ctx, c.pool, "targets of rollout "+id.String(), selectTarget+` where t.rollout = $1 order by t.ring, s.name, d.name`, id)
}

// RolloutResults lists the results written after the one numbered after, in their order. The last one's Seq is where to go on.
func (c *Catalog) RolloutResults(ctx context.Context, id RolloutID, after int64) ([]*RolloutTarget, error) {
	return all[RolloutTarget](ctx, c.pool, "results of rollout "+id.String(), selectTarget+`
		where t.rollout = $1 and t.seq > $2 order by t.seq`, id, after)
}

// FleetMember is a database that a rollout may bring forward.
type FleetMember struct {
	ID         DatabaseID        `json:"id"`
	Name       string            `json:"name"`
	Server     ServerID          `json:"server"`
	ServerName string            `json:"server_name"`
	Kind       Placement         `json:"kind"`
	State      DatabaseState     `json:"state"`
	Labels     map[string]string `json:"labels,omitempty"`
	Version    int64             `json:"version" db:"schema_version"`
	Chain      string            `json:"-" db:"schema_chain"`
	Error      string            `json:"error,omitempty" db:"migrate_error"`
}

// inFleet are the databases that rollouts are about.
const inFleet = `d.state in ('active', 'template', 'spare') and not d.adopted`

// notAt are those that the catalog does not say to be at the chain $1.
const notAt = `(d.schema_chain <> $1 or d.migrate_error is not null)`

const selectMember = `
select d.id, d.name, d.server, s.name server_name, d.kind, d.state, d.labels, d.schema_version, d.schema_chain, coalesce(d.migrate_error, '') migrate_error
  from rowhouse.databases d
  join rowhouse.servers s on s.id = d.server
 where ` + inFleet

// Fleet lists the databases that rollouts are about, the oldest first.
func (c *Catalog) Fleet(ctx context.Context) ([]*FleetMember, error) {
	return all[FleetMember](ctx, c.pool, "fleet", selectMember+` order by d.id`)
}

// Behind lists the fleet's databases that the catalog does not say to be at the chain, the oldest first.
func (c *Catalog) Behind(ctx context.Context, chain string) ([]*FleetMember, error) {
	return all[FleetMember](ctx, c.pool, "fleet", selectMember+` and `+notAt+` order by d.id`, chain)
}

// FleetState is what the catalog says of a fleet and a chain.
type FleetState struct {
	// Active is the chain of the set that new databases are born with; empty where there is none.
	Active  string
	Version int64
	// Rollout is the unfinished one, and RolloutChain what it brings.
	Rollout      RolloutID
	RolloutChain string
	Behind       int
	Current      int
}

// FleetState asks how a fleet stands to a chain. It is one query, and all that a fleet costs which is there.
func (c *Catalog) FleetState(ctx context.Context, chain string) (*FleetState, error) {
	return one[FleetState](ctx, c.pool, "fleet", `
		select coalesce(a.chain, '') active, coalesce(a.version, 0) as version, r.id rollout, coalesce(rs.chain, '') rollout_chain, f.behind, f.current
		  from (select count(*) filter (where `+notAt+`) behind, count(*) filter (where not `+notAt+`) "current"
		          from rowhouse.databases d where `+inFleet+`) f
		  left join rowhouse.migration_sets a on a.active
		  left join rowhouse.rollouts r on r.state in ('planned', 'running', 'paused')
		  left join rowhouse.migration_sets rs on rs.id = r.set`, chain)
}

// AppliedVersion is the highest version that any database of the fleet has come to, as far as the catalog knows.
func (c *Catalog) AppliedVersion(ctx context.Context) (int64, error) {
	var v int64
	err := c.pool.QueryRow(ctx, `select coalesce(max(schema_version), 0) from rowhouse.databases where state <> 'gone' and not adopted`).Scan(&v)
	return v, refine(err, "fleet")
}

// ServedVersions are the versions that this release of the schema serves, both ends included.
type ServedVersions struct {
	Min int64 `json:"min" db:"min_version"`
	Max int64 `json:"max" db:"max_version"`
}

// ServedVersions asks which versions are served: a database outside of them is being upgraded.
func (c *Catalog) ServedVersions(ctx context.Context) (*ServedVersions, error) {
	return one[ServedVersions](ctx, c.pool, "served versions", `select min_version, max_version from rowhouse.served_versions`)
}

// SetServedVersions moves the range of versions that are served.
func (tx *Tx) SetServedVersions(ctx context.Context, v ServedVersions) error {
	return tx.exactlyOne(ctx, "served versions", `
		update rowhouse.served_versions set min_version = $1, max_version = $2`, v.Min, v.Max)
}

// SetDatabaseLabel labels a database, for selectors; an empty value takes the label away.
func (tx *Tx) SetDatabaseLabel(ctx context.Context, id DatabaseID, label, value string) error {
	return tx.exactlyOne(ctx, "database "+id.String(), `
		update rowhouse.databases
		   set labels = case when $3 = '' then labels - $2 else labels || jsonb_build_object($2::text, $3::text) end, updated_at = now()
		 where id = $1`, id, label, value)
}

// CreateRollout inserts a rollout with its rings; their Total is not read. The set must be stored. Another one that is not
// finished is ErrConflict.
func (tx *Tx) CreateRollout(ctx context.Context, ro *Rollout) error {
	_, err := tx.Exec(ctx, `
		insert into rowhouse.rollouts (id, operation, set, from_version, to_version, until_ring, created_by)
		select $1, $2, id, $4, $5, $6, $7 from rowhouse.migration_sets where chain = $3`,
		ro.ID, ro.Operation, ro.Chain, ro.From, ro.To, ro.Until, ro.CreatedBy)
	if err = refine(err, "rollout"); errors.Is(err, ErrExists) {
		return fmt.Errorf("another rollout is not finished: %w", ErrConflict)
	}
	if err == nil { // its rollout moves it, not a job
		_, err = tx.Exec(ctx, `update rowhouse.operations set next_at = 'infinity', state = 'running' where id = $1`, ro.Operation)
	}
	for _, ring := range ro.Rings {
		if err == nil {
			_, err = tx.Exec(ctx, `
				insert into rowhouse.rollout_rings (rollout, ring, name, selectors, soak, manual, max_failures, max_failure_pct, slots)
				values ($1, $2, $3, $4, $5, $6, $7, $8, $9)`,
				ro.ID, ring.Ring, ring.Name, ring.Selectors, ring.Soak, ring.Manual, ring.MaxFailures, ring.MaxFailurePct, ring.Slots)
		}
	}
	return refine(err, "rollout")
}

// AddTargets puts databases into a ring. Those that the rollout has already are left alone; the answer is how many are new.
func (tx *Tx) AddTargets(ctx context.Context, id RolloutID, ring int, databases []DatabaseID) (int, error) {
	if len(databases) == 0 {
		return 0, nil
	}
	var n int
	err := tx.QueryRow(ctx, `
		with added as (
			insert into rowhouse.rollout_targets (rollout, ring, database, server, from_version)
			select $1, $2, d.id, d.server, d.schema_version from rowhouse.databases d where d.id = any ($3)
			on conflict do nothing returning 1),
		counted as (
			update rowhouse.rollout_rings set total = total + (select count(*) from added), closed_at = null
			 where rollout = $1 and ring = $2 and exists (select from added))
		select count(*) from added`, id, ring, databases).Scan(&n)
	return n, refine(err, "targets of rollout "+id.String())
}

// AddLate puts the databases into a ring that were made since the rollout selected, at another schema.
func (tx *Tx) AddLate(ctx context.Context, ro *Rollout, ring int) (int, error) {
	late, err := all[FleetMember](ctx, tx, "fleet", selectMember+` and `+notAt+`
		and not exists (select from rowhouse.rollout_targets t where t.rollout = $2 and t.database = d.id)`, ro.Chain, ro.ID)
	if err != nil {
		return 0, err
	}
	ids := make([]DatabaseID, len(late))
	for i, m := range late {
		ids[i] = m.ID
	}
	return tx.AddTargets(ctx, ro.ID, ring, ids)
}

// lazily begins a transaction for whose end nobody waits for the disk. What a crash of the catalog's server takes back is
// found out again: a claim lapses, and the database knows what was applied to it.
const lazily = "begin; set local synchronous_commit = off"

// Turn reads a rollout under its lock and runs fn, in one transaction: what fn decides and writes is decided by one process
// at a time. It has no audit event of its own; what it tells of databases has one each.
func (c *Catalog) Turn(ctx context.Context, id RolloutID, fn func(*Tx, *Rollout) error) error {
	var err error
	for range 3 {
		err = pgx.BeginTxFunc(ctx, c.pool, pgx.TxOptions{BeginQuery: lazily}, func(tx pgx.Tx) error {
			t := &Tx{tx, c}
			ro, err := t.LockRollout(ctx, id)
			if err != nil {
				return err
			}
			return fn(t, ro)
		})
		if !isRaced(err) {
			break
		}
	}
	return err
}

// LockRollout reads a rollout and keeps others from deciding about it until the transaction ends.
func (tx *Tx) LockRollout(ctx context.Context, id RolloutID) (*Rollout, error) {
	both := &pgx.Batch{}
	both.Queue(selectRollout+` where r.id = $1 for no key update of r`, id)
	both.Queue(selectRings, id) // read behind the lock
	results := tx.SendBatch(ctx, both)
	defer results.Close()
	noun := "rollout " + id.String()
	rows, _ := results.Query() // its error is in the rows
	ro, err := pgx.CollectExactlyOneRow(rows, pgx.RowToAddrOfStructByNameLax[Rollout])
	if err != nil {
		return nil, refine(err, noun)
	}
	rows, _ = results.Query()
	ro.Rings, err = pgx.CollectRows(rows, pgx.RowToAddrOfStructByNameLax[RolloutRing])
	return ro, refine(err, noun)
}

// RolloutClaim is a database that a worker may migrate until its lease ends.
type RolloutClaim struct {
	Database    DatabaseID
	Name        string
	Server      ServerID
	Kind        Placement
	Version     int64
	Chain       string
	Fingerprint string
	Attempts    int
	Ring        int
	Epoch       int64
}

// Ref names the database in an audit event.
func (c *RolloutClaim) Ref() Ref {
	return Ref{Kind: "database", ID: [16]byte(c.Database), Name: c.Name}
}

// ClaimTargets takes up to n databases of the open ring for worker, raising their epochs: those that are due, and those
// whose worker was not heard of. Servers take turns; on each only as many run as it has slots, one after it refused, and
// none while it is held. A database that another operation works on is left out.
func (tx *Tx) ClaimTargets(ctx context.Context, ro *Rollout, worker InstanceID, n int, lease time.Duration) ([]*RolloutClaim, error) {
	ring := ro.Open()
	if ring == nil || n <= 0 {
		return nil, nil
	}
	return all[RolloutClaim](ctx, tx, "targets of rollout "+ro.ID.String(), `
		with servers as materialized (
			select s.id, case when h.held_until > clock_timestamp() then 0
			                  when h.refused >= 3 then 1
			                  when $4 > 0 then least($4, s.migrate_slots)
			                  else s.migrate_slots end
			             - (select count(*) from rowhouse.rollout_targets t where t.server = s.id and t.state = 'running' and t.lease_until >= clock_timestamp()) as free
			  from rowhouse.servers s
			  left join rowhouse.rollout_servers h on h.rollout = $1 and h.server = s.id),
		due as (
			select t.database, t.place
			  from servers s,
			       lateral (select t.database, row_number() over (order by t.next_at, t.database) place
			                  from rowhouse.rollout_targets t
			                  join rowhouse.databases d on d.id = t.database
			                 where t.rollout = $1 and t.ring = $2 and t.server = s.id
			                   and (t.state in ('pending', 'retry_wait') and t.next_at <= clock_timestamp()
			                        or t.state = 'running' and t.lease_until < clock_timestamp())
			                   and d.state in ('active', 'template', 'spare')
			                   and not exists (select from rowhouse.operations o where o.database = d.id and o.state not in ('done', 'failed', 'cancelled'))
			                 order by t.next_at, t.database
			                 limit greatest(s.free, 0)) t
			 order by t.place limit $3)
		update rowhouse.rollout_targets t
		   set state = 'running', worker = $5, lease_until = clock_timestamp() + $6::interval, op_epoch = t.op_epoch + 1,
		       attempts = t.attempts + 1, started_at = coalesce(t.started_at, clock_timestamp())
		  from due, rowhouse.databases d
		 where t.rollout = $1 and t.database = due.database and d.id = t.database
		returning t.database, d.name, d.server, d.kind, d.schema_version as version, d.schema_chain as chain, d.fingerprint, t.attempts, t.ring, t.op_epoch as epoch`,
		ro.ID, ro.Ring, n, ring.Slots, worker, lease)
}

// RenewTargets keeps a worker's claims for another lease, and says which it still has.
func (c *Catalog) RenewTargets(ctx context.Context, id RolloutID, worker InstanceID, lease time.Duration) (map[DatabaseID]int64, error) {
	rows, err := c.pool.Query(ctx, `
		update rowhouse.rollout_targets set lease_until = clock_timestamp() + $3::interval
		 where rollout = $1 and worker = $2 and state = 'running' returning database, op_epoch`, id, worker, lease)
	if err != nil {
		return nil, refine(err, "targets of rollout "+id.String())
	}
	held := map[DatabaseID]int64{}
	var db DatabaseID
	var epoch int64
	_, err = pgx.ForEachRow(rows, []any{&db, &epoch}, func() error { held[db] = epoch; return nil })
	return held, refine(err, "targets of rollout "+id.String())
}

// TargetResult is what became of a claim.
type TargetResult struct {
	*RolloutClaim
	State  TargetState
	Schema Migrated
	Noop   bool
	// Class, SQLState, Error and Detail say why a database is not there.
	Class    string
	SQLState string
	Error    string
	Detail   map[string]any
	// Wait is when a target that is not finished comes again.
	Wait time.Duration
	// Uncounted takes the attempt back.
	Uncounted bool
	// Refused says that the server let nobody in, or had no room.
	Refused bool
}

// RecordTargets writes results: the targets, the databases' rows each with its audit event, the rings' counters, the
// servers' breakers. What comes back are results of claims that were lost, of which nothing is written.
func (tx *Tx) RecordTargets(ctx context.Context, ro *Rollout, results []*TargetResult) (lost []*TargetResult, err error) {
	if len(results) == 0 {
		return nil, nil
	}
	held, err := tx.finishTargets(ctx, ro, results)
	if err != nil {
		return nil, err
	}
	rows := &pgx.Batch{}
	for _, r := range results {
		if !held[r.Database] {
			lost = append(lost, r)
			continue
		}
		rows.Queue(insertEvent, eventRow(ctx, Event{
			Action: "database.migrate", Target: r.Ref(), Operation: ro.Operation,
			Detail: map[string]any{"rollout": ro.ID.String(), "state": string(r.State), "version": r.Schema.Version},
		})...)
		rows.Queue(setDatabaseSchema, schemaRow(r.Database, r.Schema)...)
		for _, ring := range ro.Rings {
			if ring.Ring == r.Ring {
				ring.Done, ring.Failed = ring.Done+r.done(), ring.Failed+r.failed()
			}
		}
	}
	if rows.Len() > 0 {
		if err := tx.SendBatch(ctx, rows).Close(); err != nil {
			return nil, refine(err, "results of rollout "+ro.ID.String())
		}
	}
	for _, r := range results {
		if held[r.Database] && (r.Refused || ro.Away) {
			if err := tx.breaker(ctx, ro, r); err != nil {
				return nil, err
			}
		}
	}
	return lost, nil
}

func (r *TargetResult) done() int { return asInt(r.State == TargetDone) }

func (r *TargetResult) failed() int {
	return asInt(r.State == TargetFailed || r.State == TargetNeedsRepair)
}

// finishTargets ends the claims that still are what they were given as, and says which.
func (tx *Tx) finishTargets(ctx context.Context, ro *Rollout, results []*TargetResult) (map[DatabaseID]bool, error) {
	type row struct {
		Database DatabaseID     `json:"database"`
		Epoch    int64          `json:"epoch"`
		Seq      int64          `json:"seq"`
		State    TargetState    `json:"state"`
		Noop     bool           `json:"noop"`
		Version  int64          `json:"version"`
		Class    string         `json:"class"`
		SQLState string         `json:"sqlstate"`
		Error    string         `json:"error"`
		Detail   map[string]any `json:"detail"`
		WaitMS   int64          `json:"wait_ms"`
		Back     int            `json:"back"`
		Done     int            `json:"done"`
		Failed   int            `json:"failed"`
	}
	rows := make([]row, len(results))
	for i, r := range results {
		ro.Seq++
		rows[i] = row{
			r.Database, r.Epoch, ro.Seq, r.State, r.Noop, r.Schema.Version, r.Class, r.SQLState, r.Error, r.Detail,
			r.Wait.Milliseconds(), asInt(r.Uncounted), r.done(), r.failed(),
		}
	}
	given, err := json.Marshal(rows)
	if err != nil {
		return nil, fmt.Errorf("results of rollout %s: %w", ro.ID, err)
	}
	held, err := tx.Query(ctx, `
		with given as (
			select * from jsonb_to_recordset($2) as g(database uuid, epoch bigint, seq bigint, state text, noop boolean, version bigint, class text,
			                                          sqlstate text, error text, detail jsonb, wait_ms bigint, back int, done int, failed int)),
		hit as (
			update rowhouse.rollout_targets t
			   set state = g.state, noop = g.noop, to_version = g.version, class = g.class, sqlstate = g.sqlstate, error = g.error,
			       detail = case jsonb_typeof(g.detail) when 'object' then g.detail else '{}' end, seq = g.seq,
			       next_at = clock_timestamp() + g.wait_ms * interval '1 millisecond', attempts = t.attempts - g.back,
			       finished_at = case when g.done + g.failed > 0 then clock_timestamp() end, worker = null, lease_until = '-infinity'
			  from given g
			 where t.rollout = $1 and t.database = g.database and t.op_epoch = g.epoch and t.state = 'running'
			returning t.ring, t.database, g.done, g.failed),
		counted as (
			update rowhouse.rollout_rings r
			   set done = r.done + n.done, failed = r.failed + n.failed
			  from (select ring, sum(done) done, sum(failed) failed from hit group by ring) n
			 where r.rollout = $1 and r.ring = n.ring and n.done + n.failed > 0),
		numbered as (
			update rowhouse.rollouts set seq = $3, updated_at = now() where id = $1 and exists (select from hit))
		select database from hit`, ro.ID, string(given), ro.Seq)
	if err != nil {
		return nil, refine(err, "results of rollout "+ro.ID.String())
	}
	found, err := pgx.CollectRows(held, pgx.RowTo[DatabaseID])
	ids := make(map[DatabaseID]bool, len(found))
	for _, id := range found {
		ids[id] = true
	}
	return ids, refine(err, "results of rollout "+ro.ID.String())
}

func asInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// count moves a ring's counters, in the row and in what was read of it.
func (tx *Tx) count(ctx context.Context, ro *Rollout, ring, done, failed, skipped int) error {
	if done == 0 && failed == 0 && skipped == 0 {
		return nil
	}
	for _, r := range ro.Rings {
		if r.Ring == ring {
			r.Done, r.Failed, r.Skipped = r.Done+done, r.Failed+failed, r.Skipped+skipped
		}
	}
	return tx.exactlyOne(ctx, "ring", `
		update rowhouse.rollout_rings set done = done + $3, failed = failed + $4, skipped = skipped + $5
		 where rollout = $1 and ring = $2`, ro.ID, ring, done, failed, skipped)
}

// breaker counts refusals in a row. From the third on the server is left alone, for 5 to 30 seconds.
func (tx *Tx) breaker(ctx context.Context, ro *Rollout, r *TargetResult) error {
	var err error
	ro.Away = ro.Away || r.Refused
	if r.Refused {
		_, err = tx.Exec(ctx, `
			insert into rowhouse.rollout_servers as h (rollout, server, refused, reason) values ($1, $2, 1, $3)
			on conflict (rollout, server) do update
			   set refused = h.refused + 1, reason = excluded.reason,
			       held_until = case when h.refused >= 2 then clock_timestamp() + least(5 * (h.refused - 1), 30) * interval '1 second' else h.held_until end`,
			ro.ID, r.Server, r.Error)
	} else {
		_, err = tx.Exec(ctx, `delete from rowhouse.rollout_servers where rollout = $1 and server = $2`, ro.ID, r.Server)
	}
	return refine(err, "server of target "+r.Name)
}

// HeldServer is a server that a rollout leaves alone because it refuses connections.
type HeldServer struct {
	Server  string `json:"server"`
	Refused int    `json:"refused"`
	Reason  string `json:"reason"`
}

// HeldServers lists the servers that a rollout leaves alone.
func (c *Catalog) HeldServers(ctx context.Context, id RolloutID) ([]*HeldServer, error) {
	return all[HeldServer](ctx, c.pool, "servers of rollout "+id.String(), `
		select s.name server, h.refused, h.reason from rowhouse.rollout_servers h join rowhouse.servers s on s.id = h.server
		 where h.rollout = $1 and h.refused >= 3 order by s.name`, id)
}

// RolloutServers lists the servers that a rollout's databases stand on.
func (c *Catalog) RolloutServers(ctx context.Context, id RolloutID) ([]ServerID, error) {
	rows, err := c.pool.Query(ctx, `select distinct server from rowhouse.rollout_targets where rollout = $1 order by server`, id)
	if err != nil {
		return nil, refine(err, "servers of rollout "+id.String())
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[ServerID])
	return found, refine(err, "servers of rollout "+id.String())
}

// FingerprintAt is how most databases of a chain look, but for one; empty where there are none.
func (c *Catalog) FingerprintAt(ctx context.Context, chain string, but DatabaseID) (string, error) {
	var fingerprint string
	err := c.pool.QueryRow(ctx, `
		select coalesce((select fingerprint from rowhouse.databases
		                  where schema_chain = $1 and id <> $2 and fingerprint <> '' and state in ('active', 'template', 'spare') and not adopted
		                  group by fingerprint order by count(*) desc, fingerprint limit 1), '')`, chain, but).Scan(&fingerprint)
	return fingerprint, refine(err, "fingerprint")
}

// TargetDuration is how long the databases of the last rollouts took each, in the middle; zero where there were none.
func (c *Catalog) TargetDuration(ctx context.Context) (time.Duration, error) {
	var d time.Duration
	err := c.pool.QueryRow(ctx, `
		select coalesce(percentile_cont(0.5) within group (order by finished_at - started_at), '0')
		  from (select started_at, finished_at from rowhouse.rollout_targets
		         where state = 'done' and not noop and attempts = 1 and started_at is not null
		         order by finished_at desc limit 1000) t`).Scan(&d)
	return d, refine(err, "targets")
}

// MigrateSlots are how many databases of each server are migrated at a time, by the server's name.
func (c *Catalog) MigrateSlots(ctx context.Context) (map[string]int, error) {
	rows, err := c.pool.Query(ctx, `select name, migrate_slots from rowhouse.servers`)
	if err != nil {
		return nil, refine(err, "servers")
	}
	slots := map[string]int{}
	var name string
	var n int
	_, err = pgx.ForEachRow(rows, []any{&name, &n}, func() error { slots[name] = n; return nil })
	return slots, refine(err, "servers")
}

// RolloutPrepared records that the set has made a database from nothing.
func (tx *Tx) RolloutPrepared(ctx context.Context, ro *Rollout) error {
	ro.Prepared = true
	if err := tx.exactlyOne(ctx, "rollout", `update rowhouse.rollouts set prepared = true where id = $1`, ro.ID); err != nil {
		return err
	}
	return tx.setRollout(ctx, ro, RolloutRunning, "", "")
}

// CloseRing records that nothing of the open ring is left.
func (tx *Tx) CloseRing(ctx context.Context, ro *Rollout) error {
	ring := ro.Open()
	now := time.Now()
	ring.ClosedAt = &now
	if err := tx.exactlyOne(ctx, "ring", `
		update rowhouse.rollout_rings set closed_at = clock_timestamp() where rollout = $1 and ring = $2`, ro.ID, ro.Ring); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, `update rowhouse.operations set step = $2, updated_at = now() where id = $1`, ro.Operation, ring.Name); err != nil {
		return refine(err, "rollout")
	}
	return tx.note(ctx, ro.Operation, OperationRunning, ring.Name, fmt.Sprintf("%d done, %d failed, %d skipped", ring.Done, ring.Failed, ring.Skipped))
}

// OpenRing opens another ring.
func (tx *Tx) OpenRing(ctx context.Context, ro *Rollout, ring int) error {
	ro.Ring = ring
	return tx.exactlyOne(ctx, "rollout", `update rowhouse.rollouts set ring = $2, updated_at = now() where id = $1`, ro.ID, ring)
}

// PauseRollout makes a rollout wait for an operator. What runs may end.
func (tx *Tx) PauseRollout(ctx context.Context, ro *Rollout, why Pause, note string) error {
	return tx.setRollout(ctx, ro, RolloutPaused, why, note)
}

// FinishRollout ends a rollout.
func (tx *Tx) FinishRollout(ctx context.Context, ro *Rollout, state RolloutState, note string) error {
	return tx.setRollout(ctx, ro, state, "", note)
}

// setRollout changes a rollout's state, and its operation's with it.
func (tx *Tx) setRollout(ctx context.Context, ro *Rollout, state RolloutState, why Pause, note string) error {
	ro.State, ro.Pause, ro.Note = state, why, note
	if err := tx.exactlyOne(ctx, "rollout", `
		update rowhouse.rollouts
		   set state = $2, pause = nullif($3, ''), note = $4, updated_at = now(), finished_at = case when $5 then now() end
		 where id = $1`, ro.ID, state, why, note, state.Finished()); err != nil {
		return err
	}
	as := map[RolloutState]OperationState{
		RolloutPlanned: OperationRunning, RolloutRunning: OperationRunning, RolloutPaused: OperationPaused, RolloutDone: OperationDone,
		RolloutDoneWithFailures: OperationFailed, RolloutCancelled: OperationCancelled,
	}[state]
	if _, err := tx.Exec(ctx, `
		update rowhouse.operations
		   set state = $2, error = nullif($3, ''), updated_at = now(), finished_at = case when $4 then now() end
		 where id = $1`, ro.Operation, as, note, state.Finished()); err != nil {
		return refine(err, "rollout")
	}
	return tx.note(ctx, ro.Operation, as, "", note)
}

// ResumeRollout lets a paused rollout go on: the way to the next ring is open after a gate, and the databases of the open
// ring that failed are tried again. Where reset is set, failures so far count no more.
func (tx *Tx) ResumeRollout(ctx context.Context, ro *Rollout, reset bool) error {
	if ro.State != RolloutPaused {
		return nil
	}
	switch {
	case ro.Pause == PauseGate:
		if _, err := tx.Exec(ctx, `update rowhouse.rollout_rings set passed = true where rollout = $1 and ring = $2`, ro.ID, ro.Ring); err != nil {
			return refine(err, "rollout")
		}
	case reset:
		if _, err := tx.Exec(ctx, `update rowhouse.rollout_rings set forgiven = failed where rollout = $1`, ro.ID); err != nil {
			return refine(err, "rollout")
		}
	case ro.Pause == PauseThreshold:
		if _, err := tx.RetryTargets(ctx, ro, nil); err != nil {
			return err
		}
	}
	return tx.ReopenRollout(ctx, ro)
}

// ReopenRollout lets a rollout run that is paused or ended with failures.
func (tx *Tx) ReopenRollout(ctx context.Context, ro *Rollout) error {
	state := RolloutRunning
	if !ro.Prepared {
		state = RolloutPlanned
	}
	err := tx.setRollout(ctx, ro, state, "", "")
	if errors.Is(err, ErrExists) {
		return fmt.Errorf("another rollout is not finished: %w", ErrConflict)
	}
	return err
}

// SetRolloutUntil says which ring is the last that is opened without being asked again; nil means all.
func (tx *Tx) SetRolloutUntil(ctx context.Context, ro *Rollout, ring *int) error {
	ro.Until = ring
	return tx.exactlyOne(ctx, "rollout", `update rowhouse.rollouts set until_ring = $2 where id = $1`, ro.ID, ring)
}

// RetryTargets makes databases that failed or need repair pending again, all of them when none is named. The answer is how
// many. The lowest of their rings is open again.
func (tx *Tx) RetryTargets(ctx context.Context, ro *Rollout, databases []DatabaseID) (int, error) {
	rows, err := tx.Query(ctx, `
		update rowhouse.rollout_targets
		   set state = 'pending', attempts = 0, next_at = now(), finished_at = null, op_epoch = op_epoch + 1
		 where rollout = $1 and state in ('failed', 'needs_repair') and ($2::uuid[] is null or database = any ($2))
		returning ring`, ro.ID, databases)
	if err != nil {
		return 0, refine(err, "targets")
	}
	rings, err := pgx.CollectRows(rows, pgx.RowTo[int])
	if err != nil {
		return 0, refine(err, "targets")
	}
	lowest := ro.Ring
	for _, ring := range rings {
		lowest = min(lowest, ring)
		if err := tx.count(ctx, ro, ring, 0, -1, 0); err != nil {
			return 0, err
		}
	}
	if _, err := tx.Exec(ctx, `
		update rowhouse.rollout_rings set closed_at = null, forgiven = least(forgiven, failed)
		 where rollout = $1 and ring = any ($2)`, ro.ID, rings); err != nil {
		return 0, refine(err, "targets")
	}
	if lowest < ro.Ring {
		return len(rings), tx.OpenRing(ctx, ro, lowest)
	}
	return len(rings), nil
}

// SkipTarget leaves a database behind, and says why. It must not run.
func (tx *Tx) SkipTarget(ctx context.Context, ro *Rollout, database DatabaseID, reason string) error {
	var state TargetState
	err := tx.QueryRow(ctx, `select state from rowhouse.rollout_targets where rollout = $1 and database = $2`, ro.ID, database).Scan(&state)
	if err != nil {
		return refine(err, "database in this rollout")
	}
	switch state {
	case TargetRunning, TargetDone:
		return fmt.Errorf("the database is %s: %w", state, ErrConflict)
	case TargetSkipped:
		return nil
	}
	if _, err := tx.Exec(ctx, `
		update rowhouse.rollout_targets
		   set state = 'skipped', detail = detail || jsonb_build_object('skipped', $3::text), op_epoch = op_epoch + 1, finished_at = now()
		 where rollout = $1 and database = $2`, ro.ID, database, reason); err != nil {
		return refine(err, "target")
	}
	var ring int
	if err := tx.QueryRow(ctx, `select ring from rowhouse.rollout_targets where rollout = $1 and database = $2`, ro.ID, database).Scan(&ring); err != nil {
		return refine(err, "target")
	}
	wasFailed := asInt(state == TargetFailed || state == TargetNeedsRepair)
	return tx.count(ctx, ro, ring, 0, -wasFailed, 1)
}
