package router

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
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
	l, err := rt.borrow(ctx, s)
	if err != nil {
		return err
	}
	l.giveBack()
	return nil
}

// Outdate makes every open connection one from before a reset, as one is that was being made while the pool was reset.
func (rt *Router) Outdate(ctx context.Context) {
	for _, key := range rt.pools.Keys() {
		if l, err := rt.pools.Acquire(ctx, key); err == nil {
			l.Value().born.Add(1)
			l.Release()
		}
	}
}

// Later lets what is not tried for a while be tried now.
func (rt *Router) Later() {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	for _, s := range rt.servers {
		s.mu.Lock()
		all := []*breaker{s.breaker}
		for _, r := range s.logins {
			all = append(all, r.breaker)
		}
		s.mu.Unlock()
		for _, b := range all {
			if b.isOpen() {
				b.until.Store(1)
			}
		}
	}
}

// Asked is whether a server was asked if it takes writes, when nothing asks it any more.
func (rt *Router) Asked(id catalog.ServerID) int {
	rt.background.Wait()
	if rt.server(id).confirmed.Load() == 0 {
		return 0
	}
	return 1
}

// AskAgain lets the server be asked at once.
func (rt *Router) AskAgain(id catalog.ServerID) { rt.server(id).confirmed.Store(0) }

// Renew and Shrink are what Run does when it is time.
func (rt *Router) Renew(ctx context.Context) error { return rt.renew(ctx) }

// Shrink is what Run does when nothing was renewed for a while.
func (rt *Router) Shrink() { rt.shrinkIfSilent(time.Now().Add(silence)) }

// Hold says how long a transaction waits for its tenant to have a home again.
func (rt *Router) Hold(d time.Duration) { rt.held = d }
