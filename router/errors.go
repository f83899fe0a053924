package router

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/internal/budget"
	"github.com/rowhouse/rowhouse/router/internal/lease"
	"github.com/rowhouse/rowhouse/tenants"
)

// What a router answers when it cannot lend a connection. They come wrapped with their cause, which is for the log.
var (
	// ErrUnavailable means that the tenant's database cannot be reached, or is not the one that the catalog means.
	ErrUnavailable = errors.New("database is not available")
	// ErrUpgrading means that the schema of the tenant's database is not one that is served: it is being migrated.
	ErrUpgrading = errors.New("database is being upgraded")
	// ErrMoving means that the tenant is on its way to another database and took too long.
	ErrMoving = errors.New("tenant is being moved")
	// ErrOverloaded means that no connection came free in time.
	ErrOverloaded = errors.New("no connection came free in time")
	// ErrReadOnly means that a read-only tenant was asked for a transaction that writes.
	ErrReadOnly = errors.New("tenant is read-only")
)

// What became of a request's work.
const (
	notStarted = "not_started"
	rolledBack = "rolled_back"
	unknown    = "unknown"
)

// refusal is work that was not begun, with a cause for the log.
type refusal struct {
	kind, cause error
	wait        time.Duration // 0 is a second
}

func (e *refusal) Error() string   { return e.kind.Error() + ": " + e.cause.Error() }
func (e *refusal) Unwrap() []error { return []error{e.kind, e.cause} }
func (e *refusal) Outcome() string { return notStarted }

// RetryAfter is how long the client should wait.
func (e *refusal) RetryAfter() time.Duration { return or(e.wait, time.Second) }

// refuse says why no connection, or no transaction on it, was to be had. A caller who left gets its own context's error.
func refuse(ctx context.Context, err error) error {
	var known *refusal
	var pg *pgconn.PgError
	switch {
	case errors.As(err, &known), errors.Is(err, ErrRateLimited), errors.Is(err, tenants.ErrUnavailable):
		return err
	case ctx.Err() != nil:
		return &refusal{kind: ctx.Err(), cause: errors.New("waiting for a connection")}
	case errors.Is(err, budget.ErrFull), errors.Is(err, errTooLate), errors.Is(err, context.DeadlineExceeded) && !errors.As(err, new(*pgconn.ConnectError)):
		return &refusal{kind: ErrOverloaded, cause: bare(err)}
	case errors.As(err, &pg) && pg.Code == "53300":
		return &refusal{kind: ErrOverloaded, cause: bare(err)}
	case errors.Is(err, lease.ErrClosed):
		return &refusal{kind: ErrUnavailable, cause: errors.New("router is closed")}
	}
	return &refusal{kind: ErrUnavailable, cause: bare(err)}
}

// bare keeps what an error says and the server's answer in it, and drops what it carries: pgx's connect error holds the
// whole configuration.
func bare(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg
	}
	return errors.New(err.Error())
}

// unlessKnown keeps what the directory says about a tenant and makes everything else ErrUnavailable.
func unlessKnown(err error) error {
	if errors.Is(err, tenants.ErrNotFound) || errors.Is(err, tenants.ErrUnavailable) {
		return err
	}
	return &refusal{kind: ErrUnavailable, cause: bare(err)}
}

// ended is a transaction whose end is known.
type ended struct {
	error
	outcome string
}

func (e *ended) Unwrap() error   { return e.error }
func (e *ended) Outcome() string { return e.outcome }

// lostCommit is a commit that was sent and never answered.
type lostCommit struct{ cause error }

func (e *lostCommit) Error() string   { return "answer to commit lost: " + e.cause.Error() }
func (e *lostCommit) Unwrap() error   { return e.cause }
func (e *lostCommit) Outcome() string { return unknown }

// Hint says what the client can do about it.
func (e *lostCommit) Hint() string { return "retry with the same Idempotency-Key" }

// roleError is a role that no transaction may run as.
type roleError struct{ role string }

func (e *roleError) Error() string     { return "role " + strconv.Quote(e.role) + " does not exist" }
func (e *roleError) Code() string      { return "22023" }
func (e *roleError) Status() int       { return http.StatusUnauthorized }
func (e *roleError) Challenge() string { return "Bearer" }
func (e *roleError) Outcome() string   { return notStarted }

// anonymousError is a request without a role where nobody may be without.
type anonymousError struct{}

var errAnonymous = anonymousError{}

func (anonymousError) Error() string     { return "Anonymous access is disabled" }
func (anonymousError) Code() string      { return "PGRST302" }
func (anonymousError) Status() int       { return http.StatusUnauthorized }
func (anonymousError) Challenge() string { return "Bearer" }
func (anonymousError) Outcome() string   { return notStarted }

// isFatal says that the server ended the connection with this error.
func isFatal(err *pgconn.PgError) bool {
	return err.SeverityUnlocalized == "FATAL" || err.SeverityUnlocalized == "PANIC" || err.Severity == "FATAL" || err.Severity == "PANIC"
}

// isLost says that a connection ended under a statement. Only an error that is a transaction's is asked: an application has
// connections of its own, whose end is none of ours.
func isLost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, new(net.Error))
}

// outcomeOf is what an error says of the work; empty when it says nothing.
func outcomeOf(err error) string {
	var e interface{ Outcome() string }
	if errors.As(err, &e) {
		return e.Outcome()
	}
	return ""
}

// answer is what a client is told.
type answer struct {
	status  int
	code    string
	message string
	outcome string // where the error itself says nothing
}

// statusClientGone is what the log shows of a client that left; nobody reads the answer.
const statusClientGone = 499

// answers is the table from error to answer. The first row whose error stands in the chain holds.
var answers = []struct {
	is error
	answer
}{
	{tenants.ErrMismatch, answer{403, "tenant_mismatch", "The request names different tenants.", notStarted}},
	{tenants.ErrCredential, answer{401, "credential_invalid", "The credential does not hold.", notStarted}},
	{tenants.ErrNoTenant, answer{400, "tenant_required", "The request names no tenant.", notStarted}},
	{tenants.ErrWrongTenant, answer{500, "internal", "", ""}},
	{ErrReadOnly, answer{403, "tenant_read_only", "The tenant is read-only.", notStarted}},
	{tenants.ErrSuspended, answer{403, "tenant_suspended", "The tenant is suspended.", notStarted}},
	{tenants.ErrMaintenance, answer{503, "tenant_upgrading", "The tenant is under maintenance.", notStarted}},
	{tenants.ErrUnavailable, answer{503, "database_unavailable", "The tenant cannot be looked up now.", notStarted}},
	{ErrUpgrading, answer{503, "tenant_upgrading", "The tenant's database is being upgraded.", notStarted}},
	{ErrMoving, answer{503, "tenant_moving", "The tenant is being moved to another database.", notStarted}},
	{ErrOverloaded, answer{503, "overloaded", "No connection to the tenant's database came free in time.", notStarted}},
	{ErrUnavailable, answer{503, "database_unavailable", "The tenant's database is not available.", notStarted}},
	{tenants.ErrInvalid, answer{400, "tenant_invalid", "The request names a tenant in a way that cannot be read.", notStarted}},
	{tenants.ErrNotFound, answer{404, "tenant_not_found", "There is no such tenant.", notStarted}},
}

// sqlAnswers is the same table for what a database says of work that is none of the client's mistakes. The rest of what a
// database can say is the dialect's to answer.
var sqlAnswers = map[string]answer{
	"40001": {409, "40001", "The transaction lost against another one and can be retried.", rolledBack},
	"40P01": {409, "40P01", "The transaction lost against another one and can be retried.", rolledBack},
	"57014": {504, "statement_timeout", "The statement took too long.", rolledBack},
	"55P03": {503, "overloaded", "A lock did not come free in time.", rolledBack},
	"25006": {503, "database_unavailable", "The tenant's database does not take writes now.", rolledBack},
	"57P01": {503, "database_unavailable", "The tenant's database is not available.", rolledBack},
	"57P02": {503, "database_unavailable", "The tenant's database is not available.", rolledBack},
	"57P03": {503, "database_unavailable", "The tenant's database is not available.", notStarted},
	"53100": {503, "database_unavailable", "The tenant's database does not take writes now.", rolledBack},
	"53300": {503, "overloaded", "The tenant's database has no connection free.", notStarted},
}

// answerTo finds the answer to an error. Whatever nobody foresaw is an internal error, whose text is for the log only.
func answerTo(ctx context.Context, err error) answer {
	var own interface {
		error
		Code() string
		Status() int
	}
	if errors.As(err, &own) {
		return answer{own.Status(), own.Code(), own.Error(), ""}
	}
	if outcomeOf(err) == unknown {
		return answer{504, "outcome_unknown", "Whether the change was made is not known: the database's answer was lost.", unknown}
	}
	for _, row := range answers {
		if errors.Is(err, row.is) {
			return row.answer
		}
	}
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		if a, ok := sqlAnswers[pg.Code]; ok {
			return a
		}
	}
	var body *http.MaxBytesError
	switch {
	case errors.As(err, &body):
		return answer{413, "payload_too_large", "The request's body is too large.", notStarted}
	case errors.Is(err, context.Canceled) && ctx.Err() != nil:
		return answer{statusClientGone, "client_gone", "The client left.", ""}
	case errors.Is(err, context.DeadlineExceeded):
		return answer{504, "statement_timeout", "The request took too long.", ""}
	case outcomeOf(err) == notStarted, outcomeOf(err) == rolledBack && isLost(err), pg != nil && isFatal(pg):
		return answer{503, "database_unavailable", "The tenant's database is not available.", ""}
	}
	return answer{500, "internal", "", ""}
}

// body is the form of every error on the data plane.
type body struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Details *string `json:"details"`
	Hint    *string `json:"hint"`
}

// WriteError answers a request with an error, by the one table from errors to answers. An error may say more of itself by
// small methods, which are looked for in its chain: Code, Status and Challenge (WWW-Authenticate), Outcome, RetryAfter,
// Details and Hint. The text of an error that is not foreseen goes to slog's default logger and not to the client.
func WriteError(w http.ResponseWriter, r *http.Request, err error) {
	a := answerTo(r.Context(), err)
	h := w.Header()
	id := h.Get(headerRequestID)
	if id == "" {
		id = requestID(r)
		h.Set(headerRequestID, id)
	}
	logError(r.Context(), id, a, err)
	if a.code == "internal" {
		a.message = "Something went wrong. Tell the operator the request id " + id + "."
	}
	if outcome := or(outcomeOf(err), a.outcome); outcome != "" && isWrite(r.Method) {
		h.Set("Rowhouse-Outcome", outcome)
	}
	if a.status == http.StatusServiceUnavailable || a.status == http.StatusTooManyRequests {
		h.Set("Retry-After", retryAfter(err))
	}
	var limit interface{ RateLimit() (policy, state string) }
	if errors.As(err, &limit) {
		policy, state := limit.RateLimit()
		h.Set("RateLimit-Policy", policy)
		h.Set("RateLimit", state)
	}
	if a.status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", challenge(err))
	}
	var stale *tenants.CookieError
	if errors.As(err, &stale) { // it must lock nobody out
		http.SetCookie(w, &http.Cookie{Name: stale.Cookie, Path: "/", MaxAge: -1, HttpOnly: true})
	}
	h.Set("Proxy-Status", "rowhouse; error="+a.code)
	h.Set("Cache-Control", "private, no-store") // what is not found or not allowed now may be in a moment
	write(w, a.status, body{a.code, a.message, details(err), hint(err)})
}

func write(w http.ResponseWriter, status int, b body) {
	text, err := json.Marshal(b)
	if err != nil { // four strings
		panic(err)
	}
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text)
}

// logError keeps what the client is not told.
func logError(ctx context.Context, id string, a answer, err error) {
	level := slog.LevelDebug
	switch {
	case a.status == http.StatusInternalServerError:
		level = slog.LevelError
	case a.status > http.StatusInternalServerError:
		level = slog.LevelWarn
	}
	slog.Default().Log(ctx, level, "request refused", "request_id", id, "code", a.code, "error", bare(err).Error())
}

func isWrite(method string) bool {
	return method != http.MethodGet && method != http.MethodHead && method != http.MethodOptions
}

func retryAfter(err error) string {
	var e interface{ RetryAfter() time.Duration }
	wait := time.Second
	if errors.As(err, &e) {
		wait = e.RetryAfter()
	}
	return strconv.Itoa(max(1, int(math.Ceil(wait.Seconds()))))
}

func challenge(err error) string {
	var e interface{ Challenge() string }
	if errors.As(err, &e) {
		return e.Challenge()
	}
	return "Bearer"
}

func details(err error) *string {
	var e interface{ Details() string }
	return told(errors.As(err, &e), func() string { return e.Details() })
}

func hint(err error) *string {
	var e interface{ Hint() string }
	return told(errors.As(err, &e), func() string { return e.Hint() })
}

func told(found bool, text func() string) *string {
	if !found {
		return nil
	}
	if t := text(); t != "" {
		return &t
	}
	return nil
}
