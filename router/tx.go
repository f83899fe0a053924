package router

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// finishing bounds COMMIT and ROLLBACK, which go on when their caller has left: an answer that is waited for is one
// outcome less that nobody knows. A caller's own deadline is kept to, but for a moment that they always have.
const (
	finishing = 10 * time.Second
	leastEnd  = time.Second
)

// scopedTx is a transaction of one tenant, or a savepoint in it.
type scopedTx struct {
	*loan
	tenant     catalog.TenantID
	readOnly   bool
	unscoped   bool // it is the host's, and no tenant's
	closed     atomic.Bool
	savepoints int

	outer *scopedTx // of a savepoint; nil in the transaction itself
	name  string
}

var _ pgx.Tx = (*scopedTx)(nil)

// check refuses a transaction that is over, and one that is used under another tenant's context.
func (tx *scopedTx) check(ctx context.Context) error {
	for t := tx; t != nil; t = t.outer {
		if t.closed.Load() {
			return pgx.ErrTxClosed
		}
	}
	session, err := tenants.FromContext(ctx)
	switch {
	case err != nil:
		return tenants.ErrWrongTenant
	case tx.unscoped && session.Side() == tenants.SideHost:
	case tx.unscoped, session.Tenant() == nil, session.Tenant().ID != tx.tenant:
		return tenants.ErrWrongTenant
	}
	if !tx.pgx().PgConn().IsBusy() && tx.pgx().PgConn().TxStatus() == 'I' {
		return fmt.Errorf("a statement ended the transaction, and its scope with it: %w", pgx.ErrTxClosed)
	}
	return nil
}

// Begin sets a savepoint.
func (tx *scopedTx) Begin(ctx context.Context) (pgx.Tx, error) {
	if err := tx.check(ctx); err != nil {
		return nil, err
	}
	root := tx
	for root.outer != nil {
		root = root.outer
	}
	root.savepoints++
	inner := &scopedTx{loan: tx.loan, tenant: tx.tenant, readOnly: tx.readOnly, unscoped: tx.unscoped, outer: tx, name: fmt.Sprintf("rowhouse_%d", root.savepoints)}
	if err := inner.run(ctx, "savepoint "+inner.name); err != nil {
		return nil, err
	}
	return inner, nil
}

// run sends a statement of ours.
func (tx *scopedTx) run(ctx context.Context, sql string) error {
	_, err := flight(ctx, tx.pgx(), func(p *pgconn.Pipeline) int {
		p.SendQueryParams(sql, nil, nil, nil, nil)
		return 1
	})
	return err
}

// Commit commits. Its error says what became of the work: Outcome() is "rolled_back", or "unknown" when the answer was
// lost. A context that has ended before it commits nothing.
func (tx *scopedTx) Commit(ctx context.Context) error {
	if err := tx.check(ctx); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		_ = tx.Rollback(ctx)
		return &ended{err, rolledBack}
	}
	if !tx.closed.CompareAndSwap(false, true) {
		return pgx.ErrTxClosed
	}
	if tx.outer != nil {
		return tx.run(ctx, "release savepoint "+tx.name)
	}
	defer tx.giveBack()
	if tx.pgx().PgConn().IsBusy() { // rows are open: nothing can be sent, and giving the connection back ends it
		return &ended{errors.New("commit while rows are open"), rolledBack}
	}
	tag, err := tx.finish(ctx, stmtCommit)
	var refused *pgconn.PgError
	switch {
	case err == nil && tag.String() == "COMMIT":
		return nil
	case err == nil: // COMMIT of a failed transaction succeeds, as ROLLBACK
		return &ended{pgx.ErrTxCommitRollback, rolledBack}
	case tx.readOnly, errors.As(err, &refused) && !isFatal(refused):
		return &ended{err, rolledBack}
	}
	return &lostCommit{err}
}

// Rollback rolls back. It is safe after Commit and answers pgx.ErrTxClosed there. It works under any context.
func (tx *scopedTx) Rollback(ctx context.Context) error {
	if !tx.closed.CompareAndSwap(false, true) {
		return pgx.ErrTxClosed
	}
	pg := tx.pgx().PgConn()
	if tx.outer != nil {
		if tx.outer.closed.Load() || pg.IsClosed() {
			return pgx.ErrTxClosed
		}
		return tx.run(ctx, "rollback to savepoint "+tx.name)
	}
	defer tx.giveBack()
	if pg.IsClosed() || pg.IsBusy() || pg.TxStatus() == 'I' {
		return nil // the server has rolled back, or will when the connection is given back and ends
	}
	_, err := tx.finish(ctx, stmtRollback)
	return err
}

// finish sends COMMIT or ROLLBACK by the extended protocol, where a lost answer is an error that says so.
func (tx *scopedTx) finish(ctx context.Context, stmt string) (pgconn.CommandTag, error) {
	limit := finishing
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, max(leastEnd, time.Until(deadline)))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	return flight(ctx, tx.pgx(), func(p *pgconn.Pipeline) int {
		p.SendQueryPrepared(stmt, nil, nil, nil)
		return 1
	})
}

// Exec runs a statement.
func (tx *scopedTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if err := tx.check(ctx); err != nil {
		return pgconn.CommandTag{}, err
	}
	return tx.pgx().Exec(ctx, sql, args...)
}

// Query runs a statement that gives rows.
func (tx *scopedTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if err := tx.check(ctx); err != nil {
		return noRows{err}, err
	}
	return tx.pgx().Query(ctx, sql, args...)
}

// QueryRow runs a statement that gives one row.
func (tx *scopedTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if err := tx.check(ctx); err != nil {
		return noRows{err}
	}
	return tx.pgx().QueryRow(ctx, sql, args...)
}

// Prepare prepares a statement on the transaction's connection.
func (tx *scopedTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if err := tx.check(ctx); err != nil {
		return nil, err
	}
	return tx.pgx().Prepare(ctx, name, sql)
}

// CopyFrom copies rows in.
func (tx *scopedTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if err := tx.check(ctx); err != nil {
		return 0, err
	}
	return tx.pgx().CopyFrom(ctx, table, columns, rows)
}

// SendBatch runs several statements.
func (tx *scopedTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if err := tx.check(ctx); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return tx.pgx().SendBatch(ctx, b)
}

// LargeObjects cannot be used: they belong to the database, and no policy fences them.
func (tx *scopedTx) LargeObjects() pgx.LargeObjects { return pgx.LargeObjects{} }

// Conn is the connection below. What is sent on it directly is not checked.
func (tx *scopedTx) Conn() *pgx.Conn { return tx.pgx() }

// noRows are the rows of a statement that was refused.
type noRows struct{ err error }

var _ pgx.Rows = noRows{}

func (noRows) Close()                                       {}
func (r noRows) Err() error                                 { return r.err }
func (noRows) CommandTag() pgconn.CommandTag                { return pgconn.CommandTag{} }
func (noRows) FieldDescriptions() []pgconn.FieldDescription { return nil }
func (noRows) Next() bool                                   { return false }
func (r noRows) Scan(...any) error                          { return r.err }
func (r noRows) Values() ([]any, error)                     { return nil, r.err }
func (noRows) RawValues() [][]byte                          { return nil }
func (noRows) Conn() *pgx.Conn                              { return nil }
func (noRows) TypeMap() *pgtype.Map                         { return nil }
