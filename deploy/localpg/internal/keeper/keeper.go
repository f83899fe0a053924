// Package keeper runs the one PostgreSQL cluster that all test processes of a machine share.
//
// The first process that needs the cluster starts a keeper, a copy of itself, and the keeper owns the server. Every
// test process holds a shared lock for as long as it lives. When the keeper can take that lock alone nobody is left,
// and it ends: a test process needs to give notice of nothing, not even when it is killed.
package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/deploy/localpg/internal/flock"
)

// baseVariable tells a copy of a test binary that it is a keeper, and where.
const baseVariable = "ROWHOUSE_PGTEST_KEEPER"

// binVariable names the directory of the binaries to test with.
const binVariable = "ROWHOUSE_PG_BIN"

// patrol is how often a keeper looks whether it is still needed.
const patrol = 3 * time.Second

// settings make a server fast and forgetful: durability and timings are not to be tested on it.
var settings = map[string]string{
	"autovacuum":            "off",
	"fsync":                 "off",
	"full_page_writes":      "off",
	"max_connections":       "300",
	"max_wal_senders":       "50",
	"max_replication_slots": "50",
	"max_wal_size":          "512MB",
	"synchronous_commit":    "off",
	"wal_level":             "logical",
	// A subscription starts its worker at once, and not five seconds after the last one began.
	"wal_retrieve_retry_interval": "50ms",
}

// Cluster is a process's hold on the shared server. It lasts until the process ends.
type Cluster struct {
	server localpg.Instance
	users  *flock.Lock // never released: the system does it, even after a kill
}

// DSN is the connection string of a database, as superuser.
func (c *Cluster) DSN(database string) string { return c.server.DSN(database) }

// DSNAs is the connection string of a database as another role.
func (c *Cluster) DSNAs(role, password, database string) string {
	return c.server.DSNAs(role, password, database)
}

// Called says whether this process is to be a keeper.
func Called() bool { return os.Getenv(baseVariable) != "" }

// Attach gives this process a hold on the shared server, which it starts when it is the first. prepare is called with
// a superuser's connection to database postgres before anybody else can attach; it must do nothing the second time.
func Attach(ctx context.Context, prepare func(context.Context, *pgx.Conn) error) (*Cluster, error) {
	base, err := chooseBase(ctx)
	if err != nil {
		return nil, err
	}
	users, err := flock.Wait(ctx, filepath.Join(base, "users.lock"), flock.Shared)
	if err != nil {
		return nil, err
	}
	c := &Cluster{users: users}
	if err := c.join(ctx, base, prepare); err != nil {
		users.Release()
		return nil, fmt.Errorf("shared test cluster in %s: %w", base, err)
	}
	return c, nil
}

func (c *Cluster) join(ctx context.Context, base string, prepare func(context.Context, *pgx.Conn) error) error {
	starting, err := flock.Wait(ctx, filepath.Join(base, "start.lock"), flock.Exclusive)
	if err != nil {
		return err
	}
	defer starting.Release()
	conn, err := c.connect(ctx, base)
	if err != nil {
		if conn, err = c.startAndConnect(ctx, base); err != nil {
			return err
		}
	}
	defer conn.Close(ctx)
	return prepare(ctx, conn)
}

// connect reaches a server that is there.
func (c *Cluster) connect(ctx context.Context, base string) (*pgx.Conn, error) {
	var err error
	if c.server, err = localpg.Running(clusterDir(base)); err != nil {
		return nil, err
	}
	if c.server.Socket == "" {
		return nil, errors.New("server has no socket yet")
	}
	return pgx.Connect(ctx, c.server.DSN("postgres"))
}

func (c *Cluster) startAndConnect(ctx context.Context, base string) (*pgx.Conn, error) {
	child, err := spawn(base)
	if err != nil {
		return nil, fmt.Errorf("start keeper: %w", err)
	}
	for {
		// Asked first: an earlier process may have been killed while its keeper was starting, and then ours gives way.
		ended := child.ended()
		conn, err := c.connect(ctx, base)
		if err == nil {
			return conn, nil
		}
		if ended && errors.Is(err, localpg.ErrNotRunning) {
			return nil, fmt.Errorf("keeper ended: %s", readLog(base))
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("no answer from a new server: %w (last: %w) %s", context.Cause(ctx), err, readLog(base))
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// spawn starts a keeper that outlives us: a copy, because "go test" deletes the original, in a session of its own and
// with its output in a file, because "go test" waits for whoever holds its pipe.
func spawn(base string) (*child, error) {
	self, err := copySelf()
	if err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logFile(base), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.Command(self)
	cmd.Env = []string{baseVariable + "=" + base, binVariable + "=" + os.Getenv(binVariable), "PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}
	if wd, err := os.Getwd(); err == nil {
		cmd.Dir = wd // the npm package is looked for from here
	}
	cmd.Stdout, cmd.Stderr = log, log
	ownSession(cmd)
	if err := cmd.Start(); err != nil {
		os.Remove(self)
		return nil, err
	}
	return &child{cmd.Process}, nil
}

// copySelf copies this program beside other temporary files; memory file systems are often not executable.
func copySelf() (string, error) {
	path, err := os.Executable()
	if err != nil {
		return "", err
	}
	from, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer from.Close()
	to, err := os.CreateTemp("", "rowhouse-keeper-*")
	if err != nil {
		return "", err
	}
	_, err = io.Copy(to, from)
	if err = errors.Join(err, to.Chmod(0o700), to.Close()); err != nil {
		os.Remove(to.Name())
		return "", err
	}
	return to.Name(), nil
}

// Serve is a keeper's whole life. It returns the exit status.
func Serve() int {
	if self, err := os.Executable(); err == nil {
		os.Remove(self) // it runs on without a name, and nobody has to clean up
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, os.Getenv(baseVariable)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

func serve(ctx context.Context, base string) error {
	dir := clusterDir(base)
	server, err := localpg.Start(ctx, localpg.Config{Dir: dir, PGBin: os.Getenv(binVariable), Settings: settings, Fresh: true})
	if err != nil {
		return err
	}
	release, err := awaitNobody(ctx, server, base)
	defer release()
	// Not ctx: what is left to do must not be cut short by the signal that asked for it.
	err = errors.Join(err, server.Stop(context.Background()))
	if err != nil {
		return err // and the server's log stays, until the next keeper
	}
	return os.RemoveAll(dir)
}

// awaitNobody returns when no test process is left, when a signal came or when the server died. What it gives back
// releases the locks; until then whoever comes waits, and then starts anew.
func awaitNobody(ctx context.Context, server *localpg.Server, base string) (release func(), err error) {
	tick := time.NewTicker(patrol)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return func() {}, nil
		case <-server.Done():
			return func() {}, errors.New("the server died: see " + filepath.Join(clusterDir(base), "postgres.log"))
		case <-tick.C:
		}
		users, err := flock.Try(filepath.Join(base, "users.lock"), flock.Exclusive)
		if err != nil {
			continue
		}
		starting, err := flock.Try(filepath.Join(base, "start.lock"), flock.Exclusive)
		if err != nil {
			users.Release()
			continue
		}
		return func() { starting.Release(); users.Release() }, nil
	}
}

func clusterDir(base string) string { return filepath.Join(base, "cluster") }
func logFile(base string) string    { return filepath.Join(base, "keeper.log") }

func readLog(base string) string {
	text, err := os.ReadFile(logFile(base))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(text))
}
