package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// clearing is one attempt at clearing away what a tenant left behind when it moved: its rows in a shared database, or the
// database that was its own. Nothing else waits for it.
type clearing struct {
	*provision // its database is the one that was left
	args       tenants.ClearArgs
}

// planClearing records the operation that clears up when the cooling is over.
func (m *move) planClearing(ctx context.Context, tx *catalog.Tx) error {
	args, err := json.Marshal(tenants.ClearArgs{Source: m.source.ID, Move: m.op.ID, Cooled: time.Now().Add(m.cfg.Cooling)})
	if err != nil {
		return err
	}
	op := &catalog.Operation{ID: catalog.NewID[catalog.Operation](), Kind: tenants.KindClear, Tenant: m.tenant.ID, Args: args, Steps: tenants.ClearSteps, CreatedBy: m.op.CreatedBy}
	if err := tx.CreateOperation(ctx, op); err != nil {
		return err
	}
	return m.Enqueue(ctx, tx, op)
}

func beginClearing(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	c := &clearing{}
	if err := json.Unmarshal(op.Args, &c.args); err != nil {
		return nil, permanently("operation %s: arguments cannot be read", op.ID)
	}
	var err error
	if c.provision, err = r.onTenant(ctx, op); err != nil {
		return nil, err
	}
	c.db, err = r.catalog.Database(ctx, c.args.Source)
	return c, err
}

func (c *clearing) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{"cooled": c.cooled, "cleaned": c.cleaned, "dropped": c.dropped, "cleared": c.cleared}
}

func (c *clearing) passes(step string) bool {
	switch step {
	case "cleaned":
		return c.db.Kind != catalog.Shared
	case "dropped":
		return c.db.Kind != catalog.Dedicated || c.db.State == catalog.DatabaseGone
	}
	return false
}

// cooled waits: for a while what was left could still be looked at.
func (c *clearing) cooled(context.Context) error {
	if left := time.Until(c.args.Cooled); left > 0 {
		return &waitError{left, "keeps what the tenant left until " + c.args.Cooled.UTC().Format(time.RFC3339)}
	}
	return nil
}

// cleaned deletes the tenant's rows from the shared database, if it has not come back meanwhile.
func (c *clearing) cleaned(ctx context.Context) error {
	if _, err := c.host(ctx); err != nil { // its lock keeps a successor out
		return err
	}
	s, err := c.openSide(ctx, c.db, c.tenant.ID)
	if err != nil {
		return err
	}
	defer s.close()
	g, err := gateOf(ctx, s)
	if err != nil || !g.isOf(c.args.Move, "moved") {
		return err
	}
	return c.deleteRows(ctx, c.db, c.tenant.ID)
}

// dropped drops the database that was the tenant's own, unless it is anybody's again.
func (c *clearing) dropped(ctx context.Context) error {
	if c.db.State != catalog.DatabaseRetired {
		return permanently("database %q is %s and not retired", c.db.Name, c.db.State)
	}
	return (&purge{c.provision}).dropped(ctx)
}

func (c *clearing) cleared(ctx context.Context) error {
	return c.update(ctx, "tenant.cleared", c.tenant.Ref(), map[string]any{"database": c.db.ID.String()}, func(tx *catalog.Tx) error {
		if c.db.Kind == catalog.Dedicated && c.db.State != catalog.DatabaseGone {
			if err := tx.DropDatabase(ctx, c.db.ID); err != nil {
				return fmt.Errorf("database %q: %w", c.db.Name, err)
			}
		}
		return tx.FinishOperation(ctx, c.op, catalog.OperationDone, "")
	})
}
