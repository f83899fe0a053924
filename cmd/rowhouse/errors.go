package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg"
)

// The exit codes scripts rely on.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitSomeFailed  = 3
	exitNotFound    = 4
	exitPending     = 5
	exitConfig      = 78
	exitInterrupted = 130
)

// exitMeanings are the exit codes in words.
var exitMeanings = []struct {
	code  int
	means string
}{
	{exitOK, "done"},
	{exitFailure, "it failed"},
	{exitUsage, "it was called wrongly"},
	{exitSomeFailed, "some tenants or databases failed"},
	{exitNotFound, "there is no such thing"},
	{exitPending, "--exit-code found pending work or drift"},
	{exitConfig, "the configuration is wrong"},
	{exitInterrupted, "interrupted"},
}

func exitCodes() string {
	parts := make([]string, len(exitMeanings))
	for i, e := range exitMeanings {
		parts[i] = fmt.Sprintf("%d %s", e.code, e.means)
	}
	return strings.Join(parts, "; ") + "."
}

// coded is an error that decides the exit code, and may know what to do about it.
type coded struct {
	err  error
	code int
	hint string
}

func (e *coded) Error() string { return e.err.Error() }
func (e *coded) Unwrap() error { return e.err }
func (e *coded) Hint() string  { return e.hint }

func usage(format string, args ...any) error {
	return &coded{err: fmt.Errorf(format, args...), code: exitUsage}
}

// report prints an error once, with its hint, and gives the exit code.
func (a *app) report(err error) int {
	if err == nil {
		return exitOK
	}
	code := exitFailure
	var c *coded
	switch {
	case errors.As(err, &c):
		code = c.code
	case !a.began:
		code = exitUsage // what comes back before a command has begun is about how it was called
	case errors.Is(err, catalog.ErrNotFound):
		code = exitNotFound
	case errors.Is(err, context.Canceled):
		code = exitInterrupted
	}
	if text := err.Error(); text != "" {
		for line := range strings.SplitSeq(strings.TrimRight(text, "\n"), "\n") {
			fmt.Fprintf(a.stderr, "rowhouse: %s\n", line)
		}
	}
	if hint := hintOf(err); hint != "" {
		fmt.Fprintf(a.stderr, "hint: %s\n", hint)
	}
	return code
}

func hintOf(err error) string {
	var h interface{ Hint() string }
	switch {
	case errors.As(err, &h):
		return h.Hint()
	case errors.Is(err, catalog.ErrSchema):
		return "rowhouse catalog init"
	case errors.Is(err, catalog.ErrSealed):
		return "catalog.keys must name the keyset file that this catalog was made with"
	case errors.Is(err, localpg.ErrInUse):
		return "stop the one that runs, or give this one another --data"
	}
	return ""
}
