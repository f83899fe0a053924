package tenants

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/rowhouse/rowhouse/catalog"
)

// KindRotate is the kind of the operation that gives a database another login.
const KindRotate = "database.rotate"

// RotateSteps are what changing a login goes through.
var RotateSteps = []string{"prepared", "set", "tried", "switched", "drained", "retired"}

// RotateArgs are the arguments of an operation of KindRotate.
type RotateArgs struct {
	// Version is the credential's to be.
	Version int64 `json:"version"`
}

// RotateDatabase changes the login and the password that requests to a database use, without a gap: two logins take turns.
func (s *Service) RotateDatabase(ctx context.Context, ref string) (*catalog.Operation, error) {
	db, err := s.Database(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch {
	case db.Adopted:
		return nil, fmt.Errorf("database %q was adopted, and its login is its owner's: %w", db.Name, catalog.ErrConflict)
	case db.State != catalog.DatabaseActive:
		return nil, fmt.Errorf("database %q is %s: %w", db.Name, db.State, catalog.ErrConflict)
	}
	args, err := json.Marshal(RotateArgs{db.CredentialVersion + 1})
	if err != nil {
		return nil, err
	}
	op := &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: KindRotate, Database: db.ID, Args: args, Steps: RotateSteps}
	if session, err := FromContext(ctx); err == nil {
		op.CreatedBy = session.Subject()
	}
	event := catalog.Event{Action: "database.rotate", Target: db.Ref(), Operation: op.ID, Actor: actorOf(ctx)}
	err = s.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.CreateOperation(ctx, op); err != nil {
			return err
		}
		return s.queue.Enqueue(ctx, tx, op)
	})
	if err != nil {
		return nil, err
	}
	return s.catalog.Operation(ctx, op.ID)
}
