package httpapi

import (
	"fmt"
	"sync/atomic"
	"syscall"
	"time"
)

// maxConns bounds the connections at the same time where descriptors are plenty: an idle one takes some 20 KiB.
const maxConns = 1 << 15

// connLimit bounds how many connections there are at the same time. Without it whoever opens enough of them has all
// descriptors of the process: no peer could connect any more, and the store, which can't begin a file, would end the node.
type connLimit struct {
	most int64
	open atomic.Int64
	told atomic.Int64 // the second in which it was last told that there are too many
}

// spareDescriptors is how many connections the descriptors of the process allow: half of these are for peers and disks.
// It returns false where the system does not tell.
func spareDescriptors() (int64, bool) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return 0, false
	}
	return int64(files.Cur / 2), true
}

// processConns counts those of all servers that have no limit of their own, since they share the descriptors of the process.
var processConns = func() *connLimit {
	l := &connLimit{most: maxConns}
	if spare, ok := spareDescriptors(); ok {
		l.most = min(l.most, spare)
	}
	return l
}()

// CheckMaxConnections says what is wrong with a number of connections for NewServer: it is negative, or more than the process has descriptors
// for, half of which are for peers and disks.
func CheckMaxConnections(n int) error {
	if n < 0 {
		return fmt.Errorf("%d is negative", n)
	}
	if spare, ok := spareDescriptors(); ok && int64(n) > spare {
		return fmt.Errorf("%d is more than %d, half of the file descriptors that the process may have (ulimit -n): the others are for peers and disks", n, spare)
	}
	return nil
}

// take counts one more connection, unless there are as many as there may be.
func (l *connLimit) take() bool {
	if l.open.Add(1) <= l.most {
		return true
	}
	l.release()
	return false
}

func (l *connLimit) release() { l.open.Add(-1) }

// tell reports whether it is to be told that there are too many: once a second.
func (l *connLimit) tell() bool {
	now := time.Now().Unix()
	return l.told.Swap(now) != now
}

// connCount counts the connections of one server, within a limit that several may share.
type connCount struct {
	limit   *connLimit
	open    atomic.Int64
	refused atomic.Uint64 // for the limit
}

// take counts one more connection, or one that is refused.
func (c *connCount) take() bool {
	if !c.limit.take() {
		c.refused.Add(1)
		return false
	}
	c.open.Add(1)
	return true
}

func (c *connCount) release() {
	c.open.Add(-1)
	c.limit.release()
}
