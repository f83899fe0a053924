//go:build unix && !linux

package localpg

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// There is no parent-death signal here: a server whose owner was killed is stopped by the next Start.
const (
	killOnDeath = syscall.SIGKILL
	stopOnDeath = syscall.SIGINT
)

func detach(cmd *exec.Cmd, acct account, _ syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Credential: credential(acct)}
}

func servesCluster(pid int, data string) bool {
	if pid == 0 {
		return false
	}
	out, err := exec.Command("ps", "-o", "stat=,command=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return false
	}
	line := strings.TrimSpace(string(out))
	return !strings.HasPrefix(line, "Z") && strings.Contains(line, "postgres") && strings.Contains(line, "-D "+data)
}

// someoneIn cannot be asked without /proc.
func someoneIn(string) int { return 0 }

func syncFiles(string) error {
	syscall.Sync()
	return nil
}
