package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.yaml.in/yaml/v3"
)

// One dev serves the tests of this file that only read or clean up after themselves.
func TestDev(t *testing.T) {
	t.Parallel()
	p := startDev(t, devData(t))
	acme, globex, initech := p.tenant(t, "acme"), p.tenant(t, "globex"), p.tenant(t, "initech")
	if acme.Placement != "shared" || initech.Placement != "dedicated" {
		t.Fatalf("placements: %+v", p.Tenants)
	}

	t.Run("answers", func(t *testing.T) { devAnswers(t, p, acme, globex, initech) })
	t.Run("a patch of an own and a foreign row changes the own one", func(t *testing.T) { devForeignRow(t, p, acme, globex) })
	t.Run("client", func(t *testing.T) { devClient(t, p, acme, initech) })
	t.Run("Go client", func(t *testing.T) { devGoClient(t, p, acme, initech) })
	t.Run("trail", func(t *testing.T) { devTrail(t, p, acme, globex) })
	t.Run("generated client", func(t *testing.T) { devGeneratedClient(t, p) })
	t.Run("command", func(t *testing.T) { devCommand(t, p) })
	t.Run("adopted", func(t *testing.T) { devAdopt(t, p) })
	t.Run("a database whose version is not served", func(t *testing.T) { devVersionGate(t, p, acme, initech) })
	t.Run("health and the control plane's door", func(t *testing.T) { devDoors(t, p, acme) })
	t.Run("a second dev on the same data is refused by name", func(t *testing.T) {
		_, err := tryDev(t, p.dir)
		if err == nil || !strings.Contains(err.Error(), "in use") || !strings.Contains(err.Error(), p.DataURL) {
			t.Fatalf("got %v", err)
		}
	})
	t.Run("no secret in what it printed", func(t *testing.T) {
		for _, secret := range []string{p.OperatorToken, acme.Token} {
			if strings.Contains(p.stderr.String(), secret) {
				t.Errorf("a token stands in the log")
			}
		}
	})
	t.Run("it stops in order", func(t *testing.T) {
		if code := p.stop(t); code != 0 {
			t.Errorf("exit code %d: %s", code, p.stderr)
		}
	})
}

func devAnswers(t *testing.T, p *process, acme, globex, initech devTenant) {
	with := func(header map[string]string, more ...string) map[string]string {
		all := map[string]string{}
		for k, v := range header {
			all[k] = v
		}
		for i := 0; i < len(more); i += 2 {
			all[more[i]] = more[i+1]
		}
		return all
	}
	for _, c := range []struct {
		name string
		request
		status int
		has    []string
		never  []string
	}{
		{"acme's rows on acme's host", request{path: "/rest/v1/projects", host: "acme.localhost", header: as(acme.Token)}, 200, []string{"acme Website", acme.ID.String()}, []string{"globex", "initech"}},
		{"globex's rows out of the same database", request{path: "/rest/v1/projects", host: "globex.localhost", header: as(globex.Token)}, 200, []string{"globex Website"}, []string{"acme", "initech"}},
		{"initech's rows out of its own database", request{path: "/rest/v1/projects", host: "initech.localhost", header: as(initech.Token)}, 200, []string{"initech Website"}, []string{"acme", "globex"}},
		{"the token alone names the tenant", request{path: "/rest/v1/tasks?select=title&limit=1", header: as(acme.Token)}, 200, []string{"title"}, nil},
		{"acme's token on globex's host", request{path: "/rest/v1/projects", host: "globex.localhost", header: as(acme.Token)}, 403, []string{`"code":"tenant_mismatch"`}, []string{"globex Website", "acme Website"}},
		{"acme's token with globex in the header", request{path: "/rest/v1/projects", header: with(as(acme.Token), "X-Tenant", "globex")}, 403, []string{`"code":"tenant_mismatch"`}, []string{"globex Website"}},
		{"acme's token with nobody in the header", request{path: "/rest/v1/projects", header: with(as(acme.Token), "X-Tenant", "nosuch")}, 403, []string{`"code":"tenant_mismatch"`}, []string{"nosuch"}},
		{"no tenant", request{path: "/rest/v1/projects"}, 400, []string{`"code":"tenant_required"`, `"hint":`, `"details":`}, nil},
		{"an unknown tenant", request{path: "/rest/v1/projects", host: "nosuch.localhost"}, 404, []string{`"code":"tenant_not_found"`}, []string{"nosuch"}},
		{"a tenant and no token", request{path: "/rest/v1/projects", host: "acme.localhost"}, 401, []string{`"code":"42501"`}, []string{"acme Website"}},
		{"the anonymous token", request{path: "/rest/v1/projects", header: as(acme.AnonToken)}, 401, []string{`"code":"42501"`}, []string{"acme Website"}},
		{"a broken token", request{path: "/rest/v1/projects", header: as(acme.Token[:len(acme.Token)-4] + "AAAA")}, 401, []string{"PGRST301"}, []string{acme.Token}},
		{"an operator's token", request{path: "/rest/v1/projects", host: "acme.localhost", header: as(p.OperatorToken)}, 401, nil, []string{p.OperatorToken, "acme Website"}},
		{"a malformed header", request{path: "/rest/v1/projects", header: map[string]string{"X-Tenant": "a,b"}}, 400, []string{`"code":"tenant_invalid"`}, []string{"a,b"}},
		{"a malformed cookie", request{path: "/rest/v1/projects", header: map[string]string{"Cookie": "rowhouse_tenant=%61cme"}}, 400, []string{`"code":"tenant_invalid"`}, nil},
		{"a host that is none", request{path: "/rest/v1/projects", host: "acme..localhost"}, 400, []string{`"code":"tenant_invalid"`}, nil},
		{"an unknown table", request{path: "/rest/v1/projcts", header: as(acme.Token)}, 404, []string{"PGRST205", "public.projects"}, nil},
		{"a system table", request{path: "/rest/v1/pg_class", header: as(acme.Token)}, 404, []string{"PGRST205"}, nil},
		{"a schema that is not exposed", request{path: "/rest/v1/identity", header: with(as(acme.Token), "Accept-Profile", "rowhouse")}, 406, []string{"PGRST106"}, nil},
		{"an unknown operator", request{path: "/rest/v1/projects?id=zz.1", header: as(acme.Token)}, 400, []string{"PGRST100"}, nil},
		{"a value of another type", request{path: "/rest/v1/projects?id=eq.1%3Bdrop%20table%20projects", header: as(acme.Token)}, 400, []string{"22P02"}, nil},
		{"a body that is no JSON", request{method: http.MethodPost, path: "/rest/v1/projects", header: as(acme.Token), body: "{"}, 400, []string{"PGRST102"}, nil},
		{"an unknown column in a body", request{method: http.MethodPost, path: "/rest/v1/projects?columns=nothing", header: as(acme.Token), body: `{"nothing":1}`}, 400, []string{"PGRST204"}, nil},
		{"a row for another tenant", request{method: http.MethodPost, path: "/rest/v1/projects", header: as(acme.Token), body: `{"name":"x","tenant_id":"` + globex.ID.String() + `"}`}, 403, []string{"42501"}, nil},
		{"a path that climbs", request{path: "/rest/v1/../../admin/v1/tenants", header: as(acme.Token)}, 404, nil, []string{"globex"}},
		{"the admin API on the public listener", request{path: "/admin/v1/tenants", header: as(p.OperatorToken)}, 404, nil, []string{"globex"}},
		{"metrics on the public listener", request{path: "/metrics"}, 404, nil, []string{"go_goroutines"}},
		{"who am I", request{path: "/tenant/v1/session", header: as(acme.Token)}, 200, []string{`"acme"`, `"authenticated"`}, []string{"globex", "rh_"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := p.do(t, c.request)
			if got.status != c.status {
				t.Fatalf("status %d, want %d: %s", got.status, c.status, got.body)
			}
			for _, part := range c.has {
				if !strings.Contains(got.body, part) {
					t.Errorf("%s is not in %s", part, got.body)
				}
			}
			for _, part := range c.never {
				if strings.Contains(got.body, part) || strings.Contains(fmt.Sprint(got.header), part) {
					t.Errorf("%s is in %s", part, got.body)
				}
			}
			if got.header.Get("X-Request-Id") == "" {
				t.Error("no X-Request-Id")
			}
			if got.status >= 400 && !strings.HasPrefix(c.path, "/admin") && got.body != "" {
				var four map[string]any
				if err := json.Unmarshal([]byte(got.body), &four); err != nil || len(four) != 4 {
					t.Errorf("no four-key body: %s", got.body)
				}
			}
		})
	}
	unknown := p.do(t, request{path: "/rest/v1/projects", header: with(as(acme.Token), "X-Tenant", "nosuch", "X-Request-Id", "same")})
	foreign := p.do(t, request{path: "/rest/v1/projects", header: with(as(acme.Token), "X-Tenant", "globex", "X-Request-Id", "same")})
	unknown.header.Del("Date")
	foreign.header.Del("Date")
	if unknown.body != foreign.body || fmt.Sprint(unknown.header) != fmt.Sprint(foreign.header) {
		t.Errorf("an unknown tenant and a foreign one can be told apart:\n%v %s\n%v %s", unknown.header, unknown.body, foreign.header, foreign.body)
	}
}

func devForeignRow(t *testing.T, p *process, acme, globex devTenant) {
	first := func(tenant devTenant) string {
		got := p.do(t, request{path: "/rest/v1/projects?select=id&limit=1&order=name", header: as(tenant.Token)})
		var rows []struct{ ID string }
		if err := json.Unmarshal([]byte(got.body), &rows); err != nil || len(rows) != 1 {
			t.Fatalf("%s: %v", got.body, err)
		}
		return rows[0].ID
	}
	own, foreign := first(acme), first(globex)
	got := p.do(t, request{
		method: http.MethodPatch, path: fmt.Sprintf("/rest/v1/projects?id=in.(%s,%s)&select=id", own, foreign), body: `{"labels":{"mark":7}}`,
		header: map[string]string{"Authorization": "Bearer " + acme.Token, "Prefer": "return=representation"},
	})
	if got.status != 200 || got.body != fmt.Sprintf(`[{"id":"%s"}]`, own) {
		t.Fatalf("%d %s, want only %s", got.status, got.body, own)
	}
	if got := p.do(t, request{path: "/rest/v1/projects?labels-%3E%3Emark=eq.7", header: as(globex.Token)}); got.body != "[]" {
		t.Errorf("globex: %s", got.body)
	}
}

// needPackage skips a test whose npm package is not installed, but not in CI.
func needPackage(t *testing.T, name string) {
	t.Helper()
	if _, err := os.Stat(filepath.Join("testdata/clients/node_modules", name)); err != nil {
		if os.Getenv("CI") != "" {
			t.Fatalf("testdata/clients has no %s: .ci/setup test installs it", name)
		}
		t.Skipf("testdata/clients has no %s: run npm ci there", name)
	}
}

// devGeneratedClient generates a client from the description that is served, has the compiler check a program against it,
// and runs that program.
func devGeneratedClient(t *testing.T, p *process) {
	needPackage(t, "openapi-typescript")
	dir := t.TempDir()
	packages, err := filepath.Abs("testdata/clients/node_modules")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(packages, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"admin.ts", "tsconfig.json", "package.json"} {
		text, err := os.ReadFile(filepath.Join("testdata/clients", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	for _, command := range [][]string{
		{"node_modules/openapi-typescript/bin/cli.js", p.AdminURL + "/openapi.json", "-o", "schema.d.ts"},
		{"node_modules/typescript/bin/tsc", "-p", "."},
		{"admin.js"},
	} {
		cmd := exec.CommandContext(ctx, "node", command...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "ADMIN_URL="+p.AdminURL, "TOKEN="+p.OperatorToken)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%s: %v\n%s", command[0], err, out)
		}
	}
}

func devClient(t *testing.T, p *process, acme, initech devTenant) {
	needPackage(t, "@supabase/postgrest-js")
	for _, pair := range [][2]devTenant{{acme, initech}, {initech, acme}} {
		t.Run(pair[0].Name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "node", "--test", "postgrest.mjs")
			cmd.Dir = "testdata/clients"
			cmd.Env = append(os.Environ(), "URL="+p.DataURL, "TENANT="+pair[0].Name, "FOREIGN="+pair[1].Name, "TOKEN="+pair[0].Token, "ANON_TOKEN="+pair[0].AnonToken)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

func devCommand(t *testing.T, p *process) {
	for _, c := range []struct {
		name   string
		args   []string
		code   int
		stdout string
		stderr string
	}{
		{"tenants by name", []string{"tenant", "list", "-o", "name"}, 0, "acme\nglobex\ninitech\n", ""},
		{"one tenant", []string{"tenant", "get", "acme", "-o", "json"}, 0, `"placement": "shared"`, ""},
		{"an unknown tenant", []string{"tenant", "get", "nosuch"}, 4, "", "not found"},
		{"a misspelt verb", []string{"tenant", "lst"}, 2, "", `no verb "lst"`},
		{"a missing name", []string{"tenant", "create"}, 2, "", "NAME"},
		{"an unknown flag", []string{"tenant", "list", "--nope"}, 2, "", "nope"},
		{"an unknown command", []string{"tenannt"}, 2, "", "tenannt"},
		{"an unknown form", []string{"tenant", "list", "-o", "xml"}, 2, "", "-o must be"},
		{"a name in upper case", []string{"tenant", "create", "Hooli"}, 1, "", `did you mean "hooli"`},
		{"a reserved name", []string{"tenant", "create", "www"}, 1, "", "reserved"},
		{"a name in use", []string{"tenant", "create", "acme"}, 1, "", "already exists"},
		{"a placement that is none", []string{"tenant", "create", "hooli", "--placement", "both"}, 1, "", "shared or dedicated"},
		{"--wait without its equals sign", []string{"tenant", "create", "hooli", "--wait", "30s"}, 2, "", "--wait=30s"},
		{"a shared tenant", []string{"tenant", "create", "hooli", "--wait", "-o", "json"}, 0, `"state": "done"`, ""},
		{"its operations", []string{"op", "list", "--tenant", "hooli", "-o", "json"}, 0, `"kind": "tenant.provision"`, ""},
		{"an operation that is none", []string{"op", "get", "1"}, 2, "", "36 characters"},
		{"a token of a tenant", []string{"token", "create", "--tenant", "acme", "-o", "name"}, 0, "eyJ", ""},
		{"a token of nobody", []string{"token", "create"}, 2, "", "--tenant or --operator"},
		{"a token of an unknown tenant", []string{"token", "create", "--tenant", "nosuch"}, 4, "", "not found"},
		{"migrations", []string{"migrate", "status", "--exit-code", "-o", "json"}, 0, `"current": true`, ""},
		{"a migrations folder that is none", []string{"migrate", "up", "nowhere"}, 2, "", "nowhere"},
		{"servers", []string{"server", "list", "-o", "name"}, 0, "local\n", ""},
		{"a server with a key that is not allowed", []string{"server", "add", "x", "--dsn", "postgres://u:RHCANARY@127.0.0.1/db?options=-c%20x"}, 1, "", `"options"`},
		{"the audit trail", []string{"audit", "list", "--tenant", "hooli", "-o", "json"}, 0, "tenant.create", ""},
		{"a setting that is none", []string{"setting", "set", "rest.max_row", "1"}, 4, "", `not known; did you mean "rest.max_rows"?`},
		{"a setting that nobody knows", []string{"setting", "get", "nosuch"}, 4, "", `setting "nosuch" is not known`},
		{"a setting that nobody set", []string{"setting", "get", "rest.max_rows", "--tenant", "acme"}, 4, "", `setting "rest.max_rows" is not set for tenant "acme"`},
		{"what can be set", []string{"setting", "list", "--known", "-o", "name"}, 0, "rest.max_rows\n", ""},
		{"a token that nobody has", []string{"token", "revoke", "nosuch", "--yes"}, 4, "", "not found"},
		{"a token, without being asked", []string{"token", "revoke", "nosuch"}, 2, "", "needs --yes"},
		{"a server, without being asked", []string{"server", "remove", "local"}, 2, "", "needs --yes"},
		{"a host name, without being asked", []string{"domain", "remove", "x.example", "--tenant", "acme"}, 2, "", "needs --yes"},
		{"an unknown server", []string{"server", "get", "nosuch"}, 4, "", `server "nosuch": not found`},
		{"an unknown database", []string{"database", "get", "nosuch"}, 4, "", `database "nosuch": not found`},
		{"an unknown operation", []string{"op", "watch", "0199a1b2-c3d4-7e5f-8a9b-0c1d2e3f4a5b"}, 4, "", "not found"},
		{"a flag that is nearly one", []string{"tenant", "list", "--outptu", "json"}, 2, "", "did you mean --output?"},
		{"a verb before its noun", []string{"get", "tenants"}, 2, "", "the noun comes first"},
		{"a plural", []string{"tenants", "get", "acme", "-o", "name"}, 0, "acme\n", ""},
		{"names for a shell", []string{"__complete", "tenant", "get", "gl"}, 0, "globex\n", ""},
		{"names for a shell after a flag", []string{"__complete", "op", "list", "--tenant", "init"}, 0, "initech\n", ""},
		{"names for a shell where one is made", []string{"__complete", "tenant", "create", "a"}, 0, ":4", ""},
		{"a configuration that is none", []string{"config", "check", "--config", "/nosuch.yaml"}, 78, "", "nosuch.yaml"},
		{"a time that is none", []string{"audit", "list", "--since", "yesterday"}, 2, "", "--since"},
		{"a setting of another type", []string{"setting", "set", "rest.max_rows", "many"}, 1, "", "number of rows"},
		{"a schema that is never exposed", []string{"setting", "set", "rest.schemas", `["rowhouse"]`, "--tenant", "acme"}, 1, "", "schema names"},
		{"no schema at all", []string{"setting", "set", "rest.schemas", "[]", "--tenant", "acme"}, 1, "", "schema names"},
		{"a role that no token may have", []string{"token", "create", "--tenant", "acme", "--role", "postgres"}, 2, "", "--role must be one of"},
		{"a permission that there is not", []string{"token", "create", "--operator", "--permission", "nosuch"}, 1, "", "is not known"},
		{"the running dev is healthy", []string{"healthcheck"}, 0, "", ""},
		{"a server that is not there", []string{"server", "add", "x", "--dsn", "postgres://u:RHCANARY@127.0.0.1:1/postgres"}, 1, "", "finds nobody there"},
		{"a password with an @ that is not encoded", []string{"server", "add", "x", "--dsn", "postgres://u:pw@RHCANARY@127.0.0.1/postgres"}, 1, "", "host is no name"},
		{"a server that holds databases", []string{"server", "remove", "local", "--yes"}, 1, "", "holds databases"},
		{"the catalog", []string{"catalog", "check"}, 0, "", "sound"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := p.rowhouse(t, c.args...)
			if code != c.code || !strings.Contains(stdout, c.stdout) || !strings.Contains(stderr, c.stderr) {
				t.Errorf("%v: exit %d, want %d\nstdout %s\nstderr %s", c.args, code, c.code, stdout, stderr)
			}
			if strings.Contains(stdout+stderr, "RHCANARY") {
				t.Errorf("a secret: %s%s", stdout, stderr)
			}
		})
	}
	t.Run("every listing has every form, near and far", func(t *testing.T) { devForms(t, p) })
	t.Run("the same verbs through the admin API", func(t *testing.T) {
		env := []string{"ROWHOUSE_ADMIN_URL=" + p.AdminURL, "ROWHOUSE_TOKEN=" + p.OperatorToken}
		code, stdout, stderr := runIn(t, t.TempDir(), env, "tenant", "list", "-o", "name")
		if code != 0 || !strings.Contains(stdout, "acme\n") {
			t.Errorf("exit %d: %s%s", code, stdout, stderr)
		}
		code, stdout, stderr = runIn(t, t.TempDir(), env, "tenant", "create", "far", "--wait=1m", "-o", "json")
		if code != 0 || !strings.Contains(stdout, `"state": "done"`) {
			t.Errorf("exit %d: %s%s", code, stdout, stderr)
		}
		code, _, stderr = runIn(t, t.TempDir(), []string{"ROWHOUSE_ADMIN_URL=" + p.AdminURL, "ROWHOUSE_TOKEN=rhop_no_such_token"}, "tenant", "list")
		if code != 1 || !strings.Contains(stderr, "token") || strings.Contains(stderr, "no_such_token") {
			t.Errorf("a wrong token: exit %d: %s", code, stderr)
		}
	})
	t.Run("a host name of its own, and a certificate for it", func(t *testing.T) {
		acme := p.tenant(t, "acme")
		ask := func() int {
			resp, err := http.Get(p.AdminURL + "/tls/ask?domain=shop.acme.example")
			if err != nil {
				t.Fatal(err)
			}
			_ = resp.Body.Close()
			return resp.StatusCode
		}
		if ask() != 404 {
			t.Error("a certificate for nobody's host")
		}
		if code, _, stderr := p.rowhouse(t, "domain", "add", "shop.acme.example", "--tenant", "acme"); code != 0 {
			t.Fatal(stderr)
		}
		for deadline := time.Now().Add(3 * time.Second); ask() != 200; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatal("no certificate for its host")
			}
		}
		if got := p.do(t, request{path: "/rest/v1/projects", host: "Shop.acme.example:443", header: as(acme.Token)}); got.status != 200 {
			t.Errorf("%d %s", got.status, got.body)
		}
		if got := p.do(t, request{path: "/rest/v1/projects", host: "shop.acme.example", header: as(p.tenant(t, "globex").Token)}); got.status != 403 {
			t.Errorf("another's token: %d %s", got.status, got.body)
		}
	})
	t.Run("suspended within seconds, and served again", func(t *testing.T) {
		acme := p.tenant(t, "acme")
		if code, _, stderr := p.rowhouse(t, "tenant", "suspend", "acme", "--reason", "test"); code != 0 {
			t.Fatal(stderr)
		}
		until := func(status int) {
			deadline := time.Now().Add(3 * time.Second)
			for got := p.do(t, request{path: "/rest/v1/projects", header: as(acme.Token)}); got.status != status; got = p.do(t, request{path: "/rest/v1/projects", header: as(acme.Token)}) {
				if time.Now().After(deadline) {
					t.Fatalf("still %d: %s", got.status, got.body)
				}
				time.Sleep(10 * time.Millisecond)
			}
		}
		until(403)
		if code, _, stderr := p.rowhouse(t, "tenant", "resume", "acme"); code != 0 {
			t.Fatal(stderr)
		}
		until(200)
	})
}

// A database that the catalog knows at a version that is not served is being upgraded: its tenants wait, nobody else does.
func devVersionGate(t *testing.T, p *process, acme, initech devTenant) {
	conn, err := pgx.Connect(t.Context(), p.CatalogURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	move := func(by int) {
		err := pgx.BeginFunc(t.Context(), conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), `insert into rowhouse.audit_events (action, side, actor) values ('test', 'system', 'test')`); err != nil {
				return err
			}
			_, err := tx.Exec(t.Context(), `
				update rowhouse.databases set schema_version = schema_version + $1
				 where id = (select database from rowhouse.tenants where name = 'initech')`, by)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	get := func(tenant devTenant) answer {
		return p.do(t, request{path: "/rest/v1/projects?limit=1", header: as(tenant.Token)})
	}
	move(1)
	eventually(t, func() bool { return get(initech).status == 503 })
	if got := get(initech); !strings.Contains(got.body, "tenant_upgrading") || got.header.Get("Retry-After") == "" {
		t.Errorf("%d %s %v", got.status, got.body, got.header)
	}
	if got := get(acme); got.status != 200 {
		t.Errorf("a bystander: %d %s", got.status, got.body)
	}
	move(-1)
	eventually(t, func() bool { return get(initech).status == 200 })
}

func devDoors(t *testing.T, p *process, acme devTenant) {
	get := func(url, token string) (int, string) {
		req, err := http.NewRequest(http.MethodGet, url, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			req.Header.Set("Authorization", "Bearer "+token)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	for _, base := range []string{p.DataURL, p.AdminURL} {
		for _, path := range []string{"/livez", "/readyz"} {
			if status, body := get(base+path, ""); status != 200 {
				t.Errorf("%s%s: %d %s", base, path, status, body)
			}
		}
	}
	for _, c := range []struct {
		path, token string
		status      int
	}{
		{"/admin/v1/tenants", "", 401},
		{"/admin/v1/tenants", acme.Token, 401},
		{"/admin/v1/tenants", p.OperatorToken, 200},
		{"/openapi.json", "", 200},
		{"/console/", "", 200},
		{"/metrics", "", 200},
		{"/rest/v1/projects", acme.Token, 404},
	} {
		if status, body := get(p.AdminURL+c.path, c.token); status != c.status {
			t.Errorf("%s: %d, want %d: %.200s", c.path, status, c.status, body)
		}
	}
}

// A second run goes on with the same data.
func TestDev_again(t *testing.T) {
	t.Parallel()
	dir := devData(t)
	first := startDev(t, dir)
	acme := first.tenant(t, "acme")
	if got := first.do(t, request{method: http.MethodPost, path: "/rest/v1/projects", header: as(acme.Token), body: `{"name":"kept"}`}); got.status != 201 {
		t.Fatal(got)
	}
	first.kill() // and PostgreSQL with it, by the death of its parent
	began := time.Now()
	second := startDev(t, dir)
	t.Logf("second start after a kill: %v", time.Since(began))
	got := second.do(t, request{path: "/rest/v1/projects?name=eq.kept&select=name", header: as(acme.Token)})
	if got.body != `[{"name":"kept"}]` {
		t.Errorf("%d %s", got.status, got.body)
	}
	if second.tenant(t, "acme").ID != acme.ID {
		t.Error("acme is another tenant")
	}
	if code := second.stop(t); code != 0 {
		t.Errorf("exit code %d: %s", code, second.stderr)
	}
}

// Killed while a dedicated tenant is being made: after a restart the operation finishes, and exactly one database, one
// set of roles and one active row stand.
func TestDev_killedWhileProvisioning(t *testing.T) {
	t.Parallel()
	dir := devData(t)
	startDev(t, dir).stop(t)
	for i, point := range []string{"provision.placed.after", "provision.roles.after", "provision.database.after", "provision.owned.before", "provision.verified.after", "provision.active.before"} {
		t.Run(point, func(t *testing.T) {
			name := fmt.Sprintf("victim%d", i)
			p := startDev(t, dir, "ROWHOUSE_FAILPOINT="+point+"=kill9")
			if code, _, stderr := p.rowhouse(t, "tenant", "create", name, "--placement", "dedicated"); code != 0 {
				t.Fatal(stderr)
			}
			if !p.wait(60 * time.Second) {
				t.Fatalf("dev was not killed at %s: %s", point, p.stderr)
			}
			again := startDev(t, dir)
			defer again.stop(t)
			code, stdout, stderr := again.rowhouse(t, "op", "list", "--tenant", name, "-o", "name")
			id := strings.TrimSpace(stdout)
			if code != 0 || len(id) != 36 {
				t.Fatalf("operations of %s: %q %s", name, stdout, stderr)
			}
			if code, stdout, stderr = again.rowhouse(t, "op", "watch", id, "-o", "json"); code != 0 {
				t.Fatalf("%s%s\n%s", stdout, stderr, again.stderr)
			}
			conn, err := pgx.Connect(t.Context(), again.CatalogURL)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(t.Context())
			var rows, databases, roles int
			err = conn.QueryRow(t.Context(), `
				select (select count(*) from rowhouse.tenants where name = $1 and state = 'active'),
				       (select count(*) from pg_database p join rowhouse.databases d on d.name = p.datname join rowhouse.tenants t on t.database = d.id where t.name = $1),
				       (select count(*) from pg_roles r join rowhouse.tenants t on t.name = $1
				         where r.rolname in ('rh_' || replace(t.database::text, '-', '') || '_o', 'rh_' || replace(t.database::text, '-', '') || '_a'))`, name).Scan(&rows, &databases, &roles)
			if err != nil || rows != 1 || databases != 1 || roles != 2 {
				t.Errorf("%d active rows, %d databases, %d roles, %v", rows, databases, roles, err)
			}
			var stray int
			err = conn.QueryRow(t.Context(), `
				select count(*) from pg_database where datname like 'rh\_%' and datname not like 'rh\_tpl%'
				   and datname not in (select name from rowhouse.databases)`).Scan(&stray)
			if err != nil || stray != 0 {
				t.Errorf("%d databases that the catalog does not know, %v", stray, err)
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, content string, mode os.FileMode) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		return file
	}
	bad := write("bad.yaml", `listen: ":1"
router:
  max_pool: 5
  max_pools: lots
  idle_timeout: 60
tenancy:
  resolve:
    order: [token, karma]
    domains: ["{tenant}.{tenant}.example.com"]
auth:
  jwt_secret: RHCANARY-short
rest: { schemas: [rowhouse] }
`, 0o600)
	for _, c := range []struct {
		name string
		env  []string
		args []string
		code int
		has  []string
	}{
		{"all that is wrong in a file, at once", nil, []string{"config", "check", "--config", bad}, 78, []string{
			"bad.yaml:3: router.max_pool: is not known; did you mean router.max_pools?", "bad.yaml:4: router.max_pools: want a whole number", "bad.yaml:5: router.idle_timeout: want a duration with a unit",
		}},
		{"a variable that is not known", []string{"ROWHOUSE_LISTN=:1"}, []string{"config", "check"}, 78, []string{"ROWHOUSE_LISTN: is not known; did you mean ROWHOUSE_LISTEN?"}},
		{"an empty variable switches nothing off", []string{"ROWHOUSE_AUTH_REQUIRE_EXP=", "ROWHOUSE_REST_MAX_BODY="}, []string{"config", "check"}, 78, []string{"auth.require_exp: want true or false", "rest.max_body: want a size"}},
		{"no header to look at", []string{"ROWHOUSE_TENANCY_RESOLVE_HEADER="}, []string{"config", "check"}, 78, []string{"tenancy.resolve.header: is empty"}},
		{"a system schema among others that are wrong", []string{"ROWHOUSE_REST_SCHEMAS=pg_catalog", "ROWHOUSE_ROUTER_MAX_POOLS=x"}, []string{"config", "check"}, 78, []string{`"pg_catalog" can never be exposed`, "router.max_pools: want"}},
		{"what needs the catalog does not turn to another rowhouse", []string{"ROWHOUSE_ADMIN_URL=http://127.0.0.1:1"}, []string{"migrate", "lint", "--database", "acme"}, 2, []string{"needs the catalog itself"}},
		{"variables that an orchestrator sets, and those of secrets", []string{"ROWHOUSE_SERVICE_HOST=10.0.0.1", "ROWHOUSE_PORT=tcp://10.0.0.1:80", "ROWHOUSE_PORT_80_TCP=x", "ROWHOUSE_SECRET_ACME=x"}, []string{"config", "check"}, 0, nil},
		{"two listeners on one port", []string{"ROWHOUSE_LISTEN=127.0.0.1:81", "ROWHOUSE_ADMIN_LISTEN=127.0.0.1:81"}, []string{"config", "check"}, 78, []string{"admin.listen: is the same as listen"}},
		{"a keyset that others can read", []string{"ROWHOUSE_CATALOG_KEYS=" + write("keys.json", "{}", 0o644)}, []string{"config", "check"}, 78, []string{"can be read by others"}},
		{"a secret out of a file, never shown", []string{"ROWHOUSE_AUTH_JWT_SECRET_FILE=" + write("jwt", "RHCANARY-0123456789012345678901234\n", 0o600)}, []string{"config", "show"}, 0, []string{"[redacted]", "ROWHOUSE_AUTH_JWT_SECRET_FILE"}},
		{"a short secret is refused without being shown", []string{"ROWHOUSE_AUTH_JWT_SECRET=RHCANARY"}, []string{"config", "check"}, 78, []string{"auth.jwt_secret: is shorter than 32 bytes"}},
		{"serve without a catalog", nil, []string{"serve"}, 78, []string{"catalog.url: is needed"}},
		{"serve without keys", []string{"ROWHOUSE_CATALOG_URL=postgres://u@127.0.0.1:1/x"}, []string{"serve"}, 78, []string{"catalog.keys: is needed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, stdout, stderr := runIn(t, dir, c.env, c.args...)
			if code != c.code {
				t.Errorf("exit %d, want %d: %s", code, c.code, stderr)
			}
			for _, part := range c.has {
				if !strings.Contains(stdout+stderr, part) {
					t.Errorf("%q is not in %s%s", part, stdout, stderr)
				}
			}
			if strings.Contains(stdout+stderr, "RHCANARY") {
				t.Errorf("a secret: %s%s", stdout, stderr)
			}
		})
	}
}

// devForms asks every listing and getter in every form, near and far: the same keys and the same names.
func devForms(t *testing.T, p *process) {
	env := []string{"ROWHOUSE_ADMIN_URL=" + p.AdminURL, "ROWHOUSE_TOKEN=" + p.OperatorToken}
	for _, args := range [][]string{
		{"tenant", "list"},
		{"tenant", "get", "acme"},
		{"server", "list"},
		{"server", "get", "local"},
		{"database", "list"},
		{"op", "list"},
		{"setting", "list"},
		{"token", "list"},
		{"domain", "list"},
		{"audit", "list", "--tenant", "acme"},
	} {
		var keys [2]string
		for i, run := range []func(args ...string) (int, string, string){
			func(args ...string) (int, string, string) { return p.rowhouse(t, args...) },
			func(args ...string) (int, string, string) { return runIn(t, t.TempDir(), env, args...) },
		} {
			form := func(output string) string {
				code, stdout, stderr := run(append(args, "-o", output)...)
				if code != 0 {
					t.Fatalf("%v -o %s: exit %d: %s", args, output, code, stderr)
				}
				return stdout
			}
			var plain, sameInYAML any
			if err := json.Unmarshal([]byte(form("json")), &plain); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			if err := yaml.Unmarshal([]byte(form("yaml")), &sameInYAML); err != nil {
				t.Fatalf("%v: %v", args, err)
			}
			all, isList := plain.([]any)
			if !isList {
				all = []any{plain}
			}
			if n := strings.Count(form("name"), "\n"); n != len(all) {
				t.Errorf("%v: %d names of %d", args, n, len(all))
			}
			if table := form("table"); len(all) > 0 && strings.Count(table, "\n") < len(all)+1 {
				t.Errorf("%v: no header and a line each: %s", args, table)
			}
			if fromYAML, ok := sameInYAML.([]any); ok != isList || ok && len(fromYAML) != len(all) {
				t.Errorf("%v: YAML and JSON differ", args)
			}
			for _, row := range all {
				keys[i] = fmt.Sprint(slices.Sorted(maps.Keys(row.(map[string]any))))
				break
			}
		}
		if keys[0] != keys[1] {
			t.Errorf("%v: near has %s, far has %s", args, keys[0], keys[1])
		}
	}
}

// devTrail looks for a request in its tenant's own trail, and for what must not be in it.
func devTrail(t *testing.T, p *process, acme, globex devTenant) {
	service := func(tenant string) map[string]string {
		code, token, stderr := p.rowhouse(t, "token", "create", "--tenant", tenant, "--role", "service_role", "--subject", "auditor", "-o", "name")
		if code != 0 {
			t.Fatal(stderr)
		}
		return as(strings.TrimSpace(token))
	}
	auditor := service("acme")
	header := map[string]string{"Authorization": "Bearer " + acme.Token, "X-Request-Id": "trail-1", "User-Agent": "trailblazer"}
	if got := p.do(t, request{method: http.MethodPatch, path: "/rest/v1/projects?name=eq.RHCANARY", body: `{"status":"RHCANARY"}`, header: header}); got.status >= 300 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	header["X-Request-Id"] = "trail-2"
	if got := p.do(t, request{path: "/rest/v1/projects?limit=1", header: header}); got.status != 200 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	header["X-Request-Id"] = "trail-3"
	if got := p.do(t, request{method: http.MethodPost, path: "/rest/v1/nosuch", body: `{}`, header: header}); got.status != 404 {
		t.Fatalf("%d %s", got.status, got.body)
	}
	var trail string
	for deadline := time.Now().Add(time.Minute); !strings.Contains(trail, `"trail-3"`); {
		if time.Now().After(deadline) {
			t.Fatalf("the request is not in the trail: %s", trail)
		}
		time.Sleep(50 * time.Millisecond)
		got := p.do(t, request{path: "/tenant/v1/audit?kind=request", header: auditor})
		if got.status != 200 {
			t.Fatalf("%d %s", got.status, got.body)
		}
		trail = got.body
	}
	for _, has := range []string{`"action":"PATCH","target":"/rest/v1/projects"`, `"request_id":"trail-1"`, `"agent":"trailblazer"`, `"address":"127.0.0.1"`, `"status":204`, `"code":"PGRST205"`} {
		if !strings.Contains(trail, has) {
			t.Errorf("no %s in %s", has, trail)
		}
	}
	for _, never := range []string{"RHCANARY", "trail-2", acme.Token} { // neither values, nor what only reads, nor secrets
		if strings.Contains(trail, never) {
			t.Errorf("%s is in %s", never, trail)
		}
	}
	if got := p.do(t, request{path: "/tenant/v1/audit", header: service("globex")}); got.status != 200 || strings.Contains(got.body, "trail-") {
		t.Errorf("globex sees %d %s", got.status, got.body)
	}
	for name, c := range map[string]struct {
		path   string
		header map[string]string
		status int
		code   string
	}{
		"a user without the permission": {"/tenant/v1/audit", as(acme.Token), 403, "permission_denied"},
		"nobody":                        {"/tenant/v1/audit", as(globex.AnonToken), 403, "permission_denied"},
		"a cursor that is none":         {"/tenant/v1/audit?cursor=RHCANARY", auditor, 400, "query_invalid"},
		"a parameter that is none":      {"/tenant/v1/audit?limt=3", auditor, 400, "query_invalid"},
		"a time that is none":           {"/tenant/v1/audit?since=RHCANARY", auditor, 400, "query_invalid"},
	} {
		got := p.do(t, request{path: c.path, header: c.header})
		if got.status != c.status || !strings.Contains(got.body, `"code":"`+c.code+`"`) || strings.Contains(got.body, "RHCANARY") {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
	page := p.do(t, request{path: "/tenant/v1/audit?limit=1&kind=request", header: auditor})
	next, ok := strings.CutSuffix(strings.TrimPrefix(page.header.Get("Link"), "<"), `>; rel="next"`)
	if !ok {
		t.Fatalf("no next page: %v", page.header)
	}
	second := p.do(t, request{path: next, header: auditor})
	if second.status != 200 || strings.Contains(second.body, "trail-3") || !strings.Contains(second.body, "trail-1") {
		t.Errorf("the second page is %d %s", second.status, second.body)
	}
	asLines := maps.Clone(auditor)
	asLines["Accept"] = "application/x-ndjson"
	lines := p.do(t, request{path: "/tenant/v1/audit?kind=request", header: asLines})
	if got := lines.header.Get("Content-Type"); got != "application/x-ndjson" || !strings.HasPrefix(lines.body, `{"at":`) {
		t.Errorf("%s: %s", got, lines.body)
	}
}
