package httpapi

import (
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

// processConns counts those of all servers, since they share the descriptors of the process. Half of these are for peers
// and disks.
var processConns = func() *connLimit {
	l := &connLimit{most: maxConns}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil {
		l.most = min(l.most, int64(files.Cur/2))
	}
	return l
}()

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
