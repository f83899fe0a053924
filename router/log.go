package router

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/tenants"
)

// Log writes a line into the audit trail of ctx's tenant, in a transaction of its own. Who does it, for whom and under which
// request is taken from the context. An application that is in a transaction uses LogTx, so that both stand or neither.
func (rt *Router) Log(ctx context.Context, action, message string) error {
	return rt.BeginFunc(ctx, func(tx pgx.Tx) error { return LogTx(ctx, tx, action, message) })
}

// LogTx is Log within a transaction of the tenant's.
func LogTx(ctx context.Context, tx pgx.Tx, action, message string) error {
	if action == "" {
		return errors.New("router: an audit line without an action")
	}
	session, err := tenants.FromContext(ctx)
	if err != nil {
		return err
	}
	from, _ := ctx.Value(askedKey{}).(*askedFrom)
	if from == nil {
		from = new(askedFrom)
	}
	_, err = tx.Exec(ctx, `
		insert into rowhouse.audit (actor, impersonator, action, detail, request_id)
		values ($1, $2, $3, jsonb_strip_nulls(jsonb_build_object('message', nullif($4::text, ''), 'address', nullif($5::text, ''))), $6)`,
		bounded(session.Subject(), 200), bounded(session.Impersonator(), 200), bounded(action, 200), bounded(message, 4000), from.address, from.requestID)
	return err
}

type askedKey struct{}

// askedFrom is where a request came from.
type askedFrom struct{ address, requestID string }
