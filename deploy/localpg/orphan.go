package localpg

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"
)

// evict ends what an owner that was killed has left in the data directory. It is called under the lock, so nobody
// owns what it finds. When it returns without error no process has the cluster open and no file says so.
//
// A server is not adopted: it could not be made to end with us, since it is not our child.
func (h home) evict(ctx context.Context, log *slog.Logger) error {
	const (
		patience = 5 * time.Second  // it is probably ending already, for its parent has died
		limit    = 30 * time.Second // after a polite request
	)
	began, asked := time.Now(), false
	for {
		pid, err := readPID(h.pidFile())
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if !servesCluster(pid, h.data()) {
			return h.removeStale(ctx)
		}
		waited := time.Since(began)
		switch {
		case waited > patience+limit:
			return fmt.Errorf("postgres %d of an earlier run still has %s open", pid, h.data())
		case waited > patience && !asked:
			asked = true
			log.Info("stopping a server that an earlier run left behind", "pid", pid)
			if err := interrupt(pid); err != nil {
				return fmt.Errorf("stop postgres %d of an earlier run: %w", pid, err)
			}
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("waiting for postgres %d of an earlier run: %w", pid, err)
		}
	}
}

// removeStale removes the pid file of a server that is dead. PostgreSQL itself would keep it as long as any process
// has that number, be it a zombie or another program, and refuse to start.
//
// The file also guards against the dead server's backends, which may outlive it for a moment: those are waited for.
func (h home) removeStale(ctx context.Context) error {
	if err := awaitNobodyIn(ctx, h.data()); err != nil {
		return err
	}
	if err := os.Remove(h.pidFile()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// awaitNobodyIn returns when no process of PostgreSQL's has its working directory in dir.
func awaitNobodyIn(ctx context.Context, dir string) error {
	for {
		pid := someoneIn(dir)
		if pid == 0 {
			return nil
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("process %d is still in %s: %w", pid, dir, err)
		}
	}
}

// readPID reads the first line of a pid file. A file without a number (it is being written, or a crash cut it) is
// given as pid 0, which no server has.
func readPID(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	first, _, _ := strings.Cut(string(text), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(first))
	if err != nil || pid < 0 {
		return 0, nil
	}
	return pid, nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
