// Package model says what one key of the cache may do.
//
// Law is the sequential specification that a linearizability checker (porcupine, an implementation of Wing and Gong's search
// with Lowe's improvements) holds against a history: a value with a version, or nothing. Versions are part of it: a read shows
// the version that its write was given, and each change's version is above all that the key had before.
//
// Where values may vanish, since there is not room for all or their time ends, a key may hold nothing at any moment. It never
// takes a value back: what was seen to be gone stays gone until the next write. That is the law of a cache that is
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
