//go:build unix

package pgtest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"github.com/rowhouse/rowhouse/deploy/localpg"
	"github.com/rowhouse/rowhouse/deploy/localpg/pgtest"
)

// partVariable makes a copy of this test program play a part in a test: it runs only TestPart, in a process of its own.
const partVariable = "ROWHOUSE_PGTEST_TEST_PART"

// part is a running copy of this test program. Its input is held open until it is to end.
type part struct {
	cmd *exec.Cmd
	out *bufio.Scanner
	in  io.Closer
}

// play starts a part.
func play(t *testing.T, name string, env ...string) *part {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestPart$", "-test.v")
	cmd.Env = append(append(os.Environ(), partVariable+"="+name), env...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &part{cmd, bufio.NewScanner(out), in}
}

// hear waits for a line that the part says with [say].
func (p *part) hear(t *testing.T) string {
	t.Helper()
	for p.out.Scan() {
		if text, ok := strings.CutPrefix(p.out.Text(), "part: "); ok {
			return text
		}
	}
	t.Fatal("the part ended without a word")
	return ""
}

func say(text string) { fmt.Println("part: " + text) }

// TestPart is what a copy does.
func TestPart(t *testing.T) {
	switch name := os.Getenv(partVariable); name {
	case "":
		t.Skip("only in a copy of this program")
	case "attach":
		d := pgtest.DB(t)
		say(one[string](t, d.Conn(t), "select pg_postmaster_start_time()::text || ' ' || current_setting('data_directory')"))
		_, _ = io.ReadAll(os.Stdin)
	default: // a template's key: begin to build it, and never end
		pgtest.DB(t, pgtest.Template(name, func(ctx context.Context, conn *pgx.Conn) error {
			execute(t, conn, "create table half()")
			say(conn.Config().Database)
			<-ctx.Done()
			return ctx.Err()
		}))
	}
}

func TestProcesses(t *testing.T) {
	t.Parallel()

	t.Run("share one server", func(t *testing.T) {
		t.Parallel()
		a, b := play(t, "attach"), play(t, "attach")
		first, second := a.hear(t), b.hear(t)
		if first != second {
			t.Errorf("one process is on %s, another on %s", first, second)
		}
		server := connect(t, pgtest.ServerDSN(t))
		if ours := one[string](t, server, "select pg_postmaster_start_time()::text || ' ' || current_setting('data_directory')"); ours != first {
			t.Errorf("we are on %s", ours)
		}
	})

	t.Run("the server ends seconds after the last, even when that was killed, and the next one starts another", func(t *testing.T) {
		t.Parallel()
		bin := otherBinaries(t)
		p := play(t, "attach", "ROWHOUSE_PG_BIN="+bin)
		first := p.hear(t)
		cluster := filepath.Dir(first[strings.LastIndexByte(first, ' ')+1:])
		t.Cleanup(func() { os.RemoveAll(filepath.Dir(cluster)) }) // lock files that nobody else knows
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		awaitGone(t, cluster)

		p = play(t, "attach", "ROWHOUSE_PG_BIN="+bin)
		again := p.hear(t)
		if again == first {
			t.Errorf("the same server: %s", again)
		}

		// The keeper killed, and with it the server: what they leave is not used.
		keeper, err := localpg.Running(cluster)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(syscall.Kill(keeper.PID, syscall.SIGKILL), p.cmd.Process.Kill()); err != nil {
			t.Fatal(err)
		}
		p = play(t, "attach", "ROWHOUSE_PG_BIN="+bin)
		if text := p.hear(t); text == again {
			t.Errorf("the same server: %s", text)
		}
		if running, err := localpg.Running(cluster); err != nil {
			t.Error(err)
		} else if n := one[int](t, connect(t, running.DSN("postgres")), "select count(*) from pg_database where datname like 't\\_%'"); n != 1 {
			t.Errorf("%d test databases, want that of the one process", n)
		}
		p.in.Close()
		awaitGone(t, cluster)
	})

	t.Run("a template that was half built when its process was killed is built again", func(t *testing.T) {
		t.Parallel()
		key := "killed " + pgtest.DB(t).Name()
		p := play(t, key)
		half := p.hear(t)
		if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_ = p.cmd.Wait()
		server := connect(t, pgtest.ServerDSN(t))
		if n := one[int](t, server, "select count(*) from pg_database where datname = $1", half); n != 1 {
			t.Fatalf("the killed process left %d databases %s: this proves nothing", n, half)
		}
		conn := pgtest.DB(t, pgtest.Template(key, func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, "create table whole()")
			return err
		})).Conn(t)
		if !one[bool](t, conn, "select to_regclass('whole') is not null and to_regclass('half') is null") {
			t.Error("the half-built template was used")
		}
		if n := one[int](t, server, "select count(*) from pg_database where datname = $1", half); n != 0 {
			t.Error("the half-built template is still there")
		}
	})
}

func TestDB_leavesNoGoroutine(t *testing.T) {
	pgtest.DB(t) // attached
	ignore := goleak.IgnoreCurrent()
	t.Run("inner", func(t *testing.T) {
		d := pgtest.DB(t)
		d.Conn(t)
		one[int](t, d.Pool(t), "select 1")
		pgtest.Role(t, "LOGIN")
	})
	goleak.VerifyNone(t, ignore)
}

// otherBinaries is a directory that leads to the same PostgreSQL under another name, and so to a server that nobody
// else uses.
func otherBinaries(t *testing.T) string {
	t.Helper()
	real, err := localpg.Find(t.Context(), localpg.FindOptions{Bin: os.Getenv("ROWHOUSE_PG_BIN")})
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("/tmp", "pgtest-bin-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, program := range []string{"postgres", "initdb"} {
		script := fmt.Sprintf("#!/bin/sh\nexec '%s/%s' \"$@\"\n", real.Dir, program)
		if err := os.WriteFile(filepath.Join(dir, program), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// awaitGone waits for the end of a cluster that nobody needs any more: six seconds, and some more for a busy machine.
func awaitGone(t *testing.T, cluster string) {
	t.Helper()
	began := time.Now()
	for {
		if _, err := os.Stat(cluster); err != nil {
			t.Logf("gone after %v", time.Since(began))
			return
		}
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%s is still there", cluster)
		}
		time.Sleep(10 * time.Millisecond) // nobody tells us
	}
}
