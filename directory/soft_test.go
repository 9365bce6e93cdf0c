package directory

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/shard"
)

// claim returns a ping in which a node claims to lead a shard in a term.
func claim(id shard.ID, term uint64, leads bool) []byte {
	r := report{tableVersion: term, raft: "r:1", http: "h:1", replicas: []replicaReport{{shard: id, term: term, leader: leads}}}
	return r.encode()
}

// TestSoftLeader ensures that the highest term wins among what this node's replica believes and what
// others claimed in the last 3 s, and that claims of silent nodes are forgotten.
func TestSoftLeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSoft("a", func(string) time.Time { return time.Time{} })
		want := func(what, node string, term uint64) {
			t.Helper()
			if n, at := s.leader(1); n != node || at != term {
				t.Errorf("%s: %q in term %d, want %q in %d", what, n, at, node, term)
			}
		}
		want("nobody spoke", "", 0)
		s.receive("b", claim(1, 5, true))
		s.receive("c", claim(1, 9, false))
		s.receive("d", claim(2, 9, true))
		want("b claims, c follows in a later term, d leads another shard", "b", 5)
		own := shard.Status{Shard: 1, Role: shard.RoleFollower, Term: 6, Leader: "c"}
		s.refresh([]shard.Status{own}, 1, "", "")
		want("own replica knows a later one", "c", 6)
		s.receive("d", claim(1, 7, true))
		want("d claims a later term", "d", 7)
		own.Term, own.Leader = 8, ""
		s.refresh([]shard.Status{own}, 1, "", "")
		want("own replica elects", "d", 7)
		time.Sleep(softLife)
		want("3 s of silence", "d", 7)
		time.Sleep(time.Nanosecond)
		want("more than 3 s of silence", "", 0)
		s.receive("d", claim(1, 7, true))
		s.receive("d", claim(1, 7, false))
		want("d stepped down", "", 0)
	})
}

// TestDetailLeaderFitsTerm ensures that a shard's leader is never one of an earlier term than what its numbers show, which
// are those of now while the leader was heard of a while ago.
func TestDetailLeaderFitsTerm(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Service{soft: newSoft("a", func(string) time.Time { return time.Time{} })}
		s.self.ID = "a"
		s.soft.refresh([]shard.Status{{Shard: 1, Role: shard.RoleLeader, Term: 5, Leader: "a"}}, 1, "", "")
		want := func(what string, own shard.Status, leader string) {
			t.Helper()
			own.Shard = 1
			d := s.detail(ShardView{ID: 1, Leader: "a"}, 0, map[shard.ID]shard.Status{1: own})
			if d.Leader != leader || d.Term != own.Term {
				t.Errorf("%s: %q leads in term %d, want %q in %d", what, d.Leader, d.Term, leader, own.Term)
			}
		}
		want("it leads", shard.Status{Role: shard.RoleLeader, Term: 5, Leader: "a"}, "a")
		want("it was voted out", shard.Status{Role: shard.RoleFollower, Term: 6}, "")
		want("it follows", shard.Status{Role: shard.RoleFollower, Term: 6, Leader: "b"}, "b")
		s.soft.receive("b", claim(1, 6, true))
		want("it was voted out, and b claims that term", shard.Status{Role: shard.RoleFollower, Term: 6}, "b")
		want("it elects", shard.Status{Role: shard.RoleCandidate, Term: 7}, "")
	})
}

// TestSoftBounds ensures that garbage, this node's own echo and too many nodes are dropped and
// counted, and that replicas which a node no longer reports are forgotten.
func TestSoftBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSoft("a", func(string) time.Time { return time.Time{} })
		s.receive("b", []byte("garbage"))
		s.receive("a", claim(1, 1, true))
		for i := range maxReporters + 5 {
			s.receive(fmt.Sprint("n", i), claim(1, 1, false))
		}
		if got := s.dropped.Load(); got != 2+5 || len(s.reports) != maxReporters {
			t.Errorf("%d dropped, %d kept", got, len(s.reports))
		}
		time.Sleep(2 * softLife)
		s.receive("n0", claim(2, 1, false))
		if got := len(s.reports["n0"].replicas); got != 1 {
			t.Errorf("%d replicas kept of a node that reports one", got)
		}
		s.receive("new", claim(1, 1, false))
		if got := s.reporters(); !slices.Equal(slices.Sorted(slices.Values(got)), []string{"n0", "new"}) {
			t.Errorf("kept of %d nodes, silent ones in the way of a new one", len(got))
		}
	})
}

// TestSoftState ensures that a node is up for 3 s after it was last heard, and this one always.
func TestSoftState(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		s := newSoft("a", func(node string) time.Time {
			if node == "b" {
				return began
			}
			return time.Time{}
		})
		check := func(node, want string) {
			t.Helper()
			if got, seen := s.state(node); got != want || node == "b" && !seen.Equal(began) {
				t.Errorf("%s is %s, seen %v", node, got, seen)
			}
		}
		time.Sleep(softLife)
		check("a", NodeUp)
		check("b", NodeUp)
		check("never heard", NodeDown)
		time.Sleep(time.Nanosecond)
		check("b", NodeDown)
	})
}

// TestAddressBook ensures that a node's own word wins while it is heard, and that a silent node is
// tried at each address that is known for it, in turn.
func TestAddressBook(t *testing.T) {
	var b addressBook
	now := time.Now()
	dial := func(own string, alive bool, want string, candidates ...string) {
		t.Helper()
		if got := b.choose("b", own, alive, now, candidates...); got != want {
			t.Errorf("dialled at %q, want %q", got, want)
		}
	}
	dial("", false, "")
	dial("", false, "table", "table", "flag")
	now = now.Add(redialAfter - 1)
	dial("", false, "table", "table", "flag")
	now = now.Add(1)
	dial("", false, "flag", "table", "flag")
	now = now.Add(redialAfter)
	dial("", false, "table", "table", "flag")
	now = now.Add(10 * redialAfter)
	dial("", true, "table", "table", "flag")
	now = now.Add(redialAfter - 1)
	dial("", false, "table", "table", "flag") // heard until just now
	dial("own", true, "own", "table", "flag")
	dial("own", true, "own", "table", "flag")
	now = now.Add(redialAfter)
	dial("own", false, "table", "table", "flag")
	now = now.Add(redialAfter)
	dial("own", false, "flag", "table", "flag")
	now = now.Add(redialAfter)
	dial("own", false, "own", "table", "flag")
	dial("own", true, "own", "own", "own")
	now = now.Add(redialAfter)
	dial("own", false, "own", "own", "own")
	dial("", false, "moved", "moved", "flag")
}

// TestSnapshotRate ensures that it is told how fast a snapshot comes in, by the reports of the replica that gets it, and nothing
// of another snapshot, of none, and of a node that is silent.
func TestSnapshotRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSoft("a", func(string) time.Time { return time.Now() })
		tell := func(bytes, total uint64) uint64 {
			r := report{replicas: []replicaReport{{shard: 1, snapshotBytes: bytes, snapshotTotal: total}}}
			s.receive("b", r.encode())
			return s.snapshotRate("b", 1)
		}
		for _, step := range []struct{ bytes, total, want uint64 }{
			{100, 1000, 0}, {200, 1000, 200}, {700, 1000, 1000}, {100, 2000, 0}, {300, 2000, 400}, {0, 0, 0},
		} {
			if got := tell(step.bytes, step.total); got != step.want {
				t.Errorf("%d of %d: %d bytes per second, want %d", step.bytes, step.total, got, step.want)
			}
			time.Sleep(500 * time.Millisecond)
		}
		tell(1, 1000)
		time.Sleep(500 * time.Millisecond)
		if tell(501, 1000) != 1000 {
			t.Error("not told again")
		}
		time.Sleep(2 * softLife)
		if got := s.snapshotRate("b", 1); got != 0 {
			t.Errorf("of a silent node: %d", got)
		}
	})
}
