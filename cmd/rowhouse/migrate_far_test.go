package main

import (
	"strings"
	"testing"
)

// The migrate verbs through a running service, which does the work.
func TestMigrate_far(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("three rollouts take a while")
	}
	p := startDev(t, devData(t))
	env := []string{"ROWHOUSE_ADMIN_URL=" + p.AdminURL, "ROWHOUSE_TOKEN=" + p.OperatorToken}
	far := func(code int, args ...string) (stdout, stderr string) {
		t.Helper()
		got, stdout, stderr := runIn(t, t.TempDir(), env, append([]string{"migrate"}, args...)...)
		if got != code {
			t.Fatalf("migrate %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), got, code, stdout, stderr)
		}
		return stdout, stderr
	}
	const column = "alter table projects add column far text;"
	dir := migrationsOf(t, p, "far", column)
	if stdout, _ := far(exitPending, "plan", dir, "--exit-code"); !strings.Contains(stdout, "public.projects AccessExclusive") {
		t.Errorf("plan said %q", stdout)
	}
	if _, stderr := far(0, "up", dir, "--soak", "0s"); !strings.Contains(stderr, "canary: rh_") || !strings.Contains(stderr, "2 migrated") {
		t.Errorf("up said %q", stderr)
	}
	p.checkLedgers(t, 2)
	far(0, "status", "--exit-code", "--drift")

	// The canary fails, it is left behind, and the rest goes on.
	dir = migrationsOf(t, p, "far", column, "do $$ begin if exists (select from rowhouse.identity) then raise 'not here'; end if; end $$;")
	far(exitSomeFailed, "up", dir, "--canary", "initech")
	if _, stderr := far(exitSomeFailed, "retry"); !strings.Contains(stderr, "1 databases are tried again") {
		t.Errorf("retry said %q", stderr)
	}
	far(0, "skip", "initech", "--reason", "it is not here")
	far(exitNotFound, "skip", "nosuch", "--reason", "x")
	far(exitSomeFailed, "resume")
	far(exitPending, "status", "--exit-code")
	far(exitFailure, "pause")
}
