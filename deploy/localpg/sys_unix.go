//go:build unix

package localpg

import (
	"io/fs"
	"syscall"
)

// ownerOf is who a file belongs to, -1 where the system does not say.
func ownerOf(info fs.FileInfo) (uid, gid int) {
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(st.Uid), int(st.Gid)
	}
	return -1, -1
}

// credential is nil for ourselves. No supplementary groups: root's would go along otherwise.
func credential(acct account) *syscall.Credential {
	if !acct.other {
		return nil
	}
	return &syscall.Credential{Uid: uint32(acct.uid), Gid: uint32(acct.gid), Groups: []uint32{}}
}

// interrupt asks a postgres that is not our child for a fast shutdown.
func interrupt(pid int) error { return syscall.Kill(pid, syscall.SIGINT) }
