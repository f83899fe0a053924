package exec

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/rest/internal/sqlgen"
)

// A Keep has a job's answer kept in the job's own transaction, or gives the one that an earlier transaction kept.
type Keep struct {
	Key, Request [32]byte // digests: of the key with whose it is, and of the request
	// Answer builds what is kept. Its error rolls back, as that of a Decide does.
	Answer func(Row) (*Kept, error)
	// Found is the answer that was there. Then nothing of the job ran.
	Found *Kept
}

// Kept is an answer as it is kept.
type Kept struct {
	Status int
	Header []byte // JSON
	Body   []byte // nil is none
}

// What became of a key that cannot be claimed.
var (
	ErrKeyBusy  = errors.New("a request with this key is in flight")
	ErrKeyOther = errors.New("the key belongs to another request")
	ErrNoKeys   = errors.New("the database keeps no answers")
)

const (
	claimKey = `select state, status::text, encode(body, 'hex'), header, set_config('rest.claim', state, true) from rowhouse.idempotency_claim($1, $2)`
	// Fails where the key was not claimed, so that nothing that was sent behind it runs.
	guardKey   = `select 1 / (current_setting('rest.claim') = 'new')::int`
	keepAnswer = `select rowhouse.idempotency_keep($1, $2, $3, $4, $5)`
)

func bytesArg(b []byte) []byte { return append([]byte(`\x`), hex.AppendEncode(nil, b)...) }

// claiming is the statement that holds the key for the transaction, or finds its answer.
func (k *Keep) claiming() sqlgen.Statement {
	return sqlgen.Statement{SQL: claimKey, Args: [][]byte{bytesArg(k.Key[:]), bytesArg(k.Request[:])}}
}

// claimError explains why a key could not be claimed.
func claimError(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		switch pg.Code {
		case "3F000", "42883", "42501": // no such schema, no such function, not for this role
			return decided{ErrNoKeys}
		}
	}
	return err
}

// claim holds the key for the transaction, or finds its answer.
func (k *Keep) claim(ctx context.Context, tx pgx.Tx) error {
	row, err := query(ctx, tx, k.claiming(), false)
	if err != nil {
		return claimError(err)
	}
	return k.claimed(row)
}

// claimed reads what became of the claim.
func (k *Keep) claimed(row *Row) (err error) {
	if row == nil {
		return errNoRow
	}
	switch string(row[0]) {
	case "new":
		return nil
	case "same":
		found := &Kept{Header: row[3]}
		if found.Status, err = strconv.Atoi(string(row[1])); err != nil {
			return err
		}
		if row[2] != nil {
			found.Body = make([]byte, hex.DecodedLen(len(row[2])))
			_, err = hex.Decode(found.Body, row[2])
		}
		k.Found = found
		return err
	case "other":
		return decided{ErrKeyOther}
	}
	return decided{ErrKeyBusy}
}

// keep writes the answer beside the data.
func (k *Keep) keep(ctx context.Context, tx pgx.Tx, row Row) error {
	s, err := k.keeping(row)
	if err != nil {
		return err
	}
	_, err = query(ctx, tx, s, false)
	return err
}

// keeping is the statement that writes the answer.
func (k *Keep) keeping(row Row) (sqlgen.Statement, error) {
	answer, err := k.Answer(row)
	if err != nil {
		return sqlgen.Statement{}, decided{err}
	}
	args := [][]byte{bytesArg(k.Key[:]), bytesArg(k.Request[:]), strconv.AppendInt(nil, int64(answer.Status), 10), answer.Header, nil}
	if answer.Body != nil {
		args[4] = bytesArg(answer.Body)
	}
	return sqlgen.Statement{SQL: keepAnswer, Args: args}, nil
}
