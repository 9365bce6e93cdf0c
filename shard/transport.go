package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// appendBytes is where an AppendEntries is cut into several frames: hashicorp/raft bounds it
	// by entries, not by bytes.
	appendBytes = 1 << 20
	// appendTimeout is how long an AppendEntries with entries may take, the follower's disk included.
	appendTimeout = 5 * time.Second
	// reachTimeout is how long an AppendEntries waits for a link to the follower. It is long since
	// each failure makes the library wait longer before it tries again, up to 10 s: a follower that
	// comes back would be caught up late.
	reachTimeout = 30 * time.Second
)

// transport is the raft.Transport of one Raft instance. It closes known defects of the library:
//
//   - No heartbeat fast path: SetHeartbeatHandler does nothing, so heartbeats take the instance's
//     main goroutine like all else (hashicorp/raft #695: the fast path changes term and state
//     without a lock).
//   - No pipeline (#611, #612, #666: it can wedge for ever).
//   - The commit index is clamped on send to the last entry that the request checks (the library's
//     follower commits up to its own last index, which may be a divergent entry).
//   - No commit index above what is synced here is sent, and no entry confirmed (see store_ahead.go).
//   - A frame names the replica it means and is dropped by any other; TimeoutNow carries a term.
//   - A request always ends: by an answer, an error or its deadline.
type transport struct {
	group    *Group
	id       raft.ServerID
	consumer chan raft.RPC
	ctx      context.Context // ends when the instance is closed
	cancel   context.CancelFunc
	progress followers
	sends    snapshotSends
}

var _ raft.Transport = (*transport)(nil)
var _ raft.WithPreVote = (*transport)(nil)

func newTransport(g *Group) *transport {
	ctx, cancel := context.WithCancel(g.host.ctx)
	return &transport{group: g, id: raft.ServerID(g.id.String()), consumer: make(chan raft.RPC), ctx: ctx, cancel: cancel}
}

func (t *transport) Consumer() <-chan raft.RPC { return t.consumer }

// LocalAddr is the server id: addresses of nodes are the host's business.
func (t *transport) LocalAddr() raft.ServerAddress { return raft.ServerAddress(t.id) }

func (t *transport) EncodePeer(id raft.ServerID, _ raft.ServerAddress) []byte { return []byte(id) }

func (t *transport) DecodePeer(b []byte) raft.ServerAddress { return raft.ServerAddress(b) }

// SetHeartbeatHandler does nothing on purpose, see transport.
func (t *transport) SetHeartbeatHandler(func(raft.RPC)) {}

func (t *transport) AppendEntriesPipeline(raft.ServerID, raft.ServerAddress) (raft.AppendPipeline, error) {
	return nil, raft.ErrPipelineReplicationNotSupported
}

// pause waits; false when the instance was closed meanwhile.
func (t *transport) pause(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.ctx.Done():
		return false
	}
}

// call sends one Raft message to a replica and returns the answer's body.
func (t *transport) call(ctx context.Context, target raft.ServerID, rpc byte, message []byte, lazy bool) ([]byte, error) {
	if t.ctx.Err() != nil {
		return nil, ErrStopped
	}
	to, err := ParseReplicaID(string(target))
	if err != nil {
		return nil, err
	}
	p := t.group.host.peer(to.Node)
	if p == nil {
		return nil, fmt.Errorf("%w: no address for node %s", ErrUnreachable, to.Node)
	}
	body := make([]byte, 0, len(message)+64)
	body = binary.AppendUvarint(body, uint64(to.Shard))
	body = appendString(body, string(target))
	body = appendString(body, string(t.id))
	body = appendDuration(body, timeLeft(ctx, time.Hour))
	body = append(body, rpc)
	body = append(body, message...)
	return p.call(ctx, frameRaft, body, lazy)
}

func (t *transport) AppendEntries(id raft.ServerID, _ raft.ServerAddress, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if len(args.Entries) == 0 {
		return t.append(id, args, resp)
	}
	to, err := ParseReplicaID(string(id))
	if err != nil {
		return err
	}
	if p := t.group.host.peer(to.Node); p != nil && !p.linked() {
		ctx, cancel := context.WithTimeout(t.ctx, reachTimeout)
		p.waitUp(ctx, nil)
		cancel()
	}
	part := *args
	for rest := args.Entries; len(rest) > 0; {
		n, size := 0, 0
		for n < len(rest) && (n == 0 || size+len(rest[n].Data) <= appendBytes) {
			size += len(rest[n].Data)
			n++
		}
		part.Entries, rest = rest[:n], rest[n:]
		if err := t.append(id, &part, resp); err != nil {
			return err
		}
		if !resp.Success || resp.Term > args.Term {
			return nil
		}
		last := part.Entries[n-1]
		part.PrevLogEntry, part.PrevLogTerm = last.Index, last.Term
	}
	return nil
}

var errDiskStuck = errors.New("the disk does not end a write")

// append sends one AppendEntries frame.
func (t *transport) append(id raft.ServerID, args *raft.AppendEntriesRequest, resp *raft.AppendEntriesResponse) error {
	if inst := t.group.instance(); t.group.store.storing() >= maxSyncTime && (inst == nil || inst.silent()) { // the others are to take it for lost
		return errDiskStuck
	}
	clamped := *args
	checked := args.PrevLogEntry + uint64(len(args.Entries))
	clamped.LeaderCommitIndex = min(args.LeaderCommitIndex, checked, t.group.toldUpTo())
	timeout := appendTimeout
	lazy := false
	if len(args.Entries) == 0 {
		timeout = 2 * t.group.host.cfg.HeartbeatTimeout
		told := t.progress.commit(id, args.Term)
		lazy = isHeartbeat(args) || told == 0 || told >= clamped.LeaderCommitIndex // else it is news
	}
	ctx, cancel := context.WithTimeout(t.ctx, timeout)
	defer cancel()
	body, err := t.call(ctx, id, rpcAppend, appendAppendEntries(nil, &clamped), lazy)
	if err != nil {
		return err
	}
	if err := decodeAppendEntriesResponse(body, string(id), resp); err != nil {
		return err
	}
	if resp.Success && resp.Term == args.Term {
		t.progress.note(id, args.Term, checked, clamped.LeaderCommitIndex)
	}
	return nil
}

// isHeartbeat tells the library's heartbeats from its other requests without entries, which tell the commit
// index: entries for the follower wait while one of those is not answered.
func isHeartbeat(args *raft.AppendEntriesRequest) bool {
	return len(args.Entries) == 0 && args.PrevLogEntry == 0 && args.PrevLogTerm == 0 && args.LeaderCommitIndex == 0
}

func (t *transport) RequestVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestVoteRequest, resp *raft.RequestVoteResponse) error {
	term, granted, err := t.vote(id, rpcVote, args.Term, args.LastLogIndex, args.LastLogTerm, args.LeadershipTransfer)
	*resp = raft.RequestVoteResponse{RPCHeader: header(string(id)), Term: term, Granted: granted}
	return err
}

func (t *transport) RequestPreVote(id raft.ServerID, _ raft.ServerAddress, args *raft.RequestPreVoteRequest, resp *raft.RequestPreVoteResponse) error {
	inst := t.group.instance()
	mine := inst != nil && inst.trans == t
	if mine {
		inst.heirs.preVote.Store(args.Term)
	}
	term, granted, err := t.vote(id, rpcPreVote, args.Term, args.LastLogIndex, args.LastLogTerm, false)
	if mine && granted {
		inst.heirs.wouldWin.Store(args.Term)
	}
	*resp = raft.RequestPreVoteResponse{RPCHeader: header(string(id)), Term: term, Granted: granted}
	return err
}

// errPromised ends an election that a promise to a leader forbids.
var errPromised = errors.New("a leader was promised that there is no election now")

func (t *transport) vote(id raft.ServerID, rpc byte, term, lastIndex, lastTerm uint64, transfer bool) (uint64, bool, error) {
	handed := transfer && term == t.group.handed.Load()+1
	if !t.group.promise.ask(t.group.host.mono(), term, handed) {
		return 0, false, errPromised
	}
	// As long as the library may wait for it: a late vote counts.
	ctx, cancel := context.WithTimeout(t.ctx, max(t.group.host.cfg.ElectionTimeout, t.group.patience))
	defer cancel()
	body, err := t.call(ctx, id, rpc, appendVote(nil, term, lastIndex, lastTerm, transfer, handed), false)
	if err != nil {
		return 0, false, err
	}
	return decodeVoteResponse(body)
}

// TimeoutNow carries the term in which this leader is ready: the library's message has none, so a
// late or repeated one would depose a later leader.
func (t *transport) TimeoutNow(id raft.ServerID, _ raft.ServerAddress, _ *raft.TimeoutNowRequest, resp *raft.TimeoutNowResponse) error {
	term := t.group.transferTerm.Load()
	if inst := t.group.instance(); inst != nil {
		inst.lease.end(max(term, t.group.store.Term())) // from here on another may come to lead at any time
	}
	ctx, cancel := context.WithTimeout(t.ctx, t.group.host.cfg.ElectionTimeout)
	defer cancel()
	_, err := t.call(ctx, id, rpcTimeoutNow, binary.AppendUvarint(nil, term), false)
	*resp = raft.TimeoutNowResponse{RPCHeader: header(string(id))}
	return err
}

// serveRaft hands a Raft message to the replica that it names, and its answer back. Nobody else
// answers it: a replica of another life of the shard, or one without a running instance, stays
// silent for the sender as an error.
func (h *Host) serveRaft(ctx context.Context, from string, age time.Duration, body []byte) (answer []byte, lazy bool, err error) {
	r := reader{b: body}
	shardID, target, source, timeout, rpc := ID(r.uint()), r.string(), r.string(), r.duration(), r.byte()
	if r.err != nil {
		return nil, false, r.err
	}
	if by, err := ParseReplicaID(source); err != nil || by.Node != from || by.Shard != shardID {
		return nil, false, fmt.Errorf("source %q does not fit node %s and shard %d", source, from, shardID)
	}
	if timeout <= age {
		return nil, false, ErrDeadline
	}
	ctx, cancel := context.WithTimeout(ctx, timeout-age)
	defer cancel()
	g := h.Group(shardID)
	if g == nil || g.id.String() != target {
		return nil, false, fmt.Errorf("%w: no replica %s here", ErrUnknownShard, target)
	}
	inst := g.instance()
	if inst == nil {
		return nil, false, ErrStopped
	}
	return inst.trans.receive(ctx, source, rpc, r.b)
}

func (t *transport) receive(ctx context.Context, source string, rpc byte, message []byte) (answer []byte, lazy bool, err error) {
	switch rpc {
	case rpcAppend:
		args, err := decodeAppendEntries(message, source)
		if err != nil {
			return nil, false, err
		}
		if inst := t.group.instance(); inst != nil && inst.trans == t && args.Term >= t.group.store.Term() {
			inst.hear()
			inst.heirs.failed.Store(0)
		}
		t.trim(args)
		resp, err := t.deliver(ctx, args, nil)
		if err != nil {
			return nil, false, err
		}
		a, beat := resp.(*raft.AppendEntriesResponse), isHeartbeat(args)
		if a.Success && !beat && !bugAckUnsynced.on() { // the leader counts what was checked
			if err := t.group.store.await(ctx, args.PrevLogEntry+uint64(len(args.Entries))); err != nil {
				return nil, false, err
			}
		}
		return appendAppendEntriesResponse(nil, a), beat, nil
	case rpcVote:
		args, handed, err := decodeVote(message, source)
		if err != nil {
			return nil, false, err
		}
		resp, err := t.deliverVote(ctx, args, args.Term, handed || args.LeadershipTransfer && bugPromiseOverruled.on())
		if errors.Is(err, errPromised) {
			return appendVoteResponse(nil, 0, false), false, nil
		}
		if err != nil {
			return nil, false, err
		}
		v := resp.(*raft.RequestVoteResponse)
		if inst := t.group.instance(); v.Granted && inst != nil && inst.trans == t {
			inst.heirs.failed.Add(1) // until its leader is heard
			inst.hear()
		}
		return appendVoteResponse(nil, v.Term, v.Granted), false, nil
	case rpcPreVote:
		args, handed, err := decodeVote(message, source)
		if err != nil {
			return nil, false, err
		}
		pre := &raft.RequestPreVoteRequest{RPCHeader: args.RPCHeader, Term: args.Term,
			LastLogIndex: args.LastLogIndex, LastLogTerm: args.LastLogTerm}
		resp, err := t.deliverVote(ctx, pre, pre.Term, handed)
		if errors.Is(err, errPromised) {
			return appendVoteResponse(nil, 0, false), false, nil
		}
		if err != nil {
			return nil, false, err
		}
		v := resp.(*raft.RequestPreVoteResponse)
		return appendVoteResponse(nil, v.Term, v.Granted), false, nil
	case rpcTimeoutNow:
		r := reader{b: message}
		term := r.uint()
		if r.err != nil {
			return nil, false, r.err
		}
		return nil, false, t.timeoutNow(ctx, source, term)
	case rpcSnapshotBegin, rpcSnapshotChunk, rpcSnapshotEnd:
		answer, err = t.group.spools.receive(ctx, t, source, rpc, message)
		return answer, false, err
	}
	return nil, false, fmt.Errorf("unknown Raft message %d", rpc)
}

// trim leaves out of a leader's request what this replica knows to be committed and has no entries of any more to hold it
// against: its log begins later. A leader asks so whose follower took entries, and then a snapshot of its own, while the answers
// were lost. The library refuses that, the leader sends its snapshot, which is older and of no use here, goes on behind that, and
// begins anew, for as long as it has no newer one.
//
// What is committed is the same in the logs of all later leaders (Ongaro and Ousterhout 2014, 5.4), so the request that is left is
// one that this leader could have sent: its commit index is at most its last entry (see AppendEntries), which still holds. Whatever
// entries are left in it follow the leader's own at the base, by its term: the library holds that against this log, which may have
// another one there from when a snapshot is restored until the log is repaired.
func (t *transport) trim(args *raft.AppendEntriesRequest) {
	inst, store := t.group.instance(), t.group.store
	first, err := store.FirstIndex()
	if isHeartbeat(args) || err != nil || first != 0 && args.PrevLogEntry >= first { // most often, so before the log is read
		return
	}
	base, term, ok := store.base()
	if !ok || args.PrevLogEntry >= base || inst == nil || inst.trans != t ||
		args.Term < store.Term() || base > max(inst.fsm.applied.at(), inst.commit()) {
		return
	}
	args.PrevLogEntry, args.PrevLogTerm = base, term
	for len(args.Entries) > 0 && args.Entries[0].Index <= base {
		if args.Entries[0].Index == base {
			args.PrevLogTerm = args.Entries[0].Term
		}
		args.Entries = args.Entries[1:]
	}
}

// timeoutNow starts an election on the leader's word, once per term and instance, while that term lasts and only
// where this replica votes.
func (t *transport) timeoutNow(ctx context.Context, source string, term uint64) error {
	g := t.group
	inst := g.instance()
	if inst == nil || inst.trans != t {
		return ErrStopped
	}
	if v := g.stopped.Load(); v != nil {
		return v.err()
	}
	if now := g.store.Term(); term != now {
		return fmt.Errorf("late: sent in term %d, now it is %d", term, now)
	}
	if !inst.votes() {
		return errors.New("this replica does not vote")
	}
	last := inst.lastTimeoutNow.Swap(term)
	if last == term {
		return errors.New("repeated")
	}
	g.handed.Store(term)
	inst.heirs.preVote.Store(0)
	_, err := t.deliver(ctx, &raft.TimeoutNowRequest{RPCHeader: header(source)}, nil)
	if err != nil {
		inst.lastTimeoutNow.CompareAndSwap(term, last) // it may be given again
	}
	return err
}

// deliverVote gives a candidate's request to the Raft instance, unless a promise forbids the election: errPromised. The answer to the
// candidate must not have a term then: it would end the leader's.
func (t *transport) deliverVote(ctx context.Context, command any, term uint64, handed bool) (any, error) {
	p := &t.group.promise
	if !p.enter(t.group.host.mono(), term, handed) {
		return nil, errPromised
	}
	defer p.leave()
	resp := make(chan raft.RPCResponse, 1)
	select {
	case t.consumer <- raft.RPC{Command: command, RespChan: resp}:
	case <-ctx.Done():
		return nil, ErrDeadline
	case <-t.ctx.Done():
		return nil, ErrStopped
	}
	// The instance has it, and may vote at any time until it answers, which it does before it takes anything else.
	a := <-resp
	return a.Response, a.Error
}

// deliver gives a message to the Raft instance and waits for its answer. ctx bounds the wait: the
// instance's main goroutine may be in a disk write. A message that it took is answered to nobody
// when ctx ends first, which is what a lost answer looks like.
func (t *transport) deliver(ctx context.Context, command any, r io.Reader) (any, error) {
	resp := make(chan raft.RPCResponse, 1)
	select {
	case t.consumer <- raft.RPC{Command: command, Reader: r, RespChan: resp}:
	case <-ctx.Done():
		return nil, ErrDeadline
	case <-t.ctx.Done():
		return nil, ErrStopped
	}
	select {
	case a := <-resp:
		return a.Response, a.Error
	case <-ctx.Done():
		return nil, ErrDeadline
	case <-t.ctx.Done():
		return nil, ErrStopped
	}
}
