package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/rowhouse/rowhouse/catalog"
	"github.com/rowhouse/rowhouse/migrations"
	"github.com/rowhouse/rowhouse/tenants"
	"github.com/rowhouse/rowhouse/tenants/jobs"
)

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
			_, neighbour := h.made(t, tenants.TenantSpec{Name: "umbrella", Placement: catalog.Dedicated})
			h.checkServer(t, db)
			h.checkLogin(t, tenant, db, neighbour)
			// What the catalog says of a clone was read from its template.
			fingerprint, err := migrations.Fingerprint(t.Context(), h.as(t, db, catalog.LoginMigrator, db.Name+"_o"))
			must(t, err)
			if db.Fingerprint != fingerprint {
				t.Errorf("catalog says fingerprint %s, database has %s", db.Fingerprint, fingerprint)
			}
		})
	}
}

// checkServer looks at what was made on the server with a superuser's eyes.
func (h *house) checkServer(t testing.TB, db *catalog.Database) {
	t.Helper()
	var public, template bool
	must(t, h.super.QueryRow(t.Context(), `
		select has_database_privilege('public', datname, 'connect') or has_database_privilege('public', datname, 'temp'), datistemplate
		  from pg_database where datname = $1`, db.Name).Scan(&public, &template))
	if public || template {
		t.Errorf("database is open to public: %v, a template: %v", public, template)
	}
	var owner, login string
	must(t, h.super.QueryRow(t.Context(), `
		select (select concat(rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb) from pg_roles where rolname = $1),
		       (select concat(rolcanlogin, rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolinherit) from pg_roles where rolname = $2)`,
		db.Name+"_o", db.Name+"_a").Scan(&owner, &login))
	if owner != "fffff" || login != "tfffff" {
		t.Errorf("owner has attributes %s, login %s", owner, login)
	}
	rows, err := h.super.Query(t.Context(), `
		select r.roleid::regrole::text from pg_auth_members r where r.member = $1::regrole order by 1`, db.Name+"_a")
	must(t, err)
	member, err := pgx.CollectRows(rows, pgx.RowTo[string])
	must(t, err)
	if diff := cmp.Diff([]string{"anon", "authenticated", "service_role"}, member); diff != "" {
		t.Errorf("login is a member of (-want +got):\n%s", diff)
	}
	var verifier string
	must(t, h.super.QueryRow(t.Context(), `select rolpassword from pg_authid where rolname = $1`, db.Name+"_a").Scan(&verifier))
	if !strings.HasPrefix(verifier, "SCRAM-SHA-256$4096:") {
		t.Error("login's password is not kept as a SCRAM verifier")
	}
}

// checkLogin works in the database as a router does, and tries the neighbour's.
func (h *house) checkLogin(t testing.TB, tenant *catalog.Tenant, db, neighbour *catalog.Database) {
	t.Helper()
	ctx := t.Context()
	conn := h.login(t, db, db.Name)
	var itself bool
	must(t, conn.QueryRow(ctx, `select database_id = $1 and catalog_id = $2 from rowhouse.identity`, db.ID, h.catalog.ID()).Scan(&itself))
	if !itself {
		t.Error("identity names another database")
	}
	settings := map[string]string{}
	for _, name := range []string{"idle_in_transaction_session_timeout", "client_connection_check_interval", "search_path"} {
		var value string
		must(t, conn.QueryRow(ctx, `select current_setting($1)`, name).Scan(&value))
		settings[name] = value
	}
	want := map[string]string{"idle_in_transaction_session_timeout": "10s", "client_connection_check_interval": "500ms", "search_path": "public, extensions, pg_temp"}
	if diff := cmp.Diff(want, settings); diff != "" {
		t.Errorf("settings (-want +got):\n%s", diff)
	}
	tx, err := conn.Begin(ctx)
	must(t, err)
	defer tx.Rollback(ctx)
	for _, sql := range []string{
		"set local rowhouse.tenant_id = '" + tenant.ID.String() + "'", "set local role authenticated", "insert into projects (name) values ('first')",
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	cfg, err := h.catalog.ServerConnConfig(ctx, db.Server, db.ID, neighbour.Name, catalog.LoginData)
	must(t, err)
	if other, err := pgx.ConnectConfig(ctx, cfg); migrations.SQLState(err) != "42501" {
		if err == nil {
			_ = other.Close(ctx)
		}
		t.Errorf("entering a neighbour's database gives %v, want 42501", err)
	}
}

// login connects to a database as the data login of one.
func (h *house) login(t testing.TB, db *catalog.Database, dbname string) *pgx.Conn {
	t.Helper()
	cfg, err := h.catalog.ServerConnConfig(t.Context(), db.Server, db.ID, dbname, catalog.LoginData)
	must(t, err)
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// as connects as one of the server's logins in the role of another.
func (h *house) as(t testing.TB, db *catalog.Database, login catalog.Login, role string) *pgx.Conn {
	t.Helper()
	cfg, err := h.catalog.ServerConnConfig(t.Context(), db.Server, catalog.DatabaseID{}, db.Name, login)
	must(t, err)
	cfg.RuntimeParams["role"] = role
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

func TestRunner_Run_shared(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	h.run(t, h.runner)
	var ops []*catalog.Operation
	for i := range 6 { // before there is a shared database: one of them makes it, the others wait
		ops = append(ops, h.create(t, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", i)}))
	}
	for _, op := range ops {
		if op = h.finished(t, op.ID); op.State != catalog.OperationDone || op.Attempts != 1 {
			t.Errorf("operation of %s is %s after %d attempts: %s", op.TenantName, op.State, op.Attempts, op.Error)
		}
	}
	first, db := h.tenant(t, "tenant-0")
	for i := range 6 {
		tenant, _ := h.tenant(t, fmt.Sprintf("tenant-%d", i))
		if tenant.Database != first.Database || tenant.State != catalog.StateActive || tenant.Placement != catalog.Shared {
			t.Errorf("%s is %s in database %s, want %s", tenant.Name, tenant.State, tenant.Database, first.Database)
		}
	}
	if diff := cmp.Diff([]string{db.Name}, h.databases(t)); diff != "" {
		t.Errorf("databases on the server (-want +got):\n%s", diff)
	}
	h.checkServer(t, db)
}

func TestRunner_Run_dedicatedAtOnce(t *testing.T) {
	t.Parallel()
	for _, attributes := range []string{"", "login createdb createrole"} {
		t.Run("provisioner "+attributes, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t, attributes)
			h.activate(t, sample)
			_, second := h.open(t, jobs.Config{})
			h.run(t, h.runner)
			h.run(t, second)
			var ops []*catalog.Operation
			for i := range 8 {
				ops = append(ops, h.create(t, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", i), Placement: catalog.Dedicated}))
			}
			for _, op := range ops {
				if op = h.finished(t, op.ID); op.State != catalog.OperationDone || op.Attempts != 1 {
					t.Errorf("operation of %s is %s after %d attempts: %s", op.TenantName, op.State, op.Attempts, op.Error)
				}
			}
			if n := len(h.databases(t)); n != 8 {
				t.Errorf("%d databases stand on the server, want 8", n)
			}
			if n := len(h.templates(t)); n != 1 {
				t.Errorf("%d templates were made, want 1", n)
			}
		})
	}
}

func (h *house) templates(t testing.TB) []string {
	t.Helper()
	return h.names(t, `select datname from pg_database where starts_with(shobj_description(oid, 'pg_database'), $1) and datistemplate order by oid`)
}

// Each set has a template; the newest two stay.
func TestRunner_Work_templates(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "login createdb createrole")
	var last []string
	for i, app := range []fstest.MapFS{nil, sample, later} {
		if app != nil {
			h.activate(t, app)
		}
		h.made(t, tenants.TenantSpec{Name: fmt.Sprintf("tenant-%d", i), Placement: catalog.Dedicated})
		last = append(last, h.templates(t)[len(h.templates(t))-1])
	}
	if diff := cmp.Diff(last[1:], h.templates(t)); diff != "" {
		t.Errorf("templates (-want +got):\n%s", diff)
	}
}

// run runs a runner until the test ends.
func (h *house) run(t testing.TB, runner *jobs.Runner) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- runner.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("Run did not end")
		}
	})
}

func TestRunner_Work_sharedAskedFor(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	_, first := h.made(t, tenants.TenantSpec{Name: "acme"})
	if first.SchemaVersion != 0 || first.SchemaChain == "" {
		t.Errorf("without a set the database has version %d, chain %q; want the baseline alone", first.SchemaVersion, first.SchemaChain)
	}
	_, second := h.made(t, tenants.TenantSpec{Name: "globex", Database: first.ID.String()})
	if second.ID != first.ID {
		t.Errorf("globex lives in %s, was to live in %s", second.Name, first.Name)
	}
}

func TestService_CreateTenant_twice(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	var g errgroup.Group
	results := make([]error, 4)
	for i := range results {
		g.Go(func() error {
			_, results[i] = h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: "acme", Placement: catalog.Dedicated})
			return nil
		})
	}
	_ = g.Wait()
	made := 0
	for _, err := range results {
		switch {
		case err == nil:
			made++
		case !errors.Is(err, catalog.ErrExists):
			t.Errorf("a second acme gives %v, want ErrExists", err)
		}
	}
	if made != 1 {
		t.Errorf("acme was created %d times", made)
	}
}

func TestRunner_Work_twoWorkers(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	_, other := h.open(t, jobs.Config{})
	var g errgroup.Group
	for _, r := range []*jobs.Runner{h.runner, other} {
		g.Go(func() error {
			op, err := r.Work(t.Context(), op.ID)
			if err == nil && op.State != catalog.OperationDone {
				err = fmt.Errorf("operation is %s: %s", op.State, op.Error)
			}
			return err
		})
	}
	must(t, g.Wait())
	h.checkWhole(t, op.ID, "initech")
}

// checkWhole insists that an operation left exactly what it was to make: one database, its two roles, one active row.
func (h *house) checkWhole(t testing.TB, id catalog.OperationID, name string) {
	t.Helper()
	op, err := h.catalog.Operation(t.Context(), id)
	must(t, err)
	if op.State != catalog.OperationDone {
		t.Fatalf("operation is %s after %q: %s", op.State, op.Step, op.Error)
	}
	tenant, db := h.tenant(t, name)
	if tenant.State != catalog.StateActive || db.State != catalog.DatabaseActive {
		t.Errorf("tenant is %s, database %s", tenant.State, db.State)
	}
	if diff := cmp.Diff([]string{db.Name}, h.databases(t)); diff != "" {
		t.Errorf("databases on the server (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{db.Name + "_a", db.Name + "_o"}, h.roles(t)); diff != "" {
		t.Errorf("roles on the server (-want +got):\n%s", diff)
	}
	rows := 0
	for _, err := range h.catalog.Databases(t.Context()) {
		must(t, err)
		rows++
	}
	if rows != 1 {
		t.Errorf("catalog has %d databases, want 1", rows)
	}
	var steps, distinct int
	must(t, h.catalog.Pool().QueryRow(t.Context(), `
		select count(*), count(distinct step) from rowhouse.operation_events where operation = $1 and state = 'running'`, id).Scan(&steps, &distinct))
	if steps != distinct {
		t.Errorf("%d steps are recorded, %d of them different", steps, distinct)
	}
	conn := h.login(t, db, db.Name)
	var itself bool
	must(t, conn.QueryRow(t.Context(), `select database_id = $1 from rowhouse.identity`, db.ID).Scan(&itself))
	if !itself {
		t.Error("identity names another database")
	}
}

// What has the name of something of ours and does not carry our mark is not touched, and the operation goes on once it is
// out of the way.
func TestRunner_Work_foreign(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	fails := func(op *catalog.Operation, after string) {
		t.Helper()
		op, err := h.runner.Work(t.Context(), op.ID)
		must(t, err)
		if op.State != catalog.OperationFailed || op.Step != after || !strings.Contains(op.Error, "not this catalog's") {
			t.Fatalf("operation is %s after %q: %q", op.State, op.Step, op.Error)
		}
		if tenant, _ := h.tenant(t, "initech"); tenant.State != catalog.StateFailed {
			t.Errorf("tenant is %s, want failed", tenant.State)
		}
		_, err = h.service.RetryOperation(t.Context(), op.ID)
		must(t, err)
	}
	op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	migrator := "rowhouse_migrator_" + h.server.ID.Compact()[20:]
	mustExec(t, h.super, "create role "+migrator)
	fails(op, "placed")
	mustExec(t, h.super, "drop role "+migrator)

	_, db := h.tenant(t, "initech")
	mustExec(t, h.super, "create database "+db.Name)
	mustExec(t, h.super, "comment on database "+db.Name+" is 'rowhouse catalog=00000000-0000-0000-0000-000000000000 db="+db.ID.String()+" op=x'")
	t.Cleanup(func() { mustExec(t, h.admin(t), "drop database x_"+db.Name) })
	before := h.describe(t, db.Name)
	fails(op, "roles")
	if after := h.describe(t, db.Name); after != before {
		t.Errorf("foreign database changed from %s to %s", before, after)
	}
	mustExec(t, h.super, "alter database "+db.Name+" rename to x_"+db.Name)

	_, err := h.runner.Work(t.Context(), op.ID)
	must(t, err)
	h.checkWhole(t, op.ID, "initech")
}

// A shared database whose maker failed is taken over by the next tenant that needs one, and the first one moves in after.
func TestRunner_Work_sharedTakenOver(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	migrator := "rowhouse_migrator_" + h.server.ID.Compact()[20:]
	mustExec(t, h.super, "create role "+migrator)
	op, err := h.runner.Work(t.Context(), h.create(t, tenants.TenantSpec{Name: "acme"}).ID)
	must(t, err)
	if op.State != catalog.OperationFailed {
		t.Fatalf("operation is %s", op.State)
	}
	mustExec(t, h.super, "drop role "+migrator)
	_, db := h.made(t, tenants.TenantSpec{Name: "globex"})
	_, err = h.service.RetryOperation(t.Context(), op.ID)
	must(t, err)
	op, err = h.runner.Work(t.Context(), op.ID)
	must(t, err)
	if acme, _ := h.tenant(t, "acme"); op.State != catalog.OperationDone || acme.Database != db.ID {
		t.Errorf("acme's operation is %s: %s; it lives in %s, want %s", op.State, op.Error, acme.Database, db.ID)
	}
	h.checkWhole(t, op.ID, "acme")
}

func TestRunner_Work_noServer(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		_, err := tx.Exec(t.Context(), `update rowhouse.servers set state = 'drained'`)
		return err
	}))
	op, err := h.runner.Work(t.Context(), h.create(t, tenants.TenantSpec{Name: "acme", Placement: catalog.Shared}).ID)
	must(t, err)
	if op.State != catalog.OperationFailed || !strings.Contains(op.Error, "local is drained") {
		t.Errorf("operation is %s: %q", op.State, op.Error)
	}
	_, err = h.service.CreateTenant(t.Context(), tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	var full *catalog.NoRoomError
	if !errors.As(err, &full) || !errors.Is(err, catalog.ErrConflict) || !strings.Contains(full.Hint(), "server resume") {
		t.Errorf("a dedicated tenant without a server gives %v", err)
	}
}

// What a server may hold, and which labels it has, decides what is placed there.
func TestRunner_Work_capacity(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	set := func(limits tenants.ServerLimits) {
		t.Helper()
		_, err := h.service.SetServer(t.Context(), "local", limits)
		must(t, err)
	}
	set(tenants.ServerLimits{MaxDatabases: new(1), Labels: map[string]string{"region": "eu"}})
	dedicated := tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated, Labels: map[string]string{"region": "us"}}
	if _, err := h.service.CreateTenant(t.Context(), dedicated); err == nil || !strings.Contains(err.Error(), "no server with these labels") {
		t.Errorf("a label that no server has gives %v", err)
	}
	dedicated.Labels["region"] = "eu"
	h.made(t, dedicated)
	dedicated.Name = "umbrella"
	if _, err := h.service.CreateTenant(t.Context(), dedicated); err == nil || !strings.Contains(err.Error(), "local is full (1 of 1 databases)") {
		t.Errorf("a full server gives %v", err)
	}
	set(tenants.ServerLimits{MaxDatabases: new(2), Labels: map[string]string{"region": ""}})
	dedicated.Labels = nil
	h.made(t, dedicated)
	for name, wrong := range map[string]tenants.ServerLimits{
		"spares": {Spares: new(-1)}, "max_databases": {MaxDatabases: new(0)}, "label": {Labels: map[string]string{"a b": "c"}},
	} {
		if _, err := h.service.SetServer(t.Context(), "local", wrong); !errors.Is(err, catalog.ErrInvalid) || !strings.Contains(err.Error(), name) {
			t.Errorf("%s out of range gives %v", name, err)
		}
	}
}

func (h *house) describe(t testing.TB, name string) (text string) {
	t.Helper()
	must(t, h.super.QueryRow(t.Context(), `
		select concat_ws(' ', oid, datdba::regrole, datallowconn, datacl, shobj_description(oid, 'pg_database'))
		  from pg_database where datname = $1`, name).Scan(&text))
	return text
}

// A worker that died is followed within its lease and a sweep, although its job looks as if it ran, and what it still does
// is not recorded.
func TestRunner_Run_followsTheDead(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	dead, err := h.catalog.Claim(t.Context(), op.ID, time.Second)
	must(t, err)
	tag, err := h.catalog.Pool().Exec(t.Context(), `
		update river.river_job set state = 'running', attempt = 1, attempted_at = now(), attempted_by = array['dead']`)
	must(t, err)
	if tag.RowsAffected() != 1 {
		t.Fatalf("%d jobs were inserted", tag.RowsAffected())
	}
	_, runner := h.open(t, jobs.Config{Sweep: 100 * time.Millisecond})
	h.run(t, runner)
	h.finished(t, op.ID)
	h.checkWhole(t, op.ID, "initech")
	if err := h.catalog.RecordStep(t.Context(), dead, "placed", ""); !errors.Is(err, catalog.ErrConflict) {
		t.Errorf("the dead worker's record gives %v, want ErrConflict", err)
	}
}

// A runner that is asked to stop in the middle leaves an operation that the next one goes on with at once.
func TestRunner_Run_stops(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "")
	h.activate(t, sample)
	_, first := h.open(t, jobs.Config{})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- first.Run(ctx) }()
	op := h.create(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	for op.Step == "" && !op.State.Finished() {
		var err error
		op, err = h.catalog.Operation(t.Context(), op.ID)
		must(t, err)
	}
	cancel()
	must(t, <-ended)
	op, err := h.catalog.Operation(t.Context(), op.ID)
	must(t, err)
	if op.State != catalog.OperationWaiting || op.Attempts != 0 {
		t.Errorf("operation is %s with %d attempts, want it waiting and the stop uncounted", op.State, op.Attempts)
	}
	_, err = h.runner.Work(t.Context(), op.ID)
	must(t, err)
	h.checkWhole(t, op.ID, "initech")
}

func TestRunner_Work_noSecrets(t *testing.T) {
	t.Parallel()
	h := newHouse(t, "login createdb createrole")
	h.activate(t, sample)
	_, db := h.made(t, tenants.TenantSpec{Name: "initech", Placement: catalog.Dedicated})
	var secrets []string
	for _, c := range []struct {
		id    catalog.DatabaseID
		login catalog.Login
	}{{catalog.DatabaseID{}, catalog.LoginProvisioner}, {catalog.DatabaseID{}, catalog.LoginMigrator}, {db.ID, catalog.LoginData}} {
		cr, err := h.catalog.Credential(t.Context(), h.server.ID, c.id, c.login)
		must(t, err)
		secrets = append(secrets, cr.Secret.Reveal())
	}
	wrong := "wrong-and-secret"
	must(t, h.catalog.Update(t.Context(), catalog.Event{Action: "test"}, func(tx *catalog.Tx) error {
		cr, err := h.catalog.Credential(t.Context(), h.server.ID, catalog.DatabaseID{}, catalog.LoginProvisioner)
		cr.Secret = catalog.NewSecret(wrong)
		return errors.Join(err, tx.SetCredential(t.Context(), cr))
	}))
	secrets = append(secrets, wrong)
	_, impatient := h.open(t, jobs.Config{Attempts: 3, Backoff: 10 * time.Millisecond})
	op, err := impatient.Work(t.Context(), h.create(t, tenants.TenantSpec{Name: "umbrella", Placement: catalog.Dedicated}).ID)
	must(t, err)
	if op.State != catalog.OperationFailed || op.Attempts != 3 || !strings.Contains(op.Error, "28P01") {
		t.Errorf("with a wrong password the operation is %s after %d attempts: %q", op.State, op.Attempts, op.Error)
	}
	for _, table := range []string{"operations", "operation_events", "audit_events", "changes", "tenants", "databases", "credentials"} {
		var text string
		must(t, h.catalog.Pool().QueryRow(t.Context(), `select coalesce(string_agg(t::text, ' '), '') from rowhouse.`+table+` t`).Scan(&text))
		for _, secret := range secrets {
			if strings.Contains(text, secret) {
				t.Errorf("table %s holds a password", table)
			}
		}
	}
	var text string
	must(t, h.catalog.Pool().QueryRow(t.Context(), `select coalesce(string_agg(j::text, ' '), '') from river.river_job j`).Scan(&text))
	for _, secret := range secrets {
		if strings.Contains(text, secret) {
			t.Error("a job holds a password")
		}
	}
}
