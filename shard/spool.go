package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"
)

const (
	// spoolLife is how long what is here of a snapshot waits for the rest of it.
	spoolLife = 5 * time.Minute
	// spoolBusy is how long after its last message a transfer is taken to go on: nothing older replaces it.
	spoolBusy = 2 * snapshotProgress
	// spoolReserve is what a snapshot must leave free on the disk, bytes.
	spoolReserve = 64 << 20
	// The files of a snapshot that comes in: what is here of it, named by the number of the transfer, and the message that began it,
	// with spoolBegin after that name.
	spoolPrefix = "incoming-"
	spoolBegin  = ".begin"
)

// spools gathers the snapshots that come in for one replica, one at a time: a newer transfer
// replaces an older one, as a newer leader replaces an older one.
//
// A transfer that breaks off, as the link, the sender or this process ends, is continued by the next one of the same snapshot:
// what is here stays for spoolLife, and the receiver tells how much that is and its checksum. The sender compares that with its own,
// so it need not be the same leader, nor is anything believed that a crash left in the file. What a death leaves on the disk:
//
//	before both files are there   the state alone, which is removed at the start
//	while it comes in             a part, to be continued; of what was not synced the checksum tells
//	whole, not installed yet      likewise: the next transfer sends nothing but the order to install it
//	installed                     likewise, and it is removed after spoolLife
//	while it is being removed     the state alone: the message is the first to go, as it is the last to come
//	while one is installed and    both, and the start takes the newer
//	another comes in
type spools struct {
	dir     string // "" = in memory
	traffic *snapshotTraffic

	installs sync.WaitGroup
	shown    atomic.Pointer[spool] // the last that began; nil: none, or it was given up

	mu     sync.Mutex // guards following; held while the disk is written
	closed bool       // nothing begins any more
	next   uint64     // id of the last transfer; they begin anywhere, so that none is taken for one before a restart
	cur    *spool     // coming in
	ending *spool     // the last that was whole: being installed, or done
	expiry *time.Timer
}

// spool is one incoming snapshot.
type spool struct {
	id     uint64
	source string
	args   *raft.InstallSnapshotRequest
	total  int64    // its size once it is whole
	file   *os.File // nil = in memory
	mem    pieces
	size   int64
	sum    uint32 // CRC-32C of what is here
	summed bool   // else an earlier process left it, and sum is not known
	synced int64
	at     time.Time    // of its last message
	here   atomic.Int64 // size, for progress

	done   chan struct{} // closed once what follows is set
	answer []byte
	err    error
}

func (s *spool) discard() {
	if s == nil {
		return
	}
	s.mem = nil
	if s.file != nil {
		os.Remove(s.file.Name() + spoolBegin)
		os.Remove(s.file.Name())
		shrink(s.file)
		s.file.Close()
		s.file = nil
	}
}

func (s *spool) write(p []byte) error {
	if s.file == nil {
		s.mem = s.mem.append(p)
	} else if _, err := s.file.Write(p); err != nil {
		return err
	}
	s.size += int64(len(p))
	s.sum = crc32.Update(s.sum, castagnoli, p)
	s.here.Store(s.size)
	if s.file != nil && s.size-s.synced >= snapshotSync { // and so the sender goes at the disk's pace
		s.synced = s.size
		return s.file.Sync()
	}
	return nil
}

// open returns what is here, which fails at its end when it is not what came in.
func (s *spool) open() (io.Reader, error) {
	if s.file == nil {
		return &checkedReader{r: s.mem.reader(), want: s.sum}, nil
	}
	_, err := s.file.Seek(0, io.SeekStart)
	return &checkedReader{r: s.file, want: s.sum}, err
}

// sumUp reads what an earlier process left.
func (s *spool) sumUp() error {
	if s.summed {
		return nil
	}
	sum := crc32.New(castagnoli)
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	n, err := io.Copy(sum, s.file)
	if err != nil {
		return err
	}
	s.sum, s.size, s.synced, s.summed = sum.Sum32(), n, n, true
	s.here.Store(n)
	return nil
}

// fits reports whether what is here is a part of the snapshot that another transfer brings.
func (s *spool) fits(args *raft.InstallSnapshotRequest) bool {
	return s != nil && s.args.LastLogIndex == args.LastLogIndex && s.args.LastLogTerm == args.LastLogTerm && s.args.Size == args.Size &&
		s.args.SnapshotVersion == args.SnapshotVersion && s.args.ConfigurationIndex == args.ConfigurationIndex &&
		bytes.Equal(s.args.Configuration, args.Configuration)
}

// checkedReader fails at the end of what has another CRC-32C than it should.
type checkedReader struct {
	r         io.Reader
	sum, want uint32
}

func (c *checkedReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.sum = crc32.Update(c.sum, castagnoli, p[:n])
	if err == io.EOF && c.sum != c.want {
		err = errSnapshotSum
	}
	return n, err
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
		return uint64(c.here.Load()), uint64(c.total)
	}
}

// adopt takes over what an earlier process left, if it can be continued.
func (s *spools) adopt() {
	if s.dir == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	left, _ := filepath.Glob(filepath.Join(s.dir, spoolPrefix+"*"))
	for _, name := range left {
		message, err := os.ReadFile(name + spoolBegin)
		if err != nil {
			continue
		}
		b, err := decodeSnapshotBegin(message, "")
		if err != nil || s.cur != nil && !older(s.cur.args, b.args) {
			continue
		}
		if f, err := os.OpenFile(name, os.O_RDWR, 0); err == nil {
			if s.cur != nil {
				s.cur.file.Close()
			}
			s.cur = &spool{id: s.nextLocked(), args: b.args, total: b.args.Size, file: f, at: time.Now(), done: make(chan struct{})}
		}
	}
	for _, name := range left {
		if s.cur == nil || strings.TrimSuffix(name, spoolBegin) != s.cur.file.Name() {
			_ = removeAll(name)
		}
	}
	if s.cur != nil {
		s.awaitLocked()
	}
}

// close ends what comes in. The Raft instance has ended, so what was being installed ends too. What lies on a disk can be continued
// after the next start.
func (s *spools) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.installs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur != nil && s.cur.file != nil {
		s.cur.file.Close()
	}
	if s.expiry != nil {
		s.expiry.Stop()
	}
	s.cur = nil
	s.shown.Store(nil)
}

func (s *spools) nextLocked() uint64 {
	if s.next == 0 {
		s.next = rand.Uint64N(1 << 48)
	}
	s.next++
	return s.next
}

// awaitLocked has what is here given up when nothing more comes.
func (s *spools) awaitLocked() {
	if s.expiry == nil {
		s.expiry = time.AfterFunc(spoolLife, s.expire)
	} else {
		s.expiry.Reset(spoolLife)
	}
}

func (s *spools) expire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cur != nil && !s.closed && time.Since(s.cur.at) >= spoolLife {
		s.dropLocked()
	}
}

// dropLocked gives up what comes in.
func (s *spools) dropLocked() {
	s.cur.discard()
	s.cur = nil
	s.shown.Store(nil)
}

func (s *spools) receive(ctx context.Context, t *transport, source string, rpc byte, message []byte) ([]byte, error) {
	switch rpc {
	case rpcSnapshotBegin:
		b, err := decodeSnapshotBegin(message, source)
		if err != nil {
			return nil, err
		}
		return s.begin(source, b)
	case rpcSnapshotChunk:
		r := reader{b: message}
		id, offset, data := r.uint(), int64(r.uint()), r.bytes()
		if r.err != nil {
			return nil, r.err
		}
		return nil, s.chunk(id, source, offset, data)
	default:
		e, err := decodeSnapshotEnd(message)
		if err != nil {
			return nil, err
		}
		return s.end(ctx, t, source, e)
	}
}

// begin begins a transfer, or continues one where the sender can do that.
func (s *spools) begin(source string, b snapshotBegin) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrStopped
	}
	for _, c := range []*spool{s.cur, s.ending} {
		if !b.resumes || !c.fits(b.args) || c.id == b.not || c == s.ending && c.over() {
			continue
		}
		if err := c.sumUp(); err != nil {
			break // it can't be read: begin anew
		}
		if c == s.cur && b.args.Term >= c.args.Term {
			c.args = b.args
		}
		c.source, c.at = source, time.Now()
		s.shown.Store(c)
		if c == s.cur {
			s.awaitLocked()
		}
		return snapshotBegun{c.id, c.size, c.sum}.append(nil), nil
	}
	if c := s.cur; c != nil && time.Since(c.at) < spoolBusy && c.source != "" && older(b.args, c.args) {
		return nil, errTransferOver
	}
	s.dropLocked()
	if err := s.room(b.args.Size); err != nil {
		return nil, err
	}
	c := &spool{id: s.nextLocked(), source: source, args: b.args, total: b.args.Size, summed: true, at: time.Now(), done: make(chan struct{})}
	if s.dir != "" {
		var err error
		if c.file, err = os.Create(filepath.Join(s.dir, fmt.Sprint(spoolPrefix, c.id))); err != nil {
			return nil, err
		}
		if err := writeSynced(c.file.Name()+spoolBegin, appendSnapshotBegin(nil, b.args)); err != nil {
			c.discard()
			return nil, err
		}
	}
	s.cur = c
	s.shown.Store(c)
	s.awaitLocked()
	return snapshotBegun{id: c.id}.append(nil), nil
}

// over reports whether what became of the snapshot is known.
func (s *spool) over() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// older reports whether a transfer was begun before another, by an earlier leader or of an earlier snapshot.
func older(a, b *raft.InstallSnapshotRequest) bool {
	return a.Term < b.Term || a.Term == b.Term && a.LastLogIndex < b.LastLogIndex
}

// room returns why a snapshot has no place on the disk: twice, as the library makes a copy of its own.
func (s *spools) room(size int64) error {
	if s.dir == "" {
		return nil
	}
	if free, err := freeSpace(s.dir); err == nil && free < 2*uint64(size)+spoolReserve {
		return fmt.Errorf("no room for a snapshot of %d bytes: %d are free, twice as much and %d are wanted", size, free, spoolReserve)
	}
	return nil
}

var (
	errTransferOver = errors.New("snapshot transfer is over")
	errSnapshotSum  = errors.New("what came in is not the snapshot: its checksum differs")
)

func (s *spools) chunk(id uint64, source string, offset int64, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.cur
	switch {
	case s.closed:
		return ErrStopped
	case c == nil || c.id != id || c.source != source:
		return errTransferOver
	case offset+int64(len(data)) <= c.size:
		return nil // repeated by the network
	case offset != c.size || offset+int64(len(data)) > c.args.Size:
		s.dropLocked()
		return fmt.Errorf("snapshot bytes [%d, %d) where %d of %d are here", offset, offset+int64(len(data)), c.size, c.args.Size)
	}
	c.at = time.Now()
	s.awaitLocked()
	s.traffic.received.Add(uint64(len(data)))
	if err := c.write(data); err != nil {
		s.dropLocked()
		return err
	}
	return nil
}

// end has a whole snapshot installed and waits for what came of it. It may be asked repeatedly: the
// snapshot is installed once, however long that takes and whether or not the links last.
func (s *spools) end(ctx context.Context, t *transport, source string, e snapshotEnd) ([]byte, error) {
	s.mu.Lock()
	c := s.cur
	switch {
	case c != nil && c.id == e.id && c.source == source && !s.closed && e.summed && e.sum != c.sum:
		s.dropLocked()
		s.mu.Unlock()
		return nil, errSnapshotSum
	case c != nil && c.id == e.id && c.source == source && !s.closed:
		s.cur, s.ending = nil, c
		s.installs.Go(func() {
			if c.answer, c.err = c.install(t); again(c.err) {
				c.err = errTransferOver // for good, where those mean: ask again
			}
			s.mu.Lock()
			c.discard()
			s.mu.Unlock()
			close(c.done)
		})
	case s.ending != nil && s.ending.id == e.id && s.ending.source == source:
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
	known := max(inst.fsm.applied.at(), inst.commit())
	if term := t.group.store.Term(); c.args.Term >= term && c.args.LastLogIndex <= known {
		inst.awaitRenewal()
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
	inst.awaitRenewal()
	return appendVoteResponse(nil, v.Term, v.Success), nil
}

// awaitRenewal waits, once a snapshot was restored, for the instance that takes this one's place. This one
// would refuse the entries after the snapshot, as it still goes by the log that the snapshot replaced, and the
// leader would answer that with the same snapshot, again and again.
func (i *instance) awaitRenewal() {
	if i.renewed.Load() {
		<-i.over
	}
}
