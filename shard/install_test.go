package shard

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// compacting makes replicas take snapshots often and keep little of the log.
func compacting(_ string, c *Config) {
	c.SnapshotEntries, c.TrailingLogs, c.CheckInterval = 10, 3, time.Hour
}

// fill writes n entries of their own and lets time pass for a snapshot.
func (c *cluster) fill(h *Host, n int, value string) {
	c.t.Helper()
	for i := range n {
		c.mustPut(h, fmt.Sprint("fill", i), value+fmt.Sprint(i))
	}
	before, _ := h.Group(testShard).store.FirstIndex()
	c.until("log compacted", func() bool {
		first, _ := h.Group(testShard).store.FirstIndex()
		return first > before && first > 20
	})
}

func logLength(h *Host) int {
	s := h.Group(testShard).store
	first, _ := s.FirstIndex()
	last, _ := s.LastIndex()
	return int(last - first + 1)
}

// TestLogLeavesMemory ensures that on leader and followers what was written is not in memory, besides its store, when it is old.
func TestLogLeavesMemory(t *testing.T) {
	inBubble(t, 3, func(_ string, c *Config) { c.CheckInterval = time.Hour }, func(c *cluster) {
		l := c.leader()
		for i := range 50 {
			c.mustPut(l, fmt.Sprint("key", i), "value")
		}
		for _, name := range c.names {
			s := c.hosts[name].Group(testShard).store.(*memoryStore).store
			c.until(name+" has forgotten what is old", func() bool {
				s.mu.RLock()
				defer s.mu.RUnlock()
				return len(s.tail.logs) == 1
			})
		}
	})
}

// snapshotFrames counts and records the snapshot messages that go to a node.
type snapshotFrames struct {
	mu     sync.Mutex
	frames []raftFrame
}

// watch also loses the entries that the library may have read from the log before it was compacted,
// so that the node gets a snapshot.
func (s *snapshotFrames) watch(c *cluster, node string) {
	c.net.DropWhen(func(_, to string, frame []byte) bool {
		f, ok := raftIn(frame)
		if !ok || to != node {
			return false
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if f.rpc >= rpcSnapshotBegin {
			f.message = bytes.Clone(f.message)
			s.frames = append(s.frames, f)
		}
		a, ok := appendIn(frame)
		return ok && len(a.Entries) > 0 && len(s.frames) == 0
	})
}

func (s *snapshotFrames) count(rpc byte) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, f := range s.frames {
		if f.rpc == rpc {
			n++
		}
	}
	return n
}

// proposeInVain lets a leader that is cut off append n entries, none of which is ever committed.
func (c *cluster) proposeInVain(h *Host, n int) {
	c.t.Helper()
	tick, err := fsm.Batch{Stamp: 1, Level: fsm.MaxLevel}.AppendBinary(nil)
	if err != nil {
		c.t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), time.Second)
			defer cancel()
			if _, _, err := h.Group(testShard).Propose(ctx, tick); err == nil {
				c.t.Error("a cut-off leader committed an entry")
			}
		})
	}
	wg.Wait()
}

// TestDeposedLeaderConverges ensures that a deposed leader whose uncommitted log is longer than the
// others' snapshot converges within seconds once it is back, and that neither its log nor the number
// of snapshots sent grows without bound (hashicorp/raft #697).
func TestDeposedLeaderConverges(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		old := c.lead("a")
		c.mustPut(old, "k", "v0")
		c.net.Isolate("a", "b", "c")
		c.proposeInVain(old, 400) // far more entries than the others will write
		next := c.leader("b", "c")
		c.fill(next, 60, "v")
		c.mustPut(next, "after the snapshot", "v") // so the library goes on with the log after it
		diverged, reached := old.Group(testShard).Status().Last, next.Group(testShard).Status().Last
		if diverged <= reached {
			t.Fatalf("the divergent log ends at %d, the other at %d: this test proves nothing", diverged, reached)
		}
		var sent snapshotFrames
		sent.watch(c, "a")
		c.net.Heal()
		c.until("a snapshot is under way", func() bool { return sent.count(rpcSnapshotBegin) > 0 })
		began := time.Now()
		c.wantSameState()
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("converging took %v", took)
		}
		if n := sent.count(rpcSnapshotEnd); n == 0 || n > 3 {
			t.Errorf("%d snapshots were sent", n)
		}
		c.fill(c.leader(), 100, "w")
		c.wantSameState()
		c.until("the deposed leader's log is compacted", func() bool { return logLength(old) < 20 })
		if s := old.Group(testShard).Status(); s.Last > c.leader().Group(testShard).Status().Last+2 {
			t.Errorf("the divergent end is still there: %+v", s)
		}
		c.wantGet(c.lead("a"), "k", "v0")
	})
}

// TestStaleInstallChangesNothing ensures that the messages of a snapshot transfer which come again,
// late, and even after newer ones, never take a follower's state back.
func TestStaleInstallChangesNothing(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.lead("a")
		c.net.Isolate("c", "a", "b")
		c.fill(l, 40, "v")
		var sent snapshotFrames
		sent.watch(c, "c")
		c.net.Heal()
		c.wantSameState()
		c.until("the snapshot is installed", func() bool { return sent.count(rpcSnapshotEnd) > 0 })
		c.mustPut(c.leader(), "k", "newer")
		c.wantSameState()
		group := c.hosts["c"].Group(testShard)
		inst := group.instance()
		before := group.Status()
		sent.mu.Lock()
		frames := slices.Clone(sent.frames)
		sent.mu.Unlock()

		// The whole transfer once more, in the leader's name.
		link := c.dial("a", "c")
		var transfer uint64
		for _, f := range frames {
			m := f.message
			if f.rpc != rpcSnapshotBegin { // under the transfer's new number
				r := reader{b: m}
				r.uint()
				m = append(binary.AppendUvarint(nil, transfer), r.b...)
			}
			answer, err := link.askRaft(testShard, f.source, f.target, f.rpc, m)
			if err != nil {
				t.Fatalf("repeated message %d: %v", f.rpc, err)
			}
			if r := (reader{b: answer}); f.rpc == rpcSnapshotBegin {
				transfer = r.uint()
			}
		}
		// Should the check before the library be passed by a race, the machine itself refuses.
		metas, _ := group.snaps.List()
		_, old, err := describedSnapshots{SnapshotStore: group.snaps}.Open(metas[0].ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := inst.fsm.Restore(old); err == nil || !strings.Contains(err.Error(), "older than the state") {
			t.Errorf("restoring an old snapshot: %v", err)
		}
		if after := group.Status(); after.Applied < before.Applied || after.Term != before.Term {
			t.Errorf("status went from %+v to %+v", before, after)
		}
		if group.instance() != inst {
			t.Error("the instance was replaced")
		}
		c.wantSameState()
		c.wantGet(c.lead("c"), "k", "newer")
	})
}

// TestSnapshotTransferInterrupted ensures that a snapshot of many chunks arrives although the link
// breaks and the receiver crashes half way, and although the network repeats and delays frames.
func TestSnapshotTransferInterrupted(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.lead("a")
		c.net.Isolate("c", "a", "b")
		c.fill(l, 30, strings.Repeat("x", 60<<10))
		var sent snapshotFrames
		sent.watch(c, "c")
		chunk := func(n int) func() bool { return func() bool { return sent.count(rpcSnapshotChunk) >= n } }

		slow := LinkFaults{Delay: 5 * time.Millisecond}
		c.net.Heal()
		c.net.SetFaults("a", "c", slow)
		c.net.SetFaults("c", "a", slow)
		c.until("a chunk under way", chunk(3))
		c.net.BreakLinks("a", "c")
		c.until("a chunk of the second transfer under way", chunk(8))
		c.crash("c")
		c.start("c")
		slow.Duplicate, slow.Jitter = 0.2, 3*time.Millisecond
		c.net.SetFaults("a", "c", slow)
		c.wantSameState()
		if n := sent.count(rpcSnapshotBegin); n < 3 {
			t.Errorf("%d transfers: the first two were not interrupted", n)
		}
		if chunks := sent.count(rpcSnapshotChunk); chunks < 20 {
			t.Errorf("%d chunks in all: the snapshot is too small to prove anything", chunks)
		}
		c.net.Heal()
		c.wantGet(c.lead("c"), "fill7", strings.Repeat("x", 60<<10)+"7")
	})
}

// TestSnapshotEndLost ensures that a follower is caught up soon though the order to install what it got
// is lost, on a link that lives, and that the snapshot is installed once though it is ordered twice.
func TestSnapshotEndLost(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.lead("a")
		c.net.Isolate("c", "a", "b")
		c.fill(l, 40, "v")
		var begins, ends atomic.Int32
		c.net.DropWhen(func(_, to string, frame []byte) bool {
			f, ok := raftIn(frame)
			if !ok || to != "c" {
				return false
			}
			switch f.rpc {
			case rpcSnapshotBegin:
				begins.Add(1)
			case rpcSnapshotEnd:
				return ends.Add(1) == 1
			}
			return false
		})
		c.net.Heal()
		began := time.Now()
		c.wantSameState()
		if took := time.Since(began); took > 2*snapshotProgress {
			t.Errorf("caught up after %v", took)
		}
		if begins.Load() != 1 || ends.Load() < 2 {
			t.Errorf("%d transfers, %d orders to install, want one transfer ordered again", begins.Load(), ends.Load())
		}
	})
}

// TestSnapshotEndMeetsReplacement ensures that a snapshot which was installed is not sent again when the
// answer is lost while the receiver replaces its instance, as it does after each.
func TestSnapshotEndMeetsReplacement(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.lead("a")
		c.net.Isolate("c", "a", "b")
		c.fill(l, 40, "v")
		g := c.hosts["c"].Group(testShard)
		fresh := g.newMachine
		g.newMachine = func() StateMachine {
			time.Sleep(500 * time.Millisecond) // a large state takes a while to restore
			return fresh()
		}
		var begins, ends atomic.Int32
		c.net.DropWhen(func(_, to string, frame []byte) bool {
			if f, ok := raftIn(frame); ok && to == "c" {
				switch f.rpc {
				case rpcSnapshotBegin:
					begins.Add(1)
				case rpcSnapshotEnd:
					ends.Add(1)
				}
			}
			return false
		})
		c.net.Heal()
		c.net.SetFaults("c", "a", LinkFaults{Delay: 20 * time.Millisecond})
		c.until("the instance is being replaced", func() bool { return ends.Load() > 0 && g.instance() == nil })
		c.net.BreakLinks("a", "c") // the answer is on its way
		c.wantSameState()
		time.Sleep(5 * time.Second)
		if begins.Load() != 1 || ends.Load() < 2 {
			t.Errorf("sent %d times, ordered %d times, want once and more", begins.Load(), ends.Load())
		}
	})
}

// TestSnapshotOfStoppedInstanceIsOver ensures that a snapshot which was to be installed in an instance that ended meanwhile is over: who sends it
// would else ask for minutes what came of it, and the follower get nothing else.
func TestSnapshotOfStoppedInstanceIsOver(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		g := c.hosts["b"].Group(testShard)
		release := stall(c.hosts["b"]) // its instance takes nothing
		defer release()
		c.mustPut(l, "k", "v")
		synctest.Wait()
		trans := g.instance().trans
		trans.cancel() // as the end of an instance does, upon a snapshot too
		for id := range uint64(30) {
			s := &spools{traffic: g.host.snapshots}
			s.cur = &spool{id: id, source: "1/a/1", args: &raft.InstallSnapshotRequest{Term: g.store.Term(), LastLogIndex: 1000}, summed: true, done: make(chan struct{})}
			if _, err := s.end(context.Background(), trans, "1/a/1", snapshotEnd{id: id}); !errors.Is(err, errTransferOver) || again(err) {
				t.Fatalf("end: %v, want %v", err, errTransferOver)
			}
		}
	})
}

// TestSnapshotRestoredOnce ensures that the instance that is started after the installation of a snapshot goes on with the state that was restored:
// of a large one the second time would take as long as the first.
func TestSnapshotRestoredOnce(t *testing.T) {
	inBubble(t, 3, compacting, func(c *cluster) {
		l := c.lead("a")
		c.net.Isolate("c", "a", "b")
		c.fill(l, 40, "v")
		g := c.hosts["c"].Group(testShard)
		before := g.instance()
		c.net.Heal()
		c.wantSameState()
		c.until("another instance", func() bool { return g.instance() != nil && g.instance() != before })
		if g.instance().fsm.machine != before.fsm.machine {
			t.Error("the snapshot was restored again")
		}
		c.mustPut(l, "k", "v")
		c.wantSameState()
		before = g.instance()
		notify(before.installed)
		c.until("another instance", func() bool { return g.instance() != nil && g.instance() != before })
		c.mustPut(l, "k", "w")
		c.wantSameState()
		c.crash("c")
		c.start("c")
		c.wantSameState()
	})
}

// TestCrashDuringInstall ensures that a follower which crashes at any moment of an installation comes
// back, with a state that its log continues.
func TestCrashDuringInstall(t *testing.T) {
	for _, wait := range []time.Duration{0, time.Millisecond, 3 * time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
		inBubble(t, 3, compacting, func(c *cluster) {
			l := c.lead("a")
			c.net.Isolate("c", "a", "b")
			c.fill(l, 40, "v")
			var ends atomic.Int32
			c.net.DropWhen(func(_, to string, frame []byte) bool {
				if f, ok := raftIn(frame); ok && to == "c" && f.rpc == rpcSnapshotEnd {
					ends.Add(1)
				}
				return false
			})
			c.net.Heal()
			c.until("installation", func() bool { return ends.Load() > 0 })
			time.Sleep(wait)
			c.crash("c")
			c.start("c")
			c.mustPut(c.leader(), "k", "v")
			c.wantSameState()
		})
	}
}

// TestStopAnswersEverybody ensures that stopping or replacing a leader's instance leaves nobody waiting
// for ever: hashicorp/raft does not answer what waits in its queues at shutdown.
func TestStopAnswersEverybody(t *testing.T) {
	for _, cut := range []bool{false, true} {
		inBubble(t, 3, nil, func(c *cluster) {
			l := c.leader()
			if cut {
				c.net.Isolate(l.Node(), c.others(l.Node())...)
			}
			store := l.Group(testShard).store.(*memoryStore)
			stuck := make(chan struct{})
			store.onStore(func(logs []*raft.Log) error { <-stuck; return nil })
			const n = 300
			results := make(chan error, n)
			for i := range n {
				go func() {
					ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
					defer cancel()
					_, err := l.Do(ctx, l.Node(), Request{Shard: testShard, Op: OpPut, Key: []byte(fmt.Sprint(i)), Value: []byte("v")})
					results <- err
				}()
			}
			synctest.Wait()
			closed := make(chan error, 1)
			began := time.Now()
			go func() { closed <- l.Close() }()
			synctest.Wait()
			close(stuck)
			if err := <-closed; err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("closing took %v", took)
			}
			for range n {
				if err := <-results; err == nil && cut {
					t.Error("acknowledged without a quorum")
				}
			}
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("the last answer came after %v", took)
			}
			delete(c.hosts, l.Node())
		})
	}
}
