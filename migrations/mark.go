package migrations

import (
	"context"
	"errors"
	"fmt"
)

// ErrNotDirty means that no file of a database waits to be marked.
var ErrNotDirty = errors.New("no file broke off here")

// Mark records what somebody found out about a file without a transaction that broke off: that its effect is there, or that
// nothing of it is. It says which file it was. A database without one is ErrNotDirty.
func (m *Migrator) Mark(ctx context.Context, t Target, applied bool) (file string, err error) {
	conn, err := t.Connect(ctx)
	if err != nil {
		return "", fmt.Errorf("%s: connect: %w", t.Name, err)
	}
	defer closeConn(conn) // gives the lock back too
	drv := m.driver(ctx, conn, t)
	if err := drv.Lock(); err != nil {
		return "", explain(t.Name, File{}, err)
	}
	for i, s := range m.stages {
		row := drv.Last(i)
		if row.Version == 0 || row.State == stateApplied {
			continue
		}
		file = File{Version: row.Version, Name: row.Name}.String()
		sql := "delete from " + s.ledger + " where version = $1 and state <> 'applied'"
		if applied {
			sql = "update " + s.ledger + " set state = 'applied', kind = 'marked' where version = $1 and state <> 'applied'"
		}
		if _, err := conn.Exec(ctx, sql, row.Version); err != nil {
			return file, fmt.Errorf("%s: %s: %w", t.Name, file, err)
		}
		return file, nil
	}
	return "", fmt.Errorf("%s: %w", t.Name, ErrNotDirty)
}
