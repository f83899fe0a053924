package rest

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/router/rest/internal/exec"
	"github.com/rowhouse/rowhouse/router/rest/internal/schema"
)

// Beginner begins transactions. *pgxpool.Pool, *pgx.Conn and the router satisfy it as they are.
type Beginner interface {
	// BeginTx begins a transaction in whatever role and scope its requests are to run.
	BeginTx(ctx context.Context, o pgx.TxOptions) (pgx.Tx, error)
}

// Lender is the optional fast door of a Beginner: it lends a connection, so that the whole transaction is one
// round trip.
type Lender interface {
	// Lend calls fn with a connection. Open queues the transaction's frame (BEGIN with the access mode, tenant,
	// role) into fn's pipeline and returns how many results it will produce; fn reads them before its own. An error
	// among them means that nothing of fn ran, and fn's error then has an Outcome() of "not_started": Lend may call
	// fn again with another connection. Fn ends the transaction itself. Lend takes the connection back, and
	// destroys one whose transaction status is not idle.
	//
	// Where a request ran what may leave something in the session (a VOLATILE function, the pre-request function, one
	// that failed), the connection's CustomData holds true as "rowhouse.dirty". Whoever lends connections to more than
	// one tenant cleans such a one before it lends it again, or destroys it. That of a Beginner is told the same way.
	Lend(ctx context.Context, o pgx.TxOptions, fn func(conn *pgx.Conn, open func(*pgconn.Pipeline) int) error) error
}

// Options are what may differ by tenant or request.
type Options struct {
	// Fingerprint of the database's schema. Databases of one fingerprint share one cached schema.
	// Empty means one schema for all requests of this Handler that leave it empty.
	Fingerprint string
	// Database names the database. A database that was found to be unlike the others of its fingerprint keeps a
	// schema of its own. Empty means that those of one fingerprint do not differ.
	Database string
	// Recheck is how old the schema may be before it is read again, for databases whose owners make DDL themselves.
	// Zero reads it again only when an answer says that it may be out of date.
	Recheck time.Duration
	// Schemas are exposed; the first is the default. Nil means public.
	Schemas []string
	// ExtraSearchPath follows the request's schema in search_path, for extensions. Nil means extensions.
	ExtraSearchPath []string
	// Role is the database role that the transaction runs in, as far as it is known. Empty means unknown.
	Role string
	// AnonRole is the role of requests without credentials: what it may not do is answered 401 instead of 403.
	// Empty means none.
	AnonRole string
	// Claims is the JSON object behind request.jwt.claims. Role is added where they name none. Nil means {"role": Role}.
	Claims []byte
	// Tenant is the canonical UUID that bound tables are filtered by, besides row-level security. Empty adds no
	// filter.
	Tenant string
	// MaxRows caps what a read returns. Zero means 1000, a negative number no cap.
	MaxRows int64
	// NoAggregates refuses sum, avg, min, max and count in select.
	NoAggregates bool
	// Plan answers requests for the plan of their statement. Plans show policies and statistics of everybody in
	// the database, so not in shared ones.
	Plan bool
	// NoRoot hides the description of everything at the root.
	NoRoot bool
	// MaxBody is the largest body accepted, in bytes. Zero means 10 MiB.
	MaxBody int64
	// MaxAnswer is the largest body answered, in bytes. Zero means 64 MiB.
	MaxAnswer int
	// Timing tells in Server-Timing how long each step took, asked for or not.
	Timing bool
	// Credential and Resolution are what was spent before the Handler: on the request's token, and on finding out whose
	// database it is for. Server-Timing tells them as jwt and tenant; zero is not told.
	Credential, Resolution time.Duration
	// TxEnd is commit, rollback, or either with -allow-override, which lets requests choose by Prefer: tx=.
	// Empty means commit.
	TxEnd string
	// PreRequest names a function without arguments that is called first in every transaction. Empty means none.
	PreRequest string
}

// Never written to.
var publicSchema, extensionsSchema = []string{"public"}, []string{"extensions"}

func (o Options) withDefaults() Options {
	if o.Schemas == nil {
		o.Schemas = publicSchema
	}
	if o.ExtraSearchPath == nil {
		o.ExtraSearchPath = extensionsSchema
	}
	o.Claims = withRole(o.Claims, o.Role)
	if o.MaxRows == 0 {
		o.MaxRows = 1000
	}
	if o.MaxBody == 0 {
		o.MaxBody = 10 << 20
	}
	if o.MaxAnswer == 0 {
		o.MaxAnswer = 64 << 20
	}
	if o.TxEnd == "" {
		o.TxEnd = "commit"
	}
	return o
}

// Config adjusts a Handler. Its zero value works.
type Config struct {
	// Prefix is the path that the Handler is mounted at. Empty means /rest/v1.
	Prefix string
	// Options hold for every request when PerRequest is nil.
	Options Options
	// PerRequest gives a request's options. Nil means Options.
	PerRequest func(*http.Request) (Options, error)
	// Error answers what is not the dialect's: errors of PerRequest, of BeginTx and Lend, and lost connections.
	// They come unchanged; one with an Outcome() says what became of the transaction. Nil means 503.
	Error func(http.ResponseWriter, *http.Request, error)
	// Unnamed keeps the Handler from preparing statements, for connections through a transaction pooler.
	Unnamed bool
	// Schemas is how many schemas are cached. Zero means 128.
	Schemas int
	// Logger hears of what clients are not told. Nil means slog.Default().
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Prefix == "" {
		c.Prefix = "/rest/v1"
	}
	c.Prefix = strings.TrimRight(c.Prefix, "/")
	if c.PerRequest == nil {
		options := c.Options
		c.PerRequest = func(*http.Request) (Options, error) { return options, nil }
	}
	if c.Error == nil {
		c.Error = unavailable
	}
	if c.Schemas <= 0 {
		c.Schemas = 128
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	return c
}

// A Handler serves the paths below its prefix.
type Handler struct {
	config   Config
	beginner Beginner
	runner   *exec.Runner
	schemas  *schema.Cache
}

var _ http.Handler = (*Handler)(nil)

// New makes a Handler over b, which may also be a Lender.
func New(b Beginner, cfg Config) *Handler {
	cfg = cfg.withDefaults()
	return &Handler{config: cfg, beginner: b, runner: exec.New(b, cfg.Unnamed), schemas: schema.NewCache(cfg.Schemas)}
}

// schemaKey is what the options' schema is cached under.
func schemaKey(o Options) schema.Key {
	return schema.Key{Fingerprint: o.Fingerprint, Schemas: schema.Join(o.Schemas), Extra: schema.Join(o.ExtraSearchPath), Database: o.Database}
}

// loadSchema reads the database's schema in a transaction like any other of the request's.
func (h *Handler) loadSchema(o Options) func(context.Context) (*schema.Schema, error) {
	return func(ctx context.Context) (s *schema.Schema, err error) {
		err = h.inTx(ctx, func(tx pgx.Tx) error {
			s, err = schema.Load(ctx, tx, o.Schemas, o.ExtraSearchPath)
			return err
		})
		return s, err
	}
}

// visible reads what the request's role may see, for hints.
func (h *Handler) visible(ctx context.Context, o Options, entry *schema.Entry) (schema.Visible, error) {
	return entry.Visible(o.Role, func() (seen schema.Visible, err error) {
		err = h.inTx(ctx, func(tx pgx.Tx) error {
			seen, err = schema.ReadVisible(ctx, tx, o.Schemas)
			return err
		})
		return seen, err
	})
}

// inTx runs fn in a read-only transaction. An error of BeginTx comes back unchanged.
func (h *Handler) inTx(ctx context.Context, fn func(pgx.Tx) error) error {
	tx, err := h.beginner.BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // a no-op after Commit
	if err := fn(tx); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("end reading: %w", err)
	}
	return nil
}

// searchPath quotes the request's schema and the extra ones. pg_temp comes last, or it would come first unsaid.
func searchPath(schema string, extra []string) string {
	var b strings.Builder
	b.Grow(64)
	write := func(name string) {
		b.WriteByte('"')
		b.WriteString(strings.ReplaceAll(name, `"`, `""`))
		b.WriteString(`", `)
	}
	write(schema)
	for _, name := range extra {
		write(name)
	}
	b.WriteString("pg_temp")
	return b.String()
}
