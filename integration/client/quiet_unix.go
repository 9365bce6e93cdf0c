//go:build unix

package client

import (
	"net"
	"syscall"
)

// quiet reports whether nothing has come from the other side of an idle connection, not even its end: what is sent on
// one that was closed is lost, and nobody could say whether it had arrived.
func quiet(c net.Conn) bool {
	s, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return false
	}
	var readErr error
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, readErr = syscall.Read(int(fd), b[:])
		return true // without waiting
	})
	return err == nil && (readErr == syscall.EAGAIN || readErr == syscall.EWOULDBLOCK)
}
