package main

import (
	"context"
	"encoding/json"
	"fmt"
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

// migrationsOf writes the sample's migrations and more after them into a directory that commands run in, by their order.
func migrationsOf(t testing.TB, p *process, name string, more ...string) string {
	t.Helper()
	dir := filepath.Join(filepath.Dir(p.dir), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile("sample/000001_projects.up.sql")
	if err != nil {
		t.Fatal(err)
	}
	for i, text := range append([]string{string(first)}, more...) {
		file := filepath.Join(dir, fmt.Sprintf("%06d_step.up.sql", i+1))
		if i == 0 {
			file = filepath.Join(dir, "000001_projects.up.sql")
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// must runs a command that has to end with a code, and gives its outputs.
func (p *process) must(t testing.TB, code int, args ...string) (stdout, stderr string) {
	t.Helper()
	got, stdout, stderr := p.rowhouse(t, args...)
	if got != code {
		t.Fatalf("rowhouse %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
	}
	return stdout, stderr
}

// status is what migrate status says.
func (p *process) status(t testing.TB) fleetStatus {
	t.Helper()
	stdout, _ := p.must(t, 0, "migrate", "status", "-o", "json")
	var s fleetStatus
	if err := json.Unmarshal([]byte(stdout), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// on connects to a database of the dev's server as its superuser.
func (p *process) on(t testing.TB, database string) *pgx.Conn {
	t.Helper()
	cfg, err := pgx.ParseConfig(p.CatalogURL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Database = database
	conn, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// checkLedgers insists that each database of the fleet has every version once.
func (p *process) checkLedgers(t testing.TB, version int64) {
	t.Helper()
	rows, err := p.on(t, catalogDatabase).Query(t.Context(), `select name from rowhouse.databases where state = 'active' and schema_version = $1`, version)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil || len(names) != 2 {
		t.Fatalf("%d databases at version %d: %v", len(names), version, err)
	}
	for _, name := range names {
		var n, last int64
		err := p.on(t, name).QueryRow(t.Context(), `select count(*), max(version) from rowhouse.migrations where state = 'applied'`).Scan(&n, &last)
		if err != nil || n != version || last != version {
			t.Errorf("%s: %d rows up to %d, %v", name, n, last, err)
		}
	}
}

const addColumn = "alter table projects add column extra_%d text;"

// The fleet migrator by its command, on a catalog that nobody else works on.
func TestMigrate(t *testing.T) {
	t.Parallel()
	p := startDev(t, devData(t), "ROWHOUSE_JOBS_ENABLED=false")
	var steps []string
	next := func(text string) (dir string, version int64) {
		steps = append(steps, text)
		version = int64(len(steps)) + 1
		return migrationsOf(t, p, "m", steps...), version
	}
	column := func() string { return fmt.Sprintf(addColumn, len(steps)) }

	t.Run("plan, up, status", func(t *testing.T) {
		dir, version := next(column())
		stdout, _ := p.must(t, exitPending, "migrate", "plan", dir, "--exit-code", "-o", "json")
		var plan struct {
			Pending int
			Files   []string
		}
		if err := json.Unmarshal([]byte(stdout), &plan); err != nil || plan.Pending != 2 || len(plan.Files) != 1 {
			t.Errorf("plan %+v, %v", plan, err)
		}
		_, stderr := p.must(t, 0, "migrate", "up", dir)
		if !strings.Contains(stderr, "canary: rh_") || !strings.Contains(stderr, "2 migrated") {
			t.Errorf("up said %q", stderr)
		}
		p.must(t, 0, "migrate", "plan", dir, "--exit-code")
		p.must(t, 0, "migrate", "status", "--exit-code", "--drift")
		if _, stderr = p.must(t, 0, "migrate", "up", dir); !strings.Contains(stderr, "2 current") {
			t.Errorf("a fleet that is there: %q", stderr)
		}
		p.checkLedgers(t, version)
	})

	// A killed one's claims lapse after a quarter of a minute; the points in between are tried where that is shorter (tenants/jobs).
	for _, point := range []string{"started", "migrated"} {
		t.Run("kill -9 at "+point+", and another goes on", func(t *testing.T) {
			dir, version := next(column())
			cmd := exec.Command(built(t), "migrate", "up", dir)
			cmd.Dir, cmd.Env = filepath.Dir(p.dir), append(os.Environ(), "ROWHOUSE_DATA="+p.dir, "ROWHOUSE_FAILPOINT=rollout."+point+"=kill9")
			_ = cmd.Run()
			if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
				t.Fatalf("up was not killed: %v", cmd.ProcessState)
			}
			p.must(t, 0, "migrate", "up", dir)
			p.checkLedgers(t, version)
		})
	}

	t.Run("two at once", func(t *testing.T) {
		dir, version := next(column() + " select pg_sleep(0.3);")
		var both sync.WaitGroup
		for range 2 {
			both.Go(func() {
				if code, _, stderr := p.rowhouse(t, "migrate", "up", dir); code != 0 {
					t.Errorf("exit code %d: %s", code, stderr)
				}
			})
		}
		both.Wait()
		p.checkLedgers(t, version)
	})

	t.Run("Ctrl-C stops, and the next goes on", func(t *testing.T) {
		dir, version := next(column() + " select pg_sleep(1.5);")
		cmd := exec.Command(built(t), "migrate", "up", dir)
		cmd.Dir, cmd.Env = filepath.Dir(p.dir), append(os.Environ(), "ROWHOUSE_DATA="+p.dir)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		catalog := p.on(t, catalogDatabase)
		for running := false; !running; time.Sleep(10 * time.Millisecond) { // another process's row is awaited
			if err := catalog.QueryRow(t.Context(), `select exists (select from rowhouse.rollout_targets where state = 'running')`).Scan(&running); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != exitInterrupted {
			t.Errorf("exit code %d", code)
		}
		other := migrationsOf(t, p, "other", append(steps, "select 1;")...)
		if _, stderr := p.must(t, exitFailure, "migrate", "up", other); !strings.Contains(stderr, p.status(t).Rollout.ID.String()) {
			t.Errorf("another set is refused without a name: %s", stderr)
		}
		p.must(t, 0, "migrate", "up", dir)
		p.checkLedgers(t, version)
	})

	t.Run("a canary that fails stops the rest, and after the repair resume finishes", func(t *testing.T) {
		dir, version := next("create unique index projects_by_status on projects (tenant_id, status);")
		p.must(t, exitSomeFailed, "migrate", "up", dir, "--canary", "initech")
		s := p.status(t)
		if len(s.Failures) != 1 || s.Failures[0].SQLState != "23505" || len(s.Behind) != 2 || s.Rollout.State != "paused" {
			t.Errorf("status %+v", s)
		}
		p.must(t, exitPending, "migrate", "status", "--exit-code")
		for _, d := range []string{s.Behind[0].Database, s.Behind[1].Database} {
			if _, err := p.on(t, d).Exec(t.Context(), "update projects set status = id::text"); err != nil {
				t.Fatal(err)
			}
		}
		p.must(t, 0, "migrate", "pause")
		p.must(t, 0, "migrate", "resume")
		p.checkLedgers(t, version)
	})

	t.Run("rings are opened as far as was said", func(t *testing.T) {
		dir, version := next(column())
		p.must(t, exitFailure, "migrate", "up", dir, "--ring", "canary")
		if s := p.status(t); s.Rollout.Pause != "gate" || len(s.Behind) != 1 {
			t.Errorf("status %+v", s.Rollout)
		}
		p.must(t, 0, "migrate", "up", dir)
		p.checkLedgers(t, version)
	})

	t.Run("a database is left behind, and taken up later", func(t *testing.T) {
		_, version := next("create table fails_here ();")
		s := p.status(t)
		dedicated := ""
		for _, row := range p.databases(t) {
			if row.kind == "dedicated" {
				dedicated = row.name
			}
		}
		if _, err := p.on(t, dedicated).Exec(t.Context(), "create schema aside; create table aside.x (); create view public.fails_here as select 1 a"); err != nil {
			t.Fatal(err, s)
		}
		steps[len(steps)-1] = "create table fails_here (id uuid primary key default gen_random_uuid()); select rowhouse.bind('fails_here');"
		dir := migrationsOf(t, p, "m", steps...)
		p.must(t, exitSomeFailed, "migrate", "up", dir)
		p.must(t, exitUsage, "migrate", "skip", "initech")
		p.must(t, 0, "migrate", "skip", "initech", "--reason", "its view is in the way")
		p.must(t, exitNotFound, "migrate", "skip", "nobody", "--reason", "x")
		p.must(t, 0, "migrate", "resume")
		if s := p.status(t); len(s.Behind) != 1 || s.Behind[0].Database != dedicated {
			t.Errorf("behind are %+v", s.Behind)
		}
		if _, err := p.on(t, dedicated).Exec(t.Context(), "drop view public.fails_here; drop schema aside cascade"); err != nil {
			t.Fatal(err)
		}
		p.must(t, 0, "migrate", "up", dir)
		p.checkLedgers(t, version)
	})

	t.Run("a file that needs repair is marked", func(t *testing.T) {
		dir, version := next("-- rowhouse:no-transaction\nvacuum projects;")
		p.must(t, 0, "migrate", "up", dir)
		for _, row := range p.databases(t) {
			if row.kind == "dedicated" { // as if its migrator had died in between
				if _, err := p.on(t, row.name).Exec(t.Context(), "update rowhouse.migrations set state = 'running' where version = $1", version); err != nil {
					t.Fatal(err)
				}
			}
		}
		dir, version = next(column())
		p.must(t, exitSomeFailed, "migrate", "up", dir)
		if s := p.status(t); len(s.Failures) != 1 || s.Failures[0].State != "needs_repair" {
			t.Errorf("failures %+v", s.Failures)
		}
		p.must(t, exitUsage, "migrate", "retry", "initech", "--mark", "perhaps")
		p.must(t, 0, "migrate", "retry", "initech", "--mark", "applied", "--reason", "a vacuum leaves nothing")
		p.checkLedgers(t, version)
	})

	t.Run("drift is found", func(t *testing.T) {
		row := p.databases(t)[0]
		if _, err := p.on(t, row.name).Exec(t.Context(), "create index by_hand on projects (budget)"); err != nil {
			t.Fatal(err)
		}
		stdout, _ := p.must(t, exitPending, "migrate", "status", "--drift", "--exit-code", "-o", "json")
		var s fleetStatus
		if err := json.Unmarshal([]byte(stdout), &s); err != nil || len(s.Drift) != 1 || s.Drift[0].Database != row.name || !s.Drift[0].Drift {
			t.Errorf("drift %+v, %v", s.Drift, err)
		}
	})
}

type databaseRow struct{ name, kind string }

func (p *process) databases(t testing.TB) []databaseRow {
	t.Helper()
	rows, err := p.on(t, catalogDatabase).Query(t.Context(), `select name, kind from rowhouse.databases where state = 'active' order by name`)
	if err != nil {
		t.Fatal(err)
	}
	found, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (d databaseRow, err error) {
		return d, row.Scan(&d.name, &d.kind)
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// Those who read meanwhile see no error: not while files are applied, and not from plans made before them.
func TestMigrate_whileServing(t *testing.T) {
	t.Parallel()
	p := startDev(t, devData(t))
	tenants := []devTenant{p.tenant(t, "acme"), p.tenant(t, "globex"), p.tenant(t, "initech")}
	done := make(chan struct{})
	var reading sync.WaitGroup
	counts := make([]int, len(tenants))
	for i, tenant := range tenants {
		reading.Go(func() {
			tick := time.NewTicker(15 * time.Millisecond) // 200 a second in all
			defer tick.Stop()
			for {
				select {
				case <-done:
					return
				case <-tick.C:
				}
				a := p.do(t, request{path: "/rest/v1/projects?select=*&limit=5", header: as(tenant.Token)})
				if a.status != 200 || !strings.Contains(a.body, tenant.Name) {
					t.Errorf("%s: %d %s", tenant.Name, a.status, a.body)
					return
				}
				counts[i]++
			}
		})
	}
	var steps []string
	for i := range 6 {
		steps = append(steps, fmt.Sprintf("alter table projects add column later_%d text; create index on projects (tenant_id, later_%d);", i, i))
		p.must(t, 0, "migrate", "up", migrationsOf(t, p, "m", steps...))
	}
	close(done)
	reading.Wait()
	t.Logf("%v reads", counts)
	// What was added is served.
	a := p.do(t, request{path: "/rest/v1/projects?select=later_5&limit=1", header: as(tenants[0].Token)})
	if a.status != 200 {
		t.Errorf("the new column: %d %s", a.status, a.body)
	}
	p.checkLedgers(t, 7)
	// A dev that starts again keeps what was brought here.
	p.stop(t)
	p = startDev(t, p.dir)
	p.checkLedgers(t, 7)
}
