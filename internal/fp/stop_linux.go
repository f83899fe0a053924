//go:build failpoint

package fp

import (
	"os"
	"runtime"
	"syscall"
)

// stop stops the process until somebody continues it, at this very point: a signal to the whole process may be taken by
// another thread, while this one runs on for as long as the machine is busy.
func stop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	_ = syscall.Tgkill(os.Getpid(), syscall.Gettid(), syscall.SIGSTOP)
}
