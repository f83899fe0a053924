package catalog

import (
	"database/sql/driver"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// ID is a UUIDv7 that belongs to one kind of row, so that one kind cannot be passed for another.
// The zero ID belongs to no row.
type ID[Row any] [16]byte

// The ids of the catalog's rows. They never change and are never reused; names may be.
type (
	TenantID    = ID[Tenant]
	DatabaseID  = ID[Database]
	ServerID    = ID[Server]
	OperationID = ID[Operation]
	InstanceID  = ID[Instance]
)

// NewID makes a fresh UUIDv7.
func NewID[Row any]() ID[Row] { return ID[Row](uuid.Must(uuid.NewV7())) }

// ParseID reads the canonical form of 36 characters and nothing else.
func ParseID[Row any](s string) (ID[Row], error) {
	if len(s) != 36 {
		return ID[Row]{}, fmt.Errorf("%w: not a canonical uuid", ErrInvalid)
	}
	id, err := uuid.Parse(s)
	if err != nil {
		return ID[Row]{}, fmt.Errorf("%w: not a canonical uuid", ErrInvalid)
	}
	return ID[Row](id), nil
}

// String is the canonical form.
func (id ID[Row]) String() string { return uuid.UUID(id).String() }

// IsZero says that id belongs to no row.
func (id ID[Row]) IsZero() bool { return id == ID[Row]{} }

// Time is when the id was made. An id of another kind than ours was made at no time.
func (id ID[Row]) Time() time.Time {
	if id[6]>>4 != 7 {
		return time.Time{}
	}
	var ms [8]byte
	copy(ms[2:], id[:6])
	return time.UnixMilli(int64(binary.BigEndian.Uint64(ms[:])))
}

// Compact is the form without dashes, as it stands in names of databases and roles.
func (id ID[Row]) Compact() string { return fmt.Sprintf("%x", id[:]) }

// MarshalText writes the canonical form; the zero id is empty.
func (id ID[Row]) MarshalText() ([]byte, error) {
	if id.IsZero() {
		return []byte{}, nil
	}
	return []byte(id.String()), nil
}

// UnmarshalText reads what MarshalText wrote.
func (id *ID[Row]) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*id = ID[Row]{}
		return nil
	}
	parsed, err := ParseID[Row](string(text))
	*id = parsed
	return err
}

// ScanUUID reads a column; NULL is the zero id.
func (id *ID[Row]) ScanUUID(v pgtype.UUID) error {
	*id = ID[Row]{}
	if v.Valid {
		*id = v.Bytes
	}
	return nil
}

// UUIDValue writes a column; the zero id is NULL.
func (id ID[Row]) UUIDValue() (pgtype.UUID, error) {
	return pgtype.UUID{Bytes: id, Valid: !id.IsZero()}, nil
}

// Value writes a parameter of unknown type, such as one of a text protocol.
func (id ID[Row]) Value() (driver.Value, error) {
	if id.IsZero() {
		return nil, nil
	}
	return id.String(), nil
}
