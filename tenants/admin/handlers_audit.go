package admin

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

type listEventsInput struct {
	PageInput
	Tenant string    `query:"tenant" maxLength:"64" doc:"Name or id; of everything without one"`
	Since  time.Time `query:"since" doc:"Leaves out what is older"`
	Order  string    `query:"order" enum:"newest,oldest" default:"newest" doc:"Which come first"`
	After  int64     `query:"after" minimum:"0" doc:"With order=oldest: the seq of the last event that is known"`
}

func (in *listEventsInput) query() tenants.AuditQuery {
	return tenants.AuditQuery{Tenant: in.Tenant, Since: in.Since, Oldest: in.Order == "oldest"}
}

func (in *listEventsInput) filters() map[string][]string {
	since := ""
	if !in.Since.IsZero() {
		since = in.Since.Format(time.RFC3339Nano)
	}
	return filters("tenant", in.Tenant, "since", since, "order", in.Order)
}

func (s *service) registerAudit() {
	add(s, route{"list-audit-events", "Audit", "List what was done", http.MethodGet, "/audit", tenants.PermitAuditRead, 0},
		func(ctx context.Context, in *listEventsInput) (*listOutput[catalog.Event], error) {
			if in.After > 0 && in.Order != "oldest" {
				return nil, catalog.Invalid("after goes with order=oldest")
			}
			return paged("/audit", in.filters(), in.PageInput, func(e catalog.Event) string { return strconv.FormatInt(e.Seq, 10) },
				func(p catalog.Page) ([]catalog.Event, error) {
					if p.After == "" && in.After > 0 {
						p.After = strconv.FormatInt(in.After, 10)
					}
					return s.operator.EventsPage(ctx, in.query(), p)
				})
		})
}
