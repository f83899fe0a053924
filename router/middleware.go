package router

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/labstack/echo/v4"

	"github.com/rowhouse/rowhouse/tenants"
)

// Middleware finds out which tenant a request is for and puts the session into its context. A request that cannot be for
// any, or that is beyond its tenant's rate, is answered here.
//
// FromPath and FromQuery find nothing without Edge around the whole Echo, which has routed before its middleware runs.
func (rt *Router) Middleware(rs *tenants.Resolver) echo.MiddlewareFunc {
	return func(next echo.HandlerFunc) echo.HandlerFunc {
		return func(c echo.Context) error {
			session, err := rs.Resolve(c.Request(), rt.dir)
			if err == nil {
				err = rt.admit(c.Response(), session)
			}
			if err != nil {
				WriteError(c.Response(), c.Request(), err)
				return nil
			}
			c.SetRequest(c.Request().WithContext(tenants.NewContext(tenants.InWork(c.Request().Context()), session)))
			return next(c)
		}
	}
}

// Resolve is Middleware for net/http.
func (rt *Router) Resolve(rs *tenants.Resolver, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		session, err := rs.Resolve(r, rt.dir)
		if err == nil {
			err = rt.admit(w, session)
		}
		if err != nil {
			WriteError(w, r, err)
			return
		}
		next.ServeHTTP(w, r.WithContext(tenants.NewContext(tenants.InWork(r.Context()), session)))
	})
}

// ErrorHandler is WriteError as an Echo's HTTPErrorHandler. It leaves an answer alone that has begun.
func ErrorHandler(err error, c echo.Context) {
	if c.Response().Committed {
		return
	}
	var he *echo.HTTPError
	if errors.As(err, &he) && (he.Internal == nil || he.Code < http.StatusInternalServerError) {
		err = &echoError{he}
	}
	WriteError(c.Response(), c.Request(), err)
}

// echoError is what Echo answers by itself, such as for a path that has no route.
type echoError struct{ *echo.HTTPError }

// Code names the status.
func (e *echoError) Code() string {
	switch e.HTTPError.Code {
	case http.StatusNotFound:
		return "not_found"
	case http.StatusMethodNotAllowed:
		return "method_not_allowed"
	case http.StatusRequestEntityTooLarge:
		return "payload_too_large"
	case http.StatusInternalServerError:
		return "internal"
	}
	return fmt.Sprintf("http_%d", e.HTTPError.Code)
}

// Status is the HTTP status.
func (e *echoError) Status() int { return e.HTTPError.Code }

// Error is the text for the client.
func (e *echoError) Error() string {
	if text, ok := e.Message.(string); ok {
		return text
	}
	return http.StatusText(e.HTTPError.Code)
}
