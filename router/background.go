package router

import (
	"context"
	"time"
)

type backgroundKey struct{}

// InBackground marks what is done under a context as work that nobody waits for, such as a walk over all tenants. Its
// transactions keep no database warm: a pool that is kept grows no younger by them, and one that is made for them is closed
// with its connection when they are over. They take no connection away from another database, but wait for room,
// at most for Config.AcquireTimeout: then ErrOverloaded.
func InBackground(ctx context.Context) context.Context {
	return context.WithValue(ctx, backgroundKey{}, true)
}

func isBackground(ctx context.Context) bool { return ctx.Value(backgroundKey{}) != nil }

// backgroundPause is how long background work waits before it looks for room again.
const backgroundPause = 20 * time.Millisecond
