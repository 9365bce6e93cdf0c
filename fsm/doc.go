// Package fsm is the state machine of one shard: a key-value cache of bounded size that evicts what was used
// longest ago, driven by a log and by nothing else.
//
// A [Machine] applies log entries in order. An entry is a [Batch] of [Command]s with a stamp; Apply
// returns a [Result] for each command. What the directory decides (which slots the machine owns, how
// many bytes it may hold, where its versions start) arrives by the same log as the clients' commands do,
// and so does the recency of what they read ([KindTouches]).
//
// # Obligations
//
//   - The same log gives the same state, bit by bit, on every replica: whatever the machine, the build,
//     the restarts and the snapshots in between. [Machine.Checksum] is equal at equal indexes. So the
//     package knows no clock, no randomness, no file, no goroutine and no order of a Go map; whatever
//     can change an eviction is in the log (R1, R2).
//   - Time is the log clock, the highest stamp so far. An entry is dead from the moment the log clock
//     reaches its expiry, and stays dead: stamps that go back don't turn the clock back (R2). What is dead
//     is removed in the order of (expiry, recency stamp), a bounded number with each entry.
//   - A version names one change of a key's value and is never given to another: bits that the directory
//     grants above bits that the machine counts (R3). A put, an increment, an append, the delete of a live
//     entry, a flush and a delete by prefix that removes something take one each; a change of the time to
//     live, a touch, a get, a refused command and the delete of an absent key take none.
//   - After each entry the cost of what is stored is within the bound, and beyond the batch's own
//     commands the work of an entry is bounded (R4): see [Machine.Apply].
//   - Conditions and ownership are decided here, where every replica decides alike, never before the
//     log (R6). A refusal changes nothing but the clock and the place in the log.
//   - An entry that can't be applied as written is an error, not a result: the replica must stop,
//     since the others may have applied it.
//
// The order of refusals is fixed: not the owner; the idempotency key's own (too new, too old, another
// command's); too large, of a put; condition; no live entry; no integer, or too large, of what an increment
// or append makes; versions used up; no memory for the idempotency key.
//
// # Recency
//
// Every command that stores, changes the time to live or touches moves the entry to the recent end and gives
// it a stamp: log milliseconds above a counter, rising along the order. Reads leave no trace by themselves.
// Whoever serves them gathers their [Touch]es and puts them into the log in the order of the reads; then all
// replicas have the order of an exact LRU, and a new leader evicts what the old one would have (R5).
// [Lookup].Recent tells which touches would not change much: those of the 1/64 of the entries that were used
// last.
//
// # Commands that are held together
//
// [KindAtomic] makes one change of the commands that follow it: all of them apply, or none. Each is judged first, as if
// those before it were applied, and nothing changes before the last is judged. Nothing is evicted between them. See
// applyAtomic for the order of refusals. [KindGet] reads between commands, and is the only read that goes through the log.
//
// # Idempotency
//
// A command with an idempotency key is applied once: a change is remembered with its status, version and small
// value, and answered again to whoever repeats the command under the key (R7). A key of the form
// <unix-ms>-<random> is remembered until its own time and [IdempotencyWindow], by the log clock; after that,
// and at or below the horizon to which the memory had to forget, it is refused as too old. So such a key never
// makes a change twice, as long as its slot stays here: records go when their slot goes. A shard's later generations begin
// with the horizon at that time, as records of the former one may be lost. Any other key is
// protected for IdempotencyWindow from the change on, and no longer. The memory takes a sixteenth of the limit
// at most, and counts in it. Records are kept by slot. A refusal is not remembered, nor is a delete of what is
// absent: repeated, it is judged anew. Commands that are held together have one key for all. Its record lies in the
// slot of the first one's key and has no values: a replay has the versions that were made, and says what was there before.
//
// # Fill tokens
//
// A reader that misses takes the shard's version as a token. The slot keeps the highest version of what was
// removed from it, so [CondFill] can tell whether the key was written or removed since, without a state of
// its own (R8). A token above the shard's version is none that it gave. A token of a former grant is refused, as
// the slot may have been elsewhere since. Level 1 keeps no such versions, as its snapshots have none; raising the
// level outdates all tokens.
//
// From level 4 on a token outlives the grant of more versions and, as what is gone from each slot goes along, a move of its range; it is refused
// after a grant of another range or generation.
//
// # Ranges that move
//
// [KindBegin] and the kinds after it move a range of slots from one machine, the source, to another, the target; shard says who proposes them, and why that is
// safe. What they rest on here:
//
//   - Whatever changes an entry or an idempotency record of the source gives it a stamp above all before. So what is new stands at the recent end,
//     and one number tells how far a [Copy] is. What changes or goes of what was sent is heard of from the store as it happens; a leader
//     that has not heard all of it begins another attempt.
//   - What the target stages is stored as its own entries are, at the place in the order that its stamp gives it, and is evicted, expires and
//     is forgotten with them: so the bound holds, by the merged order, and to accept takes no time. But nobody is answered
//     from it, and what leaves it still counts as received. Each chunk counts once, by attempt and number.
//   - A seal sums up what the source has, in time in proportion to the slots, and what is captured with it is what there is to send. The target accepts
//     if what it received, less what it heard has left the source, is that (R22); so a mistake of a copy costs a transfer, and no entry.
//   - What a source gave away, or a target staged in vain, is dropped by later entries of the log, [MaxDropped] each, in the order of recency, which all
//     replicas have in common. It counts and may be evicted until then. Who leads proposes ticks meanwhile.
//   - Two entries of one stamp may meet then: the one that came later in the log of the target stands behind.
//
// A flush of the target has all staged anew; one of a source that has sealed waits, as other commands on the sealed slots do ([StatusSealed]).
//
// # Limit and bound
//
// Limit is what the directory asks for, bound what is in force. They are equal until a limit is
// lowered below what is stored. Then the bound follows the stored bytes down, [MaxShrink] entries per
// log entry, ticks included, while puts make room for themselves below the bound as ever; so each
// entry leaves the machine smaller, and no entry takes long. Who lowers a limit on a shard without
// traffic has to propose ticks until Stats.Bound equals Stats.Limit; likewise for expired entries, of
// which each log entry removes up to [MaxReclaim]; and of either up to [MaxRemoved] bytes. Both matter to memory
// alone, never to an answer.
//
// # Levels
//
// A machine begins at feature level 1, which is that of the first builds: puts, deletes, and recency by puts
// alone. Level 2 has everything else, counts less for an entry ([Overhead]), hashes keys by a seed that the raise
// brings, and takes no limit above [MaxLimit]. Level 3 has gets, and commands that are held together, level 4 ranges
// that move. A log raises the level once every replica runs a build that knows it; up to that command all builds apply it alike (R1). The raise
// from level 1 walks over all entries once.
//
// # Memory
//
// See store: records without pointers in pages, bytes in segments that are never written again, hash tables
// by slot that grow by a bucket at a time. No operation walks over everything, the collector has next to
// nothing to follow, and a snapshot shares pages and segments with the machine. Cleaning keeps what lies
// between live bytes to a sixth of them.
//
// # Beside the state
//
// An [Observer] hears what becomes of entries. [Ghosts] and [Sizing] are fed by it: why a key is gone, and which
// misses more memory would have made hits. Neither is part of the state, of a snapshot or of a checksum, and no
// answer of a machine depends on them.
//
// # Concurrency
//
// A Machine has no lock. Apply and Snapshot need it alone; Lookup, Scan, Applied, Stats, PlanDelete and Checksum may
// run beside each other. The caller's lock must hold a read's Lookup and Applied together, or the answer
// names a place in the log that it doesn't belong to. What they return is safe without the lock: an
// [Entry] and a [Snapshot] share memory with the machine that is never written again, and a snapshot
// is written to disk beside later Applies. An [Observer] hears of changes from within Apply.
//
// # Caveats
//
//   - StartCopy, CaptureCopy and StopCopy need the machine alone, as Apply does; Copy.Next does not.
//   - Checksum costs time in proportion to the slots, a millisecond or two for all of them. It is made of
//     sums that are kept as entries change; Restore makes them anew from the bytes.
//   - A grant that takes slots away walks over their entries in one step, and a delete by prefix over those
//     of its slots and part. [Machine.PlanDelete] keeps that small.
//   - Scan looks at all of a slot for each page that begins in it: entries of a slot have no order. A slot of a million,
//     by a hash tag, takes a good part of a second for each page, in which Apply waits.
//   - Level 1 hashes keys without a secret: whoever may write can make many keys of one slot and hash, and each
//     search for one of them then looks at all. The raise to level 2 brings a random seed.
//   - A key whose time was ahead of the log clock when a generation ended can be made twice, if the next one begins before
//     that time.
//   - While opaque idempotency keys fill their memory, each change under a key with a time raises the horizon.
//   - A touch names a key by 40 bits. Of a slot's entries two may share a name, by chance of 1 in 16 million
//     for each pair: then the wrong one is touched, on all replicas alike.
//
// # Why not the obvious alternatives
//
// A ready-made LRU counts entries or takes a callback for size, evicts whenever it likes, expires by
// the local clock, and has no order-preserving snapshot. Sharing it under a lock doesn't make replicas
// equal. Ready-made stores without pointers (bigcache, freecache) evict by ring or by set, not by recency.
// Gob, JSON or protobuf for the log have many encodings of one value, or depend on the build;
// here each value has one, so that bytes can be compared, fuzzed and summed up. Expiry by a timer that
// proposes deletes races with the put that replaces the entry; expiry by the log clock has no race. Slabs by
// size class strand memory in classes that are no longer asked for; segments that are cleaned don't. A sum
// over everything, made when asked for, would stop Apply; sums by slot, kept as entries change, don't.
package fsm
