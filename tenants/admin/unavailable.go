package admin

import "net/http"

// Unavailable answers every request that there is no catalog to work on: 503, with Retry-After.
func Unavailable() http.Handler {
	return Config{}.withDefaults().identify(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		writeProblem(w, r, newProblem(http.StatusServiceUnavailable, "", ""))
	}))
}
