package catalog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

	// Schema is the version of the catalog's schema that the program was written for. A catalog of an older one is
	// ErrSchema; one of a newer one is read and not written to: Update is ErrNewer.
	//
	// Zero means that any version will do.
	Schema int64

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
	// newer is set for a catalog of a schema that this program does not know: nothing is written to it.
	newer bool
}

var (
	// ErrSchema means that the database holds no catalog, or one of an older version than this program's.
	ErrSchema = errors.New("catalog schema is missing or of another version; run `rowhouse catalog migrate`")
	// ErrNewer means that a program was asked to change a catalog of a newer version than its own.
	ErrNewer = errors.New("catalog is newer than this program, which does not write to it")
	// ErrRefused means that the server lets the catalog's login not in, or not at what every process needs. Waiting does
	// not mend it.
	ErrRefused = errors.New("catalog refuses the login")
)

// Open connects to the catalog at url and checks that it is one, that the login may do what every process does (else
// ErrRefused) and that the keys are its own: keys that do not open its check value are ErrSealed, before anything is
// written under them.
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
	if pc.ConnConfig.ConnectTimeout == 0 {
		pc.ConnConfig.ConnectTimeout = 5 * time.Second
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
	if err := c.check(ctx, cfg.Schema); err != nil {
		pool.Close()
		return nil, err
	}
	return c, nil
}

const idleInTransaction = "idle_in_transaction_session_timeout"

const keyCheck = "rowhouse key check"

// check reads which catalog this is, and proves the keys on its check value; a catalog without one gets it now.
func (c *Catalog) check(ctx context.Context, schema int64) error {
	var there bool
	if err := c.pool.QueryRow(ctx, `select to_regclass('rowhouse.catalog') is not null`).Scan(&there); err != nil {
		return fmt.Errorf("catalog: %w", cannotConnect(err))
	}
	if !there {
		return ErrSchema
	}
	if err := c.checkGrants(ctx); err != nil {
		return err
	}
	if err := c.checkSchema(ctx, schema); err != nil {
		return err
	}
	var sealed []byte
	if err := c.pool.QueryRow(ctx, `select id::text, key_check from rowhouse.catalog`).Scan(&c.id, &sealed); err != nil {
		return fmt.Errorf("catalog: %w", err)
	}
	if c.keys == nil {
		return nil
	}
	bound := c.checkBound()
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

// checkGrants says which right the login lacks that every process needs: to know the catalog, and to say that it lives.
func (c *Catalog) checkGrants(ctx context.Context) error {
	var role, lacks string
	err := c.pool.QueryRow(ctx, `
		with needed (relation, privilege) as (
			select 'rowhouse.' || name, 'SELECT' from unnest(array['catalog', 'revision', 'changes', 'servers', 'databases',
			       'credentials', 'tenants', 'aliases', 'domains', 'settings', 'tokens']) name
			union all
			select 'rowhouse.instances', privilege from unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) privilege)
		select current_user, case when not has_schema_privilege('rowhouse', 'USAGE') then 'USAGE on schema rowhouse'
		       else coalesce((select privilege || ' on ' || relation from needed
		                       where not has_table_privilege(to_regclass(relation), privilege) limit 1), '') end`).Scan(&role, &lacks)
	switch {
	case err != nil:
		return fmt.Errorf("catalog: %w", cannotConnect(err))
	case lacks != "":
		return fmt.Errorf("catalog role %q lacks %s: %w", role, lacks, ErrRefused)
	}
	return nil
}

// checkSchema compares the version of the catalog's schema with the program's.
func (c *Catalog) checkSchema(ctx context.Context, schema int64) error {
	if schema == 0 {
		return nil
	}
	var version int64
	err := c.pool.QueryRow(ctx, `select coalesce(max(version), 0) from rowhouse.migrations where state = 'applied'`).Scan(&version)
	switch {
	case err != nil:
		return fmt.Errorf("catalog: %w", cannotConnect(err))
	case version < schema:
		return fmt.Errorf("catalog is at version %d, this program needs %d: %w", version, schema, ErrSchema)
	case version > schema:
		c.newer = true
		c.log.Warn("catalog is newer than this program: it is read and not written to", "version", version, "known", schema)
	}
	return nil
}

// ReadOnly says that the catalog is newer than the program: nothing is written to it.
func (c *Catalog) ReadOnly() bool { return c.newer }

// cannotConnect keeps what a connection error says and drops what it carries: pgx's own holds the whole configuration.
func cannotConnect(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && (strings.HasPrefix(pg.Code, "28") || pg.Code == "3D000" || pg.Code == "42501") {
		return fmt.Errorf("%w: %s (SQLSTATE %s)", ErrRefused, pg.Message, pg.Code)
	}
	return fmt.Errorf("%w: %s", ErrUnavailable, err)
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
// the rollback. Serialisation failures and deadlocks are tried again, and so is, for some seconds, a server that takes no
// writes because another one takes its place: so fn may run more than once.
func (c *Catalog) Update(ctx context.Context, event Event, fn func(*Tx) error) error {
	if err := event.validate(); err != nil {
		return err
	}
	if c.newer {
		return ErrNewer
	}
	began := time.Now()
	for try := 1; ; try++ {
		err := c.update(ctx, event, fn)
		switch {
		case isRaced(err) && try < 3:
		case isReplaced(err) && time.Since(began) < failover:
			c.pool.Reset()
			select {
			case <-ctx.Done():
				return err
			case <-time.After(100 * time.Millisecond):
			}
		default:
			return err
		}
	}
}

// Note records an event that is no change of the catalog.
func (c *Catalog) Note(ctx context.Context, event Event) error {
	return c.Update(ctx, event, func(*Tx) error { return nil })
}

// failover is how long a change waits for another server to take the place of one that takes no writes.
const failover = 10 * time.Second

func (c *Catalog) update(ctx context.Context, event Event, fn func(*Tx) error) error {
	tx, err := c.pool.Begin(ctx)
	if err != nil {
		return refine(err, "catalog")
	}
	defer func() { _ = tx.Rollback(ctx) }()
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
	if err := t.markOnce(ctx, event); err != nil {
		return err
	}
	err = tx.Commit(ctx)
	if pg, ok := errors.AsType[*pgconn.PgError](err); err != nil && !errors.Is(err, pgx.ErrTxCommitRollback) && (!ok || pg.Severity != "ERROR") {
		return &lostCommit{err}
	}
	return err
}

// lostCommit is a change of which nobody knows whether it was made. It is not made again.
type lostCommit struct{ cause error }

func (e *lostCommit) Error() string { return "catalog: answer to commit lost: " + e.cause.Error() }
func (e *lostCommit) Unwrap() error { return ErrUnavailable }

func isRaced(err error) bool {
	var coded interface{ SQLState() string }
	return errors.As(err, &coded) && (coded.SQLState() == "40001" || coded.SQLState() == "40P01")
}

// isReplaced says that a server is on its way out, or has become a standby.
func isReplaced(err error) bool {
	var coded interface{ SQLState() string }
	return errors.As(err, &coded) && (coded.SQLState() == "25006" || strings.HasPrefix(coded.SQLState(), "57P"))
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
