package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/rest/internal/exec"
	"github.com/rowhouse/rowhouse/router/rest/internal/parse"
	"github.com/rowhouse/rowhouse/router/rest/internal/plan"
)

// An apiError is an answer of the dialect: its status and its body of four keys.
type apiError struct {
	status  int
	code    string
	message string
	details any // nil or a text, but for the few that give a list
	hint    any
	header  http.Header
	outcome string // "" is what the cause says, not_started without one
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

// problem is a PGRST error by its code.
func problem(code, message string) *apiError {
	return &apiError{status: statusOf(code), code: code, message: message}
}

func (e *apiError) with(details, hint string) *apiError {
	e.details, e.hint = orNull(details), orNull(hint)
	return e
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// statusOf is the status of the dialect's own codes; 400 is the rule.
func statusOf(code string) int {
	switch code {
	case "PGRST201", "PGRST203":
		return http.StatusMultipleChoices
	case "PGRST125", "PGRST126", "PGRST202", "PGRST205":
		return http.StatusNotFound
	case "PGRST101", "PGRST105", "PGRST117":
		return http.StatusMethodNotAllowed
	case "PGRST106", "PGRST107", "PGRST116":
		return http.StatusNotAcceptable
	case "PGRST103":
		return http.StatusRequestedRangeNotSatisfiable
	case "PGRST111", "PGRST112", "PGRST121":
		return http.StatusInternalServerError
	}
	return http.StatusBadRequest
}

// explain turns an error into the dialect's answer; nil when it is not the dialect's to explain.
func explain(err error, o Options) *apiError {
	var api *apiError
	if errors.As(err, &api) {
		return api
	}
	var parsed *parse.Error
	if errors.As(err, &parsed) {
		return problem(parsed.Code, parsed.Message).with(parsed.Details, "")
	}
	var planned *plan.Error
	if errors.As(err, &planned) {
		e := problem(planned.Code, planned.Message).with(planned.Details, planned.Hint)
		if planned.List != nil {
			e.details = planned.List
		}
		return e
	}
	var failure *exec.Failure
	var pg *pgconn.PgError
	if !errors.As(err, &failure) || !errors.As(err, &pg) {
		return nil
	}
	if failure.Outcome() == exec.NotStarted && pg.Code != "42501" && pg.Code != "22023" {
		return nil // the frame failed, for the lender's reasons; only a role that is not to be had is the request's
	}
	return explainState(pg, failure, o)
}

// explainState maps PostgreSQL's errors. The first switch holds what rowhouse answers differently from PostgREST.
func explainState(pg *pgconn.PgError, failure *exec.Failure, o Options) *apiError {
	own := func(status int, code, message string) *apiError {
		e := (&apiError{status: status, code: code, message: message}).with(pg.Code, "")
		if status == http.StatusServiceUnavailable {
			e.header = http.Header{"Retry-After": {"1"}}
		}
		return e
	}
	switch {
	case failure.Outcome() == exec.Unknown:
		return own(http.StatusGatewayTimeout, "outcome_unknown", "the answer to the commit was lost")
	case pg.Code == "57014" && (failure.Overdue || strings.Contains(pg.Message, "statement timeout")):
		return own(http.StatusGatewayTimeout, "statement_timeout", "the statement took longer than it may")
	case pg.Code == "57P01" || pg.Code == "57P02" || pg.Code == "57P03":
		return own(http.StatusServiceUnavailable, "database_unavailable", "the database ended the connection")
	case pg.Code == "25006" && !failure.ReadOnly: // a standby
		return own(http.StatusServiceUnavailable, "database_unavailable", "the database accepts no writes at present")
	}
	if pg.Code == "PGRST" {
		return raised(pg)
	}
	e := (&apiError{status: stateStatus(pg, o), code: pg.Code, message: pg.Message}).with(pg.Detail, pg.Hint)
	switch e.status {
	case http.StatusUnauthorized:
		e.header = http.Header{"Www-Authenticate": {"Bearer"}}
	case http.StatusServiceUnavailable:
		e.header = http.Header{"Retry-After": {"1"}}
	}
	return e
}

// stateStatus is the status of an SQLSTATE.
func stateStatus(pg *pgconn.PgError, o Options) int {
	switch code := pg.Code; code {
	case "23503", "23505":
		return http.StatusConflict
	case "40001", "40P01":
		if exec.EngineRaised(pg) {
			return http.StatusConflict
		}
		return http.StatusInternalServerError
	case "25006":
		return http.StatusMethodNotAllowed
	case "21000":
		if strings.HasSuffix(pg.Message, "requires a WHERE clause") {
			return http.StatusBadRequest
		}
		return http.StatusInternalServerError
	case "22023":
		if strings.HasPrefix(pg.Message, "role ") && strings.HasSuffix(pg.Message, " does not exist") {
			return http.StatusUnauthorized
		}
		return http.StatusBadRequest
	case "42501":
		if o.AnonRole != "" && o.Role == o.AnonRole {
			return http.StatusUnauthorized
		}
		return http.StatusForbidden
	case "42883":
		if strings.HasPrefix(pg.Message, "function xmlagg(") {
			return http.StatusNotAcceptable
		}
		return http.StatusNotFound
	case "42P01":
		return http.StatusNotFound
	case "42P17", "53400":
		return http.StatusInternalServerError
	case "55P03":
		return http.StatusServiceUnavailable
	case "P0001":
		return http.StatusBadRequest
	}
	if number, ok := strings.CutPrefix(pg.Code, "PT"); ok {
		if n, err := strconv.Atoi(number); err == nil && n >= 200 && n <= 599 {
			return n
		}
		return http.StatusInternalServerError
	}
	switch pg.Code[:min(2, len(pg.Code))] {
	case "08", "53":
		return http.StatusServiceUnavailable
	case "09", "25", "2D", "38", "39", "3B", "40", "54", "55", "57", "58", "F0", "HV", "P0", "XX":
		return http.StatusInternalServerError
	case "0L", "0P", "28":
		return http.StatusForbidden
	}
	return http.StatusBadRequest
}

const (
	messageHint = "MESSAGE must be a JSON object with obligatory keys: 'code', 'message' and optional keys: 'details', 'hint'."
	detailHint  = "DETAIL must be a JSON object with obligatory keys: 'status', 'headers' and optional key: 'status_text'."
)

// raised is what RAISE SQLSTATE 'PGRST' says: a whole answer as JSON in MESSAGE and DETAIL.
func raised(pg *pgconn.PgError) *apiError {
	bad := func(details, hint string) *apiError {
		return problem("PGRST121", `Could not parse JSON in the "RAISE SQLSTATE 'PGRST'" error`).with(details, hint)
	}
	var message struct {
		Code, Message *string
		Details, Hint *string
	}
	if json.Unmarshal([]byte(pg.Message), &message) != nil || message.Code == nil || message.Message == nil {
		return bad("Invalid JSON value for MESSAGE: '"+pg.Message+"'", messageHint)
	}
	if pg.Detail == "" {
		return bad("DETAIL is missing in the RAISE statement", detailHint)
	}
	var detail struct {
		Status  *int
		Headers map[string]string
	}
	if json.Unmarshal([]byte(pg.Detail), &detail) != nil || detail.Status == nil || detail.Headers == nil || *detail.Status < 200 || *detail.Status > 599 {
		return bad("Invalid JSON value for DETAIL: '"+pg.Detail+"'", detailHint)
	}
	e := &apiError{status: *detail.Status, code: *message.Code, message: *message.Message, header: http.Header{}}
	if message.Details != nil {
		e.details = *message.Details
	}
	if message.Hint != nil {
		e.hint = *message.Hint
	}
	for name, value := range detail.Headers {
		if legalHeader(name, value) {
			e.header.Set(name, value)
		}
	}
	return e
}

// fail answers an error, in the dialect's words where they are the dialect's.
func (h *Handler) fail(w http.ResponseWriter, r *http.Request, o Options, err error) {
	e := explain(err, o)
	if e == nil {
		h.config.Error(w, r, err)
		return
	}
	if isWrite(r.Method) {
		outcome := e.outcome
		if outcome == "" {
			outcome = outcomeOf(err)
		}
		w.Header().Set("Rowhouse-Outcome", outcome)
	}
	writeError(w, r, e)
}

func outcomeOf(err error) string {
	var told interface{ Outcome() string }
	if errors.As(err, &told) {
		return told.Outcome()
	}
	return exec.NotStarted
}

func writeError(w http.ResponseWriter, r *http.Request, e *apiError) {
	body := encode(struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Details any    `json:"details"`
		Hint    any    `json:"hint"`
	}{e.code, e.message, e.details, e.hint})
	header := w.Header()
	vary := header["Vary"]
	maps.Copy(header, commonHeader())
	maps.Copy(header, e.header)
	for _, line := range vary {
		if !slices.Contains(header["Vary"], line) {
			header.Add("Vary", line)
		}
	}
	header.Set("Content-Type", "application/json; charset=utf-8")
	if r.Method != http.MethodHead {
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	header.Set("Proxy-Status", "rowhouse; error="+e.code)
	w.WriteHeader(e.status)
	if r.Method != http.MethodHead {
		_, _ = w.Write(body) // a client that went away is nobody's error
	}
}

// encode writes JSON as PostgREST's clients count it: "<" stays "<".
func encode(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // only texts, numbers and lists of them come here
	}
	return bytes.TrimRight(b.Bytes(), "\n")
}

// unavailable is the default of Config.Error.
func unavailable(w http.ResponseWriter, r *http.Request, err error) {
	e := &apiError{
		status: http.StatusServiceUnavailable, code: "database_unavailable", message: "the database cannot be reached",
		header: http.Header{"Retry-After": {"1"}},
	}
	if isWrite(r.Method) {
		outcome := outcomeOf(err)
		if outcome == exec.Unknown {
			e = &apiError{status: http.StatusGatewayTimeout, code: "outcome_unknown", message: "the answer to the commit was lost"}
		}
		w.Header().Set("Rowhouse-Outcome", outcome)
	}
	writeError(w, r, e)
}

func isWrite(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions:
		return false
	}
	return true
}
