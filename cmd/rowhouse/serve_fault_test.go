package main

import (
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

// servedCatalog is a catalog behind a proxy that breaks the way to it, and the environment of a service of it.
type servedCatalog struct {
	*pgtest.Database
	proxy *pgtest.FaultProxy
	dir   string
	env   []string
}

func newServedCatalog(t *testing.T) *servedCatalog {
	t.Helper()
	c := &servedCatalog{Database: pgtest.DB(t), dir: t.TempDir()}
	c.proxy = pgtest.Proxy(t, c.DSN())
	cfg, err := pgx.ParseConfig(c.DSN())
	if err != nil {
		t.Fatal(err)
	}
	c.env = []string{
		"ROWHOUSE_CATALOG_URL=" + c.url(cfg.User, cfg.Password), "ROWHOUSE_CATALOG_KEYS=" + filepath.Join(c.dir, "keys.json"),
		"ROWHOUSE_AUTH_JWT_SECRET=RHCANARY-0123456789-0123456789-0123456789", "ROWHOUSE_LISTEN=127.0.0.1:0", "ROWHOUSE_ADMIN_LISTEN=127.0.0.1:0",
	}
	c.run(t, 0, "catalog", "init")
	return c
}

// url leads to the catalog by the proxy.
func (c *servedCatalog) url(user, password string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(user, password), Host: c.proxy.Addr(), Path: "/" + c.Name(), RawQuery: "sslmode=disable"}
	return u.String()
}

func (c *servedCatalog) run(t *testing.T, want int, args ...string) string {
	t.Helper()
	return c.runWith(t, c.env, want, args...)
}

func (c *servedCatalog) runWith(t *testing.T, env []string, want int, args ...string) string {
	t.Helper()
	code, stdout, stderr := runIn(t, c.dir, env, args...)
	if code != want || strings.Contains(stdout+stderr, "RHCANARY") {
		t.Fatalf("%v: exit %d, want %d: %s%s", args, code, want, stdout, stderr)
	}
	return stdout + stderr
}

func (c *servedCatalog) exec(t *testing.T, sql string) {
	t.Helper()
	if _, err := c.Conn(t).Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// get asks the control plane.
func (p *process) get(t testing.TB, path string) answer {
	t.Helper()
	return (&process{devState: devState{DataURL: p.AdminURL}}).do(t, request{path: path})
}

// awaits asks until a page of both doors has a status.
func (p *process) awaits(t testing.TB, path string, status int, within time.Duration) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(10 * time.Millisecond) {
		public, admin := p.do(t, request{path: path}), p.get(t, path)
		if public.status == status && admin.status == status {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s after %v: %d and %d, want %d: %s", path, within, public.status, admin.status, status, p.stderr)
		}
	}
}

func TestFault_F01_catalog_down_at_boot(t *testing.T) {
	t.Parallel()
	c := newServedCatalog(t)
	c.proxy.Refuse()
	s := startServeUntil(t, "catalog does not answer: waiting for it", c.dir, c.env)
	s.awaits(t, "/livez", 200, 0)
	s.awaits(t, "/readyz", 503, 0)
	got := s.do(t, request{path: "/rest/v1/projects", header: map[string]string{"X-Tenant": "acme"}})
	if got.status != 503 || !strings.Contains(got.body, `"code":"database_unavailable"`) || got.header.Get("Retry-After") == "" || got.header.Get("X-Request-Id") == "" {
		t.Errorf("a tenant hears %d %v %s", got.status, got.header, got.body)
	}
	if got := s.get(t, "/admin/v1/tenants"); got.status != 503 || got.header.Get("Content-Type") != "application/problem+json" || got.header.Get("Retry-After") == "" {
		t.Errorf("an operator hears %d %v %s", got.status, got.header, got.body)
	}
	began := time.Now()
	if err := c.proxy.Accept(); err != nil {
		t.Fatal(err)
	}
	s.awaits(t, "/readyz", 200, 20*time.Second)
	t.Logf("ready %v after the catalog was back", time.Since(began).Round(time.Millisecond))
	if got := s.do(t, request{path: "/rest/v1/projects", header: map[string]string{"X-Tenant": "nosuch"}}); got.status != 404 {
		t.Errorf("an unknown tenant: %d %s", got.status, got.body)
	}
	if code := s.stop(t); code != 0 || strings.Contains(s.stderr.String(), "RHCANARY") {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
	t.Run("told to stop while it waits", func(t *testing.T) {
		c.proxy.Refuse()
		s := startServeUntil(t, "catalog does not answer: waiting for it", c.dir, c.env)
		if code := s.stop(t); code != 0 {
			t.Errorf("exit code %d: %s", code, s.stderr)
		}
	})
	t.Run("what waiting does not mend ends it, though it waited", func(t *testing.T) {
		s := startServeUntil(t, "catalog does not answer: waiting for it", c.dir, c.env)
		c.exec(t, "alter schema rowhouse rename to elsewhere")
		if err := c.proxy.Accept(); err != nil {
			t.Fatal(err)
		}
		if !s.wait(30*time.Second) || s.cmd.ProcessState.ExitCode() != 78 {
			t.Errorf("%v: %s", s.cmd.ProcessState, s.stderr)
		}
	})
}

func TestFault_F08_catalog_of_another_version(t *testing.T) {
	t.Parallel()
	c := newServedCatalog(t)
	c.exec(t, "insert into rowhouse.migrations (version, name, sha256, chain, state) select version + 1, 'later', sha256, 'later', 'applied' from rowhouse.migrations order by version desc limit 1")
	t.Run("newer: it serves and changes nothing", func(t *testing.T) {
		s := startServe(t, c.dir, c.env)
		s.awaits(t, "/readyz", 200, 20*time.Second)
		if !strings.Contains(s.stderr.String(), "catalog is newer than this program") {
			t.Errorf("the log does not say so: %s", s.stderr)
		}
		if out := c.run(t, 1, "setting", "set", "rest.max_rows", "5"); !strings.Contains(out, "newer") {
			t.Errorf("a change: %s", out)
		}
		if code := s.stop(t); code != 0 {
			t.Errorf("exit code %d: %s", code, s.stderr)
		}
	})
	t.Run("older: it does not start", func(t *testing.T) {
		c.exec(t, "delete from rowhouse.migrations where version >= (select max(version) - 1 from rowhouse.migrations)")
		if out := c.run(t, 78, "serve"); !strings.Contains(out, "catalog migrate") || strings.Contains(out, "serving") {
			t.Error(out)
		}
	})
}

func TestFault_F48_keyset_missing_or_wrong(t *testing.T) {
	t.Parallel()
	c := newServedCatalog(t)
	check := func() (sealed string) {
		if err := c.Conn(t).QueryRow(t.Context(), "select encode(key_check, 'hex') from rowhouse.catalog").Scan(&sealed); err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	before := check()
	other := newServedCatalog(t)
	for file, want := range map[string]string{
		filepath.Join(c.dir, "nowhere.json"):  "catalog.keys",
		filepath.Join(other.dir, "keys.json"): "catalog keys are not this catalog's",
	} {
		env := append(c.env[:len(c.env):len(c.env)], "ROWHOUSE_CATALOG_KEYS="+file)
		if out := c.runWith(t, env, 78, "serve"); !strings.Contains(out, want) || strings.Contains(out, `"msg":"serving"`) {
			t.Errorf("%s: %s", file, out)
		}
	}
	if check() != before {
		t.Error("something was written under a wrong key")
	}
}

func TestFault_F50_port_busy_or_grant_missing(t *testing.T) {
	t.Parallel()
	c := newServedCatalog(t)
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	env := append(c.env[:len(c.env):len(c.env)], "ROWHOUSE_ADMIN_LISTEN="+busy.Addr().String())
	if out := c.runWith(t, env, 1, "serve"); !strings.Contains(out, "admin.listen: cannot listen") || strings.Contains(out, `"msg":"serving"`) {
		t.Errorf("the port is busy: %s", out)
	}
	role, password := pgtest.Role(t, "LOGIN")
	for _, sql := range []string{
		"grant usage on schema rowhouse, river to " + role, "grant select, insert, update, delete on all tables in schema rowhouse, river to " + role,
		"revoke insert on rowhouse.instances from " + role,
	} {
		c.exec(t, sql)
	}
	env = append(c.env[:len(c.env):len(c.env)], "ROWHOUSE_CATALOG_URL="+c.url(role, password))
	if out := c.runWith(t, env, 78, "serve"); !strings.Contains(out, "lacks INSERT on rowhouse.instances") {
		t.Errorf("a grant is missing: %s", out)
	}
	env = append(c.env[:len(c.env):len(c.env)], "ROWHOUSE_CATALOG_URL="+c.url(role, "wrong"))
	if out := c.runWith(t, env, 78, "serve"); !strings.Contains(out, "28P01") {
		t.Errorf("a wrong password: %s", out)
	}
}

// logged waits until the log has a line.
func (p *process) logged(t testing.TB, text string) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !strings.Contains(p.stderr.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the log never says %q: %s", text, p.stderr)
		}
	}
}

func TestFault_F47_configuration_read_anew(t *testing.T) {
	t.Parallel()
	c := newServedCatalog(t)
	file := filepath.Join(c.dir, "rowhouse.yaml")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log:\n  level: info\nrest:\n  max_rows: 10\n")
	s := startServe(t, c.dir, c.env)
	hup := func() {
		t.Helper()
		if err := s.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	write("log:\n  level: info\nrest:\n  max_rows: none\n  nonsense: 1\n")
	hup()
	s.logged(t, "rowhouse.yaml:4: rest.max_rows")
	s.logged(t, "rowhouse.yaml:5: rest.nonsense")
	s.awaits(t, "/readyz", 200, 20*time.Second)
	if strings.Contains(s.stderr.String(), "configuration is taken over") {
		t.Error("a bad file was taken over")
	}
	write("log:\n  level: error\nrest:\n  max_rows: 20\nrouter:\n  max_pools: 5\n")
	hup()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) { // at level error nothing is said of it
		hup()
		write("log:\n  level: info\nrouter:\n  max_pools: 5\n")
		if strings.Contains(s.stderr.String(), `"at_next_start":["router.max_pools"]`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a good file was not taken over: %s", s.stderr)
		}
	}
	if code := s.stop(t); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
}

func TestFault_F43_no_file_descriptors(t *testing.T) {
	t.Parallel()
	c := newServedCatalog(t)
	s := startServeUntil(t, "serving", c.dir, c.env, "sh", "-c", `ulimit -n 40; exec "$0" "$@"`)
	s.awaits(t, "/readyz", 200, 20*time.Second)
	address := strings.TrimPrefix(s.DataURL, "http://")
	var held []net.Conn
	for range 100 {
		conn, err := net.DialTimeout("tcp", address, 5*time.Second)
		if err != nil {
			break // what the system queues is full, too
		}
		held = append(held, conn)
	}
	s.logged(t, "too many open files")
	for _, conn := range held {
		_ = conn.Close()
	}
	s.awaits(t, "/livez", 200, 20*time.Second)
	s.awaits(t, "/readyz", 200, 20*time.Second)
	if code := s.stop(t); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
}

func TestFault_F45_disk_of_logs_full(t *testing.T) {
	t.Parallel()
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Skip("there is no device that is always full")
	}
	defer full.Close()
	c := newServedCatalog(t)
	var doors []string
	for range 2 { // the log cannot say which ports were free
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		doors = append(doors, l.Addr().String())
		_ = l.Close()
	}
	p := &process{devState: devState{DataURL: "http://" + doors[0], AdminURL: "http://" + doors[1]}, dir: c.dir, stderr: &lockedBuffer{}, ended: make(chan error, 1)}
	p.cmd = exec.Command(built(t), "serve")
	p.cmd.Dir, p.cmd.Stderr = c.dir, full
	p.cmd.Env = append(append(os.Environ(), c.env...), "ROWHOUSE_LISTEN="+doors[0], "ROWHOUSE_ADMIN_LISTEN="+doors[1])
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { p.ended <- p.cmd.Wait() }()
	t.Cleanup(p.kill)
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		resp, err := http.Get(p.DataURL + "/readyz")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == 200 {
				break
			}
		}
		if time.Now().After(deadline) {
			t.Fatalf("it does not serve: %v", err)
		}
	}
	if got := p.get(t, "/metrics"); !strings.Contains(got.body, "rowhouse_log_errors_total ") || strings.Contains(got.body, "rowhouse_log_errors_total 0\n") {
		t.Error("what could not be logged is not counted")
	}
	if code := p.stop(t); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
