package tenants

import (
	"context"
	"fmt"
	"slices"

	"github.com/rowhouse/rowhouse/catalog"
)

// ending is how operations of a kind may end before they are done.
type ending struct {
	// before is the step from which there is no way back; empty means that there always is.
	before string
	// always undoes what the operation did, whether asked to or not.
	always bool
}

// endings are the kinds that can be cancelled.
var endings = map[string]ending{
	KindProvision: {},
	KindSpare:     {},
	KindRotate:    {before: "switched", always: true},
	KindPromote:   {before: "decided", always: true},
	KindDemote:    {before: "decided", always: true},
	KindMove:      {before: "decided", always: true},
}

// Cancellable says whether an operation may end early now, and why not. What happens in the same moment is decided by
// whoever carries it out.
func Cancellable(op *catalog.Operation) error {
	e, ok := endings[op.Kind]
	if !ok {
		return fmt.Errorf("operations of kind %s cannot be cancelled: %w", op.Kind, catalog.ErrConflict)
	}
	if at := slices.Index(op.Steps, e.before); at >= 0 && slices.Index(op.Steps, op.Step) >= at {
		return fmt.Errorf("operation %s is past its point of no return (%s): %w", op.ID, e.before, catalog.ErrConflict)
	}
	return nil
}

// CancelOperation asks for an operation to end early.
func (s *Service) CancelOperation(ctx context.Context, id catalog.OperationID, undo bool) (*catalog.Operation, error) {
	op, err := s.catalog.Operation(ctx, id)
	if err != nil {
		return nil, err
	}
	if err := Cancellable(op); err != nil {
		return nil, err
	}
	how := catalog.CancelKeep
	if undo || endings[op.Kind].always {
		how = catalog.CancelUndo
	}
	event := catalog.Event{Action: "operation.cancel", Target: op.Ref(), Operation: id, Actor: actorOf(ctx), Detail: map[string]any{"effects": how}}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.CancelOperation(ctx, op, how); err != nil {
			return err
		}
		return s.queue.Enqueue(ctx, tx, op)
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Operation(ctx, id)
}
