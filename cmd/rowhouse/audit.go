package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
)

type auditRow struct{ catalog.Event }

func (auditRow) columns() []string {
	return []string{"seq", "at", "side", "actor", "action", "target", "operation"}
}

func (e auditRow) row() []any {
	operation := ""
	if !e.Operation.IsZero() {
		operation = e.Operation.String()
	}
	return []any{e.Seq, e.At.Format(time.DateTime), e.Actor.Side, e.Actor.Subject, e.Action, e.Target.Kind + " " + e.Target.Name, operation}
}

func (a *app) auditGroup() *cobra.Command {
	return group("audit", "The audit trail of the control plane", a.auditList())
}

func (a *app) auditList() *cobra.Command {
	var tenant string
	var limit int
	c := &cobra.Command{
		Use: "list", Short: "List what was changed, the newest first", Args: exactly(),
		RunE: a.show(func(ctx context.Context, _ []string) (any, error) {
			r, err := a.reachCatalog(ctx)
			if err != nil {
				return nil, err
			}
			defer r.close()
			var target [16]byte
			if tenant != "" {
				t, err := r.Tenant(ctx, tenant)
				if err != nil {
					return nil, err
				}
				target = t.ID
			}
			found, err := r.catalog.Events(ctx, target, limit)
			if err != nil {
				return nil, err
			}
			return rows(found, func(e catalog.Event) auditRow { return auditRow{e} }), nil
		}),
	}
	c.Flags().StringVar(&tenant, "tenant", "", "only about this tenant")
	c.Flags().IntVar(&limit, "limit", 100, "how many at most")
	return c
}
