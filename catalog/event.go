package catalog

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Ref names a row in an audit event, by what it is, its id and its name of the moment.
type Ref struct {
	Kind string   `json:"kind"`
	ID   [16]byte `json:"-"`
	Name string   `json:"name"`
}

// Actor is who acts. The zero Actor is the system itself.
type Actor struct {
	Side         string `json:"side"` // "host", "tenant" or "system"
	Subject      string `json:"subject"`
	Impersonator string `json:"impersonator,omitempty"`
	Address      string `json:"address,omitempty"`
	RequestID    string `json:"request_id,omitempty"`
}

// Event is what the audit trail says of a change. Secrets and rejected values have no place in it.
type Event struct {
	Seq       int64          `json:"seq"`
	At        time.Time      `json:"at"`
	Action    string         `json:"action"` // such as "tenant.create"
	Target    Ref            `json:"target"`
	Actor     Actor          `json:"actor"`
	Operation OperationID    `json:"operation,omitzero"`
	Detail    map[string]any `json:"detail,omitempty"`
}

type actorKey struct{}

// WithActor says who acts in what is done under the context. Events without an actor of their own take it from there.
func WithActor(ctx context.Context, a Actor) context.Context {
	return context.WithValue(ctx, actorKey{}, a)
}

// actorOf is who acts: whom the event names, else whom the context does. Address and request are the context's, where the
// event does not know them.
func actorOf(ctx context.Context, a Actor) Actor {
	known, _ := ctx.Value(actorKey{}).(Actor)
	if a == (Actor{}) {
		return known
	}
	if a.Address == "" {
		a.Address = known.Address
	}
	if a.RequestID == "" {
		a.RequestID = known.RequestID
	}
	return a
}

// ActorOf is who acts under the context. The zero Actor is the system itself.
func ActorOf(ctx context.Context) Actor {
	a, _ := ctx.Value(actorKey{}).(Actor)
	return a
}

func (e Event) validate() error {
	if e.Action == "" {
		return fmt.Errorf("audit event without an action: %w", ErrInvalid)
	}
	return nil
}

const insertEvent = `
insert into rowhouse.audit_events (action, target_kind, target_id, target, side, actor, impersonator, address, request_id, operation, detail)
values ($1, $2, $3, $4, $5, $6, nullif($7, ''), nullif($8, ''), nullif($9, ''), $10, $11)`

func (tx *Tx) record(ctx context.Context, e Event) error {
	_, err := tx.Exec(ctx, insertEvent, eventRow(ctx, e)...)
	return refine(err, "audit event "+e.Action)
}

// eventRow is an event as insertEvent takes it.
func eventRow(ctx context.Context, e Event) []any {
	actor := actorOf(ctx, e.Actor)
	if actor.Side == "" {
		actor.Side, actor.Subject = "system", "rowhouse"
	}
	detail, err := json.Marshal(e.Detail)
	if err != nil || e.Detail == nil {
		detail = []byte("{}")
	}
	return []any{
		e.Action, e.Target.Kind, ID[struct{}](e.Target.ID), e.Target.Name, actor.Side, actor.Subject, actor.Impersonator, actor.Address,
		actor.RequestID, e.Operation, detail,
	}
}

// Events lists the newest audit events, the newest first. A zero target means of everything.
func (c *Catalog) Events(ctx context.Context, target [16]byte, limit int) ([]Event, error) {
	return c.EventsPage(ctx, EventFilter{Target: target}, Page{Limit: limit})
}

func (c *Catalog) events(ctx context.Context, where string, args ...any) ([]Event, error) {
	rows, err := c.pool.Query(ctx, `
		select seq, at, action, target_kind, target, side, actor, coalesce(impersonator, ''), coalesce(address, ''),
		       coalesce(request_id, ''), operation, detail
		  from rowhouse.audit_events`+where, args...)
	if err != nil {
		return nil, refine(err, "audit events")
	}
	defer rows.Close()
	found := []Event{}
	for rows.Next() {
		var e Event
		if err := rows.Scan(&e.Seq, &e.At, &e.Action, &e.Target.Kind, &e.Target.Name, &e.Actor.Side, &e.Actor.Subject,
			&e.Actor.Impersonator, &e.Actor.Address, &e.Actor.RequestID, &e.Operation, &e.Detail); err != nil {
			return nil, refine(err, "audit events")
		}
		found = append(found, e)
	}
	return found, refine(rows.Err(), "audit events")
}
