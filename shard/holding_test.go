package shard

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// listMachine remembers what was applied to it.
type listMachine struct{ all []string }

func (m *listMachine) Apply(_ uint64, data []byte) any {
	m.all = append(m.all, string(data))
	return len(m.all)
}

func (m *listMachine) Snapshot() StateSnapshot { return listSnapshot(strings.Join(m.all, ",")) }

func (m *listMachine) Restore(r io.Reader) error {
	b, err := io.ReadAll(r)
	m.all = strings.Split(string(b), ",")
	return err
}

type listSnapshot string

func (s listSnapshot) WriteTo(w io.Writer) (int64, error) {
	n, err := io.WriteString(w, string(s))
	return int64(n), err
}

// TestFirstEntry ensures, on disk, that a group that begins with an entry has it from its birth on, also where the process ends before anybody
// asked for anything, that no replica is left with less where making it is cut short, and that more than one member can't begin so.
func TestFirstEntry(t *testing.T) {
	dir := t.TempDir()
	id := ReplicaID{0, "a", 9}
	spec := Spec{Shard: id.Shard, R: id.R, Members: []Member{{"a", id.R}}, First: []byte("first"), Campaign: true}
	start := func() *Host {
		t.Helper()
		h, err := NewHost(Config{Node: "a", Dir: dir, Network: NewMemoryNetwork(1).From("a"), Addr: "a:1", Fatal: func(err error) { t.Error(err) }})
		must(t, err)
		t.Cleanup(func() { h.Close() })
		return h
	}
	var machine *listMachine
	open := func(h *Host, s Spec) *Group {
		t.Helper()
		g, err := h.OpenGroup(s, func() StateMachine { machine = &listMachine{}; return machine })
		must(t, err)
		return g
	}
	propose := func(g *Group, data string) {
		t.Helper()
		for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			_, _, err := g.Propose(t.Context(), []byte(data))
			if err == nil {
				return
			}
			if time.Since(began) > 20*time.Second {
				t.Fatal(err)
			}
		}
	}

	h := start()
	two := spec
	two.Members = append(two.Members, Member{"b", id.R})
	if _, err := h.OpenGroup(two, func() StateMachine { return &listMachine{} }); err == nil {
		t.Error("a group of two began with an entry of one of them")
	}
	disk := h.storage.(*disk)
	cut := errors.New("cut")
	log, never := newRaftLogger(h.log, 0), func(error) { t.Error("fatal") }
	if _, _, err := disk.open(id, false, 0, log, never, func(store replicaStore, _ raft.SnapshotStore) error {
		return errors.Join(store.StoreLog(&raft.Log{Index: 1, Term: 1}), cut)
	}); !errors.Is(err, cut) {
		t.Fatal(err)
	}
	must(t, h.Close())
	h = start()
	if v := h.Holdings(); len(v) != 1 || v[0].Replica != id || v[0].Runs {
		t.Errorf("begun, not opened: %+v", v)
	}
	open(h, spec)
	must(t, h.Close())

	h = start()
	g := open(h, Spec{Shard: id.Shard, R: id.R}) // as one that is there already
	propose(g, "second")
	if want := "[first second]"; fmt.Sprint(machine.all) != want {
		t.Errorf("the machine has %v, want %s", machine.all, want)
	}
	v := h.Holdings()
	if len(v) != 1 || !v[0].Runs || !v[0].Leads || !v[0].Ready || v[0].Last < 4 || !slices.Equal(v[0].Voters, []ReplicaID{id}) || len(v[0].Learners) > 0 {
		t.Errorf("%+v", v)
	}
}
