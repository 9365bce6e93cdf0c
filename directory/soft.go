package directory

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/shard"
)

// softLife is how long a report, and a sign of life, counts.
const softLife = 3 * time.Second

// maxReporters bounds the nodes whose reports are kept.
const maxReporters = 1024

// The states of a node.
const (
	NodeUp   = "up"
	NodeDown = "down"
)

// soft is what this node believes about leaders and health: from its own replicas, and from what
// the pings of others carry. It is never in the table, and never needed to be right: a wrong guess
// costs a refusal. All methods are safe for concurrent use, and none blocks on anything but mu.
type soft struct {
	self  string
	heard func(node string) time.Time // when a frame of node last arrived

	own     atomic.Pointer[ownState]
	turn    atomic.Uint64 // of reports, for window
	dropped atomic.Uint64 // reports that could not be read or kept

	mu      sync.Mutex // guards reports
	reports map[string]heardReport
}

// ownState is this node's side of the soft state.
type ownState struct {
	statuses     []shard.Status
	byShard      map[shard.ID]shard.Status
	tableVersion uint64
	raft, http   string
}

// heardReport is the latest word of another node. Replicas are kept one by one, since a node with
// many reports them in turns.
type heardReport struct {
	at           time.Time
	tableVersion uint64
	raft, http   string
	replicas     map[shard.ID]heardReplica
}

type heardReplica struct {
	replicaReport
	at   time.Time
	rate uint64 // of a snapshot that comes in, bytes per second since the report before
}

// rateTo is how fast a snapshot comes in, by what was said of it before and now.
func (h heardReplica) rateTo(now replicaReport, at time.Time) uint64 {
	passed := at.Sub(h.at)
	if now.snapshotTotal == 0 || now.snapshotTotal != h.snapshotTotal || now.snapshotBytes < h.snapshotBytes || passed <= 0 || passed > softLife {
		return 0
	}
	if now.snapshotBytes == h.snapshotBytes && passed < time.Second {
		return h.rate // a report that was repeated tells nothing
	}
	return uint64(float64(now.snapshotBytes-h.snapshotBytes) / passed.Seconds())
}

// snapshotRate is how fast a snapshot comes in for a node's replica of a shard, bytes per second; 0: it does not, or that is not known.
func (s *soft) snapshotRate(node string, id shard.ID) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.reports[node].replicas[id]; time.Since(p.at) <= softLife {
		return p.rate
	}
	return 0
}

func newSoft(self string, heard func(string) time.Time) *soft {
	s := &soft{self: self, heard: heard, reports: make(map[string]heardReport)}
	s.own.Store(&ownState{})
	return s
}

// refresh replaces this node's own side.
func (s *soft) refresh(statuses []shard.Status, tableVersion uint64, raft, http string) {
	own := &ownState{statuses: statuses, byShard: make(map[shard.ID]shard.Status, len(statuses)), tableVersion: tableVersion, raft: raft, http: http}
	for _, st := range statuses {
		own.byShard[st.Shard] = st
	}
	s.own.Store(own)
}

// report returns what the next ping carries.
func (s *soft) report() []byte {
	own := s.own.Load()
	r := report{tableVersion: own.tableVersion, raft: own.raft, http: own.http}
	for _, st := range window(own.statuses, s.turn.Add(1)) {
		r.replicas = append(r.replicas, reportReplica(st))
	}
	return r.encode()
}

// receive takes in what a ping of another node carried.
func (s *soft) receive(from string, payload []byte) {
	r, err := decodeReport(payload)
	if err != nil || from == s.self {
		s.dropped.Add(1)
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	h, known := s.reports[from]
	if !known {
		if len(s.reports) >= maxReporters { // nodes come and go: those that are silent make room
			maps.DeleteFunc(s.reports, func(_ string, h heardReport) bool { return now.Sub(h.at) > softLife })
		}
		if len(s.reports) >= maxReporters {
			s.dropped.Add(1)
			return
		}
		h.replicas = make(map[shard.ID]heardReplica)
	}
	h.at, h.tableVersion, h.raft, h.http = now, r.tableVersion, r.raft, r.http
	for _, p := range r.replicas {
		h.replicas[p.shard] = heardReplica{p, now, h.replicas[p.shard].rateTo(p, now)}
	}
	for id, p := range h.replicas {
		if now.Sub(p.at) > softLife {
			delete(h.replicas, id)
		}
	}
	s.reports[from] = h
}

// status returns this node's own replica of a shard.
func (s *soft) status(id shard.ID) (shard.Status, bool) {
	st, ok := s.own.Load().byShard[id]
	return st, ok
}

// leader returns the node that most likely leads a shard, and its term; "" when nobody is known to.
// The highest term wins among what this node's own replica believes and what others claimed for
// themselves in the last 3 s.
func (s *soft) leader(id shard.ID) (node string, term uint64) {
	own, _ := s.status(id)
	return s.leaderBeside(id, own)
}

// leaderBeside is leader where own is what this node's replica says, zero without one.
func (s *soft) leaderBeside(id shard.ID, own shard.Status) (node string, term uint64) {
	if own.Leader != "" {
		node, term = own.Leader, own.Term
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	for from, h := range s.reports {
		p, ok := h.replicas[id]
		if !ok || !p.leader || now.Sub(p.at) > softLife {
			continue
		}
		if node == "" || p.term > term {
			node, term = from, p.term
		}
	}
	return node, term
}

// replica returns what node last said of its replica of a shard, if that was within the last 3 s.
func (s *soft) replica(node string, id shard.ID) (replicaReport, bool) {
	if node == s.self {
		st, ok := s.status(id)
		return reportReplica(st), ok
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p, ok := s.reports[node].replicas[id]
	if !ok || time.Since(p.at) > softLife {
		return replicaReport{}, false
	}
	return p.replicaReport, true
}

// state returns NodeUp when node was heard in the last 3 s, and when it was last heard; zero: never.
func (s *soft) state(node string) (state string, seen time.Time) {
	if node == s.self {
		return NodeUp, time.Now()
	}
	seen = s.heard(node)
	if seen.IsZero() || time.Since(seen) > softLife {
		return NodeDown, seen
	}
	return NodeUp, seen
}

// addresses returns where node said last that it is reached; "" when it said nothing.
func (s *soft) addresses(node string) (raft, http string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	h := s.reports[node]
	return h.raft, h.http
}

// reporters returns the nodes that said anything.
func (s *soft) reporters() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.reports))
}

// newest returns the node that reported the highest table version, if it is above version and the
// node is up.
func (s *soft) newest(version uint64) (node string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for from, h := range s.reports {
		if up, _ := s.state(from); h.tableVersion > version && up == NodeUp {
			node, version, ok = from, h.tableVersion, true
		}
	}
	return node, ok
}
