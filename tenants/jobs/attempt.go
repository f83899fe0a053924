package jobs

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/internal/fp"
	"github.com/rowhouse/rowhouse/migrations"
)

var (
	// errLost stops a step whose claim ended: another worker may have the operation.
	errLost = fmt.Errorf("claim was lost: %w", catalog.ErrConflict)
	// errCancelled stops a step of an operation that was asked to end early.
	errCancelled = errors.New("asked to end early")
	// errLeaving stops between two steps of a process that ends.
	errLeaving = errors.New("process ends")
)

// waitError is a step that waits for somebody else. It is not counted as an attempt.
type waitError struct {
	after time.Duration
	why   string
}

func (e *waitError) Error() string { return e.why }

// permanentError is a step that would fail again.
type permanentError struct{ cause error }

func (e *permanentError) Error() string { return e.cause.Error() }
func (e *permanentError) Unwrap() error { return e.cause }

func permanently(format string, args ...any) error {
	return &permanentError{fmt.Errorf(format, args...)}
}

// verdict is what comes of an attempt that was ours to make: the operation is finished, or comes again after a while.
type verdict struct {
	finished bool
	after    time.Duration
}

// attempt claims an operation and takes it as far as it goes. One that is finished or another worker's is ErrConflict.
func (r *Runner) attempt(ctx context.Context, id catalog.OperationID) (verdict, error) {
	op, err := r.catalog.Claim(ctx, id, r.cfg.Lease)
	if err != nil {
		return verdict{}, err
	}
	if lease := r.leaseOf(op); lease < r.cfg.Lease {
		if err := r.catalog.RenewClaim(ctx, op, lease); err != nil {
			return verdict{}, err
		}
	}
	err = errCancelled
	if op.Cancel == "" {
		err = r.underClaim(ctx, op, r.carryOut)
	}
	if errors.Is(err, errCancelled) {
		err = r.underClaim(ctx, op, r.endEarly)
	}
	if err == nil {
		return verdict{finished: true}, nil
	}
	if errors.Is(err, errLost) {
		return verdict{}, err
	}
	// The verdict is recorded even when the context that carried the work has ended.
	settling, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if errors.Is(ctx.Err(), context.Canceled) { // a deadline is the step's own fault
		err = errLeaving
	}
	return r.settle(settling, op, err)
}

// underClaim renews the claim while work runs, and ends work's context when it is lost.
func (r *Runner) underClaim(ctx context.Context, op *catalog.Operation, work func(context.Context, *catalog.Operation) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	renewed := make(chan struct{})
	go func() {
		defer close(renewed)
		r.renew(ctx, op, cancel)
	}()
	err := recovered(ctx, op, r, work)
	cancel(nil)
	<-renewed
	for _, why := range []error{errLost, errCancelled} {
		if err != nil && errors.Is(context.Cause(ctx), why) {
			return why
		}
	}
	return err
}

func recovered(ctx context.Context, op *catalog.Operation, r *Runner, work func(context.Context, *catalog.Operation) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			r.log.ErrorContext(ctx, "operation panicked", "operation", op.ID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic after step %q; the log has it", op.Step)
		}
	}()
	return work(ctx, op)
}

// cancelLook is how often the one who works on an operation looks whether it was asked to end early.
const cancelLook = time.Second

// renew keeps the claim until ctx ends. A catalog that does not answer is asked again for half of the lease. It also hears
// when the operation is to end early.
func (r *Runner) renew(ctx context.Context, op *catalog.Operation, lose context.CancelCauseFunc) {
	lease := r.leaseOf(op)
	tick := time.NewTicker(min(lease/4, cancelLook))
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		asking, cancel := context.WithTimeout(ctx, lease/4)
		due := time.Since(last) >= lease/4
		var err error
		if due {
			err = r.catalog.RenewClaim(asking, op, lease)
		}
		if err == nil && op.Cancel == "" {
			how, asked := r.catalog.Cancelled(asking, op)
			if asked == nil && how != "" {
				lose(errCancelled)
			}
		}
		cancel()
		switch {
		case err == nil && due:
			last = time.Now()
		case errors.Is(err, catalog.ErrConflict), time.Since(last) >= lease/2:
			lose(errLost)
			return
		}
	}
}

// leaseOf is how long an operation stays with a worker that is not heard of.
func (r *Runner) leaseOf(op *catalog.Operation) time.Duration {
	if lease := kinds[op.Kind].lease; lease > 0 {
		return min(lease, r.cfg.Lease)
	}
	return r.cfg.Lease
}

// settle records what comes of an attempt that did not finish the operation.
func (r *Runner) settle(ctx context.Context, op *catalog.Operation, cause error) (verdict, error) {
	var wait *waitError
	switch {
	case errors.Is(cause, errLeaving):
		return r.postpone(ctx, op, 0, "worker ended; another goes on", true)
	case errors.As(cause, &wait):
		return r.postpone(ctx, op, wait.after, wait.why, true)
	case isPermanent(cause) || op.Attempts >= r.cfg.Attempts:
		if kinds[op.Kind].whole {
			if err := r.takeBack(ctx, op); err != nil {
				return r.postpone(ctx, op, 5*time.Second, explain(fmt.Errorf("%w; what it did cannot be taken back yet: %w", cause, err)), true)
			}
		}
		r.log.ErrorContext(ctx, "operation failed", "operation", op.ID, "kind", op.Kind, "after", op.Step, "error", explain(cause))
		return verdict{finished: true}, r.fail(ctx, op, explain(cause))
	}
	r.log.WarnContext(ctx, "step failed", "operation", op.ID, "kind", op.Kind, "after", op.Step, "attempt", op.Attempts, "error", explain(cause))
	return r.postpone(ctx, op, r.backoff(op.Attempts), explain(cause), false)
}

// postpone gives the claim back. An attempt that only waited is taken back too.
func (r *Runner) postpone(ctx context.Context, op *catalog.Operation, wait time.Duration, why string, uncounted bool) (verdict, error) {
	if uncounted {
		if err := r.setAttempts(ctx, op, op.Attempts-1); err != nil {
			return verdict{}, err
		}
	}
	return verdict{after: wait}, r.catalog.PostponeClaim(ctx, op, wait, why)
}

func (r *Runner) setAttempts(ctx context.Context, op *catalog.Operation, n int) error {
	_, err := r.catalog.Pool().Exec(ctx, `
		update rowhouse.operations set attempts = $3 where id = $1 and op_epoch = $2`, op.ID, op.Epoch, max(n, 0))
	if err != nil {
		return fmt.Errorf("operation %s: %w", op.ID, err)
	}
	op.Attempts = max(n, 0)
	return nil
}

// backoff doubles with each attempt up to five minutes, with jitter so that what failed together does not come back together.
func (r *Runner) backoff(attempt int) time.Duration {
	d := min(r.cfg.Backoff<<min(max(attempt-1, 0), 20), 5*time.Minute)
	return d/2 + rand.N(d/2+1)
}

// fail ends an operation whose effects are kept: it can be retried, and goes on at its step.
func (r *Runner) fail(ctx context.Context, op *catalog.Operation, why string) error {
	event := catalog.Event{
		Action: op.Kind + ".failed", Operation: op.ID, Detail: map[string]any{"after": op.Step, "error": why},
		Target: catalog.Ref{Kind: "tenant", ID: [16]byte(op.Tenant), Name: op.TenantName},
	}
	return r.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.FinishOperation(ctx, op, catalog.OperationFailed, why); err != nil {
			return err
		}
		if failed := kinds[op.Kind].failed; failed != nil {
			return failed(ctx, tx, op)
		}
		return nil
	})
}

// carryOut does the steps of an operation that are not recorded yet.
func (r *Runner) carryOut(ctx context.Context, op *catalog.Operation) error {
	kind, ok := kinds[op.Kind]
	switch {
	case op.Kind == KindRollout:
		return permanently("a rollout is taken up by rowhouse migrate retry, or begun anew by rowhouse migrate up")
	case !ok:
		return unknown("kind " + op.Kind)
	}
	w, err := kind.begin(ctx, r, op)
	if err != nil {
		return err
	}
	defer w.close()
	for _, step := range remaining(op) {
		select {
		case <-r.leaving:
			return errLeaving
		default:
		}
		if w.passes(step) {
			continue
		}
		if err := r.step(ctx, op, kind, step, w.steps()[step]); err != nil {
			return err
		}
	}
	return nil
}

// endEarly ends an operation that was asked to end: what it did is kept, or taken back first.
func (r *Runner) endEarly(ctx context.Context, op *catalog.Operation) error {
	asked, err := r.catalog.Operation(ctx, op.ID)
	if err != nil {
		return err
	}
	op.Cancel, op.Args = asked.Cancel, asked.Args
	kind, ok := kinds[op.Kind]
	if !ok {
		return unknown("kind " + op.Kind)
	}
	w, err := kind.begin(ctx, r, op)
	if err != nil {
		return err
	}
	defer w.close()
	undone := op.Cancel == catalog.CancelUndo
	u, ok := w.(undoer)
	if !ok {
		return unknown("the way back from " + op.Kind)
	}
	if undone {
		if err := fp.Hit(kind.points + ".undo.before"); err != nil {
			return err
		}
		if err := u.undo(ctx); err != nil {
			return fmt.Errorf("undo: %w", err)
		}
		if err := fp.Hit(kind.points + ".undo.after"); err != nil {
			return err
		}
	}
	event := catalog.Event{
		Action: op.Kind + ".cancelled", Operation: op.ID, Detail: map[string]any{"after": op.Step, "undone": undone},
		Target: catalog.Ref{Kind: "tenant", ID: [16]byte(op.Tenant), Name: op.TenantName},
	}
	return r.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		if err := tx.FinishCancelled(ctx, op, undone); err != nil {
			return err
		}
		return u.cancelled(ctx, tx, undone)
	})
}

// takeBackTime bounds one try at taking back what an operation did.
const takeBackTime = time.Minute

// takeBack undoes what an operation did that is whole or not at all.
func (r *Runner) takeBack(ctx context.Context, op *catalog.Operation) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), takeBackTime)
	defer cancel()
	return r.underClaim(ctx, op, func(ctx context.Context, op *catalog.Operation) error {
		current, err := r.catalog.Operation(ctx, op.ID)
		if err != nil {
			return err
		}
		op.Args = current.Args
		w, err := kinds[op.Kind].begin(ctx, r, op)
		if err != nil {
			return err
		}
		defer w.close()
		return w.(undoer).undo(ctx)
	})
}

// unknown leaves an operation to a later program.
func unknown(what string) error {
	return &waitError{10 * time.Second, what + " is not known to this program"}
}

// step does one step and records it. The last one is recorded by its own effect.
func (r *Runner) step(ctx context.Context, op *catalog.Operation, kind kind, name string, do func(context.Context) error) error {
	point := kind.points + "." + name
	if do == nil {
		return unknown("step " + name)
	}
	if err := fp.Hit(point + ".before"); err != nil {
		return err
	}
	if err := do(ctx); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if err := fp.Hit(point + ".after"); err != nil {
		return err
	}
	if name == op.Steps[len(op.Steps)-1] {
		return nil
	}
	record := r.catalog.RecordStep
	if kind.light {
		record = r.catalog.RecordStepSoon
	}
	if err := record(ctx, op, name, ""); err != nil {
		if errors.Is(err, catalog.ErrConflict) {
			return errLost
		}
		return err
	}
	if op.Attempts > 1 { // attempts are counted for each step
		return r.setAttempts(ctx, op, 1)
	}
	return nil
}

func remaining(op *catalog.Operation) []string {
	for i, s := range op.Steps {
		if s == op.Step {
			return op.Steps[i+1:]
		}
	}
	return op.Steps
}

// isPermanent says that trying again would give the same answer.
func isPermanent(err error) bool {
	var permanent *permanentError
	var history *migrations.HistoryError
	var dirty *migrations.DirtyError
	var full *catalog.NoRoomError
	switch {
	case errors.As(err, &permanent), errors.As(err, &full), errors.As(err, &history), errors.As(err, &dirty):
		return true
	case errors.Is(err, catalog.ErrNotFound), errors.Is(err, catalog.ErrInvalid), errors.Is(err, catalog.ErrSealed):
		return true
	}
	switch state := migrations.SQLState(err); {
	case state == "42P04", state == "42710": // made in the meantime: the next look sees by whom
		return false
	case len(state) == 5:
		return strings.Contains(" 22 23 42 0A 2D ", " "+state[:2]+" ")
	}
	return false
}

// explain is an error as it is stored and shown: one line, and of a server's answer what it says, not what it was asked.
func explain(err error) string {
	text := err.Error()
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Hint != "" {
		text += " (" + pg.Hint + ")"
	}
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 500 {
		text = strings.ToValidUTF8(text[:500], "") + "…"
	}
	return text
}

// updateUnder writes to the catalog as long as the operation's claim holds; a lost one is errLost.
func (r *Runner) updateUnder(ctx context.Context, op *catalog.Operation, action string, target catalog.Ref, detail map[string]any, fn func(*catalog.Tx) error) error {
	event := catalog.Event{Action: action, Target: target, Operation: op.ID, Detail: detail}
	return r.catalog.Update(ctx, event, func(tx *catalog.Tx) error {
		tag, err := tx.Exec(ctx, `
			select from rowhouse.operations where id = $1 and op_epoch = $2 and state = 'running' for update`, op.ID, op.Epoch)
		if err != nil {
			return fmt.Errorf("operation %s: %w", op.ID, err)
		}
		if tag.RowsAffected() == 0 {
			return errLost
		}
		return fn(tx)
	})
}
