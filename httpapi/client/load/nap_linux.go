package load

import (
	"syscall"
	"time"
)

// nap waits for d, more precisely than time.Sleep: a program that is otherwise idle wakes up on a whole millisecond.
func nap(d time.Duration) {
	t := syscall.NsecToTimespec(int64(d))
	_ = syscall.Nanosleep(&t, nil) // a signal ends it early: the caller looks at the clock
}
