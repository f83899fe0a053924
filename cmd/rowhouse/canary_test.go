package main

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
)

// No secret appears in anything that the program says: what commands print and complain, what the control plane answers,
// the log, the audit trail, exports. The secrets are those that operators gave and those that rowhouse made itself.
func TestCanary(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes many commands")
	}
	t.Parallel()
	p := startDev(t, devData(t))
	const canary = "canary-4f1d9c-do-not-print"
	secrets := map[string]string{"what an operator gave": canary}
	said := map[string]string{} // by what was done
	run := func(args ...string) int {
		t.Helper()
		code, stdout, stderr := p.rowhouse(t, args...)
		said[strings.Join(args, " ")] = stdout + stderr
		return code
	}
	must := func(args ...string) {
		t.Helper()
		if code := run(args...); code != exitOK {
			t.Fatalf("%v ended with %d: %s", args, code, said[strings.Join(args, " ")])
		}
	}
	fails := func(args ...string) {
		t.Helper()
		if code := run(args...); code == exitOK {
			t.Fatalf("%v succeeded", args)
		}
	}
	give := func(flag string) string { // a secret on the command line would be in its own title, not in what it says
		file := filepath.Join(t.TempDir(), "secret")
		if err := os.WriteFile(file, []byte(flag), 0o600); err != nil {
			t.Fatal(err)
		}
		return "@" + file
	}

	must("setting", "set", "auth.jwt_secret", canary+canary, "--tenant", "acme")
	fails("setting", "set", "auth.jwt_secret", canary, "--tenant", "acme") // too short
	socket := p.dir + "/run"
	for name, dsn := range map[string]string{
		"nobody":  "host=127.0.0.1 port=1 user=p password=" + canary + " dbname=postgres",
		"refused": fmt.Sprintf("host=%s port=5432 user=nobody password=%s dbname=postgres", socket, canary),
		"options": "host=127.0.0.1 port=1 user=p password=" + canary + " dbname=postgres options=-crole=" + canary,
		"broken":  "postgres://p:" + canary + "@127.0.0.1:notaport/postgres",
		"url":     "postgres://p:" + canary + "@127.0.0.1:1/postgres?sslrootcert=" + canary,
	} {
		fails("server", "add", name, "--dsn", give(dsn))
		fails("tenant", "adopt", name, "--dsn", give(dsn))
	}
	must("setting", "list", "--tenant", "acme", "-o", "json")
	must("tenant", "suspend", "initech", "--now", "--reason", "unpaid")
	must("tenant", "resume", "initech")
	out := filepath.Join(t.TempDir(), "export.zip")
	must("tenant", "export", "acme", "--out", out)
	must("tenant", "import", out, "--name", "copy", "--placement", "dedicated", "--wait")
	must("tenant", "delete", "copy", "--yes", "--wait")
	must("tenant", "undelete", "copy", "--wait")
	must("tenant", "delete", "copy", "--no-export", "--grace", "0s", "--yes", "--wait")
	for name, secret := range p.secrets(t) {
		secrets[name] = secret
	}
	must("catalog", "rekey")
	for name, secret := range p.secrets(t) {
		secrets[name] = secret
	}
	for _, args := range [][]string{
		{"tenant", "list"},
		{"tenant", "get", "acme"},
		{"server", "list"},
		{"server", "get", "local"},
		{"op", "list"},
		{"audit", "list", "--limit", "500"},
		{"audit", "verify"},
		{"token", "list"},
		{"setting", "list"},
		{"edition", "list"},
		{"limit", "list", "--tenant", "acme"},
	} {
		must(append(args, "-o", "json")...)
		must(args...)
	}
	run("config", "show")
	for _, path := range []string{"/openapi.json", "/metrics", "/admin/v1/servers", "/admin/v1/audit?limit=1000", "/admin/v1/settings?tenant=acme", "/admin/v1/operations", "/admin/v1/tokens", "/admin/v1/stats"} {
		req, err := http.NewRequest(http.MethodGet, p.AdminURL+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+p.OperatorToken)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s answers %d, %v: %s", path, resp.StatusCode, err, body)
		}
		said["GET "+path] = string(body)
	}
	said["the export"] = unzipped(t, out)
	if code := p.stop(t); code != exitOK {
		t.Errorf("dev ended with %d", code)
	}
	said["the log"] = p.stderr.String()
	secrets["the operator's token"] = p.OperatorToken

	if len(secrets) < 8 { // the canary, the token, the provisioner, the migrator, two databases, two secrets for tokens
		t.Fatalf("only %d secrets are looked for", len(secrets))
	}
	for what, text := range said {
		for whose, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%q tells the secret of %s", what, whose)
			}
		}
	}
}

// secrets are those that rowhouse keeps for itself: the passwords of its roles and the secret of everybody's tokens.
func (p *process) secrets(t *testing.T) map[string]string {
	t.Helper()
	keys, err := keyring.Open(devFile(p.dir, keysFile))
	if err != nil {
		t.Fatal(err)
	}
	cat, err := catalog.Open(t.Context(), p.CatalogURL, catalog.Config{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	defer cat.Close()
	found := map[string]string{}
	note := func(whose string, server catalog.ServerID, database catalog.DatabaseID, login catalog.Login) {
		if cr, err := cat.Credential(t.Context(), server, database, login); err == nil && !cr.Secret.IsZero() {
			found[whose] = cr.Secret.Reveal()
		}
	}
	for s, err := range cat.Servers(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		note("the provisioner", s.ID, catalog.DatabaseID{}, catalog.LoginProvisioner)
		note("the migrator", s.ID, catalog.DatabaseID{}, catalog.LoginMigrator)
	}
	for d, err := range cat.Databases(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		note("database "+d.ID.String(), d.Server, d.ID, catalog.LoginData)
	}
	text, err := os.ReadFile(devFile(p.dir, jwtSecretFile))
	if err != nil {
		t.Fatal(err)
	}
	found["everybody's tokens"] = strings.TrimSpace(string(text))
	return found
}

// unzipped is all text of an archive and of the files in it.
func unzipped(t *testing.T, file string) string {
	t.Helper()
	z, err := zip.OpenReader(file)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	var all bytes.Buffer
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		var text io.Reader = r
		if strings.HasSuffix(f.Name, ".gz") {
			if text, err = gzip.NewReader(r); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := all.ReadFrom(text); err != nil {
			t.Fatal(err)
		}
	}
	return all.String()
}
