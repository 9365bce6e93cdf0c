package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sort"
	"sync/atomic"
	"time"
)

// suspicion is how long a node that gave no answer is asked last, and a replica that refused a read is not asked for what others answer as well.
const suspicion = 2 * time.Second

// doubt is a reason not to ask somebody for a while.
type doubt struct{ until atomic.Int64 } // ns since 1970; 0: none

func (d *doubt) raise() { d.until.Store(time.Now().Add(suspicion).UnixNano()) }
func (d *doubt) lift()  { d.until.Store(0) }
func (d *doubt) over() bool {
	until := d.until.Load()
	return until == 0 || time.Now().UnixNano() > until
}

// try reports whether to ask. Once the time is over one call alone finds out whether there still is a reason: if so, each would wait in vain.
func (d *doubt) try() bool {
	until := d.until.Load()
	now := time.Now()
	return until == 0 || now.UnixNano() > until && d.until.CompareAndSwap(until, now.Add(suspicion).UnixNano())
}

// node is a place to send requests to. It outlives the table that named it as long as its id and
// address stay.
type node struct {
	id      string // "" of a seed
	host    string // HOST:PORT
	suspect doubt
}

func (n *node) failed()    { n.suspect.raise() }
func (n *node) answered()  { n.suspect.lift() }
func (n *node) good() bool { return n.suspect.over() }

// route is a shard in a table.
type route struct {
	id         uint64
	start, end uint32 // slots [start, end)
	epoch      uint64
	members    []*node
	voters     []*node              // of members; others may be far behind
	refused    map[*node]*doubt     // of members: reads, though not as the leader
	leader     atomic.Pointer[node] // as far as known; nil: nobody
	hot        *atomic.Int64        // until when its reads are spread, ns since 1970; 0: they are not
}

// spreadTime is for how long reads are spread over a shard's replicas once its leader has said that it has many.
const spreadTime = 5 * time.Second

func (r *route) heat() { r.hot.Store(time.Now().Add(spreadTime).UnixNano()) }

// isHot reports whether the leader had better not answer all reads.
func (r *route) isHot() bool {
	until := r.hot.Load()
	return until != 0 && time.Now().UnixNano() < until
}

// table is what the directory said, immutable but for leader and suspect.
type table struct {
	cluster string
	version uint64
	etag    string
	routes  []*route // by start, without overlap
	nodes   map[string]*node
}

// find returns the shard that owns slot, nil if none does.
func (t *table) find(slot uint32) *route {
	if t == nil {
		return nil
	}
	i := sort.Search(len(t.routes), func(i int) bool { return t.routes[i].end > slot })
	if i == len(t.routes) || t.routes[i].start > slot {
		return nil
	}
	return t.routes[i]
}

// parseTable reads the body of GET /v1/directory. What old, which may be nil, knew of nodes and leaders
// that are still the same is kept: it was learned from answers, while the directory's leaders are
// hints.
func parseTable(body []byte, etag string, old *table) (*table, error) {
	var view struct {
		Cluster string
		Version uint64
		Shards  []struct {
			ID         uint64
			Start, End uint32
			Epoch      uint64
			Leader     string
			Members    []struct{ Node, Role string }
		}
		Nodes map[string]struct{ HTTP string }
	}
	if err := json.Unmarshal(body, &view); err != nil {
		return nil, fmt.Errorf("reading the table: %w", err)
	}
	if view.Cluster == "" || view.Version == 0 {
		return nil, errors.New("the table has no cluster or no version")
	}
	if old != nil && old.cluster != view.Cluster {
		old = nil
	}
	t := &table{cluster: view.Cluster, version: view.Version, etag: etag, nodes: map[string]*node{}}
	for id, n := range view.Nodes {
		if n.HTTP == "" {
			continue
		}
		t.nodes[id] = &node{id: id, host: n.HTTP}
		if old != nil && old.nodes[id] != nil && old.nodes[id].host == n.HTTP {
			t.nodes[id] = old.nodes[id]
		}
	}
	for _, sh := range view.Shards {
		if sh.Start >= sh.End || sh.End > slots {
			return nil, fmt.Errorf("shard %d has the slots [%d, %d)", sh.ID, sh.Start, sh.End)
		}
		r := &route{id: sh.ID, start: sh.Start, end: sh.End, epoch: sh.Epoch, refused: map[*node]*doubt{}, hot: &atomic.Int64{}}
		for _, m := range sh.Members {
			if n := t.nodes[m.Node]; n != nil {
				r.members = append(r.members, n)
				r.refused[n] = &doubt{}
				if m.Role != "learner" {
					r.voters = append(r.voters, n)
				}
			}
		}
		r.leader.Store(t.nodes[sh.Leader])
		if was := old.find(sh.Start); was != nil && was.id == sh.ID {
			if known := was.leader.Load(); slices.Contains(r.members, known) {
				r.leader.Store(known)
			}
			r.hot = was.hot
			for n, d := range was.refused {
				if r.refused[n] != nil {
					r.refused[n] = d
				}
			}
		}
		t.routes = append(t.routes, r)
	}
	slices.SortFunc(t.routes, func(a, b *route) int { return int(a.start) - int(b.start) })
	for i := 1; i < len(t.routes); i++ {
		if t.routes[i].start < t.routes[i-1].end {
			return nil, fmt.Errorf("shards %d and %d overlap", t.routes[i-1].id, t.routes[i].id)
		}
	}
	return t, nil
}
