package directory

import (
	"fmt"
	"slices"
	"strings"

	"github.com/larder-cache/larder/shard"
)

// FormReport is what a node says about itself to another that forms the cluster.
type FormReport struct {
	Node Node `json:"node"`
	// Names are the ids of the initial nodes that this node was started with, in order; empty for a
	// node that joined later.
	Names    []string `json:"names"`
	Settings Settings `json:"settings"`
	// Cluster is the id of the cluster that this node persisted, "" while it has not formed.
	Cluster string `json:"cluster"`
	// List is what this node takes for the founders, itself included: the persisted list once it has
	// formed, until then what it heard last of each.
	List []shard.Founder `json:"list"`
	// Level and ShardLevel are the highest feature levels that the node's build knows; 0 is 1.
	Level      uint8 `json:"level,omitempty"`
	ShardLevel uint8 `json:"shard_level,omitempty"`
	// Memory is that of the node's process, bytes; 0 where it is not told.
	Memory uint64 `json:"memory,omitempty"`
}

// former is the pure core of forming a cluster (R14): it decides on which list of founders the
// cluster id is made. It does no I/O and has no clock; its owner calls it from one goroutine at a
// time. (Forming runs in rounds, see Service.form.)
//
// In a round a node asks each other initial node once for its report. It persists a list when, in
// one round, each of them reported exactly the list that it held itself from the start of the round
// to its end. Once it has persisted, it reports that list for ever. A node that has not formed and
// hears from one that has adopts its list, if its own incarnation is in it; if not, its data was
// lost. An answer counts only in the round that asked for it, and teaches nothing but the answering
// node's own incarnation.
//
// No two data folders ever hold different persisted lists at the same time. Call a list made when it
// is persisted by a round and not by adoption. Let L1 be made in a round [s1,e1] and another list L2
// in [s2,e2], and let a node x hold L1 as the incarnation x1.
//
// Lemma: s2 < s1, unless x lost x1 before it reported L2. In L2's round x reported L2, at some time
// t >= s2, since a report counts only in the round that asked for it.
//   - As an earlier incarnation than x1: t < birth of x1 < s1, as L1's maker listed x1 from s1 on.
//   - As x1, which made L1: x1 reports nothing but L1 from s1 on, so t < s1.
//   - As x1, which adopted L1 from a node w: t is before the adoption. Look at w's own report in
//     L2's round. Given as an earlier incarnation than the one that x adopts from, it is before s1, as
//     above. Given as the same one, the lemma holds by induction over the order of adoptions. Given as
//     a later one, x knew that later one at t, so it had asked w again after the answer that it adopts
//     from; but answers of one node are handled in order, and a formed one is adopted at once.
//
// Now let x hold L1 and y hold L2 at one time. Neither was wiped since, so s2 < s1 and s1 < s2: absurd.
//
// An answer from an incarnation that died meanwhile does no harm: what counts is when it was given.
// A crash before the list is synced leaves an unformed node that starts a new round, a crash after it
// a formed node. A node that is wiped in the middle either comes back before the others made a list,
// and they wait for its new incarnation, or finds itself not in the list.
//
// Taken for granted: of a node's incarnations one runs at a time (the data folder is locked, and the
// address leads to one machine), and folders are not brought back from copies.
type former struct {
	self     FormReport // List and Cluster kept current
	heard    map[string]string
	round    []shard.Founder // own list at the start of the round, nil while none runs
	agreed   map[string]bool // nodes that reported round in this round
	persists bool            // a decision was handed out: nothing changes until it is on disk
}

// founding is a decision: the list to persist, and the cluster id that follows from it.
type founding struct {
	cluster string
	list    []shard.Founder
}

// newFormer returns the core for a node that has not formed, or has formed as formed says.
func newFormer(self FormReport, formed *founding) *former {
	self.Names = slices.Sorted(slices.Values(self.Names))
	f := &former{self: self, heard: make(map[string]string)}
	if formed != nil {
		f.self.Cluster, f.self.List = formed.cluster, formed.list
		return f
	}
	f.learn(self.Node.ID, self.Node.Incarnation)
	return f
}

// report returns what this node answers now. The caller must not change its lists.
func (f *former) report() FormReport { return f.self }

// formed reports whether the list is persisted.
func (f *former) formed() bool { return f.self.Cluster != "" }

// begin starts a round.
func (f *former) begin() {
	f.round = f.self.List
	f.agreed = make(map[string]bool)
}

// answer takes in what node from answered in this round. It returns a decision to persist when from
// has formed a cluster that this node is a founder of. An error is final: this node must stop.
func (f *former) answer(from string, r FormReport) (*founding, error) {
	if f.formed() || f.persists {
		return nil, nil
	}
	me := f.self.Node
	if r.Node.ID != from {
		return nil, fmt.Errorf("the node at the address of %s calls itself %s", from, r.Node.ID)
	}
	if r.Cluster != "" {
		for _, founder := range r.List {
			switch {
			case founder.Node != me.ID:
			case founder.Incarnation == me.Incarnation:
				if id := shard.ClusterID(r.List); id != r.Cluster {
					return nil, fmt.Errorf("%s reports cluster %s, but its founders make %s", from, r.Cluster, id)
				}
				f.persists = true
				return &founding{r.Cluster, r.List}, nil
			default:
				return nil, fmt.Errorf("%w: cluster %s knows node %s by the data folder with incarnation %s, this folder has incarnation %s: "+
					"the data of %s was wiped or moved away, and what it promised to its peers with it, so it may not go on under this id. "+
					"The cluster goes on with its other members: remove %s from its shards (larder member remove), forget it (larder node remove), "+
					"and start it with --join and an empty folder",
					shard.ErrRejoin, r.Cluster, me.ID, founder.Incarnation, me.Incarnation, me.ID, me.ID)
			}
		}
	}
	if r.Cluster != "" && len(r.List) == 0 {
		return nil, fmt.Errorf("%s is in cluster %s, which it joined after that was formed: no other can be formed with it. If %s was a member there and its "+
			"data was wiped or moved away, forget it (larder node remove --force); then, and if it is new, start it with --join and an empty folder",
			from, r.Cluster, me.ID)
	}
	if !slices.Equal(f.self.Names, r.Names) {
		return nil, fmt.Errorf("the lists of initial nodes differ: %s here, %s on %s",
			strings.Join(f.self.Names, ","), strings.Join(r.Names, ","), from)
	}
	if name, mine, theirs := f.self.Settings.difference(r.Settings); name != "" {
		return nil, fmt.Errorf("the settings for the first start differ: %s is %s here, %s on %s", name, mine, theirs, from)
	}
	f.learn(from, r.Node.Incarnation)
	if slices.Equal(f.round, r.List) {
		f.agreed[from] = true
	}
	return nil, nil
}

// end ends the round: it returns the decision to persist, nil when the round did not agree.
func (f *former) end() *founding {
	round := f.round
	f.round = nil
	if f.formed() || f.persists || len(round) != len(f.self.Names) || !slices.Equal(round, f.self.List) {
		return nil
	}
	for _, name := range f.self.Names {
		if name != f.self.Node.ID && !f.agreed[name] {
			return nil
		}
	}
	f.persists = true
	return &founding{shard.ClusterID(round), round}
}

// persisted tells that a decision is on disk.
func (f *former) persisted(d *founding) {
	f.self.Cluster, f.self.List = d.cluster, d.list
	f.persists = false
}

// learn notes the incarnation of a node. A list that was reported is never changed, but replaced.
func (f *former) learn(node, incarnation string) {
	if f.heard[node] == incarnation {
		return
	}
	f.heard[node] = incarnation
	list := make([]shard.Founder, 0, len(f.heard))
	for n, i := range f.heard {
		list = append(list, shard.Founder{Node: n, Incarnation: i})
	}
	slices.SortFunc(list, func(a, b shard.Founder) int { return strings.Compare(a.Node, b.Node) })
	f.self.List = list
}
