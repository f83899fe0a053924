//go:build !linux

package budget

import "syscall"

// bound leaves to keepalive what only Linux can be told.
func bound(string, string, syscall.RawConn) error { return nil }
