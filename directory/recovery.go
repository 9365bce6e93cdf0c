package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/shard"
)

// recoveryLevel is the feature level of the directory from which on shards are recovered.
const recoveryLevel = 4

const methodRecover = "shard.recover"

// RecoverShard begins a new life of a shard, its next generation: for one that has lost its quorum, on somebody's word that what
// it held may be given up. The new group is another one than the one before: its replicas have an r of their own, so no frame, vote, request or step that
// names a replica of the former generation means one of the new (R14), and it starts with nothing that it could answer with. Its
// version bits are above all that were ever granted, so nothing that it stores has a version that the former generation gave out (R3).
//
// With Keep the new group has one member, on the node of a former one, and begins with all that that one has; the new grant is in that state before anybody
// sees it (shard.Keep). Others join as they do where members are missing.
//
// All that follows is done from the table, by each node for itself: it destroys the replica that is not listed any more (retire), opens the
// one that is (unopened), and the leader that the new group elects takes the grant (grant). So the command is the only step of the protocol:
//
//	a death of the directory's leader    leaves                                                shown by
//	before the command is in the log     the shard as it was                                   TestRecoverAcrossCrashes
//	the command is not committed         either, as with any write; the caller is told         TestRecoverAcrossCrashes
//	                                     unknown, and a repeat names the former generation:
//	                                     refused where the first one was taken
//	after it is committed                the new generation; nothing is left for it to do      TestRecoverAcrossCrashes
//	a death of a new member
//	before the old replica is destroyed  the old one, which it destroys once it hears of the   TestRecoverAcrossCrashes,
//	                                     table: before it opens any replica, where a node       TestFormerMajorityReturns
//	                                     that knows it answers (catchUp)
//	destroyed, the new one not open      nothing; it opens the new one                         TestRecoverAcrossCrashes
//	while it keeps the old one's state   the old one until the new one is whole                TestKeepAcrossCrashes, shard.Keep
//
// What can be seen of the former generation: nothing, once the last of its members has heard of the table. Until then a majority of them
// that was alive all the time, and cut off from every node that has heard, goes on serving those who ask it (and where leaders read by lease,
// its leader alone for a quarter of a second longer, which the next generation waits for: shard/readlease.go); what it acknowledges meanwhile
// is lost, and clients on both sides see two states. No node can tell that from its being gone, which is why the operator must say so, and why the
// directory's leader refuses while it hears a majority (see Recovery.Force). Nodes that know the new table ask none of them: reads
// and writes name the replica that they mean.
type RecoverShard struct {
	Shard shard.ID `json:"shard"`
	// Generation is the one that ends. Precondition: the shard has it; so a command that is repeated is refused.
	Generation uint64 `json:"generation"`
	// Nodes host the new replicas; the first is to lead first. Precondition: all are known and none is drained.
	Nodes []string `json:"nodes"`
	// Keep is the r of the shard's member on Nodes[0], whose state the next generation begins with; 0: it begins empty. Precondition: there is that
	// member, and Nodes has no other; it may be drained, since the replica can leave it again.
	Keep uint64 `json:"keep,omitempty"`
	// Expect, where it is not 0, is the version that the table must have: what was found of its replicas says nothing of later ones.
	Expect uint64 `json:"expect,omitempty"`
}

func (c *RecoverShard) apply(t *Table) (*Table, string) {
	i := slices.IndexFunc(t.Shards, func(s Shard) bool { return s.ID == c.Shard })
	switch {
	case t.Level < recoveryLevel:
		return nil, fmt.Sprintf("the directory has feature level %d, a recovery needs %d", t.Level, recoveryLevel)
	case i < 0:
		return nil, fmt.Sprintf("shard %d is unknown", c.Shard)
	case t.Shards[i].Generation != c.Generation:
		return nil, fmt.Sprintf("shard %d has generation %d, not %d", c.Shard, t.Shards[i].Generation, c.Generation)
	case c.Expect != 0 && t.Version != c.Expect:
		return nil, fmt.Sprintf("the table has version %d, not %d", t.Version, c.Expect)
	case t.VersionGrant >= maxVersionBits:
		return nil, "all version bits are granted"
	case len(c.Nodes) == 0 || len(c.Nodes) > maxReplicas:
		return nil, fmt.Sprintf("%d nodes for a shard", len(c.Nodes))
	case c.Keep != 0 && len(c.Nodes) != 1:
		return nil, fmt.Sprintf("%d nodes for what one has", len(c.Nodes))
	}
	if m, member := t.Shards[i].Member(c.Nodes[0]); c.Keep != 0 && (!member || m.R != c.Keep) {
		return nil, fmt.Sprintf("node %s has no replica %d of shard %d", c.Nodes[0], c.Keep, c.Shard)
	}
	next := t.clone()
	next.Version++
	next.VersionGrant++
	sh := &next.Shards[i]
	sh.Generation++
	sh.Epoch, sh.VersionBits = next.Version, next.VersionGrant
	sh.Members = nil
	for _, node := range c.Nodes {
		if t.drained(node) && c.Keep == 0 {
			return nil, fmt.Sprintf("node %s is drained", node)
		}
		sh.Members = append(sh.Members, Member{Node: node, R: next.Version, Role: RoleVoter})
	}
	sh.Bootstrap, sh.Kept, sh.Unsettled = slices.Clone(sh.Members), c.Keep, false
	if err := next.validateShard(*sh); err != nil {
		return nil, err.Error()
	}
	for n, o := range next.Operations {
		if o.Shard == c.Shard && o.State == OperationRunning {
			next.Operations[n].State, next.Operations[n].Phase, next.Operations[n].Detail = OperationFailed, "", ""
			next.Operations[n].Error = fmt.Sprintf("the shard was recovered: its generation %d began", sh.Generation)
		}
	}
	next.NextOperation++
	detail := fmt.Sprintf("generation %d began; what generation %d held is given up", sh.Generation, c.Generation)
	if c.Keep != 0 {
		detail = fmt.Sprintf("generation %d began with what replica %d/%s/%d of generation %d had", sh.Generation, sh.ID, c.Nodes[0], c.Keep, c.Generation)
	}
	next.keepOperation(Operation{ID: next.NextOperation, Kind: RecoverGeneration, Shard: sh.ID, Node: c.Nodes[0], R: next.Version, State: OperationDone,
		Detail: detail})
	return next, ""
}

// began returns the table version with which a shard's present generation began: no replica of it has a lower r, and all of
// former ones do. 0 for the directory's own group.
func (t *Table) began(id shard.ID) uint64 {
	s, ok := t.Shard(id)
	if !ok {
		return 0
	}
	return s.Bootstrap[0].R
}

// former reports whether a replica, by its server id, is of a generation of its shard that has ended. It is granted nothing: two generations would number
// their changes alike.
func (t *Table) former(replica string) bool {
	id, err := shard.ParseReplicaID(replica)
	return err == nil && id.R < t.began(id.Shard)
}

// newHosts chooses nodes for a new group of a shard, as many as the settings say where there are enough that are up and not drained: by zone and
// load, as if the shard were nowhere yet.
func (t *Table) newHosts(id shard.ID, v outlook) []string {
	rest := t.clone()
	rest.setMembers(id, nil)
	loads := rest.loads(v)
	var chosen []Member
	var nodes []string
	for len(chosen) < t.Settings.Replicas {
		node := t.target(chosen, Member{}, v.sights, loads)
		if node == "" {
			break
		}
		chosen, nodes = append(chosen, Member{Node: node}), append(nodes, node)
	}
	return nodes
}

// Recovery asks for the recovery of a shard, or what it would do.
type Recovery struct {
	Shard shard.ID `json:"shard"`
	// Unsafe is the operator's word that what the shard held may be lost. Without it nothing is done.
	Unsafe bool `json:"unsafe"`
	// KeepData begins the next generation with what one replica of the former one has, instead of empty. Without Unsafe: the plan of that.
	KeepData bool `json:"keep_data"`
	// Generation is the one that is to end, as the plan shows it.
	Generation uint64 `json:"generation"`
	// Force recovers a shard whose majority is heard of.
	Force bool `json:"force"`
}

// RecoveryView says what a recovery does, or did.
type RecoveryView struct {
	Shard      shard.ID         `json:"shard"`
	Generation uint64           `json:"generation"` // the one that ends
	Former     []RecoveryMember `json:"former"`     // its members
	Nodes      []string         `json:"nodes"`      // hosts of the new replicas
	// Kept is the former replica whose state is kept; "" for none.
	Kept string `json:"kept,omitempty"`
	// Against is why it is refused without force; "" for nothing.
	Against string `json:"against"`
	// Done: it was recorded, and the shard begins its next generation.
	Done bool `json:"done"`
	// Operation is what was recorded of it.
	Operation uint64 `json:"operation"`
}

// RecoveryMember is what the directory's leader knows of a replica that a recovery gives up.
type RecoveryMember struct {
	Node    string `json:"node"`
	Replica string `json:"replica"` // server id
	State   string `json:"state"`   // NodeUp or NodeDown
	// Runs: its node reports that it takes part in its group with its state.
	Runs bool `json:"runs"`
	// Term is that of the last entry of its log, where what is to be kept was looked for.
	Term uint64 `json:"term,omitempty"`
	Last uint64 `json:"last"` // the last index of its log, where it runs
}

// recoveryAnswer is how the directory's leader answers.
type recoveryAnswer struct {
	View     RecoveryView `json:"view"`
	Conflict string       `json:"conflict,omitempty"`
	Unknown  bool         `json:"unknown,omitempty"` // there is no such shard
}

// RecoverShard has the directory's leader begin the next generation of a shard, or say what that would do. ConflictError: it is refused, and why;
// UnknownError: there is no such shard. ErrOutcomeUnknown: the shard's generation tells, and a repeat for the same
// generation does no harm.
func (s *Service) RecoverShard(ctx context.Context, r Recovery) (RecoveryView, error) {
	for {
		if err := s.Known(); err != nil {
			return RecoveryView{}, err
		}
		answer, err := s.askRecovery(ctx, r)
		if _, again := retryable(err); again && s.pause(ctx) {
			continue
		}
		if !r.Unsafe && errors.Is(err, shard.ErrOutcomeUnknown) { // nothing was asked that could have happened
			err = fmt.Errorf("%w: the directory's leader did not answer: %v", shard.ErrUnreachable, err)
		}
		switch {
		case err != nil:
			return RecoveryView{}, err
		case answer.Unknown:
			return RecoveryView{}, &UnknownError{What: "shard", Name: fmt.Sprint(r.Shard)}
		case answer.Conflict != "":
			return RecoveryView{}, &ConflictError{Reason: answer.Conflict}
		}
		return answer.View, nil
	}
}

// askRecovery asks the directory's leader, once.
func (s *Service) askRecovery(ctx context.Context, r Recovery) (answer recoveryAnswer, err error) {
	request, err := json.Marshal(r)
	if err != nil {
		return answer, err
	}
	leader := cmp.Or(s.believedLeader(shard.Directory), s.anyMember(shard.Directory))
	for range 3 {
		if leader == "" {
			return answer, fmt.Errorf("%w: the directory", shard.ErrNoLeader)
		}
		var bytes []byte
		bytes, err = s.host.Call(ctx, leader, methodRecover, request)
		var notLeader *shard.NotLeaderError
		if err == nil {
			if err := json.Unmarshal(bytes, &answer); err != nil {
				return answer, fmt.Errorf("%w: unreadable answer of %s: %w", shard.ErrOutcomeUnknown, leader, err)
			}
			return answer, nil
		}
		if !shard.Refused(err) || !errors.As(err, &notLeader) || notLeader.Leader == "" || notLeader.Leader == leader {
			return answer, err
		}
		leader = notLeader.Leader
	}
	return answer, err
}

func (s *Service) believedLeader(id shard.ID) string {
	leader, _ := s.soft.leader(id)
	return leader
}

// handleRecover plans and records a recovery where this node leads the directory: it hears all nodes, and judges by that.
func (s *Service) handleRecover(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var r Recovery
	if err := json.Unmarshal(payload, &r); err != nil {
		return nil, fmt.Errorf("request for a recovery: %w", err)
	}
	answer, err := s.recoverHere(ctx, r)
	if err != nil {
		return nil, err
	}
	return json.Marshal(answer)
}

func (s *Service) recoverHere(ctx context.Context, r Recovery) (answer recoveryAnswer, err error) {
	if st, ok := s.soft.status(shard.Directory); !ok || st.Role != shard.RoleLeader || !st.Ready {
		return answer, &shard.NotLeaderError{Leader: st.Leader}
	}
	for time.Since(*s.began.Load()) < softLife { // who just began to look has not heard those that are there
		if !s.pause(ctx) {
			return answer, shard.ErrDeadline
		}
	}
	t := s.Table()
	sh, ok := t.Shard(r.Shard)
	if !ok {
		return recoveryAnswer{Unknown: true}, nil
	}
	answer.View = s.recoveryView(t, sh, s.answering(ctx, t))
	var keep Member
	if r.KeepData {
		if keep, err = s.newest(ctx, sh, &answer.View); err != nil {
			answer.Conflict = err.Error()
			return answer, nil
		}
	}
	switch v := answer.View; {
	case !r.Unsafe:
		return answer, nil
	case r.Generation != sh.Generation:
		answer.Conflict = fmt.Sprintf("shard %d has generation %d, not %d", sh.ID, sh.Generation, r.Generation)
	case len(v.Nodes) == 0:
		answer.Conflict = "no node that answers takes a replica"
	case v.Against != "" && !r.Force:
		answer.Conflict = v.Against
	}
	if answer.Conflict != "" {
		return answer, nil
	}
	result, err := s.Propose(ctx, Command{Recover: &RecoverShard{Shard: sh.ID, Generation: r.Generation, Nodes: answer.View.Nodes, Keep: keep.R}})
	if err != nil {
		return answer, err
	}
	if result.Outcome == OutcomeRefused {
		answer.Conflict = result.Reason
		return answer, nil
	}
	answer.View.Done, answer.View.Operation = true, result.Operation
	s.log.Error("a shard is recovered, what it held is given up but for what a replica that is kept has", "kept", answer.View.Kept, "shard", sh.ID, "generation", sh.Generation+1, "epoch", result.Version,
		"nodes", answer.View.Nodes, "forced", r.Force && answer.View.Against != "")
	return answer, nil
}

// newest finds the replica of a shard that has the most of its log, by the rule of elections (Raft, 5.4.1), among those that run, and makes the view
// one of a recovery that keeps what that one has. All others are destroyed. So none that runs is passed over because it does not tell what it
// has, for a moment; and none is taken that has nothing, above all one that is not open yet: what it is to begin with would be destroyed.
func (s *Service) newest(ctx context.Context, sh Shard, v *RecoveryView) (best Member, err error) {
	var last shard.Fate
	for i, m := range sh.Members {
		if !v.Former[i].Runs {
			continue
		}
		fate, err := s.fate(ctx, m.id(sh.ID))
		if err != nil {
			return Member{}, fmt.Errorf("replica %s may have the newest log, and does not tell: try again, or stop its node (%v)", m.id(sh.ID), err)
		}
		if fate.Last == 0 {
			continue
		}
		v.Former[i].Term, v.Former[i].Last = fate.LastTerm, fate.Last
		if best.Node == "" || cmp.Or(cmp.Compare(fate.LastTerm, last.LastTerm), cmp.Compare(fate.Last, last.Last)) > 0 {
			best, last = m, fate
		}
	}
	if best.Node == "" {
		return best, fmt.Errorf("no replica of shard %d that runs has anything to keep", sh.ID)
	}
	v.Nodes, v.Kept = []string{best.Node}, best.id(sh.ID).String()
	return best, nil
}

// answering asks all nodes of t and counts as up those that answer: one that died a moment ago must not host a replica of a group that is to
// serve at once.
func (s *Service) answering(ctx context.Context, t *Table) map[string]sight {
	ctx, cancel := context.WithTimeout(ctx, readAttempt)
	defer cancel()
	sights := map[string]sight{s.self.ID: {up: true}}
	var mu sync.Mutex // guards sights
	var asked sync.WaitGroup
	for _, id := range t.NodeIDs() {
		if id == s.self.ID {
			continue
		}
		asked.Go(func() {
			up := s.fetch(ctx, id, t.Version, 0) == nil
			mu.Lock()
			defer mu.Unlock()
			sights[id] = sight{up: up}
		})
	}
	asked.Wait()
	return sights
}

// recoveryView says what a recovery of a shard would do now, on nodes that sights has up.
func (s *Service) recoveryView(t *Table, sh Shard, sights map[string]sight) RecoveryView {
	look := s.outlook(t)
	look.sights = sights
	v := RecoveryView{Shard: sh.ID, Generation: sh.Generation, Former: []RecoveryMember{}, Nodes: t.newHosts(sh.ID, look)}
	run := 0
	for _, m := range sh.Members {
		state, _ := s.soft.state(m.Node)
		f := RecoveryMember{Node: m.Node, Replica: m.id(sh.ID).String(), State: state}
		if r, ok := s.soft.replica(m.Node, sh.ID); ok && state == NodeUp && !r.diverged {
			f.Runs, f.Last = true, r.last
		}
		if f.Runs && m.Role == RoleVoter {
			run++
		}
		v.Former = append(v.Former, f)
	}
	if all := voters(sh.Members); run > all/2 {
		v.Against = fmt.Sprintf("%d of %d voters of shard %d run: they are a quorum, or will be one when they reach each other", run, all, sh.ID)
	}
	return v
}
