package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// TestVolatileOnDisk ensures that of a volatile replica nothing but its note is on disk, that it is lost once its process has ended,
// also where that was killed before the replica could speak, and that a later one takes its place once it is destroyed.
func TestVolatileOnDisk(t *testing.T) {
	dir := t.TempDir()
	never := func(error) { t.Error("fatal") }
	bootstrap := func(store replicaStore, snaps raft.SnapshotStore) error {
		return store.SetUint64([]byte("CurrentTerm"), 1)
	}
	reopen := func() *disk {
		t.Helper()
		d, err := openDisk(dir, "a", LogBolt, slog.New(slog.DiscardHandler), func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Close() })
		return d
	}
	log := newRaftLogger(slog.New(slog.DiscardHandler), 2)
	id := ReplicaID{2, "a", 5}

	d := reopen()
	failing := errors.New("killed")
	if _, _, err := d.open(id, true, 0, log, never, func(replicaStore, raft.SnapshotStore) error { return failing }); !errors.Is(err, failing) {
		t.Fatalf("got %v", err)
	}
	d.Close()
	d = reopen() // it never spoke: it may begin again
	store, _, err := d.open(id, true, 0, log, never, bootstrap)
	if err != nil {
		t.Fatal(err)
	}
	if store.Term() != 1 {
		t.Errorf("bootstrap left term %d", store.Term())
	}
	if entries, err := os.ReadDir(filepath.Join(dir, replicasDir)); err == nil && len(entries) > 0 {
		t.Errorf("a volatile replica has a folder: %v", entries)
	}
	d.Close()

	d = reopen()
	if _, _, err := d.open(id, true, 0, log, never, bootstrap); !errors.Is(err, errVolatile) || !errors.Is(err, ErrDataLost) {
		t.Errorf("opened after its process had ended: %v", err)
	}
	if got := d.replicas(); len(got) != 1 || got[0] != id {
		t.Errorf("replicas here: %v", got)
	}
	if found, err := Inspect(dir, nil); err == nil || len(found) > 0 { // another process holds the folder
		t.Errorf("%v, %v", found, err)
	}
	if err := d.destroy(id); err != nil {
		t.Fatal(err)
	}
	if _, _, err := d.open(ReplicaID{2, "a", 9}, true, 0, log, never, bootstrap); err != nil {
		t.Errorf("its successor: %v", err)
	}
	d.Close()
	if found, err := Inspect(dir, nil); err != nil || len(found) > 0 {
		t.Errorf("a volatile replica is expected on disk: %v, %v", found, err)
	}
}

// TestVolatileReplica ensures that a volatile replica whose process ended, killed or stopped, is known to be lost at once and says
// nothing, while the others go on, and that a new one takes its place.
func TestVolatileReplica(t *testing.T) {
	for _, end := range []struct {
		name string
		end  func(c *cluster, node string)
	}{
		{"killed", (*cluster).crash},
		{"stopped", func(c *cluster, node string) {
			if err := c.hosts[node].Close(); err != nil {
				t.Error(err)
			}
			delete(c.hosts, node)
		}},
	} {
		t.Run(end.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster(t, 3, nil)
				c.volatile = true
				defer c.close()
				c.startAll()
				c.lead("a")
				c.mustPut(c.hosts["a"], "k", "v")
				end.end(c, "c")
				c.mustPut(c.hosts["a"], "k2", "v")

				h := c.startEmpty("c")
				id := c.replicaOn("c")
				if err := h.OpenCache(Spec{Shard: testShard, R: id.R, Volatile: true, Members: c.members()}); !errors.Is(err, ErrDataLost) {
					t.Fatalf("opened: %v", err)
				}
				if v := h.lost(id); v == nil || v.Outcome != OutcomeLost {
					t.Fatalf("not known to be lost: %v", v)
				}
				time.Sleep(10 * time.Second)
				if h.Group(testShard) != nil {
					t.Fatal("it runs")
				}
				c.mustPut(c.hosts["a"], "k3", "v")

				c.crash("b") // the last of a majority: nobody may go on without
				if _, err := put(c.hosts["a"], "k4", "v"); err == nil {
					t.Error("a write was acknowledged by one of three")
				}
			})
		})
	}
}

// TestPieces ensures that a snapshot in memory is what was written, in whatever pieces, and takes little more.
func TestPieces(t *testing.T) {
	for _, size := range []int{0, 1, leastPiece, leastPiece + 1, 3*mostPiece + 17} {
		want := make([]byte, size)
		for n := range want {
			want[n] = byte(n * 7 >> 3)
		}
		for _, write := range []int{1 << 10, 5 << 20} {
			var p pieces
			for rest := want; len(rest) > 0; {
				n := min(write, len(rest))
				p, rest = p.append(rest[:n]), rest[n:]
			}
			got, err := io.ReadAll(p.reader())
			if err != nil || !bytes.Equal(got, want) {
				t.Errorf("%d bytes by %d: %d come back, %v", size, write, len(got), err)
			}
			room := 0
			for _, b := range p {
				room += cap(b)
			}
			if room > 3*size/2+2*leastPiece+mostPiece {
				t.Errorf("%d bytes take %d", size, room)
			}
		}
	}
}

// TestVolatileLogs ensures that the logs of volatile replicas stay within a quarter of the entries that these may have (VolatileShare),
// however many replicas there are, however much is written to all of them, and however large its values are.
func TestVolatileLogs(t *testing.T) {
	for _, size := range []int{10 << 10, 1000 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const shards, limit = 16, 8 << 20
				c := newCluster(t, 1, nil)
				c.volatile, c.limit = true, limit
				defer c.close()
				c.startAll()
				h := c.hosts["a"]
				for id := testShard + 1; id <= shards; id++ {
					if err := h.OpenCache(Spec{Shard: id, R: 1, Volatile: true, Members: []Member{{"a", 1}}, Campaign: true}); err != nil {
						t.Fatal(err)
					}
					c.until("it leads", func() bool { return h.Group(id).Status().Ready })
					err := h.Cache(id).Grant(context.Background(), fsm.Grant{Range: c.owned, Epoch: 1, Generation: 1, VersionBits: 1, Limit: limit, TableVersion: 1})
					if err != nil {
						t.Fatal(err)
					}
				}
				value := make([]byte, size)
				var most int
				for began, n := time.Now(), 0; time.Since(began) < 2*time.Second; n++ {
					for id := testShard; id <= shards; id++ {
						if _, err := do(h, Request{Shard: id, Op: OpPut, Key: fmt.Append(nil, n), Value: value}); err != nil {
							t.Fatal(err)
						}
					}
					synctest.Wait() // what a snapshot takes is no part of this
					logs := 0
					for id := testShard; id <= shards; id++ {
						logs += h.Group(id).store.(*memoryStore).memory.bytes()
					}
					most = max(most, logs)
					time.Sleep(time.Duration(size) * time.Second / (4 << 20)) // 4 MiB a second for each shard
				}
				if bound := shards * (limit/4 + size); most > bound {
					t.Errorf("the logs take %d bytes of memory, they may take %d", most, bound)
				}
			})
		})
	}
}

// bytes is what the entries take.
func (e *memoryEngine) bytes() (sum int) {
	e.mu.RLock()
	defer e.mu.RUnlock()
	for _, entry := range e.logs {
		sum += len(entry.Data)
	}
	return sum
}

// TestVolatileSnapshotWaits ensures that a snapshot which waits for its turn to be sent does not keep memory once another took its place.
func TestVolatileSnapshotWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 4, compacting)
		c.volatile, c.voters = true, 3
		defer c.close()
		c.startAll()
		l := c.lead("a")
		for range snapshotsAtOnce { // others are being sent
			l.snapshots.turns <- struct{}{}
		}
		c.fill(l, 30, "v")
		id := c.replicaOn("d").String()
		if err := raftOf(l).AddNonvoter(raft.ServerID(id), raft.ServerAddress(id), 0, 0).Error(); err != nil {
			t.Fatal(err)
		}
		c.until("a snapshot waits", func() bool { return l.snapshots.waiting.Load() == 1 })
		c.fill(l, 30, "v")
		time.Sleep(2 * snapshotLook)
		if l.snapshots.failures.Load() == 0 {
			t.Error("the snapshot that waits is kept, though another took its place")
		}
		for range snapshotsAtOnce {
			<-l.snapshots.turns
		}
		c.wantSameState()
	})
}
