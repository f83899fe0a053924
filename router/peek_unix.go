//go:build unix

package router

import (
	"crypto/tls"
	"net"
	"syscall"
)

// isQuiet says that nothing has arrived on an idle connection. A server that ended it has said so, and a look costs less
// than a round trip. Whoever cannot tell says no.
func isQuiet(c net.Conn) bool {
	for {
		switch below := c.(type) {
		case interface{ NetConn() net.Conn }:
			c = below.NetConn()
			continue
		case syscall.Conn:
			return peek(below)
		}
		return false
	}
}

var _ interface{ NetConn() net.Conn } = (*tls.Conn)(nil)

func peek(c syscall.Conn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	// Control and not Read: after a slow write pgx leaves a goroutine of its own reading, which holds the read lock until
	// the next answer comes, and Read would wait for that lock.
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	})
	return err == nil && quiet
}
