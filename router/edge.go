package router

import (
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"

	"github.com/rowhouse/rowhouse/tenants"
)

// EdgeConfig is what an Edge lets in. The zero value works.
type EdgeConfig struct {
	// PathTenant takes /t/{tenant} off the path and keeps it for tenants.FromPath.
	PathTenant bool

	// QueryTenant is the query parameter that is taken out of the query and kept for tenants.FromQuery, such as __tenant.
	//
	// Empty means none.
	QueryTenant string

	// MaxBody is how many bytes a request's body may have. What reads it gets an *http.MaxBytesError beyond.
	//
	// Zero means 10 MiB.
	MaxBody int64

	// MaxBodies is how many bytes the bodies of all requests at a time may have together; what is beyond is answered with
	// 503 before it is read. One whose length is not announced counts as a MiB.
	//
	// Zero means 512 MiB.
	MaxBodies int64

	// Stall is how long a client may take none of an answer before its connection is broken off.
	//
	// Zero means 30 s.
	Stall time.Duration

	// MaxTarget is how many bytes the path and query may have together.
	//
	// Zero means 32 KiB.
	MaxTarget int

	// MaxHeaders is how many bytes the headers may have together.
	//
	// Zero means 64 KiB.
	MaxHeaders int

	// TrustedProxies are those from whom X-Forwarded-For, -Host and -Proto are believed. From all others these headers
	// are taken off, so that nothing further in believes them.
	//
	// Nil means nobody.
	TrustedProxies []netip.Prefix

	// Origins are those whose scripts may read the answer to a request, with credentials; none where it is empty.
	//
	// Nil, or a nil answer, means every origin, without credentials.
	Origins func(r *http.Request) []string

	// Logger is told of panics.
	//
	// Nil means slog.Default().
	Logger *slog.Logger
}

func (c EdgeConfig) withDefaults() EdgeConfig {
	c.MaxBody = or(c.MaxBody, 10<<20)
	c.MaxBodies = or(c.MaxBodies, 512<<20)
	c.Stall = or(c.Stall, 30*time.Second)
	c.MaxTarget = or(c.MaxTarget, 32<<10)
	c.MaxHeaders = or(c.MaxHeaders, 64<<10)
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

const headerRequestID = "X-Request-Id"

// Edge is the outermost handler of the data plane. It gives every request an id, refuses what no handler should have to
// look at, answers preflights, takes the tenant off path and query where that is asked for, and turns a panic into a 500.
func Edge(next http.Handler, cfg EdgeConfig) http.Handler {
	cfg = cfg.withDefaults()
	var bodies atomic.Int64 // bytes of all that are on their way
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := requestID(r)
		w.Header().Set(headerRequestID, id)
		seen := &writer{ResponseWriter: w, stall: cfg.Stall}
		seen.wait() // the one that is set may be an earlier request's
		defer seen.wait()
		defer recoverPanic(seen, r, cfg.Logger)
		r = r.Clone(r.Context())
		r.Header.Set(headerRequestID, id)
		cfg.believe(r)
		if cfg.allowOrigin(seen, r) {
			return
		}
		if err := cfg.check(r); err != nil {
			WriteError(seen, r, err)
			return
		}
		r, err := cfg.strip(r)
		if err != nil {
			WriteError(seen, r, err)
			return
		}
		if length := r.ContentLength; length != 0 {
			if length < 0 {
				length = unannounced
			}
			defer bodies.Add(-length)
			if bodies.Add(length) > cfg.MaxBodies {
				WriteError(seen, r, errBodies)
				return
			}
		}
		r.Body = http.MaxBytesReader(seen, r.Body, cfg.MaxBody)
		next.ServeHTTP(seen, r)
	})
}

// unannounced is what a body counts as whose length is not known.
const unannounced = 1 << 20

var errBodies = &refusal{kind: ErrOverloaded, cause: errors.New("too many large bodies at a time")}

// requestID is the request's own id if it has a fit one, else a new one.
func requestID(r *http.Request) string {
	if ids := r.Header.Values(headerRequestID); len(ids) == 1 && isRequestID(ids[0]) {
		return ids[0]
	}
	return uuid.Must(uuid.NewV7()).String()
}

func isRequestID(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '.' && c != '_' && c != '-' {
			return false
		}
	}
	return s != "" && len(s) <= 128
}

// writer remembers whether an answer has begun.
type writer struct {
	http.ResponseWriter
	begun bool
	stall time.Duration
	// listed says that not every origin may read the answer, whatever a handler says; the one that may is origin.
	listed bool
	origin string
}

func (w *writer) WriteHeader(status int) {
	if w.listed && !w.begun {
		w.Header().Del("Access-Control-Allow-Origin")
		if w.origin != "" {
			w.Header().Set("Access-Control-Allow-Origin", w.origin)
		}
	}
	w.begun = w.begun || status >= 200
	w.wait()
	w.ResponseWriter.WriteHeader(status)
}

func (w *writer) Write(b []byte) (int, error) {
	if !w.begun {
		w.WriteHeader(http.StatusOK)
	}
	// Piece by piece, so that a client that reads slowly has its time for each.
	written := 0
	for {
		piece := b[written:min(len(b), written+pieceSize)]
		w.wait()
		n, err := w.ResponseWriter.Write(piece)
		if written += n; err != nil || written == len(b) {
			return written, err
		}
	}
}

// wait gives the client its time for what is written next.
func (w *writer) wait() {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.stall)) // a test's recorder has none
}

// pieceSize is how much of an answer a client has to take within the time of EdgeConfig.Stall.
const pieceSize = 64 << 10

// Unwrap is for http.ResponseController.
func (w *writer) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// recoverPanic answers 500, or breaks the connection off where an answer has begun: half of one must not look whole.
func recoverPanic(w *writer, r *http.Request, log *slog.Logger) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	log.ErrorContext(r.Context(), "panic", "request_id", w.Header().Get(headerRequestID), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	if w.begun {
		panic(http.ErrAbortHandler)
	}
	WriteError(w, r, errPanic)
}

var errPanic = errors.New("handler panicked")

// badRequest is a request that is refused for its form.
type badRequest struct {
	status int
	code   string
	text   string
}

func (e *badRequest) Error() string   { return e.text }
func (e *badRequest) Code() string    { return e.code }
func (e *badRequest) Status() int     { return e.status }
func (e *badRequest) Outcome() string { return notStarted }

// methods are what a client may use; OPTIONS, because browsers ask.
var methods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

// check refuses a request for its form. Nothing is repaired.
func (c EdgeConfig) check(r *http.Request) error {
	switch {
	case !slices.Contains(methods, r.Method):
		return &methodError{badRequest{405, "method_not_allowed", "The method is not allowed."}}
	case !strings.HasPrefix(r.RequestURI, "/") || r.URL.IsAbs() || r.URL.Host != "":
		return &badRequest{400, "bad_target", "The request's target must be a path."}
	case len(r.RequestURI) > c.MaxTarget:
		return &badRequest{414, "uri_too_long", "The path and query are too long."}
	case headerBytes(r.Header) > c.MaxHeaders:
		return &badRequest{431, "headers_too_large", "The headers are too large."}
	case r.Host == "":
		return &badRequest{400, "tenant_invalid", "The request has no host."}
	case hasEncoding(r):
		return &badRequest{415, "encoding_unsupported", "A compressed body is not read."}
	case r.ContentLength > c.MaxBody:
		return &http.MaxBytesError{Limit: c.MaxBody}
	}
	if _, err := tenants.ParseHost(r.Host); err != nil {
		return &badRequest{400, "tenant_invalid", "The request's host is no host name."}
	}
	return checkPath(r.URL.EscapedPath())
}

// methodError says which methods there are.
type methodError struct{ badRequest }

// Hint lists the methods.
func (*methodError) Hint() string { return "use one of " + strings.Join(methods, ", ") }

func headerBytes(h http.Header) int {
	n := 0
	for name, values := range h {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}

func hasEncoding(r *http.Request) bool {
	for _, v := range r.Header.Values("Content-Encoding") {
		if !strings.EqualFold(v, "identity") {
			return true
		}
	}
	return false
}

// checkPath looks at each segment as it stands and decoded once. A path that could be read as another one is refused and
// never cleaned.
func checkPath(escaped string) error {
	notFound := &badRequest{404, "not_found", "There is nothing at this path."}
	segments := strings.Split(strings.TrimPrefix(escaped, "/"), "/")
	for i, raw := range segments {
		segment, err := url.PathUnescape(raw)
		switch {
		case err != nil, !utf8.ValidString(segment), strings.ContainsRune(segment, 0):
			return &badRequest{400, "bad_target", "The path cannot be read."}
		case segment == "." || segment == "..", strings.Contains(segment, "/"):
			return notFound
		case segment == "" && i < len(segments)-1:
			return notFound
		}
	}
	return nil
}

// strip takes the tenant off path and query.
func (c EdgeConfig) strip(r *http.Request) (*http.Request, error) {
	if c.PathTenant {
		if rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/t/"); ok {
			ref, path, _ := strings.Cut(rest, "/")
			r = r.WithContext(tenants.WithPathTenant(r.Context(), ref)) // as it stands: an escape is no part of a name
			if err := setPath(r, "/"+path); err != nil {
				return r, err
			}
		}
	}
	if c.QueryTenant == "" || !strings.Contains(r.URL.RawQuery, c.QueryTenant) && !strings.Contains(r.URL.RawQuery, "%") {
		return r, nil
	}
	return c.stripQuery(r)
}

func setPath(r *http.Request, escaped string) error {
	path, err := url.PathUnescape(escaped)
	if err != nil {
		return &badRequest{400, "bad_target", "The path cannot be read."}
	}
	u := *r.URL
	u.Path, u.RawPath = path, ""
	if u.EscapedPath() != escaped {
		u.RawPath = escaped
	}
	r.URL = &u
	return nil
}

// stripQuery takes every pair of the tenant's parameter out, of those that & or ; separates, and leaves the others as they are.
func (c EdgeConfig) stripQuery(r *http.Request) (*http.Request, error) {
	var kept, values []string
	for pair := range strings.FieldsFuncSeq(r.URL.RawQuery, func(c rune) bool { return c == '&' || c == ';' }) {
		key, value, _ := strings.Cut(pair, "=")
		if name, err := url.QueryUnescape(key); err != nil || name != c.QueryTenant {
			kept = append(kept, pair)
			continue
		}
		text, err := url.QueryUnescape(value)
		if err != nil {
			return r, &badRequest{400, "tenant_invalid", "The tenant in the query cannot be read."}
		}
		values = append(values, text)
	}
	if values == nil {
		return r, nil
	}
	r = r.WithContext(tenants.WithQueryTenant(r.Context(), values))
	u := *r.URL
	u.RawQuery = strings.Join(kept, "&")
	r.URL = &u
	return r, nil
}

// forwarded are the headers by which a proxy tells what it was asked.
var forwarded = []string{"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Original-Host", "X-Real-Ip"}

// believe takes over what a trusted proxy says of the host and the client, and takes off what anybody else says.
func (c EdgeConfig) believe(r *http.Request) {
	if !c.trusts(r.RemoteAddr) {
		for _, name := range forwarded {
			r.Header.Del(name)
		}
		return
	}
	if hosts := r.Header.Values("X-Forwarded-Host"); len(hosts) > 0 {
		r.Host = strings.Join(hosts, ",") // two are no host, and refused as one
	}
	chain := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, address := range slices.Backward(chain) { // the nearest proxy wrote last; the first one we do not trust is the client
		ip, err := netip.ParseAddr(strings.TrimSpace(address))
		if err != nil {
			return
		}
		r.RemoteAddr = netip.AddrPortFrom(ip, 0).String()
		if !c.trusts(r.RemoteAddr) {
			return
		}
	}
}

func (c EdgeConfig) trusts(remote string) bool {
	from, err := netip.ParseAddrPort(remote)
	if err != nil {
		return false
	}
	for _, prefix := range c.TrustedProxies {
		if prefix.Contains(from.Addr().Unmap()) {
			return true
		}
	}
	return false
}

// The headers of an answer that a browser's script may read: first those of PostgREST, then ours.
const (
	exposed     = "Content-Encoding, Content-Location, Content-Range, Content-Type, Date, Location, Server, Transfer-Encoding, Range-Unit"
	exposedOurs = "Retry-After, RateLimit, RateLimit-Policy, X-Request-Id, Rowhouse-Outcome, Server-Timing, Preference-Applied"
)

// allowOrigin lets scripts of the request's origin read the answer, if they may, and answers a preflight, which can carry
// neither tenant nor token. It says whether it was one.
func (c EdgeConfig) allowOrigin(w *writer, r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false
	}
	h, allows := w.Header(), c.admits(w, r, origin)
	preflight := r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != ""
	switch {
	case !preflight && allows:
		h["Access-Control-Expose-Headers"] = []string{exposed, exposedOurs}
		return false
	case !preflight:
		return false
	case !allows: // without a header the browser goes no further
		w.WriteHeader(http.StatusOK)
		return true
	}
	allowed := []string{"Authorization"}
	allowed = append(allowed, r.Header.Values("Access-Control-Request-Headers")...)
	allowed = append(allowed, "Accept", "Accept-Language", "Content-Language")
	h.Set("Access-Control-Allow-Methods", "GET, POST, PATCH, PUT, DELETE, OPTIONS, HEAD")
	h.Set("Access-Control-Allow-Headers", strings.Join(allowed, ", "))
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusOK)
	return true
}

// admits says whether an origin may read the answer. One that is on a list is named, and may send credentials; where there
// is no list all may, without them.
func (c EdgeConfig) admits(w *writer, r *http.Request, origin string) bool {
	h := w.Header()
	var listed []string
	if c.Origins != nil {
		listed = c.Origins(r)
	}
	if listed == nil {
		h.Set("Access-Control-Allow-Origin", "*")
		return true
	}
	w.listed = true
	h.Add("Vary", "Origin")
	if len(r.Header.Values("Origin")) != 1 || !slices.Contains(listed, origin) {
		return false
	}
	w.origin = origin
	h.Set("Access-Control-Allow-Origin", origin)
	h.Set("Access-Control-Allow-Credentials", "true")
	return true
}

// RequestID is the id that Edge gave the request; empty without an Edge.
func RequestID(r *http.Request) string { return r.Header.Get(headerRequestID) }
