package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Config is how a catalog is opened. The zero value works, without secrets.
type Config struct {
	// Keys seal and open stored secrets. Nil: rows can be read, secrets cannot.
	Keys Keys

	// MaxConns is how many connections to the catalog this process keeps at most.
	//
	// Zero means 4.
	MaxConns int32

	// Logger is told of a catalog that went away and came back.
	//
	// Nil means slog.Default().
	Logger *slog.Logger
}

// Catalog is an open catalog. It is safe for concurrent use.
type Catalog struct {
	pool *pgxpool.Pool
	keys Keys
	log  *slog.Logger
	id   string
}

// ErrSchema means that the database holds no catalog, or one of another version than this program's.
var ErrSchema = errors.New("catalog schema is missing or of another version; run `rowhouse catalog migrate`")

// Open connects to the catalog at url and checks that it is one and that the keys are its own: keys that do not open its
// check value are ErrSealed, before anything is written under them.
func Open(ctx context.Context, url string, cfg Config) (*Catalog, error) {
	pc, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("catalog url cannot be read: %w", ErrInvalid)
	}
	pc.MaxConns = 4
	if cfg.MaxConns > 0 {
		pc.MaxConns = cfg.MaxConns
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.Default()
	}
	pc.ConnConfig.RuntimeParams["application_name"] = "rowhouse/catalog"
	pc.ConnConfig.RuntimeParams["search_path"] = "pg_catalog, pg_temp"
	// Every change takes the revision's lock. A process that stands still in the middle of one must not stop all others.
	if pc.ConnConfig.RuntimeParams[idleInTransaction] == "" {
		pc.ConnConfig.RuntimeParams[idleInTransaction] = "5s"
	}
	// Times are told in one zone, whichever replica tells them.
	pc.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		conn.TypeMap().RegisterType(&pgtype.Type{Name: "timestamptz", OID: pgtype.TimestamptzOID, Codec: &pgtype.TimestamptzCodec{ScanLocation: time.UTC}})
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		return nil, fmt.Errorf("catalog: %w", ErrInvalid)
	}
	c := &Catalog{pool: pool, keys: cfg.Keys, log: cfg.Logger}
	if err := c.check(ctx); err != nil {
		pool.Close()
		return nil, err
	}
	return c, nil
}

const idleInTransaction = "idle_in_transaction_session_timeout"

const keyCheck = "rowhouse key check"

// check reads which catalog this is, and proves the keys on its check value; a catalog without one gets it now.
func (c *Catalog) check(ctx context.Context) error {
	var there bool
	if err := c.pool.QueryRow(ctx, `select to_regclass('rowhouse.catalog') is not null`).Scan(&there); err != nil {
		return fmt.Errorf("catalog: %w", cannotConnect(err))
	}
	if !there {
		return ErrSchema
	}
	var sealed []byte
	if err := c.pool.QueryRow(ctx, `select id::text, key_check from rowhouse.catalog`).Scan(&c.id, &sealed); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if c.keys == nil {
		return nil
	}
	bound := []byte("rowhouse/v1/catalog.key_check\x00" + c.id)
	if sealed == nil {
		fresh, err := c.keys.Seal([]byte(keyCheck), bound)
		if err != nil {
			return fmt.Errorf("catalog keys: %w", err)
		}
		err = c.pool.QueryRow(ctx, `
			with set as (update rowhouse.catalog set key_check = $1 where key_check is null returning key_check)
			select key_check from set`, fresh).Scan(&sealed)
		if errors.Is(err, pgx.ErrNoRows) { // another process was first: its value decides
			err = c.pool.QueryRow(ctx, `select key_check from rowhouse.catalog`).Scan(&sealed)
		}
		if err != nil {
			return fmt.Errorf("catalog keys: %w", err)
		}
	}
	if plain, err := c.keys.Unseal(sealed, bound); err != nil || string(plain) != keyCheck {
		return fmt.Errorf("catalog keys are not this catalog's: %w", ErrSealed)
	}
	return nil
}

// cannotConnect keeps what a connection error says and drops what it carries: pgx's own holds the whole configuration.
func cannotConnect(err error) error {
	return errors.New(err.Error())
}

// ID is the catalog's own, for the marks on what it makes.
func (c *Catalog) ID() string { return c.id }

// Pool is the catalog's own pool, for the job runner, whose tables stand beside the catalog's.
func (c *Catalog) Pool() *pgxpool.Pool { return c.pool }

// Ping asks whether the catalog answers.
func (c *Catalog) Ping(ctx context.Context) error { return c.pool.Ping(ctx) }

// Close waits until every connection is back and closes them.
func (c *Catalog) Close() { c.pool.Close() }

// Tx writes to the catalog. It exists inside Update only, and is the transaction that the change and its audit event share.
type Tx struct {
	pgx.Tx
	catalog *Catalog
}

// Update records event and runs fn, in one transaction: both stand or neither. An error of fn comes back as it is, after
// the rollback. Serialisation failures and deadlocks are tried again, so fn may run more than once.
func (c *Catalog) Update(ctx context.Context, event Event, fn func(*Tx) error) error {
	if err := event.validate(); err != nil {
		return err
	}
	var err error
	for range 3 {
		err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
			t := &Tx{tx, c}
			if err := t.record(ctx, event); err != nil {
				return err
			}
			if err := t.expected(ctx); err != nil {
				return err
			}
			if err := fn(t); err != nil {
				return err
			}
			return t.markOnce(ctx, event)
		})
		if !isRaced(err) {
			break
		}
	}
	return err
}

func isRaced(err error) bool {
	var coded interface{ SQLState() string }
	return errors.As(err, &coded) && (coded.SQLState() == "40001" || coded.SQLState() == "40P01")
}

func (tx *Tx) exactlyOne(ctx context.Context, noun, sql string, args ...any) error {
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return refine(err, noun)
	}
	if tag.RowsAffected() == 0 {
		return fmt.Errorf("%s: %w", noun, ErrNotFound)
	}
	return nil
}
