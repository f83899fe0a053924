package identity

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// HandlerConfig is how a tenant's people are served. The zero value works.
type HandlerConfig struct {
	// AnonRole is the database role of a session without a credential; empty when there is none.
	//
	// Nil means "anon" for everybody.
	AnonRole func(t *catalog.Tenant) string

	// Settings are those of a tenant that its clients may see.
	//
	// Nil: none.
	Settings func(t *catalog.Tenant) map[string]json.RawMessage

	// Begin begins transactions in the database of a tenant.
	//
	// Nil: what stands in a tenant's database is not served.
	Begin Beginner

	// Retention is how long the records of a tenant's requests are kept. Older ones are not shown, whether they are
	// deleted yet or not.
	//
	// Nil, and zero: for ever.
	Retention func(t *catalog.Tenant) time.Duration

	// Features are those of a tenant that its clients may see.
	//
	// Nil: none.
	Features func(t *catalog.Tenant) map[string]json.RawMessage

	// Error answers a request that has no session.
	//
	// Nil: 400 tenant_required.
	Error func(w http.ResponseWriter, r *http.Request, err error)
}

func (c HandlerConfig) withDefaults() HandlerConfig {
	if c.AnonRole == nil {
		c.AnonRole = func(*catalog.Tenant) string { return "anon" }
	}
	if c.Settings == nil {
		c.Settings = func(*catalog.Tenant) map[string]json.RawMessage { return nil }
	}
	if c.Retention == nil {
		c.Retention = func(*catalog.Tenant) time.Duration { return 0 }
	}
	if c.Features == nil {
		c.Features = func(*catalog.Tenant) map[string]json.RawMessage { return nil }
	}
	if c.Error == nil {
		c.Error = func(w http.ResponseWriter, _ *http.Request, _ error) {
			refuse(w, http.StatusBadRequest, "tenant_required", "The request names no tenant")
		}
	}
	return c
}

// NewHandler serves /auth/v1 and /tenant/v1 for the session in the request's context.
func NewHandler(cfg HandlerConfig) http.Handler {
	h := &handler{cfg.withDefaults()}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.EscapedPath(); { // paths are not cleaned into others
		case path == "/tenant/v1/session":
			h.session(w, r)
			return
		case path == "/tenant/v1/audit" && h.cfg.Begin != nil:
			h.audit(w, r)
			return
		}
		refuse(w, http.StatusNotFound, "not_found", "There is nothing at this path")
	})
}

type handler struct{ cfg HandlerConfig }

// sessionBody is who somebody is, as far as they may know.
type sessionBody struct {
	Subject      *string                    `json:"subject"`
	Side         tenants.Side               `json:"side"`
	Tenant       *tenantBody                `json:"tenant"`
	Role         *string                    `json:"role"`
	Permissions  []string                   `json:"permissions"`
	Features     map[string]json.RawMessage `json:"features"`
	Settings     map[string]json.RawMessage `json:"settings"`
	Impersonator *string                    `json:"impersonator"`
}

type tenantBody struct {
	Name string           `json:"name"`
	ID   catalog.TenantID `json:"id"`
}

// reader is the session of a request that only reads, where it has one; others are answered here.
func (h *handler) reader(w http.ResponseWriter, r *http.Request) (tenants.Session, bool) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		refuse(w, http.StatusMethodNotAllowed, "method_not_allowed", "This can only be read")
		return tenants.Session{}, false
	}
	s, err := tenants.FromContext(r.Context())
	if err != nil {
		h.cfg.Error(w, r, err)
	}
	return s, err == nil
}

func (h *handler) session(w http.ResponseWriter, r *http.Request) {
	s, ok := h.reader(w, r)
	if !ok {
		return
	}
	body := sessionBody{
		Subject: orNull(s.Subject()), Side: s.Side(), Role: orNull(s.Role()), Impersonator: orNull(s.Impersonator()),
		Permissions: []string{}, Features: map[string]json.RawMessage{}, Settings: map[string]json.RawMessage{},
	}
	if t := s.Tenant(); t != nil {
		body.Tenant = &tenantBody{t.Name, t.ID}
		if body.Role == nil {
			body.Role = orNull(h.cfg.AnonRole(t))
		}
		if visible := h.cfg.Features(t); visible != nil {
			body.Features = visible
		}
		if visible := h.cfg.Settings(t); visible != nil {
			body.Settings = visible
		}
	}
	answer(w, http.StatusOK, body)
}

func orNull(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

// errorBody is the data plane's answer to what cannot be done: always these four.
type errorBody struct {
	Code    string  `json:"code"`
	Message string  `json:"message"`
	Details *string `json:"details"`
	Hint    *string `json:"hint"`
}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Proxy-Status", "rowhouse; error="+code)
	answer(w, status, errorBody{Code: code, Message: message})
}

func answer(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil { // a setting that is no JSON: nothing of it leaves
		status, text = http.StatusInternalServerError, []byte(`{"code":"internal","message":"The answer could not be written","details":null,"hint":null}`)
	}
	answerText(w, status, "application/json; charset=utf-8", text)
}

func answerText(w http.ResponseWriter, status int, contentType string, text []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Cache-Control", "private, no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Length", fmt.Sprint(len(text)))
	w.WriteHeader(status)
	_, _ = w.Write(text) // a client that left is told nothing
}
