package catalog

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret is a text that does not print itself.
//
// It holds a pointer because fmt calls no method on an unexported field and would print a plain string standing there.
type Secret struct{ s *string }

const redacted = "[redacted]"

// NewSecret keeps s.
func NewSecret(s string) Secret { return Secret{&s} }

// Format prints a fixed word for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue gives slog a fixed word.
func (Secret) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalText gives every encoder a fixed word.
func (Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// IsZero says that there is no text.
func (s Secret) IsZero() bool { return s.s == nil || *s.s == "" }

// Reveal gives the text. It is called where a connection is configured or the text is sealed, and nowhere else.
func (s Secret) Reveal() string {
	if s.s == nil {
		return ""
	}
	return *s.s
}

// Keys seals secrets, each bound to where it stands: what is copied elsewhere does not open.
// It is satisfied by *keyring.Keyset.
type Keys interface {
	Seal(plain, bound []byte) ([]byte, error)
	Unseal(sealed, bound []byte) ([]byte, error)
}

// boundTo is the associated data of one credential's secret.
func boundTo(server ServerID, database DatabaseID, login Login, version int64) []byte {
	return fmt.Appendf(nil, "rowhouse/v1/credentials.secret\x00%s\x00%s\x00%s\x00%d", server, database, login, version)
}

func (c *Catalog) seal(s Secret, bound []byte) ([]byte, error) {
	if c.keys == nil {
		return nil, fmt.Errorf("%w: no keys given", ErrSealed)
	}
	return c.keys.Seal([]byte(s.Reveal()), bound)
}

func (c *Catalog) unseal(sealed, bound []byte) (Secret, error) {
	if sealed == nil {
		return Secret{}, nil
	}
	if c.keys == nil {
		return Secret{}, fmt.Errorf("%w: no keys given", ErrSealed)
	}
	plain, err := c.keys.Unseal(sealed, bound)
	if err != nil {
		return Secret{}, ErrSealed
	}
	return NewSecret(string(plain)), nil
}
