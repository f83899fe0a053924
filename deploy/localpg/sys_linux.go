package localpg

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// What a child gets when its parent's thread dies.
const (
	killOnDeath = syscall.SIGKILL
	stopOnDeath = syscall.SIGINT // PostgreSQL's fast shutdown
)

// detach makes cmd run as the account, out of reach of the terminal's Ctrl-C, and die with the thread that starts it.
func detach(cmd *exec.Cmd, acct account, onDeath syscall.Signal) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: onDeath, Credential: credential(acct)}
}

// servesCluster says whether pid is a living postgres with that data directory. A zombie can still be signalled, but
// it has no command line any more.
func servesCluster(pid int, data string) bool {
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil {
		return false
	}
	args := strings.Split(string(cmdline), "\x00")
	d := slices.Index(args, "-D")
	return filepath.Base(args[0]) == "postgres" && d > 0 && d+1 < len(args) && filepath.Clean(args[d+1]) == filepath.Clean(data)
}

// someoneIn returns a process of PostgreSQL's whose working directory is dir, 0 when there is none that we can see.
// Somebody's shell may stand there as long as it likes.
func someoneIn(dir string) int {
	links, _ := filepath.Glob("/proc/[0-9]*/cwd")
	for _, link := range links {
		if cwd, err := os.Readlink(link); err != nil || cwd != dir {
			continue
		}
		proc := filepath.Dir(link)
		switch name, _ := os.ReadFile(proc + "/comm"); strings.TrimSpace(string(name)) {
		case "postgres", "initdb":
			pid, _ := strconv.Atoi(filepath.Base(proc))
			return pid
		}
	}
	return 0
}

// syncFiles writes the file system that holds dir to its disk.
func syncFiles(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
