package tenants

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// The kinds of the operations at a tenant's end.
const (
	KindDelete   = "tenant.delete"
	KindUndelete = "tenant.undelete"
	KindPurge    = "tenant.purge"
)

// The steps of each, in order.
var (
	DeleteSteps   = []string{"closed", "exported", "retired", "deleted"}
	UndeleteSteps = []string{"restored", "migrated", "opened", "undeleted"}
	PurgeSteps    = []string{"begun", "emptied", "dropped", "purged"}
)

// DeleteArgs are the arguments of an operation of KindDelete.
type DeleteArgs struct {
	// Export has the tenant's rows written to a file before anything is put away.
	Export bool `json:"export"`
}

// DeleteSpec says how a tenant is deleted. The zero value keeps it for the time that is configured and exports it.
type DeleteSpec struct {
	// Grace is how long it can be taken back. Nil: the configured time.
	Grace *time.Duration
	// NoExport leaves out the export at the end.
	NoExport bool
}

// defaultGrace is how long a deleted tenant can be taken back where nothing else is configured.
const defaultGrace = 30 * 24 * time.Hour

// maxGrace is the longest that a deleted tenant is kept.
const maxGrace = 10 * 365 * 24 * time.Hour

// DeleteTenant stops serving a tenant at once and for good, and begins to put its database away. Until it is purged
// UndeleteTenant takes it back.
func (s *Service) DeleteTenant(ctx context.Context, ref string, spec DeleteSpec) (*catalog.Operation, error) {
	grace := s.Grace
	if grace == 0 {
		grace = defaultGrace
	}
	if spec.Grace != nil {
		grace = *spec.Grace
	}
	if grace < 0 || grace > maxGrace {
		return nil, catalog.Invalid("grace must be between nothing and ten years")
	}
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch t.State {
	case catalog.StateActive, catalog.StateSuspended, catalog.StateReadOnly, catalog.StateMaintenance:
	case catalog.StateFailed:
		return nil, fmt.Errorf("tenant %q was never made; purge takes away what there is of it: %w", t.Name, catalog.ErrConflict)
	default:
		return nil, fmt.Errorf("tenant %q is %s: %w", t.Name, t.State, catalog.ErrConflict)
	}
	if archivist, ok := s.queue.(Archivist); ok && !spec.NoExport { // it is refused while there is somebody to tell
		if err := archivist.CanKeep(); err != nil {
			return nil, fmt.Errorf("tenant %q cannot be exported before it is deleted: %w", t.Name, err)
		}
	}
	until := time.Now().Add(grace)
	detail := map[string]any{"purge_after": until.UTC().Format(time.RFC3339), "export": !spec.NoExport}
	return s.onTenant(ctx, t, "tenant.delete", KindDelete, DeleteSteps, DeleteArgs{Export: !spec.NoExport}, detail, func(tx *catalog.Tx) error {
		if err := tx.FreeOfRollouts(ctx, s.ownDatabase(t)); err != nil {
			return err
		}
		return tx.DeleteTenant(ctx, t, t.StateAt(time.Now()), until)
	})
}

// UndeleteTenant begins to give a deleted tenant back its database and the state it had.
func (s *Service) UndeleteTenant(ctx context.Context, ref string) (*catalog.Operation, error) {
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch {
	case t.State == catalog.StateDeleted, t.PurgeBegan != nil:
		return nil, fmt.Errorf("tenant %q is being purged or was: %w", t.Name, catalog.ErrConflict)
	case t.State != catalog.StateDeleting:
		return nil, fmt.Errorf("tenant %q is not deleted but %s: %w", t.Name, t.State, catalog.ErrConflict)
	}
	return s.onTenant(ctx, t, "tenant.undelete", KindUndelete, UndeleteSteps, nil, nil, nil)
}

// PurgeTenant begins to destroy a deleted tenant, or what there is of one that was never made. Nothing brings it back.
func (s *Service) PurgeTenant(ctx context.Context, ref string) (*catalog.Operation, error) {
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	if t.State != catalog.StateDeleting && t.State != catalog.StateFailed {
		return nil, fmt.Errorf("tenant %q is %s; only what was deleted can be purged: %w", t.Name, t.State, catalog.ErrConflict)
	}
	return s.onTenant(ctx, t, "tenant.purge", KindPurge, PurgeSteps, nil, nil, nil)
}

// PurgeDue begins to purge those whose time is over.
func (s *Service) PurgeDue(ctx context.Context) error {
	due, err := s.catalog.PurgesDue(ctx)
	if err != nil {
		return err
	}
	for _, t := range due {
		if _, err := s.PurgeTenant(ctx, t.ID.String()); err != nil && !errors.Is(err, catalog.ErrConflict) { // another process was first
			return err
		}
	}
	return nil
}

// ownDatabase is the database that holds this tenant alone, or none. An operation that names it keeps rollouts away.
func (s *Service) ownDatabase(t *catalog.Tenant) catalog.DatabaseID {
	if t.Placement != catalog.Dedicated {
		return catalog.DatabaseID{}
	}
	return t.Database
}

// onTenant records an operation on a tenant with its audit event, and what fn does, in one transaction.
func (s *Service) onTenant(ctx context.Context, t *catalog.Tenant, action, kind string, steps []string, args any, detail map[string]any, fn func(*catalog.Tx) error) (*catalog.Operation, error) {
	text, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	if args == nil {
		text = nil
	}
	op := &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: kind, Tenant: t.ID, Database: s.ownDatabase(t), Args: text, Steps: steps}
	event := catalog.Event{Action: action, Operation: op.ID, Target: t.Ref(), Actor: actorOf(ctx), Detail: detail}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if _, err := s.begin(ctx, tx, op); err != nil {
			return err
		}
		if fn == nil {
			return nil
		}
		return fn(tx)
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Operation(ctx, op.ID)
}
