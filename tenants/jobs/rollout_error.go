package jobs

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
)

// class says what an error of a target asks for.
type class string

// The classes of errors, and how often each is tried.
const (
	classLock       class = "lock"       // somebody holds what the file needs
	classPassing    class = "passing"    // a server that fails over, a connection that broke
	classTime       class = "time"       // a statement took too long: each try holds its locks for as long again
	classStop       class = "stop"       // the process or an operator ended it
	classCredential class = "credential" // the login or the place is not as the catalog says
	classServer     class = "server"     // the server lets nobody in, or has no room
	classPermanent  class = "permanent"  // trying again would give the same answer
	classHistory    class = "history"    // database and set tell different stories
	classRepair     class = "repair"     // a file without a transaction broke off
)

// tries is how often a target is begun until an error of the class counts as its failure.
var tries = map[class]int{classLock: 10, classPassing: 8, classTime: 2, classCredential: 2, classServer: 8}

// worked is how often a target is begun whatever became of its workers: one that takes its worker with it each time has failed.
const worked = 12

func classify(ctx context.Context, err error) class {
	var dirty *migrations.DirtyError
	var history *migrations.HistoryError
	var lock *migrations.LockError
	var cannot *pgconn.ConnectError
	var network net.Error
	state := migrations.SQLState(err)
	switch {
	case ctx.Err() != nil:
		return classStop
	case errors.As(err, &dirty):
		return classRepair
	case errors.As(err, &history):
		return classHistory
	case errors.As(err, &lock):
		return classLock
	case state != "":
		return classOfState(state)
	case errors.Is(err, catalog.ErrNotFound), errors.Is(err, catalog.ErrSealed), errors.Is(err, catalog.ErrInvalid):
		return classCredential
	case errors.As(err, &cannot):
		return classServer
	case errors.As(err, &network), errors.Is(err, migrations.ErrLockLost), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF),
		errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, context.DeadlineExceeded):
		return classPassing
	}
	return classPermanent
}

func classOfState(state string) class {
	switch state {
	case "55P03", "40P01":
		return classLock
	case "40001", "25006", "57P01", "57P02":
		return classPassing
	case "57P03", "53300", "53100", "53200":
		return classServer
	case "57014":
		return classTime
	case "3D000":
		return classCredential
	}
	switch state[:min(2, len(state))] {
	case "08":
		return classPassing
	case "28":
		return classCredential
	case "58":
		return classServer
	}
	return classPermanent
}

// judged is what comes of a target's error.
func (d *driver) judged(ctx context.Context, claim *catalog.RolloutClaim, err error) *catalog.TargetResult {
	c := classify(ctx, err)
	r := &catalog.TargetResult{
		RolloutClaim: claim, State: catalog.TargetFailed, Class: string(c), SQLState: migrations.SQLState(err),
		Error: strings.TrimPrefix(explain(err), claim.Name+": "), Detail: detailOf(err), Refused: c == classServer,
	}
	switch {
	case c == classStop:
		r.State, r.Uncounted, r.Error = catalog.TargetPending, true, ""
	case c == classRepair:
		r.State = catalog.TargetNeedsRepair
	case claim.Attempts < tries[c]:
		r.State, r.Wait = catalog.TargetRetryWait, jitter(d.cfg.Backoff, claim.Attempts)
	}
	return r
}

// jitter is anything up to a time that doubles with each attempt, a minute at most.
func jitter(first time.Duration, attempt int) time.Duration {
	return rand.N(min(first<<min(attempt-1, 10), time.Minute) + 1)
}

// detailOf is what else an error tells, without SQL.
func detailOf(err error) map[string]any {
	detail := map[string]any{}
	var file *migrations.Error
	if errors.As(err, &file) {
		detail["file"], detail["line"] = file.File, file.Line
	}
	var lock *migrations.LockError
	if errors.As(err, &lock) && lock.PID != 0 {
		detail["holder"] = map[string]any{"pid": lock.PID, "role": lock.Role}
	}
	var hint interface{ Hint() string }
	if errors.As(err, &hint) && hint.Hint() != "" {
		detail["hint"] = hint.Hint()
	}
	return detail
}

// existed says that something was there before that a file wanted to make.
func existed(state string) bool {
	return strings.Contains(" 42P07 42701 42710 ", " "+state+" ") && state != ""
}
