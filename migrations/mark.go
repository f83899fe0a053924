package migrations

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations/internal/driver"
)

// ErrNotDirty means that no file of a database waits to be marked.
var ErrNotDirty = errors.New("no file broke off here")

// Decision is what somebody found out about a file that broke off.
type Decision struct {
	// Applied says that all of it stands. False: nothing does, and Up runs it again.
	Applied bool
	// By and Reason are who decided and why. They stand in the ledger's row of a file marked applied, and in the log.
	By, Reason string
}

// Decide records a decision about the file that broke off last, under the migration lock, and says which file it was. The invalid indexes of one
// that is not applied go. A database without one is ErrNotDirty.
func (m *Migrator) Decide(ctx context.Context, t Target, d Decision) (file string, err error) {
	err = m.locked(ctx, t, func(conn *pgx.Conn, drv *driver.Driver) error {
		evidence, stage, err := m.inspect(ctx, t, conn, drv, nil)
		if err != nil {
			return err
		}
		if evidence.Version == 0 {
			return fmt.Errorf("%s: %w", t.Name, ErrNotDirty)
		}
		file = File{Version: evidence.Version, Name: evidence.Name}.String()
		proposal := Retry
		if d.Applied {
			proposal = MarkApplied
		}
		m.cfg.Logger.WarnContext(ctx, "migration marked", "target", t.Name, "migration", file, "applied", d.Applied, "by", d.By, "reason", d.Reason)
		return m.settle(drv, stage, proposal, d, t)
	})
	return file, err
}

// Mark is Decide by somebody who is known elsewhere.
func (m *Migrator) Mark(ctx context.Context, t Target, applied bool) (file string, err error) {
	return m.Decide(ctx, t, Decision{Applied: applied})
}
