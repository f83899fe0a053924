package catalog

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// What a request that is to be carried out once may meet.
var (
	// ErrReused means that the key was given to another request.
	ErrReused = errors.New("the key belongs to another request")
	// ErrInFlight means that the same request is being carried out.
	ErrInFlight = errors.New("the request is being carried out")
	// ErrAnswerLost means that the request was carried out and its answer was not kept: the process ended in between.
	ErrAnswerLost = errors.New("the request was carried out and its answer is lost")
)

// How long the answer to a request is kept, and how long one may take before it counts as abandoned.
const (
	onceTerm  = 24 * time.Hour
	onceLease = time.Minute
)

// Once is a request that is carried out once, however often it is sent.
type Once struct {
	// Answer is what the request was answered with, when it has been carried out before.
	Answer []byte
	// Operation is what carries it out, where its answer was lost.
	Operation OperationID

	catalog               *Catalog
	principal, route, key string
	claim                 string
}

// BeginOnce claims the key for a request of somebody on a route, or finds what became of it: its answer, ErrInFlight,
// ErrAnswerLost, or ErrReused when it was another request. What is done under Context and committed by Update is marked as
// done in the same transaction. It ends with Keep or Release.
func (c *Catalog) BeginOnce(ctx context.Context, principal, route, key string, request []byte) (*Once, error) {
	o := &Once{catalog: c, principal: principal, route: route, key: key, claim: uuid.NewString()}
	sealed, err := o.seal("request", request)
	if err != nil {
		return nil, err
	}
	err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `delete from rowhouse.requests_once where expires_at < now()`); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `
			insert into rowhouse.requests_once (principal, route, key, claim, request, lease_until, expires_at)
			values ($1, $2, $3, $4, $5, now() + $6::interval, now() + $7::interval)
			on conflict do nothing`, principal, route, key, o.claim, sealed, onceLease, onceTerm)
		if err != nil || tag.RowsAffected() == 1 {
			return err
		}
		return o.meet(ctx, tx, request)
	})
	if errors.Is(err, ErrReused) || errors.Is(err, ErrInFlight) || errors.Is(err, ErrAnswerLost) {
		return o, err
	}
	return o, refine(err, "idempotency key")
}

// meet decides what a request is to one that came before it under the same key.
func (o *Once) meet(ctx context.Context, tx pgx.Tx, request []byte) error {
	var asked, answer []byte
	var done, abandoned bool
	err := tx.QueryRow(ctx, `
		select request, answer, done, operation, lease_until < now() from rowhouse.requests_once
		 where principal = $1 and route = $2 and key = $3 for update`,
		o.principal, o.route, o.key).Scan(&asked, &answer, &done, &o.Operation, &abandoned)
	if errors.Is(err, pgx.ErrNoRows) { // the other one has just given up
		return ErrInFlight
	}
	if err != nil {
		return err
	}
	plain, err := o.unseal("request", asked)
	if err != nil || !bytes.Equal(plain, request) { // one under keys that are gone is as good as another
		return ErrReused
	}
	switch {
	case answer != nil:
		if o.Answer, err = o.unseal("answer", answer); err != nil {
			return ErrAnswerLost
		}
		return nil
	case done:
		return ErrAnswerLost
	case !abandoned:
		return ErrInFlight
	}
	_, err = tx.Exec(ctx, `
		update rowhouse.requests_once set claim = $4, lease_until = now() + $5::interval
		 where principal = $1 and route = $2 and key = $3`, o.principal, o.route, o.key, o.claim, onceLease)
	return err
}

// seal keeps a value under the catalog's keys. Without keys there are no passwords in requests, and they are kept as they are.
func (o *Once) seal(column string, plain []byte) ([]byte, error) {
	if o.catalog.keys == nil {
		return plain, nil
	}
	sealed, err := o.catalog.keys.Seal(plain, o.bound(column))
	if err != nil {
		return nil, fmt.Errorf("idempotency key: %w", err)
	}
	return sealed, nil
}

func (o *Once) unseal(column string, sealed []byte) ([]byte, error) {
	if o.catalog.keys == nil {
		return sealed, nil
	}
	return o.catalog.keys.Unseal(sealed, o.bound(column))
}

func (o *Once) bound(column string) []byte {
	return fmt.Appendf(nil, "rowhouse/v1/requests_once.%s\x00%s\x00%s\x00%s", column, o.principal, o.route, o.key)
}

type onceKey struct{}

// Context is ctx in which whatever Update commits is this request's doing.
func (o *Once) Context(ctx context.Context) context.Context {
	return context.WithValue(ctx, onceKey{}, o)
}

// markOnce notes in the transaction that the context's request is carried out by it. A claim that another process has
// taken over meanwhile is ErrConflict: that one does it.
func (tx *Tx) markOnce(ctx context.Context, e Event) error {
	o, ok := ctx.Value(onceKey{}).(*Once)
	if !ok {
		return nil
	}
	tag, err := tx.Exec(ctx, `
		update rowhouse.requests_once set done = true, operation = coalesce($5, operation)
		 where principal = $1 and route = $2 and key = $3 and claim = $4`, o.principal, o.route, o.key, o.claim, e.Operation)
	if err == nil && tag.RowsAffected() == 0 {
		return fmt.Errorf("the request took too long and is carried out by another process: %w", ErrConflict)
	}
	return refine(err, "idempotency key")
}

// Keep stores what the request was answered with. An answer can hold a new token: a catalog without keys does not keep it.
func (o *Once) Keep(ctx context.Context, answer []byte) error {
	var sealed []byte
	if o.catalog.keys != nil {
		var err error
		if sealed, err = o.seal("answer", answer); err != nil {
			return err
		}
	}
	_, err := o.catalog.pool.Exec(ctx, `
		update rowhouse.requests_once set answer = $5, done = true
		 where principal = $1 and route = $2 and key = $3 and claim = $4`, o.principal, o.route, o.key, o.claim, sealed)
	return refine(err, "idempotency key")
}

// Release gives the key back after a request that did nothing. One that did something keeps it.
func (o *Once) Release(ctx context.Context) error {
	_, err := o.catalog.pool.Exec(ctx, `
		delete from rowhouse.requests_once
		 where principal = $1 and route = $2 and key = $3 and claim = $4 and not done`, o.principal, o.route, o.key, o.claim)
	return refine(err, "idempotency key")
}
