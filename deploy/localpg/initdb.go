package localpg

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"
)

// childEnv is the whole environment of every program we run: nothing of ours leaks into the server, no PG* variable
// changes what it does.
var childEnv = []string{"LC_ALL=C", "TZ=UTC"}

// hba lets our superuser in without a password, for the socket's directory keeps everybody else out. All other roles
// need theirs even here, so that development exercises the real path.
const hba = `local all rowhouse trust
local all all scram-sha-256
`

// initialise makes the cluster under a temporary name and renames it when it is whole. A left-over of an interrupted
// first run is deleted.
func (h home) initialise(ctx context.Context, bin Binaries) error {
	tmp := h.newData()
	if err := awaitNobodyIn(ctx, tmp); err != nil {
		return err
	}
	if err := os.RemoveAll(tmp); err != nil {
		return err
	}
	if err := os.Mkdir(tmp, 0o700); err != nil {
		return err
	}
	if err := h.account.own(tmp); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, bin.initdb(), "-D", tmp, "-U", superuser, "-A", "trust", "-E", "UTF8",
		"--no-locale", "--no-sync", "--no-instructions")
	cmd.Dir = tmp
	cmd.Env = childEnv
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = time.Second
	detach(cmd, h.account, killOnDeath)
	if err := runPinned(cmd); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, oneLine(tail(out.Bytes())))
	}
	if err := os.WriteFile(filepath.Join(tmp, "pg_hba.conf"), []byte(hba), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, h.data())
}

// runPinned runs a command on one thread: the signal that a child gets when its parent dies is tied to the thread
// that made it.
func runPinned(cmd *exec.Cmd) error {
	failed := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		failed <- cmd.Run()
	}()
	return <-failed
}

// tail is the end of a program's output.
func tail(out []byte) []byte {
	const enough = 2000
	return out[max(0, len(out)-enough):]
}
