package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/tenants"
)

// move is one attempt at bringing a tenant to another database while it is served: a promotion, a demotion, or a move to
// another server or shared database.
//
// At most one of the two databases takes the tenant's writes at any moment, and the databases themselves decide which, each by
// its gate. Until the source's gate says "moved" everything can be taken back, and a fence that falls leaves the tenant
// where it was. From then on there is only the way forward.
type move struct {
	*Runner
	op     *catalog.Operation
	args   tenants.MoveArgs
	tenant *catalog.Tenant
	source *catalog.Database
	target *provision // nil until it is planned; its database is the one to go to

	from, to *side         // nil until a step needs them
	fence    *fence        // nil while writers are let in
	tables   []movingTable // of the source
	sums     map[string]sum
	copied   string // what was copied, and how fast
}

func beginMove(ctx context.Context, r *Runner, op *catalog.Operation) (work, error) {
	m := &move{Runner: r, op: op}
	if err := json.Unmarshal(op.Args, &m.args); err != nil {
		return nil, permanently("operation %s: arguments cannot be read", op.ID)
	}
	var err error
	if m.tenant, err = r.catalog.Tenant(ctx, op.Tenant.String()); err != nil {
		return nil, err
	}
	if m.source, err = r.catalog.Database(ctx, m.args.Source); err != nil {
		return nil, err
	}
	if !m.args.Target.IsZero() {
		if err := m.setTarget(ctx, m.args.Target); err != nil {
			return nil, err
		}
	}
	if op.Step == "fencing" || op.Step == "verifying" {
		return m, m.afterFall(ctx)
	}
	return m, nil
}

// afterFall finds out where to go on when the fence fell in the middle: forward if the gate was turned before, else from
// where the tenant was not fenced yet.
func (m *move) afterFall(ctx context.Context) error {
	moved, err := m.hasMoved(ctx)
	if err != nil {
		return &waitError{time.Second, explain(err)} // it must not fail: the tenant may have no home
	}
	if moved {
		m.op.Step = "verifying"
	} else {
		m.op.Step = "ready"
	}
	return nil
}

// hasMoved says that the source's gate was turned by this operation.
func (m *move) hasMoved(ctx context.Context) (bool, error) {
	s, err := m.openSide(ctx, m.source, m.tenant.ID)
	if err != nil {
		return false, err
	}
	defer s.close()
	var there bool
	if err := s.QueryRow(ctx, `select to_regclass('rowhouse.gate') is not null`).Scan(&there); err != nil || !there {
		return false, err
	}
	if err := s.hold(ctx, m.key()); err != nil {
		return false, err
	}
	g, err := gateOf(ctx, s)
	return g.isOf(m.op.ID, "moved"), err
}

// key is the lock of whoever moves the tenant.
func (m *move) key() int64 { return lockKey(m.catalog.ID(), "move "+m.tenant.ID.String()) }

func (m *move) setTarget(ctx context.Context, id catalog.DatabaseID) error {
	db, err := m.catalog.Database(ctx, id)
	if err == nil {
		m.target = &provision{Runner: m.Runner, op: m.op, tenant: m.tenant, db: db}
	}
	return err
}

// moveLease is short: a tenant may be without a home that takes writes until somebody goes on.
const moveLease = 10 * time.Second

// alone says that nobody else lives in the target.
func (m *move) alone() bool { return m.args.Made }

// steps are what tenants.MoveSteps names.
func (m *move) steps() map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"planned": m.planned, "preflight": m.preflight, "provisioned": m.provisioned,
		"fencing": m.fencing, "verifying": m.verifying, "decided": m.decided, "switched": m.switched,
	}
}

func (m *move) passes(step string) bool {
	return (step == "copying" || step == "ready") && m.args.Mode != tenants.MoveReplicate
}

func (m *move) close() {
	m.lower()
	m.from.close()
	m.to.close()
	if m.target != nil {
		m.target.close()
	}
}

// lower lets writers in again, if the gate does.
func (m *move) lower() {
	if m.fence != nil {
		m.fence.close()
		m.fence = nil
	}
}

// update writes to the catalog as long as the claim holds.
func (m *move) update(ctx context.Context, action string, target catalog.Ref, detail map[string]any, fn func(*catalog.Tx) error) error {
	return m.updateUnder(ctx, m.op, action, target, detail, fn)
}

func (m *move) saveArgs(ctx context.Context, tx *catalog.Tx) error {
	text, err := json.Marshal(m.args)
	if err != nil {
		return err
	}
	_, err = tx.Exec(ctx, `update rowhouse.operations set args = $2 where id = $1`, m.op.ID, text)
	return err
}

// planned decides where the tenant goes. With a database of its own its name and its login exist from here on, in the
// catalog alone.
func (m *move) planned(ctx context.Context) error {
	if m.target != nil {
		return nil
	}
	if m.op.Kind == tenants.KindPromote || m.op.Kind == tenants.KindMove && m.source.Kind == catalog.Dedicated {
		return m.plannedAlone(ctx)
	}
	id := m.args.Database
	if id.IsZero() {
		db, err := m.catalog.RoomiestOther(ctx, m.args.Server, m.source)
		if errors.Is(err, catalog.ErrNotFound) {
			return permanently("no shared database at version %d has room for the tenant; creating a shared tenant makes one, or name a server", m.source.SchemaVersion)
		}
		if err != nil {
			return err
		}
		id = db.ID
	}
	db, err := m.catalog.Database(ctx, id)
	if err != nil {
		return err
	}
	m.args.Target, m.args.Made, m.args.Servers = id, false, []catalog.ServerID{m.source.Server, db.Server}
	if err := m.update(ctx, "tenant.move_planned", m.tenant.Ref(), map[string]any{"database": id.String()}, func(tx *catalog.Tx) error {
		if err := m.takePlace(ctx, tx); err != nil {
			return err
		}
		return m.saveArgs(ctx, tx)
	}); err != nil {
		m.args.Target = catalog.DatabaseID{}
		return err
	}
	return m.setTarget(ctx, id)
}

func (m *move) plannedAlone(ctx context.Context) error {
	p := &provision{Runner: m.Runner, op: m.op, tenant: m.tenant, args: tenants.ProvisionArgs{Server: m.args.Server}}
	server, err := p.chooseServer(ctx)
	if err != nil {
		return err
	}
	id := catalog.NewID[catalog.Database]()
	m.args.Target, m.args.Made, m.args.Servers = id, true, []catalog.ServerID{m.source.Server, server.ID}
	if err := m.update(ctx, "database.create", m.tenant.Ref(), map[string]any{"server": server.Name, "kind": catalog.Dedicated}, func(tx *catalog.Tx) error {
		if err := m.takePlace(ctx, tx); err != nil {
			return err
		}
		if err := tx.CreateDatabase(ctx, catalog.NewDatabase{
			ID: id, Server: server.ID, Name: databaseName(id), Kind: catalog.Dedicated, State: catalog.DatabaseCreating,
		}); err != nil {
			return err
		}
		if err := tx.SetCredential(ctx, catalog.Credential{
			Server: server.ID, Database: id, Login: catalog.LoginData, Version: 1, Role: loginOf(id), Secret: newPassword(),
		}); err != nil {
			return err
		}
		return m.saveArgs(ctx, tx)
	}); err != nil {
		m.args.Target = catalog.DatabaseID{}
		return err
	}
	return m.setTarget(ctx, id)
}

// takePlace waits until both servers have room for one more move.
func (m *move) takePlace(ctx context.Context, tx *catalog.Tx) error {
	full, err := tx.MovesFull(ctx, m.op.ID, m.args.Servers)
	if err == nil && full != "" {
		return &waitError{2 * time.Second, fmt.Sprintf("waits until fewer tenants come to server %q or leave it", full)}
	}
	return err
}

// provisioned makes the database to go to, where it is the tenant's own, and its gate, which lets nobody in yet.
func (m *move) provisioned(ctx context.Context) error {
	if m.args.Made && m.target.making() {
		for _, step := range []func(context.Context) error{
			m.target.roles, m.target.database, m.target.secured, m.target.owned, m.target.migrated, m.target.verified,
		} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		if m.target.cloned != nil {
			if err := m.update(ctx, "database.migrate", m.target.db.Ref(), nil, func(tx *catalog.Tx) error {
				return tx.SetDatabaseSchema(ctx, m.target.db.ID, *m.target.cloned)
			}); err != nil {
				return err
			}
		}
		db, err := m.catalog.Database(ctx, m.target.db.ID)
		if err != nil {
			return err
		}
		m.target.db = db
	}
	if err := m.open(ctx); err != nil {
		return err
	}
	if err := m.alike(ctx); err != nil {
		return err
	}
	if err := m.loadable(); err != nil {
		return err
	}
	return m.prepareTarget(ctx)
}

// open opens both sides, once an attempt.
func (m *move) open(ctx context.Context) (err error) {
	if err := m.look(ctx); err != nil {
		return err
	}
	if m.to == nil {
		m.to, err = m.openSide(ctx, m.target.db, m.tenant.ID)
	}
	return err
}

// prepareTarget makes the target a place that holds nothing of the tenant and lets nobody in: it may have been there before.
func (m *move) prepareTarget(ctx context.Context) error {
	g, err := gateOf(ctx, m.to)
	if err != nil {
		return err
	}
	if g.State == "open" && !m.args.Made {
		return permanently("database %q lets the tenant in already; rowhouse catalog check says more", m.target.db.Name)
	}
	if err := m.to.exec(ctx, fmt.Sprintf(`
		insert into rowhouse.gate (tenant_id, state, epoch, operation) values (%[1]s, 'incoming', %[2]d, %[3]s)
		on conflict (tenant_id) do update set state = 'incoming', epoch = excluded.epoch, operation = excluded.operation`,
		literal(m.tenant.ID.String()), m.args.Epoch+1, literal(m.op.ID.String()))); err != nil {
		return fmt.Errorf("gate in database %q: %w", m.target.db.Name, err)
	}
	return m.emptyTarget(ctx)
}

func (m *move) emptyTarget(ctx context.Context) error {
	if err := m.emptied(ctx, m.to, ofTenants(m.tables), m.alone()); err != nil {
		return err
	}
	if m.alone() {
		return nil
	}
	return m.to.exec(ctx, fmt.Sprintf(`
		insert into rowhouse.gate (tenant_id, state, epoch, operation) values (%s, 'incoming', %d, %s) on conflict (tenant_id) do nothing`,
		literal(m.tenant.ID.String()), m.args.Epoch+1, literal(m.op.ID.String())))
}

// points between a statement and the next within a step.
var (
	pointMoveFenced   = fp.Point("move.fencing.fenced")
	pointMoveCopied   = fp.Point("move.fencing.copied")
	pointMoveDecided  = fp.Point("move.decided.turned")
	pointMoveOpened   = fp.Point("move.switched.opened")
	pointMoveRecorded = fp.Point("move.switched.recorded")
)

// announced tells every router that the tenant is about to move, and waits until they know: from then on they ask the gate
// for reads too, and wait where it is shut.
func (m *move) announced(ctx context.Context) error {
	if !m.tenant.Moving {
		if err := m.update(ctx, "tenant.moving", m.tenant.Ref(), nil, func(tx *catalog.Tx) error {
			return tx.SetTenantMoving(ctx, m.tenant.ID, true)
		}); err != nil {
			return err
		}
	}
	revision, err := m.catalog.Revision(ctx)
	if err != nil {
		return err
	}
	return m.awaitReports(ctx, revision, catalog.Lease)
}

// fencing keeps writers out and brings over what is still missing. A fence that stood too long falls, and nothing happened.
func (m *move) fencing(ctx context.Context) error {
	if err := m.open(ctx); err != nil {
		return err
	}
	if err := m.prepareTarget(ctx); err != nil {
		return err
	}
	if err := m.announced(ctx); err != nil {
		return err
	}
	return m.fenced(ctx, func(ctx context.Context) error {
		if err := fp.Hit(pointMoveFenced); err != nil {
			return err
		}
		if err := m.stillAlike(ctx); err != nil {
			return err
		}
		if err := m.copyUnderFence(ctx); err != nil {
			return err
		}
		return fp.Hit(pointMoveCopied)
	})
}

// fenced raises the fence and works behind it, for as long as writers may have to wait. The fence stands when it returns
// without an error.
func (m *move) fenced(ctx context.Context, work func(context.Context) error) error {
	s, err := m.openSide(ctx, m.source, m.tenant.ID)
	if err != nil {
		return err
	}
	m.fence = &fence{side: s}
	if err = m.fence.hold(ctx, m.key()); err == nil {
		err = m.fence.raise(ctx, m.targetOf(m.source).Key, m.cfg.Drain, m.args.MaxPause)
	}
	if err == nil {
		err = m.behindFence(ctx, work)
	}
	if err != nil {
		m.lower()
	}
	return err
}

// behindFence bounds what is done while writers wait.
func (m *move) behindFence(ctx context.Context, work func(context.Context) error) error {
	if m.fence == nil {
		return errors.New("the fence has fallen")
	}
	bounded, cancel := context.WithDeadline(ctx, m.fence.raised.Add(m.args.MaxPause))
	defer cancel()
	err := work(bounded)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		return permanently("writes would have to wait for longer than %s; the tenant stays where it is. Allow a longer --max-pause, or --mode replicate", m.args.MaxPause)
	}
	return err
}

// stillAlike looks at the ledgers once more, now that no migration can run in the source.
func (m *move) stillAlike(ctx context.Context) error {
	const ledgers = `
		select coalesce((select string_agg(version || ' ' || state, ',' order by version) from rowhouse.migrations), '') || '/' ||
		       coalesce((select string_agg(version || ' ' || state, ',' order by version) from rowhouse.baseline_migrations), '')`
	var here, there string
	if err := m.from.QueryRow(ctx, ledgers).Scan(&here); err != nil {
		return fmt.Errorf("ledger of database %q: %w", m.source.Name, err)
	}
	if err := m.to.QueryRow(ctx, ledgers).Scan(&there); err != nil {
		return fmt.Errorf("ledger of database %q: %w", m.target.db.Name, err)
	}
	if here != there {
		return permanently("database %q was migrated meanwhile, and %q was not; begin anew", m.source.Name, m.target.db.Name)
	}
	return nil
}

// copyUnderFence copies all rows. What they come to at the source is found out beside it: nobody can change them.
func (m *move) copyUnderFence(ctx context.Context) error {
	tables, _ := parentsFirst(ofTenants(m.tables))
	if len(tables) < len(ofTenants(m.tables)) { // a circle: only without checks, and then in any order
		tables = ofTenants(m.tables)
	}
	if g, err := gateOf(ctx, m.fence.side); err != nil {
		return err
	} else if g.State != "open" || g.Epoch != m.args.Epoch {
		return permanently("the tenant's gate in database %q is %s for placement %d, and not open for %d", m.source.Name, g.State, g.Epoch, m.args.Epoch)
	}
	both, ctx := errgroup.WithContext(ctx)
	both.Go(func() (err error) {
		m.sums, err = sumsOf(ctx, m.fence.side, ofTenants(m.tables))
		return err
	})
	var rows int64
	var took time.Duration
	both.Go(func() (err error) {
		began := time.Now()
		rows, err = (&copier{from: m.from, to: m.to, tables: tables, alone: m.alone()}).run(ctx)
		took = time.Since(began)
		return err
	})
	if err := both.Wait(); err != nil {
		return err
	}
	m.copied = fmt.Sprintf("%d rows were copied in %s", rows, took.Round(time.Microsecond))
	return nil
}

// verifying compares what arrived with what was there, and writes down what it found.
func (m *move) verifying(ctx context.Context) error {
	return m.orLower(m.behindFence(ctx, func(ctx context.Context) error {
		tables := ofTenants(m.tables)
		there, err := sumsOf(ctx, m.to, tables)
		if err != nil {
			return err
		}
		if err := differing(tables, m.sums, there); err != nil {
			return err
		}
		return m.catalog.NoteOperation(ctx, m.op, "verifying", strings.TrimPrefix(fmt.Sprintf("%s, and %d in %d tables are equal", m.copied, rowsIn(there), len(tables)), ", and "))
	}))
}

func (m *move) orLower(err error) error {
	if err != nil {
		m.lower()
	}
	return err
}

// decided turns the source's gate, in the session that holds the fence: if that fell, it fails. From here on there is only
// the way forward, so that whatever goes wrong is tried again for ever.
func (m *move) decided(ctx context.Context) error {
	if m.fence == nil { // taken up after the gate was turned
		moved, err := m.hasMoved(ctx)
		if err != nil {
			return &waitError{time.Second, explain(err)}
		}
		if !moved {
			m.op.Step = "ready"
			return &waitError{0, "the fence fell; it is raised again"}
		}
		return nil
	}
	err := m.fence.setGate(ctx, m.op.ID, "moved", m.args.Epoch, "open")
	if err == nil {
		err = fp.Hit(pointMoveDecided)
	}
	if err != nil {
		m.lower()
		return &waitError{100 * time.Millisecond, explain(err)} // the next attempt finds out whether it was turned
	}
	return nil
}

// switched opens the target's gate, and says in the catalog where the tenant lives from now on. Between the two gates'
// commits it has no home that takes writes.
func (m *move) switched(ctx context.Context) error {
	err := m.switchOver(ctx)
	if err == nil || errors.Is(err, errLost) || ctx.Err() != nil {
		return err
	}
	m.log.ErrorContext(ctx, "a tenant that has left its database cannot be let into the next one", "operation", m.op.ID, "tenant", m.tenant.ID, "error", explain(err))
	return &waitError{500 * time.Millisecond, explain(err)}
}

func (m *move) switchOver(ctx context.Context) (err error) {
	if m.to == nil {
		if m.to, err = m.openSide(ctx, m.target.db, m.tenant.ID); err != nil {
			return err
		}
	}
	if err := m.to.setGate(ctx, m.op.ID, "open", m.args.Epoch+1, "incoming"); err != nil {
		return err
	}
	if err := fp.Hit(pointMoveOpened); err != nil {
		return err
	}
	detail := map[string]any{"from": m.source.ID.String(), "to": m.target.db.ID.String()}
	if err := m.update(ctx, "tenant.moved", m.tenant.Ref(), detail, func(tx *catalog.Tx) error { return m.record(ctx, tx) }); err != nil {
		return err
	}
	return fp.Hit(pointMoveRecorded)
}

// record says where the tenant lives, and leaves what remains to be done to an operation of its own.
func (m *move) record(ctx context.Context, tx *catalog.Tx) error {
	if m.args.Made {
		if err := tx.SetDatabaseState(ctx, m.target.db.ID, catalog.DatabaseActive); err != nil {
			return err
		}
	}
	if m.source.Kind == catalog.Dedicated {
		if err := tx.SetDatabaseState(ctx, m.source.ID, catalog.DatabaseRetired); err != nil {
			return err
		}
	}
	if err := tx.MoveTenant(ctx, m.tenant.ID, m.target.db.ID, m.args.Epoch+1); err != nil {
		return err
	}
	if err := tx.FinishOperation(ctx, m.op, catalog.OperationDone, ""); err != nil {
		return err
	}
	return m.planClearing(ctx, tx)
}

// undo takes back what was done before the gate was turned: the tenant never left. What was turned cannot be taken back,
// and goes forward instead.
func (m *move) undo(ctx context.Context) error {
	m.lower()
	if m.args.Target.IsZero() || m.target == nil {
		return nil
	}
	moved, err := m.hasMoved(ctx)
	if err != nil {
		return err
	}
	if moved {
		return m.switched(ctx)
	}
	m.to.close()
	m.to = nil
	if !m.args.Made {
		return m.leaveShared(ctx)
	}
	if m.target.db.State == catalog.DatabaseGone {
		return nil
	}
	if err := (&purge{m.target}).dropped(ctx); err != nil {
		return err
	}
	return m.update(ctx, "database.drop", m.target.db.Ref(), nil, func(tx *catalog.Tx) error {
		if err := tx.DropDatabase(ctx, m.target.db.ID); err != nil {
			return err
		}
		return tx.SetTenantMoving(ctx, m.tenant.ID, false)
	})
}

// leaveShared deletes what was brought into a shared database, if its gate is still ours.
func (m *move) leaveShared(ctx context.Context) error {
	s, err := m.openSide(ctx, m.target.db, m.tenant.ID)
	if err != nil {
		return err
	}
	defer s.close()
	g, err := gateOf(ctx, s)
	if err != nil || !g.isOf(m.op.ID, "incoming") {
		return err
	}
	return m.deleteRows(ctx, m.target.db, m.tenant.ID)
}

// cancelled says in the catalog that the tenant stays where it is.
func (m *move) cancelled(ctx context.Context, tx *catalog.Tx, _ bool) error {
	return moveFailed(ctx, tx, m.op)
}

// moveFailed lets routers ask no more than before. A retry begins anew.
func moveFailed(ctx context.Context, tx *catalog.Tx, op *catalog.Operation) error {
	var args tenants.MoveArgs
	if err := json.Unmarshal(op.Args, &args); err != nil {
		return nil // then nothing was done
	}
	if _, err := tx.Exec(ctx, `
		update rowhouse.operations
		   set step = '', args = args - 'target' - 'made' - 'servers'
		 where id = $1`, op.ID); err != nil {
		return err
	}
	var moving bool
	err := tx.QueryRow(ctx, `select moving from rowhouse.tenants where id = $1 for update`, op.Tenant).Scan(&moving)
	if err != nil || !moving {
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		return err
	}
	return tx.SetTenantMoving(ctx, op.Tenant, false)
}
