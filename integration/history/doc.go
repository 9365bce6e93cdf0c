// Package history records what clients asked and what they were answered.
//
// The one question of a failed write is whether it happened, so an operation ends in one of three
// outcomes: OK, Refused (certainly nothing happened) or Unknown. Classify decides which, by a table of
// all the answers that the interface documents; anything outside the table is a defect of the
// server and fails the run, whatever the checkers say.
//
// # Concurrency
//
// A Recorder may be used by any number of goroutines; an Operation belongs to whoever holds it.
//
// # Caveats
//
// Times are read from the monotonic clock of the one process that records, and never compared with
// those of a node.
package history
