package jobs

import (
	"context"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// kind is a sort of operation that this program can carry out.
type kind struct {
	// points is what the names of its failpoints begin with: each step has one before it and one after it.
	points string

	// light says that no step is a point of no return: whoever finds it unrecorded does it again, and nothing is lost. Its
	// record then need not wait for the catalog's disk.
	light bool

	// lease is how long the operation stays with a worker that is not heard of, where that is less than Config.Lease.
	lease time.Duration

	// whole says that an operation which fails is undone first (undoer): nothing of it is kept.
	whole bool

	// begin makes an attempt at an operation. The claim is held.
	begin func(context.Context, *Runner, *catalog.Operation) (work, error)

	// failed says in the catalog what becomes of the operation's tenant or database when it has failed, in the same
	// transaction. Nil: nothing.
	failed func(context.Context, *catalog.Tx, *catalog.Operation) error
}

// kinds are all of them, by the name in the operation's row. A rollout is driven by its targets and is not among them.
var kinds = map[string]kind{
	tenants.KindPromote:   {points: "move", lease: moveLease, whole: true, begin: beginMove, failed: moveFailed},
	tenants.KindDemote:    {points: "move", lease: moveLease, whole: true, begin: beginMove, failed: moveFailed},
	tenants.KindMove:      {points: "move", lease: moveLease, whole: true, begin: beginMove, failed: moveFailed},
	tenants.KindClear:     {points: "clear", begin: beginClearing},
	tenants.KindDelete:    {points: "delete", begin: beginDeletion},
	tenants.KindUndelete:  {points: "undelete", begin: beginUndeletion},
	tenants.KindPurge:     {points: "purge", begin: beginPurge},
	tenants.KindImport:    {points: "import", begin: beginImport, failed: provisionFailed},
	tenants.KindEnforce:   {points: "enforce", begin: beginEnforcement},
	tenants.KindSpare:     {points: "spare", light: true, begin: beginSpare},
	tenants.KindRotate:    {points: "rotate", begin: beginRotation},
	tenants.KindProvision: {points: "provision", light: true, begin: beginProvision, failed: provisionFailed},
}

// work is one attempt at an operation: it knows how each of the steps that the operation's row names is done.
type work interface {
	// steps are the functions of the steps by name. Each looks first whether its effect is there, and does what is missing: a step may run again after it was
	// done. It is recorded when its function has returned. The last one records itself, with the operation's end
	// (catalog.Tx.FinishOperation), in the transaction of its own effect.
	steps() map[string]func(context.Context) error

	// passes says that a step has nothing to do this time. It is asked when the steps before it are done.
	passes(step string) bool

	// close gives back what the attempt holds. It is called once, however the attempt ended.
	close()
}

// undoer is work that can be cancelled (tenants.Cancellable).
type undoer interface {
	// undo takes back on the servers what the operation did, whatever step it came to. Like a step it may run again.
	undo(ctx context.Context) error

	// cancelled says in the catalog what becomes of the tenant or database, in the transaction that ends the operation.
	cancelled(ctx context.Context, tx *catalog.Tx, undone bool) error
}
