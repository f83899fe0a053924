package admin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"errors"
	"html/template"
	"net/http"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/tenants"
)

//go:embed console docs
var files embed.FS

var (
	pages = template.Must(template.Must(template.New("console").Parse(file("console/index.html"))).New("docs").Parse(file("docs/index.html")))
	style = template.CSS(file("console/style.css"))
	// Pages load nothing at all, run no script, and are shown in no frame; the one style that they have is known by its hash.
	policy = "default-src 'none'; style-src 'sha256-" + hashOf(string(style)) + "'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

func file(name string) string {
	text, err := files.ReadFile(name)
	if err != nil {
		panic(err) // it is embedded
	}
	return string(text)
}

func hashOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func setPageHeaders(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("Referrer-Policy", "no-referrer")
}

// pageView is what every page has.
type pageView struct{ Style template.CSS }

// consoleView is what the console shows. Without a subject that is the way in.
type consoleView struct {
	pageView
	Version, Subject, Error string
	Failures                []string
	Tenants                 []*catalog.Tenant
	Operations              []*operationBody
	Servers                 []*catalog.Server
	Busy                    bool // something is being worked on
}

// console is a page that shows how things stand. It runs no script: the browser holds the token in a cookie that no page
// of another site makes it send, that scripts cannot read, and that the API does not take.
type console struct{ *service }

const (
	consolePath   = "/console/"
	consoleCookie = "rowhouse_console"
)

func newConsole(s *service) http.Handler {
	c := &console{s}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+consolePath+"{$}", c.show)
	mux.HandleFunc("POST "+consolePath+"login", c.login)
	mux.HandleFunc("POST "+consolePath+"logout", c.logout)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, r, newProblem(http.StatusNotFound, "", ""))
	})
	return http.NewCrossOriginProtection().Handler(mux)
}

func (c *console) show(w http.ResponseWriter, r *http.Request) {
	cookie, err := r.Cookie(consoleCookie)
	if err != nil {
		c.render(w, r, http.StatusOK, consoleView{})
		return
	}
	ctx, _, err := c.signIn(r.Context(), cookie.Value, addressOf(r.RemoteAddr))
	if err != nil {
		c.askAgain(w, r, err)
		return
	}
	c.render(w, r, http.StatusOK, c.look(ctx))
}

// look reads what the token permits to see.
func (c *console) look(ctx context.Context) consoleView {
	session, _ := tenants.FromContext(ctx)
	view := consoleView{Subject: session.Subject()}
	if view.Subject == "" {
		view.Subject = "operator"
	}
	see := func(permission string, read func() error) {
		if !callerFrom(ctx).permit(permission) {
			view.Failures = append(view.Failures, "The token lacks the permission "+permission)
			return
		}
		if err := read(); err != nil {
			view.Failures = append(view.Failures, c.problem(ctx, err).Detail)
		}
	}
	see(tenants.PermitTenantsRead, func() (err error) {
		view.Tenants, err = c.operator.Tenants(ctx)
		return err
	})
	see(tenants.PermitOpsRead, func() error {
		operations, err := c.operator.Operations(ctx, "")
		for _, op := range operations {
			view.Operations = append(view.Operations, bodyOf(op))
			view.Busy = view.Busy || !op.State.Finished()
		}
		return err
	})
	see(tenants.PermitServersRead, func() (err error) {
		view.Servers, err = c.operator.Servers(ctx)
		return err
	})
	return view
}

func (c *console) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
	token := r.PostFormValue("token")
	if _, _, err := c.signIn(r.Context(), token, addressOf(r.RemoteAddr)); err != nil {
		c.askAgain(w, r, err)
		return
	}
	http.SetCookie(w, consoleCookieOf(r, token, 0))
	http.Redirect(w, r, consolePath, http.StatusSeeOther)
}

func (c *console) logout(w http.ResponseWriter, r *http.Request) {
	http.SetCookie(w, consoleCookieOf(r, "", -1))
	http.Redirect(w, r, consolePath, http.StatusSeeOther)
}

func consoleCookieOf(r *http.Request, value string, maxAge int) *http.Cookie {
	return &http.Cookie{
		Name: consoleCookie, Value: value, Path: consolePath, MaxAge: maxAge,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
	}
}

// askAgain shows the way in again. A token that does not hold is forgotten.
func (c *console) askAgain(w http.ResponseWriter, r *http.Request, err error) {
	p := c.problem(r.Context(), err)
	view := consoleView{Error: p.Detail}
	if errors.Is(err, tenants.ErrCredential) {
		view.Error = "The token does not hold"
		http.SetCookie(w, consoleCookieOf(r, "", -1))
	}
	c.render(w, r, p.Status, view)
}

func (c *console) render(w http.ResponseWriter, r *http.Request, status int, view consoleView) {
	view.Style, view.Version = style, c.cfg.Version
	var text bytes.Buffer
	if err := pages.ExecuteTemplate(&text, "console", view); err != nil {
		writeProblem(w, r, c.problem(r.Context(), err))
		return
	}
	setPageHeaders(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(text.Bytes()) // a client that left is told nothing
}
