package router

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// Route is what a warm request pays before its connection: the decision what it may see, and the lease of the pool.
func (rt *Router) Route(ctx context.Context) error {
	s, err := rt.scope(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	l, err := rt.pools.Acquire(ctx, keyOf(s.database))
	if err != nil {
		return err
	}
	l.Release()
	return nil
}

// Borrow is what a warm request pays for its connection, there and back.
func (rt *Router) Borrow(ctx context.Context) error {
	s, err := rt.scope(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	l, err := rt.borrow(ctx, s.database)
	if err != nil {
		return err
	}
	l.giveBack()
	return nil
}
