//go:build !unix

package localpg

import (
	"errors"
	"io/fs"
	"os/exec"
	"syscall"
)

// A server is not started on this system: flock refuses first. These let programs that can do without one compile.
const (
	killOnDeath = syscall.SIGKILL
	stopOnDeath = syscall.SIGINT
)

func ownerOf(fs.FileInfo) (uid, gid int)        { return -1, -1 }
func detach(*exec.Cmd, account, syscall.Signal) {}
func servesCluster(int, string) bool            { return false }
func someoneIn(string) int                      { return 0 }
func syncFiles(string) error                    { return errors.ErrUnsupported }
func interrupt(int) error                       { return errors.ErrUnsupported }
