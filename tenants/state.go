package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// StateSpec is a state that an operator puts a tenant in.
type StateSpec struct {
	// State is active, suspended, read_only or maintenance.
	State catalog.State `json:"state"`
	// Reason is for the audit trail, and for who looks at the tenant.
	Reason string `json:"reason,omitempty"`
	// Until ends read_only or maintenance by itself. Zero: until somebody does.
	Until time.Time `json:"until,omitzero"`
	// Now also ends the requests that run, where the tenant has a database of its own. Elsewhere they finish.
	Now bool `json:"now,omitempty"`
}

// OperatorStates are those that an operator changes between.
var OperatorStates = []catalog.State{catalog.StateActive, catalog.StateSuspended, catalog.StateReadOnly, catalog.StateMaintenance}

func (s StateSpec) validate(now time.Time) error {
	temporary := s.State == catalog.StateReadOnly || s.State == catalog.StateMaintenance
	switch {
	case !slices.Contains(OperatorStates, s.State):
		return catalog.Invalid("state must be active, suspended, read_only or maintenance")
	case !s.Until.IsZero() && !temporary:
		return catalog.Invalid("until is for read_only and maintenance")
	case !s.Until.IsZero() && !s.Until.After(now):
		return catalog.Invalid("until is over")
	case s.Now && s.State == catalog.StateActive:
		return catalog.Invalid("now ends requests, and an active tenant's are served")
	}
	return nil
}

// action is what the audit trail calls it.
func (s StateSpec) action() string {
	switch s.State {
	case catalog.StateActive:
		return "tenant.resume"
	case catalog.StateSuspended:
		return "tenant.suspend"
	}
	return "tenant.set_state"
}

// KindEnforce is the kind of the operation that brings a dedicated database to the state of its tenant: a login that may
// not connect does not depend on what a router knows.
const KindEnforce = "tenant.enforce"

// EnforceSteps are the steps of KindEnforce.
var EnforceSteps = []string{"enforced"}

// EnforceArgs are the arguments of an operation of KindEnforce. It reads the state itself, as it is then.
type EnforceArgs struct {
	// Now also ends sessions.
	Now bool `json:"now,omitempty"`
}

// SetTenantState puts a tenant in a state, on every replica within seconds. One that is being made or deleted is
// catalog.ErrConflict.
func (s *Service) SetTenantState(ctx context.Context, ref string, spec StateSpec) (*catalog.Tenant, error) {
	if err := spec.validate(time.Now()); err != nil {
		return nil, err
	}
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	detail := map[string]any{"state": spec.State, "reason": spec.Reason}
	if !spec.Until.IsZero() {
		detail["until"] = spec.Until.UTC().Format(time.RFC3339)
	}
	if spec.Now {
		detail["now"] = true
	}
	event := catalog.Event{Action: spec.action(), Target: t.Ref(), Actor: actorOf(ctx), Detail: detail}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.SetTenantState(ctx, t.ID, spec.State, spec.Reason, OperatorStates...); err != nil {
			return err
		}
		if !spec.Until.IsZero() {
			if err := tx.SetTenantUntil(ctx, t.ID, spec.Until); err != nil {
				return err
			}
		}
		return s.enforce(ctx, tx, t, spec.Now)
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Tenant(ctx, t.ID.String())
}

// SuspendTenant stops serving a tenant.
func (s *Service) SuspendTenant(ctx context.Context, ref, reason string) error {
	_, err := s.SetTenantState(ctx, ref, StateSpec{State: catalog.StateSuspended, Reason: reason})
	return err
}

// ResumeTenant serves a tenant again.
func (s *Service) ResumeTenant(ctx context.Context, ref string) error {
	_, err := s.SetTenantState(ctx, ref, StateSpec{State: catalog.StateActive})
	return err
}

// enforce has a tenant's own database brought to its state. On the server of an adopted one we may do nothing.
func (s *Service) enforce(ctx context.Context, tx *catalog.Tx, t *catalog.Tenant, now bool) error {
	if t.Placement != catalog.Dedicated {
		return nil
	}
	db, err := s.catalog.Database(ctx, t.Database)
	if err != nil || db.Adopted {
		return err
	}
	args, err := json.Marshal(EnforceArgs{Now: now})
	if err != nil {
		return err
	}
	_, err = s.begin(ctx, tx, &catalog.Operation{Kind: KindEnforce, Tenant: t.ID, Args: args, Steps: EnforceSteps})
	return err
}

// begin records an operation and its job.
func (s *Service) begin(ctx context.Context, tx *catalog.Tx, op *catalog.Operation) (*catalog.Operation, error) {
	if op.ID.IsZero() {
		op.ID = catalog.NewID[catalog.Operation]()
	}
	if session, err := FromContext(ctx); err == nil {
		op.CreatedBy = session.Subject()
	}
	if err := tx.CreateOperation(ctx, op); err != nil {
		return nil, err
	}
	return op, s.queue.Enqueue(ctx, tx, op)
}

// LapseStates makes those tenants active again whose state was set until a time that is over. Requests do not wait for it:
// they are served from that moment on.
func (s *Service) LapseStates(ctx context.Context) error {
	over, err := s.catalog.Lapsed(ctx)
	if err != nil {
		return err
	}
	for _, t := range over {
		event := catalog.Event{Action: "tenant.resume", Target: t.Ref(), Actor: actorOf(ctx), Detail: map[string]any{"lapsed": t.State}}
		err := s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
			if err := tx.LapseTenant(ctx, t.ID); err != nil {
				return err
			}
			return s.enforce(ctx, tx, t, false)
		})
		if err != nil && !errors.Is(err, catalog.ErrConflict) { // somebody else was first
			return err
		}
	}
	return nil
}

// maintenance is an ErrMaintenance that knows when it ends.
type maintenance struct{ until *time.Time }

func (e *maintenance) Error() string { return ErrMaintenance.Error() }

// Unwrap makes it an ErrMaintenance.
func (e *maintenance) Unwrap() error { return ErrMaintenance }

// RetryAfter is when it is worth asking again: at the end, within an hour.
func (e *maintenance) RetryAfter() time.Duration {
	if e.until == nil {
		return time.Minute
	}
	return min(max(time.Until(*e.until), time.Second), time.Hour)
}

// Served says why a tenant is not served in its state: ErrSuspended, ErrMaintenance, or ErrNotFound for one that never was
// or no longer is. Nil: it is served.
func Served(t *catalog.Tenant) error {
	switch t.StateAt(time.Now()) {
	case catalog.StateActive, catalog.StateReadOnly:
		return nil
	case catalog.StateSuspended:
		return fmt.Errorf("tenant %q: %w", t.Name, ErrSuspended)
	case catalog.StateMaintenance:
		return fmt.Errorf("tenant %q: %w", t.Name, &maintenance{t.StateUntil})
	}
	return fmt.Errorf("tenant: %w", ErrNotFound)
}
