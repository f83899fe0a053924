package admin

import (
	"errors"
	"net/http"
	"path"
	"strings"

	"github.com/danielgtaylor/huma/v2/adapters/humaecho"
	"github.com/labstack/echo/v4"
)

// Register mounts the API, its description and the console on e, which is the admin listener's own: e's errors become
// problems, hosts that are not ours are turned away, and every answer carries a request id. Other routes may be added.
func Register(e *echo.Echo, op Backend, cfg Config) error {
	if err := cfg.validate(); err != nil {
		return err
	}
	cfg = cfg.withDefaults()
	e.HTTPErrorHandler = func(err error, c echo.Context) {
		if !c.Response().Committed {
			writeProblem(c.Response(), c.Request(), problemOfEcho(err))
		}
	}
	e.IPExtractor = echo.ExtractIPDirect()
	for _, m := range []func(http.Handler) http.Handler{cfg.identify, cfg.recover, cfg.admit, spellVerbs} {
		e.Pre(echo.WrapMiddleware(m))
	}
	s := &service{operator: op, cfg: cfg, brake: newBrake(cfg.DestructivePerMinute), refusals: newBrake(refusalsPerMinute)}
	s.api = humaecho.New(e, describe())
	s.register()
	description, err := s.description()
	if err != nil {
		return err
	}
	e.GET("/openapi.json", echo.WrapHandler(static("application/openapi+json", description)))
	if !cfg.NoDocs {
		page, err := docsPage(s.api.OpenAPI())
		if err != nil {
			return err
		}
		e.GET("/docs", echo.WrapHandler(page))
	}
	if !cfg.NoConsole {
		h := echo.WrapHandler(newConsole(s))
		e.GET("/console", echo.WrapHandler(http.RedirectHandler("/console/", http.StatusSeeOther)))
		e.Any("/console/*", h)
	}
	return nil
}

// refusalsPerMinute bounds what a token that is refused leaves in the audit trail.
const refusalsPerMinute = 20

// spellVerbs turns …/operations/X:retry into …/operations/X/:retry, because Echo would take ":id:retry" for one parameter.
func spellVerbs(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		of, last := path.Split(r.URL.Path)
		if id, verb, verbed := strings.Cut(last, ":"); verbed && id != "" && strings.HasPrefix(of, basePath+"/") {
			// In place: Echo routes by the URL that it was given, whatever request a middleware passes on.
			r.URL.Path, r.URL.RawPath = of+id+"/:"+verb, ""
		}
		next.ServeHTTP(w, r)
	})
}

// problemOfEcho is what Echo has to say: that there is no such route, or not with this method.
func problemOfEcho(err error) *Problem {
	var of *echo.HTTPError
	if errors.As(err, &of) {
		return newProblem(of.Code, "", "")
	}
	return newProblem(http.StatusInternalServerError, "", "")
}
