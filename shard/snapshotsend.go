package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/time/rate"
)

const (
	// snapshotChunk is how much of a snapshot goes in one frame, bytes. The next one follows the answer, so a heartbeat waits behind
	// snapshotsAtOnce of them at most.
	snapshotChunk = 128 << 10
	// snapshotsAtOnce is how many snapshots a node sends at the same time. More would end no earlier, and take more memory and disk at
	// the receivers.
	snapshotsAtOnce = 2
	// snapshotProgress is how long one message of a transfer may take, and how long a transfer waits for a link that broke: one
	// that stalls ends, one that goes on never does, however large it is.
	snapshotProgress = 10 * time.Second
	// snapshotRestore is how long the receiver may take to restore what it got.
	snapshotRestore = 5 * time.Minute
	// snapshotAskAgain is the pause before it is asked again whether it has, or how far it is.
	snapshotAskAgain = 100 * time.Millisecond
	// snapshotLook is how often one that waits for its turn looks whether it is of use still.
	snapshotLook = time.Second
)

// snapshotTraffic is what all snapshots that a node sends share, and what it counts of them.
type snapshotTraffic struct {
	turns chan struct{} // a token for each that is being sent
	pace  *rate.Limiter // of bytes

	waiting, sending             atomic.Int64
	sent, received               atomic.Uint64 // bytes
	installed, resumed, failures atomic.Uint64 // of those sent
}

func newSnapshotTraffic() *snapshotTraffic {
	return &snapshotTraffic{turns: make(chan struct{}, snapshotsAtOnce), pace: rate.NewLimiter(rate.Inf, snapshotChunk)}
}

// SetSnapshotBandwidth changes how many bytes of snapshots this node sends in a second, to all others together; 0: as many as it can.
func (h *Host) SetSnapshotBandwidth(bytes uint64) {
	limit := rate.Inf
	if bytes > 0 {
		limit = rate.Limit(bytes)
	}
	h.snapshots.pace.SetLimit(limit)
}

// InstallSnapshot sends a snapshot in chunks. The receiver gathers all of it before its Raft
// instance sees anything: that one's main goroutine then waits for its own disk only, never for the
// network.
//
// The library calls it on the goroutine that sends the follower its entries, so that these wait; heartbeats do not. However long it
// takes, nothing of the library's runs out. After an error it is called again within 10 s.
func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	traffic := t.group.host.snapshots
	s := &snapshotSend{t: t, traffic: traffic, to: id, args: args, data: data}
	answer, err := s.run()
	if err != nil {
		traffic.failures.Add(1)
		return err
	}
	term, ok, err := decodeVoteResponse(answer) // the same two fields
	*resp = raft.InstallSnapshotResponse{RPCHeader: header(string(id)), Term: term, Success: ok}
	if ok {
		traffic.installed.Add(1)
	}
	return err
}

// snapshotSend is one snapshot on its way to a follower. One goroutine owns it.
type snapshotSend struct {
	t       *transport
	traffic *snapshotTraffic
	to      raft.ServerID
	args    *raft.InstallSnapshotRequest
	data    io.Reader

	transfer uint64
	read     int64  // bytes of data
	sum      uint32 // their CRC-32C
}

var (
	errSnapshotLate = errors.New("this replica leads no more, or in a later term")
	errSnapshotOld  = errors.New("the log behind the snapshot is gone: a newer one is to be sent")
)

// run sends the snapshot and returns what came of it.
func (s *snapshotSend) run() ([]byte, error) {
	if !s.reach(reachTimeout) { // nobody else is to wait for it
		return nil, ErrUnreachable
	}
	s.t.sends.note(s.to, snapshotNote{sending: true})
	defer func() { s.t.sends.note(s.to, snapshotNote{ended: time.Now()}) }()
	if err := s.turn(); err != nil {
		return nil, err
	}
	defer func() {
		<-s.traffic.turns
		s.traffic.sending.Add(-1)
	}()
	if s.old() {
		return nil, errSnapshotOld
	}
	begun, err := s.begin(0)
	if err != nil {
		return nil, err
	}
	if err := s.skip(begun); err != nil {
		return nil, err
	}
	if err := s.chunks(); err != nil {
		return nil, fmt.Errorf("snapshot at byte %d: %w", s.read, err)
	}
	return s.end()
}

// reach waits for a link; false where there is none.
func (s *snapshotSend) reach(limit time.Duration) bool {
	to, err := ParseReplicaID(string(s.to))
	if err != nil {
		return false
	}
	p := s.t.group.host.peer(to.Node)
	if p == nil {
		return false
	}
	ctx, cancel := context.WithTimeout(s.t.ctx, limit)
	defer cancel()
	return p.waitUp(ctx, nil)
}

// turn waits until fewer than snapshotsAtOnce others are being sent.
func (s *snapshotSend) turn() error {
	s.traffic.waiting.Add(1)
	defer s.traffic.waiting.Add(-1)
	look := time.NewTicker(snapshotLook)
	defer look.Stop()
	for {
		select {
		case s.traffic.turns <- struct{}{}:
			s.traffic.sending.Add(1)
			return nil
		case <-look.C:
			if err := s.useful(); err != nil {
				return err
			}
			if s.t.group.spec.Volatile && s.old() { // it takes memory, and so does the one that took its place
				return errSnapshotOld
			}
		case <-s.t.ctx.Done():
			return ErrStopped
		}
	}
}

// old reports whether entries behind the snapshot are gone from the log.
func (s *snapshotSend) old() bool {
	first, err := s.t.group.store.FirstIndex()
	return err == nil && first > s.args.LastLogIndex+1
}

// useful returns why the snapshot must not be sent.
func (s *snapshotSend) useful() error {
	if err := s.t.group.serves(); err != nil { // it may be of a state that is wrong
		return err
	}
	if s.t.group.store.Term() != s.args.Term {
		return errSnapshotLate
	}
	return nil
}

// step sends one message.
func (s *snapshotSend) step(rpc byte, message []byte) ([]byte, error) {
	if err := s.useful(); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.t.ctx, snapshotProgress)
	defer cancel()
	return s.t.call(ctx, s.to, rpc, message, false)
}

// again reports whether a message may get through when it is sent again: the link or the receiver's instance is being replaced, or it
// is busy.
func again(err error) bool {
	return errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrDeadline) || errors.Is(err, ErrUnreachable) ||
		errors.Is(err, ErrStopped) || errors.Is(err, ErrOverloaded)
}

// begin begins the transfer, or asks how far it is. What the receiver has by the transfer not is no part of this snapshot.
func (s *snapshotSend) begin(not uint64) (snapshotBegun, error) {
	answer, err := s.step(rpcSnapshotBegin, snapshotBegin{args: s.args, resumes: true, not: not}.append(nil))
	if err != nil {
		return snapshotBegun{}, err
	}
	begun, err := decodeSnapshotBegun(answer)
	s.transfer = begun.id
	return begun, err
}

// skip passes over what the receiver has by an earlier transfer, if that is the same.
func (s *snapshotSend) skip(begun snapshotBegun) error {
	if begun.have == 0 {
		return nil
	}
	sum := crc32.New(castagnoli)
	n, err := io.CopyN(sum, s.data, begun.have)
	s.read, s.sum = n, sum.Sum32()
	if err == nil && s.sum == begun.sum {
		s.traffic.resumed.Add(1)
		return nil
	}
	if _, err := s.begin(begun.id); err != nil { // it is given up there; the next try begins with all of it
		return err
	}
	return errors.New("what the receiver has is no part of the snapshot: it is sent anew")
}

// chunks sends what is left.
func (s *snapshotSend) chunks() error {
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for {
		n, err := io.ReadFull(s.data, *buf)
		if n > 0 {
			if err := s.traffic.pace.WaitN(s.t.ctx, n); err != nil {
				return ErrStopped
			}
			if err := s.chunk((*buf)[:n]); err != nil {
				return err
			}
			s.read += int64(n)
			s.sum = crc32.Update(s.sum, castagnoli, (*buf)[:n])
			s.traffic.sent.Add(uint64(n))
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// chunk sends one chunk. Where its answer is lost the receiver is asked how far it is.
func (s *snapshotSend) chunk(data []byte) error {
	for limit := time.Now().Add(2 * snapshotProgress); ; {
		m := binary.AppendUvarint(nil, s.transfer)
		m = binary.AppendUvarint(m, uint64(s.read))
		m = appendString(m, data)
		_, err := s.step(rpcSnapshotChunk, m)
		if err == nil {
			return nil
		}
		for asked := false; !asked; {
			if !again(err) || time.Now().After(limit) || !s.t.pause(snapshotAskAgain) {
				return err
			}
			s.reach(snapshotProgress)
			var begun snapshotBegun
			switch begun, err = s.begin(0); {
			case err != nil:
			case begun.have == s.read+int64(len(data)):
				return nil // the answer was lost, not the chunk
			case begun.have == s.read:
				asked = true
				s.traffic.resumed.Add(1)
			default:
				return fmt.Errorf("the receiver has %d bytes, not %d", begun.have, s.read)
			}
		}
	}
}

// end has the snapshot installed. It asks again and again: the question or its answer may be lost while the receiver restores.
func (s *snapshotSend) end() ([]byte, error) {
	m := snapshotEnd{id: s.transfer, summed: true, sum: s.sum}.append(nil)
	for limit := time.Now().Add(snapshotRestore); ; {
		answer, err := s.step(rpcSnapshotEnd, m)
		if err == nil || !again(err) || time.Now().After(limit) || !s.t.pause(snapshotAskAgain) {
			return answer, err
		}
	}
}

// snapshotSettle is how long after a snapshot a follower may take to get the entries behind it.
const snapshotSettle = time.Minute

// snapshotSends are the followers that a leader catches up with a snapshot: the log behind that must stay meanwhile. Where it goes a
// follower needs another snapshot, and so on for ever.
type snapshotSends struct {
	mu    sync.Mutex // guards following
	known map[raft.ServerID]snapshotNote
}

type snapshotNote struct {
	sending bool
	ended   time.Time
}

func (s *snapshotSends) note(id raft.ServerID, n snapshotNote) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = map[raft.ServerID]snapshotNote{}
	}
	s.known[id] = n
}

// any reports whether a follower is being caught up; lacks tells whether one that got its snapshot still lacks much of the log.
func (s *snapshotSends) any(lacks func(raft.ServerID) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.known {
		if n.sending || time.Since(n.ended) < snapshotSettle && lacks(id) {
			return true
		}
		delete(s.known, id)
	}
	return false
}

// pool of buffers for snapshot chunks.
var chunks = sync.Pool{New: func() any { b := make([]byte, snapshotChunk); return &b }}
