// Package examples_test runs the examples as their reader would: beside a dev, as processes.
package examples_test

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// build compiles commands of this module into dir.
func build(t *testing.T, dir string, pkgs ...string) {
	t.Helper()
	if text, err := exec.Command("go", append([]string{"build", "-o", dir + "/"}, pkgs...)...).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, text)
	}
}

// start runs a program that goes on, and gives the first line of what it says. Stop asks it to end and gives its state.
func start(t *testing.T, name string, args ...string) (line string, stop func() *os.ProcessState) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	lines := make(chan string, 1)
	go func() {
		defer close(ended)
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		lines <- line
		_, _ = io.Copy(io.Discard, r)
		_ = cmd.Wait()
	}()
	stop = func() *os.ProcessState {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(30 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
		}
		return cmd.ProcessState
	}
	t.Cleanup(func() { stop() })
	select {
	case line = <-lines:
		return strings.TrimSpace(line), stop
	case <-time.After(90 * time.Second):
		t.Fatalf("%s says nothing", name)
		return "", nil
	}
}

// ask sends a request for a tenant, if that is not empty.
func ask(t *testing.T, method, url, tenant, body string) (status int, text string) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if tenant != "" {
		req.Header.Set("X-Tenant", tenant)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(all)
}

func TestExamples(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "rhexamples-") // which PostgreSQL's user can reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	build(t, dir, "../../cmd/rowhouse", "./web", "./job", "./project/before", "./project/after")
	program := func(name string) string { return filepath.Join(dir, name) }
	data := filepath.Join(dir, "data")
	said, _ := start(t, program("rowhouse"), "dev", "-o", "json", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data", data)
	var dev struct {
		CatalogURL string `json:"catalog_url"`
	}
	if err := json.Unmarshal([]byte(said), &dev); err != nil {
		t.Fatalf("dev said %q", said)
	}
	flags := []string{"-catalog", dev.CatalogURL, "-keys", filepath.Join(data, "keys.json")}
	listening := func(line string) string {
		t.Helper()
		url, ok := strings.CutPrefix(line, "listening on ")
		if !ok {
			t.Fatalf("it said %q", line)
		}
		return url
	}

	t.Run("web", func(t *testing.T) {
		line, stop := start(t, program("web"), append(flags, "-listen", "127.0.0.1:0")...)
		url := listening(line)
		if status, text := ask(t, http.MethodPost, url+"/projects", "acme", `{"name":"web of acme"}`); status != 201 || !strings.Contains(text, `"status":"active"`) {
			t.Errorf("%d %s", status, text)
		}
		for tenant, sees := range map[string]bool{"acme": true, "globex": false, "initech": false} {
			if status, text := ask(t, http.MethodGet, url+"/projects", tenant, ""); status != 200 || strings.Contains(text, "web of acme") != sees {
				t.Errorf("%s: %d %s", tenant, status, text)
			}
		}
		for tenant, want := range map[string]int{"": 400, "nobody": 404, "no such": 400} {
			if status, text := ask(t, http.MethodGet, url+"/projects", tenant, ""); status != want {
				t.Errorf("tenant %q: %d %s, want %d", tenant, status, text, want)
			}
		}
		var pools []struct{ Open, Most int }
		_, text := ask(t, http.MethodGet, url+"/pools", "", "")
		if err := json.Unmarshal([]byte(text), &pools); err != nil || len(pools) != 2 || pools[0].Open == 0 || pools[0].Most == 0 {
			t.Errorf("a shared and a dedicated database: %s", text)
		}
		if state := stop(); state.ExitCode() != 0 {
			t.Errorf("it ended with %s", state)
		}
	})
	t.Run("job", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		out, err := exec.CommandContext(ctx, program("job"), flags...).CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		for _, want := range []string{"acme: ", "globex: ", "initech: ", "3 pools were opened and 0 are kept"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("it does not say %q: %s", want, out)
			}
		}
	})
	t.Run("project", func(t *testing.T) {
		single := singleTenant(t, dev.CatalogURL)
		line, _ := start(t, program("before"), "-database", single, "-listen", "127.0.0.1:0")
		before := listening(line)
		line, _ = start(t, program("after"), append(flags, "-listen", "127.0.0.1:0")...)
		after := listening(line)
		for _, app := range []struct{ url, tenant, other string }{{before, "", ""}, {after, "initech", "acme"}} {
			var p struct{ ID string }
			status, text := ask(t, http.MethodPost, app.url+"/projects", app.tenant, `{"name":"moved"}`)
			if err := json.Unmarshal([]byte(text), &p); err != nil || status != 201 {
				t.Fatalf("%d %s", status, text)
			}
			if status, text := ask(t, http.MethodGet, app.url+"/projects/"+p.ID, app.tenant, ""); status != 200 || !strings.Contains(text, `"name":"moved"`) {
				t.Errorf("%d %s", status, text)
			}
			if app.other != "" {
				if status, text := ask(t, http.MethodGet, app.url+"/projects/"+p.ID, app.other, ""); status != 404 {
					t.Errorf("another tenant's: %d %s", status, text)
				}
				if status, text := ask(t, http.MethodDelete, app.url+"/projects/"+p.ID, app.other, ""); status != 404 {
					t.Errorf("another tenant's: %d %s", status, text)
				}
			}
			if status, text := ask(t, http.MethodDelete, app.url+"/projects/"+p.ID, app.tenant, ""); status != 204 {
				t.Errorf("%d %s", status, text)
			}
			if status, text := ask(t, http.MethodGet, app.url+"/projects/"+p.ID, app.tenant, ""); status != 404 {
				t.Errorf("%d %s", status, text)
			}
		}
	})
}

// singleTenant makes the database of the application as it was: the sample's tables without the lines that bind them.
func singleTenant(t *testing.T, catalogURL string) string {
	t.Helper()
	text, err := os.ReadFile("../../cmd/rowhouse/sample/000001_projects.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	var plain []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "rowhouse.bind(") {
			plain = append(plain, line)
		}
	}
	url := strings.Replace(catalogURL, "/rowhouse?", "/single?", 1)
	for _, step := range []struct{ url, sql string }{{catalogURL, "create database single"}, {url, strings.Join(plain, "")}} {
		conn, err := pgx.Connect(t.Context(), step.url)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), "set search_path = public; "); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Exec(t.Context(), step.sql); err != nil {
			t.Fatal(err)
		}
		if err := conn.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return url
}
