package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/cmd/rowhouse/internal/bench"
	"github.com/rowhouse/rowhouse/tenants"
)

// benchCutover changes what a bed has by itself, and the placement of a dev's tenant, because that is an operation.
func (a *app) benchCutover(ctx context.Context, l bench.Length) (bench.Report, error) {
	return a.besideDev(ctx, func(ctx context.Context, h *house) (bench.Report, error) {
		acme, err := h.directory.Tenant(ctx, "acme")
		if err != nil {
			return bench.Report{}, err
		}
		placement := &bench.Placement{Router: h.router, Tenant: acme, Change: func(ctx context.Context) error {
			op, err := h.service.PromoteTenant(ctx, acme.Name, tenants.MoveSpec{})
			for ; err == nil && !op.State.Finished(); op, err = h.catalog.Operation(ctx, op.ID) {
				select {
				case <-ctx.Done():
					return ctx.Err()
				case <-time.After(20 * time.Millisecond):
				}
			}
			if err == nil && op.State != catalog.OperationDone {
				err = fmt.Errorf("operation %s is %s: %s", op.ID, op.State, op.Error)
			}
			return err
		}}
		return onBed(func(ctx context.Context, b *bench.Bed, l bench.Length) (bench.Report, error) {
			return bench.Cutover(ctx, b, l, placement)
		})(a, ctx, l)
	})
}

// besideDev has a benchmark run in a house of its own beside a dev in another process, on the dev's catalog and servers. The
// dev carries out operations.
func (a *app) besideDev(ctx context.Context, measure func(context.Context, *house) (bench.Report, error)) (bench.Report, error) {
	dir, clean, err := benchDir()
	if err != nil {
		return bench.Report{}, err
	}
	defer clean()
	d, err := startBenchDev(ctx, dir)
	if err != nil {
		return bench.Report{}, err
	}
	defer func() { _ = d.stop() }()
	a.data = dir
	cfg, err := a.devConfig()
	if err != nil {
		return bench.Report{}, err
	}
	log := a.logger("error", "text")
	cat, err := openCatalog(ctx, cfg, log)
	if err != nil {
		return bench.Report{}, err
	}
	defer cat.Close()
	h, err := newHouse(ctx, cfg, cat, "", devLease, log)
	if err != nil {
		return bench.Report{}, err
	}
	defer h.router.Close()
	if err := h.directory.Load(ctx); err != nil {
		return bench.Report{}, err
	}
	running, stop := context.WithCancel(ctx)
	var parts sync.WaitGroup
	defer parts.Wait()
	defer stop()
	parts.Go(func() { _ = h.directory.Run(running) })
	parts.Go(func() { _ = h.router.Run(running) }) // the dev gives us a part of its connections
	for h.router.Ready() != nil {
		select {
		case <-ctx.Done():
			return bench.Report{}, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	return measure(ctx, h)
}
