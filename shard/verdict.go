package shard

import (
	"fmt"
	"slices"
)

// Replicas that differ (R15). At a mark (checksum.go) the leader of a data shard asks all members for
// the sum of their state and compares (compare.go). Where some differ it sends what it gathered, a
// Comparison, to all of them, and each judges itself by it (stop.go):
//
//   - A majority of all voters agrees: whoever differs, voter or learner, has diverged and stops.
//   - No majority agrees, and none could, whatever those say who were not heard: all stop. An operator has
//     to decide which state is right.
//   - No majority was heard, and one may still be found: all who hear of it are in doubt and refuse to
//     serve until a later comparison decides. The leader then compares each second.
//
// Silence is neither agreement nor difference: of a replica that can't be reached, that has no sum for
// the mark, or runs a build that sums up otherwise, nothing is concluded. What is compared is of one
// index, one generation of the shard and one format of sums, and a replica that is to stop checks that its
// own sum in the comparison is the one that it still remembers: a state that was restored since is not
// judged by what the state before it was. Nothing is judged below feature level 2: states of level 1 may
// have been restored from what a build wrote that knew less.
//
// A replica that has diverged stops for good: it answers no reads and no writes, is no reader's replica,
// and stays so over restarts, which the data folder's manifest notes. Its log is as good as any: entries
// are replicated, not derived. So it goes on as a Raft member: it takes entries and votes, or the quorum
// would be weaker by one. But its state is dropped at once: the Raft instance is replaced by one whose
// state machine is sealed, applies nothing and takes no snapshot. Nor does the transport send a snapshot
// that was taken before: it could be one of the diverged state, and installed elsewhere. It stands for
// election later than others; where it wins, since no other has all entries, it leads to hand over, and
// never serves. Its log is not compacted until it is removed. The directory removes a member that is in
// the minority and adds a new one on the same node (an operation, rebuild-member).
//
// What a death leaves, of the process before or within a step:
//
//	1 the leader logs a mark                no mark, or one that nobody asks about: the next leader
//	                                        compares at the newest one that it has applied
//	2 a replica sums up its state           it has no sum for this mark, and may have for the next
//	3 the leader asks for the sums          nothing is decided; the next leader compares anew
//	4 it sends the comparison to all,       some have stopped, some have not heard of it: the next
//	  and judges itself last                leader finds those that still differ, and counts those that
//	                                        stopped for no sum
//	5 a replica stops to answer             it answers again after the restart until it is compared, if
//	                                        its state is still another: it is made anew from snapshot and log
//	6 it notes that                         as 5, or as 7: the note is one atomic replacement of a file
//	7 it gets a sealed instance             it starts with one
//	8 the directory records the rebuild     the replica's node goes on to report it; the next leader of
//	                                        the directory records it
//	9 the steps of the rebuild              see directory.Operation
//
// Caveats: The sums are kept while commands are applied. They show that machines did different things, not
// that a bit of a value flipped in memory since; that shows once the state was restored from a snapshot
// or the log, which sums up its contents anew. Where two of three differ and the third has no state, as it
// needs a snapshot, there is no end to the doubt: nobody sends it one that may be wrong. That is an operator's
// matter too. A replica that got a diverged leader's snapshot before the
// difference was found has the same state, and agrees with it.

// judgeLevel is the lowest feature level of a shard at which replicas are judged.
const judgeLevel = 2

// Outcome says what a comparison shows.
type Outcome string

const (
	// OutcomeEqual: none of those heard differ.
	OutcomeEqual Outcome = "equal"
	// OutcomeMinority: a majority of all voters agrees, and others differ from it.
	OutcomeMinority Outcome = "minority"
	// OutcomeDoubt: some differ, and a majority may be found yet.
	OutcomeDoubt Outcome = "doubt"
	// OutcomeSplit: some differ, and there is no majority.
	OutcomeSplit Outcome = "split"
	// OutcomeUnjudged: the shard's feature level is too low.
	OutcomeUnjudged Outcome = "unjudged"
	// OutcomeLost: not of a comparison; the replica's data is damaged or gone (lost.go).
	OutcomeLost Outcome = "lost"
)

// Comparison is what the members of a data shard said of their states at one mark.
type Comparison struct {
	Shard      ID     `json:"shard"`
	Index      uint64 `json:"index"`
	Term       uint64 `json:"term"` // of the leader that gathered it
	Generation uint64 `json:"generation"`
	Level      uint8  `json:"level"`
	Format     int    `json:"format"`
	// Leader is the replica that gathered it.
	Leader   string       `json:"leader"`
	Replicas []ReplicaSum `json:"replicas"` // all members
}

// ReplicaSum is one member's part in a Comparison.
type ReplicaSum struct {
	Replica string `json:"replica"`
	Voter   bool   `json:"voter"`
	// Checksum is SHA-256 in hex; "" where the replica told none.
	Checksum string `json:"checksum,omitempty"`
	// Stopped says by which outcome of an earlier comparison it has stopped, "" if it has not.
	Stopped Outcome `json:"stopped,omitempty"`
	// Doubt tells that it refuses to serve until a comparison decides.
	Doubt bool `json:"doubt,omitempty"`
	// Error says why it told no checksum.
	Error string `json:"error,omitempty"`
}

// Verdict is why a replica stopped.
type Verdict struct {
	Outcome    Outcome    `json:"outcome"`
	Comparison Comparison `json:"comparison"`
	// Reason says what was lost, "" where a comparison says all.
	Reason string `json:"reason,omitempty"`
}

// line returns a replica's part.
func (c *Comparison) line(replica string) (ReplicaSum, bool) {
	for _, r := range c.Replicas {
		if r.Replica == replica {
			return r, true
		}
	}
	return ReplicaSum{}, false
}

// Outcome decides. Common is the checksum that a majority of all voters told; where there is no
// majority, the one that most told, voters first.
func (c *Comparison) Outcome() (o Outcome, common string) {
	voters, missing, split := 0, 0, 0
	votes := map[string]int{}
	seen := map[string]bool{}
	for _, r := range c.Replicas {
		if r.Checksum != "" {
			seen[r.Checksum] = true
		}
		if r.Stopped == OutcomeSplit {
			split++
		}
		if !r.Voter {
			continue
		}
		voters++
		switch {
		case r.Checksum != "":
			votes[r.Checksum]++
		case r.Stopped == "":
			missing++
		}
	}
	most := 0
	for _, r := range c.Replicas { // in their order: a map's is none
		if n := votes[r.Checksum]; r.Checksum != "" && (common == "" || n > most) {
			common, most = r.Checksum, n
		}
	}
	switch {
	case c.Level < judgeLevel:
		return OutcomeUnjudged, common
	case 2*most > voters && len(seen) > 1:
		return OutcomeMinority, common
	case 2*most > voters, len(seen) < 2 && split == 0:
		return OutcomeEqual, common
	case 2*(most+missing) > voters:
		return OutcomeDoubt, common
	}
	return OutcomeSplit, common
}

// Differ counts the members that differ from what is common, those that have stopped included.
func (c *Comparison) Differ() int {
	_, common := c.Outcome()
	n := 0
	for _, r := range c.Replicas {
		if r.Stopped != "" || r.Checksum != "" && r.Checksum != common {
			n++
		}
	}
	return n
}

// Equal reports whether all members told a checksum, and the same.
func (c *Comparison) Equal() bool {
	for _, r := range c.Replicas {
		if r.Checksum == "" || r.Checksum != c.Replicas[0].Checksum {
			return false
		}
	}
	return true
}

// complete reports whether nobody needs to be asked again.
func (c *Comparison) complete() bool {
	for _, r := range c.Replicas {
		if r.Checksum == "" && r.Stopped == "" {
			return false
		}
	}
	return true
}

// forgotten reports whether a member had no sum, though it could have one for another mark.
func (c *Comparison) forgotten() bool {
	return slices.ContainsFunc(c.Replicas, func(r ReplicaSum) bool { return r.Error == errNoSum.Error() })
}

func (v *Verdict) String() string {
	switch v.Outcome {
	case OutcomeMinority:
		return fmt.Sprintf("its state is not that of the majority at index %d", v.Comparison.Index)
	case OutcomeLost:
		return "its data is lost: " + v.Reason
	case OutcomeSplit:
		return fmt.Sprintf("the replicas' states differ at index %d, and no majority agrees", v.Comparison.Index)
	}
	return fmt.Sprintf("the replicas' states differ at index %d, and no majority was heard yet", v.Comparison.Index)
}

// err is the refusal of a replica that v keeps from serving.
func (v *Verdict) err() error {
	if v.Outcome == OutcomeLost {
		return fmt.Errorf("%w: not tried again: %s", ErrDataLost, v.Reason)
	}
	return fmt.Errorf("%w: %s", ErrDiverged, v)
}
