package directory

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// lossLevel is the feature level of the directory from which on a lost one is rebuilt.
const lossLevel = 4

// RebuildTable is the first entry of a directory that begins anew, as the one before has lost its quorum for good (RebuildDirectory).
// Precondition: the table is empty; it is never proposed, so no group has it but as its first entry.
type RebuildTable struct {
	Table *Table `json:"table"`
}

func (c *RebuildTable) apply(t *Table) (*Table, string) {
	switch {
	case t.Founded():
		return nil, fmt.Sprintf("there is a table of version %d", t.Version)
	case c.Table == nil || c.Table.Rebuilt == 0 || c.Table.Rebuilt != c.Table.Version:
		return nil, "it holds no table that a lineage begins with"
	}
	if err := c.Table.Validate(); err != nil {
		return nil, err.Error()
	}
	return c.Table.clone(), "" // c belongs to the caller
}

// SettleMembers records what a shard's leader told of it after the directory was rebuilt. Preconditions: the shard is unsettled, has that
// generation, and no other range; its voters' nodes are known.
type SettleMembers struct {
	Shard      shard.ID `json:"shard"`
	Generation uint64   `json:"generation"` // by the table
	// Voters are all members that the shard has.
	Voters []Member `json:"voters"`
	// Has is what its state machine was granted last, Leader the node that told.
	Has    HeldGrant `json:"has"`
	Leader string    `json:"leader"`
}

// HeldGrant is what a shard's state machine was granted, as it tells itself.
type HeldGrant struct {
	Start       uint32 `json:"start"`
	End         uint32 `json:"end"`
	Epoch       uint64 `json:"epoch"`
	Generation  uint64 `json:"generation"` // 0: none yet
	VersionBits uint32 `json:"version_bits"`
}

func heldGrant(st fsm.Stats) HeldGrant {
	return HeldGrant{Start: st.Range.Start, End: st.Range.End, Epoch: st.Epoch, Generation: st.Generation, VersionBits: st.VersionBits()}
}

// compare orders grants as the state machines do.
func (g HeldGrant) compare(o HeldGrant) int {
	return cmp.Or(cmp.Compare(g.Generation, o.Generation), cmp.Compare(g.Epoch, o.Epoch), cmp.Compare(g.VersionBits, o.VersionBits))
}

func (c *SettleMembers) apply(t *Table) (*Table, string) {
	i := slices.IndexFunc(t.Shards, func(s Shard) bool { return s.ID == c.Shard })
	switch {
	case i < 0:
		return nil, fmt.Sprintf("shard %d is unknown", c.Shard)
	case !t.Shards[i].Unsettled:
		return nil, fmt.Sprintf("shard %d is settled", c.Shard)
	case t.Shards[i].Generation != c.Generation:
		return nil, fmt.Sprintf("shard %d has generation %d, not %d", c.Shard, t.Shards[i].Generation, c.Generation)
	case c.Has.Generation > 0 && (c.Has.Start != t.Shards[i].Start || c.Has.End != t.Shards[i].End):
		return nil, fmt.Sprintf("shard %d has slots [%d, %d), not [%d, %d)", c.Shard, t.Shards[i].Start, t.Shards[i].End, c.Has.Start, c.Has.End)
	}
	next := t.clone()
	next.Version++
	sh := &next.Shards[i]
	if why := next.adopt(sh, c.Has, c.Leader); why != "" {
		return nil, why
	}
	sh.Members, sh.Unsettled = slices.Clone(c.Voters), false
	if err := next.validateShard(*sh); err != nil {
		return nil, err.Error()
	}
	return next, ""
}

// adopt gives a shard of a table that is not published yet what its own state machine, on a node, has of a lineage of the directory that is lost, where
// that is newer. Version bits that this table did not give it are replaced by others above: it can't know whom else they were given to.
func (t *Table) adopt(sh *Shard, has HeldGrant, node string) (refusal string) {
	own := HeldGrant{Generation: sh.Generation, Epoch: sh.Epoch, VersionBits: sh.VersionBits}
	if has.compare(own) <= 0 {
		return ""
	}
	if has.Generation > sh.Generation {
		// Who else began it is not known: others join. This one is there already. All of them have an r that is no lower than the epoch.
		sh.Bootstrap, sh.Kept = []Member{{Node: node, R: has.Epoch, Role: RoleVoter}}, 0
	}
	sh.Start, sh.End, sh.Epoch, sh.Generation = has.Start, has.End, has.Epoch, has.Generation
	if has.VersionBits != sh.VersionBits {
		t.VersionGrant = max(t.VersionGrant, has.VersionBits)
		if t.VersionGrant >= maxVersionBits {
			return "all version bits are granted"
		}
		t.VersionGrant++
		sh.VersionBits = t.VersionGrant
	}
	return ""
}

// The versions of a rebuilt table's lineage begin where no other lineage comes: with the second in which it began, over 20 bits that count changes, of which
// the lower 19 are drawn at random at first. Of two lineages the later one has the higher versions, whoever made them, as far as the nodes' clocks are right; so one that
// was begun and forgotten does not outrank one that is in use. Whatever clocks show, a lineage begins by more than 2^20 above all versions that were heard of.
// Versions stay below 2^53, so that all who read numbers of JSON as floats have them exactly.
const (
	lineageBits = 20
	maxSecond   = 1<<(53-lineageBits) - 1
)

// nextLineage returns the version that a rebuilt table begins with, above seen.
func nextLineage(seen uint64, now time.Time) (uint64, error) {
	second := seen>>lineageBits + 2
	if clock := now.Unix(); clock > int64(second) && clock <= maxSecond/2 { // else it is no clock
		second = uint64(clock)
	}
	if second > maxSecond {
		return 0, fmt.Errorf("no versions are left above %d", seen)
	}
	return second<<lineageBits + rand.Uint64N(1<<(lineageBits-1)), nil
}

// The lost lineage may have given out what nobody who answers has heard of: version bits, ids of operations. Those of a new one begin so far above.
const (
	grantMargin     = 1024
	operationMargin = 1024
)

// found is what one node has, as it answered a survey.
type found struct {
	node     string
	holdings []shard.Holding
}

// rebuilt returns the table that a new lineage of the directory begins with, on one node and with a version, from the newest table t that was found,
// and from what nodes hold. It is pure. Who the members of shards are is a guess at first: all shards are unsettled.
func (t *Table) rebuilt(node string, version uint64, all []found) (*Table, error) {
	if t.Level < lossLevel {
		return nil, fmt.Errorf("the table has feature level %d, a directory is rebuilt from %d on", t.Level, lossLevel)
	}
	next := t.clone()
	next.Version, next.Rebuilt, next.SettingsVersion = version, version, version
	next.Directory = []Member{{Node: node, R: version, Role: RoleVoter}}
	for n, o := range next.Operations {
		if o.State == OperationRunning {
			next.Operations[n].State, next.Operations[n].Phase, next.Operations[n].Detail = OperationFailed, "", ""
			next.Operations[n].Error = "the directory was lost while it ran, and rebuilt"
		}
	}
	for _, f := range all {
		for _, h := range f.holdings {
			if _, known := t.Shard(h.Replica.Shard); h.Replica.Shard != shard.Directory && !known {
				return nil, fmt.Errorf("node %s has a replica of shard %d, which no table that was found has", f.node, h.Replica.Shard)
			}
			if h.Cache != nil {
				next.VersionGrant = max(next.VersionGrant, h.Cache.VersionBits())
			}
		}
	}
	if next.VersionGrant >= maxVersionBits {
		return nil, errors.New("all version bits are granted")
	}
	next.VersionGrant += min(grantMargin, (maxVersionBits-next.VersionGrant)/2)
	for i := range next.Shards {
		sh := &next.Shards[i]
		held, grantedBy, members := sh.found(all)
		if why := next.adopt(sh, held, grantedBy); why != "" {
			return nil, errors.New(why)
		}
		members = slices.DeleteFunc(members, func(m Member) bool { _, known := next.Nodes[m.Node]; return !known })
		if next.validateMembers(members, 1) == nil {
			sh.Members = members
		}
		// The lost lineage may have set later limits: that of this table is set anew.
		sh.Unsettled, sh.LimitVersion = true, version
	}
	slices.SortFunc(next.Shards, func(a, b Shard) int { return cmp.Compare(a.Start, b.Start) })
	next.NextOperation += operationMargin
	next.keepOperation(Operation{ID: next.NextOperation, Kind: RebuildDirectory, Shard: shard.Directory, Node: node, R: version, State: OperationDone,
		Detail: fmt.Sprintf("the directory was rebuilt from the table of version %d", t.Version)})
	if err := next.Validate(); err != nil {
		return nil, fmt.Errorf("what the shards hold makes no whole: %w", err)
	}
	return next, nil
}

// found returns the newest grant of a shard that any node holds, and who does; and the members by the configuration that is most likely the
// latest: that of who leads in the highest term, else of who has the longest log in the highest generation; none where nobody runs.
func (s Shard) found(all []found) (held HeldGrant, grantedBy string, members []Member) {
	var best shard.Holding
	var bestHeld HeldGrant
	for _, f := range all {
		for _, h := range f.holdings {
			if h.Replica.Shard != s.ID || !h.Runs || h.Replica.R < s.Bootstrap[0].R { // the last is of a generation that the table has ended
				continue
			}
			var g HeldGrant
			if h.Cache != nil {
				g = heldGrant(*h.Cache)
			}
			if grantedBy == "" || g.compare(held) > 0 {
				held, grantedBy = g, f.node
			}
			if len(h.Voters) == 0 {
				continue
			}
			leads := func(h shard.Holding) uint64 {
				if h.Leads {
					return h.Term
				}
				return 0
			}
			if members == nil || cmp.Or(cmp.Compare(g.Generation, bestHeld.Generation), cmp.Compare(leads(h), leads(best)), cmp.Compare(h.Last, best.Last)) > 0 {
				best, bestHeld, members = h, g, membersOf(h.Voters, h.Learners)
			}
		}
	}
	return held, grantedBy, members
}

func membersOf(voters, learners []shard.ReplicaID) []Member {
	members := []Member{}
	for _, id := range voters {
		members = append(members, Member{Node: id.Node, R: id.R, Role: RoleVoter})
	}
	for _, id := range learners {
		members = append(members, Member{Node: id.Node, R: id.R, Role: RoleLearner})
	}
	return members
}
