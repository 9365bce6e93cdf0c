// Package check decides whether a history of operations is one that Larder promises.
//
// Checks that are independent of each other:
//
//   - Linearizable asks porcupine, key by key, whether some order explains all answers. It uses
//     nothing that the server says about its log, only what a client sees.
//   - Certificate takes the place in the log that each answer names, and verifies in one
//     sweep that these places explain the answers and agree with real time, over all keys of a shard
//     at once. It never searches, so it points at the very pair that is wrong.
//   - Durable compares what is there at the end with what was acknowledged.
//   - Bounded and Any hold reads that may be old against what their names promise.
//
// Verify runs all of them. Each violation is a sentence with the operations in it.
//
// # Concurrency
//
// Linearizable checks GOMAXPROCS keys at a time; everything is done when a function returns.
//
// # Caveats
//
// All checks are strict: a value that was evicted or expired is reported as lost. The search is exponential
// in the worst case: more than about 14 operations at once on one key, those of unknown outcome
// included, can't be decided. Such keys are Undecided, which is never a pass (see Report.Err).
package check
