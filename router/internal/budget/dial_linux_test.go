package budget

import (
	"net"
	"syscall"
	"testing"
)

func TestDial_bounds_what_is_not_acknowledged(t *testing.T) {
	address, _ := listen(t, nil)
	c, err := dial(t.Context(), "tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var ms, keepalive int
	_ = raw.Control(func(fd uintptr) {
		ms, _ = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, tcpUserTimeout)
		keepalive, _ = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE)
	})
	if ms != 10000 || keepalive != 1 {
		t.Errorf("user timeout %d ms, keepalive %d", ms, keepalive)
	}
}
