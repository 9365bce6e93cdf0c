package shard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	snapshotChunk = 128 << 10
	// snapshotProgress is how long one chunk of a snapshot may take: a transfer that stalls ends,
	// one that goes on never does, however large it is.
	snapshotProgress = 10 * time.Second
	// snapshotRestore is how long the receiver may take to restore what it got.
	snapshotRestore = 5 * time.Minute
	// snapshotAskAgain is the pause before it is asked again whether it has.
	snapshotAskAgain = 100 * time.Millisecond
)

// InstallSnapshot sends a snapshot in chunks. The receiver gathers all of it before its Raft
// instance sees anything: that one's main goroutine then waits for its own disk only, never for the
// network.
func (t *transport) InstallSnapshot(id raft.ServerID, _ raft.ServerAddress, args *raft.InstallSnapshotRequest, resp *raft.InstallSnapshotResponse, data io.Reader) error {
	step := func(rpc byte, message []byte, timeout time.Duration) ([]byte, error) {
		if err := t.group.serves(); err != nil { // the snapshot may be of a state that is wrong
			return nil, err
		}
		ctx, cancel := context.WithTimeout(t.ctx, timeout)
		defer cancel()
		return t.call(ctx, id, rpc, message, false)
	}
	answer, err := step(rpcSnapshotBegin, appendSnapshotBegin(nil, args), snapshotProgress)
	if err != nil {
		return err
	}
	r := reader{b: answer}
	transfer := r.uint()
	if r.err != nil {
		return r.err
	}
	buf := chunks.Get().(*[]byte)
	defer chunks.Put(buf)
	for offset := int64(0); ; {
		n, err := io.ReadFull(data, *buf)
		if n > 0 {
			m := binary.AppendUvarint(nil, transfer)
			m = binary.AppendUvarint(m, uint64(offset))
			m = appendString(m, (*buf)[:n])
			if _, err := step(rpcSnapshotChunk, m, snapshotProgress); err != nil {
				return fmt.Errorf("snapshot at byte %d: %w", offset, err)
			}
			offset += int64(n)
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	// Asked again and again: the question or its answer may be lost while the receiver restores.
	for limit := time.Now().Add(snapshotRestore); ; {
		answer, err = step(rpcSnapshotEnd, binary.AppendUvarint(nil, transfer), snapshotProgress)
		if err == nil {
			break
		}
		lost := errors.Is(err, ErrOutcomeUnknown) || errors.Is(err, ErrDeadline) || errors.Is(err, ErrUnreachable) ||
			errors.Is(err, ErrStopped) || errors.Is(err, ErrOverloaded) // its instance is being replaced, it is busy
		if !lost || time.Now().After(limit) || !t.pause(snapshotAskAgain) {
			return err
		}
	}
	term, ok, err := decodeVoteResponse(answer) // the same two fields
	*resp = raft.InstallSnapshotResponse{RPCHeader: header(string(id)), Term: term, Success: ok}
	return err
}

// spools gathers the snapshots that come in for one replica, one at a time: a newer transfer
// replaces an older one, as a newer leader replaces an older one.
type spools struct {
	dir string // "" = in memory

	installs sync.WaitGroup
	shown    atomic.Pointer[spool] // the last that began; nil: none, or it was given up

	mu     sync.Mutex // guards following
	closed bool       // nothing begins any more
	next   uint64     // id of the last transfer; they begin anywhere, so that none is taken for one before a restart
	cur    *spool     // coming in
	ending *spool     // the last that was whole: being installed, or done
}

// spool is one incoming snapshot.
type spool struct {
	id     uint64
	source string
	args   *raft.InstallSnapshotRequest
	file   *os.File // nil = in memory
	mem    bytes.Buffer
	size   int64
	here   atomic.Int64 // size, for progress

	done   chan struct{} // closed once what follows is set
	answer []byte
	err    error
}

func (s *spool) discard() {
	if s != nil && s.file != nil {
		s.file.Close()
		os.Remove(s.file.Name())
		s.file = nil
	}
}

func (s *spool) write(p []byte) (err error) {
	if s.file != nil {
		_, err = s.file.Write(p)
	} else {
		s.mem.Write(p)
	}
	s.size += int64(len(p))
	s.here.Store(s.size)
	return err
}

func (s *spool) open() (io.Reader, error) {
	if s.file == nil {
		return &s.mem, nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return s.file, err
}

// progress returns how much is here of the snapshot that comes in or is being installed, bytes; 0, 0
// when there is none. It waits for no disk.
func (s *spools) progress() (bytes, total uint64) {
	c := s.shown.Load()
	if c == nil {
		return 0, 0
	}
	select {
	case <-c.done:
		return 0, 0
	default:
		return uint64(c.here.Load()), uint64(c.args.Size)
	}
}

// clean removes what an earlier process left.
func (s *spools) clean() {
	if s.dir == "" {
		return
	}
	left, _ := filepath.Glob(filepath.Join(s.dir, "incoming-*"))
	for _, f := range left {
		os.Remove(f)
	}
}

// close discards a half-received snapshot. The Raft instance has ended, so what was being installed
// ends too.
func (s *spools) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.installs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cur.discard()
	s.cur = nil
	s.shown.Store(nil)
}

func (s *spools) receive(ctx context.Context, t *transport, source string, rpc byte, message []byte) ([]byte, error) {
	switch rpc {
	case rpcSnapshotBegin:
		args, err := decodeSnapshotBegin(message, source)
		if err != nil {
			return nil, err
		}
		return s.begin(source, args)
	case rpcSnapshotChunk:
		r := reader{b: message}
		id, offset, data := r.uint(), int64(r.uint()), r.bytes()
		if r.err != nil {
			return nil, r.err
		}
		return nil, s.chunk(id, source, offset, data)
	default:
		r := reader{b: message}
		id := r.uint()
		if r.err != nil {
			return nil, r.err
		}
		return s.end(ctx, t, source, id)
	}
}

func (s *spools) begin(source string, args *raft.InstallSnapshotRequest) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrStopped
	}
	s.cur.discard()
	if s.next == 0 {
		s.next = rand.Uint64N(1 << 48)
	}
	s.next++
	s.cur = &spool{id: s.next, source: source, args: args, done: make(chan struct{})}
	if s.dir != "" {
		f, err := os.CreateTemp(s.dir, "incoming-*")
		if err != nil {
			s.cur = nil
			s.shown.Store(nil)
			return nil, err
		}
		s.cur.file = f
	}
	s.shown.Store(s.cur)
	return binary.AppendUvarint(nil, s.next), nil
}

var errTransferOver = errors.New("snapshot transfer is over")

func (s *spools) chunk(id uint64, source string, offset int64, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cur
	switch {
	case c == nil || c.id != id || c.source != source:
		return errTransferOver
	case offset+int64(len(data)) <= c.size:
		return nil // repeated by the network
	case offset != c.size || offset+int64(len(data)) > c.args.Size:
		c.discard()
		s.cur = nil
		s.shown.Store(nil)
		return fmt.Errorf("snapshot bytes [%d, %d) where %d of %d are here", offset, offset+int64(len(data)), c.size, c.args.Size)
	}
	return c.write(data)
}

// end has a whole snapshot installed and waits for what came of it. It may be asked repeatedly: the
// snapshot is installed once, however long that takes and whether or not the links last.
func (s *spools) end(ctx context.Context, t *transport, source string, id uint64) ([]byte, error) {
	s.mu.Lock()
	c := s.cur
	switch {
	case c != nil && c.id == id && c.source == source && !s.closed:
		s.cur, s.ending = nil, c
		s.installs.Go(func() {
			if c.answer, c.err = c.install(t); errors.Is(c.err, ErrStopped) {
				c.err = errTransferOver // for good, where ErrStopped means: ask again
			}
			c.discard()
			close(c.done)
		})
	case s.ending != nil && s.ending.id == id && s.ending.source == source:
		c = s.ending
	default:
		c = nil
	}
	s.mu.Unlock()
	if c == nil {
		return nil, errTransferOver
	}
	select {
	case <-c.done:
		return c.answer, c.err
	case <-ctx.Done():
		return nil, ErrDeadline
	}
}

// install hands a whole snapshot to the Raft instance, unless it is of no use.
func (c *spool) install(t *transport) ([]byte, error) {
	if c.size != c.args.Size {
		return nil, fmt.Errorf("snapshot ends after %d of %d bytes", c.size, c.args.Size)
	}
	inst := t.group.instance()
	if inst == nil || inst.trans != t {
		return nil, ErrStopped
	}
	// A snapshot of what this replica knows to be committed already (a late or repeated one) must not
	// reach the library: it would set the state back below entries that were acknowledged.
	known := max(inst.fsm.applied.at(), inst.raft.CommitIndex())
	if term := t.group.store.Term(); c.args.Term >= term && c.args.LastLogIndex <= known {
		return appendVoteResponse(nil, term, true), nil
	}
	r, err := c.open()
	if err != nil {
		return nil, err
	}
	resp, err := t.deliver(t.ctx, c.args, r)
	if err != nil {
		return nil, err
	}
	v := resp.(*raft.InstallSnapshotResponse)
	return appendVoteResponse(nil, v.Term, v.Success), nil
}
