package router

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// Why a connection could not be made, in the words of metrics and logs. Tenants hear one code for all of them.
const (
	causeRefused  = "refused"  // nobody listens there, or there is no such name
	causeSilent   = "silent"   // no answer in time
	causeLost     = "lost"     // the connection ended while it was made
	causeFull     = "full"     // the server has no connection left
	causeStarting = "starting" // the server starts, stops or recovers
	causeAuth     = "auth"     // the login or its password is refused
	causeMissing  = "missing"  // there is no such database
	causeIdentity = "identity" // it is another database than the catalog means
	causeTLS      = "tls"      // the server proves itself not, or does not speak TLS
	causeReadOnly = "standby"  // no host takes writes
	causeOther    = "other"
)

// causeOf names why connecting failed.
func causeOf(err error) string {
	if pg, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case strings.HasPrefix(pg.Code, "28"):
			return causeAuth
		case pg.Code == "3D000":
			return causeMissing
		case pg.Code == "53300":
			return causeFull
		case strings.HasPrefix(pg.Code, "57P"):
			return causeStarting
		}
		return causeOther
	}
	var timeout interface{ Timeout() bool }
	text := err.Error()
	switch {
	case errors.Is(err, errIdentity):
		return causeIdentity
	case isTLS(err), strings.Contains(text, "server refused TLS"):
		return causeTLS
	case strings.Contains(text, "read only connection"):
		return causeReadOnly
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return causeSilent
	case errors.As(err, new(*net.DNSError)), isDial(err):
		return causeRefused
	case isLost(err):
		return causeLost
	case errors.As(err, &timeout) && timeout.Timeout():
		return causeSilent
	}
	return causeOther
}

func isTLS(err error) bool {
	return errors.As(err, new(*tls.CertificateVerificationError)) || errors.As(err, new(tls.RecordHeaderError)) || errors.As(err, new(tls.AlertError)) ||
		errors.As(err, new(x509.UnknownAuthorityError)) || errors.As(err, new(x509.CertificateInvalidError)) || errors.As(err, new(x509.HostnameError))
}

// isDial says that there was never a connection.
func isDial(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// counted are the answers of servers that somebody who operates them wants counted: they speak of the server, or of work that
// was given up for it, and of nobody's mistake in a statement.
var counted = []string{
	"25006", "40001", "40P01", "53100", "53200", "53300", "53400", "55P03", "57014", "57P01", "57P02", "57P03", "58030", "XX000", "XX001", "XX002",
}

// tally counts by a word out of a short list.
type tally struct {
	mu sync.Mutex // guards n
	n  map[string]int64
}

func (t *tally) add(word string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.n == nil {
		t.n = map[string]int64{}
	}
	t.n[word]++
}

// all is a copy of what was counted.
func (t *tally) all() map[string]int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := make(map[string]int64, len(t.n))
	for word, count := range t.n {
		n[word] = count
	}
	return n
}

// heard counts an answer of the server.
func (s *server) heard(sqlstate string) {
	if slices.Contains(counted, sqlstate) {
		s.answers.add(sqlstate)
	}
}
