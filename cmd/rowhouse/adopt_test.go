package main

import (
	"context"
	"encoding/base64"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/jackc/pgx/v5"
)

// legacy is a database that somebody else made, with its own roles and schema.
const legacy = `
create role legacy_login login noinherit password 'RHCANARY-legacy';
create role legacy_anon; create role legacy_user; create role legacy_other;
grant legacy_anon, legacy_user to legacy_login;
create schema api;
create table api.todos (id int primary key, task text not null);
insert into api.todos values (1, 'old'), (2, 'older');
grant usage on schema api to legacy_anon, legacy_user;
grant select on api.todos to legacy_anon;
grant all on api.todos to legacy_user;
create function api.whoami() returns text language sql stable as $$ select current_user::text $$;
`

// A database that rowhouse did not make serves as it is: its own schema, roles and secret, and nothing in it is changed.
func devAdopt(t *testing.T, p *process) {
	ctx := t.Context()
	super, err := pgx.Connect(ctx, p.CatalogURL)
	if err != nil {
		t.Fatal(err)
	}
	defer super.Close(context.WithoutCancel(ctx))
	if _, err := super.Exec(ctx, `create database legacy`); err != nil {
		t.Fatal(err)
	}
	url := strings.Replace(p.CatalogURL, "/rowhouse?", "/legacy?", 1)
	owner, err := pgx.Connect(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer owner.Close(context.WithoutCancel(ctx))
	if _, err := owner.Exec(ctx, legacy); err != nil {
		t.Fatal(err)
	}
	objects := func() (n int) {
		if err := owner.QueryRow(ctx, `select (select count(*) from pg_class) + (select count(*) from pg_namespace) + (select count(*) from pg_proc)`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	before := objects()

	dsn := filepath.Join(t.TempDir(), "dsn")
	write := func(text string) {
		if err := os.WriteFile(dsn, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(wantCode int, args ...string) string {
		t.Helper()
		code, stdout, stderr := p.rowhouse(t, args...)
		if code != wantCode || strings.Contains(stdout+stderr, "RHCANARY") {
			t.Fatalf("%v: exit %d, want %d: %s%s", args, code, wantCode, stdout, stderr)
		}
		return stdout + stderr
	}
	write(url)
	if out := run(1, "tenant", "adopt", "legacy", "--dsn", "@"+dsn); !strings.Contains(out, "superuser") {
		t.Errorf("a superuser as login: %s", out)
	}
	write(strings.Replace(url, "rowhouse@", "legacy_login:RHCANARY-legacy@", 1))
	run(0, "tenant", "adopt", "legacy", "--dsn", "@"+dsn)
	if out := run(1, "tenant", "adopt", "twice", "--dsn", "@"+dsn); !strings.Contains(out, "already exists") {
		t.Errorf("one database, two tenants: %s", out)
	}
	write(strings.Replace(strings.Replace(url, "rowhouse@", "legacy_login:RHCANARY-legacy@", 1), "/legacy?", "/rowhouse?", 1))
	run(1, "tenant", "adopt", "catalog-itself", "--dsn", "@"+dsn)

	const secret = "RHCANARY-0123456789-0123456789-legacy"
	run(0, "setting", "set", "rest.schemas", `["api"]`, "--tenant", "legacy")
	run(0, "setting", "set", "rest.anon_role", "legacy_anon", "--tenant", "legacy")
	run(0, "setting", "set", "auth.jwt_secret", secret, "--tenant", "legacy")
	if out := run(0, "setting", "list", "--tenant", "legacy"); !strings.Contains(out, "[redacted]") {
		t.Errorf("settings: %s", out)
	}
	sign := func(claims jwt.MapClaims, key string) string {
		claims["exp"] = time.Now().Add(time.Hour).Unix()
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(key))
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	eventually(t, func() bool {
		return p.do(t, request{path: "/rest/v1/todos", header: map[string]string{"X-Tenant": "legacy"}}).status == 200
	})
	acme := p.tenant(t, "acme")
	for _, c := range []struct {
		name   string
		token  string
		method string
		path   string
		body   string
		status int
		has    string
	}{
		{"anonymous reads", "", "", "/rest/v1/todos?select=task&order=id", "", 200, `[{"task":"old"}, ` + "\n" + ` {"task":"older"}]`},
		{"anonymous writes", "", http.MethodPost, "/rest/v1/todos", `{"id":3,"task":"new"}`, 401, "42501"},
		{"its own token, which names no tenant", sign(jwt.MapClaims{"role": "legacy_user"}, secret), http.MethodPost, "/rest/v1/todos", `{"id":3,"task":"new"}`, 201, ""},
		{"its own role", sign(jwt.MapClaims{"role": "legacy_user"}, secret), "", "/rest/v1/rpc/whoami", "", 200, `"legacy_user"`},
		{"a role that the login may not become", sign(jwt.MapClaims{"role": "legacy_other"}, secret), "", "/rest/v1/todos", "", 401, "22023"},
		{"the superuser", sign(jwt.MapClaims{"role": "rowhouse"}, secret), "", "/rest/v1/todos", "", 401, "22023"},
		{"its secret for another tenant", sign(jwt.MapClaims{"role": "authenticated", "tenant": acme.ID.String()}, secret), "", "/rest/v1/projects", "", 403, ""},
		{"everybody's secret", acme.Token, "", "/rest/v1/todos", "", 403, "tenant_mismatch"},
	} {
		t.Run(c.name, func(t *testing.T) {
			header := map[string]string{"X-Tenant": "legacy"}
			if c.token != "" {
				header["Authorization"] = "Bearer " + c.token
			}
			got := p.do(t, request{method: c.method, path: c.path, header: header, body: c.body})
			if got.status != c.status && !(c.status == 403 && got.status == 401) || !strings.Contains(got.body, c.has) && got.status == c.status {
				t.Errorf("%d %s, want %d %s", got.status, got.body, c.status, c.has)
			}
		})
	}
	// Its keys change, while it runs, from a secret to a file that its issuer writes. Server-Timing says what that costs.
	const filed = "RHCANARY-9876543210-9876543210-legacy"
	keys := filepath.Join(t.TempDir(), "keys.json")
	set := `{"keys":[{"kty":"oct","alg":"HS256","k":"` + base64.RawURLEncoding.EncodeToString([]byte(filed)) + `"}]}`
	if err := os.WriteFile(keys, []byte(set), 0o600); err != nil {
		t.Fatal(err)
	}
	run(0, "setting", "set", "auth.jwks_file", keys, "--tenant", "legacy")
	run(0, "setting", "unset", "auth.jwt_secret", "--tenant", "legacy")
	run(0, "setting", "set", "rest.server_timing", "true", "--tenant", "legacy")
	asked := func(key string) answer {
		token := sign(jwt.MapClaims{"role": "legacy_user"}, key)
		return p.do(t, request{path: "/rest/v1/rpc/whoami", header: map[string]string{"X-Tenant": "legacy", "Authorization": "Bearer " + token}})
	}
	eventually(t, func() bool {
		got := asked(filed)
		return got.status == 200 && strings.HasPrefix(got.header.Get("Server-Timing"), "jwt;dur=") && strings.Contains(got.header.Get("Server-Timing"), ", tenant;dur=")
	})
	eventually(t, func() bool { return asked(secret).status == 401 })

	if after := objects(); after != before {
		t.Errorf("%d objects, were %d", after, before)
	}
	if out := run(0, "migrate", "status", "-o", "json"); strings.Contains(out, `"legacy"`) {
		t.Errorf("an adopted database is in the fleet: %s", out)
	}
}

func eventually(t testing.TB, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it never held")
		}
	}
}
