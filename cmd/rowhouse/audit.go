package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
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

func (e auditRow) name() string { return strconv.FormatInt(e.Seq, 10) }

func (a *app) auditGroup() *cobra.Command {
	return group("audit", "The audit trail of the control plane", a.auditList(), a.auditVerify())
}

func (a *app) auditList() *cobra.Command {
	var q tenants.AuditQuery
	var since string
	var follow bool
	c := &cobra.Command{
		Use: "list", Short: "List what was changed, the newest first; with --follow the oldest first, and what comes", Args: exactly(),
		RunE: a.doAt(func(ctx context.Context, r *reach, _ []string) error {
			if since != "" {
				from, err := momentBefore(since, time.Now())
				if err != nil {
					return err
				}
				q.Since = from
			}
			if q.Limit < 1 {
				return usage("--limit: want 1 or more")
			}
			found, err := r.Events(ctx, q)
			if err != nil {
				return err
			}
			if !follow {
				return a.print(rows(found, func(e catalog.Event) auditRow { return auditRow{e} }))
			}
			slices.Reverse(found)
			return a.followTrail(ctx, r, q, found)
		}),
	}
	c.Flags().StringVar(&q.Tenant, "tenant", "", "only about this tenant")
	c.Flags().StringVar(&since, "since", "", "leave out what is older: a duration such as 24h, or a time such as 2027-01-01T06:00:00Z")
	c.Flags().IntVar(&q.Limit, "limit", 100, "how many at most; with --follow, to begin with")
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what is done from now on, until interrupted")
	return c
}

// followLook is how often the trail is looked at for what is new.
const followLook = 500 * time.Millisecond

// followTrail prints events, and those to come: a line each as a table, an object each as JSON.
func (a *app) followTrail(ctx context.Context, r *reach, q tenants.AuditQuery, found []catalog.Event) error {
	q.Oldest, q.Limit = true, 1000
	for {
		for _, e := range found {
			q.After = max(q.After, e.Seq)
			if err := a.printEvent(e); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followLook):
		}
		var err error
		if found, err = r.Events(ctx, q); err != nil {
			return contextError(ctx, err)
		}
	}
}

func (a *app) printEvent(e catalog.Event) error {
	switch a.output {
	case "json":
		return json.NewEncoder(a.stdout).Encode(e)
	case "yaml":
		fmt.Fprintln(a.stdout, "---")
		return a.print(auditRow{e})
	case "name":
		return a.print(auditRow{e})
	}
	var words []string
	for _, cell := range (auditRow{e}).row() {
		if text := strings.TrimSpace(fmt.Sprint(cell)); text != "" {
			words = append(words, text)
		}
	}
	_, err := fmt.Fprintln(a.stdout, strings.Join(words, "  "))
	return err
}

// momentBefore reads a time, or a duration until now.
func momentBefore(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	t, err := moment(text, now)
	if err != nil {
		return t, usage("--since: want a duration such as 24h, or a time such as 2027-01-01T06:00:00Z")
	}
	return t, nil
}
