package migrations

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/migrations/internal/driver"
	"github.com/rowhouse/rowhouse/migrations/internal/lint"
)

const (
	defaultLedger  = "rowhouse.migrations"
	baselineLedger = "rowhouse.baseline_migrations"
)

// Config says how a Migrator works.
type Config struct {
	// Ledger is the table that records what was applied, as schema.table.
	//
	// Empty means rowhouse.migrations.
	Ledger string
	// LockTimeout is how long a file may wait for a lock on a table. Behind a statement that waits for a strong lock, every later
	// reader waits too.
	//
	// Zero means 2 seconds.
	LockTimeout time.Duration
	// StatementTimeout is how long one statement of a file may run. A file may ask for more: "-- rowhouse:timeout 30m".
	//
	// Zero means 5 minutes.
	StatementTimeout time.Duration
	// LockWait is how long Up waits for another migrator of the same database.
	//
	// Zero means 30 seconds.
	LockWait time.Duration
	// StatementPerMessage sends each statement of a file by itself, within the file's transaction, rather than the file as a whole. It
	// costs a round trip each and gives the same result.
	//
	// False means that only where the database needs it, which is on Citus.
	StatementPerMessage bool
	// Then runs after the files, under the same lock, also when no file was pending. For migrations that somebody else brings along
	// and does not lock.
	//
	// Nil means nothing.
	Then func(context.Context, *pgx.Conn) error
	// Logger hears of each file applied.
	//
	// Nil means silence.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Ledger == "" {
		c.Ledger = defaultLedger
	}
	if c.LockTimeout == 0 {
		c.LockTimeout = 2 * time.Second
	}
	if c.StatementTimeout == 0 {
		c.StatementTimeout = 5 * time.Minute
	}
	if c.LockWait == 0 {
		c.LockWait = 30 * time.Second
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return c
}

var ledgerName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}\.[a-z_][a-z0-9_]{0,62}$`)

func (c Config) validate() error {
	if !ledgerName.MatchString(c.Ledger) {
		return fmt.Errorf("ledger %q: not of the form schema.table", c.Ledger)
	}
	if c.LockTimeout < 0 || c.StatementTimeout < 0 || c.LockWait < 0 {
		return errors.New("a migrator's time-outs cannot be negative")
	}
	return nil
}

// Migrator brings databases to the version of one set. It holds no connection and may be used by many goroutines at once.
type Migrator struct {
	cfg    Config
	stages []stage // the last one is the application's
}

// stage is a set with a ledger of its own. Tenant databases have two, so that rowhouse's numbers and the application's never meet.
type stage struct {
	ledger   string
	files    []File
	chains   []string // chains[i] is the chain after files[i]
	source   fs.FS    // shared by all runs, never written
	baseline bool
	// check refuses what a file left behind, in the file's own transaction; checkLast follows it for the last file.
	check, checkLast string
}

// New makes a Migrator for one set with one ledger. The error is that of ReadSet.
func New(fsys fs.FS, cfg Config) (*Migrator, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	s, err := newStage(cfg.Ledger, fsys)
	if err != nil {
		return nil, err
	}
	return &Migrator{cfg: cfg, stages: []stage{s}}, nil
}

// ForCatalog makes the Migrator of the catalog's own schema.
func ForCatalog(cfg Config) (*Migrator, error) {
	return New(embedded(catalogFiles, "catalog"), cfg)
}

// ForTenants makes the Migrator of databases that hold tenants: rowhouse's baseline first, with a ledger of its own, then the
// application's set. A nil app means the baseline alone. A file of the application that leaves a table undeclared (rowhouse.bind,
// bind_optional or reference) or a foreign key without its other side is refused.
func ForTenants(app fs.FS, cfg Config) (*Migrator, error) {
	m, err := New(app, cfg)
	if err != nil {
		return nil, err
	}
	base, err := newStage(baselineLedger, embedded(tenantFiles, "tenant"))
	if err != nil {
		return nil, fmt.Errorf("baseline: %w", err)
	}
	if m.cfg.Ledger != defaultLedger {
		// The baseline's view rowhouse.schema_migrations stands on it.
		return nil, fmt.Errorf("ledger %q: tenant databases keep theirs in %s", m.cfg.Ledger, defaultLedger)
	}
	base.baseline = true
	own := &m.stages[0]
	own.check = "select rowhouse.check_functions(); select rowhouse.check_migration()"
	own.checkLast = "select rowhouse.check_contract()"
	m.stages = []stage{base, *own}
	return m, nil
}

func newStage(ledger string, fsys fs.FS) (stage, error) {
	files, err := ReadSet(fsys)
	if err != nil {
		return stage{}, err
	}
	s := stage{ledger: ledger, files: files, source: FS(files)}
	chain := ""
	for _, f := range files {
		chain = hash(chain, fmt.Sprint(f.Version), f.SHA256)
		s.chains = append(s.chains, chain)
	}
	return s, nil
}

func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\n")))
	return hex.EncodeToString(sum[:])
}

// Files is the application's set, lowest version first.
func (m *Migrator) Files() []File { return slices.Clone(m.stages[len(m.stages)-1].files) }

// Latest is the version that Up brings a database to.
func (m *Migrator) Latest() Version {
	own := m.stages[len(m.stages)-1].files
	if len(own) == 0 {
		return m.At(0)
	}
	return m.At(own[len(own)-1].Version)
}

// At is what a database is at that has the set up to a version of it, 0 being the baseline alone.
func (m *Migrator) At(number int64) Version {
	last := make([]driver.Row, len(m.stages))
	for i, s := range m.stages {
		n := len(s.files)
		if i == len(m.stages)-1 {
			n -= len(s.pending(number))
		}
		if n > 0 {
			last[i] = driver.Row{Version: s.files[n-1].Version, Chain: s.chains[n-1]}
		}
	}
	return version(last)
}

// version puts the ledgers' last rows together.
func version(last []driver.Row) Version {
	chains := make([]string, len(last))
	for i, row := range last {
		chains[i] = row.Chain
	}
	v := Version{Number: last[len(last)-1].Version}
	switch {
	case strings.Join(chains, "") == "":
		return Version{}
	case len(chains) == 1:
		v.Chain = chains[0]
	default:
		v.Chain = hash(chains...)
	}
	return v
}

// Version reads how far a database has come. It takes no lock.
func (m *Migrator) Version(ctx context.Context, t Target) (Version, error) {
	var v Version
	err := m.look(ctx, t, func(drv *driver.Driver) error {
		v = version(m.last(drv))
		return nil
	})
	return v, err
}

// Plan lists the files that Up would apply now, the baseline's before the application's, without taking a lock. The error is a
// *HistoryError or *DirtyError where Up would refuse.
func (m *Migrator) Plan(ctx context.Context, t Target) ([]File, error) {
	var plan []File
	err := m.look(ctx, t, func(drv *driver.Driver) error {
		for i, s := range m.stages {
			if err := s.compare(t.Name, drv, i); err != nil {
				return err
			}
			if row := drv.Last(i); row.Version > 0 && row.State != stateApplied {
				return &DirtyError{Target: t.Name, Version: row.Version, Name: row.Name, State: row.State}
			}
			plan = append(plan, s.pending(drv.Last(i).Version)...)
		}
		return nil
	})
	return plan, err
}

// look reads a database's ledgers without a lock.
func (m *Migrator) look(ctx context.Context, t Target, fn func(*driver.Driver) error) error {
	conn, err := t.Connect(ctx)
	if err != nil {
		return fmt.Errorf("%s: connect: %w", t.Name, err)
	}
	defer closeConn(conn)
	drv := m.driver(ctx, conn, t)
	if err := drv.ReadLast(); err != nil {
		return fmt.Errorf("%s: %w", t.Name, err)
	}
	return fn(drv)
}

// attempts is how often a run is begun when its connection is lost. Each new one waits for the lost one's lock, then reads what it did.
const attempts = 3

// Up brings a database to the set's last version. Each file is applied in its own transaction, once, whoever else does the same at the
// same time; on an error the files before it stay applied and Result says which. A context that ends stops between two files, or
// cancels the statement that runs.
//
// Errors: *Error for a file that the server refused, *LockError, *HistoryError, *DirtyError, *StockError, or what Connect or Then
// returned.
func (m *Migrator) Up(ctx context.Context, t Target) (Result, error) {
	began := time.Now()
	r := run{Migrator: m, target: t, result: Result{Target: t.Name}}
	var err error
	for range attempts {
		var lost *lostConnection
		if err = r.session(ctx); !errors.As(err, &lost) || ctx.Err() != nil {
			break
		}
		// Whether the last file was applied is unknown to us, and known to the ledger.
		m.cfg.Logger.WarnContext(ctx, "connection lost while migrating, looking again", "target", t.Name, "error", err)
	}
	r.result.Duration, r.result.Err = time.Since(began), err
	return r.result, err
}

// lostConnection is a run whose connection ended under it.
type lostConnection struct{ cause error }

func (e *lostConnection) Error() string { return "connection lost: " + e.cause.Error() }
func (e *lostConnection) Unwrap() error { return e.cause }

func (m *Migrator) driver(ctx context.Context, conn *pgx.Conn, t Target) *driver.Driver {
	ledgers := make([]string, len(m.stages))
	for i, s := range m.stages {
		ledgers[i] = s.ledger
	}
	return driver.New(ctx, conn, driver.Options{
		Key: t.Key, Ledgers: ledgers, LockWait: m.cfg.LockWait,
		LockTimeout: m.cfg.LockTimeout, StatementTimeout: m.cfg.StatementTimeout, Apart: m.cfg.StatementPerMessage,
	})
}

func (m *Migrator) last(drv *driver.Driver) []driver.Row {
	rows := make([]driver.Row, len(m.stages))
	for i := range m.stages {
		rows[i] = drv.Last(i)
	}
	return rows
}

// run is one call of Up.
type run struct {
	*Migrator
	target Target
	result Result
	seen   bool // result.From is known
}

// session is one connection's part of a run.
func (r *run) session(ctx context.Context) error {
	return r.locked(ctx, r.target, func(conn *pgx.Conn, drv *driver.Driver) error { return r.work(ctx, conn, drv) })
}

// locked runs fn with a connection to a database whose migration lock is held. A connection that ends meanwhile is a lostConnection.
func (m *Migrator) locked(ctx context.Context, t Target, fn func(*pgx.Conn, *driver.Driver) error) (err error) {
	conn, err := t.Connect(ctx)
	if err != nil {
		return fmt.Errorf("%s: connect: %w", t.Name, err)
	}
	defer closeConn(conn)
	defer func() {
		if err != nil && conn.IsClosed() && ctx.Err() == nil {
			err = &lostConnection{cause: err}
		}
	}()
	drv := m.driver(ctx, conn, t)
	if err := drv.Lock(); err != nil {
		return explain(t.Name, File{}, err)
	}
	err = fn(conn, drv)
	if err != nil && (conn.IsClosed() || ctx.Err() != nil) {
		return err // closing the connection gives the lock back
	}
	if lockErr := drv.Unlock(); lockErr != nil {
		return errors.Join(err, explain(t.Name, File{}, lockErr))
	}
	return err
}

// work is what is done under the lock.
func (r *run) work(ctx context.Context, conn *pgx.Conn, drv *driver.Driver) error {
	if !r.seen {
		r.result.From, r.seen = version(r.last(drv)), true
	}
	defer func() { r.result.To = version(r.last(drv)) }()
	if err := r.refuseStock(drv); err != nil {
		return err
	}
	for i := range r.stages {
		if err := r.stages[i].compare(r.target.Name, drv, i); err != nil {
			return err
		}
	}
	for i := range r.stages {
		if err := r.stage(ctx, drv, i); err != nil {
			return err
		}
	}
	if r.cfg.Then != nil {
		if err := r.cfg.Then(ctx, conn); err != nil {
			return fmt.Errorf("%s: %w", r.target.Name, err)
		}
	}
	return nil
}

// stage applies the pending files of one set. Golang-migrate's core is asked for one step at a time: it knows no context, and when one
// of several steps fails it leaves goroutines behind that hold the files it has read ahead.
func (r *run) stage(ctx context.Context, drv *driver.Driver, i int) error {
	s := &r.stages[i]
	drv.Use(i)
	if row := drv.Last(i); row.Version > 0 && row.State != stateApplied {
		if err := r.repair(ctx, drv, i, nil); err != nil {
			return err
		}
	}
	pending := s.pending(drv.Last(i).Version)
	if len(pending) == 0 {
		return nil
	}
	core, err := r.core(s, drv)
	if err != nil {
		return err
	}
	for _, f := range pending {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("%s: before %s: %w", r.target.Name, f, err)
		}
		began := time.Now()
		drv.Next(s.step(f))
		err := core.Steps(1)
		switch {
		case err != nil && f.NoTransaction && drv.Last(i).Version == f.Version && ctx.Err() == nil:
			err = r.repair(ctx, drv, i, err)
		case err == nil && drv.Last(i).Version != f.Version:
			err = fmt.Errorf("ledger stands at %d after it", drv.Last(i).Version)
		}
		if err != nil {
			return r.explain(f, err)
		}
		r.applied(ctx, s, f, time.Since(began))
	}
	return nil
}

func (r *run) explain(f File, err error) error {
	var dirty *DirtyError
	if errors.As(err, &dirty) {
		return err
	}
	return explain(r.target.Name, f, err)
}

// core makes golang-migrate's part. Its source is one run's own: sharing one between runs is a data race.
func (r *run) core(s *stage, drv *driver.Driver) (*migrate.Migrate, error) {
	src, err := iofs.New(s.source, ".")
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	core, err := migrate.NewWithInstance("iofs", src, "rowhouse", drv)
	if err != nil {
		return nil, fmt.Errorf("read migrations: %w", err)
	}
	core.LockTimeout = r.cfg.LockWait + 10*time.Second // ours ends first: the core's leaves a goroutine waiting
	return core, nil
}

func (r *run) applied(ctx context.Context, s *stage, f File, took time.Duration) {
	r.result.Applied = append(r.result.Applied, Applied{Version: f.Version, Name: f.Name, Baseline: s.baseline, Duration: took})
	r.cfg.Logger.InfoContext(ctx, "migration applied", "target", r.target.Name, "migration", f.String(), "baseline", s.baseline, "duration", took)
}

const (
	stateApplied   = "applied"
	repairAttempts = 3
)

// repair brings a file without a transaction, which broke off, to its end: its verify query says whether its effect is there. Without
// one nobody can say, and the error is a *DirtyError.
func (r *run) repair(ctx context.Context, drv *driver.Driver, i int, cause error) error {
	s, row := &r.stages[i], drv.Last(i)
	f := s.file(row.Version)
	dirty := &DirtyError{Target: r.target.Name, Version: row.Version, Name: row.Name, State: row.State, cause: cause}
	if f.Verify == "" {
		return dirty
	}
	drv.Next(s.step(f))
	for range repairAttempts {
		there, err := drv.Ask(f.Verify)
		if err != nil {
			dirty.cause = err
			return dirty
		}
		if there {
			return drv.MarkApplied()
		}
		if name := lint.IndexName(f.Up); name != "" {
			if err := drv.DropInvalidIndex(name); err != nil {
				dirty.cause = err
				return dirty
			}
		}
		if dirty.cause = drv.Run(strings.NewReader(f.Up)); dirty.cause == nil {
			return nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return dirty
}

func (s *stage) pending(after int64) []File {
	i, _ := slices.BinarySearchFunc(s.files, after+1, func(f File, v int64) int { return int(min(max(f.Version-v, -1), 1)) })
	return s.files[i:]
}

// file is the file of a version that compare has found in the set.
func (s *stage) file(version int64) File {
	i := slices.IndexFunc(s.files, func(f File) bool { return f.Version == version })
	return s.files[i]
}

func (s *stage) step(f File) driver.Step {
	i := slices.IndexFunc(s.files, func(o File) bool { return o.Version == f.Version })
	step := driver.Step{
		Version: f.Version, Name: f.Name, SHA256: f.SHA256, Chain: s.chains[i], NoTransaction: f.NoTransaction,
		Timeout: f.Timeout, Epilogue: s.epilogue(f, i == len(s.files)-1), RowhouseBuild: build(),
	}
	return step
}

// epilogue is what follows a file's body in its transaction.
func (s *stage) epilogue(f File, last bool) []string {
	if s.check == "" {
		return nil
	}
	statements := strings.Split(s.check, "; ")
	for _, rule := range slices.Sorted(maps.Keys(f.Allow)) {
		if strings.HasPrefix(rule, "L") {
			statements = append(statements, "select rowhouse.allow("+quoteLiteral(rule)+", "+quoteLiteral(f.Allow[rule])+")")
		}
	}
	if last && s.checkLast != "" {
		statements = append(statements, s.checkLast)
	}
	return statements
}

// compare holds a ledger against the set. The last row's chain proves the whole history; only when it differs all rows are read.
func (s *stage) compare(target string, drv *driver.Driver, ledger int) error {
	last := drv.Last(ledger)
	if last.Version == 0 {
		return nil
	}
	i := slices.IndexFunc(s.files, func(f File) bool { return f.Version == last.Version })
	if i >= 0 && s.chains[i] == last.Chain {
		return nil
	}
	rows, err := drv.ReadAll(ledger)
	if err != nil {
		return fmt.Errorf("%s: %w", target, err)
	}
	e := s.difference(rows)
	e.Target, e.Baseline = target, s.baseline
	return e
}

// difference finds the first file over which a ledger and the set disagree.
func (s *stage) difference(rows []driver.Row) *HistoryError {
	set := make(map[int64]File, len(s.files))
	for _, f := range s.files {
		set[f.Version] = f
	}
	for _, row := range rows {
		f, ok := set[row.Version]
		switch {
		case !ok:
			return &HistoryError{Kind: UnknownVersion, File: File{Version: row.Version, Name: row.Name}.String()}
		case f.SHA256 != row.SHA256:
			return &HistoryError{Kind: Changed, File: f.String()}
		}
		delete(set, row.Version)
	}
	last := rows[len(rows)-1].Version // there is one: compare has seen it
	for _, f := range s.files {
		if _, missing := set[f.Version]; missing && f.Version < last {
			return &HistoryError{Kind: OutOfOrder, File: f.String()}
		}
	}
	return &HistoryError{Kind: Changed, File: "the ledger itself"}
}

// closeConn says good-bye to the server without waiting for it for long. It is called after contexts have ended, too.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_ = conn.Close(ctx) // nothing is left to lose
}

// build is the version of the program, for the ledger.
func build() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	return info.Main.Version
}
