package shard

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// lagging is an empty store whose appends are synced after lag.
func lagging(lag time.Duration) *memoryStore {
	e := newMemoryEngine()
	e.lag = func() time.Duration { return lag }
	return newMemoryStoreOn(e)
}

// Ensures what is durable at which time, which writes wait for it, and that a crash leaves that and no more.
func TestStoreAhead(t *testing.T) {
	const lag = time.Second
	noop := []*raft.Log{{Index: 3, Term: 2, Type: raft.LogNoop, Data: []byte("3@2")}}
	tests := []struct {
		name  string
		write func(s *memoryStore) error // after entries 1 and 2 are appended
		took  time.Duration
		now   string // durable after it
		later string // and once all is synced
	}{
		{"nothing", func(*memoryStore) error { return nil }, 0, "", "1@1 2@1"},
		{"another append", func(s *memoryStore) error { return s.StoreLogs(logs(3, 3, 1)) }, 0, "", "1@1 2@1 3@1"},
		{"an entry that is no command", func(s *memoryStore) error { return s.StoreLogs(noop) }, lag, "1@1 2@1 3@2", "1@1 2@1 3@2"},
		{"a command before one that is none", func(s *memoryStore) error {
			return s.StoreLogs([]*raft.Log{logs(3, 3, 2)[0], {Index: 4, Term: 2, Type: raft.LogBarrier, Data: []byte("4@2")}})
		}, lag, "1@1 2@1 3@2 4@2", "1@1 2@1 3@2 4@2"},
		{"a vote", func(s *memoryStore) error {
			return errors.Join(s.SetUint64([]byte(keyVoteTerm), 2), s.Set([]byte(keyVoteCandidate), []byte("c")))
		}, lag, "1@1 2@1", "1@1 2@1"},
		{"a term", func(s *memoryStore) error { return s.SetUint64([]byte(keyCurrentTerm), 2) }, lag, "1@1 2@1", "1@1 2@1"},
		{"a conflict", func(s *memoryStore) error { return s.DeleteRange(2, 2) }, lag, "1@1", "1@1"},
		{"a conflict that an append finds", func(s *memoryStore) error { return s.StoreLogs(logs(2, 2, 2)) }, lag, "1@1", "1@1 2@2"},
		{"a reset", func(s *memoryStore) error { return s.StoreLogs(logs(9, 9, 2)) }, lag, "", "9@2"},
		{"a compaction", func(s *memoryStore) error { return s.DeleteRange(1, 1) }, lag, "1@1 2@1", "1@1 2@1"},
		{"its end", func(s *memoryStore) error { return s.Close() }, lag, "1@1 2@1", "1@1 2@1"},
		{"await", func(s *memoryStore) error { return s.await(context.Background(), 2) }, lag, "1@1 2@1", "1@1 2@1"},
		{"await of less", func(s *memoryStore) error {
			return errors.Join(s.StoreLogs(logs(3, 3, 1)), s.await(context.Background(), 2))
		}, lag, "1@1 2@1", "1@1 2@1 3@1"},
		{"await of nothing", func(s *memoryStore) error { return s.await(context.Background(), 0) }, 0, "", "1@1 2@1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s := lagging(lag)
				must(t, s.StoreLogs(logs(1, 2, 1)))
				if got := s.durable(); got != 0 {
					t.Errorf("entries up to %d are durable at once", got)
				}
				if got := describe(t, s); got != "1@1 2@1" {
					t.Errorf("the log reads as %q", got)
				}
				began := time.Now()
				must(t, test.write(s))
				if took := time.Since(began); took != test.took {
					t.Errorf("the write took %v, want %v", took, test.took)
				}
				synctest.Wait()
				if got := describe(t, s.crashed()); got != test.now {
					t.Errorf("durable: %q, want %q", got, test.now)
				}
				durable := s.durable()
				if last, _ := s.crashed().LastIndex(); durable > last && last > 0 && test.now != test.later {
					t.Errorf("entries up to %d are said to be durable, those up to %d are", durable, last)
				}
				time.Sleep(3 * lag)
				if got := describe(t, s.crashed()); got != test.later {
					t.Errorf("durable in the end: %q, want %q", got, test.later)
				}
				if last, _ := s.LastIndex(); s.durable() < last {
					t.Errorf("in the end entries up to %d are said to be durable, of %d", s.durable(), last)
				}
			})
		})
	}
}

// failingEngine has each sync fail.
type failingEngine struct{ *memoryEngine }

func (e failingEngine) beginLogs(logs []*raft.Log) (func() error, error) {
	wait, err := e.memoryEngine.beginLogs(logs)
	return func() error { return errors.Join(wait(), errDisk) }, err
}

// Ensures that a failed sync is reported once, that nothing is written after it, and that neither the state machine nor a leader takes the
// entries for stored.
func TestAheadFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := failingEngine{lagging(time.Second).memory}
		var fatal []error
		var s *store
		s, err := newStore(e, defaultTail, func(err error) {
			fatal = append(fatal, err)
			s.Close()
		})
		must(t, err)
		must(t, s.StoreLogs(logs(1, 1, 1)))
		must(t, s.StoreLogs(logs(2, 2, 1)))
		machine := &countingMachine{}
		a := &adapter{machine: machine, log: s}
		results := a.ApplyBatch([]*raft.Log{logs(1, 1, 1)[0], logs(2, 2, 1)[0]})
		for _, r := range results {
			if err, ok := r.(error); !ok || !errors.Is(err, errDisk) {
				t.Errorf("applied: %v", r)
			}
		}
		if _, err := a.Snapshot(); !errors.Is(err, errDisk) {
			t.Errorf("a snapshot of what was not applied: %v", err)
		}
		if machine.applied != 0 || a.applied.at() != 0 {
			t.Errorf("%d entries reached the state machine, up to %d", machine.applied, a.applied.at())
		}
		if err := s.await(context.Background(), 1); !errors.Is(err, errDisk) {
			t.Errorf("waiting for entry 1: %v", err)
		}
		if got := s.durable(); got != 0 {
			t.Errorf("entries up to %d are said to be durable", got)
		}
		if err := s.settle(); !errors.Is(err, errDisk) || !strings.HasPrefix(err.Error(), "entries from 1 on ") {
			t.Errorf("waiting for all: %v", err)
		}
		if err := s.StoreLogs(logs(3, 3, 1)); err == nil {
			t.Error("something was written after the failure")
		}
		if len(fatal) != 1 || !errors.Is(fatal[0], errDisk) {
			t.Errorf("fatal was called with %v, want once with %v", fatal, errDisk)
		}
	})
}

// countingMachine counts what it is given.
type countingMachine struct {
	StateMachine
	applied int
}

func (m *countingMachine) Apply(uint64, []byte) any {
	m.applied++
	return nil
}

// aheadCluster is a cluster whose disks need as long for the sync of an append as is set for each.
type aheadCluster struct {
	*cluster
	lag map[string]*atomic.Int64
}

// inAheadCluster runs a test on three nodes, of which a leads.
func inAheadCluster(t *testing.T, f func(c *aheadCluster)) {
	t.Helper()
	inAheadClusterOf(t, 3, nil, f)
}

func inAheadClusterOf(t *testing.T, n int, tune func(string, *Config), f func(c *aheadCluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &aheadCluster{newCluster(t, n, tune), map[string]*atomic.Int64{}}
		for _, name := range c.names {
			lag := new(atomic.Int64)
			c.lag[name] = lag
			c.memory[name].SyncIn(func() time.Duration { return time.Duration(lag.Load()) })
		}
		defer c.close()
		c.startAll()
		c.lead("a")
		f(c)
	})
}

// putAside has key written by a, and tells what became of it.
func (c *aheadCluster) putAside(key string) (answered func() (bool, error)) {
	var mu sync.Mutex
	var err error
	done := false
	a := c.hosts["a"]
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Second)
		defer cancel()
		_, e := a.Do(ctx, "a", Request{Shard: testShard, Op: OpPut, Key: []byte(key), Value: []byte("v")})
		mu.Lock()
		defer mu.Unlock()
		done, err = true, e
	}()
	return func() (bool, error) {
		mu.Lock()
		defer mu.Unlock()
		return done, err
	}
}

// Ensures that an entry which the leader counts upon, but has not synced, reaches nobody as committed, though another has it; and that after
// the leader's death with it the replicas agree.
func TestAheadOfSync(t *testing.T) {
	for _, crash := range []bool{false, true} {
		inAheadCluster(t, func(c *aheadCluster) {
			const slow = 5 * time.Second
			c.net.Isolate("c", "a", "b")
			c.lag["a"].Store(int64(slow))
			began := time.Now()
			answered := c.putAside("k")
			c.until("b has the entry", func() bool {
				return raftOf(c.hosts["b"]).LastIndex() == raftOf(c.hosts["a"]).LastIndex() && raftOf(c.hosts["a"]).CommitIndex() == raftOf(c.hosts["a"]).LastIndex()
			})
			time.Sleep(slow / 2) // b would learn by now what is committed
			if time.Since(began) > slow {
				t.Fatal("b had the entry too late to prove anything")
			}
			last := raftOf(c.hosts["a"]).LastIndex()
			for _, node := range []string{"a", "b"} {
				if s := c.hosts[node].Group(testShard).Status(); s.Commit >= last || s.Applied >= last {
					t.Errorf("%s takes an entry for committed that its leader has not synced: %+v", node, s)
				}
			}
			if raftOf(c.hosts["b"]).CommitIndex() >= last {
				t.Error("b was told so")
			}
			if done, err := answered(); done {
				t.Errorf("the write was answered before: %v", err)
			}
			if !crash {
				c.until("the write is answered", func() bool { done, _ := answered(); return done })
				if _, err := answered(); err != nil {
					t.Errorf("the write: %v", err)
				}
				if took := time.Since(began); took < slow {
					t.Errorf("it took %v, and the sync %v", took, slow)
				}
				c.net.Heal()
				c.until("all have it", func() bool { return c.has("a", "k") && c.has("b", "k") && c.has("c", "k") })
				return
			}
			c.crash("a")
			c.lag["a"].Store(0)
			c.start("a")
			if got := raftOf(c.hosts["a"]).LastIndex(); got >= last {
				t.Errorf("a still has entry %d after the crash: nothing is proved", got)
			}
			c.net.Heal()
			c.leader()
			_, err := put(c.leader(), "other", "v")
			must(t, err)
			c.wantSameState()
		})
	}
}

// Ensures that a follower confirms an entry to the leader after it has synced it, and not before.
func TestFollowerSyncsFirst(t *testing.T) {
	for _, crash := range []bool{false, true} {
		inAheadCluster(t, func(c *aheadCluster) {
			const slow = 4 * time.Second // less than an append may take
			c.net.Isolate("c", "a", "b")
			c.lag["b"].Store(int64(slow))
			began := time.Now()
			answered := c.putAside("k")
			c.until("b has the entry", func() bool { return raftOf(c.hosts["b"]).LastIndex() == raftOf(c.hosts["a"]).LastIndex() })
			time.Sleep(slow / 2)
			last := raftOf(c.hosts["a"]).LastIndex()
			if at := raftOf(c.hosts["a"]).CommitIndex(); at >= last {
				t.Errorf("entry %d is committed up to %d, and no follower has synced it", last, at)
			}
			if done, err := answered(); done {
				t.Errorf("the write was answered: %v", err)
			}
			if crash { // b loses it, and told nobody that it had it
				c.crash("b")
				c.lag["b"].Store(0)
				c.start("b")
				if got := raftOf(c.hosts["b"]).LastIndex(); got >= last {
					t.Errorf("b still has entry %d after the crash: nothing is proved", got)
				}
			}
			c.until("the write is answered", func() bool { done, _ := answered(); return done })
			_, err := answered()
			if err != nil && !(crash && errors.Is(err, ErrOutcomeUnknown)) {
				t.Errorf("the write: %v", err)
			}
			if took := time.Since(began); !crash && took < slow {
				t.Errorf("it took %v, and the sync %v", took, slow)
			}
			c.net.Heal()
			if err == nil {
				c.until("all have it", func() bool { return c.has("a", "k") && c.has("b", "k") && c.has("c", "k") })
			}
			c.leader()
			c.wantSameState()
		})
	}
}

// Ensures that a follower whose disk is stuck keeps nothing of an entry that its leader sends again and again: whoever waits for the sync
// goes when the leader has given up.
func TestStuckFollowerKeepsNoRequests(t *testing.T) {
	inAheadCluster(t, func(c *aheadCluster) {
		const slow = 10 * time.Minute
		c.lag["b"].Store(int64(slow))
		began := time.Now()
		c.mustPut(c.hosts["a"], "k", "v") // on a and c
		a, b := raftOf(c.hosts["a"]), c.hosts["b"].Group(testShard).instance()
		c.until("b has the entry", func() bool { return b.raft.LastIndex() == a.LastIndex() })
		var last raft.Log
		must(t, b.group.store.GetLog(b.raft.LastIndex(), &last))
		again := &raft.AppendEntriesRequest{RPCHeader: header(c.replicaOn("a").String()), Term: a.CurrentTerm(), PrevLogEntry: last.Index, PrevLogTerm: last.Term}
		ctx, cancel := context.WithTimeout(context.Background(), appendTimeout)
		defer cancel()
		asked := time.Now()
		if _, _, err := b.trans.receive(ctx, c.replicaOn("a").String(), rpcAppend, appendAppendEntries(nil, again)); !errors.Is(err, ErrDeadline) {
			t.Errorf("the leader was answered: %v", err)
		}
		if took := time.Since(asked); took != appendTimeout {
			t.Errorf("the request was there for %v, of the %v that the leader waits", took, appendTimeout)
		}
		if time.Since(began) > slow {
			t.Fatal("the disk was not stuck for long enough to prove anything")
		}
	})
}

// Ensures that a node tells of no entry that its death would take: of several replicas the one with the longest log is kept where no majority is
// left, and all others are destroyed.
func TestToldLogIsSynced(t *testing.T) {
	inAheadCluster(t, func(c *aheadCluster) {
		a := c.hosts["a"]
		tell := func(what string, want uint64) {
			t.Helper()
			var entry raft.Log
			must(t, a.Group(testShard).store.GetLog(want, &entry))
			if fate, err := a.Fate(c.replicaOn("a")); err != nil || fate.Last != want || fate.LastTerm != entry.Term {
				t.Errorf("%s: fate %+v, %v, want that the log ends at %d of term %d", what, fate, err, want, entry.Term)
			}
			if all := a.Holdings(); len(all) != 1 || all[0].Last != want {
				t.Errorf("%s: holdings %+v, want that the log ends at %d", what, all, want)
			}
			if s := a.Group(testShard).Status(); s.Last != want {
				t.Errorf("%s: status %+v, want that the log ends at %d", what, s, want)
			}
		}
		synced := raftOf(a).LastIndex()
		tell("before", synced)
		c.lag["a"].Store(int64(5 * time.Second))
		answered := c.putAside("k")
		c.until("the entry is in the log", func() bool { return raftOf(a).LastIndex() > synced })
		tell("while it is synced", synced)
		c.until("the write is answered", func() bool { done, _ := answered(); return done })
		tell("once it is", raftOf(a).LastIndex())
	})
}

// Ensures that leadership is not handed to a follower whose disk is stuck, and is to one whose disk is not, also where nothing was written for long.
func TestNoTransferToAStuckFollower(t *testing.T) {
	inAheadCluster(t, func(c *aheadCluster) {
		a := c.hosts["a"].Group(testShard)
		time.Sleep(time.Minute)
		c.lag["c"].Store(int64(20 * time.Second))
		c.mustPut(c.hosts["a"], "k", "v")
		time.Sleep(2 * recentContact)
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := a.TransferLeadership(ctx, "c"); !errors.Is(err, ErrUnreachable) {
			t.Errorf("a transfer to the one that is stuck: %v", err)
		}
		c.mustPut(c.hosts["a"], "k", "w")
		if err := a.TransferLeadership(ctx, "b"); err != nil {
			t.Errorf("to the other one: %v", err)
		}
		c.lag["c"].Store(0)
		b := c.leader("b").Group(testShard)
		c.until("c can lead", func() bool { return b.TransferLeadership(ctx, "c") == nil })
		c.leader("c")
	})
}

// Ensures that a leader whose disk does not end a write, on which the library waits, is taken for lost, also where others have still to hear of
// entries or it is read by lease all the time, and follows the next one once the disk goes on.
func TestStuckLeaderFallsSilent(t *testing.T) {
	inBubble(t, 3, withLeases, func(c *cluster) {
		const slow = 45 * time.Second
		a := c.lead("a")
		began := time.Now()
		disk := a.Group(testShard).store.(*memoryStore)
		disk.onStore(func([]*raft.Log) error {
			time.Sleep(slow)
			return nil
		})
		go put(a, "k", "v")
		var stop atomic.Bool
		var reader sync.WaitGroup
		reader.Go(func() {
			for !stop.Load() {
				get(a, "k")
				time.Sleep(promiseTime / 10)
			}
		})
		c.mustPut(c.leader("b", "c"), "other", "v")
		if took := time.Since(began); took < maxSyncTime || took > maxSyncTime+time.Second {
			t.Errorf("another one led after %v", took)
		}
		stop.Store(true)
		reader.Wait()
		disk.onStore(nil)
		c.until("all have it", func() bool {
			for _, h := range c.hosts {
				if r, err := do(h, Request{Shard: testShard, Op: OpGet, Consistency: Any, Key: []byte("other")}); err != nil || !r.Found {
					return false
				}
			}
			return true
		})
		if took := time.Since(began); took < slow {
			t.Errorf("all have it after %v, and the write took %v", took, slow)
		}
		c.wantSameState()
	})
}

// Ensures that a leader whose disk is stuck has another one lead, which takes writes; and that nothing is lost when the disk goes on, or its
// process is killed.
func TestStuckLeaderHandsOver(t *testing.T) {
	for _, crash := range []bool{false, true} {
		inAheadCluster(t, func(c *aheadCluster) {
			const slow = 45 * time.Second
			c.lag["a"].Store(int64(slow))
			began := time.Now()
			c.putAside("k")
			c.mustPut(c.leader("b", "c"), "other", "v")
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("another one led after %v", took)
			}
			c.lag["a"].Store(0)
			if crash {
				c.crash("a")
				c.start("a")
			}
			c.until("all have it", func() bool { return c.has("a", "other") && c.has("b", "other") && c.has("c", "other") })
			if took := time.Since(began); took < slow && !crash {
				t.Errorf("all have it after %v, and the sync took %v", took, slow)
			}
			c.leader()
			c.wantSameState()
		})
	}
}
