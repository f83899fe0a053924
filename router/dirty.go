package router

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
)

// dirtyKey is what a borrower that does not know this package sets in the connection's CustomData, to true, before it runs
// what MarkDirty is for. The data API does.
const dirtyKey = "rowhouse.dirty"

// MarkDirty says of a lent connection that its transaction runs what may leave something behind on it that COMMIT does not
// take away: a function that is VOLATILE and not trusted, or SQL that is not the program's own. Such a connection is
// cleaned before it is lent again, after the transaction has been answered.
func MarkDirty(conn *pgx.Conn) { conn.PgConn().CustomData()[dirtyKey] = true }

func isDirty(conn *pgx.Conn) bool {
	dirty, _ := conn.PgConn().CustomData()[dirtyKey].(bool)
	return dirty
}

// cleaning takes off what a session can hold, but for prepared statements: DISCARD ALL would take those of the frame.
const cleaning = `close all; reset session authorization; reset all; unlisten *; select pg_advisory_unlock_all(); discard temp; discard sequences`

// cleaningTime is how long it may take.
const cleaningTime = 5 * time.Second

// isWhole says that the pool keeps a connection as it is. All others it destroys.
func isWhole(conn *pgx.Conn) bool {
	pg := conn.PgConn()
	return !pg.IsClosed() && !pg.IsBusy() && pg.TxStatus() == 'I'
}

// clean makes a connection like a new one, or closes it.
func clean(conn *pgx.Conn) error {
	pg := conn.PgConn()
	ctx, cancel := context.WithTimeout(context.Background(), cleaningTime)
	defer cancel()
	_, err := pg.Exec(ctx, cleaning).ReadAll()
	if err != nil {
		_ = pg.Close(ctx)
		return err
	}
	delete(pg.CustomData(), dirtyKey)
	return nil
}
