//go:build !unix

package keeper

import (
	"io/fs"
	"os"
	"os/exec"
)

// Without flock there is no shared cluster; these let tests compile.

type child struct{ process *os.Process }

func (c *child) ended() bool  { return true }
func ownSession(*exec.Cmd)    {}
func isMine(fs.FileInfo) bool { return false }
