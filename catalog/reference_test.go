package catalog_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

// A password that stands in a variable or a file is read when a connection is configured, and again for the next one.
func TestSecret_reference(t *testing.T) {
	dir, outside := t.TempDir(), t.TempDir()
	catalog.SetSecretDirs(t, dir)
	write := func(path, text string, mode os.FileMode) {
		t.Helper()
		if err := errors.Join(os.WriteFile(path, []byte(text), 0o600), os.Chmod(path, mode)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "good"), "canary-1\n", 0o640)
	write(filepath.Join(dir, "open"), "canary-2", 0o644)
	write(filepath.Join(dir, "empty"), "\n", 0o600)
	write(filepath.Join(dir, "long"), strings.Repeat("canary", 1000), 0o600)
	write(filepath.Join(outside, "other"), "canary-3", 0o600)
	if err := errors.Join(os.Symlink("good", filepath.Join(dir, "inside")), os.Symlink(filepath.Join(outside, "other"), filepath.Join(dir, "out")),
		syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROWHOUSE_SECRET_ACME", "canary-4")
	t.Setenv("ROWHOUSE_CATALOG_KEYS", "canary-5")

	server := &catalog.Server{Name: "one", Hosts: []string{"127.0.0.1:5432"}, SSLMode: "disable"}
	password := func(reference string) (string, error) {
		cfg, err := server.ConnConfig("app", catalog.Credential{Role: "app", Secret: catalog.NewSecret(reference)})
		if err != nil {
			return "", err
		}
		return cfg.Password, nil
	}
	for reference, want := range map[string]string{
		"plain": "plain", "": "", "environment": "environment",
		"env:ROWHOUSE_SECRET_ACME": "canary-4", "file:" + dir + "/good": "canary-1", "file:" + dir + "/inside": "canary-1",
	} {
		if got, err := password(reference); err != nil || got != want {
			t.Errorf("%q gives %q, %v; want %q", reference, got, err, want)
		}
	}
	for _, reference := range []string{
		"env:", "env:ROWHOUSE_CATALOG_KEYS", "env:ROWHOUSE_SECRET_", "env:ROWHOUSE_SECRET_NOSUCH", "env:ROWHOUSE_SECRET_ACME\n",
		"file:", "file:good", "file:" + dir, "file:" + dir + "/", "file:" + dir + "/nosuch", "file:" + dir + "/open", "file:" + dir + "/empty",
		"file:" + dir + "/long", "file:" + dir + "/out", "file:" + dir + "/pipe", "file:" + dir + "/../" + filepath.Base(outside) + "/other",
		"file:" + outside + "/other", "file:" + dir + "/./good", "file:/etc/passwd",
	} {
		got, err := password(reference)
		if !errors.Is(err, catalog.ErrInvalid) {
			t.Errorf("%q gives %q, %v; want ErrInvalid", reference, got, err)
		} else if strings.Contains(err.Error(), "canary") {
			t.Errorf("%q: the error holds a secret: %v", reference, err)
		}
	}

	write(filepath.Join(dir, "good"), "canary-6", 0o600)
	if got, err := password("file:" + dir + "/good"); err != nil || got != "canary-6" {
		t.Errorf("after a change the file gives %q, %v", got, err)
	}
}

// A server whose provisioner's password stands elsewhere is one like any other.
func TestServer_Probe_reference(t *testing.T) {
	role, password := pgtest.Role(t, "LOGIN CREATEDB CREATEROLE")
	t.Setenv("ROWHOUSE_SECRET_PROVISIONER", password)
	address, _, err := catalog.ParseAddress(pgtest.ServerDSN(t))
	if err != nil {
		t.Fatal(err)
	}
	server := &catalog.Server{Name: "one", Hosts: address.Hosts, SSLMode: address.SSLMode}
	for reference, want := range map[string]error{"env:ROWHOUSE_SECRET_PROVISIONER": nil, "env:ROWHOUSE_SECRET_OTHER": catalog.ErrInvalid} {
		err := server.Probe(t.Context(), "postgres", catalog.Credential{Role: role, Secret: catalog.NewSecret(reference)})
		if !errors.Is(err, want) {
			t.Errorf("%s gives %v, want %v", reference, err, want)
		}
	}
}
