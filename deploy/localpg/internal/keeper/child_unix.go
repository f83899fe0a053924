//go:build unix

package keeper

import (
	"io/fs"
	"os"
	"os/exec"
	"syscall"
)

// child is the keeper that this process has started.
type child struct{ process *os.Process }

// ended reaps the keeper if it has ended. It does not wait: no goroutine of ours may outlive a test.
func (c *child) ended() bool {
	var status syscall.WaitStatus
	pid, err := syscall.Wait4(c.process.Pid, &status, syscall.WNOHANG, nil)
	return pid == c.process.Pid || err == syscall.ECHILD
}

// ownSession takes cmd away from our terminal and process group.
func ownSession(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

func isMine(info fs.FileInfo) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(st.Uid) == os.Geteuid()
}
