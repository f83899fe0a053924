package catalog

import (
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// What the catalog answers when it cannot do what it is asked. They come wrapped with what they are about.
var (
	ErrNotFound = errors.New("not found")
	ErrExists   = errors.New("already exists")
	// ErrConflict means that something else changed or holds the row: read again and decide anew.
	ErrConflict = errors.New("conflict")
	// ErrInvalid means that a value does not fit, whatever the catalog holds.
	ErrInvalid = errors.New("invalid")
	// ErrSealed means that a secret does not open under the keys at hand.
	ErrSealed = errors.New("secret does not open under these keys")
	// ErrUnavailable means that the catalog's server does not answer, or takes no writes.
	ErrUnavailable = errors.New("catalog is not available")
)

// invalid is an ErrInvalid that says what is wrong and nothing more.
type invalid struct{ text string }

func (e *invalid) Error() string { return e.text }

// Unwrap makes it an ErrInvalid.
func (e *invalid) Unwrap() error { return ErrInvalid }

// Invalid makes an ErrInvalid whose text is what the format says. Rejected values have no place in it.
func Invalid(format string, args ...any) error { return &invalid{fmt.Sprintf(format, args...)} }

// refine turns the database's answer about noun into one of the package's errors, without its values.
func refine(err error, noun string) error {
	var pg *pgconn.PgError
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%s: %w", noun, ErrNotFound)
	case errors.As(err, &pg) && pg.Code == "23505":
		if pg.ConstraintName == "operations_tenant" || pg.ConstraintName == "operations_database" {
			return fmt.Errorf("%s: another operation is running: %w", noun, ErrConflict)
		}
		return fmt.Errorf("%s: %w", noun, ErrExists)
	case errors.As(err, &pg) && (pg.Code == "23514" || pg.Code == "22P02" || pg.Code == "22021"):
		return fmt.Errorf("%s: %w", noun, ErrInvalid)
	case isReplaced(err):
		return fmt.Errorf("%s: %w: %w", noun, ErrUnavailable, pg)
	case errors.As(err, new(*pgconn.ConnectError)), pg == nil && isLost(err):
		return fmt.Errorf("%s: %w: %s", noun, ErrUnavailable, err)
	}
	return fmt.Errorf("%s: %w", noun, err)
}

// isLost says that a connection ended under a statement.
func isLost(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.As(err, new(net.Error))
}
