package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/rowhouse/rowhouse/catalog"
)

type opRow struct{ *catalog.Operation }

func (opRow) columns() []string {
	return []string{"id", "kind", "tenant", "state", "progress", "step", "attempts", "created", "error"}
}

func (o opRow) row() []any {
	done, total := o.Progress()
	return []any{o.ID, o.Kind, o.TenantName, o.State, fmt.Sprintf("%d/%d", done, total), o.Step, o.Attempts, o.CreatedAt.Format(time.DateTime), o.Error}
}

func (o opRow) name() string { return o.ID.String() }

func (a *app) opGroup() *cobra.Command {
	return group("op", "Operations: durable work on tenants and the fleet", a.opList(), a.opGet(), a.opWatch(), a.opCancel(), a.opRetry())
}

func asOpRow(o *catalog.Operation) opRow { return opRow{o} }

func (a *app) opList() *cobra.Command {
	var tenant string
	c := listVerb(a, "List the newest hundred operations, the newest first", func(ctx context.Context, r *reach) ([]*catalog.Operation, error) {
		return r.Operations(ctx, tenant)
	}, asOpRow)
	c.Flags().StringVar(&tenant, "tenant", "", "only this tenant's")
	return c
}

func operationID(text string) (catalog.OperationID, error) {
	id, err := catalog.ParseID[catalog.Operation](text)
	if err != nil {
		return id, usage("operation id: want its 36 characters")
	}
	return id, nil
}

func (a *app) opGet() *cobra.Command {
	return rowVerb(a, "get ID", "Show one operation", func(ctx context.Context, r *reach, args []string) (*catalog.Operation, error) {
		id, err := operationID(args[0])
		if err != nil {
			return nil, err
		}
		return r.Operation(ctx, id)
	}, asOpRow)
}

func (a *app) opWatch() *cobra.Command {
	return &cobra.Command{
		Use: "watch ID", Short: "Follow an operation to its end", Args: exactly("ID"),
		RunE: a.do(func(ctx context.Context, args []string) error {
			id, err := operationID(args[0])
			if err != nil {
				return err
			}
			r, err := a.reach(ctx)
			if err != nil {
				return err
			}
			defer r.close()
			op, err := a.watch(ctx, r, id)
			return a.ended(op, catalog.OperationDone, err)
		}),
	}
}

func (a *app) opCancel() *cobra.Command {
	var undo, yes bool
	var wait waitFlag
	c := &cobra.Command{
		Use: "cancel ID", Short: "End an operation early; what it did stays, or with --undo is taken back", Args: exactly("ID"),
		Long:    "A step that is being done is interrupted. What was cancelled or has failed can be retried as long as it was not undone.",
		Example: "  rowhouse op cancel 0199… --wait\n  rowhouse op cancel 0199… --undo --yes --wait=1m",
		RunE: a.doAt(func(ctx context.Context, r *reach, args []string) error {
			id, err := operationID(args[0])
			if err != nil {
				return err
			}
			if undo {
				if err := a.confirm(yes, "take back all that operation "+id.String()+" did"); err != nil {
					return err
				}
			}
			op, err := r.CancelOperation(ctx, id, undo)
			if err != nil {
				return err
			}
			return a.followTo(ctx, r, op, catalog.OperationCancelled, wait)
		}),
	}
	c.Flags().BoolVar(&undo, "undo", false, "take back what it did: the database it was making is dropped")
	c.Flags().BoolVar(&yes, "yes", false, "do not ask")
	wait.add(c)
	return c
}

func (a *app) opRetry() *cobra.Command {
	var wait waitFlag
	c := &cobra.Command{
		Use: "retry ID", Short: "Let a failed operation go on at its step", Args: exactly("ID"),
		RunE: a.do(func(ctx context.Context, args []string) error {
			id, err := operationID(args[0])
			if err != nil {
				return err
			}
			r, err := a.reach(ctx)
			if err != nil {
				return err
			}
			defer r.close()
			op, err := r.RetryOperation(ctx, id)
			if err != nil {
				return err
			}
			return a.follow(ctx, r, op, wait)
		}),
	}
	wait.add(c)
	return c
}

// waitFlag is --wait[=D]: whether to follow an operation, and how long at most.
type waitFlag struct{ text string }

const waitForEver = "0"

func (w *waitFlag) add(c *cobra.Command) {
	c.Flags().StringVar(&w.text, "wait", "", "follow the operation to its end, or for this long (--wait=2m)")
	c.Flags().Lookup("wait").NoOptDefVal = waitForEver
}

// bound is ctx with the flag's limit.
func (w waitFlag) bound(ctx context.Context) (context.Context, context.CancelFunc, error) {
	if w.text == waitForEver {
		return ctx, func() {}, nil
	}
	d, err := time.ParseDuration(w.text)
	if err != nil || d <= 0 {
		return nil, nil, usage("--wait: want a duration, such as --wait=2m")
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	return ctx, cancel, nil
}

// follow prints an operation: at once without --wait, else when it has ended. Against a bare catalog this process does the
// work while it waits.
func (a *app) follow(ctx context.Context, r *reach, op *catalog.Operation, wait waitFlag) error {
	return a.followTo(ctx, r, op, catalog.OperationDone, wait)
}

// followTo is follow for an operation that is wanted to end in a state.
func (a *app) followTo(ctx context.Context, r *reach, op *catalog.Operation, want catalog.OperationState, wait waitFlag) error {
	if wait.text == "" {
		if r.near() {
			if n, err := r.catalog.Workers(ctx); err == nil && n == 0 {
				fmt.Fprintln(a.stderr, "nobody is there to carry it out: start `rowhouse serve`, or follow it with --wait")
			}
		}
		return a.print(opRow{op})
	}
	bounded, cancel, err := wait.bound(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if r.near() {
		working, stop := context.WithCancel(bounded)
		worked := make(chan struct{})
		go func() {
			defer close(worked)
			_, _ = r.runner.Work(working, op.ID)
		}()
		defer func() { stop(); <-worked }()
	}
	op, err = a.watch(bounded, r, op.ID)
	if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
		return &coded{err: fmt.Errorf("operation %s goes on; --wait is over", op.ID), code: exitFailure, hint: "rowhouse op watch " + op.ID.String()}
	}
	return a.ended(op, want, err)
}

// ended prints an operation that has ended, or says why it is no longer followed.
func (a *app) ended(op *catalog.Operation, want catalog.OperationState, err error) error {
	if err != nil {
		if errors.Is(err, context.Canceled) && op != nil {
			return &coded{err: fmt.Errorf("operation %s goes on", op.ID), code: exitInterrupted, hint: "rowhouse op watch " + op.ID.String()}
		}
		return err
	}
	if err := a.print(opRow{op}); err != nil {
		return err
	}
	if op.State != want {
		return &coded{err: fmt.Errorf("operation %s %s: %s", op.ID, op.State, op.Error), code: exitFailure, hint: "rowhouse op retry " + op.ID.String() + " --wait"}
	}
	return nil
}

// watch follows an operation until it is finished: as a bar on a terminal, else a line for each event.
func (a *app) watch(ctx context.Context, r *reach, id catalog.OperationID) (*catalog.Operation, error) {
	op, err := r.Operation(ctx, id)
	if err != nil {
		return &catalog.Operation{ID: id}, err
	}
	report, done := a.reporter(op)
	defer done()
	var seen int64
	for {
		events, err := r.OperationEvents(ctx, id, seen)
		if err != nil {
			return op, contextError(ctx, err)
		}
		for _, e := range events {
			seen = e.Seq
			report(op, e)
		}
		current, err := r.Operation(ctx, id)
		if err != nil {
			return op, contextError(ctx, err)
		}
		op = current
		if op.State.Finished() {
			report(op, nil)
			return op, nil
		}
		select {
		case <-ctx.Done():
			return op, ctx.Err()
		case <-time.After(150 * time.Millisecond):
		}
	}
}

// contextError prefers the context's own error to what it made of a call.
func contextError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (a *app) reporter(op *catalog.Operation) (report func(*catalog.Operation, *catalog.OperationEvent), done func()) {
	if a.quiet {
		return func(*catalog.Operation, *catalog.OperationEvent) {}, func() {}
	}
	if !a.isTerminal(a.stderr) {
		return func(op *catalog.Operation, e *catalog.OperationEvent) {
			if e != nil {
				fmt.Fprintln(a.stderr, strings.Join(strings.Fields(strings.Join([]string{op.Kind, string(e.State), e.Step, e.Message}, " ")), " "))
			}
		}, func() {}
	}
	_, total := op.Progress()
	step := op.Step
	bars := mpb.New(mpb.WithOutput(a.stderr), mpb.WithWidth(40))
	bar := bars.AddBar(int64(total), mpb.PrependDecorators(decor.Name(op.Kind+" "+op.TenantName+" ")),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return step })))
	return func(op *catalog.Operation, e *catalog.OperationEvent) {
			if e != nil && e.Step != "" {
				step = e.Step
			}
			n, _ := op.Progress()
			bar.SetCurrent(int64(n))
		}, func() {
			bar.Abort(false)
			bars.Wait()
		}
}
