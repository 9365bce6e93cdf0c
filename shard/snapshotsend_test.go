package shard

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// bigEntries are large enough for a snapshot of some 15 chunks.
var bigEntries = strings.Repeat("x", 60<<10)

// behind leaves c without what a wrote, so that it needs a snapshot once the network heals.
func (c *cluster) behind(entries int) (leader *Host) {
	c.t.Helper()
	l := c.lead("a")
	c.net.Isolate("c", "a", "b")
	c.fill(l, entries, bigEntries)
	return l
}

// snapshotSize is the size of a replica's newest snapshot.
func snapshotSize(h *Host) uint64 {
	metas, err := h.Group(testShard).snaps.List()
	if err != nil || len(metas) == 0 {
		return 0
	}
	return uint64(metas[0].Size)
}

// TestSnapshotContinues ensures that a transfer whose link breaks, again and again, goes on where it was: no chunk is sent more
// than twice, and the receiver installs it once.
func TestSnapshotContinues(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		var sent snapshotFrames
		sent.watch(c, "c")
		c.net.Heal()
		slow := LinkFaults{Delay: 5 * time.Millisecond}
		c.net.SetFaults("a", "c", slow)
		c.net.SetFaults("c", "a", slow)
		for _, at := range []int{3, 6, 9} {
			c.until("chunks under way", func() bool { return sent.count(rpcSnapshotChunk) >= at })
			c.net.BreakLinks("a", "c")
		}
		c.wantSameState()
		chunks := int(snapshotSize(l)/snapshotChunk) + 1
		if n := sent.count(rpcSnapshotChunk); chunks < 12 || n > chunks+3 {
			t.Errorf("%d chunks were sent of a snapshot of %d", n, chunks)
		}
		if l.snapshots.resumed.Load() == 0 || l.snapshots.failures.Load() != 0 {
			t.Errorf("continued %d times, failed %d times", l.snapshots.resumed.Load(), l.snapshots.failures.Load())
		}
		if n := sent.count(rpcSnapshotEnd); n != 1 {
			t.Errorf("%d orders to install", n)
		}
		c.wantGet(c.leader(), "fill7", bigEntries+"7")
	})
}

// TestSnapshotContinuesLater ensures that a transfer goes on where it was after the link was gone for longer than the sender
// waits, and after the receiver was killed, where it has a disk.
func TestSnapshotContinuesLater(t *testing.T) {
	for _, crash := range []bool{false, true} {
		inBubble(t, 3, compacting, func(c *cluster) {
			if crash {
				c.memory["c"].spools = t.TempDir()
				c.crash("c")
				c.start("c")
			}
			l := c.behind(30)
			var sent snapshotFrames
			sent.watch(c, "c")
			c.net.Heal()
			slow := LinkFaults{Delay: 5 * time.Millisecond}
			c.net.SetFaults("a", "c", slow)
			c.until("chunks under way", func() bool { return sent.count(rpcSnapshotChunk) >= 6 })
			if crash {
				c.crash("c")
			} else {
				c.net.Isolate("c", "a", "b")
			}
			time.Sleep(5 * snapshotProgress)
			if crash {
				c.start("c")
			}
			c.net.Heal()
			c.wantSameState()
			chunks := int(snapshotSize(l)/snapshotChunk) + 1
			if n := sent.count(rpcSnapshotChunk); chunks < 12 || n > chunks+5 {
				t.Errorf("crash %v: %d chunks were sent of a snapshot of %d", crash, n, chunks)
			}
			if l.snapshots.resumed.Load() == 0 {
				t.Errorf("crash %v: not continued", crash)
			}
			c.wantGet(c.leader(), "fill7", bigEntries+"7")
			if crash {
				if left, _ := filepath.Glob(filepath.Join(c.memory["c"].spools, "*")); len(left) > 0 {
					t.Errorf("left behind: %v", left)
				}
			}
		})
	}
}

// TestSnapshotPace ensures that snapshots take no more of the links than they may, two at a time at most, and that heartbeats and
// writes meanwhile are as fast as ever, and that a change of the pace takes effect.
func TestSnapshotPace(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		l.SetSnapshotBandwidth(snapshotChunk / 2)
		size := snapshotSize(l)
		term := l.Group(testShard).Status().Term
		c.net.Heal()
		c.until("bytes of it are here", func() bool { return c.hosts["c"].Group(testShard).Status().SnapshotBytes > 0 })
		began, before := time.Now(), l.snapshots.sent.Load()
		for range 100 {
			at := time.Now()
			c.mustPut(l, "k", "v")
			if took := time.Since(at); took > 100*time.Millisecond {
				t.Fatalf("a write took %v", took)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if sent, most := l.snapshots.sent.Load()-before, uint64(time.Since(began).Seconds()*snapshotChunk/2)+snapshotChunk; sent > most || sent < most/2 {
			t.Errorf("%d bytes in %v, want up to %d", sent, time.Since(began), most)
		}
		if s := c.hosts["c"].Group(testShard).Status(); s.SnapshotTotal < size/2 || s.SnapshotBytes >= s.SnapshotTotal {
			t.Errorf("progress %d of %d", s.SnapshotBytes, s.SnapshotTotal)
		}
		l.SetSnapshotBandwidth(0)
		began = time.Now()
		c.wantSameState()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("without a limit it took %v", took)
		}
		if now := c.leader(); now != l || l.Group(testShard).Status().Term != term {
			t.Error("the leader changed meanwhile")
		}
	})
}

// TestSnapshotsTakeTurns ensures that a node sends two snapshots at a time, that others wait for their turns however long that takes,
// and that one which leads no more stops waiting.
func TestSnapshotsTakeTurns(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		for range snapshotsAtOnce {
			l.snapshots.turns <- struct{}{}
		}
		c.net.Heal()
		c.until("it waits", func() bool { return l.snapshots.waiting.Load() == 1 })
		time.Sleep(10 * snapshotProgress)
		if l.snapshots.sent.Load() != 0 || l.snapshots.waiting.Load() != 1 || l.snapshots.failures.Load() != 0 {
			t.Errorf("%d bytes sent, %d wait, %d failed", l.snapshots.sent.Load(), l.snapshots.waiting.Load(), l.snapshots.failures.Load())
		}
		c.lead("b")
		c.until("it gives up", func() bool { return l.snapshots.waiting.Load() == 0 })
		for range snapshotsAtOnce {
			<-l.snapshots.turns
		}
		c.lead("a")
		c.wantSameState()
		if len(l.snapshots.turns) != 0 || l.snapshots.sending.Load() != 0 {
			t.Error("a turn was never given back")
		}
	})
}

// TestDeposedSenderStops ensures that a leader which is deposed while it sends a snapshot sends no more of it, and that the next one
// catches the follower up.
func TestDeposedSenderStops(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		l.SetSnapshotBandwidth(snapshotChunk)
		c.net.Heal()
		c.until("a chunk is sent", func() bool { return l.snapshots.sent.Load() > 0 })
		c.lead("b")
		time.Sleep(2 * time.Second)
		before := l.snapshots.sent.Load()
		time.Sleep(5 * time.Second)
		if after := l.snapshots.sent.Load(); after != before {
			t.Errorf("%d bytes were sent by who leads no more", after-before)
		}
		c.wantSameState()
		c.wantGet(c.leader(), "fill7", bigEntries+"7")
	})
}

// TestSnapshotKeepsItsLog ensures that the log behind a snapshot stays while that is sent, so that one is enough however much is
// written meanwhile, and that it is compacted afterwards.
func TestSnapshotKeepsItsLog(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		var begins atomic.Int32
		c.net.DropWhen(func(_, to string, frame []byte) bool {
			if f, ok := raftIn(frame); ok && to == "c" && f.rpc == rpcSnapshotEnd {
				begins.Add(1)
			}
			return false
		})
		l.SetSnapshotBandwidth(snapshotChunk)
		c.net.Heal()
		c.until("a chunk is sent", func() bool { return l.snapshots.sent.Load() > 0 })
		for i := range 25 { // a snapshot of its own is due after 10
			c.mustPut(l, fmt.Sprint("more", i), "v")
			time.Sleep(200 * time.Millisecond)
		}
		if c.hosts["c"].Group(testShard).Status().SnapshotTotal == 0 {
			t.Fatal("the transfer was over too soon: this test proves nothing")
		}
		c.wantSameState()
		if n := begins.Load(); n != 1 {
			t.Errorf("%d snapshots were sent", n)
		}
		for i := range 30 {
			c.mustPut(l, fmt.Sprint("most", i), "v")
		}
		c.until("the log is compacted", func() bool { return logLength(l) < 20 })
	})
}

// spoolOf is a spool in a folder, with what it is sent.
func spoolOf(t *testing.T, dir string) *spools {
	t.Helper()
	s := &spools{dir: dir, traffic: newSnapshotTraffic()}
	s.adopt()
	t.Cleanup(s.close)
	return s
}

func mustBegin(t *testing.T, s *spools, source string, b snapshotBegin) snapshotBegun {
	t.Helper()
	answer, err := s.begin(source, b)
	if err != nil {
		t.Fatal(err)
	}
	begun, err := decodeSnapshotBegun(answer)
	if err != nil {
		t.Fatal(err)
	}
	return begun
}

// TestSpoolTellsWhatItHas ensures that a spool continues what fits, whoever sends it and in another process, tells the checksum of
// what is there, and begins anew for another snapshot, a sender that knows no better and what the sender found to be something else.
func TestSpoolTellsWhatItHas(t *testing.T) {
	dir := t.TempDir()
	s := spoolOf(t, dir)
	args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 3, LastLogIndex: 9, LastLogTerm: 2, Configuration: []byte("c"), ConfigurationIndex: 1, Size: 10}
	first := mustBegin(t, s, "1/a/1", snapshotBegin{args: args, resumes: true})
	if first.have != 0 {
		t.Fatalf("%+v", first)
	}
	if err := s.chunk(first.id, "1/a/1", 0, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	next := *args
	next.Term = 4
	again := mustBegin(t, s, "1/b/1", snapshotBegin{args: &next, resumes: true})
	if again.id != first.id || again.have != 5 || again.sum != 0x9a71bb4c {
		t.Errorf("continued as %+v", again)
	}
	if err := s.chunk(first.id, "1/a/1", 5, []byte("x")); err == nil {
		t.Error("the earlier sender's chunk was taken")
	}
	older := *args
	older.LastLogIndex = 7
	if _, err := s.begin("1/a/1", snapshotBegin{args: &older, resumes: true}); err == nil {
		t.Error("an older transfer replaced a newer one")
	}

	s.close() // as at the end of the process: the files stay
	s = spoolOf(t, dir)
	adopted := mustBegin(t, s, "1/b/1", snapshotBegin{args: &next, resumes: true})
	if adopted.have != 5 || adopted.sum != again.sum {
		t.Errorf("adopted as %+v", adopted)
	}
	if anew := mustBegin(t, s, "1/b/1", snapshotBegin{args: &next, resumes: true, not: adopted.id}); anew.have != 0 || anew.id == adopted.id {
		t.Errorf("what is no part of it was kept: %+v", anew)
	} else if err := s.chunk(anew.id, "1/b/1", 0, []byte("hello worl")); err != nil {
		t.Fatal(err)
	} else if _, err := s.end(context.Background(), nil, "1/b/1", snapshotEnd{id: anew.id, summed: true, sum: 1}); err != errSnapshotSum {
		t.Errorf("installed with another checksum: %v", err)
	}
	if old := mustBegin(t, s, "1/b/1", snapshotBegin{args: &next}); old.have != 0 {
		t.Errorf("a sender that can't continue was told %+v", old)
	}
	newer := next
	newer.LastLogIndex = 12
	if other := mustBegin(t, s, "1/b/1", snapshotBegin{args: &newer, resumes: true}); other.have != 0 {
		t.Errorf("another snapshot was continued: %+v", other)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 2 {
		t.Errorf("files %v", left)
	}
	huge := newer
	huge.LastLogIndex, huge.Size = 20, 1<<62
	if _, err := s.begin("1/b/1", snapshotBegin{args: &huge, resumes: true}); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("a snapshot that has no place: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("files %v", left)
	}
}

// TestSpoolIsNotBelieved ensures that what a disk changed in a spool never gets to Raft, and that a part without its beginning is
// removed at a start.
func TestSpoolIsNotBelieved(t *testing.T) {
	dir := t.TempDir()
	s := spoolOf(t, dir)
	args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 3, LastLogIndex: 9, LastLogTerm: 2, Size: 5}
	begun := mustBegin(t, s, "1/a/1", snapshotBegin{args: args, resumes: true})
	if err := s.chunk(begun.id, "1/a/1", 0, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	name := s.cur.file.Name()
	if err := os.WriteFile(name, []byte("hallo"), 0o600); err != nil {
		t.Fatal(err)
	}
	r, err := s.cur.open()
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := b.ReadFrom(r); err != errSnapshotSum {
		t.Errorf("read %q, %v", b.String(), err)
	}
	s.close()
	if err := os.Remove(name + spoolBegin); err != nil {
		t.Fatal(err)
	}
	spoolOf(t, dir)
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) != 0 {
		t.Errorf("files %v", left)
	}
}

// TestSpoolExpires ensures that a part of a snapshot is given up when nothing more comes.
func TestSpoolExpires(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		l.SetSnapshotBandwidth(snapshotChunk)
		c.net.Heal()
		c.until("a chunk is sent", func() bool { return l.snapshots.sent.Load() > 0 })
		c.net.Isolate("c", "a", "b")
		g := c.hosts["c"].Group(testShard)
		time.Sleep(spoolLife - time.Minute)
		if _, total := g.spools.progress(); total == 0 {
			t.Error("given up too soon")
		}
		time.Sleep(2 * time.Minute)
		g.spools.mu.Lock()
		left := g.spools.cur
		g.spools.mu.Unlock()
		if left != nil {
			t.Error("it is still there")
		}
		l.SetSnapshotBandwidth(0)
		c.net.Heal()
		c.wantSameState()
	})
}

// TestSnapshotOfAnother ensures that what a receiver has is continued only where it is a part of the snapshot, and sent anew where
// it only looks so.
func TestSnapshotOfAnother(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		l.SetSnapshotBandwidth(snapshotChunk)
		c.net.Heal()
		c.until("chunks are sent", func() bool { return l.snapshots.sent.Load() > 2*snapshotChunk })
		c.net.Isolate("c", "a", "b")
		c.until("it is given up", func() bool { return l.snapshots.failures.Load() > 0 })
		s := &c.hosts["c"].Group(testShard).spools
		s.mu.Lock()
		if s.cur == nil || s.cur.size == 0 {
			t.Error("nothing is left to be continued")
		} else {
			s.cur.mem[0][7] ^= 1
			s.cur.sum = s.cur.mem.sum()
		}
		s.mu.Unlock()
		resumed, failures := l.snapshots.resumed.Load(), l.snapshots.failures.Load()
		l.SetSnapshotBandwidth(0)
		c.net.Heal()
		c.wantSameState()
		if l.snapshots.resumed.Load() != resumed || l.snapshots.failures.Load() == failures {
			t.Error("it was continued")
		}
		c.wantGet(c.leader(), "fill7", bigEntries+"7")
	})
}

// TestSnapshotIsReplaced ensures that a follower is caught up though its leader takes another snapshot while it sends one, since too
// much was written for the log to stay, and that the log does not grow without bound.
func TestSnapshotIsReplaced(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.behind(30)
		before := snapshotSize(l)
		l.SetSnapshotBandwidth(snapshotChunk)
		c.net.Heal()
		c.until("a chunk is sent", func() bool { return l.snapshots.sent.Load() > 0 })
		for i := range 60 {
			c.mustPut(l, fmt.Sprint("more", i), bigEntries)
			time.Sleep(100 * time.Millisecond)
		}
		if c.hosts["c"].Group(testShard).Status().SnapshotTotal != before || snapshotSize(l) == before {
			t.Fatal("no other snapshot was taken in time: this test proves nothing")
		}
		if n := logLength(l); n > catchUpPatience*20 {
			t.Errorf("the log has %d entries", n)
		}
		l.SetSnapshotBandwidth(0)
		c.wantSameState()
		c.wantGet(c.leader(), "more7", bigEntries)
	})
}

// TestSnapshotsOfEarlierBuilds ensures that snapshots go between this build and those which continue none.
func TestSnapshotsOfEarlierBuilds(t *testing.T) {
	args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 3, LastLogIndex: 9, LastLogTerm: 2, Configuration: []byte("c"), ConfigurationIndex: 1, Size: 10}
	old := appendSnapshotBegin(nil, args)
	if b, err := decodeSnapshotBegin(old, "1/a/1"); err != nil || b.resumes || b.args.Size != 10 {
		t.Errorf("an old begin: %+v, %v", b, err)
	}
	if b := (snapshotBegin{args: args, resumes: true, not: 7}).append(nil); !bytes.HasPrefix(b, old) {
		t.Errorf("%x does not begin as %x", b, old)
	} else if b, err := decodeSnapshotBegin(b, "1/a/1"); err != nil || !b.resumes || b.not != 7 {
		t.Errorf("a begin: %+v, %v", b, err)
	}
	if b, err := decodeSnapshotBegun([]byte{5}); err != nil || b != (snapshotBegun{id: 5}) {
		t.Errorf("an old answer: %+v, %v", b, err)
	}
	if e, err := decodeSnapshotEnd([]byte{5}); err != nil || e != (snapshotEnd{id: 5}) {
		t.Errorf("an old end: %+v, %v", e, err)
	}
}

// TestVolatileSpool ensures that what comes in for a replica that is kept in memory alone is gathered in memory too: it has no folder.
func TestVolatileSpool(t *testing.T) {
	h, err := NewHost(Config{Node: "a", Dir: t.TempDir(), Network: NewMemoryNetwork(1).From("a"), Addr: addrOf("a")})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	if err := h.OpenCache(Spec{Shard: testShard, R: 1, Volatile: true}); err != nil {
		t.Fatal(err)
	}
	args := &raft.InstallSnapshotRequest{SnapshotVersion: 1, Term: 3, LastLogIndex: 9, LastLogTerm: 2, Size: 5}
	begun := mustBegin(t, &h.Group(testShard).spools, "1/b/1", snapshotBegin{args: args, resumes: true})
	if err := h.Group(testShard).spools.chunk(begun.id, "1/b/1", 0, []byte("hello")); err != nil {
		t.Error(err)
	}
}
