package catalog

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// OperationState is how far durable work has come.
type OperationState string

// The states of an operation. Done, failed and cancelled ones are finished.
const (
	OperationPending   OperationState = "pending"
	OperationRunning   OperationState = "running"
	OperationWaiting   OperationState = "waiting"
	OperationPaused    OperationState = "paused"
	OperationDone      OperationState = "done"
	OperationFailed    OperationState = "failed"
	OperationCancelled OperationState = "cancelled"
)

// Finished says that nothing more will happen.
func (s OperationState) Finished() bool {
	return s == OperationDone || s == OperationFailed || s == OperationCancelled
}

// Operation is durable work on a tenant, a database or the fleet.
type Operation struct {
	ID         OperationID     `json:"id"`
	Kind       string          `json:"kind"`
	State      OperationState  `json:"state"`
	Tenant     TenantID        `json:"tenant,omitzero"`
	TenantName string          `json:"tenant_name,omitempty"`
	Database   DatabaseID      `json:"database,omitzero"`
	Args       json.RawMessage `json:"args,omitempty"`
	// Step is the last step that is recorded as done; Steps are all of them in order.
	Step  string   `json:"step"`
	Steps []string `json:"steps"`
	Error string   `json:"error,omitempty"`
	// Cancel is how the operation was asked to end early: CancelKeep, CancelUndo, or empty. Effects says what became of what
	// it did, when it did: EffectsKept or EffectsUndone.
	Cancel     string     `json:"cancel,omitempty"`
	Effects    string     `json:"effects,omitempty"`
	Attempts   int        `json:"attempts"`
	Epoch      int64      `json:"-" db:"op_epoch"`
	CreatedBy  string     `json:"created_by,omitempty"`
	CreatedAt  time.Time  `json:"created_at"`
	UpdatedAt  time.Time  `json:"updated_at"`
	FinishedAt *time.Time `json:"finished_at,omitempty"`
}

// How an operation is asked to end early, and what becomes of its effects.
const (
	CancelKeep    = "keep"
	CancelUndo    = "undo"
	EffectsKept   = "kept"
	EffectsUndone = "undone"
)

// Progress is how many of the steps are done.
func (o *Operation) Progress() (done, total int) {
	if o.State == OperationDone {
		return len(o.Steps), len(o.Steps)
	}
	for i, s := range o.Steps {
		if s == o.Step {
			return i + 1, len(o.Steps)
		}
	}
	return 0, len(o.Steps)
}

// Ref names the operation in an audit event.
func (o *Operation) Ref() Ref { return Ref{Kind: "operation", ID: [16]byte(o.ID), Name: o.Kind} }

const selectOperation = `
select o.id, o.kind, o.state, o.tenant, coalesce(t.name, '') tenant_name, o.database, o.args, o.step, o.steps,
       coalesce(o.error, '') error, coalesce(o.cancel, '') cancel, coalesce(o.effects, '') effects, o.attempts, o.op_epoch, o.created_by, o.created_at, o.updated_at, o.finished_at
  from rowhouse.operations o
  left join rowhouse.tenants t on t.id = o.tenant`

// Operation finds an operation by id. Unknown: ErrNotFound.
func (c *Catalog) Operation(ctx context.Context, id OperationID) (*Operation, error) {
	return one[Operation](ctx, c.pool, "operation "+id.String(), selectOperation+` where o.id = $1`, id)
}

// Operations lists operations, the newest first. A zero tenant means everybody's.
func (c *Catalog) Operations(ctx context.Context, tenant TenantID, limit int) ([]*Operation, error) {
	return all[Operation](ctx, c.pool, "operations", selectOperation+`
		where $1::uuid is null or o.tenant = $1 order by o.id desc limit $2`, tenant, limit)
}

// Overdue lists unfinished operations that nobody has worked on since their lease or waiting time ended.
func (c *Catalog) Overdue(ctx context.Context) ([]*Operation, error) {
	return all[Operation](ctx, c.pool, "operations", selectOperation+`
		where o.state in ('pending', 'running', 'waiting') and o.lease_until < now() and o.next_at < now() order by o.id`)
}

// CreateOperation inserts an operation that nobody works on yet. A second unfinished one of its tenant or database is ErrConflict.
func (tx *Tx) CreateOperation(ctx context.Context, o *Operation) error {
	args := o.Args
	if args == nil {
		args = json.RawMessage("{}")
	}
	noun := fmt.Sprintf("operation %s", o.Kind)
	if _, err := tx.Exec(ctx, `
		insert into rowhouse.operations (id, kind, tenant, database, args, steps, created_by)
		values ($1, $2, $3, $4, $5, coalesce($6, '{}'::text[]), $7)`, o.ID, o.Kind, o.Tenant, o.Database, args, o.Steps, o.CreatedBy); err != nil {
		return refine(err, noun)
	}
	return tx.note(ctx, o.ID, OperationPending, "", "")
}

// FinishOperation ends an operation that this worker holds: its epoch must be the one of the claim, else ErrConflict. The
// effects of one that failed are kept.
func (tx *Tx) FinishOperation(ctx context.Context, o *Operation, state OperationState, message string) error {
	return tx.endOperation(ctx, o, state, message, EffectsKept)
}

// FinishCancelled ends an operation that was asked to end early, like FinishOperation.
func (tx *Tx) FinishCancelled(ctx context.Context, o *Operation, undone bool) error {
	effects := EffectsKept
	if undone {
		effects = EffectsUndone
	}
	return tx.endOperation(ctx, o, OperationCancelled, "cancelled; what it did is "+effects, effects)
}

func (tx *Tx) endOperation(ctx context.Context, o *Operation, state OperationState, message, effects string) error {
	tag, err := tx.Exec(ctx, `
		update rowhouse.operations
		   set state = $3, error = nullif($4, ''), finished_at = now(), updated_at = now(), lease_until = '-infinity',
		       step = case when $3 = 'done' and cardinality(steps) > 0 then steps[cardinality(steps)] else step end,
		       effects = case $3 when 'failed' then 'kept' when 'cancelled' then $5 end
		 where id = $1 and op_epoch = $2 and state not in ('done', 'failed', 'cancelled')`, o.ID, o.Epoch, state, message, effects)
	if err != nil {
		return refine(err, "operation "+o.ID.String())
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("operation %s is another worker's: %w", o.ID, ErrConflict)
	}
	return tx.note(ctx, o.ID, state, o.Step, message)
}

// RetryOperation makes a failed operation pending again.
func (tx *Tx) RetryOperation(ctx context.Context, id OperationID) error {
	if err := tx.exactlyOne(ctx, "failed operation "+id.String(), `
		update rowhouse.operations
		   set state = 'pending', error = null, attempts = 0, finished_at = null, next_at = now(), updated_at = now(), op_epoch = op_epoch + 1,
		       cancel = null, effects = null
		 where id = $1 and state in ('failed', 'cancelled') and effects is distinct from 'undone'`, id); err != nil {
		return err
	}
	return tx.note(ctx, id, OperationPending, "", "retried")
}

// CancelOperation asks for an operation to end early, CancelKeep or CancelUndo. Whoever works on it hears of it within a
// second; one that nobody works on is due at once. To undo can be asked of one that has failed or was cancelled, too. What is
// done, or undone, is ErrConflict.
func (tx *Tx) CancelOperation(ctx context.Context, o *Operation, how string) error {
	noun := "operation " + o.ID.String()
	err := tx.QueryRow(ctx, `
		update rowhouse.operations
		   set cancel = $2, effects = null, next_at = now(), updated_at = now(), finished_at = null,
		       state = case when state in ('failed', 'cancelled', 'paused') then 'pending' else state end,
		       attempts = case when lease_until < now() then 0 else attempts end,
		       op_epoch = op_epoch + case when lease_until < now() then 1 else 0 end
		 where id = $1
		   and (state in ('pending', 'running', 'waiting', 'paused')
		        or $2 = 'undo' and state in ('failed', 'cancelled') and effects is distinct from 'undone')
		returning state, op_epoch`, o.ID, how).Scan(&o.State, &o.Epoch)
	if errors.Is(err, pgx.ErrNoRows) {
		return fmt.Errorf("%s has ended already: %w", noun, ErrConflict)
	}
	if err != nil {
		return refine(err, noun)
	}
	return tx.note(ctx, o.ID, o.State, "", "asked to end early: "+how)
}

// Cancelled says how an operation that this worker holds was asked to end early, if it was.
func (c *Catalog) Cancelled(ctx context.Context, o *Operation) (string, error) {
	var how string
	err := c.pool.QueryRow(ctx, `select coalesce(cancel, '') from rowhouse.operations where id = $1`, o.ID).Scan(&how)
	return how, refine(err, "operation "+o.ID.String())
}

func (tx *Tx) note(ctx context.Context, id OperationID, state OperationState, step, message string) error {
	_, err := tx.Exec(ctx, `
		insert into rowhouse.operation_events (operation, state, step, message) values ($1, $2, $3, $4)`, id, state, step, message)
	return refine(err, "operation "+id.String())
}

// Progress of an operation is written outside Update: its own append-only events are its record.

// Claim takes an operation for lease, raising its epoch: whoever held it before can record nothing more. One that is
// held by somebody alive, is to wait, or is finished, is ErrConflict.
func (c *Catalog) Claim(ctx context.Context, id OperationID, lease time.Duration) (*Operation, error) {
	noun := "operation " + id.String()
	tag, err := c.pool.Exec(ctx, `
		update rowhouse.operations
		   set op_epoch = op_epoch + 1, lease_until = now() + $2::interval, state = 'running', attempts = attempts + 1, updated_at = now()
		 where id = $1 and lease_until < now() and next_at <= now() and state in ('pending', 'running', 'waiting')`, id, lease)
	if err != nil {
		return nil, refine(err, noun)
	}
	if tag.RowsAffected() == 0 {
		return nil, fmt.Errorf("%s is finished or another worker's: %w", noun, ErrConflict)
	}
	return c.Operation(ctx, id)
}

// RenewClaim keeps a claim for another lease. A claim that is lost is ErrConflict.
func (c *Catalog) RenewClaim(ctx context.Context, o *Operation, lease time.Duration) error {
	return c.claimed(ctx, o, `update rowhouse.operations set lease_until = now() + $3::interval
		where id = $1 and op_epoch = $2 and state = 'running'`, lease)
}

// RecordStep records that a step's effect stands, with its event. A claim that is lost is ErrConflict.
func (c *Catalog) RecordStep(ctx context.Context, o *Operation, step, message string) error {
	return c.recordStep(ctx, o, step, message, "on")
}

// RecordStepSoon is RecordStep for a step that can be done again: it does not wait until the record is on the disk. A
// catalog whose server falls at that moment may have forgotten it, and nothing that was recorded after it.
func (c *Catalog) RecordStepSoon(ctx context.Context, o *Operation, step, message string) error {
	return c.recordStep(ctx, o, step, message, "off")
}

func (c *Catalog) recordStep(ctx context.Context, o *Operation, step, message, synchronous string) error {
	err := c.claimed(ctx, o, `
		with waiting as (
			select set_config('synchronous_commit', $5, true)
			 where $5 = 'off'), recorded as (
			update rowhouse.operations set step = $3, error = null, updated_at = now()
			 where id = $1 and op_epoch = $2 and state = 'running'
			returning id, state)
		insert into rowhouse.operation_events (operation, state, step, message)
		select id, state, $3, $4 from recorded where (select count(*) from waiting) >= 0`, step, message, synchronous)
	if err == nil {
		o.Step = step
	}
	return err
}

// PostponeClaim gives a claim back, to be taken again after wait, and says why; those who watch are told when the reason
// is a new one.
func (c *Catalog) PostponeClaim(ctx context.Context, o *Operation, wait time.Duration, why string) error {
	err := pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		var before string // the subselect still sees the row as it was
		err := tx.QueryRow(ctx, `
			update rowhouse.operations
			   set state = 'waiting', lease_until = '-infinity', next_at = now() + $3::interval, error = $4, updated_at = now()
			 where id = $1 and op_epoch = $2 and state = 'running'
			returning (select coalesce(error, '') from rowhouse.operations where id = $1)`, o.ID, o.Epoch, wait, why).Scan(&before)
		if errors.Is(err, pgx.ErrNoRows) {
			return ErrConflict
		}
		if err != nil || before == why {
			return err
		}
		return (&Tx{tx, c}).note(ctx, o.ID, OperationWaiting, o.Step, why)
	})
	return claimError(err, o)
}

// claimError is what became of a record under a claim.
func claimError(err error, o *Operation) error {
	if errors.Is(err, ErrConflict) {
		return fmt.Errorf("operation %s is another worker's: %w", o.ID, ErrConflict)
	}
	return refine(err, "operation "+o.ID.String())
}

func (c *Catalog) claimed(ctx context.Context, o *Operation, sql string, args ...any) error {
	tag, err := c.pool.Exec(ctx, sql, append([]any{o.ID, o.Epoch}, args...)...)
	if err == nil && tag.RowsAffected() == 0 {
		err = ErrConflict
	}
	return claimError(err, o)
}

// OperationEvent is one line of an operation's record.
type OperationEvent struct {
	Seq     int64          `json:"seq"`
	At      time.Time      `json:"at"`
	State   OperationState `json:"state"`
	Step    string         `json:"step,omitempty"`
	Message string         `json:"message,omitempty"`
}

// OperationEvents lists what happened to an operation after the event numbered after.
func (c *Catalog) OperationEvents(ctx context.Context, id OperationID, after int64) ([]*OperationEvent, error) {
	return all[OperationEvent](ctx, c.pool, "operation "+id.String(), `
		select seq, at, state, step, message from rowhouse.operation_events where operation = $1 and seq > $2 order by seq`, id, after)
}

// Live is what unfinished operations work on.
type Live struct {
	Operations map[OperationID]bool
	Databases  map[DatabaseID]bool
	Tenants    map[TenantID]bool
}

// Live says what is being worked on. One operation can work on several databases: those that its tenant lives in and comes
// to are among them by their marks.
func (c *Catalog) Live(ctx context.Context) (*Live, error) {
	type row struct {
		ID       OperationID
		Database DatabaseID
		Tenant   TenantID
	}
	found, err := all[row](ctx, c.pool, "operations", `
		select id, database, tenant from rowhouse.operations where state not in ('done', 'failed', 'cancelled')`)
	live := &Live{map[OperationID]bool{}, map[DatabaseID]bool{}, map[TenantID]bool{}}
	for _, o := range found {
		live.Operations[o.ID], live.Databases[o.Database], live.Tenants[o.Tenant] = true, true, true
	}
	delete(live.Databases, DatabaseID{})
	delete(live.Tenants, TenantID{})
	return live, err
}
