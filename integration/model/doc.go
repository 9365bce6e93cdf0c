// Package model says what one key of the cache may do.
//
// Law is the sequential specification that a linearizability checker (porcupine, an implementation of Wing and Gong's search
// with Lowe's improvements) holds against a history: a value with a version, or nothing. Versions are part of it: a read shows
// the version that its write was given, and each change's version is above all that the key had before.
//
// Where entries may be evicted, a key may hold nothing at any moment, and so may one whose value has a time to live; a value
// without one stays where there is room. When a value's time ends is not part of the law. A key never takes a value back: what was seen to be gone stays gone until the next write. That is the law of a cache that is
// linearizable, and most of what is wrong with caches breaks it.
//
// # Concurrency
//
// Everything here is a pure function.
//
// # Caveats
//
// Conditional requests must name versions that the same process was shown before: a value whose version nobody was told
// is taken for another than the one that a condition names.
package model
