package shard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// Frames between nodes. Integers are uvarints, strings and byte strings carry their length first.
//
//	request  kind(1) id sent body        sent: the sender's monotonic clock, microseconds
//	reply    0       id status(1) body   status 0: body is the answer; 1: body is an error
//
// Bodies by kind:
//
//	hello    magic min max cluster node incarnation target
//	raft     shard target source timeout(ms) rpc(1) message
//	probe    count, then shard target term lease(ms) of each group; the answer: term promised(1) of each
//	ping     gossip (answered by the peer's wall clock, Unix ms)
//	call     timeout(ms) method payload
//	data     timeout(ms) caller request
//	index    timeout(ms) shard source target probe(1): a follower asks for a read index
//	touch    shard source target count, then count touches, oldest first: never answered
//	batch    timeout(ms) caller batch (batch.go)
//	scan     timeout(ms) erase(1) scan (keys.go)
const (
	frameReply byte = 0
	frameHello byte = 1
	frameRaft  byte = 2
	frameProbe byte = 3
	framePing  byte = 4
	frameCall  byte = 5
	frameData  byte = 6
	frameIndex byte = 7
	frameTouch byte = 8
	frameBatch byte = 9
	frameScan  byte = 10
)

const (
	helloMagic = "LARDER"
	// The range of peer protocols that this build speaks.
	protocolMin = 1
	protocolMax = 1
)

// The messages that a raft frame carries.
const (
	rpcAppend        byte = 1
	rpcVote          byte = 2
	rpcPreVote       byte = 3
	rpcTimeoutNow    byte = 4
	rpcSnapshotBegin byte = 5
	rpcSnapshotChunk byte = 6
	rpcSnapshotEnd   byte = 7
)

var errShortFrame = errors.New("malformed frame")

// reader takes a frame apart. After the first malformed field err is set and all else is zero.
type reader struct {
	b   []byte
	err error
}

func (r *reader) fail() {
	r.err = errShortFrame
	r.b = nil
}

func (r *reader) uint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.fail()
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) bool() bool { return r.byte() != 0 }

// bytes returns a part of the frame, not a copy.
func (r *reader) bytes() []byte {
	n := r.uint()
	if n > uint64(len(r.b)) {
		r.fail()
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *reader) string() string { return string(r.bytes()) }

func (r *reader) duration() time.Duration {
	ms := r.uint()
	if ms > uint64(24*time.Hour/time.Millisecond) {
		ms = uint64(24 * time.Hour / time.Millisecond)
	}
	return time.Duration(ms) * time.Millisecond
}

func appendString[T ~string | ~[]byte](b []byte, s T) []byte {
	b = binary.AppendUvarint(b, uint64(len(s)))
	return append(b, s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

// appendDuration rounds down to milliseconds: a deadline never grows on its way.
func appendDuration(b []byte, d time.Duration) []byte {
	return binary.AppendUvarint(b, uint64(max(d, 0)/time.Millisecond))
}

func requestFrame(kind byte, id uint64, sent time.Duration, body []byte) []byte {
	b := make([]byte, 0, len(body)+20)
	b = append(b, kind)
	b = binary.AppendUvarint(b, id)
	b = binary.AppendUvarint(b, uint64(sent/time.Microsecond))
	return append(b, body...)
}

func replyFrame(id uint64, body []byte, err error) []byte {
	b := make([]byte, 0, len(body)+16)
	b = append(b, frameReply)
	b = binary.AppendUvarint(b, id)
	if err != nil {
		return appendError(append(b, 1), err)
	}
	return append(append(b, 0), body...)
}

// hello opens a link: who calls, and whom it means.
type hello struct {
	min, max    uint64
	cluster     string // "" before the cluster is formed
	node        string
	incarnation string
	target      string // "" in the answer
}

func (h hello) append(b []byte) []byte {
	b = append(b, helloMagic...)
	b = binary.AppendUvarint(b, h.min)
	b = binary.AppendUvarint(b, h.max)
	b = appendString(b, h.cluster)
	b = appendString(b, h.node)
	b = appendString(b, h.incarnation)
	return appendString(b, h.target)
}

func decodeHello(b []byte) (hello, error) {
	if len(b) < len(helloMagic) || string(b[:len(helloMagic)]) != helloMagic {
		return hello{}, fmt.Errorf("%w: no Larder node", ErrWrongCluster)
	}
	r := reader{b: b[len(helloMagic):]}
	h := hello{min: r.uint(), max: r.uint(), cluster: r.string(), node: r.string(), incarnation: r.string(), target: r.string()}
	return h, r.err
}

// Raft messages. The RPC header is not sent: it is made from the frame's source, whose server id is
// its address.

func header(source string) raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: raft.ProtocolVersionMax, ID: []byte(source), Addr: []byte(source)}
}

func appendAppendEntries(b []byte, a *raft.AppendEntriesRequest) []byte {
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, a.PrevLogEntry)
	b = binary.AppendUvarint(b, a.PrevLogTerm)
	b = binary.AppendUvarint(b, a.LeaderCommitIndex)
	b = binary.AppendUvarint(b, uint64(len(a.Entries)))
	for _, l := range a.Entries {
		b = appendLog(b, l)
	}
	return b
}

// appendLog leaves out AppendedAt, which only feeds the library's metrics.
func appendLog(b []byte, l *raft.Log) []byte {
	b = binary.AppendUvarint(b, l.Index)
	b = binary.AppendUvarint(b, l.Term)
	b = append(b, byte(l.Type))
	b = appendString(b, l.Data)
	return appendString(b, l.Extensions)
}

func (r *reader) log() *raft.Log {
	l := &raft.Log{Index: r.uint(), Term: r.uint(), Type: raft.LogType(r.byte())}
	l.Data = r.bytes()
	if ext := r.bytes(); len(ext) > 0 {
		l.Extensions = ext
	}
	return l
}

func decodeAppendEntries(b []byte, source string) (*raft.AppendEntriesRequest, error) {
	r := reader{b: b}
	a := &raft.AppendEntriesRequest{RPCHeader: header(source),
		Term: r.uint(), PrevLogEntry: r.uint(), PrevLogTerm: r.uint(), LeaderCommitIndex: r.uint()}
	n := r.uint()
	if n > uint64(len(r.b)) { // an entry takes more than a byte
		return nil, errShortFrame
	}
	a.Entries = make([]*raft.Log, 0, n)
	for range n {
		a.Entries = append(a.Entries, r.log())
	}
	return a, r.err
}

func appendAppendEntriesResponse(b []byte, a *raft.AppendEntriesResponse) []byte {
	b = binary.AppendUvarint(b, a.Term)
	b = binary.AppendUvarint(b, a.LastLog)
	b = appendBool(b, a.Success)
	return appendBool(b, a.NoRetryBackoff)
}

func decodeAppendEntriesResponse(b []byte, source string, into *raft.AppendEntriesResponse) error {
	r := reader{b: b}
	*into = raft.AppendEntriesResponse{RPCHeader: header(source), Term: r.uint(), LastLog: r.uint(),
		Success: r.bool(), NoRetryBackoff: r.bool()}
	return r.err
}

// appendVote asks for a vote. transfer: voters are to give it although they may know a leader. handed: the leader of the term
// before asked for this election.
func appendVote(b []byte, term, lastIndex, lastTerm uint64, transfer, handed bool) []byte {
	b = binary.AppendUvarint(b, term)
	b = binary.AppendUvarint(b, lastIndex)
	b = binary.AppendUvarint(b, lastTerm)
	return appendBool(appendBool(b, transfer), handed)
}

func decodeVote(b []byte, source string) (v *raft.RequestVoteRequest, handed bool, err error) {
	r := reader{b: b}
	v = &raft.RequestVoteRequest{RPCHeader: header(source), Term: r.uint(),
		LastLogIndex: r.uint(), LastLogTerm: r.uint(), LeadershipTransfer: r.bool()}
	handed = r.bool()
	return v, handed, r.err
}

func appendVoteResponse(b []byte, term uint64, granted bool) []byte {
	return appendBool(binary.AppendUvarint(b, term), granted)
}

func decodeVoteResponse(b []byte) (term uint64, granted bool, err error) {
	r := reader{b: b}
	term, granted = r.uint(), r.bool()
	return term, granted, r.err
}

func appendSnapshotBegin(b []byte, s *raft.InstallSnapshotRequest) []byte {
	b = binary.AppendUvarint(b, uint64(s.SnapshotVersion))
	b = binary.AppendUvarint(b, s.Term)
	b = binary.AppendUvarint(b, s.LastLogIndex)
	b = binary.AppendUvarint(b, s.LastLogTerm)
	b = appendString(b, s.Configuration)
	b = binary.AppendUvarint(b, s.ConfigurationIndex)
	return binary.AppendUvarint(b, uint64(s.Size))
}

// A snapshot goes as one begin, chunks and an end, each of which is answered. Builds before snapshots were continued send less, and
// pass over what follows the fields that they know; so both kinds get on, without what only one of them can do.
//
//	begin   version term index term(of the last entry) configuration index(of that) size; resumes(1) not
//	answer  transfer; have sum           have: bytes that are here, sum: their CRC-32C
//	chunk   transfer offset data
//	end     transfer; sum                of the whole

// snapshotBegin begins a transfer.
type snapshotBegin struct {
	args    *raft.InstallSnapshotRequest
	resumes bool   // what is there of the snapshot need not be sent again,
	not     uint64 // but for what is there of this transfer
}

func (s snapshotBegin) append(b []byte) []byte {
	b = appendSnapshotBegin(b, s.args)
	if !s.resumes {
		return b
	}
	return binary.AppendUvarint(appendBool(b, true), s.not)
}

func decodeSnapshotBegin(b []byte, source string) (snapshotBegin, error) {
	r := reader{b: b}
	s := snapshotBegin{args: &raft.InstallSnapshotRequest{RPCHeader: header(source),
		SnapshotVersion: raft.SnapshotVersion(r.uint()), Term: r.uint(), LastLogIndex: r.uint(), LastLogTerm: r.uint(),
		Configuration: r.bytes(), ConfigurationIndex: r.uint(), Size: int64(r.uint())}}
	if len(r.b) > 0 {
		s.resumes, s.not = r.bool(), r.uint()
	}
	if s.args.Size < 0 {
		return s, errShortFrame
	}
	return s, r.err
}

// snapshotBegun answers a snapshotBegin.
type snapshotBegun struct {
	id   uint64
	have int64
	sum  uint32
}

func (s snapshotBegun) append(b []byte) []byte {
	b = binary.AppendUvarint(b, s.id)
	b = binary.AppendUvarint(b, uint64(s.have))
	return binary.AppendUvarint(b, uint64(s.sum))
}

func decodeSnapshotBegun(b []byte) (snapshotBegun, error) {
	r := reader{b: b}
	s := snapshotBegun{id: r.uint()}
	if len(r.b) > 0 {
		s.have, s.sum = int64(r.uint()), uint32(r.uint())
	}
	return s, r.err
}

// snapshotEnd has a transfer installed.
type snapshotEnd struct {
	id     uint64
	summed bool // sum is known
	sum    uint32
}

func (s snapshotEnd) append(b []byte) []byte {
	b = binary.AppendUvarint(b, s.id)
	if !s.summed {
		return b
	}
	return binary.AppendUvarint(b, uint64(s.sum))
}

func decodeSnapshotEnd(b []byte) (snapshotEnd, error) {
	r := reader{b: b}
	s := snapshotEnd{id: r.uint()}
	if len(r.b) > 0 {
		s.summed, s.sum = true, uint32(r.uint())
	}
	return s, r.err
}
