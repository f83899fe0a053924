package router

import (
	"context"

	"github.com/rowhouse/rowhouse/catalog"
)

// Touch makes a database the most recently used one, as a request to one of its tenants does when it finds the pool. One that
// is not kept is opened, without a connection.
func (rt *Router) Touch(ctx context.Context, db *catalog.Database) error {
	l, err := rt.pools.Acquire(ctx, keyOf(db))
	if err != nil {
		return refuse(ctx, err)
	}
	l.Release()
	return nil
}
