package httpapi

import "syscall"

// gone reports whether the peer of a connection has closed it, or its sending half, without taking anything from what it
// sent. While that is unread, its end is not seen.
func gone(conn syscall.RawConn) bool {
	closed := false
	err := conn.Control(func(fd uintptr) {
		var b [1]byte
		n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n == 0 && err == nil || err != nil && err != syscall.EAGAIN && err != syscall.EINTR
	})
	return closed || err != nil
}
