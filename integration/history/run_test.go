package history

import (
	"reflect"
	"testing"
	"time"
)

// TestRunFolder ensures that a run that was written is read as it was.
func TestRunFolder(t *testing.T) {
	want := &Run{
		Meta: Meta{
			Workload: "register", Nemeses: []string{"kill-one"}, Mode: Tight, Seed: 7, Nodes: []string{"a", "b", "c"},
			Shards: 4, Net: "tap", Disk: "loop", Time: time.Minute, Flags: map[string]string{"--heartbeat": "100ms"},
			Version: "v1", Started: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
		},
		Ops:      []Operation{{Process: 1, Kind: Put, Key: "k\x00\xc3\xa4", Value: "v", Outcome: OK, Version: 9}, {Kind: Get}},
		Final:    []Operation{{Kind: Get, Key: "k", Found: true, Read: "v"}},
		Faults:   []Fault{{Name: "kill-one", Class: "crash", Targets: []string{"a"}, Start: 1, Healed: 2, Recovered: 3, Effect: "the process ended"}},
		Samples:  []Sample{{At: 5, Node: "a", Shard: 1, Role: "leader", Term: 2, Leader: "a", Applied: 10, Checksum: "ab"}},
		Ends:     []Sample{{At: 6, Node: "b"}},
		Defects:  []string{"said 500"},
		Failures: []string{"no progress"},
	}
	dir := t.TempDir() + "/run"
	if err := want.Write(dir); err != nil {
		t.Fatal(err)
	}
	got, err := ReadRun(dir)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, wrote %+v", got, want)
	}
}
