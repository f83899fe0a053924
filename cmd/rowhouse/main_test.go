package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

// The tests of the command use the binary as a user would: they start it, speak HTTP to it and look at what it prints.

var binary struct {
	once sync.Once
	path string
	err  error
}

// build makes the binary once for all tests, with failpoints in it.
func built(t testing.TB) string {
	t.Helper()
	binary.once.Do(func() {
		dir, err := os.MkdirTemp("", "rowhouse-test-")
		if err != nil {
			binary.err = err
			return
		}
		binary.path = filepath.Join(dir, "rowhouse")
		out, err := exec.Command("go", "build", "-tags", "failpoint", "-o", binary.path, ".").CombinedOutput()
		if err != nil {
			binary.err = fmt.Errorf("%w: %s", err, out)
		}
	})
	if binary.err != nil {
		t.Fatal(binary.err)
	}
	return binary.path
}

func TestMain(m *testing.M) {
	pgtest.Prepare()
	code := m.Run()
	if binary.path != "" {
		_ = os.RemoveAll(filepath.Dir(binary.path))
	}
	os.Exit(code)
}

// devData is a directory that PostgreSQL's user can reach, which t.TempDir as root is not.
func devData(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "rhdev-")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "data")
}

// process is a running dev.
type process struct {
	devState
	cmd    *exec.Cmd
	dir    string
	stderr *lockedBuffer
	ended  chan error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startDev starts a dev on dir and waits for its line.
func startDev(t testing.TB, dir string, env ...string) *process {
	t.Helper()
	p, err := tryDev(t, dir, env...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func tryDev(t testing.TB, dir string, env ...string) (*process, error) {
	t.Helper()
	p := &process{dir: dir, stderr: &lockedBuffer{}, ended: make(chan error, 1)}
	p.cmd = exec.Command(built(t), "dev", "-o", "json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", dir)
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = p.stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	lines := make(chan string, 1)
	go func() {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		lines <- line
		_, _ = io.Copy(io.Discard, r)
		p.ended <- p.cmd.Wait()
	}()
	t.Cleanup(func() { p.kill() })
	select {
	case line := <-lines:
		if err := json.Unmarshal([]byte(line), &p.devState); err != nil {
			p.wait(30 * time.Second) // until all it said is here
			return nil, fmt.Errorf("dev ended without its line (%q): %s", line, p.stderr)
		}
		return p, nil
	case <-time.After(90 * time.Second):
		return nil, fmt.Errorf("dev printed no line: %s", p.stderr)
	}
}

// kill ends the process without asking, as kill -9 does.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	p.wait(10 * time.Second)
}

// stop asks the process to end and gives its exit code.
func (p *process) stop(t testing.TB) int {
	t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if !p.wait(30 * time.Second) {
		t.Fatalf("dev did not stop: %s", p.stderr)
	}
	return p.cmd.ProcessState.ExitCode()
}

func (p *process) wait(limit time.Duration) bool {
	select {
	case err := <-p.ended:
		p.ended <- err
		return true
	case <-time.After(limit):
		return false
	}
}

func (p *process) tenant(t testing.TB, name string) devTenant {
	t.Helper()
	for _, tenant := range p.Tenants {
		if tenant.Name == name {
			return tenant
		}
	}
	t.Fatalf("dev has no tenant %q: %+v", name, p.Tenants)
	return devTenant{}
}

// rowhouse runs a command in the directory that stands above the dev's data, and gives its exit code and outputs.
func (p *process) rowhouse(t testing.TB, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	return runIn(t, filepath.Dir(p.dir), []string{"ROWHOUSE_DATA=" + p.dir}, args...)
}

func runIn(t testing.TB, dir string, env []string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, built(t), args...)
	cmd.Dir, cmd.Env = dir, append(os.Environ(), env...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// request is one HTTP request and what came back.
type request struct {
	method, path string
	host         string
	header       map[string]string
	body         string
}

type answer struct {
	status int
	header http.Header
	body   string
}

func (p *process) do(t testing.TB, r request) answer {
	t.Helper()
	if r.method == "" {
		r.method = http.MethodGet
	}
	req, err := http.NewRequest(r.method, p.DataURL+r.path, strings.NewReader(r.body))
	if err != nil {
		t.Fatal(err)
	}
	req.Host = r.host
	if r.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range r.header {
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, resp.Header, string(body)}
}

func as(token string) map[string]string {
	return map[string]string{"Authorization": "Bearer " + token}
}
