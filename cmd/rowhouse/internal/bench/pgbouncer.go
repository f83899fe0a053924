package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/rowhouse/rowhouse/catalog"
)

// bouncer is a PgBouncer before the bed's databases, in its best form: transaction mode, one user whose limit is the budget
// over all databases, and clients that are trusted. The user must not be forced in the database's line: then each database
// has a limit of its own.
type bouncer struct {
	bed  *Bed
	cmd  *exec.Cmd
	port uint16

	mu    sync.Mutex // guards pools
	pools map[catalog.DatabaseID]*pgxpool.Pool
}

// findBouncer is where PgBouncer is installed; empty when it is not.
func findBouncer() string {
	for _, name := range []string{"pgbouncer", "/usr/sbin/pgbouncer"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

func (b *Bed) startBouncer(ctx context.Context, path string, budget, perDatabase int) (*bouncer, error) {
	dir, err := os.MkdirTemp("", "rowhouse-")
	if err != nil {
		return nil, err
	}
	b.leftovers = append(b.leftovers, dir)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	port := l.Addr().(*net.TCPAddr).Port
	_ = l.Close()
	files := map[string]string{
		"users.txt": fmt.Sprintf("%q %q\n", bedLogin, b.password),
		"pgbouncer.ini": fmt.Sprintf(`[databases]
* = host=%s port=5432
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = trust
auth_file = %s/users.txt
pool_mode = transaction
default_pool_size = %d
max_user_connections = %d
max_client_conn = 5000
max_db_connections = 0
server_idle_timeout = 60
ignore_startup_parameters = extra_float_digits
logfile = %s/log
`, b.pg.Socket(), port, dir, perDatabase, budget, dir),
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	p := &bouncer{bed: b, port: uint16(port), pools: map[catalog.DatabaseID]*pgxpool.Pool{}}
	p.cmd = exec.CommandContext(ctx, path, "-q", filepath.Join(dir, "pgbouncer.ini"))
	if err := runAs(p.cmd, b.pg.DataDir(), dir, filepath.Join(dir, "users.txt"), filepath.Join(dir, "pgbouncer.ini")); err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("pgbouncer: %w", err)
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return p, conn.Close()
		}
		if time.Now().After(deadline) {
			p.stop()
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			return nil, errors.New("pgbouncer did not start: " + strings.TrimSpace(string(text)))
		}
	}
}

func (p *bouncer) stop() {
	for _, pool := range p.pools {
		pool.Close()
	}
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

func (p *bouncer) pool(ctx context.Context, c client) (*pgxpool.Pool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pool := p.pools[c.tenant.Database]; pool != nil {
		return pool, nil
	}
	db, err := p.bed.Directory.Database(ctx, c.tenant.Database)
	if err != nil {
		return nil, err
	}
	cfg, err := pgxpool.ParseConfig(fmt.Sprintf("postgres://%s@127.0.0.1:%d/%s?sslmode=disable", bedLogin, p.port, db.Name))
	if err != nil {
		return nil, err
	}
	cfg.MaxConns = 10
	cfg.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	pool, err := pgxpool.NewWithConfig(ctx, cfg)
	if err == nil {
		p.pools[c.tenant.Database] = pool
	}
	return pool, err
}

// read is the same request in one flight, without statements that stay prepared, which this pooler does not follow.
func (p *bouncer) read(c client) error {
	ctx, cancel := context.WithTimeout(c.ctx, 20*time.Second)
	defer cancel()
	pool, err := p.pool(ctx, c)
	if err != nil {
		return err
	}
	var body []byte
	err = lendPlain(ctx, pool, func(conn *pgx.Conn) error { return unpreparedFlight(ctx, conn, c, &body) })
	if err != nil {
		return err
	}
	return c.isOwn(body)
}

func unpreparedFlight(ctx context.Context, conn *pgx.Conn, c client, body *[]byte) error {
	var batch pgx.Batch
	batch.Queue("begin read only")
	batch.Queue("set local rowhouse.tenant_id = '" + c.tenant.ID.String() + "'")
	batch.Queue("set local role authenticated")
	var n int
	batch.Queue(keyStatement, pgUUID(bedKey), c.tenant.ID.String()).QueryRow(func(row pgx.Row) error { return row.Scan(&n, body) })
	batch.Queue("commit")
	return conn.SendBatch(ctx, &batch).Close()
}
