package main

import (
	"context"
	"net/http"
	"time"

	"github.com/rowhouse/rowhouse/tenants"
)

// spent is what a request took before the data API had it.
type spent struct {
	began      time.Time
	credential time.Duration
}

type spentKey struct{}

// clocked notes when a request came.
func clocked(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), spentKey{}, &spent{began: time.Now()})))
	})
}

// clockedVerifier notes how long it takes to judge a request's token.
type clockedVerifier struct{ tenants.Verifier }

func (v clockedVerifier) Verify(r *http.Request, hints []string) (*tenants.Claims, error) {
	began := time.Now()
	claims, err := v.Verifier.Verify(r, hints)
	if s, ok := r.Context().Value(spentKey{}).(*spent); ok {
		s.credential += time.Since(began)
	}
	return claims, err
}

// spentBefore is how long the credential and all else took until now; zero where nobody looked at the clock.
func spentBefore(ctx context.Context) (credential, rest time.Duration) {
	s, ok := ctx.Value(spentKey{}).(*spent)
	if !ok {
		return 0, 0
	}
	return s.credential, time.Since(s.began) - s.credential
}
