package keeper

import "golang.org/x/sys/unix"

// freeBytes is what is free for us on dir's file system, 0 when that cannot be told.
func freeBytes(dir string) uint64 {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0
	}
	return st.Bavail * uint64(st.Bsize)
}
