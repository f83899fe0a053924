package tenants

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
)

// The kinds of the operations that bring a tenant to another database, and of the one that clears away what it left.
const (
	KindPromote = "tenant.promote"
	KindDemote  = "tenant.demote"
	KindMove    = "tenant.move"
	KindClear   = "tenant.clear"
)

// The steps of a move, and of clearing up after it. Everything before "decided" can be taken back.
var (
	MoveSteps  = []string{"planned", "preflight", "provisioned", "copying", "ready", "fencing", "verifying", "decided", "switched"}
	ClearSteps = []string{"cooled", "cleaned", "dropped", "cleared"}
)

// MoveMode is how a tenant's rows get to another database.
type MoveMode string

// The modes of a move. Auto chooses by the number of rows.
const (
	MoveAuto      MoveMode = "auto"
	MoveCopy      MoveMode = "copy"      // all rows while writes wait
	MoveReplicate MoveMode = "replicate" // by logical replication; writes wait for the end of it only
)

// MoveSpec says how a tenant is moved. The zero value leaves all of it to the service.
type MoveSpec struct {
	// Server is the name of the server to move to. Database is the id of the shared database to move into.
	Server   string
	Database string
	Mode     MoveMode
	// MaxPause is how long writes may have to wait. Nil: the configured time.
	MaxPause *time.Duration
	// Full compares all rows while writes wait, also those that were compared before.
	Full bool
}

// MoveOperator brings tenants to other databases while they are served.
type MoveOperator interface {
	// PromoteTenant gives a tenant of a shared database one of its own.
	PromoteTenant(ctx context.Context, ref string, spec MoveSpec) (*catalog.Operation, error)
	// DemoteTenant brings a tenant from a database of its own into a shared one.
	DemoteTenant(ctx context.Context, ref string, spec MoveSpec) (*catalog.Operation, error)
	// MoveTenant brings a tenant to another server, or from one shared database to another.
	MoveTenant(ctx context.Context, ref string, spec MoveSpec) (*catalog.Operation, error)
}

// MoveArgs are the arguments of a move: what was asked for, and what was decided since.
type MoveArgs struct {
	Server   catalog.ServerID   `json:"server,omitzero"`
	Database catalog.DatabaseID `json:"database,omitzero"`
	Mode     MoveMode           `json:"mode"`
	MaxPause time.Duration      `json:"max_pause"`
	Full     bool               `json:"full,omitempty"`

	// Source is where the tenant lived when this was asked for, and Epoch the number of that placement.
	Source catalog.DatabaseID `json:"source"`
	Epoch  int64              `json:"epoch"`
	// Target is where it goes. Made says that the database is this operation's own.
	Target catalog.DatabaseID `json:"target,omitzero"`
	Made   bool               `json:"made,omitempty"`
	// Gated is the revision of the catalog at which the tenant got its first gate; 0: it had one.
	Gated int64 `json:"gated,omitempty"`
	// Servers are the two that it concerns.
	Servers []catalog.ServerID `json:"servers,omitempty"`
}

// ClearArgs are the arguments of an operation of KindClear.
type ClearArgs struct {
	// Source is the database that the tenant left, by the operation Move.
	Source catalog.DatabaseID  `json:"source"`
	Move   catalog.OperationID `json:"move"`
	// Cooled is when it may begin.
	Cooled time.Time `json:"cooled"`
}

// How long writes may wait for a move where nothing else is configured, and at most.
const (
	defaultMaxPause = 2 * time.Second
	longestMaxPause = time.Hour
)

// PromoteTenant records a promotion and begins it.
func (s *Service) PromoteTenant(ctx context.Context, ref string, spec MoveSpec) (*catalog.Operation, error) {
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch {
	case spec.Database != "":
		return nil, catalog.Invalid("a tenant is promoted to a database of its own, and not into another")
	case t.Placement == catalog.Dedicated:
		return nil, fmt.Errorf("tenant %q has a database of its own already: %w", t.Name, catalog.ErrConflict)
	}
	return s.moveTenant(ctx, t, KindPromote, spec)
}

// DemoteTenant records a demotion and begins it.
func (s *Service) DemoteTenant(ctx context.Context, ref string, spec MoveSpec) (*catalog.Operation, error) {
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch {
	case spec.Mode == MoveReplicate:
		return nil, catalog.Invalid("a tenant comes into a shared database by copy only")
	case t.Placement == catalog.Shared:
		return nil, fmt.Errorf("tenant %q lives in a shared database already: %w", t.Name, catalog.ErrConflict)
	}
	return s.moveTenant(ctx, t, KindDemote, spec)
}

// MoveTenant records a move and begins it. A tenant of a database of its own goes to the server that is named, one of a
// shared database to that server or into the database that is named.
func (s *Service) MoveTenant(ctx context.Context, ref string, spec MoveSpec) (*catalog.Operation, error) {
	t, err := s.catalog.Tenant(ctx, ref)
	if err != nil {
		return nil, err
	}
	switch {
	case spec.Server == "" && spec.Database == "":
		return nil, catalog.Invalid("a move needs a server or a database to go to")
	case t.Placement == catalog.Dedicated && spec.Database != "":
		return nil, catalog.Invalid("the tenant has a database of its own, which moves to a server; demote it to bring it into a shared database")
	case t.Placement == catalog.Shared && spec.Mode == MoveReplicate:
		return nil, catalog.Invalid("a tenant comes into a shared database by copy only")
	}
	return s.moveTenant(ctx, t, KindMove, spec)
}

func (s *Service) moveTenant(ctx context.Context, t *catalog.Tenant, kind string, spec MoveSpec) (*catalog.Operation, error) {
	args, err := s.moveArgs(ctx, t, kind, spec)
	if err != nil {
		return nil, err
	}
	detail := map[string]any{"mode": args.Mode, "from": args.Source.String()}
	op, err := s.onTenant(ctx, t, kind, kind, MoveSteps, args, detail, func(tx *catalog.Tx) error {
		var database catalog.DatabaseID
		err := tx.QueryRow(ctx, `select database from rowhouse.tenants where id = $1 and state = 'active' for update`, t.ID).Scan(&database)
		if err != nil || database != t.Database {
			return fmt.Errorf("tenant %q has changed: %w", t.Name, catalog.ErrConflict)
		}
		return tx.FreeOfRollouts(ctx, t.Database)
	})
	if errors.Is(err, catalog.ErrConflict) {
		return nil, s.inTheWay(ctx, t, err)
	}
	return op, err
}

// inTheWay says which operation it is that runs already.
func (s *Service) inTheWay(ctx context.Context, t *catalog.Tenant, cause error) error {
	last, err := s.catalog.Operations(ctx, t.ID, 10)
	if err != nil {
		return cause
	}
	for _, op := range last {
		if !op.State.Finished() && op.Kind != KindClear {
			return fmt.Errorf("tenant %q: operation %s (%s) is %s: %w", t.Name, op.ID, op.Kind, op.State, catalog.ErrConflict)
		}
	}
	return cause
}

// moveArgs checks what the spec asks for while there is still somebody to tell.
func (s *Service) moveArgs(ctx context.Context, t *catalog.Tenant, kind string, spec MoveSpec) (MoveArgs, error) {
	args := MoveArgs{Mode: spec.Mode, MaxPause: s.MaxPause, Full: spec.Full, Source: t.Database, Epoch: t.PlacementEpoch}
	switch spec.Mode {
	case "":
		args.Mode = MoveAuto
	case MoveAuto, MoveCopy, MoveReplicate:
	default:
		return args, catalog.Invalid("mode must be copy, replicate or auto")
	}
	if args.MaxPause == 0 {
		args.MaxPause = defaultMaxPause
	}
	if spec.MaxPause != nil {
		args.MaxPause = *spec.MaxPause
	}
	if args.MaxPause < time.Millisecond || args.MaxPause > longestMaxPause {
		return args, catalog.Invalid("the pause must be between a millisecond and an hour")
	}
	if t.State != catalog.StateActive {
		return args, fmt.Errorf("tenant %q is %s; only an active tenant is moved: %w", t.Name, t.State, catalog.ErrConflict)
	}
	source, err := s.catalog.Database(ctx, t.Database)
	if err != nil {
		return args, err
	}
	if source.Adopted {
		return args, fmt.Errorf("tenant %q lives in a database that was adopted, which stays where it is: %w", t.Name, catalog.ErrConflict)
	}
	if args.Server, args.Database, err = s.destination(ctx, t, kind, source, spec); err != nil {
		return args, err
	}
	return args, nil
}

// destination finds what a move was told to go to.
func (s *Service) destination(ctx context.Context, t *catalog.Tenant, kind string, source *catalog.Database, spec MoveSpec) (server catalog.ServerID, database catalog.DatabaseID, err error) {
	if spec.Server != "" {
		row, err := s.catalog.Server(ctx, spec.Server)
		if err != nil {
			return server, database, err
		}
		switch {
		case row.State != "active":
			return server, database, fmt.Errorf("server %q is drained: %w", row.Name, catalog.ErrConflict)
		case kind == KindMove && t.Placement == catalog.Dedicated && row.ID == source.Server:
			return server, database, fmt.Errorf("tenant %q lives on server %q already: %w", t.Name, row.Name, catalog.ErrConflict)
		}
		server = row.ID
	}
	if spec.Database != "" {
		if database, err = catalog.ParseID[catalog.Database](spec.Database); err != nil {
			return server, database, fmt.Errorf("database: %w", err)
		}
		db, err := s.catalog.Database(ctx, database)
		switch {
		case err != nil:
			return server, database, err
		case db.Kind != catalog.Shared || db.State != catalog.DatabaseActive || db.Adopted:
			return server, database, catalog.Invalid("database %s is not an active shared one", database)
		case db.ID == source.ID:
			return server, database, fmt.Errorf("tenant %q lives in that database already: %w", t.Name, catalog.ErrConflict)
		case !server.IsZero() && server != db.Server:
			return server, database, catalog.Invalid("database %s is on another server", database)
		}
		server = db.Server
	}
	return server, database, nil
}
