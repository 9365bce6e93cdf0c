package directory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/larder-cache/larder/shard"
)

// stepPause is the time between two looks of somebody who waits for a leader.
const stepPause = 20 * time.Millisecond

// Members returns a shard's configuration, confirmed by a quorum after the call began; 0 is the
// directory. UnknownError: there is no such shard; others refuse, as no leader can be asked.
func (s *Service) Members(ctx context.Context, id shard.ID) (MembersView, error) {
	conf, leader, _, err := s.ask(ctx, id)
	if err != nil {
		return MembersView{}, err
	}
	view := MembersView{Shard: id, Conf: confTag(conf), Leader: leader, Members: []MemberDetail{}}
	add := func(members []shard.Progress, role Role) {
		for _, p := range members {
			state, _ := s.soft.state(p.Replica.Node)
			view.Members = append(view.Members, MemberDetail{Node: p.Replica.Node, Replica: p.Replica.String(), Role: role, State: state,
				Match: p.Match, Last: conf.Last, Diverged: p.Stopped})
		}
	}
	add(conf.Voters, RoleVoter)
	add(conf.Learners, RoleLearner)
	return view, nil
}

// confTag is the ETag of a configuration, without quotes.
func confTag(conf shard.Configuration) string {
	return fmt.Sprintf("%d-%d", max(conf.Generation, 1), conf.Index)
}

// ask returns a shard's configuration, its leader, and the table by which there is such a shard. While
// the shard elects, it waits.
func (s *Service) ask(ctx context.Context, id shard.ID) (conf shard.Configuration, leader string, t *Table, err error) {
	for {
		t = s.Table()
		if err := s.Known(); err != nil {
			return conf, "", t, err
		}
		if _, ok := t.Members(id); !ok {
			return conf, "", t, &UnknownError{What: "shard", Name: fmt.Sprint(id)}
		}
		try, cancel := context.WithTimeout(ctx, readAttempt)
		conf, leader, err = s.configuration(try, id)
		cancel()
		if err == nil || !s.pause(ctx) {
			return conf, leader, t, err
		}
	}
}

// knowing returns a table that knows a node. One that joined just now may not be in this node's table
// yet: before it says so, it looks at that of the directory's leader.
func (s *Service) knowing(ctx context.Context, t *Table, node string) (*Table, error) {
	if _, known := t.Nodes[node]; known {
		return t, nil
	}
	if leader, _ := s.soft.leader(shard.Directory); leader != "" && leader != s.self.ID {
		try, cancel := context.WithTimeout(ctx, readAttempt)
		defer cancel()
		if err := s.fetch(try, leader, t.Version, 0); err != nil { // %v: a look has no outcome that could be unknown
			return t, fmt.Errorf("%w: whether node %s is known: %v", shard.ErrUnreachable, node, err)
		}
		t = s.Table()
	}
	if _, known := t.Nodes[node]; !known {
		return t, &UnknownError{What: "node", Name: node}
	}
	return t, nil
}

// pause waits a moment; false once ctx ended or the service closes.
func (s *Service) pause(ctx context.Context) bool {
	t := time.NewTimer(stepPause)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
	case <-s.ctx.Done():
	}
	return false
}

// ChangeMember begins an operation that adds or removes a member and returns it once it is recorded.
// What forbids it now is a ConflictError, another conf version a ConfError; the conditions that only
// the log can decide are decided there. ErrOutcomeUnknown: Operations tells whether it began.
func (s *Service) ChangeMember(ctx context.Context, c MemberChange) (OperationView, error) {
	conf, leader, t, err := s.ask(ctx, c.Shard)
	if err != nil {
		return OperationView{}, err
	}
	table := t.Version
	if t, err = s.knowing(ctx, t, c.Node); err != nil {
		return OperationView{}, err
	}
	if c.Conf != "" && c.Conf != confTag(conf) {
		return OperationView{}, &ConfError{Conf: confTag(conf)}
	}
	// One that joined just now was not heard here yet.
	unheard := func() bool { _, seen := s.soft.state(c.Node); return seen.IsZero() }
	for began := time.Now(); c.Add && unheard() && time.Since(began) < softLife && s.pause(ctx); {
	}
	if why := s.forbids(t, c, conf, leader); why != "" {
		return OperationView{}, &ConflictError{Reason: why}
	}
	kind := RemoveMember
	if c.Add {
		kind = AddMember
	}
	result, err := s.change(ctx, Command{Start: &StartOperation{Kind: kind, Shard: c.Shard, Node: c.Node, Conf: conf.Index, Table: table}})
	if err != nil {
		return OperationView{}, err
	}
	return s.operationAfter(ctx, result, result.Operation)
}

// forbids says what stands against a change now, "" for nothing. It is advice: what must hold is
// checked again when the change is applied, and before each of its steps.
func (s *Service) forbids(t *Table, c MemberChange, conf shard.Configuration, leader string) string {
	if o, runs := t.runningOn(c.Shard); runs && !bugTwoChanges.on() {
		return fmt.Sprintf("operation %d runs on shard %d: one at a time", o.ID, c.Shard)
	}
	has, member := t.member(c.Shard, c.Node)
	state, _ := s.soft.state(c.Node)
	switch {
	case c.Add && member:
		return fmt.Sprintf("node %s has a replica of shard %d already", c.Node, c.Shard)
	case c.Add && state != NodeUp:
		return fmt.Sprintf("node %s is down", c.Node)
	case c.Add && t.drained(c.Node):
		return fmt.Sprintf("node %s is drained", c.Node)
	case c.Add:
		return oneMore(conf, leader)
	case !member:
		return fmt.Sprintf("node %s has no replica of shard %d", c.Node, c.Shard)
	case has.Role == RoleVoter:
		return costsQuorum(conf, leader, shard.ReplicaID{Shard: c.Shard, Node: c.Node, R: has.R})
	}
	return ""
}

// change proposes c for a user: a refusal by its precondition is a ConflictError. While nobody leads
// the directory it waits; it never repeats what may have happened.
func (s *Service) change(ctx context.Context, c Command) (Result, error) {
	for {
		result, err := s.Propose(ctx, c)
		if _, again := retryable(err); again && s.pause(ctx) {
			continue
		}
		if err == nil && result.Outcome == OutcomeRefused {
			err = &ConflictError{Reason: result.Reason}
		}
		if err == nil {
			s.log.Info("directory changed", "command", c.describe(), "outcome", result.Outcome, "version", result.Version)
		}
		return result, err
	}
}

// operationAfter returns an operation once this node's table shows the change with result.
func (s *Service) operationAfter(ctx context.Context, result Result, id uint64) (OperationView, error) {
	t, err := s.latest.Newer(ctx, result.Version-1)
	if err != nil {
		return OperationView{}, fmt.Errorf("%w: it was taken, but this node has not seen it yet: %w", shard.ErrOutcomeUnknown, err)
	}
	o, _ := t.Operation(id)
	return s.operationView(o), nil
}

// TransferLeader hands a shard's leadership to the voter on node, and returns once that one leads and
// serves. Nothing happens where it leads already.
func (s *Service) TransferLeader(ctx context.Context, id shard.ID, node string) error {
	conf, leader, t, err := s.ask(ctx, id)
	if err != nil {
		return err
	}
	if _, err := s.knowing(ctx, t, node); err != nil {
		return err
	}
	if leader == node {
		return nil
	}
	voter := false
	for _, v := range conf.Voters {
		if v.Replica.Node != node {
			continue
		}
		voter = true
		if v.Stopped {
			return &ConflictError{Reason: fmt.Sprintf("the replica on %s has diverged and must not lead", node)}
		}
		if !v.Recent {
			return &ConflictError{Reason: fmt.Sprintf("the leader, %s, gets no answer of %s", leader, node)}
		}
	}
	if !voter {
		return &ConflictError{Reason: fmt.Sprintf("node %s has no voter of shard %d", node, id)}
	}
	err = s.stepAt(ctx, leader, memberStep{Shard: id, Step: stepTransfer, Node: node})
	if err != nil && shard.Refused(err) {
		return err
	}
	for {
		try, cancel := context.WithTimeout(ctx, readAttempt)
		_, err := s.configurationAt(try, node, id)
		cancel()
		if err == nil {
			return nil
		}
		if !s.pause(ctx) {
			return fmt.Errorf("%w: %s does not lead shard %d yet: %v", shard.ErrOutcomeUnknown, node, id, err)
		}
	}
}

// Operations returns the operations that run and the last ones that ended, newest first.
func (s *Service) Operations() []OperationView {
	t := s.Table()
	views := make([]OperationView, 0, len(t.Operations))
	for i := range t.Operations {
		views = append(views, s.operationView(t.Operations[len(t.Operations)-1-i]))
	}
	return views
}

// Operation returns one operation; false: there is none of that id, or it ended long ago.
func (s *Service) Operation(id uint64) (OperationView, bool) {
	o, ok := s.Table().Operation(id)
	return s.operationView(o), ok
}

// CancelOperation asks for the end of an operation that runs, whatever it waits for.
func (s *Service) CancelOperation(ctx context.Context, id uint64) (OperationView, error) {
	if err := s.Known(); err != nil {
		return OperationView{}, err
	}
	if _, ok := s.Table().Operation(id); !ok {
		return OperationView{}, &UnknownError{What: "operation", Name: fmt.Sprint(id)}
	}
	result, err := s.change(ctx, Command{Cancel: &CancelOperation{ID: id}})
	if err != nil {
		return OperationView{}, err
	}
	return s.operationAfter(ctx, result, id)
}

// RemoveNode forgets a node that is down and hosts nothing. Its data folder can't come back.
func (s *Service) RemoveNode(ctx context.Context, id string) error {
	if err := s.Known(); err != nil {
		return err
	}
	if _, err := s.knowing(ctx, s.Table(), id); err != nil {
		return err
	}
	if state, _ := s.soft.state(id); state == NodeUp {
		return &ConflictError{Reason: fmt.Sprintf("node %s is up: stop it first", id)}
	}
	result, err := s.change(ctx, Command{RemoveNode: &RemoveNode{ID: id}})
	if err == nil {
		// Whoever asks this node next is not to see it any more; that it is gone is certain already.
		_, _ = s.latest.Newer(ctx, result.Version-1)
	}
	return err
}

// Newer returns nil once this node knows a table above version, else the cause for which ctx ended.
func (s *Service) Newer(ctx context.Context, version uint64) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(shard.ErrStopped) })()
	_, err := s.latest.Newer(ctx, version)
	return err
}

// operationView adds what is known of an operation's progress: by the reports of its replica and of the
// shard's leader.
func (s *Service) operationView(o Operation) OperationView {
	v := OperationView{ID: o.ID, Kind: string(o.Kind), Shard: o.Shard, Node: o.Node, Replica: o.replica().String(),
		From: o.From, State: string(o.State), Phase: string(o.Phase), Detail: o.Detail, Error: o.Error, Reason: o.Reason}
	if o.State != OperationRunning {
		v.Phase = string(o.State)
		return v
	}
	if !o.adds() {
		return v
	}
	leader, _ := s.soft.leader(o.Shard)
	its, heard := s.soft.replica(o.Node, o.Shard)
	theirs, known := s.soft.replica(leader, o.Shard)
	if !known {
		return v
	}
	v.EntriesTotal, v.ItemsTotal, v.BytesTotal = theirs.commit, theirs.entries, theirs.bytes
	if !heard {
		return v
	}
	v.EntriesDone, v.ItemsDone, v.BytesDone = min(its.applied, theirs.commit), min(its.entries, theirs.entries), min(its.bytes, theirs.bytes)
	if its.snapshotTotal > 0 { // what it has of a snapshot counts once it is whole
		v.BytesDone, v.BytesTotal = its.snapshotBytes, its.snapshotTotal
		v.Snapshot, v.BytesRate = true, s.soft.snapshotRate(o.Node, o.Shard)
	}
	return v
}

// errRemoved is what a node finds that the table does not know any more.
var errRemoved = errors.New("this node was removed from the cluster: it can join again with an empty data folder")
