package admin

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"regexp"
	"runtime/debug"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

// Config is how operators are served.
type Config struct {
	// Authenticate finds the session and the permissions that a token's text stands for. It answers tenants.ErrCredential
	// for a token that does not hold and tenants.ErrUnavailable when it cannot tell. It must be given.
	Authenticate func(ctx context.Context, token string) (tenants.Session, []string, error)

	// Rollouts brings the fleet to versions.
	//
	// Nil means that nobody does, and its routes answer 404.
	Rollouts tenants.RolloutOperator

	// Version is the program's, for the console.
	Version string

	// Hosts are the names, without port, that the listener answers to besides localhost, loopback addresses and the
	// address that a connection came to. Any other could be a name that a web page made up for us.
	Hosts []string

	// NoConsole and NoDocs leave out the pages for browsers.
	NoConsole, NoDocs bool

	// DestructivePerMinute is how often a token may take something away in a minute: suspend, delete, move, revoke. Half of
	// them may come at once. Negative means no limit.
	//
	// Zero means 120.
	DestructivePerMinute int

	// Logger is told of what went wrong inside.
	//
	// Nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.DestructivePerMinute == 0 {
		c.DestructivePerMinute = 120
	}
	return c
}

func (c Config) validate() error {
	if c.Authenticate == nil {
		return fmt.Errorf("nobody authenticates the operators: %w", catalog.ErrInvalid)
	}
	return nil
}

type requestKey struct{}

// requestID is what the request is known by, in the answer, in the log and in problems.
func requestID(ctx context.Context) string {
	id, _ := ctx.Value(requestKey{}).(string)
	return id
}

var requestIDs = regexp.MustCompile(`^[A-Za-z0-9._-]{1,128}$`)

// identify gives every request an id, its own if it can be taken, and every answer the headers that all of them have.
func (c Config) identify(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		id := r.Header.Get("X-Request-Id")
		if !requestIDs.MatchString(id) {
			id = catalog.NewID[http.Request]().String()
		}
		h := w.Header()
		h.Set("X-Request-Id", id)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), requestKey{}, id)))
	})
}

// recover turns a panic into an answer.
func (c Config) recover(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			cause := recover()
			if cause == nil {
				return
			}
			if cause == http.ErrAbortHandler {
				panic(cause)
			}
			c.Logger.Error("panic", "request_id", requestID(r.Context()), "panic", fmt.Sprint(cause), "stack", string(debug.Stack()))
			writeProblem(w, r, newProblem(http.StatusInternalServerError, "", ""))
		}()
		next.ServeHTTP(w, r)
	})
}

// admit turns hosts away that are not ours: a page in a browser can give our address a name of its own and then read our
// answers as that name's.
func (c Config) admit(next http.Handler) http.Handler {
	names := map[string]bool{"localhost": true}
	for _, host := range c.Hosts {
		names[strings.ToLower(strings.TrimSuffix(host, "."))] = true
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := hostName(r.Host)
		if !names[host] && !isOwnAddress(r, host) {
			writeProblem(w, r, newProblem(http.StatusMisdirectedRequest, "", ""))
			return
		}
		next.ServeHTTP(w, r)
	})
}

func hostName(hostport string) string {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = strings.TrimSuffix(strings.TrimPrefix(hostport, "["), "]")
	}
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// isOwnAddress says that the host is a loopback address, or the one that the connection came to: no made-up name is.
func isOwnAddress(r *http.Request, host string) bool {
	ip := net.ParseIP(host)
	if ip == nil {
		return false
	}
	local, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ip.IsLoopback() || local != nil && local.IP.Equal(ip)
}
