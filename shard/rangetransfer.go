package shard

// Range transfers: how a range of slots goes from one shard, the source S, to another, the target T. Split and merge are made of it (R20 to R23).
//
// This is the protocol. Its rules are those of rangetransfer_model_test.go, which walks through all that can happen to it within small bounds, and fails for each rule that is left out.
// No build moves ranges yet.
//
// # Who keeps what
//
// Three logs keep all that matters: the directory's, S's and T's. Whoever drives a transfer (S's leader as of now), and the directory's leader, keep nothing that
// the next one needs, so that it does not matter when they die, how many think that they drive, or when their messages arrive: late, twice or never.
//
//	directory   open: the id of the transfer, its source, target, range and epoch; one that a shard has a part in at a time.
//	            outcome: how S settled it, once that is known
//	S           sealed: the id of the transfer that it is sealed for, with the hashes of the range as it was then; settled: the highest id that has ended here, and how
//	T           current: the highest id that has begun or ended here, and its state: staging, accepted, refused, or orphan; what is staged, and as of which index of S
//
// An id is the table version of the intent. Ids only grow, in each of the three.
//
// # Steps
//
// Each is an entry of one log, and does nothing where its condition does not hold.
//
//	log         step            condition                                       what it does
//	directory   Open            neither shard has a part in an open one         records the intent
//	T           Begin id        current < id, T owns nothing of the range,      staging, with nothing
//	                            nor is it dropping any of it still
//	T           Chunk id        staging id, not older than what was staged last entries are put in, and those that left S go
//	S           Seal id         S owns the range, isn't sealed, settled < id    sealed: S answers nothing for the range, and keeps it
//	T           Accept id       staging id; the hashes are those at the seal    accepted: T owns the range, with S's versions and clock at the least
//	                            staging id; they differ                         refused
//	                            current < id                                    refused
//	T           Refuse id       staging id, or current < id                     refused: what was staged is dropped
//	S           Settle id, how  sealed for id                                   accepted: S owns nothing and drops it; refused: S answers again
//	S           Void id         not sealed for id, settled < id                 settled, refused
//	directory   Flip id         open, and T has accepted                        the range is T's in the table
//	directory   Settled id, how open, and no outcome is kept yet                keeps the outcome; accepted: the range is T's in the table
//	T           Close id, how   current <= id                                   accepted: T has accepted, and an orphan now does; refused: what was staged is dropped
//	directory   Forget          T's log has Close                               none is open
//
// Accept and Refuse are answered with T's state of that id, and not at all for one below its current id: that has ended. They are sent again until they are answered. S settles by that
// answer and by nothing else: not by a time-out. Who may send what:
//
//   - Begin, Chunk and Seal: S's leader, as long as it takes the transfer for open. That may be long ago.
//   - Accept and Refuse: S's leader once its log has Seal; Refuse after seal-timeout. T's log holds one outcome, the first that arrives. Refuse is also
//     the directory's, for an S that is lost.
//   - Void: the directory, to abort: an operator wants that, or S's leader tells that T has refused, or is an orphan, while S isn't sealed. It is S that decides, since it may have
//     sealed: then the driver goes on.
//   - Close: the directory, once S has settled.
//
// # Invariants
//
//  1. At most one shard answers for a slot: S is sealed before T can accept, and does not unseal unless T's log has refused, which it then has for good.
//  2. What T serves from is what S had when it sealed, less what T evicted since: the hashes (R8) are of the whole state of the range, recency, idempotency records and what is
//     gone included. They are the safety; that chunks are in the order of S's log makes it likely that they agree.
//  3. A version is given once: T's counter is above S's before T gives one.
//  4. When no transfer is open the table says who owns the range; nobody is sealed, and nothing that is still under way can change that: S refuses to seal for what it has settled, T refuses to begin what
//     is not above its current one.
//  5. From every state the transfer ends, if only the logs can be written to; with Accept unless something was lost, aborted or late.
//
// # Deaths
//
// What happens if a process dies before, in or after a step: the entry is in the log or it isn't, and the next leader acts by that. "Resumes" names who does what next. The model shows each, as any order of steps is one that
// some deaths lead to.
//
//	after          resumes      how
//	Open           S's leader   Begin
//	Begin, Chunk   S's leader   Begin again, as another attempt
//	Seal           S's leader   sends Accept, as its log has the hashes; what it has evicted since, and T has not, T refuses
//	Accept         S's leader   sends Accept again, and gets the same answer; T answers clients meanwhile
//	Refuse         S's leader   the same; S is sealed until it knows
//	Settle         directory    asks S how it settled; S forwards to T whoever asks it
//	Void           directory    the same
//	Settled        directory    Close
//	Close          directory    Close again, then Forget
//
// # Losses
//
// A shard that lost its majority for good is recovered, empty, by the directory as a new generation, whose log begins with all former ids settled and current.
//
//	lost     transfer              what it begins with
//	either   none open             the range, if it is in the table as its own
//	T        S has settled         the range, if S gave it up
//	T        otherwise             orphan: it may have accepted, answered clients and lost that. It has no outcome of its own, and answers Accept and Refuse with that.
//	                               A sealed S then gives up the range (it may not show what T's clients have seen replaced); an S that isn't sealed goes on, and the transfer
//	                               is aborted. T learns by Close which of them it was. An answer of T's former generation that is late says the truth about that generation,
//	                               and leads to one of the same two ends
//	S        S has settled         the range, unless it gave it up
//	S        otherwise             it waits until T has an outcome, to which the directory sends Refuse; an orphan counts as accepted. The range, if T refused
//
// An orphan that becomes an owner gets new versions from the directory: S may have died with the highest. They are above all, as each version that was ever given begins with bits that the
// directory granted (R3), and it grants more than it ever did.
//
// A report of S's former generation may come late. The outcome that the directory has kept, and told T, stays.
//
// # What the model does not show
//
//   - That a shard which is still dropping a range must not begin with it again: there, it drops at once.
//   - A directory that is lost and rebuilt (R18): ids must not go back, and what is sealed, staged or orphaned then must end by what the shards say.
//   - A majority that was given up for lost, and is back beside the new generation: that has its own fence (R14).
//   - What a chunk is made of. There, one is all that S has as of some index. In fsm each leader of S that drives begins an attempt of its own, of which T takes the highest, from
//     nothing, and its chunks in order, each once; so what T has staged is what S had as of the last one, and never older than before. This takes the place of R21's version per key,
//     lists of the keys of a slot and questions of a new driver: what leaves S is told as it happens, entry by entry.
//   - Readiness before the seal (R22): only the pause depends on it.
