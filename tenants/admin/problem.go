package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// Problem is an answer that something cannot be done, as RFC 9457 has it. It holds nothing of what was sent.
//
// It is also the error that a Client gives: it is catalog.ErrNotFound, ErrExists, ErrConflict or ErrInvalid, or
// tenants.ErrCredential, ErrNotHost or ErrUnavailable, by its code.
type Problem struct {
	Type      string         `json:"type" doc:"Names the kind of problem"`
	Title     string         `json:"title" doc:"The status in words"`
	Status    int            `json:"status"`
	Detail    string         `json:"detail" doc:"What is wrong, for people"`
	Instance  string         `json:"instance,omitempty" doc:"Names this occurrence"`
	Code      string         `json:"code" doc:"What is wrong, for programs"`
	RequestID string         `json:"request_id,omitempty"`
	Errors    []ProblemError `json:"errors,omitempty" doc:"What is wrong with each part of the request"`

	challenge  bool
	retryAfter string
}

// ProblemError is what is wrong with one part of a request.
type ProblemError struct {
	Location string `json:"location" doc:"Such as body.name or query.limit"`
	Message  string `json:"message"`
}

// kinds are the problems by status: code and what is said when there is nothing better to say.
var kinds = map[int]struct{ code, detail string }{
	http.StatusBadRequest:            {"malformed", "The request cannot be read"},
	http.StatusUnauthorized:          {"unauthorized", "An operator's token is needed: Authorization: Bearer rhop_…"},
	http.StatusForbidden:             {"forbidden", "The token does not permit this"},
	http.StatusNotFound:              {"not_found", "There is nothing like that here"},
	http.StatusMethodNotAllowed:      {"method_not_allowed", "This path does not know the method"},
	http.StatusNotAcceptable:         {"not_acceptable", "The answer would be application/json"},
	http.StatusRequestTimeout:        {"timeout", "The request's body took too long"},
	http.StatusPreconditionFailed:    {"precondition_failed", "It is not as If-Match has it"},
	http.StatusTooManyRequests:       {"rate_limited", "Too much is taken away in too short a time; admin.destructive_per_minute bounds it"},
	http.StatusConflict:              {"conflict", "Something else changed or holds it"},
	http.StatusRequestEntityTooLarge: {"too_large", "The request's body is too large"},
	http.StatusUnsupportedMediaType:  {"unsupported_media_type", "The body must be application/json, as curl --json sends it"},
	http.StatusMisdirectedRequest:    {"misdirected", "The listener does not answer to this host name; admin.hosts adds one"},
	http.StatusUnprocessableEntity:   {"invalid", "The request does not fit"},
	http.StatusInternalServerError:   {"internal", "Something went wrong here; the log knows it by the request id"},
	http.StatusServiceUnavailable:    {"unavailable", "The catalog cannot be reached"},
}

// newProblem makes a problem; an empty code or detail is the usual one of its status.
func newProblem(status int, code, detail string) *Problem {
	kind, ok := kinds[status]
	if !ok {
		kind.code, kind.detail = strings.ReplaceAll(strings.ToLower(http.StatusText(status)), " ", "_"), http.StatusText(status)
	}
	if code == "" {
		code = kind.code
	}
	if detail == "" {
		detail = kind.detail
	}
	return &Problem{
		Type: "urn:rowhouse:problem:" + code, Title: http.StatusText(status), Status: status, Detail: detail, Code: code,
		challenge: status == http.StatusUnauthorized, retryAfter: retryAfter[code],
	}
}

// retryAfter is in how many seconds what was refused may be asked again, by code.
var retryAfter = map[string]string{"unavailable": "1", "in_flight": "1"}

// of gives the problem the id of its request.
func (p *Problem) of(id string) *Problem {
	if id != "" {
		p.RequestID, p.Instance = id, "urn:rowhouse:request:"+id
	}
	return p
}

// Error is its detail, with what is wrong with each part.
func (p *Problem) Error() string {
	text := p.Detail
	for _, e := range p.Errors {
		text += fmt.Sprintf("; %s: %s", e.Location, e.Message)
	}
	return text
}

// Is says which of our errors the problem was, before it went over the wire.
func (p *Problem) Is(target error) bool {
	for _, m := range meanings {
		if m.code == p.Code && m.err == target {
			return true
		}
	}
	return false
}

// GetStatus, GetHeaders and ContentType are huma's to call.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders gives the headers that go with the problem.
func (p *Problem) GetHeaders() http.Header {
	h := http.Header{}
	if p.challenge {
		h.Set("WWW-Authenticate", "Bearer")
	}
	if p.retryAfter != "" {
		h.Set("Retry-After", p.retryAfter)
	}
	return h
}

// ContentType gives the problem its own.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// meanings are our errors: status and code of the problem that each becomes. The first that fits holds.
var meanings = []struct {
	err    error
	status int
	code   string
	told   bool // its text is made for the one who asked
}{
	{tenants.ErrUnavailable, http.StatusServiceUnavailable, "unavailable", false},
	{tenants.ErrCredential, http.StatusUnauthorized, "unauthorized", false},
	{tenants.ErrNotHost, http.StatusForbidden, "forbidden", false},
	{catalog.ErrChanged, http.StatusPreconditionFailed, "precondition_failed", false},
	{catalog.ErrInFlight, http.StatusConflict, "in_flight", true},
	{catalog.ErrReused, http.StatusUnprocessableEntity, "key_reused", true},
	{catalog.ErrNotFound, http.StatusNotFound, "not_found", false},
	{catalog.ErrExists, http.StatusConflict, "already_exists", true},
	{catalog.ErrConflict, http.StatusConflict, "conflict", true},
	{catalog.ErrInvalid, http.StatusUnprocessableEntity, "invalid", true},
	{tenants.ErrInvalid, http.StatusUnprocessableEntity, "invalid", true},
}

// problemOf is the problem that an error becomes, and whether it is one that somebody should look into.
func problemOf(err error) (p *Problem, internal bool) {
	if errors.As(err, &p) {
		return p, false
	}
	for _, m := range meanings {
		if errors.Is(err, m.err) {
			detail := ""
			if m.told {
				detail = err.Error()
			}
			return newProblem(m.status, m.code, detail), false
		}
	}
	return newProblem(http.StatusInternalServerError, "", ""), true
}

// writeProblem answers a request that never came to huma.
func writeProblem(w http.ResponseWriter, r *http.Request, p *Problem) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	w.WriteHeader(p.Status)
	if r.Method != http.MethodHead {
		_ = json.NewEncoder(w).Encode(p.of(requestID(r.Context()))) // a client that left is told nothing
	}
}

// huma's own errors repeat the values that they refuse, a password too. They are made here instead: of a part that does
// not fit, its place and the rule it breaks are kept, and of huma's text for the whole, nothing.
func init() {
	huma.NewError = func(status int, _ string, errs ...error) huma.StatusError { return problemOfHuma(status, errs) }
	huma.NewErrorWithContext = func(ctx huma.Context, status int, _ string, errs ...error) huma.StatusError {
		return problemOfHuma(status, errs).of(requestID(ctx.Context()))
	}
}

func problemOfHuma(status int, errs []error) *Problem {
	p := newProblem(status, "", "")
	for _, err := range errs {
		var detail *huma.ErrorDetail
		if !errors.As(err, &detail) {
			continue
		}
		part := ProblemError{Location: cut(detail.Location), Message: cut(detail.Message)}
		if status == http.StatusBadRequest || status == http.StatusUnsupportedMediaType { // what could not be read is quoted
			part.Message = "cannot be read"
		}
		p.Errors = append(p.Errors, part)
	}
	return p
}

// cut keeps a text that names what a client made up, such as an unknown key, short.
func cut(s string) string {
	if len(s) > 120 {
		return strings.ToValidUTF8(s[:120], "") + "…"
	}
	return s
}
