// Package catalogtest gives a test a catalog of its own.
package catalogtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"net/url"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/catalog/keyring"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/migrations"
)

// New opens a fresh catalog under fresh keys, with its connection string.
func New(t testing.TB) (*catalog.Catalog, string) {
	t.Helper()
	keys, err := keyring.New()
	if err != nil {
		t.Fatal(err)
	}
	dsn := DSN(t)
	cat, err := catalog.Open(t.Context(), dsn, catalog.Config{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cat.Close)
	return cat, dsn
}

// Faulty opens a fresh catalog twice under the same keys: directly, and by a proxy that breaks the way to it.
func Faulty(t testing.TB) (direct, faulty *catalog.Catalog, proxy *pgtest.FaultProxy) {
	t.Helper()
	keys, err := keyring.New()
	if err != nil {
		t.Fatal(err)
	}
	dsn := DSN(t)
	cfg, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	proxy = pgtest.Proxy(t, dsn)
	through := url.URL{Scheme: "postgres", User: url.UserPassword(cfg.User, cfg.Password), Host: proxy.Addr(), Path: "/" + cfg.Database, RawQuery: "sslmode=disable"}
	open := func(dsn string) *catalog.Catalog {
		cat, err := catalog.Open(t.Context(), dsn, catalog.Config{Keys: keys})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(cat.Close)
		return cat
	}
	return open(dsn), open(through.String()), proxy
}

// DSN is the connection string of a fresh catalog that nobody has opened.
func DSN(t testing.TB) string {
	t.Helper()
	m, err := migrations.ForCatalog(migrations.Config{})
	if err != nil {
		t.Fatal(err)
	}
	hash := sha256.New()
	for _, f := range m.Files() {
		hash.Write([]byte(f.Up))
	}
	return pgtest.DB(t, pgtest.Template("catalog-"+hex.EncodeToString(hash.Sum(nil)), func(ctx context.Context, conn *pgx.Conn) error {
		_, err := m.Up(ctx, migrations.Target{Name: "catalog", Key: 1, Connect: func(ctx context.Context) (*pgx.Conn, error) {
			cfg := conn.Config().Copy()
			migrations.ConnConfig(cfg, "")
			return pgx.ConnectConfig(ctx, cfg)
		}})
		return err
	})).DSN()
}
