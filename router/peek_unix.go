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

// peek looks by Control and not by Read: pgx may have a reader waiting on the connection (it starts one when a write is
// slow, and it stays until something arrives), and Read would wait behind it.
func peek(c syscall.Conn) bool {
	raw, err := c.SyscallConn()
	if err != nil {
		return false
	}
	quiet := false
	err = raw.Control(func(fd uintptr) {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		quiet = err == syscall.EAGAIN || err == syscall.EWOULDBLOCK
	})
	return err == nil && quiet
}
