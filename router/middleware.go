package router

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

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
			c.SetRequest(rt.enter(c.Request(), session))
			rec, recording := rt.recording(c.Request(), session)
			if !recording {
				return next(c)
			}
			began, w := time.Now(), &recorded{ResponseWriter: c.Response().Writer}
			c.Response().Writer = w
			defer func() { rt.note(w, c.Request(), session, rec, began) }()
			err = next(c)
			w.returned = true
			if err != nil {
				c.Error(err) // so that its status is known
			}
			return nil
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
		r = rt.enter(r, session)
		if rec, recording := rt.recording(r, session); recording {
			began, seen := time.Now(), &recorded{ResponseWriter: w}
			defer func() { rt.note(seen, r, session, rec, began) }()
			next.ServeHTTP(seen, r)
			seen.returned = true
			return
		}
		next.ServeHTTP(w, r)
	})
}

// enter puts into the request's context who asks, and from where.
func (rt *Router) enter(r *http.Request, session tenants.Session) *http.Request {
	ctx := context.WithValue(tenants.InWork(r.Context()), askedKey{}, &askedFrom{peer(r), RequestID(r)})
	return r.WithContext(tenants.NewContext(ctx, session))
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
