//go:build amd64 || arm64

package fsm

import "unsafe"

// prefetch has the processor fetch what is at p, and does not wait for it. A plain read would not do: the processor
// goes on meanwhile, but only a few hundred instructions far.
//
//go:noescape
func prefetch(p unsafe.Pointer)

// prefetchBoth is prefetch of two places, for the price of one call.
//
//go:noescape
func prefetchBoth(p, q unsafe.Pointer)

// prefetchTwo is prefetch of two lines of the cache, from that of p on.
//
//go:noescape
func prefetchTwo(p unsafe.Pointer)

// prefetchThree is prefetch of three lines of the cache, from that of p on.
//
//go:noescape
func prefetchThree(p unsafe.Pointer)
