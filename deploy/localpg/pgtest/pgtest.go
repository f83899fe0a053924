// Package pgtest gives a test a PostgreSQL database of its own.
//
//	func TestMain(m *testing.M) { pgtest.Main(m) }
//
//	func TestThing(t *testing.T) {
//		conn := pgtest.DB(t).Conn(t)
//
// All test processes of a machine share one private server, which the first one starts and which ends seconds after
// the last. It needs no port, no configuration and no root; ROWHOUSE_PG_BIN chooses the binaries. It forgets
// everything in a crash, so durability cannot be tested on it.
//
// Roles belong to the server, not to a database: anon, authenticated and service_role are there, and a test makes
// others with [Role], under names that no other test has.
package pgtest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/deploy/localpg/internal/keeper"
)

// patience limits what the harness itself does for a test. It is long because machines that run tests are busy.
const patience = 2 * time.Minute

// Main runs a package's tests. It is all that TestMain has to do.
func Main(m *testing.M) {
	Prepare()
	os.Exit(m.Run())
}

// Prepare is what [Main] does before the tests, for a TestMain that has to do more. In the process that keeps the
// shared server it does not return.
func Prepare() {
	if keeper.Called() {
		os.Exit(keeper.Serve())
	}
	prepared = true
	for _, variable := range os.Environ() {
		// A developer's PGHOST or PGSERVICE is not the test's server.
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "PG") {
			os.Unsetenv(name)
		}
	}
}

var prepared bool // this process's TestMain has called Prepare

// attach holds the shared server for the rest of this process's life.
var attach = sync.OnceValues(func() (*keeper.Cluster, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return keeper.Attach(ctx, makeFixedRoles)
})

func cluster(t testing.TB) *keeper.Cluster {
	t.Helper()
	if !prepared {
		t.Fatal("pgtest: this package needs: func TestMain(m *testing.M) { pgtest.Main(m) }")
	}
	c, err := attach()
	if err != nil {
		t.Fatalf("pgtest: %v", err)
	}
	return c
}

// ServerDSN is the connection string of the maintenance database "postgres" as superuser, for tests that make
// databases and roles themselves. Whatever they make must have a random name and be dropped by them.
func ServerDSN(t testing.TB) string {
	t.Helper()
	return cluster(t).DSN("postgres")
}

// onServer calls f with a superuser's connection to a database of the shared server.
func onServer(ctx context.Context, c *keeper.Cluster, database string, f func(context.Context, *pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, c.DSN(database))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(ctx, conn)
}

// cleanup calls f when the test has ended, with a context that has not.
func cleanup(t testing.TB, what string, f func(context.Context) error) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := f(ctx); err != nil {
			t.Errorf("pgtest: %s: %v", what, err)
		}
	})
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// execAll runs statements one after the other.
func execAll(ctx context.Context, conn *pgx.Conn, statements ...string) error {
	for _, sql := range statements {
		if _, err := conn.Exec(ctx, sql); err != nil {
			return fmt.Errorf("%s: %w", sql, err)
		}
	}
	return nil
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }
