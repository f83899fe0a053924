package router

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/internal/budget"
)

func TestBreaker(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	boom := errors.New("refused")
	b := serverBreaker()
	for i := range 20 { // never five within ten seconds
		b.failed(now.Add(time.Duration(i)*2600*time.Millisecond), boom)
	}
	if b.isOpen() {
		t.Fatal("few failures open it")
	}
	now = now.Add(time.Hour)
	for range 5 {
		if err := b.try(now); err != nil {
			t.Fatal(err)
		}
		b.failed(now, boom)
	}
	err := b.try(now)
	var wait interface{ RetryAfter() time.Duration }
	if !errors.Is(err, boom) || !errors.Is(err, ErrUnavailable) || !errors.As(err, &wait) || wait.RetryAfter() < time.Second || wait.RetryAfter() > 2*time.Second {
		t.Fatalf("after five: %v", err)
	}
	now = now.Add(wait.RetryAfter())
	if b.blocked(now) != nil || b.try(now) != nil {
		t.Error("one is let through when the time has come")
	}
	if b.try(now) == nil || b.blocked(now) == nil {
		t.Error("and only one at a time")
	}
	b.spared() // it found no room: the next one may
	if err := b.try(now); err != nil {
		t.Error(err)
	}
	b.failed(now, boom)
	if b.try(now) == nil {
		t.Error("it failed: closed again")
	}
	if !b.succeeded() || b.succeeded() || b.try(now) != nil {
		t.Error("one that succeeds lets all through")
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for want, errs := range map[verdict][]error{
		ofUs:     {budget.ErrFull, errUnasked},
		ofServer: {errors.New("connection refused"), &pgconn.PgError{Code: "57P03"}, &pgconn.PgError{Code: "08006"}},
		ofRoom:   {&pgconn.PgError{Code: "53300"}},
		ofLogin:  {errIdentity, &pgconn.PgError{Code: "28P01"}, &pgconn.PgError{Code: "3D000"}, &pgconn.PgError{Code: "42501"}},
	} {
		for _, err := range errs {
			if got := judge(fmt.Errorf("connecting: %w", err)); got != want {
				t.Errorf("%v speaks of %d, want %d", err, got, want)
			}
		}
	}
}
