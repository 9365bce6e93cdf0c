package shard

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestLostIsBelievedLate ensures that a replica counts as lost after some tries in a row alone, and never for want of files
// or rights; that it is shown then, and not tried again, until it is destroyed.
func TestLostIsBelievedLate(t *testing.T) {
	dir := t.TempDir()
	h, err := NewHost(Config{Node: "a", Dir: dir, LogStore: LogBolt, Network: NewMemoryNetwork(1).From("a"), Addr: "a:1", Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	defer h.Close()
	spec := Spec{Shard: 7, R: 1, Members: []Member{{"a", 1}}}
	must(t, h.OpenCache(spec))
	must(t, h.Close())
	h, err = NewHost(Config{Node: "a", Dir: dir, LogStore: LogBolt, Network: NewMemoryNetwork(1).From("a"), Addr: "a:1", Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	defer h.Close()
	id := ReplicaID{7, "a", 1}
	for range 2 * lossTries {
		if err := h.lose(id, fmt.Errorf("%w: %w", ErrDataLost, syscall.EMFILE)); !errors.Is(err, syscall.EMFILE) || h.lost(id) != nil {
			t.Fatalf("%v, lost %v", err, h.lost(id))
		}
	}
	store := filepath.Join(replicaFolder(dir, 7, 1), storeFile)
	must(t, os.Rename(store, store+".away"))
	for range lossTries - 1 {
		if err := h.OpenCache(spec); !errors.Is(err, ErrDataLost) || h.lost(id) != nil {
			t.Fatalf("%v, lost %v", err, h.lost(id))
		}
	}
	must(t, os.Rename(store+".away", store))
	must(t, h.OpenCache(spec)) // it was there after all
	must(t, h.Close())

	must(t, os.Remove(store))
	h, err = NewHost(Config{Node: "a", Dir: dir, LogStore: LogBolt, Network: NewMemoryNetwork(1).From("a"), Addr: "a:1", Fatal: func(err error) { t.Error(err) }})
	must(t, err)
	defer h.Close()
	for range lossTries {
		if err := h.OpenCache(spec); !errors.Is(err, ErrDataLost) {
			t.Fatal(err)
		}
	}
	status := h.Status()
	if len(status) != 1 || status[0].Replica != id.String() || !status[0].Stopped || status[0].Diverged == "" {
		t.Errorf("%+v", status)
	}
	if replica, v, err := h.Diverged(7); err != nil || replica != id.String() || v == nil || v.Outcome != OutcomeLost {
		t.Errorf("%s, %v, %v", replica, v, err)
	}
	must(t, os.WriteFile(store, []byte("back"), 0o600))
	if err := h.OpenCache(spec); !errors.Is(err, ErrDataLost) {
		t.Errorf("tried again: %v", err)
	}
	must(t, h.Destroy(7, 1))
	if len(h.Status()) != 0 || h.lost(id) != nil {
		t.Errorf("%+v", h.Status())
	}
	must(t, h.OpenCache(Spec{Shard: 7, R: 2, Members: []Member{{"a", 2}}}))
}
