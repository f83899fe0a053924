package localpg

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/flock"
)

// superuser is the role that initdb makes and that needs no password.
const superuser = "rowhouse"

// Config says which server [Start] runs.
type Config struct {
	// Dir belongs to the server and to nothing else. It is made when it is not there.
	//
	// Required.
	Dir string

	// PGBin is a directory with postgres and initdb.
	//
	// Empty means what [Find] finds.
	PGBin string

	// Settings are PostgreSQL settings, over ours: wal_level logical, max_connections 200. What decides who can
	// connect (listen_addresses, port, unix_socket_…, hba_file) cannot be set.
	Settings map[string]string

	// Fresh deletes the cluster that an earlier run left, so that the server starts empty.
	Fresh bool

	// RuntimeDir is the user's XDG_RUNTIME_DIR: a place for the socket when Dir's path is too long for one.
	//
	// Empty means /tmp. Root uses /run instead.
	RuntimeDir string

	// Logger hears what is unusual: an orphan stopped, a version with known defects, abandoned data.
	//
	// Nil means no log.
	Logger *slog.Logger
}

func (c Config) withDefaults() Config {
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	settings := map[string]string{
		"wal_level": "logical",
		// More than a server's budget in the catalog: catalog pool, job runner and migrator stand outside that budget.
		"max_connections": "200",
	}
	if runtime.GOOS == "linux" {
		// After a crash one call for the whole file system, instead of one for every file of every database.
		settings["recovery_init_sync_method"] = "syncfs"
	}
	for name, value := range c.Settings {
		settings[name] = value
	}
	c.Settings = settings
	return c
}

func (c Config) validate() error {
	if c.Dir == "" {
		return errors.New("no directory for the server")
	}
	for name := range c.Settings {
		switch name = strings.ToLower(name); {
		case name == "listen_addresses", name == "port", name == "hba_file", name == "data_directory", strings.HasPrefix(name, "unix_socket_"):
			return fmt.Errorf("setting %s is not to be changed: the socket's directory is what protects the server", name)
		}
	}
	return nil
}

// Server is a running PostgreSQL that this process owns.
type Server struct {
	home    home
	socket  string
	version string
	process *os.Process
	lock    *flock.Lock

	done chan struct{} // closed when postgres has exited
	exit error         // how; to be read after done

	background sync.WaitGroup // the first start's sync
	stop       sync.Once
	stopped    error // what stop gave; to be read after stop
}

// Start runs a server on cfg.Dir and returns when it answers. It makes the cluster first when there is none.
//
// The server sees nothing of this process's environment. Connecting to it, here and with a DSN, goes through pgx, which
// does obey PGSERVICE, PGOPTIONS and their like: a program that is run by people unsets them first.
//
// The server outlives ctx, which only limits the start. When another process owns the directory the error is an
// [*InUseError]; when there are no binaries it wraps [ErrNoBinaries].
func Start(ctx context.Context, cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	acct, err := serverAccount()
	if err != nil {
		return nil, err
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, err
	}
	if err := makeDir(dir, acct); err != nil {
		return nil, err
	}
	dir = resolve(dir)
	lock, err := takeLock(ctx, dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock, done: make(chan struct{})}
	if err := s.start(ctx, dir, acct, cfg); err != nil {
		lock.Release()
		return nil, err
	}
	return s, nil
}

// takeLock makes this process the owner of dir. It insists for a moment, because [Running] holds a shared lock for one.
func takeLock(ctx context.Context, dir string) (*flock.Lock, error) {
	ctx, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
	defer cancel()
	lock, err := flock.Wait(ctx, filepath.Join(dir, lockFile), flock.Exclusive)
	if errors.Is(err, flock.ErrHeld) {
		return nil, &InUseError{By: owner(dir)}
	}
	if err != nil {
		return nil, err
	}
	// What an earlier owner said of itself is no longer true.
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		lock.Release()
		return nil, err
	}
	if err := lock.Write(strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		lock.Release()
		return nil, err
	}
	return lock, nil
}

// start does everything that happens under the lock.
func (s *Server) start(ctx context.Context, dir string, acct account, cfg Config) error {
	var err error
	if s.home, err = settle(dir, acct, cfg.Logger); err != nil {
		return err
	}
	if err := s.home.evict(ctx, cfg.Logger); err != nil {
		return err
	}
	if cfg.Fresh {
		if err := os.RemoveAll(s.home.data()); err != nil {
			return err
		}
	}
	major, err := s.home.major()
	if err != nil {
		return err
	}
	bin, err := Find(ctx, FindOptions{Bin: cfg.PGBin, Dir: dir, Major: major})
	if err != nil {
		return err
	}
	if bin.Version.Outdated() {
		cfg.Logger.Warn("this minor release of PostgreSQL has known defects, install a newer one", "version", bin.Version.String())
	}
	if major == 0 {
		if err := s.home.initialise(ctx, bin); err != nil {
			return err
		}
	}
	if s.socket, err = s.home.socketDir(cfg.RuntimeDir); err != nil {
		return err
	}
	// The data directory is not in use (evict), so a socket that stands here, and the lock beside it, are of the dead.
	// PostgreSQL would believe the lock whenever its number belongs to any living process.
	for _, left := range []string{socketFile(s.socket), socketFile(s.socket) + ".lock"} {
		if err := os.Remove(left); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err := s.launch(ctx, bin, cfg.Settings); err != nil {
		return err
	}
	if major == 0 && cfg.Settings["fsync"] != "off" {
		s.background.Go(func() {
			if err := syncFiles(s.home.data()); err != nil {
				cfg.Logger.Warn("the new cluster could not be synced to disk", "error", err)
			}
		})
	}
	return nil
}

// launch runs postgres and waits until it answers.
func (s *Server) launch(ctx context.Context, bin Binaries, settings map[string]string) error {
	log, err := openLog(s.home.log())
	if err != nil {
		return err
	}
	defer log.Close()
	began, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}

	cmd := exec.Command(bin.postgres(), s.arguments(settings)...)
	cmd.Dir = s.home.data()
	cmd.Env = childEnv
	cmd.Stdout, cmd.Stderr = log, log // a file: a pipe would end with us, and the server's last words with it
	detach(cmd, s.home.account, stopOnDeath)
	if err := s.runOnOneThread(cmd); err != nil {
		return fmt.Errorf("start postgres: %w", err)
	}
	if err := s.awaitAnswer(ctx); err != nil {
		s.end(ctx)
		return fmt.Errorf("start postgres: %w%s", err, logSince(s.home.log(), began))
	}
	return nil
}

func (s *Server) arguments(settings map[string]string) []string {
	args := []string{
		"-D", s.home.data(), "-k", s.socket,
		"-c", "listen_addresses=", "-c", "port=5432", "-c", "unix_socket_permissions=0700",
	}
	names := make([]string, 0, len(settings))
	for name := range settings {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		args = append(args, "-c", name+"="+settings[name])
	}
	return args
}

// runOnOneThread starts cmd from a thread that lives as long as the child: the child is told when that thread dies,
// not when the process does.
func (s *Server) runOnOneThread(cmd *exec.Cmd) error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		s.process = cmd.Process
		started <- err
		if err == nil {
			s.exit = cmd.Wait()
			close(s.done)
		}
	}()
	return <-started
}

// awaitAnswer asks until the server answers. Recovery after a crash may take as long as it takes.
func (s *Server) awaitAnswer(ctx context.Context) error {
	for {
		err := s.ask(ctx)
		if err == nil || !isStarting(err) {
			return err
		}
		select {
		case <-s.done:
			return fmt.Errorf("it ended at once: %w", exitError(s.exit))
		case <-ctx.Done():
			return fmt.Errorf("no answer: %w (last: %w)", context.Cause(ctx), err)
		case <-time.After(3 * time.Millisecond):
		}
	}
}

// isStarting says whether an error is what a server that is coming up gives.
func isStarting(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pgErr.Code == "57P03" // cannot_connect_now
	}
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// ask connects once, and learns the version.
func (s *Server) ask(ctx context.Context) error {
	if _, err := os.Stat(socketFile(s.socket)); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN("postgres"))
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	var version string
	if err := conn.QueryRow(ctx, "select current_setting('server_version')").Scan(&version); err != nil {
		return err
	}
	s.version, _, _ = strings.Cut(version, " ") // Debian appends the name of its package
	return nil
}

// DSN is the connection string of a database as superuser, over the socket.
func (s *Server) DSN(database string) string { return socketDSN(s.socket, superuser, "", database) }

// DSNAs is the connection string of a database as another role, which needs its password.
func (s *Server) DSNAs(role, password, database string) string {
	return socketDSN(s.socket, role, password, database)
}

func socketDSN(socket, role, password, database string) string {
	user := url.User(role)
	if password != "" {
		user = url.UserPassword(role, password)
	}
	host := strings.ReplaceAll(url.QueryEscape(socket), "+", "%20") // a plus sign is no space to PostgreSQL's clients
	// The port is part of the socket's name: without it a PGPORT in the environment would lead elsewhere.
	return fmt.Sprintf("postgres://%s@/%s?host=%s&sslmode=disable&port=5432", user, url.PathEscape(database), host)
}

// Socket is the directory of the server's socket.
func (s *Server) Socket() string { return s.socket }

// Version is the server's version, "15.18".
func (s *Server) Version() string { return s.version }

// DataDir is where the cluster really stands.
func (s *Server) DataDir() string { return s.home.data() }

// PID is the number of the server's first process.
func (s *Server) PID() int { return s.process.Pid }

// Done is closed when the server has exited, asked or not.
func (s *Server) Done() <-chan struct{} { return s.done }

// Stop ends the server and gives the directory back. Sessions are cut off, work that was committed is kept: a fast
// shutdown, and after ten seconds or when ctx ends an immediate one. It is to be called even when the server has
// ended by itself; a second call does nothing.
func (s *Server) Stop(ctx context.Context) error {
	s.stop.Do(func() {
		s.stopped = s.end(ctx)
		s.background.Wait()
		s.stopped = errors.Join(s.stopped, s.lock.Release())
	})
	return s.stopped
}

func (s *Server) end(ctx context.Context) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	if err := s.process.Signal(os.Interrupt); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop postgres: %w", err)
	}
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	case <-time.After(10 * time.Second):
	}
	if err := s.process.Signal(syscall.SIGQUIT); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("stop postgres at once: %w", err)
	}
	select {
	case <-s.done:
		return nil
	case <-time.After(20 * time.Second):
		return fmt.Errorf("postgres %d does not end", s.process.Pid)
	}
}

func exitError(err error) error {
	if err == nil {
		return errors.New("exit status 0")
	}
	return err
}

// openLog opens the server's log, and puts the old one aside when it has grown large.
func openLog(path string) (*os.File, error) {
	const large = 16 << 20
	if info, err := os.Lstat(path); err == nil && info.Size() > large {
		if err := os.Rename(path, path+".old"); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
}

// logSince is the end of what the log says since the offset, for an error text.
func logSince(path string, offset int64) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	text, err := io.ReadAll(io.NewSectionReader(f, offset, 1<<20))
	if err != nil || len(text) == 0 {
		return ""
	}
	return "\n" + strings.TrimSpace(string(tail(text)))
}
