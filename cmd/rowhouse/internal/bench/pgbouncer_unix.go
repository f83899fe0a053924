//go:build unix

package bench

import (
	"os"
	"os/exec"
	"syscall"
)

// runAs has a command run as the one to whom a directory belongs, and gives it files of its own. It is PostgreSQL's user
// when we are root, as whom PgBouncer refuses to run.
func runAs(cmd *exec.Cmd, dir string, files ...string) error {
	info, err := os.Stat(dir)
	if err != nil || os.Geteuid() != 0 {
		return err
	}
	owner := info.Sys().(*syscall.Stat_t)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	for _, file := range files {
		if err := os.Chown(file, int(owner.Uid), int(owner.Gid)); err != nil {
			return err
		}
	}
	return nil
}
