//go:build failpoint && !linux

package fp

import (
	"os"
	"syscall"
)

// stop stops the process until somebody continues it, here or a little later.
func stop() {
	_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP)
}
