package rest

import "github.com/labstack/echo/v4"

// Register mounts h below g, for all methods. The group's prefix must be the Handler's.
func Register(g *echo.Group, h *Handler) {
	serve := func(c echo.Context) error {
		h.ServeHTTP(c.Response(), c.Request())
		return nil
	}
	for _, path := range []string{"", "/*"} {
		g.Any(path, serve)
		g.RouteNotFound(path, serve) // methods that echo does not know
	}
}
