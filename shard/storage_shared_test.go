package shard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// startReplica opens a replica of shard 7 that is its group, and has it lead and granted.
func startReplica(k *keepHost, r uint64) {
	k.t.Helper()
	must(k.t, k.OpenCache(Spec{Shard: 7, R: r, Members: []Member{{"a", r}}}))
	for began := time.Now(); !k.Group(7).Status().Ready; time.Sleep(time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			k.t.Fatal("no leader")
		}
	}
	if k.Group(7).Status().Cache == nil && k.Cache(7).Status().Cache.Generation == 0 {
		must(k.t, k.Cache(7).Grant(context.Background(), grantOf(r, r)))
	}
}

// Ensures that a replica keeps the log store that it was made in whatever the node is set to later, that new ones follow the setting, and that a version which
// knows of no shared log refuses the folder.
func TestLogStoreOfReplica(t *testing.T) {
	k := &keepHost{t: t, dir: t.TempDir(), kind: LogShared}
	defer func() { k.Close() }()
	file := func(r uint64) bool { return exists(filepath.Join(replicaFolder(k.dir, 7, r), storeFile)) }
	format := func() (n int) {
		data, err := os.ReadFile(filepath.Join(k.dir, manifestName))
		must(t, err)
		_, err = fmt.Sscanf(strings.Join(strings.Fields(string(data)), ""), `{"format":%d`, &n)
		must(t, err)
		return n
	}
	k.restart()
	if got := format(); got != folderFormat {
		t.Errorf("format %d, though nothing is in the shared log", got)
	}
	startReplica(k, 1)
	version := k.do(1, Request{Op: OpPut, Key: []byte("k"), Value: []byte("v")}).Version
	if got := format(); got != sharedFormat || file(1) {
		t.Errorf("format %d, with a file of its own: %v", got, file(1))
	}
	for _, kind := range []LogStore{LogBolt, LogShared, LogBolt} {
		k.kind = kind
		k.restart()
		must(t, k.OpenCache(Spec{Shard: 7, R: 1}))
		if got := k.do(1, Request{Op: OpGet, Key: []byte("k")}); !got.Found || got.Version != version {
			t.Errorf("set to %s: %+v", kind, got)
		}
	}
	must(t, k.Destroy(7, 1))
	startReplica(k, 2) // the setting is bolt now
	if !file(2) {
		t.Error("a new replica does not follow the setting")
	}
	k.kind = LogShared
	k.restart()
	must(t, k.OpenCache(Spec{Shard: 7, R: 2}))
	if there, err := k.storage.(*disk).log.has(7, 1); there || err != nil {
		t.Errorf("the destroyed replica is there: %v, %v", there, err)
	}
	must(t, k.Destroy(7, 2))
	startReplica(k, 3)
	if _, err := k.OpenGroup(Spec{Shard: Directory, R: 0, Members: []Member{{"a", 0}}}, func() StateMachine { return &listMachine{} }); err != nil {
		t.Error(err)
	}
	if there, err := k.storage.(*disk).log.has(Directory, 0); there || err != nil || !exists(filepath.Join(replicaFolder(k.dir, Directory, 0), storeFile)) {
		t.Errorf("the directory's is in the shared log: %v, %v", there, err)
	}
}

// Ensures that a failed write ends a process whose Fatal closes the Host, as soon as it can, whichever goroutine met it.
func TestFatalMayClose(t *testing.T) {
	for kind, fail := range map[LogStore]func(h *Host){
		LogShared: func(h *Host) { must(t, h.storage.(*disk).log.files.mark.Close()) }, // the next sync can't note how far it came
		LogBolt:   func(h *Host) { must(t, h.Group(7).store.(*diskStore).engine.Close()) },
	} {
		t.Run(string(kind), func(t *testing.T) {
			var h *Host
			closed := make(chan error, 1)
			h, err := NewHost(Config{Node: "a", Dir: t.TempDir(), LogStore: kind, Network: NewMemoryNetwork(1).From("a"), Addr: "a:1",
				HeartbeatTimeout: 100 * time.Millisecond, ElectionTimeout: 100 * time.Millisecond, Fatal: func(error) {
					closed <- h.Close()
					select {} // the process ends
				}})
			must(t, err)
			must(t, h.Start())
			startReplica(&keepHost{Host: h, t: t}, 1)
			fail(h)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			if _, err := h.Do(ctx, "a", Request{Shard: 7, R: 1, Op: OpPut, Key: []byte("k"), Value: []byte("v")}); err == nil {
				t.Error("a write that failed was answered")
			}
			select {
			case err := <-closed:
				if err == nil {
					t.Error("a node that failed was closed as if nothing were")
				}
			case <-time.After(10 * time.Second):
				t.Error("the node does not close")
			}
		})
	}
}

// Ensures that a node whose shared log is gone, is damaged so that it can't be told whose, or has a replica that nobody knows of, refuses to start and says what to do; and that
// its inspection reports each replica.
func TestLostSharedLog(t *testing.T) {
	for name, lose := range map[string]func(t *testing.T, dir string){
		"gone": func(t *testing.T, dir string) { must(t, os.RemoveAll(filepath.Join(dir, sharedDir))) },
		"emptied": func(t *testing.T, dir string) {
			must(t, os.RemoveAll(filepath.Join(dir, sharedDir)))
			must(t, os.Mkdir(filepath.Join(dir, sharedDir), 0o700))
		},
		"damaged": func(t *testing.T, dir string) {
			names, err := filepath.Glob(filepath.Join(dir, sharedDir, manifestPrefix+"*"))
			must(t, err)
			data, err := os.ReadFile(names[0])
			must(t, err)
			data[12] ^= 1
			must(t, os.WriteFile(names[0], data, 0o600))
		},
		"unknown replica": func(t *testing.T, dir string) {
			l, err := openSharedLog(vfs.Default, filepath.Join(dir, sharedDir), true, false, nil, nil)
			must(t, err)
			s, err := l.openStore(ReplicaID{8, "a", 1}, nil)
			must(t, err)
			must(t, s.StoreLogs(logs(1, 1, 1)))
			must(t, l.Close())
		},
	} {
		t.Run(name, func(t *testing.T) {
			k := &keepHost{t: t, dir: t.TempDir(), kind: LogShared}
			k.restart()
			startReplica(k, 1)
			k.do(1, Request{Op: OpPut, Key: []byte("k"), Value: []byte("v")})
			must(t, k.Close())
			lose(t, k.dir)
			for _, kind := range []LogStore{LogShared, LogBolt} {
				_, err := NewHost(Config{Node: "a", Dir: k.dir, LogStore: kind, Network: NewMemoryNetwork(1).From("a"), Addr: "a:1"})
				if !errors.Is(err, ErrRejoin) || !strings.Contains(err.Error(), "shared log") {
					t.Errorf("set to %s: got %v, want %v", kind, err, ErrRejoin)
				}
			}
			found, err := Inspect(k.dir, nil)
			if name == "unknown replica" {
				must(t, err)
				return
			}
			if !errors.Is(err, ErrDataLost) || len(found) != 1 || found[0].Error == "" {
				t.Errorf("inspected: %+v, %v", found, err)
			}
		})
	}
}

// Ensures that an inspection sees in the shared log what the replica had, changes nothing, and finds a damaged entry.
func TestInspectShared(t *testing.T) {
	k := &keepHost{t: t, dir: t.TempDir(), kind: LogShared}
	k.restart()
	startReplica(k, 1)
	for i := range 10 {
		k.do(1, Request{Op: OpPut, Key: fmt.Append(nil, "key", i), Value: []byte("value")})
	}
	sum := k.checksum()
	must(t, k.Close())
	before := sizes(t, k.dir)
	for range 2 {
		found, err := Inspect(k.dir, nil)
		if err != nil || len(found) != 1 || found[0].Checksum != fmt.Sprintf("%x", sum) || found[0].Entries != 10 || found[0].LastIndex < 11 {
			t.Errorf("%+v, %v", found, err)
		}
	}
	if after := sizes(t, k.dir); after != before {
		t.Errorf("the folder was\n%s\nand is\n%s", before, after)
	}
}

func sizes(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || e.Name() == lockFile {
			return err
		}
		info, err := e.Info()
		fmt.Fprintln(&all, path, info.Size(), info.ModTime())
		return err
	}))
	return all.String()
}
