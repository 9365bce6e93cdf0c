// Package model says what one key of the cache may do when nothing is evicted or expires.
//
// Register is the sequential specification that a linearizability checker (porcupine, an
// implementation of Wing and Gong's search with Lowe's improvements) holds against a history: a
// value with a version, or nothing. Versions are part of it: a read shows the version that its write was
// given, and each change's version is above all that the key had before.
//
// # Concurrency
//
// Everything here is a pure function.
//
// # Caveats
//
// The model is strict: a value that vanishes is a violation. Runs that use it must have room for all
// they write. Conditional requests must name versions that the same process was shown before,
// otherwise a state whose version is not known yet would have two successors.
package model
