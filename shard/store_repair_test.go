package shard

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

// Ensures that a log that does not continue the snapshot is deleted, one that does is kept, and one
// with a gap before it is refused; the same after a crash.
func TestRepair(t *testing.T) {
	type batch struct{ from, to, term uint64 }
	tests := []struct {
		name        string
		log         []batch
		index, term uint64
		wiped       bool
		lost        bool
		want        string
	}{
		{name: "nothing at all"},
		{name: "no snapshot", log: []batch{{1, 2, 1}}, want: "1@1 2@1"},
		{name: "no snapshot and no begin", log: []batch{{2, 3, 1}}, lost: true, want: "2@1 3@1"},
		{name: "empty log", index: 5, term: 2},
		{name: "log ends with the snapshot", log: []batch{{1, 3, 1}}, index: 3, term: 1, want: "1@1 2@1 3@1"},
		{name: "log goes on", log: []batch{{2, 3, 1}, {4, 5, 2}}, index: 3, term: 1, want: "2@1 3@1 4@2 5@2"},
		{name: "log begins with the snapshot", log: []batch{{3, 4, 1}}, index: 3, term: 1, want: "3@1 4@1"},
		{name: "log begins behind", log: []batch{{4, 5, 2}}, index: 3, term: 1, want: "4@2 5@2"},
		{name: "log is stale", log: []batch{{1, 3, 1}}, index: 4, term: 1, wiped: true},
		{name: "divergent, ends with the snapshot", log: []batch{{1, 2, 1}, {3, 3, 2}}, index: 3, term: 3, wiped: true},
		{name: "divergent, goes on", log: []batch{{1, 2, 1}, {3, 6, 2}}, index: 3, term: 3, wiped: true},
		{name: "gap", log: []batch{{5, 6, 2}}, index: 3, term: 1, lost: true, want: "5@2 6@2"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			eachBackend(t, func(t *testing.T, b backend) {
				s := b.open(t)
				for _, e := range test.log {
					must(t, s.StoreLogs(logs(e.from, e.to, e.term)))
				}
				s.setBoundary(test.index, test.term) // by an earlier life; not to be taken for an entry
				wiped, err := repair(s, test.index, test.term)
				if wiped != test.wiped || errors.Is(err, ErrDataLost) != test.lost || (err != nil) != test.lost {
					t.Errorf("got wiped %v, %v; want wiped %v, lost %v", wiped, err, test.wiped, test.lost)
				}
				if got := describe(t, s); got != test.want {
					t.Errorf("got %q, want %q", got, test.want)
				}
				s = b.crash(t, s)
				if got := describe(t, s); got != test.want {
					t.Errorf("after a crash: got %q, want %q", got, test.want)
				}
				if wiped, err := repair(s, test.index, test.term); wiped || (err != nil) != test.lost {
					t.Errorf("again: got wiped %v, %v", wiped, err)
				}
			})
		})
	}
}

// Ensures that a hole in the log where the snapshot ends is damage, not divergence.
func TestRepairFindsHole(t *testing.T) {
	e := newMemoryStore().memory
	must(t, e.StoreLogs(logs(1, 2, 1)))
	must(t, e.StoreLogs(logs(4, 5, 1)))
	s, err := newStore(e, tailLimits{}, nil)
	must(t, err)
	if wiped, err := repair(s, 3, 1); wiped || !errors.Is(err, ErrDataLost) {
		t.Errorf("got wiped %v, %v, want ErrDataLost", wiped, err)
	}
}

// Ensures that a damaged snapshot is passed over only as long as the log reaches as far.
func TestRecoveryPoint(t *testing.T) {
	tests := []struct {
		name        string
		snapshots   []uint64 // their ends, all of term 1
		damaged     []uint64
		last        uint64
		index, term uint64
		lost        bool
	}{
		{name: "none", last: 9},
		{name: "newest", snapshots: []uint64{5, 8}, last: 9, index: 8, term: 1},
		{name: "newest, without log", snapshots: []uint64{5, 8}, index: 8, term: 1},
		{name: "newest is damaged", snapshots: []uint64{5, 8}, damaged: []uint64{8}, last: 8, index: 5, term: 1},
		{name: "newest is damaged, log is shorter", snapshots: []uint64{5, 8}, damaged: []uint64{8}, last: 7, lost: true},
		{name: "oldest is damaged", snapshots: []uint64{5, 8}, damaged: []uint64{5}, last: 7, index: 8, term: 1},
		{name: "all are damaged", snapshots: []uint64{5, 8}, damaged: []uint64{5, 8}, last: 9, lost: true},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newMemoryStore()
			if test.last > 0 {
				must(t, s.StoreLogs(logs(1, test.last, 1)))
			}
			snaps := newMemorySnapshots()
			for _, index := range test.snapshots {
				writeSnapshot(t, snaps, index, 1, "state")
			}
			for i := range snaps.kept {
				for _, index := range test.damaged {
					if snaps.kept[i].meta.Index == index {
						snaps.kept[i].data = pieces{[]byte("stale")}
					}
				}
			}
			index, term, err := recoveryPoint(s, snaps)
			if index != test.index || term != test.term || errors.Is(err, ErrDataLost) != test.lost || (err != nil) != test.lost {
				t.Errorf("got %d, %d, %v; want %d, %d, lost %v", index, term, err, test.index, test.term, test.lost)
			}
		})
	}
}

func writeSnapshot(t *testing.T, snaps raft.SnapshotStore, index, term uint64, data string) string {
	t.Helper()
	configuration := raft.Configuration{Servers: []raft.Server{{ID: "1/a/1", Address: "1/a/1"}}}
	_, trans := raft.NewInmemTransport("1/a/1")
	sink, err := snaps.Create(1, index, term, configuration, 1, trans)
	must(t, err)
	_, err = sink.Write([]byte(data))
	must(t, err)
	must(t, sink.Close())
	must(t, sink.Close())
	return sink.ID()
}
