package identity

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/tenants"
)

// Beginner begins transactions in the database of a context's tenant. It is satisfied by *router.Router.
type Beginner interface {
	BeginTx(ctx context.Context, opts pgx.TxOptions) (pgx.Tx, error)
}

// The permissions of a tenant's own side: roles of the tenant are given some of them.
const (
	PermitAll       = "*"
	PermitAuditRead = "audit.read.tenant"
)

// permissions are what a session may do in its tenant: all as service_role, else what the user's roles were given.
func permissions(ctx context.Context, tx pgx.Tx, s tenants.Session) ([]string, error) {
	if s.Role() == tenants.RoleService {
		return []string{PermitAll}, nil
	}
	id, err := uuid.Parse(s.Subject())
	if err != nil || s.Side() != tenants.SideTenant {
		return []string{}, nil
	}
	rows, _ := tx.Query(ctx, `
		select distinct p.permission
		  from rowhouse.users u
		  join rowhouse.user_roles ur on ur.tenant_id = u.tenant_id and ur.user_id = u.id
		  join rowhouse.permissions p on p.tenant_id = ur.tenant_id and p.role = ur.role
		 where u.id = $1 and u.state = 'active'
		 order by 1`, id.String())
	return pgx.CollectRows(rows, pgx.RowTo[string])
}

// asService begins a transaction of the session's tenant as the program itself, whoever asks. It is READ ONLY.
func (h *handler) asService(ctx context.Context, s tenants.Session, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return tenants.With(tenants.NewContext(ctx, tenants.Session{}), s.Tenant(), func(ctx context.Context) error {
		tx, err := h.cfg.Begin.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
		return fn(ctx, tx)
	})
}

// trailItem is a line of a tenant's trail: a change that was audited, or a request.
type trailItem struct {
	At           time.Time       `json:"at"`
	ID           uuid.UUID       `json:"id"`
	Kind         string          `json:"kind"`
	Actor        string          `json:"actor"`
	Impersonator *string         `json:"impersonator"`
	Action       string          `json:"action"`
	Target       string          `json:"target"`
	Detail       json.RawMessage `json:"detail"`
	RequestID    *string         `json:"request_id"`
}

// trailQuery is which part of the trail is wanted.
type trailQuery struct {
	kind         string
	since, until time.Time
	limit        int
	before       time.Time
	beforeID     uuid.UUID
	stream       bool
}

// How many lines a page has, unless it says otherwise, and at most.
const (
	trailLimit = 100
	trailMost  = 1000
)

// badQuery is a query that cannot be answered; its text names the parameter and not the value.
type badQuery struct{ text string }

func (e *badQuery) Error() string { return e.text }

func readTrailQuery(values url.Values) (q trailQuery, err error) {
	q.limit = trailLimit
	for name, given := range values {
		value := given[0]
		ok := len(given) == 1
		switch name {
		case "kind":
			q.kind = value
			ok = ok && slices.Contains([]string{"change", "request"}, value)
		case "since":
			q.since, err = time.Parse(time.RFC3339, value)
		case "until":
			q.until, err = time.Parse(time.RFC3339, value)
		case "limit":
			q.limit, err = strconv.Atoi(value)
			ok = ok && q.limit >= 1 && q.limit <= trailMost
		case "cursor":
			q.before, q.beforeID, err = readTrailCursor(value)
		default:
			return q, &badQuery{fmt.Sprintf("The parameter %.60q is not known; there are kind, since, until, limit and cursor", name)}
		}
		if err != nil || !ok {
			return q, &badQuery{map[string]string{
				"kind": "kind must be change or request", "limit": "limit must be a number from 1 to 1000", "cursor": "cursor is none that this list gave",
			}[name] + map[bool]string{true: name + " must be a time such as 2027-01-01T06:00:00Z"}[name == "since" || name == "until"]}
		}
	}
	return q, nil
}

func trailCursor(i trailItem) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%d %s", i.At.UnixMicro(), i.ID))
}

func readTrailCursor(cursor string) (at time.Time, id uuid.UUID, err error) {
	text, err := base64.RawURLEncoding.DecodeString(cursor)
	if err != nil {
		return at, id, err
	}
	micros, rest, _ := strings.Cut(string(text), " ")
	n, err := strconv.ParseInt(micros, 10, 64)
	if err != nil {
		return at, id, err
	}
	id, err = uuid.Parse(rest)
	return time.UnixMicro(n), id, err
}

const selectTrail = `
select at, id, kind, actor, impersonator, action, target, detail, request_id
  from (select at, id, 'change' kind, actor, nullif(impersonator, '') impersonator, action, target, detail, nullif(request_id, '') request_id
          from rowhouse.audit
        union all
        select at, id, 'request', subject, nullif(impersonator, ''), method, route,
               jsonb_strip_nulls(jsonb_build_object('status', status, 'code', nullif(code, ''), 'duration_us', duration_us, 'side', side,
                 'role', nullif(role, ''), 'rows', rows, 'address', nullif(address, ''), 'agent', nullif(agent, ''), 'trace_id', nullif(trace_id, ''))),
               nullif(request_id, '')
          from rowhouse.requests
         where $1::interval is null or at >= now() - $1::interval) trail
 where ($2 = '' or kind = $2) and ($3::timestamptz is null or at >= $3) and ($4::timestamptz is null or at < $4)
   and ($5::timestamptz is null or (at, id) < ($5, $6::uuid))
 order by at desc, id desc
 limit $7`

// audit answers a tenant's own trail, the newest first: what was changed and what was asked.
func (h *handler) audit(w http.ResponseWriter, r *http.Request) {
	s, ok := h.reader(w, r)
	if !ok {
		return
	}
	q, err := readTrailQuery(r.URL.Query())
	if err != nil {
		refuse(w, http.StatusBadRequest, "query_invalid", err.Error())
		return
	}
	q.stream = strings.Contains(r.Header.Get("Accept"), "application/x-ndjson")
	var retention *time.Duration
	if d := h.cfg.Retention(s.Tenant()); d > 0 {
		retention = &d
	}
	var items []trailItem
	err = h.asService(r.Context(), s, func(ctx context.Context, tx pgx.Tx) error {
		may, err := permissions(ctx, tx, s)
		if err != nil {
			return err
		}
		if !slices.Contains(may, PermitAuditRead) && !slices.Contains(may, PermitAll) {
			return errNotPermitted
		}
		rows, _ := tx.Query(ctx, selectTrail, retention, q.kind, orNullTime(q.since), orNullTime(q.until), orNullTime(q.before), q.beforeID.String(), q.limit+1)
		items, err = pgx.CollectRows(rows, pgx.RowToStructByPos[trailItem])
		return err
	})
	switch {
	case errors.Is(err, errNotPermitted):
		refuse(w, http.StatusForbidden, "permission_denied", "The permission "+PermitAuditRead+" is needed")
	case isUndefined(err):
		refuse(w, http.StatusNotFound, "not_found", "The database keeps no trail: it is as its owner made it")
	case err != nil:
		h.cfg.Error(w, r, err)
	default:
		answerTrail(w, r, q, items)
	}
}

var errNotPermitted = errors.New("permission is lacking")

// isUndefined says that a database lacks what every one of ours has.
func isUndefined(err error) bool {
	var coded interface{ SQLState() string }
	return errors.As(err, &coded) && (coded.SQLState() == "42P01" || coded.SQLState() == "3F000")
}

func orNullTime(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// answerTrail answers a page, or with Accept: application/x-ndjson a line for each item.
func answerTrail(w http.ResponseWriter, r *http.Request, q trailQuery, items []trailItem) {
	body := struct {
		Items      []trailItem `json:"items"`
		NextCursor *string     `json:"next_cursor"`
	}{Items: items[:min(len(items), q.limit)]}
	if len(items) > q.limit {
		next := trailCursor(body.Items[q.limit-1])
		body.NextCursor = &next
		link := *r.URL
		values := link.Query()
		values.Set("cursor", next)
		w.Header().Set("Link", fmt.Sprintf(`<%s?%s>; rel="next"`, link.EscapedPath(), values.Encode()))
	}
	if !q.stream {
		answer(w, http.StatusOK, body)
		return
	}
	var text strings.Builder
	lines := json.NewEncoder(&text)
	for _, item := range body.Items {
		_ = lines.Encode(item) // what came out of the database as JSON is JSON
	}
	answerText(w, http.StatusOK, "application/x-ndjson", []byte(text.String()))
}
