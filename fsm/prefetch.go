//go:build amd64 || arm64

package fsm

import "unsafe"

// prefetch has the processor fetch what is at p, and does not wait for it. A plain read would not do: the processor
// goes on meanwhile, but only a few hundred instructions far.
//
//go:noescape
func prefetch(p unsafe.Pointer)
