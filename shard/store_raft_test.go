package shard

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
)

// tally is a raft.FSM that counts entries.
type tally struct{ entries []string }

func (c *tally) Apply(log *raft.Log) any { c.entries = append(c.entries, string(log.Data)); return nil }
func (c *tally) Snapshot() (raft.FSMSnapshot, error) {
	return tallySnapshot(strings.Join(c.entries, " ")), nil
}
func (c *tally) Restore(r io.ReadCloser) error {
	data, err := io.ReadAll(r)
	c.entries = strings.Fields(string(data))
	return errors.Join(err, r.Close())
}

type tallySnapshot string

func (s tallySnapshot) Persist(sink raft.SnapshotSink) error {
	_, err := io.WriteString(sink, string(s))
	return errors.Join(err, sink.Close())
}
func (s tallySnapshot) Release() {}

// Ensures that hashicorp/raft itself, crashed at any of these points, finds in the stores what it
// had committed: after entries, after a snapshot with compaction, after entries behind it.
func TestRaftOnMemoryStores(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, snaps := newMemoryStore(), newMemorySnapshots()
		var want []string
		for life := range 4 {
			machine := &tally{}
			_, trans := raft.NewInmemTransport("1/a/1")
			conf := raft.DefaultConfig()
			conf.LocalID = "1/a/1"
			conf.Logger = hclog.NewNullLogger()
			conf.TrailingLogs = 1
			if life == 0 {
				must(t, raft.BootstrapCluster(conf, store, store, snaps, trans, raft.Configuration{
					Servers: []raft.Server{{ID: "1/a/1", Address: "1/a/1"}},
				}))
			}
			index, term, err := recoveryPoint(store, snaps)
			must(t, err)
			if wiped, err := repair(store, index, term); wiped || err != nil {
				t.Fatalf("life %d: repair: wiped %v, %v", life, wiped, err)
			}
			r, err := raft.NewRaft(conf, machine, store, store, snaps, trans)
			must(t, err)
			<-r.LeaderCh()
			must(t, r.Barrier(0).Error())
			if !equal(machine.entries, want) {
				t.Fatalf("life %d: got %v, want %v", life, machine.entries, want)
			}
			for _, word := range []string{"a", "b", "c"} {
				must(t, r.Apply([]byte(word), 0).Error())
				want = append(want, word)
			}
			if life%2 == 1 {
				must(t, r.Snapshot().Error())
				must(t, r.Apply([]byte("d"), 0).Error())
				want = append(want, "d")
			}
			if store.Term() != uint64(life)+2 {
				t.Errorf("life %d: term %d", life, store.Term())
			}
			crashedStore, crashedSnaps := store.crashed(), snaps.crashed()
			must(t, r.Shutdown().Error())
			must(t, trans.Close())
			store, snaps = crashedStore, crashedSnaps
		}
		if first, _ := store.FirstIndex(); first == 1 {
			t.Error("the log was never compacted")
		}
		time.Sleep(time.Hour) // virtual: let what raft left behind end
	})
}

// follower is a replica of hashicorp/raft whose leader is played by the test.
type follower struct {
	raft   *raft.Raft
	stop   func()
	leader *raft.InmemTransport
}

var followerServers = raft.EncodeConfiguration(raft.Configuration{Servers: []raft.Server{
	{ID: "1/f/1", Address: "1/f/1"}, {ID: "1/l/1", Address: "1/l/1"},
}})

func startFollower(t *testing.T, store *memoryStore, snaps *memorySnapshots) *follower {
	t.Helper()
	_, own := raft.NewInmemTransport("1/f/1")
	_, leader := raft.NewInmemTransport("1/l/1")
	leader.Connect("1/f/1", own)
	conf := raft.DefaultConfig()
	conf.LocalID = "1/f/1"
	conf.Logger = hclog.NewNullLogger()
	conf.TrailingLogs = 1
	r, err := raft.NewRaft(conf, &tally{}, store, store, snaps, own)
	must(t, err)
	stop := func() {
		must(t, r.Shutdown().Error())
		must(t, own.Close())
	}
	return &follower{r, stop, leader}
}

func (f *follower) header() raft.RPCHeader {
	return raft.RPCHeader{ProtocolVersion: 3, ID: []byte("1/l/1"), Addr: []byte("1/l/1")}
}

// appendEntries reports whether the follower took the entries.
func (f *follower) appendEntries(t *testing.T, term, prev, prevTerm, commit uint64, entries []*raft.Log) bool {
	t.Helper()
	var answer raft.AppendEntriesResponse
	must(t, f.leader.AppendEntries("1/f/1", "1/f/1", &raft.AppendEntriesRequest{RPCHeader: f.header(), Term: term,
		PrevLogEntry: prev, PrevLogTerm: prevTerm, Entries: entries, LeaderCommitIndex: commit}, &answer))
	return answer.Success
}

func (f *follower) install(t *testing.T, term, index, indexTerm uint64) {
	t.Helper()
	const state = "state"
	var answer raft.InstallSnapshotResponse
	must(t, f.leader.InstallSnapshot("1/f/1", "1/f/1", &raft.InstallSnapshotRequest{RPCHeader: f.header(), SnapshotVersion: 1,
		Term: term, LastLogIndex: index, LastLogTerm: indexTerm, Configuration: followerServers, ConfigurationIndex: 1,
		Size: int64(len(state))}, &answer, strings.NewReader(state)))
	if !answer.Success {
		t.Fatal("the snapshot was not installed")
	}
}

// founding is the log from 1 to to of term 1, whose first entry is the configuration.
func founding(to uint64) []*raft.Log {
	entries := logs(1, to, 1)
	entries[0].Type, entries[0].Data = raft.LogConfiguration, followerServers
	return entries
}

// Ensures that a follower whose log diverged from the snapshot that it was sent follows again once
// its instance was replaced: whether its log was longer, as long or shorter. hashicorp/raft alone
// refuses the leader for ever in the first two cases (its issue #697).
func TestInstallOverDivergentLog(t *testing.T) {
	for index, stuck := range map[uint64]bool{2: true, 3: true, 4: false} {
		t.Run(fmt.Sprintf("log to 3 snapshot to %d", index), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store, snaps := newMemoryStore(), newMemorySnapshots()
				f := startFollower(t, store, snaps)
				if !f.appendEntries(t, 1, 0, 0, 1, founding(3)) {
					t.Fatal("the first entries were refused")
				}
				f.install(t, 3, index, 2)
				next := logs(index+1, index+1, 3)
				if took := f.appendEntries(t, 3, index, 2, 0, next); took == stuck {
					t.Errorf("before: the follower took the next entry: %v; has the library changed?", took)
				}
				f.stop()

				end, term, err := recoveryPoint(store, snaps)
				must(t, err)
				wiped, err := repair(store, end, term)
				must(t, err)
				if end != index || wiped != stuck {
					t.Errorf("repair: snapshot %d, wiped %v; want %d, %v", end, wiped, index, stuck)
				}
				f = startFollower(t, store, snaps)
				defer f.stop()
				if !f.appendEntries(t, 3, index, 2, 0, next) {
					t.Error("after: the follower refuses the next entry")
				}
				// The next leader knows better: it replaces the very first entry behind the snapshot.
				next = logs(index+1, index+1, 4)
				if !f.appendEntries(t, 4, index, 2, 0, next) {
					t.Error("the follower does not give up an entry that follows the snapshot")
				}
				if got, want := describe(t, store), string(next[0].Data); got != want {
					t.Errorf("log: got %q, want %q", got, want)
				}
			})
		})
	}
}

// Ensures that a follower that compacted its log up to its snapshot still knows the entry that the
// snapshot ends with, when the leader repeats what follows.
func TestFollowerKnowsBoundary(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store, snaps := newMemoryStore(), newMemorySnapshots()
		f := startFollower(t, store, snaps)
		defer f.stop()
		entries := founding(7)
		if !f.appendEntries(t, 1, 0, 0, 5, entries) {
			t.Fatal("the first entries were refused")
		}
		synctest.Wait() // until what is committed is applied
		must(t, f.raft.Snapshot().Error())
		if got := describe(t, store); got != "5@1 6@1 7@1" {
			t.Fatalf("after compaction: got %q", got)
		}
		if !f.appendEntries(t, 1, 5, 1, 5, entries[5:]) {
			t.Error("the follower refuses a repeated request")
		}
	})
}
