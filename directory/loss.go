package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/shard"
)

// Where the directory has lost its quorum for good, shards go on (R19), and nothing can be changed any more. On an operator's word it begins anew on one node, the
// coordinator: a new group of one member, whose first entry is the newest table that any node that answers knows, in a new lineage of versions
// (nextLineage, rebuilt; R18). It grows to three members by itself.
//
// The coordinator syncs the table that it begins from, destroys its replica of the former group, if it has one, and makes the new one. That is
// there with its first entry or not at all (shard.Spec.First), so nothing is left to go on with, and nobody who has forgotten it can go on with it later:
//
//	a death of the coordinator            leaves                                                     shown by
//	before its replica is destroyed       the directory lost as it was                               TestRebuildAcrossCrashes
//	destroyed, no new one                 the same: another try, anywhere, finds the table           TestRebuildAcrossCrashes
//	the new one begun, not whole          the same: an empty replica that nobody counts, destroyed   TestFirstEntry (shard),
//	                                      by whoever hears of a later try                            TestRebuildAcrossCrashes
//	the new one whole, nobody was told    the new lineage, once the coordinator is back; where       TestRebuildAcrossCrashes
//	                                      another try was made elsewhere meanwhile, that one
//	after it was answered                 the new lineage                                            TestRebuildAcrossCrashes
//
// Of several lineages the one with the highest versions wins wherever it is heard of: a table is newer by its version alone. Whoever hears of it destroys its
// replica of any other group of the directory, which it does not list: before that takes part in anything, where its node starts and one that has heard
// answers within a second (catchUp). Until then a majority of a former group that is alive goes on, and what it changes is lost. It can do shards no harm:
//
//   - It changes a shard's members upon the shard's own configuration alone, and not through a leader that has heard of the new lineage (handleStep). What it
//     changed before the shard was settled is found then, and its steps that are under way are void (settle); of what it changes later nothing is
//     destroyed before the shard's leader says so (doubtful).
//   - Its grants, limits and recoveries are of lower versions. Version bits that it gave out are not given out again (grantMargin, adopt), and a
//     generation that it began consists of other replicas than one that the new lineage begins.
//
// So an operator must make sure that the former members are stopped, or data may be served by a generation that was given up, as with RecoverShard.

const methodSurvey = "directory.survey"

// surveyAnswer is what a node tells of itself for the sake of a lost directory.
type surveyAnswer struct {
	Version  uint64          `json:"version"` // of its table
	Holdings []shard.Holding `json:"holdings"`
}

// Rebuild asks for the rebuilding of the directory, or what that would do.
type Rebuild struct {
	// Unsafe is the operator's word that the former directory is gone for good. Without it nothing is done.
	Unsafe bool `json:"unsafe"`
	// Version is that of the newest known table, as the plan shows it: a repeat finds another one.
	Version uint64 `json:"version"`
	// Force rebuilds it though a majority of the former one is heard of.
	Force bool `json:"force"`
}

// RebuildView says what a rebuilding does, or did.
type RebuildView struct {
	Node    string `json:"node"`    // on which the directory begins anew
	Version uint64 `json:"version"` // of the newest table that is known
	// Nodes are all of that table.
	Nodes  []RebuildNode  `json:"nodes"`
	Shards []RebuildShard `json:"shards"`
	// Operations run by that table, and fail.
	Operations []uint64 `json:"operations"`
	// Against is why it is refused without force; "" for nothing.
	Against string `json:"against"`
	// Done: the new directory has begun.
	Done bool `json:"done"`
	// Became is the version of the table that it begins with.
	Became uint64 `json:"became"`
}

// RebuildNode is a node in a RebuildView.
type RebuildNode struct {
	Node    string `json:"node"`
	Answers bool   `json:"answers"`
	Version uint64 `json:"version"` // of its table; 0 where it does not answer
	// Directory is its replica of the former directory, "" for none that is known; Runs: it takes part in its group.
	Directory string `json:"directory"`
	Runs      bool   `json:"runs"`
}

// RebuildShard is a data shard in a RebuildView.
type RebuildShard struct {
	ID         shard.ID `json:"id"`
	Generation uint64   `json:"generation"`
	Leader     string   `json:"leader"` // of those that answer; "": none, so it can't be settled until it has one, or is recovered
	Running    int      `json:"running"`
}

// RebuildDirectory begins the directory anew on this node, or says what that would do. ConflictError: it is refused, and why.
// ErrOutcomeUnknown: the version of the table tells, and a repeat for the same version does no harm.
func (s *Service) RebuildDirectory(ctx context.Context, r Rebuild) (RebuildView, error) {
	if err := s.Known(); err != nil {
		return RebuildView{}, err
	}
	if !s.rebuilding.TryLock() {
		return RebuildView{}, &ConflictError{Reason: "the directory is being rebuilt on this node"}
	}
	defer s.rebuilding.Unlock()
	t, all, answers := s.findAll(ctx)
	v := s.rebuildView(t, all, answers)
	switch {
	case !s.knows(t):
		return v, &ConflictError{Reason: fmt.Sprintf("node %s is unknown: choose another one", s.self.ID)}
	case !r.Unsafe:
		return v, nil
	case r.Version != t.Version:
		return v, &ConflictError{Reason: fmt.Sprintf("the newest table that is known has version %d, not %d", t.Version, r.Version)}
	case v.Against != "" && !r.Force:
		return v, &ConflictError{Reason: v.Against}
	}
	version, err := s.lineage(t, all)
	if err != nil {
		return v, &ConflictError{Reason: err.Error()}
	}
	next, err := t.rebuilt(s.self.ID, version, all)
	if err != nil {
		return v, &ConflictError{Reason: err.Error()}
	}
	first, err := Command{RebuildTable: &RebuildTable{Table: next}}.Encode()
	if err != nil {
		return v, err
	}
	s.log.Error("the directory is rebuilt on this node, what the former one changed and nobody who answers has heard of is given up",
		"table", t.Version, "version", version, "forced", r.Force && v.Against != "", "answered", len(all))
	if err := s.keepNow(t, true); err != nil {
		return v, fmt.Errorf("keeping the table: %w", err)
	}
	former := s.host.Replicas()
	if m, member := t.member(shard.Directory, s.self.ID); member { // which the loop would open otherwise
		former = append(former, m.id(shard.Directory))
	}
	for _, id := range former {
		if id.Shard != shard.Directory {
			continue
		}
		s.leaveDirectory(id)
		err := s.host.Destroy(id.Shard, id.R)
		s.leaveDirectory(id)
		if err != nil {
			return v, fmt.Errorf("destroying replica %s: %w", id, err)
		}
	}
	spec := shard.Spec{Shard: shard.Directory, R: version, Members: []shard.Member{{Node: s.self.ID, R: version}}, First: first, Campaign: true}
	if err := s.openDirectory(spec); err != nil {
		return v, fmt.Errorf("%w: %w", shard.ErrOutcomeUnknown, err)
	}
	if _, err := s.latest.Newer(ctx, version-1); err != nil {
		return v, fmt.Errorf("%w: it has begun, but nobody leads it yet: %w", shard.ErrOutcomeUnknown, err)
	}
	v.Done, v.Became = true, version
	return v, nil
}

// lineage returns a version above all that any node has heard of, that this node made no replica of the directory of.
func (s *Service) lineage(t *Table, all []found) (uint64, error) {
	seen := t.Version
	for _, f := range all {
		for _, h := range f.holdings {
			seen = max(seen, h.Replica.R)
			if h.Cache != nil {
				seen = max(seen, h.Cache.Epoch, h.Cache.TableVersion)
			}
		}
	}
	for {
		version, err := nextLineage(seen, time.Now())
		if err != nil {
			return 0, err
		}
		// An attempt that was cut short may have left a note of a later replica.
		if fate, err := s.host.Fate(shard.ReplicaID{Shard: shard.Directory, Node: s.self.ID, R: version}); err != nil || !fate.Gone {
			return version, err
		}
		seen = version
	}
}

// findAll finds the newest table that any node has which this one reaches, and what the nodes of that table have. answers are the versions of
// their tables.
func (s *Service) findAll(ctx context.Context) (t *Table, all []found, answers map[string]uint64) {
	ctx, cancel := context.WithTimeout(ctx, 2*readAttempt)
	defer cancel()
	answers = map[string]uint64{}
	for asked := map[string]bool{}; ; {
		t = s.Table()
		var ids []string
		for _, id := range append(s.known(t), s.self.ID) {
			if !asked[id] {
				asked[id], ids = true, append(ids, id)
			}
		}
		if len(ids) == 0 {
			break
		}
		var mu sync.Mutex // guards all and answers
		var asking sync.WaitGroup
		for _, id := range ids {
			asking.Go(func() {
				a, err := s.survey(ctx, id)
				if err == nil && a.Version > t.Version {
					err = s.fetch(ctx, id, t.Version, 0)
				}
				if err != nil {
					s.log.Info("a node does not tell what it has", "of", id, "err", err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				all, answers[id] = append(all, found{id, a.Holdings}), a.Version
			})
		}
		asking.Wait() // a newer table may name others
	}
	slices.SortFunc(all, func(a, b found) int { return cmp.Compare(a.node, b.node) })
	return t, all, answers
}

// survey asks a node what it has.
func (s *Service) survey(ctx context.Context, node string) (a surveyAnswer, err error) {
	answer, err := s.host.Call(ctx, node, methodSurvey, nil)
	if err != nil { // %v: a look has no outcome that could be unknown
		return a, fmt.Errorf("%w: asking %s what it has: %v", shard.ErrUnreachable, node, err)
	}
	return a, json.Unmarshal(answer, &a)
}

// handleSurvey tells what this node has.
func (s *Service) handleSurvey(context.Context, string, []byte) ([]byte, error) {
	return json.Marshal(surveyAnswer{Version: s.Table().Version, Holdings: s.host.Holdings()})
}

// rebuildView says what a rebuilding of the directory on this node would do.
func (s *Service) rebuildView(t *Table, all []found, answers map[string]uint64) RebuildView {
	v := RebuildView{Node: s.self.ID, Version: t.Version, Nodes: []RebuildNode{}, Shards: []RebuildShard{}, Operations: []uint64{}}
	held := map[shard.ReplicaID]shard.Holding{}
	for _, f := range all {
		for _, h := range f.holdings {
			held[h.Replica] = h
		}
	}
	for _, id := range t.NodeIDs() {
		n := RebuildNode{Node: id, Version: answers[id]}
		_, n.Answers = answers[id]
		if m, member := t.member(shard.Directory, id); member {
			n.Directory = m.id(shard.Directory).String()
		}
		for replica, h := range held {
			if replica.Shard == shard.Directory && replica.Node == id {
				n.Directory, n.Runs = replica.String(), h.Runs
			}
		}
		v.Nodes = append(v.Nodes, n)
	}
	for _, sh := range t.Shards {
		r := RebuildShard{ID: sh.ID, Generation: sh.Generation}
		var term uint64
		for id, h := range held {
			if id.Shard != sh.ID || !h.Runs {
				continue
			}
			r.Running++
			if h.Ready && h.Leads && h.Term > term {
				term, r.Leader = h.Term, id.Node
			}
		}
		v.Shards = append(v.Shards, r)
	}
	for _, o := range t.Operations {
		if o.State == OperationRunning {
			v.Operations = append(v.Operations, o.ID)
		}
	}
	v.Against = t.stands(held)
	return v
}

// stands says why the directory is not lost, by what nodes hold; "" where it may be.
func (t *Table) stands(held map[shard.ReplicaID]shard.Holding) string {
	majority := func(voters []shard.ReplicaID) string {
		run := 0
		for _, id := range voters {
			if held[id].Runs {
				run++
			}
		}
		if run > len(voters)/2 {
			return fmt.Sprintf("%d of %d voters of the directory run: they are a quorum, or will be one when they reach each other", run, len(voters))
		}
		return ""
	}
	var listed []shard.ReplicaID
	for _, m := range t.Directory {
		if m.Role == RoleVoter {
			listed = append(listed, m.id(shard.Directory))
		}
	}
	why := majority(listed)
	for _, id := range slices.SortedFunc(maps.Keys(held), func(a, b shard.ReplicaID) int { return cmp.Compare(a.String(), b.String()) }) {
		h := held[id]
		if id.Shard != shard.Directory || !h.Runs {
			continue
		}
		if h.Leads && h.Ready {
			return fmt.Sprintf("the directory has a leader, %s", id.Node)
		}
		if why == "" && len(h.Voters) > 0 {
			why = majority(h.Voters)
		}
	}
	return why
}
