//go:build unix

package localpg

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"
)

// ownerVariable makes a copy of this test program start a server there, say so, and wait to be killed.
const ownerVariable = "ROWHOUSE_LOCALPG_TEST_OWNER"

func TestMain(m *testing.M) {
	for _, variable := range os.Environ() { // as the command does
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
	if dir := os.Getenv(ownerVariable); dir != "" {
		srv, err := Start(context.Background(), Config{Dir: dir})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(srv.PID())
		select {}
	}
	goleak.VerifyTestMain(m)
}

// openDir is a new directory that the server's user can reach: a test's TempDir is closed to others.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "localpg-test-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o711); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return filepath.Join(dir, "data")
}

func start(t *testing.T, cfg Config) *Server {
	t.Helper()
	srv, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stop(t, srv) })
	return srv
}

func stop(t *testing.T, srv *Server) {
	t.Helper()
	if err := srv.Stop(context.Background()); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func query(t *testing.T, dsn, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var answer string
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func TestStart(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	srv := start(t, Config{Dir: dir, Settings: map[string]string{"work_mem": "5MB"}})

	t.Run("what the server is", func(t *testing.T) {
		for sql, want := range map[string]string{
			"select current_setting('data_directory')":                     srv.DataDir(),
			"select current_setting('listen_addresses')":                   "",
			"select current_setting('unix_socket_directories')":            srv.Socket(),
			"select current_setting('wal_level')":                          "logical",
			"select current_setting('max_connections')":                    "200",
			"select current_setting('fsync')":                              "on",
			"select current_setting('work_mem')":                           "5MB",
			"select current_user::text":                                    "rowhouse",
			"select split_part(current_setting('server_version'), ' ', 1)": srv.Version(),
		} {
			if got := query(t, srv.DSN("postgres"), sql); got != want {
				t.Errorf("%s is %q, want %q", sql, got, want)
			}
		}
	})

	t.Run("only the superuser is trusted, and that by its name on the socket", func(t *testing.T) {
		text, err := os.ReadFile(filepath.Join(srv.DataDir(), "pg_hba.conf"))
		if err != nil {
			t.Fatal(err)
		}
		if want := "local all rowhouse trust\nlocal all all scram-sha-256\n"; string(text) != want {
			t.Errorf("pg_hba.conf is %q", text)
		}
		query(t, srv.DSN("postgres"), "select set_config('password_encryption', 'scram-sha-256', false)")
		conn, err := pgx.Connect(t.Context(), srv.DSN("postgres"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), "create role somebody login password 'right'"); err != nil {
			t.Fatal(err)
		}
		if got := query(t, srv.DSNAs("somebody", "right", "postgres"), "select current_user::text"); got != "somebody" {
			t.Errorf("logged in as %q", got)
		}
		if other, err := pgx.Connect(t.Context(), srv.DSNAs("somebody", "wrong", "postgres")); err == nil {
			other.Close(t.Context())
			t.Error("a wrong password was let in")
		}
	})

	t.Run("who can reach what", func(t *testing.T) {
		acct := must(serverAccount())
		for path, want := range map[string]fs.FileMode{srv.DataDir(): 0o700, srv.Socket(): 0o700} {
			info, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}
			if uid, _ := ownerOf(info); uid != acct.uid || info.Mode().Perm() != want {
				t.Errorf("%s belongs to %d with mode %o, want %d and %o", path, uid, info.Mode().Perm(), acct.uid, want)
			}
		}
		for name, want := range map[string]fs.FileMode{"lock": 0o600, "postgres.log": 0o600} {
			info, err := os.Stat(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode().Perm() != want {
				t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), want)
			}
		}
		if text, _ := os.ReadFile(filepath.Join(dir, ".gitignore")); string(text) != "*\n" {
			t.Errorf(".gitignore is %q", text)
		}
	})

	t.Run("nothing of our environment reaches the server", func(t *testing.T) {
		if _, err := os.Stat("/proc"); err != nil {
			t.Skip("no /proc")
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", srv.PID()))
		if err != nil {
			t.Fatal(err)
		}
		for _, variable := range strings.Split(strings.Trim(string(text), "\x00"), "\x00") {
			// PG_GRANDPARENT_PID and the like are pg_ctl's, which we do not use.
			if name, _, _ := strings.Cut(variable, "="); name != "LC_ALL" && name != "TZ" {
				t.Errorf("the server has %s", name)
			}
		}
	})

	t.Run("a second owner is refused by name", func(t *testing.T) {
		_, err := Start(t.Context(), Config{Dir: dir})
		if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), fmt.Sprintf("%s is in use by process %d", dir, os.Getpid())) {
			t.Errorf("got %v", err)
		}
		record := `{"pid":1,"data_url":"http://127.0.0.1:8080","admin_url":"http://127.0.0.1:8081","operator_token":"rhop_secret"}`
		if err := os.WriteFile(filepath.Join(dir, "dev.json"), []byte(record), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Start(t.Context(), Config{Dir: dir})
		inUse, ok := errors.AsType[*InUseError](err)
		if !ok {
			t.Fatalf("got %v", err)
		}
		if inUse.By.DataURL != "http://127.0.0.1:8080" || inUse.By.PID != os.Getpid() || inUse.By.Socket != srv.Socket() {
			t.Errorf("by %+v", inUse.By)
		}
		for _, text := range []string{err.Error(), fmt.Sprintf("%+v", inUse)} {
			if !strings.Contains(text, "http://127.0.0.1:8081") || strings.Contains(text, "secret") {
				t.Errorf("says %q", text)
			}
		}
	})

	t.Run("others find it and connect, and own nothing", func(t *testing.T) {
		i, err := Running(dir)
		if err != nil {
			t.Fatal(err)
		}
		if got := query(t, i.DSN("postgres"), "select current_setting('data_directory')"); got != srv.DataDir() {
			t.Errorf("connected to %q", got)
		}
	})

	t.Run("it ends, and starts again with what was written", func(t *testing.T) {
		query(t, srv.DSN("postgres"), "with t as (select pg_catalog.lo_from_bytea(4711, 'kept')) select 'x' from t")
		stop(t, srv)
		select {
		case <-srv.Done():
		default:
			t.Error("Stop came back before the server had ended")
		}
		if _, err := Running(dir); !errors.Is(err, ErrNotRunning) {
			t.Errorf("Running after Stop: %v", err)
		}
		began := time.Now()
		again := start(t, Config{Dir: dir})
		t.Logf("second start took %v", time.Since(began))
		if got := query(t, again.DSN("postgres"), "select convert_from(lo_get(4711), 'UTF8')"); got != "kept" {
			t.Errorf("found %q", got)
		}
		if _, err := os.Stat(filepath.Join(dir, "dev.json")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("an earlier owner's dev.json is still there: %v", err)
		}
		stop(t, again)
		fresh := start(t, Config{Dir: dir, Fresh: true})
		if got := query(t, fresh.DSN("postgres"), "select count(*)::text from pg_largeobject_metadata"); got != "0" {
			t.Error("a fresh server is not empty")
		}
	})
}

func TestStart_deadOwner(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/stat"); err != nil {
		t.Skip("no parent-death signal here")
	}
	dir := openDir(t)
	owner, pid := startOwner(t, dir)

	if err := owner.Process.Kill(); err != nil { // kill -9
		t.Fatal(err)
	}
	_ = owner.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for servesCluster(pid, filepath.Join(dir, "pg")) {
		if err := pause(ctx, time.Millisecond); err != nil {
			t.Fatalf("postgres %d outlives its owner", pid)
		}
	}
	start(t, Config{Dir: dir})
	log, err := os.ReadFile(filepath.Join(dir, "postgres.log"))
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(log), "database system is shut down"); n != 1 {
		t.Errorf("the orphan was shut down %d times", n)
	}
	if strings.Contains(string(log), "automatic recovery") {
		t.Error("the orphan did not shut down cleanly")
	}
}

// startOwner runs a process that owns a server, and returns it with the server's pid.
func startOwner(t *testing.T, dir string) (*exec.Cmd, int) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), ownerVariable+"="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Sscan(line, &pid); err != nil {
		t.Fatalf("the owner said %q", line)
	}
	return cmd, pid
}

func TestStart_leftovers(t *testing.T) {
	t.Parallel()

	// initialised is a directory with a cluster and nobody who serves it.
	initialised := func(t *testing.T) (dir string, h home) {
		t.Helper()
		dir = openDir(t)
		srv := start(t, Config{Dir: dir})
		stop(t, srv)
		return dir, srv.home
	}
	writePIDFile := func(t *testing.T, h home, pid int) {
		t.Helper()
		text := fmt.Sprintf("%d\n%s\n%d\n5432\n%s\n\n  12345     99999\nready   \n", pid, h.data(), time.Now().Unix(), h.base+"/run")
		if err := os.WriteFile(h.pidFile(), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.account.own(h.pidFile()); err != nil {
			t.Fatal(err)
		}
		lock := socketFile(h.base+"/run") + ".lock"
		if err := os.WriteFile(lock, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := h.account.own(lock); err != nil {
			t.Fatal(err)
		}
	}

	// PostgreSQL asks whether a process of that number lives and may be signalled by its user.
	child := func(t *testing.T, h home, name string) (*exec.Cmd, io.ReadCloser) {
		t.Helper()
		cmd := exec.Command(name)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: credential(h.account)}
		_, err := cmd.StdinPipe() // open until Wait
		if err != nil {
			t.Fatal(err)
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
		return cmd, out
	}

	t.Run("a pid file that names another program does not stop a start", func(t *testing.T) {
		t.Parallel()
		dir, h := initialised(t)
		cat, _ := child(t, h, "cat")
		writePIDFile(t, h, cat.Process.Pid)
		start(t, Config{Dir: dir})
	})

	t.Run("nor does one that names a zombie", func(t *testing.T) {
		t.Parallel()
		dir, h := initialised(t)
		zombie, out := child(t, h, "true")
		if _, err := io.ReadAll(out); err != nil { // until it has ended; nobody waits for it
			t.Fatal(err)
		}
		if err := syscall.Kill(zombie.Process.Pid, 0); err != nil {
			t.Fatalf("the zombie cannot be signalled: %v", err)
		}
		writePIDFile(t, h, zombie.Process.Pid)
		start(t, Config{Dir: dir})
	})

	t.Run("a backend that outlived its postmaster is waited for", func(t *testing.T) {
		t.Parallel()
		if _, err := os.Stat("/proc/self/cwd"); err != nil {
			t.Skip("no /proc")
		}
		dir, h := initialised(t)
		writePIDFile(t, h, os.Getpid())
		// A process called postgres that stands in the data directory until its input ends.
		fake := filepath.Join(filepath.Dir(dir), "postgres")
		copyFile(t, must(exec.LookPath("cat")), fake)
		backend := exec.Command(fake)
		backend.Dir = h.data()
		in, err := backend.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := backend.Start(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		defer cancel()
		if srv, err := Start(ctx, Config{Dir: dir}); err == nil {
			stop(t, srv)
			t.Fatal("started beside a living backend")
		} else if !strings.Contains(err.Error(), fmt.Sprintf("process %d is still in", backend.Process.Pid)) {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(h.pidFile()); err != nil {
			t.Errorf("the pid file, which guards against that backend, is gone: %v", err)
		}
		in.Close()
		if err := backend.Wait(); err != nil {
			t.Fatal(err)
		}
		start(t, Config{Dir: dir})
	})

	t.Run("an orphan that nobody told is stopped", func(t *testing.T) {
		t.Parallel()
		dir, h := initialised(t)
		bin := must(Find(t.Context(), FindOptions{}))
		cmd := exec.Command(bin.postgres(), "-D", h.data(), "-k", h.base+"/run", "-c", "listen_addresses=")
		cmd.Dir, cmd.Env = h.data(), childEnv
		detach(cmd, h.account, 0)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		awaitFile(t, socketFile(h.base+"/run"))

		var log bytes.Buffer
		srv := start(t, Config{Dir: dir, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		if err := <-ended; err != nil {
			t.Errorf("the orphan ended with %v", err)
		}
		if srv.PID() == cmd.Process.Pid || !strings.Contains(log.String(), fmt.Sprintf("pid=%d", cmd.Process.Pid)) {
			t.Errorf("log: %s", log.String())
		}
	})

	t.Run("an interrupted initdb is begun again", func(t *testing.T) {
		t.Parallel()
		dir := openDir(t)
		if err := makeDir(dir, must(serverAccount())); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"lock", "pg.tmp/base/1/112"} {
			path = filepath.Join(dir, path)
			if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		start(t, Config{Dir: dir})
		if _, err := os.Stat(filepath.Join(dir, "pg.tmp")); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("pg.tmp is still there: %v", err)
		}
	})
}

func TestStart_refuses(t *testing.T) {
	t.Parallel()

	t.Run("a directory that holds other things", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Dir(openDir(t))
		if err := os.WriteFile(filepath.Join(dir, "thesis.tex"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Start(t.Context(), Config{Dir: dir})
		if err == nil || !strings.Contains(err.Error(), "thesis.tex") {
			t.Errorf("got %v", err)
		}
		if _, err := os.Stat(filepath.Join(dir, ".gitignore")); !errors.Is(err, fs.ErrNotExist) {
			t.Error("something was written into it")
		}
	})

	t.Run("a setting that would let others in", func(t *testing.T) {
		t.Parallel()
		for _, name := range []string{"listen_addresses", "Unix_Socket_Permissions", "hba_file", "port"} {
			dir := openDir(t)
			if _, err := Start(t.Context(), Config{Dir: dir, Settings: map[string]string{name: "*"}}); err == nil || !strings.Contains(err.Error(), strings.ToLower(name)) {
				t.Errorf("%s: got %v", name, err)
			}
		}
	})

	t.Run("a socket directory that is a link", func(t *testing.T) {
		t.Parallel()
		dir := openDir(t)
		srv := start(t, Config{Dir: dir})
		stop(t, srv)
		elsewhere := filepath.Join(filepath.Dir(dir), "elsewhere")
		if err := srv.home.account.privateDir(elsewhere); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(srv.Socket()); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(elsewhere, srv.Socket()); err != nil {
			t.Fatal(err)
		}
		again := start(t, Config{Dir: dir, RuntimeDir: t.TempDir()})
		if again.Socket() == srv.Socket() {
			t.Error("it was used")
		}
		stop(t, again)
		os.RemoveAll(again.Socket())
	})

	t.Run("a setting that PostgreSQL does not know, with PostgreSQL's own words", func(t *testing.T) {
		t.Parallel()
		dir := openDir(t)
		_, err := Start(t.Context(), Config{Dir: dir, Settings: map[string]string{"nosuch_setting": "1"}})
		if err == nil || !strings.Contains(err.Error(), `unrecognized configuration parameter "nosuch_setting"`) {
			t.Errorf("got %v", err)
		}
		start(t, Config{Dir: dir}) // and the directory was given back
	})
}

func TestStart_longPath(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(openDir(t), strings.Repeat("long and ", 12)+"strange?&=%20,")
	srv := start(t, Config{Dir: dir})
	if strings.HasPrefix(srv.Socket(), dir) || len(socketFile(srv.Socket())) > longestSocket {
		t.Errorf("the socket is in %s", srv.Socket())
	}
	if got := query(t, srv.DSN("postgres"), "select current_setting('data_directory')"); got != filepath.Join(dir, "pg") {
		t.Errorf("the data are in %s", got)
	}
	stop(t, srv)
	os.RemoveAll(srv.Socket())

	strange := filepath.Join(filepath.Dir(filepath.Dir(dir)), "a b?c&d=%20")
	srv = start(t, Config{Dir: strange})
	if srv.Socket() != filepath.Join(strange, "run") {
		t.Errorf("the socket is in %s", srv.Socket())
	}
}

func TestStart_closedPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root has a server that cannot follow")
	}
	elsewhere := openDir(t)
	varLib = elsewhere // not parallel
	t.Cleanup(func() { varLib = "/var/lib/rowhouse" })
	closed := filepath.Join(filepath.Dir(openDir(t)), "home")
	if err := os.Mkdir(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, ".rowhouse")

	srv := start(t, Config{Dir: dir})
	first := srv.DataDir()
	id, err := os.ReadFile(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(elsewhere, "dev-"+strings.TrimSpace(string(id)), "pg"); first != want {
		t.Errorf("the data are in %s, want %s", first, want)
	}
	if i, err := Running(dir); err != nil || i.Socket != srv.Socket() {
		t.Errorf("found %+v, %v", i, err)
	}
	stop(t, srv)
	if srv = start(t, Config{Dir: dir}); srv.DataDir() != first {
		t.Errorf("the second time they are in %s", srv.DataDir())
	}
	stop(t, srv)

	// A directory that was deleted and made again starts empty, and what is left over is named.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	srv = start(t, Config{Dir: dir, Logger: slog.New(slog.NewJSONHandler(&log, nil))})
	if srv.DataDir() == first {
		t.Error("found the data of a deleted directory")
	}
	var entry struct{ Data, Was string }
	if err := json.Unmarshal(log.Bytes(), &entry); err != nil || entry.Data != filepath.Dir(first) || entry.Was != dir {
		t.Errorf("logged %s", log.String())
	}
	stop(t, srv)
}

func TestServer_Done(t *testing.T) {
	t.Parallel()
	srv := start(t, Config{Dir: openDir(t)})
	if err := syscall.Kill(srv.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-srv.Done()
	stop(t, srv)
	start(t, Config{Dir: srv.home.dir}) // after a crash, with the crashed one's backends perhaps still there
}

func TestServer_StopAtOnce(t *testing.T) {
	t.Parallel()
	dir := openDir(t)
	srv := start(t, Config{Dir: dir})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	began := time.Now()
	if err := srv.Stop(ctx); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 8*time.Second {
		t.Errorf("took %v", took)
	}
	if err := srv.Stop(ctx); err != nil {
		t.Errorf("a second time: %v", err)
	}
	start(t, Config{Dir: dir})
}

func awaitFile(t *testing.T, path string) {
	t.Helper()
	for {
		if _, err := os.Stat(path); err == nil {
			return
		}
		if err := pause(t.Context(), 2*time.Millisecond); err != nil {
			t.Fatal(err)
		}
	}
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, text, 0o755); err != nil {
		t.Fatal(err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
