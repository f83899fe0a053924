package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
)

// openGate opens the gate of a tenant that begins in a database.
const openGate = `insert into rowhouse.gate (tenant_id, state, epoch) values ('%s', 'open', 1) on conflict do nothing`

// seeded gives the tenant what it begins with: its gate. A shared database may be older than gates are; then the tenant has
// none until it moves.
func (p *provision) seeded(ctx context.Context) error {
	conn := p.inside
	if conn == nil {
		var err error
		if conn, err = p.connect(ctx, p.db.Server, p.db.Name); err != nil {
			return err
		}
		defer closeConn(conn)
	}
	_, err := conn.Exec(ctx, fmt.Sprintf(openGate, p.tenant.ID), pgx.QueryExecModeSimpleProtocol)
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &pg) && pg.Code == "42P01":
		return p.update(ctx, "tenant.ungated", p.tenant.Ref(), nil, func(tx *catalog.Tx) error { return tx.SetPlacementEpoch(ctx, p.tenant.ID, 0) })
	case err != nil:
		return fmt.Errorf("gate of tenant %q: %w", p.tenant.Name, err)
	}
	return nil
}
