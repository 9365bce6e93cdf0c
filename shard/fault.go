package shard

// bug is a seeded bug: something done wrong on purpose, in builds with the tag faults alone and there only if
// the variable LARDER_FAULTS, a comma-separated list, names it. The consistency runs must find each of them;
// that is what their green results are worth. Each is one branch at one place.
type bug string

const (
	// Reads on the leader.
	bugLocalReads        bug = "local-reads"         // whoever takes itself for the leader answers, and asks nobody
	bugVerifyLeader      bug = "verify-leader-reads" // trust hashicorp/raft's VerifyLeader: stale after a pause
	bugNoReadIndex       bug = "no-read-index"       // confirm the leader, and don't wait until its state has what is committed
	bugLateJoin          bug = "late-join"           // join a round of confirmations that was sent before the read came
	bugSelfCounted       bug = "self-counted"        // count oneself in the quorum of a read though one is no voter
	bugLearnersCounted   bug = "learners-counted"    // count learners in it
	bugReadyAtElection   bug = "ready-at-election"   // serve before an entry of one's own term is applied
	bugTTLByOwnClock     bug = "ttl-by-own-clock"    // judge a time to live by the node's clock, not the log's
	bugFollowerLocal     bug = "follower-local"      // read on a follower what it has, without a read index
	bugBoundedAge        bug = "bounded-age"         // answer reads of a bounded age however old the state is
	bugStaleOwner        bug = "stale-owner"         // led once, go on as if still: a table of owners that is out of date
	bugPromiseForgotten  bug = "promise-forgotten"   // restart, and vote although a promise of before the restart still binds
	bugPromiseBroken     bug = "promise-broken"      // promise, and vote all the same
	bugPromiseOverruled  bug = "promise-overruled"   // vote although a promise binds, because others miss the leader too
	bugLeaseEndless      bug = "lease-endless"       // take a lease for valid until another leader is heard of
	bugLeaseLong         bug = "lease-long"          // count on promises for much longer than they bind
	bugLeaseOverHandover bug = "lease-over-handover" // keep the lease when leadership is handed over
	bugConditionOutside  bug = "condition-outside"   // judge conditions before the log, not in it
	bugExpireBlindly     bug = "expire-blindly"      // remove what is over without a look at whether it is still the same

	// Writes.
	bugUnknownRefused bug = "unknown-refused" // say of a write whose fate is open that it did not happen
	bugAckUnknown     bug = "ack-unknown"     // say of such a write that it did
	bugAckEarly       bug = "ack-early"       // say that a write happened before it is committed
	bugNoDedup        bug = "no-dedup"        // forget idempotency keys
	bugNoSync         bug = "no-sync"         // don't wait for the disk: a loss of power shows it
	bugVolatileLog    bug = "volatile-log"    // write the log behind, from the process's memory: kill -9 shows it
	bugApplyUnsynced  bug = "apply-unsynced"  // apply and answer what the leader has not synced yet
	bugTellUnsynced   bug = "tell-unsynced"   // tell others that it is committed
	bugAckUnsynced    bug = "ack-unsynced"    // confirm entries to the leader before they are synced
	bugReturnsWiped   bug = "returns-wiped"   // come back without log and votes, under the old id

	// The state.
	bugOwnClock       bug = "own-clock"        // apply entries at the node's time, not at theirs
	bugOwnEvictions   bug = "own-evictions"    // evict by the order of a Go map
	bugOwnRecency     bug = "own-recency"      // make what is read recent on the replica that read it, without the log
	bugRestoreNoOrder bug = "restore-no-order" // lose the order of recency in a snapshot
	bugRestoreNoKeys  bug = "restore-no-keys"  // lose the idempotency keys in a snapshot
	bugRestoreMerges  bug = "restore-merges"   // keep what was there when a snapshot comes in
	bugChecksumSilent bug = "checksum-silent"  // don't stop replicas that differ, so that only clients can tell

	// Nodes and members.
	bugSameIncarnation bug = "same-incarnation" // know a node by its id alone: who lost its disk is taken for who it was, with old votes
	bugNoPrevIndex     bug = "no-prev-index"    // change members whatever they are by now, not only as it was planned

	// Of transfers, once there are any: the source is not fenced, deletes made during the copy are forgotten. Of
	// watches: events are dropped silently when a reader is slow.
)
