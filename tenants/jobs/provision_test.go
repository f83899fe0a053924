package jobs_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
	"github.com/rowhouse/rowhouse/tenants"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

func TestRunner_Work_dedicated(t *testing.T) {
	t.Parallel()
	for _, attributes := range []string{"", "login createdb createrole"} {
		t.Run("provisioner "+attributes, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, attributes)
			h.activate(t, sample)
			tenant, db := h.made(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
			if tenant.State != catalog.StateActive || db.State != catalog.DatabaseActive || db.Kind != catalog.Dedicated {
				t.Errorf("tenant %s in a %s database %s", tenant.State, db.Kind, db.State)
			}
			if want := "rh_" + db.ID.Compact(); db.Name != want {
				t.Errorf("database is named %q, want %q", db.Name, want)
			}
			if db.SchemaVersion != 1 || db.SchemaChain == "" || db.Fingerprint == "" {
				t.Errorf("catalog knows version %d, chain %q, fingerprint %q", db.SchemaVersion, db.SchemaChain, db.Fingerprint)
			}
			conn := h.login(t, db)
			var owner string
			must(t, conn.QueryRow(t.Context(), `select tableowner from pg_tables where tablename = 'projects'`).Scan(&owner))
			if want := db.Name + "_o"; owner != want {
				t.Errorf("projects belongs to %q, want %q", owner, want)
			}
		})
	}
}

// login connects as the database's data login.
func (h *house) login(t testing.TB, db *catalog.Database) *pgx.Conn {
	t.Helper()
	cfg, err := h.catalog.ConnConfig(t.Context(), db.ID, catalog.LoginData)
	must(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}
