// Package check decides whether a run is one that Larder promises.
//
// Checks that are independent of each other:
//
//   - Linearizable asks porcupine, key by key, whether some order explains all answers. It uses
//     nothing that the server says about its log, only what a client sees.
//   - Certificate takes the place in the log that each answer names, and verifies in one
//     sweep that these places explain the answers and agree with real time, over all keys of a shard
//     at once. It never searches, so it points at the very pair that is wrong.
//   - Durable, Counters and Sets compare what is there at the end with what was acknowledged.
//   - Bounded and Any hold reads that may be old against what their names promise.
//   - TimeToLive holds values that end against the clients' clock, and Misses the reasons of reads that found nothing
//     against what clients did.
//   - Replicas, Leaders and Liveness look at what nodes say of themselves, and at what came of faults.
//
// Run makes all of them and a Verdict: invalid beats undecided beats not proved beats valid. A run that was too slow, met
// too few faults, found nothing but misses or did too little of what its workload is for is not proved, whatever the checks
// say; nor is one in which a fault's end was not seen, or the replicas of a shard were not compared at the end. Each violation is a sentence with the
// operations in it; Page shows a key to a person.
//
// # Modes
//
// In strict mode there is room for all that a run writes: what vanishes is lost, and an eviction makes the run prove nothing. In
// tight mode a value may vanish at any moment, as may one with a time to live in either (and only that: another value of the
// same key may not); it never comes back, and no more vanish than were evicted.
//
// # Concurrency
//
// Linearizable checks GOMAXPROCS keys at a time; everything is done when a function returns.
//
// # Caveats
//
// The search is exponential in the worst case: more than about 14 operations at once on one key, those of unknown outcome
// included, can't be decided. Such keys are Undecided, which is never a pass. A read that wrongly says absent passes in
// tight mode; every workload runs in both. A cluster in which the setting default-ttl gives values a time to live that no request
// names can't be checked.
package check
