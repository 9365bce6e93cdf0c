//go:build !linux

package load

import "time"

// nap waits for d, as precisely as the system does.
func nap(d time.Duration) { time.Sleep(d) }
