package shard

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// TestManifestKeep ensures that a replica may be made beside the former one that it keeps, and beside no other; that the former one opens as long as
// the new one has not spoken, and never after that; and that it is destroyed as any.
func TestManifestKeep(t *testing.T) {
	dir := newFolder(t)
	m := restart(t, dir)
	createReplica(t, m, 3, 17)
	for _, keep := range []uint64{0, 16, 18} {
		if _, err := m.begin(3, 20, keep); err == nil {
			t.Errorf("begun beside replica 17, to keep %d", keep)
		}
	}
	for range 2 { // a crash while it is made leaves nothing
		if _, err := m.begin(3, 20, 17); err != nil {
			t.Fatal(err)
		}
		m = restart(t, dir)
		if state, err := m.check(3, 17); state != replicaCreated || err != nil {
			t.Errorf("the former one, while the new one is made: %q, %v", state, err)
		}
	}
	if err := m.destroyed(3, 20); err != nil { // as another recovery may
		t.Fatal(err)
	}
	if _, err := m.begin(3, 21, 17); err != nil {
		t.Fatal(err)
	}
	must(t, m.destroyed(3, 21))

	createReplica(t, m, 0, 0) // of a founder of the directory: an r like any other, though 0 keeps none
	if _, err := m.begin(0, 5, 0); err == nil {
		t.Error("begun beside replica 0 of the directory")
	}

	dir = newFolder(t)
	m = restart(t, dir)
	createReplica(t, m, 3, 17)
	if _, err := m.begin(3, 20, 17); err != nil {
		t.Fatal(err)
	}
	if m.retired(3, 17) || !m.retired(3, 16) {
		t.Error("the former one is taken to be gone while it may open again, or one that never came is not")
	}
	createKeeping(t, m, 3, 20, 17)
	if !m.retired(3, 17) {
		t.Error("the former one is not gone, though it never opens again")
	}
	m = restart(t, dir)
	if _, err := m.check(3, 17); !errors.Is(err, ErrRetired) {
		t.Errorf("the former one, once the new one may have spoken: %v", err)
	}
	if state, err := m.check(3, 20); state != replicaCreated || err != nil {
		t.Errorf("the new one: %q, %v", state, err)
	}
	must(t, m.destroyed(3, 17))
	if state, err := m.check(3, 20); state != replicaCreated || err != nil {
		t.Errorf("the new one: %q, %v", state, err)
	}
}

func createKeeping(t *testing.T, m *manifest, shard ID, r, keep uint64) {
	t.Helper()
	folder, err := m.begin(shard, r, keep)
	must(t, err)
	fill(t, folder, ReplicaID{Shard: shard, Node: "a", R: r})
	must(t, m.created(shard, r))
}

// failingStorage is a storage that fails at one step of opening a replica that keeps another's state, as if the process died there.
type failingStorage struct {
	storage
	creating, destroying bool
}

var errKilled = errors.New("killed")

func (f *failingStorage) open(id ReplicaID, volatile bool, keep uint64, log hclog.Logger, fatal func(error), bootstrap func(replicaStore, raft.SnapshotStore) error) (replicaStore, snapshotStore, error) {
	return f.storage.open(id, volatile, keep, log, fatal, func(store replicaStore, snaps raft.SnapshotStore) error {
		if err := bootstrap(store, snaps); err != nil || !f.creating {
			return err
		}
		return errKilled
	})
}

func (f *failingStorage) destroy(id ReplicaID) error {
	if f.destroying {
		return errKilled
	}
	return f.storage.destroy(id)
}

// keepHost is a node with a data folder and one replica of one shard, which is its group.
type keepHost struct {
	*Host
	t    *testing.T
	dir  string
	kind LogStore
}

func (k *keepHost) restart() {
	k.t.Helper()
	if k.Host != nil {
		must(k.t, k.Close())
	}
	h, err := NewHost(Config{Node: "a", Dir: k.dir, LogStore: k.kind, Network: NewMemoryNetwork(1).From("a"), Addr: "a:1", Fatal: func(err error) { k.t.Error(err) },
		HeartbeatTimeout: 100 * time.Millisecond, ElectionTimeout: 100 * time.Millisecond})
	must(k.t, err)
	must(k.t, h.Start())
	k.Host = h
}

// do performs a request once the replica leads and is granted.
func (k *keepHost) do(r uint64, req Request) Response {
	k.t.Helper()
	req.Shard, req.R = 7, r
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		resp, err := k.Do(ctx, "a", req)
		cancel()
		if err == nil {
			return resp
		}
		if time.Since(began) > 20*time.Second {
			k.t.Fatal(err)
		}
	}
}

func (k *keepHost) checksum() [sha256.Size]byte {
	return k.Group(7).instance().fsm.machine.(*cacheMachine).m.Checksum()
}

func grantOf(generation uint64, epoch uint64) fsm.Grant {
	return fsm.Grant{Range: fsm.Range{End: fsm.Slots}, Generation: generation, Epoch: epoch, VersionBits: uint32(epoch), Limit: 1 << 20, TableVersion: epoch}
}

// TestKeep ensures, on a disk, that a new generation begins with all that the log of the former replica has, snapshot or not, and with its own grant; that a
// death at each step of it leaves what is begun again or gone on with; that the former replica never opens again once the new one may have spoken;
// and that nothing begins empty where what was to be kept is lost.
func TestKeep(t *testing.T) {
	former := Spec{Shard: 7, R: 1, Members: []Member{{"a", 1}}}
	next := Spec{Shard: 7, R: 5, Members: []Member{{"a", 5}}, Keep: Keep{R: 1, Grant: grantOf(2, 5)}}
	for _, kind := range []LogStore{LogBolt, LogShared} {
		t.Run(string(kind), func(t *testing.T) { testKeep(t, kind, former, next) })
	}
}

func testKeep(t *testing.T, kind LogStore, former, next Spec) {
	for _, death := range []string{"none", "restart before", "failing once", "creating", "destroying", "lost"} {
		for _, snapshot := range []bool{false, true} {
			t.Run(fmt.Sprint(death, " snapshot=", snapshot), func(t *testing.T) {
				k := &keepHost{t: t, dir: t.TempDir(), kind: kind}
				k.restart()
				defer func() { k.Close() }()
				must(t, k.OpenCache(former))
				began := time.Now()
				for !k.Group(7).Status().Ready {
					if time.Sleep(time.Millisecond); time.Since(began) > 20*time.Second {
						t.Fatal("no leader")
					}
				}
				must(t, k.Cache(7).Grant(context.Background(), grantOf(1, 1)))
				versions := map[string]uint64{}
				for i := range 20 {
					key := fmt.Sprint("key", i)
					versions[key] = k.do(1, Request{Op: OpPut, Key: []byte(key), Value: []byte(key)}).Version
					if i == 10 && snapshot {
						must(t, k.Group(7).instance().raft.Snapshot().Error())
					}
				}
				want, err := stateOf(k.Group(7).store, k.Group(7).snaps)
				must(t, err)
				applied, _ := want.Applied()
				_, err = want.Apply(applied+1, fsm.Batch{Stamp: want.Stats().Clock, Level: 1, Commands: []fsm.Command{{Kind: fsm.KindGrant, Grant: next.Keep.Grant}}})
				must(t, err)
				sum := want.Checksum()

				fails := &failingStorage{storage: k.storage, creating: death == "creating" || death == "failing once", destroying: death == "destroying"}
				k.storage = fails
				switch death {
				case "restart before":
					k.restart()
				case "failing once": // as on a full disk
					if err := k.OpenCache(next); !errors.Is(err, errKilled) {
						t.Fatal(err)
					}
					if !slices.Contains(k.Replicas(), ReplicaID{7, "a", 1}) {
						t.Fatal("the former replica is destroyed")
					}
					fails.creating = false
				case "creating", "destroying":
					if err := k.OpenCache(next); death == "creating" && !errors.Is(err, errKilled) || death == "destroying" && err != nil {
						t.Fatal(err)
					}
					if death == "destroying" { // a judgement that was under way says nothing of the new one
						must(t, fails.storage.diverged(ReplicaID{7, "a", 1}, &Verdict{Outcome: OutcomeMinority}))
					}
					k.restart()
					err := k.OpenCache(former) // as by an older table
					if opens := death == "creating"; opens && err != nil || !opens && !errors.Is(err, ErrRetired) {
						t.Fatalf("the former replica: %v", err)
					}
				case "lost":
					must(t, k.Close())
					must(t, os.Rename(filepath.Join(replicaFolder(k.dir, 7, 1), snapshotFolder), filepath.Join(k.dir, "away")))
					k.Host = nil
					k.restart()
					for range lossTries {
						if err := k.OpenCache(next); !errors.Is(err, ErrDataLost) {
							t.Fatal(err)
						}
					}
					if v := k.lost(ReplicaID{7, "a", 5}); v == nil || v.Outcome != OutcomeLost {
						t.Errorf("%v", v)
					}
					if !slices.Contains(k.Replicas(), ReplicaID{7, "a", 1}) {
						t.Error("the former replica is destroyed")
					}
					return
				}
				for range 2 {
					must(t, k.OpenCache(next))
					if got := k.checksum(); got != sum {
						t.Errorf("state %x, want %x", got, sum)
					}
					if slices.Contains(k.Replicas(), ReplicaID{7, "a", 1}) {
						t.Error("the former replica is there still")
					}
					k.restart()
				}
				must(t, k.OpenCache(next))
				for key, version := range versions {
					if resp := k.do(5, Request{Op: OpGet, Key: []byte(key)}); !resp.Found || resp.Version != version || string(resp.Value) != key {
						t.Errorf("%s: %+v, want version %d", key, resp, version)
					}
				}
				if resp := k.do(5, Request{Op: OpPut, Key: []byte("new"), Value: []byte("x")}); resp.Version>>44 != 5 || resp.Epoch != 5 {
					t.Errorf("%+v", resp)
				}
				if err := k.OpenCache(former); err == nil {
					t.Error("the former replica opens")
				}
			})
		}
	}
}
