package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
)

// errAgain means that another operation made what we looked for in vain.
var errAgain = errors.New("look again")

// placed decides which database the tenant will live in. With a new one its name, its login and the login's secret exist
// from here on, in the catalog alone.
func (p *provision) placed(ctx context.Context) error {
	if p.db != nil {
		return nil
	}
	var id catalog.DatabaseID
	var err error
	switch {
	case !p.args.Database.IsZero():
		id, err = p.placeIn(ctx, p.args.Database)
	case p.args.Placement == catalog.Dedicated:
		id, err = p.placeAlone(ctx)
	default:
		id, err = p.placeShared(ctx)
	}
	if err != nil {
		return err
	}
	p.db, err = p.catalog.Database(ctx, id)
	return err
}

func (p *provision) placeIn(ctx context.Context, id catalog.DatabaseID) (catalog.DatabaseID, error) {
	return id, p.update(ctx, "tenant.place", p.tenant.Ref(), map[string]any{"database": id.String()}, func(tx *catalog.Tx) error {
		var active bool
		err := tx.QueryRow(ctx, `select kind = 'shared' and state = 'active' from rowhouse.databases where id = $1 for share`, id).Scan(&active)
		if err != nil {
			return fmt.Errorf("database %s: %w", id, err)
		}
		if !active {
			return permanently("database %s is not an active shared one", id)
		}
		return tx.PlaceTenant(ctx, p.tenant.ID, id)
	})
}

// placeAlone takes a database that stands ready, or begins one.
func (p *provision) placeAlone(ctx context.Context) (id catalog.DatabaseID, err error) {
	set, err := p.born(ctx)
	if err != nil {
		return id, err
	}
	chain := set.Latest().Chain
	for {
		spare, err := p.catalog.ReadySpare(ctx, p.args.Server, p.args.Labels, chain)
		if errors.Is(err, catalog.ErrNotFound) {
			break
		}
		if err != nil {
			return id, err
		}
		if id, err = p.takeSpare(ctx, spare.Server, chain); !errors.Is(err, catalog.ErrNotFound) {
			return id, err
		}
		// Others took the last one of that server.
	}
	server, err := p.chooseServer(ctx)
	if err != nil {
		return id, err
	}
	err = p.update(ctx, "database.create", p.tenant.Ref(), map[string]any{"server": server.Name, "kind": catalog.Dedicated}, func(tx *catalog.Tx) (err error) {
		id, err = p.newDatabase(ctx, tx, server.ID, catalog.Dedicated)
		return err
	})
	return id, err
}

// takeSpare makes a database that stands ready this operation's. Its name on the server follows in the step "database".
func (p *provision) takeSpare(ctx context.Context, server catalog.ServerID, chain string) (id catalog.DatabaseID, err error) {
	err = p.update(ctx, "database.claim", p.tenant.Ref(), map[string]any{"kind": catalog.Dedicated}, func(tx *catalog.Tx) (err error) {
		if id, err = tx.TakeSpare(ctx, server, chain); err != nil {
			return err
		}
		if err := tx.MoveDatabase(ctx, id, databaseName(id), catalog.DatabaseCreating); err != nil {
			return err
		}
		return p.take(ctx, tx, id)
	})
	return id, err
}

// placeShared takes the shared database with most room. Where there is none, this operation makes one, unless another
// does: that is decided under a lock of the server's row.
func (p *provision) placeShared(ctx context.Context) (id catalog.DatabaseID, err error) {
	set, err := p.born(ctx)
	if err != nil {
		return id, err
	}
	chain := set.Latest().Chain
	for {
		db, err := p.catalog.RoomiestShared(ctx, p.args.Server, chain)
		if err == nil {
			return p.placeIn(ctx, db.ID)
		}
		if !errors.Is(err, catalog.ErrNotFound) {
			return id, err
		}
		server, err := p.chooseServer(ctx)
		if err != nil {
			return id, err
		}
		err = p.update(ctx, "database.create", p.tenant.Ref(), map[string]any{"server": server.Name, "kind": catalog.Shared}, func(tx *catalog.Tx) (err error) {
			id, err = p.makeShared(ctx, tx, server.ID, chain)
			return err
		})
		if !errors.Is(err, errAgain) {
			return id, err
		}
	}
}

func (p *provision) makeShared(ctx context.Context, tx *catalog.Tx, server catalog.ServerID, chain string) (id catalog.DatabaseID, err error) {
	if _, err := tx.Exec(ctx, `select from rowhouse.servers where id = $1 for update`, server); err != nil {
		return id, fmt.Errorf("server %s: %w", server, err)
	}
	var ready bool
	if err := tx.QueryRow(ctx, `
		select exists (
			select from rowhouse.databases d
			 where server = $1 and kind = 'shared' and state = 'active' and schema_chain = $2
			   and (select count(*) from rowhouse.tenants t where t.database = d.id and t.state <> 'deleted') < max_tenants)`,
		server, chain).Scan(&ready); err != nil {
		return id, fmt.Errorf("shared database: %w", err)
	}
	if ready {
		return id, errAgain
	}
	var busy bool
	err = tx.QueryRow(ctx, `
		select d.id, exists (
			select from rowhouse.operations o
			 where o.database = d.id and o.state not in ('done', 'failed', 'cancelled'))
		  from rowhouse.databases d
		 where d.server = $1 and d.kind = 'shared' and d.state = 'creating'
		 order by d.created_at
		 limit 1`, server).Scan(&id, &busy)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return p.newDatabase(ctx, tx, server, catalog.Shared)
	case err != nil:
		return id, fmt.Errorf("shared database: %w", err)
	case busy:
		return id, &waitError{500 * time.Millisecond, "waits for shared database " + id.String()}
	}
	return id, p.take(ctx, tx, id) // whoever began it has failed
}

// chooseServer is the server asked for, or the one with most room. Of one that will soon be full the log warns.
func (p *provision) chooseServer(ctx context.Context) (*catalog.Server, error) {
	server, err := p.roomyServer(ctx)
	if err != nil {
		return nil, err
	}
	full, err := p.catalog.Capacity(ctx, server.ID)
	if err == nil && full.NearlyFull() {
		p.log.WarnContext(ctx, "server is nearly full", "server", server.Name, "databases", full.Databases, "max_databases", full.MaxDatabases)
	}
	return server, err
}

func (p *provision) roomyServer(ctx context.Context) (*catalog.Server, error) {
	if p.args.Server.IsZero() {
		return p.catalog.RoomiestServer(ctx, p.args.Labels)
	}
	server, err := p.catalog.Server(ctx, p.args.Server.String())
	if err != nil {
		return nil, err
	}
	full, err := p.catalog.Capacity(ctx, server.ID)
	if err == nil && (server.State != "active" || full.Databases >= full.MaxDatabases) {
		err = &catalog.NoRoomError{Servers: []catalog.Capacity{*full}}
	}
	return server, err
}

// newDatabase inserts the row of a database to be made by this operation, and its login with a sealed secret.
func (p *provision) newDatabase(ctx context.Context, tx *catalog.Tx, server catalog.ServerID, kind catalog.Placement) (catalog.DatabaseID, error) {
	id := catalog.NewID[catalog.Database]()
	if err := insertDatabase(ctx, tx, catalog.NewDatabase{
		ID: id, Server: server, Name: databaseName(id), Kind: kind, State: catalog.DatabaseCreating,
	}); err != nil {
		return id, err
	}
	return id, p.take(ctx, tx, id)
}

// take makes the database this operation's to make, and the tenant's to live in. The catalog allows one unfinished
// operation a database.
func (p *provision) take(ctx context.Context, tx *catalog.Tx, id catalog.DatabaseID) error {
	if _, err := tx.Exec(ctx, `update rowhouse.operations set database = $2 where id = $1`, p.op.ID, id); err != nil {
		return fmt.Errorf("operation %s: %w", p.op.ID, err)
	}
	p.op.Database = id
	return tx.PlaceTenant(ctx, p.tenant.ID, id)
}
