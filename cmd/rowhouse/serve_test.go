package main

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// The way an operator goes: an empty database, init, a server, migrations, a tenant, serve. The servers are a dev's.
func TestServe(t *testing.T) {
	t.Parallel()
	ground := startDev(t, devData(t))
	dir := t.TempDir()
	url := strings.Replace(ground.CatalogURL, "/rowhouse?", "/second?", 1)
	admin, err := pgx.Connect(t.Context(), ground.CatalogURL)
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close(context.WithoutCancel(t.Context()))
	for _, sql := range []string{
		`create database second`, `create role second_provisioner login createdb createrole password 'RHCANARY-provisioner'`,
	} {
		if _, err := admin.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	secret := filepath.Join(dir, "jwt")
	dsn := filepath.Join(dir, "dsn")
	for file, text := range map[string]string{
		secret: "RHCANARY-0123456789-0123456789-0123456789\n",
		dsn:    strings.Replace(strings.Replace(url, "rowhouse@", "second_provisioner:RHCANARY-provisioner@", 1), "/second?", "/postgres?", 1) + "\n",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	env := []string{
		"ROWHOUSE_CATALOG_URL=" + url, "ROWHOUSE_CATALOG_KEYS=" + filepath.Join(dir, "keys.json"),
		"ROWHOUSE_AUTH_JWT_SECRET_FILE=" + secret, "ROWHOUSE_LISTEN=127.0.0.1:0", "ROWHOUSE_ADMIN_LISTEN=127.0.0.1:0",
	}
	sample, err := filepath.Abs("sample")
	if err != nil {
		t.Fatal(err)
	}
	run := func(wantCode int, args ...string) string {
		t.Helper()
		code, stdout, stderr := runIn(t, dir, env, args...)
		if code != wantCode || strings.Contains(stdout+stderr, "RHCANARY") {
			t.Fatalf("%v: exit %d, want %d: %s%s", args, code, wantCode, stdout, stderr)
		}
		return stdout + stderr
	}
	if out := run(78, "serve"); !strings.Contains(out, "keyset") {
		t.Errorf("serve before init: %s", out)
	}
	run(0, "catalog", "init")
	run(0, "catalog", "init") // again: nothing to do
	run(0, "server", "add", "eu1", "--dsn", "@"+dsn)
	run(0, "catalog", "check")
	run(0, "migrate", "up", sample)
	run(0, "tenant", "create", "acme", "--wait=2m")
	if out := run(0, "tenant", "create", "later"); !strings.Contains(out, "nobody is there") {
		t.Errorf("nobody works, and nobody says so: %s", out)
	}
	token := strings.TrimSpace(run(0, "token", "create", "--tenant", "acme", "-o", "name"))

	s := startServe(t, dir, env)
	if got := s.do(t, request{method: http.MethodPost, path: "/rest/v1/projects", header: as(token), body: `{"name":"one"}`}); got.status != 201 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	if got := s.do(t, request{path: "/rest/v1/projects?select=name", header: as(token)}); got.body != `[{"name":"one"}]` {
		t.Errorf("%d %s", got.status, got.body)
	}
	// What nobody was there to do, serve does.
	deadline := time.Now().Add(60 * time.Second)
	for !strings.Contains(run(0, "tenant", "get", "later", "-o", "json"), `"state": "active"`) {
		if time.Now().After(deadline) {
			t.Fatalf("later was never made: %s", run(0, "op", "list"))
		}
		time.Sleep(100 * time.Millisecond)
	}

	t.Run("SIGTERM fails no request and exits with 0", func(t *testing.T) {
		stop := make(chan struct{})
		var asking sync.WaitGroup
		for range 4 {
			asking.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					req, _ := http.NewRequest(http.MethodGet, s.DataURL+"/rest/v1/projects", nil)
					req.Header.Set("Authorization", "Bearer "+token)
					resp, err := http.DefaultTransport.RoundTrip(req)
					if err != nil {
						t.Error(err)
						return
					}
					if resp.StatusCode != 200 {
						t.Errorf("status %d", resp.StatusCode)
					}
					_ = resp.Body.Close()
				}
			})
		}
		if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		deadline := time.Now().Add(1500 * time.Millisecond)
		for got := s.do(t, request{path: "/readyz"}); got.status != 503; got = s.do(t, request{path: "/readyz"}) {
			if time.Now().After(deadline) {
				t.Fatal("still ready")
			}
		}
		close(stop) // as a balancer that has seen it
		asking.Wait()
		if !s.wait(30 * time.Second) {
			t.Fatal("it did not stop")
		}
		if code := s.cmd.ProcessState.ExitCode(); code != 0 {
			t.Errorf("exit code %d: %s", code, s.stderr)
		}
		if strings.Contains(s.stderr.String(), "RHCANARY") {
			t.Error("a secret stands in the log")
		}
	})
	t.Run("one tenant and no host", func(t *testing.T) { serveAlone(t, dir, env, run) })
}

// With tenancy off every request is the one tenant's, whatever it carries, and there is no host side.
func serveAlone(t *testing.T, dir string, env []string, run func(int, ...string) string) {
	s := startServe(t, dir, append(env, "ROWHOUSE_TENANCY_ENABLED=false"))
	deadline := time.Now().Add(60 * time.Second)
	for !strings.Contains(run(0, "tenant", "list", "-o", "json"), `"name": "default",
    "state": "active"`) {
		if time.Now().After(deadline) {
			t.Fatalf("the only tenant was never made: %s", run(0, "op", "list"))
		}
		time.Sleep(100 * time.Millisecond)
	}
	token := strings.TrimSpace(run(0, "token", "create", "--tenant", "default", "-o", "name"))
	for _, header := range []map[string]string{
		as(token),
		{"Authorization": "Bearer " + token, "X-Tenant": "acme"},
		{"Authorization": "Bearer " + token, "X-Tenant": "a,b", "Cookie": "rowhouse_tenant=acme"},
	} {
		if got := s.do(t, request{path: "/rest/v1/projects", host: "acme.localhost", header: header}); got.status != 200 || got.body != "[]" {
			t.Errorf("%v: %d %s", header, got.status, got.body)
		}
	}
	if got := s.do(t, request{path: "/rest/v1/projects", header: as("bad")}); got.status != 401 {
		t.Errorf("a bad credential: %d %s", got.status, got.body)
	}
	resp, err := http.Get(s.AdminURL + "/admin/v1/tenants")
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	if resp.StatusCode != 404 {
		t.Errorf("a host side with status %d", resp.StatusCode)
	}
	if code := s.stop(t); code != 0 {
		t.Errorf("exit code %d: %s", code, s.stderr)
	}
}

// startServe starts the service and waits for the line of its log that says where it serves.
func startServe(t testing.TB, dir string, env []string) *process {
	t.Helper()
	return startServeUntil(t, "serving", dir, env)
}

// startServeUntil starts the service and waits for a line of its log that says where its doors are. A wrapper is a command
// that is given the service's.
func startServeUntil(t testing.TB, msg, dir string, env []string, wrapper ...string) *process {
	t.Helper()
	p := &process{dir: dir, stderr: &lockedBuffer{}, ended: make(chan error, 1)}
	command := append(wrapper, built(t), "serve")
	p.cmd = exec.Command(command[0], command[1:]...)
	p.cmd.Dir, p.cmd.Env = dir, append(os.Environ(), env...)
	out, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	told := make(chan [2]string, 1)
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			_, _ = p.stderr.Write(append(lines.Bytes(), '\n'))
			var line struct{ Msg, Data, Admin string }
			if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == msg {
				select {
				case told <- [2]string{line.Data, line.Admin}:
				default:
				}
			}
		}
		p.ended <- p.cmd.Wait()
	}()
	select {
	case doors := <-told:
		p.DataURL, p.AdminURL = doors[0], doors[1]
		return p
	case <-time.After(30 * time.Second):
		t.Fatalf("it does not serve: %s", p.stderr)
		return nil
	}
}
