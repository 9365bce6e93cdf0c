//go:build !amd64 && !arm64

package fsm

import "unsafe"

// prefetch does nothing here: all is read when it is needed.
func prefetch(unsafe.Pointer) {}

func prefetchBoth(p, q unsafe.Pointer) {}

func prefetchThree(unsafe.Pointer) {}

func prefetchTwo(unsafe.Pointer) {}
