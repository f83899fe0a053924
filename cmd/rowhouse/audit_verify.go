package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
)

// verdictRow is a verdict as it is printed.
type verdictRow struct{ *catalog.AuditVerdict }

func (verdictRow) columns() []string { return []string{"events", "seals", "head", "broken"} }

func (v verdictRow) row() []any {
	broken := ""
	if v.Broken != nil {
		broken = v.Broken.What
	}
	return []any{v.Events, v.Seals, v.Head, broken}
}

func (v verdictRow) name() string { return v.Head }

func (a *app) auditVerify() *cobra.Command {
	var head string
	c := &cobra.Command{
		Use: "verify", Short: "Say whether the audit trail is as it was written", Args: exactly(),
		Long: "Looks through the whole trail and names the first event that was changed, taken out, put in or moved, with exit code 1.\nThe head it prints, kept elsewhere and given with --head later, also shows a trail that was cut or rewritten as a whole.",
		Example: `  rowhouse audit verify
  rowhouse audit verify -o name > head.txt
  rowhouse audit verify --head "$(cat head.txt)"`,
		RunE: a.doAt(func(ctx context.Context, r *reach, _ []string) error {
			v, err := r.VerifyAudit(ctx, head)
			if err != nil {
				return err
			}
			if err := a.print(verdictRow{v}); err != nil || v.Broken == nil {
				return err
			}
			return &coded{err: fmt.Errorf("the audit trail is not as it was written: at position %d, event %d: %s", v.Broken.Position, v.Broken.Event, v.Broken.What), code: exitFailure}
		}),
	}
	c.Flags().StringVar(&head, "head", "", "the head that an earlier verify printed")
	return c
}
