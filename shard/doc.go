// Package shard hosts the Raft groups of a node: one group per data shard, whose state machine is an
// fsm.Machine, and the directory's. It is the only package that knows hashicorp/raft.
//
// A [Host] is a node: a data folder with an identity, one link to each other node, and the replicas
// that it was told to open. A [Group] is one replica; a [Cache] is a Group that holds a shard of the
// cache. Above them, directory decides which shard lives where, and httpapi speaks to clients.
//
// # Writes
//
// [Cache.Do] proposes what changes a key; concurrent changes share log entries (batcher). Whether the
// shard owns the key, whether a condition holds, and whether the same was done before under an idempotency key, is
// decided when the entry is applied, nowhere else. An error either refuses (nothing was applied, [Refused]) or is [ErrOutcomeUnknown]: what was
// handed to Raft, or put on a link, and then lost its leader, its link or its time. Only the errors
// that hashicorp/raft gives before it touches the log refuse; all others are unknown. Nothing is
// proposed after its own deadline, also where the process was stopped in between: the age of a frame
// is measured on arrival (transit), and the deadline is looked at again when the log entry is made.
//
// What comes together goes together (batch.go): [Cache.DoBatch] makes one entry of many operations, reads among them
// included, or one read round where there are reads alone. Keys are listed and removed by a prefix a part at a time (keys.go).
//
// # Reads
//
// A linearizable read costs a round to a quorum of voters and no disk (see probe.go for the
// argument). hashicorp/raft's VerifyLeader is not used for it: an answer to a request sent before the
// read began satisfies it, so a leader that was stopped and resumed reads stale; and a learner's
// answer counts. A leader serves once a barrier of its own term is applied. With Config.Leases the same questions bring promises of
// the voters, and as long as a quorum's bind reads need no round (see readlease.go for the argument, the holes and what closes
// each).
//
// A read that finds nothing says why, as far as this replica remembers (see aside.go). Which misses would
// have been hits with more memory is counted of the reads that each replica served, and told in its Status.
// Both follow from evictions, which are replicated, so a new leader goes on where the old one was; both begin
// anew when a snapshot comes in. Hits pay nothing for them.
//
// # Recency
//
// A read renews its entry's place in the LRU order through the log, a moment later (touch.go): with the next
// write, or within Config.TouchInterval. Followers send what they read to the leader. The bytes of touches in
// the log are budgeted; touches beyond it, and those for which there is no leader, no room or no time, are
// dropped and counted ([TouchStats]). No read and no write waits for one.
//
// Of many readers who would load a missing value one gets a token to do so, and the others wait (fill.go). That saves
// work and promises nothing: what the token promises is kept in the state machine.
//
// # Members
//
// A group begins with the members that its Spec names, all of which bootstrap the same configuration.
// Later ones join: they are opened without members, and wait for the leader to send them the log. The
// leader adds, promotes and removes one at a time, upon a named committed configuration (membership.go);
// who plans these changes, and in which order, is the directory's business. A replica that left is
// destroyed by its r, durably, before another of its shard can be created on the node.
//
// # Snapshots for followers
//
// A follower that needs what the log has no more gets the leader's newest snapshot, in chunks on the link that carries all else
// (snapshotsend.go). A node sends two at a time, and no more bytes a second than it may; others wait for their turns. The receiver gathers it (spool.go),
// so that a transfer which breaks off is continued, and holds it against the sender's checksum before Raft sees any of it. The
// leader keeps the log behind the snapshot meanwhile, within bounds.
//
// # Succession
//
// A follower that misses its leader asks the other voters and stands as soon as they miss it too, without waiting for the
// library's timeouts: at once where the leader's process is gone. See succession.go.
//
// # Replicas that differ
//
// A leader has the states of all replicas compared at marks in the log. One in the minority stops for good, and goes
// on as a Raft member without a state; without a majority all stop. See verdict.go for the rules, and for what
// a death leaves at each step.
//
// # The transport
//
// One link per ordered pair of nodes carries all groups. It closes defects of the library rather
// than working around them above: see transport for the list. A link names cluster, node and
// incarnation in its handshake, and each frame the replica that it means: no replica answers for
// another, or for an earlier life of itself.
//
// # Identity
//
// See identity.go and manifest.go for what a data folder knows, and for what a crash leaves behind at
// each step. A replica that has spoken and whose data is gone never speaks again.
//
// # Damaged data
//
// A replica's log, term, vote and snapshots carry checksums, and all of them are read when it opens (store_sum.go,
// store_pages.go). One whose data is damaged or gone is left out, without the node's others, and made anew by the
// directory where the other replicas have a quorum (lost.go).
//
// # The log of a node
//
// Log, term and vote of each replica are in one log that all data shards of the node share (store_shared.go), or, with Config.LogStore,
// in a bbolt file of its own (store_disk.go). The shared log is an instance of cockroachdb/pebble v2, whose write-ahead log gathers what is written while
// a sync is under way into the next one. A replica keeps the store that it was made in, so the setting may change with any start. The
// directory's replica always has a file: it writes little, and raft-boltdb is what it was proved with.
//
// Appends of one entry of 128 bytes by 1, 8 and 64 replicas at the same time, on two busy cores and ext4 (make bench-log; medians of five alternating rounds):
//
//	             p50 ms           p99 ms         appends/s           CPU us/append   syncs/append
//	bolt         2.8  1.5  8.2    44  59  120    130  1.6 k  3.3 k   429  214  198   2.02  2.02  2.02
//	raft-wal     1.2  0.3  0.3    36  15   66    267  6.8 k 11.8 k   156   58   60   1.00  1.00  1.00
//	shared       0.4  0.6  1.1    22  24   22    433  2.6 k 21.3 k   175   53   12   1.00  0.25  0.04
//
// So the default is the shared log, and a thousand shards on a node are only to be had with it. Runs on real processes draw the store, damage and lose files of
// either, and cut the power of both (integration/disk).
//
// In the shared log entries go ahead of their sync: followers get them while the leader's disk is still at it, see store_ahead.go for
// what must wait, and why that is safe. What else a write reported as done is synced, in either. An append is one transaction, or one batch, and so is a vote with its term. A
// write or sync that fails ends the process and is never tried again; Pebble says so through its logger, goes on, and would report
// success, so each write looks at that before it returns. What a crash tore is dropped; what is damaged is not: Pebble's own start
// passes over damage in its newest log and in its manifest, so both are checked before (store_shared_check.go). Damage that hits a replica's
// entries costs that replica; damage of which it can't be told whose it is keeps the node from starting, and it rejoins as new.
//
// # What a crash does
//
//	moment                                       after the restart                     shown by
//	before a proposal is stored                  not in the log: never applied         TestCloseWhileUntaken, TestNemesis
//	stored here, not on a quorum                 overwritten, or committed later:      TestDeposedLeaderConverges
//	                                             the caller was told unknown
//	stored on a quorum, not applied              committed by the next leader          TestAllCrash, TestNemesis
//	within a snapshot                            the unfinished one is removed         TestOpenSnapshotsAfterCrash
//	within the installation of the leader's      the whole one or none; repair drops   TestCrashDuringInstall, TestRepair
//	snapshot                                     the log that it replaces
//	within a transfer of a snapshot              it goes on where it was               TestSnapshotContinuesLater
//	between the two halves of a vote             the older vote stands whole           TestStoreVote
//	while the leader's sync is under way, and    it is lost, or committed later: nothing   TestAheadOfSync, TestFollowerSyncsFirst,
//	its followers have the entry                 that rests on it has left the process     TestNemesis
//	within a write to the shared log             what was reported is there, of each   TestSharedTornWrites
//	                                             replica, and nothing that none wrote
//	within any change of a file of the shared    likewise                              TestSharedEachCrash
//	log, also as it is made and opened
//	within the bootstrap of a replica            it starts over: it never spoke        TestManifestCrash
//	within a change of members                   made or not, alike on all; it can     TestMembersChangeAcrossCrashes
//	                                             be made again from what is seen
//	within the stop of a replica that           it is compared again, or starts sealed        TestManifestCrash,
//	differs                                                                                TestFollowerDiverges
//	within the destruction of a replica          it is as it was, or the rest of it    TestManifestCrash
//	                                             is removed
//	while a replica takes the state of one       that one is as it was, or the new     TestKeep
//	of a former generation                       one has all of it (see Keep)
//	after a promise to a leader                 the voter keeps it: it begins with one             TestLeaseKeepsOthersOut
//	with data that is damaged since              the damage is found again             TestFlippedBits, TestUnreadableEntry,
//	                                                                                   TestSharedFlippedBits, TestLostSharedLog,
//	                                                                                   TestSharedLostFiles,
//	                                                                                   TestSharedDamageAfterKill
//
// # Concurrency
//
// All exported methods may be called from anywhere. Each goroutine has an owner that waits for it:
// the Host for its accept loop, peers and links; a Group for its Raft instance and what watches it; a
// Cache for its batcher. Raft applies on one goroutine per group; readers share a lock with it.
//
// # Caveats
//
//   - A data folder put back from a copy is not detected; no copy may ever be restored.
//   - After a loss of power the very last write to the shared log, where nothing was written after it, can't be told from a torn one if it is
//     damaged as well: it is dropped. Nor can more of the newest log, at most back to its first sync, if the file itself became shorter. The
//     file of a replica (bbolt) knows. After the end of a process alone, by kill -9 too, both know.
//   - A failed disk write ends the process and is never retried.
//   - Followers' heartbeats wait behind their disk, but for appends of commands to the shared log: HeartbeatTimeout must exceed its worst stall.
//   - A leader whose disk is stuck hands over if its log is the shared one, else it falls silent, so that another one is elected (maxSyncTime);
//     it leads on where none could be.
//   - What a replica compacted away may stay in the shared log's files as long as that replica writes nothing, however much others do.
//   - The deadline of a request that waits in the kernel's socket buffer of a stopped process starts
//     when the process reads it, unless it came from another node.
//
// # Why not
//
//   - raft.NetworkTransport per group: no identity of the target in a request, four connections and
//     half a megabyte of buffers per pair and group, and the heartbeat fast path.
//   - A leader lease by default: it rests on clocks, which stop when a machine is suspended. Nor one on the library's own
//     LastContact or LeaderLeaseTimeout: they count answers from when these came in, those of learners too, and followers that
//     start again, or are asked to stand, know nothing of them.
//   - A write-ahead log of our own, or one of raft-wal's for each replica: the one would have to be proved. The other syncs once for each append
//     of each replica, which is faster for a few on a disk that flushes in parallel and no more for many, and keeps votes in bbolt files.
//   - Reads through the log: each would cost a disk write on a majority.
package shard
