// Package fsm is the state machine of one shard: a key-value cache of bounded size that evicts what
// was written longest ago, driven by a log and by nothing else.
//
// A [Machine] applies log entries in order. An entry is a [Batch] of [Command]s with a stamp; Apply
// returns a [Result] for each command. What the directory decides (which slots the machine owns, how
// many bytes it may hold, where its versions start) arrives by the same log as the clients' puts and
// deletes do.
//
// # Obligations
//
//   - The same log gives the same state, bit by bit, on every replica: whatever the machine, the build,
//     the restarts and the snapshots in between. [Machine.Checksum] is equal at equal indexes. So the
//     package knows no clock, no randomness, no file, no goroutine and no order of a Go map; whatever
//     can change an eviction is in the log (R1, R2).
//   - Time is the log clock, the highest stamp so far. An entry is dead from the moment the log clock
//     reaches its expiry, and stays dead: stamps that go back don't turn the clock back (R2).
//   - A version names one change of the shard and is never given to another: bits that the directory
//     grants above bits that the machine counts (R3). A put and the delete of a live entry take one
//     each; a refused command and the delete of an absent key take none.
//   - After each entry the cost of what is stored is within the bound, and beyond the batch's own
//     commands the work of an entry is bounded (R4): see [Machine.Apply].
//   - Conditions and ownership are decided here, where every replica decides alike, never before the
//     log (R6). A refusal changes nothing but the clock and the place in the log.
//   - An entry that can't be applied as written is an error, not a result: the replica must stop,
//     since the others may have applied it.
//
// The order of refusals is fixed: not the owner, too large, condition, versions used up.
//
// # Limit and bound
//
// Limit is what the directory asks for, bound what is in force. They are equal until a limit is
// lowered below what is stored. Then the bound follows the stored bytes down, [MaxShrink] entries per
// log entry, ticks included, while puts make room for themselves below the bound as ever; so each
// entry leaves the machine smaller, and no entry takes long. Who lowers a limit on a shard without
// traffic has to propose ticks until Stats.Bound equals Stats.Limit; likewise for expired entries, of
// which each log entry removes up to [MaxReclaim]. Both matter to memory alone, never to an answer.
//
// # Beside the state
//
// An [Observer] hears what becomes of entries. [Ghosts] and [Sizing] are fed by it: why a key is gone, and which
// misses more memory would have made hits. Neither is part of the state, of a snapshot or of a checksum, and no
// answer of a machine depends on them.
//
// # Concurrency
//
// A Machine has no lock. Apply needs it alone; Lookup, Applied, Stats, Snapshot and Checksum may run
// beside each other. The caller's lock must hold a read's Lookup and Applied together, or the answer
// names a place in the log that it doesn't belong to. What they return is safe without the lock: an
// [Entry] and a [Snapshot] share memory with the machine that is never written again, and a snapshot
// is written to disk beside later Applies.
//
// # Caveats
//
//   - Reads don't move an entry. Recency is that of puts; reads come to count by commands of their own
//     (R5), which this feature level does not have. As long as that is so, versions rise along the
//     order, and Restore insists on it.
//   - Snapshot copies a pointer per entry under the caller's lock: about 26 ms for a million entries on
//     a two-core virtual machine (BenchmarkSnapshot1M). Checksum walks over everything, about 0.2 s.
//   - Each entry is three or more heap objects, which the garbage collector follows. [Overhead] counts
//     them.
//   - A grant that takes slots away walks over all entries in one step.
//
// # Why not the obvious alternatives
//
// A ready-made LRU counts entries or takes a callback for size, evicts whenever it likes, expires by
// the local clock, and has no order-preserving snapshot. Sharing it under a lock doesn't make replicas
// equal. Gob, JSON or protobuf for the log have many encodings of one value, or depend on the build;
// here each value has one, so that bytes can be compared, fuzzed and summed up. Expiry by a timer that
// proposes deletes races with the put that replaces the entry; expiry by the log clock has no race.
package fsm
