package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
)

// fence keeps a tenant's writers out of the database that it is about to leave. It is a session that holds the lock which
// writers share: it falls with the session, whatever becomes of this process, and nobody is left outside.
type fence struct {
	*side
	raised time.Time
}

// hold makes this session the only one that may turn the tenant's gate, or find out whether it was turned: one that was cut off
// may still be about to.
func (s *side) hold(ctx context.Context, key int64) error {
	for began := time.Now(); ; {
		var got bool
		if err := s.QueryRow(ctx, `select pg_try_advisory_lock($1)`, key).Scan(&got); err != nil {
			return fmt.Errorf("lock of the move: %w", err)
		}
		if got {
			return nil
		}
		if time.Since(began) > holdWait {
			return &waitError{time.Second, "waits for another session that moves the tenant"}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// holdWait is how long one worker waits for another's session.
const holdWait = 10 * time.Second

// everybody is whose lock those share that write for all tenants.
const everybody = "00000000-0000-0000-0000-000000000000"

// raise waits until those who write have ended, and lets nobody in meanwhile. It waits for drain at most, twice: the second
// time for whoever writes for all tenants.
//
// A process that stands still does not keep writers out for ever: the server ends its session when it was idle for long.
func (f *fence) raise(ctx context.Context, migrating int64, drain, pause time.Duration) error {
	if err := f.exec(ctx, fmt.Sprintf("set idle_session_timeout = %d", (pause+time.Second).Milliseconds())); err != nil {
		return fmt.Errorf("fence: %w", err)
	}
	var free bool
	if err := f.QueryRow(ctx, `select pg_try_advisory_lock($1)`, migrating).Scan(&free); err != nil {
		return fmt.Errorf("lock of the migrator: %w", err)
	}
	if !free {
		return &waitError{time.Second, "waits until the tenant's database is migrated"}
	}
	f.raised = time.Now()
	for _, whose := range []string{everybody, f.tenant.String()} {
		err := f.exec(ctx, fmt.Sprintf("set lock_timeout = %d; select pg_advisory_lock(lock) from rowhouse.gate where tenant_id = %s; set lock_timeout = 0",
			max(drain.Milliseconds(), 1), literal(whose)))
		var pg *pgconn.PgError
		if errors.As(err, &pg) && pg.Code == "55P03" {
			return &waitError{time.Second, "waits for a transaction that writes and does not end"}
		}
		if err != nil {
			return fmt.Errorf("fence: %w", err)
		}
	}
	return nil
}

// gate is what stands in a tenant's gate.
type gate struct {
	State     string
	Epoch     int64
	Operation *catalog.OperationID
}

// isOf says that the gate is in a state by an operation's doing.
func (g gate) isOf(op catalog.OperationID, state string) bool {
	return g.State == state && g.Operation != nil && *g.Operation == op
}

// gateOf reads a tenant's gate; without one its state is empty.
func gateOf(ctx context.Context, s *side) (g gate, err error) {
	rows, err := s.Query(ctx, `select state, epoch, operation from rowhouse.gate where tenant_id = $1`, s.tenant)
	if err != nil {
		return g, fmt.Errorf("gate in database %q: %w", s.db.Name, err)
	}
	defer rows.Close()
	for rows.Next() {
		if err := rows.Scan(&g.State, &g.Epoch, &g.Operation); err != nil {
			return g, fmt.Errorf("gate in database %q: %w", s.db.Name, err)
		}
	}
	return g, rows.Err()
}

// setGate makes the tenant's gate what it should be, if it is in one of the states that are named.
func (s *side) setGate(ctx context.Context, op catalog.OperationID, to string, epoch int64, from ...string) error {
	tag, err := s.Exec(ctx, `
		update rowhouse.gate set state = $2, epoch = $3, operation = $4
		 where tenant_id = $1 and (state = any ($5) or state = $2 and operation = $4)`, s.tenant, to, epoch, op, from)
	if err != nil {
		return fmt.Errorf("gate in database %q: %w", s.db.Name, err)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("gate in database %q is not one that can be made %s", s.db.Name, to)
	}
	return nil
}
