package catalog

import (
	"context"
	"errors"
	"fmt"
)

// ErrChanged means that a row is no longer as it was when the one who changes it read it.
var ErrChanged = errors.New("changed since it was read")

type expectKey struct{}

// expectation is how a row is expected to be when a change begins.
type expectation struct {
	kind, ref string
	is        func(row any) bool
}

// Expect makes every Update under the context look at a row before it changes anything: a *Tenant, *Server, *Database or
// *Operation by kind and reference. Where is denies it the change is ErrChanged, and nothing is done.
func Expect(ctx context.Context, kind, ref string, is func(row any) bool) context.Context {
	return context.WithValue(ctx, expectKey{}, &expectation{kind, ref, is})
}

// expected checks the context's expectation. The row stays as it is until the transaction ends.
func (tx *Tx) expected(ctx context.Context) error {
	e, ok := ctx.Value(expectKey{}).(*expectation)
	if !ok {
		return nil
	}
	row, err := tx.locked(ctx, e.kind, e.ref)
	if err == nil && !e.is(row) {
		err = fmt.Errorf("%s is %w", e.kind, ErrChanged)
	}
	return err
}

func (tx *Tx) locked(ctx context.Context, kind, ref string) (any, error) {
	switch kind {
	case "tenant":
		return lockedRow[Tenant](ctx, tx, kind, selectTenant, "t", ref)
	case "server":
		return lockedRow[Server](ctx, tx, kind, selectServer+` s`, "s", ref)
	case "database":
		return lockedRow[Database](ctx, tx, kind, selectDatabase+` d`, "d", ref)
	case "operation":
		return lockedRow[Operation](ctx, tx, kind, selectOperation, "o", ref)
	}
	return nil, fmt.Errorf("%s cannot be expected to be something: %w", kind, ErrInvalid)
}

func lockedRow[Row any](ctx context.Context, tx *Tx, kind, sql, alias, ref string) (any, error) {
	id, err := ParseID[Row](ref)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", kind, err)
	}
	return one[Row](ctx, tx, kind, sql+` where `+alias+`.id = $1 for update of `+alias, id)
}
