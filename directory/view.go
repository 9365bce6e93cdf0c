package directory

import (
	"fmt"
	"slices"
	"time"

	"github.com/larder-cache/larder/shard"
)

// TableView is the table for clients, with the leaders and states that this node believes in.
type TableView struct {
	Cluster string               `json:"cluster"`
	Version uint64               `json:"version"`
	Shards  []ShardView          `json:"shards"` // data shards
	Nodes   map[string]NodeState `json:"nodes"`
}

// NodeState is a node in a TableView.
type NodeState struct {
	HTTP  string `json:"http"`
	State string `json:"state"` // NodeUp or NodeDown, as this node sees it
}

// ShardView is a shard in a TableView. The directory itself (id 0) has no range and epoch 0.
type ShardView struct {
	ID      shard.ID     `json:"id"`
	Start   uint32       `json:"start"`
	End     uint32       `json:"end"`
	Epoch   uint64       `json:"epoch"`
	Conf    string       `json:"conf"`   // "<generation>-<index of the committed configuration>"
	Leader  string       `json:"leader"` // "" when nobody is known to lead
	Members []MemberView `json:"members"`
	// Unsettled: the directory was rebuilt, and the shard's leader has not told its members yet; these are a guess.
	Unsettled bool `json:"unsettled,omitempty"`
}

// MemberView is a member in a ShardView.
type MemberView struct {
	Node string `json:"node"`
	Role Role   `json:"role"`
	// Diverged: its node reports that it serves nothing, since its state differs from that of others, or may.
	Diverged bool `json:"diverged,omitempty"`
}

// ShardDetail is a shard with the numbers of one of its replicas: this node's own, else the
// leader's or another's as last reported; all 0, and Source "", when none is known. Leader is "" where this
// node's own replica knows of a later term than that of any leader. Hits and Misses
// are those of all members that are known, whatever Source is: each counts the reads that it served.
type ShardDetail struct {
	ShardView
	Source    string `json:"source"` // node whose replica the numbers are of
	Term      uint64 `json:"term"`
	Commit    uint64 `json:"commit"`
	Applied   uint64 `json:"applied"`
	Items     uint64 `json:"items"`
	Bytes     uint64 `json:"bytes"`
	Limit     uint64 `json:"limit"` // bytes, by the table
	Hits      uint64 `json:"hits"`
	Misses    uint64 `json:"misses"`
	Evictions uint64 `json:"evictions"`
	// Sizing is of this node's replica; nil where it has none, or none that was read of late.
	Sizing *shard.Sizing `json:"sizing,omitempty"`
}

// NodeView is a node as the table has it, and as this node sees it.
type NodeView struct {
	ID          string    `json:"id"`
	Incarnation string    `json:"incarnation"`
	Raft        string    `json:"raft"`
	HTTP        string    `json:"http"`
	Zone        string    `json:"zone"`
	Capacity    uint64    `json:"capacity"`
	State       string    `json:"state"`
	LastSeen    time.Time `json:"last_seen,omitzero"`
	Replicas    int       `json:"replicas"`  // of data shards, by the table
	Leads       int       `json:"leads"`     // data shards that it is believed to lead
	Rate        uint64    `json:"rate"`      // reads and log entries per second of those that it leads, as far as they are known
	Directory   bool      `json:"directory"` // it has a replica of the directory
	Draining    bool      `json:"draining"`  // replicas move off it, and none onto it
	// Waits is what keeps replicas on it that are to leave; empty where none are, or where they are on their way.
	Waits []string `json:"waits,omitempty"`
}

// PlannedView is a change of a shard's members, or of who leads it, that the directory wants and has not begun.
type PlannedView struct {
	Shard  shard.ID `json:"shard"`
	Leader bool     `json:"leader,omitempty"` // the leadership moves, not a replica
	From   string   `json:"from,omitempty"`   // node whose replica leaves, or that leads; "": none does
	To     string   `json:"to,omitempty"`     // node that gets one, or that is to lead; "": none does, or none that could is known
	Reason string   `json:"reason"`
	Waits  string   `json:"waits,omitempty"` // what keeps it from beginning; "" where it is about to
}

// Table returns the newest table that this node knows, empty before the cluster is founded. The
// caller must not change it.
func (s *Service) Table() *Table { return s.latest.Table() }

// Changed returns the newest table, and a channel that closes when a newer one follows.
func (s *Service) Changed() (*Table, <-chan struct{}) { return s.latest.Changed() }

// Leader returns the node that most likely leads a shard, and its term; "" when nobody is known to.
func (s *Service) Leader(id shard.ID) (node string, term uint64) { return s.soft.leader(id) }

// View returns the table for clients.
func (s *Service) View() TableView {
	t := s.Table()
	v := TableView{
		Cluster: t.Cluster,
		Version: t.Version,
		Shards:  make([]ShardView, len(t.Shards)),
		Nodes:   make(map[string]NodeState, len(t.Nodes)),
	}
	for i, sh := range t.Shards {
		v.Shards[i] = s.shardView(sh)
	}
	for id, n := range t.Nodes {
		state, _ := s.soft.state(id)
		v.Nodes[id] = NodeState{HTTP: n.HTTP, State: state}
	}
	return v
}

// ShardView returns one shard with its numbers; 0 is the directory, which is there once the cluster has
// formed. False: there is no such shard, as far as this node knows.
func (s *Service) ShardView(id shard.ID) (ShardDetail, bool) {
	live := s.live()
	if id == shard.Directory {
		if _, _, formed := s.cfg.Identity.Formed(); !formed {
			return ShardDetail{}, false
		}
		v := s.directoryView()
		if t := s.Table(); t.Founded() {
			if m, _ := t.member(shard.Directory, s.self.ID); live[id].Replica != m.id(id).String() {
				delete(live, id) // it is of another life of the group, or on its way out
			}
		}
		return s.detail(v, 0, live), true
	}
	sh, ok := s.Table().Shard(id)
	if !ok {
		return ShardDetail{}, false
	}
	return s.detail(s.shardView(sh), sh.Limit, live), true
}

// Shards returns the data shards with their numbers, in the order of their ranges.
func (s *Service) Shards() []ShardDetail {
	t, live := s.Table(), s.live()
	details := make([]ShardDetail, len(t.Shards))
	for i, sh := range t.Shards {
		details[i] = s.detail(s.shardView(sh), sh.Limit, live)
	}
	return details
}

// Nodes returns all nodes, in the order of their ids.
func (s *Service) Nodes() []NodeView {
	t := s.Table()
	look := s.outlook(t)
	relocations := t.relocations(look)
	views := make([]NodeView, 0, len(t.Nodes))
	for _, id := range t.NodeIDs() {
		n := t.Nodes[id]
		v := NodeView{ID: n.ID, Incarnation: n.Incarnation, Raft: n.Raft, HTTP: n.HTTP, Zone: n.Zone, Capacity: n.Capacity}
		v.State, v.LastSeen = s.soft.state(id)
		_, v.Directory = t.member(shard.Directory, id)
		v.Draining = t.drained(id)
		for _, r := range relocations {
			if r.from.Node == id && r.waits != "" {
				v.Waits = append(v.Waits, fmt.Sprintf("shard %d: %s", r.shard, r.waits))
			}
		}
		for _, sh := range t.Shards {
			if _, member := sh.Member(id); member {
				v.Replicas++
			}
			if look.by[sh.ID] == id {
				v.Leads++
				v.Rate += look.rates[sh.ID]
			}
		}
		views = append(views, v)
	}
	return views
}

// Planned returns what the directory is to change next of the members of shards, and then of their leaders, as this node sees it.
func (s *Service) Planned() []PlannedView {
	t := s.Table()
	look := s.outlook(t)
	planned := []PlannedView{}
	for _, r := range t.wanted(look) {
		planned = append(planned, PlannedView{Shard: r.shard, From: r.from.Node, To: r.to, Reason: r.reason, Waits: r.waits})
	}
	for _, m := range s.leaderMoves(t, look) {
		planned = append(planned, PlannedView{Shard: m.shard, Leader: true, From: m.from, To: m.to, Reason: m.reason})
	}
	return planned
}

// Node returns one node; false: there is no such node.
func (s *Service) Node(id string) (NodeView, bool) {
	views := s.Nodes()
	i := slices.IndexFunc(views, func(v NodeView) bool { return v.ID == id })
	if i < 0 {
		return NodeView{}, false
	}
	return views[i], true
}

func (s *Service) shardView(sh Shard) ShardView {
	v := ShardView{ID: sh.ID, Start: sh.Start, End: sh.End, Epoch: sh.Epoch, Members: make([]MemberView, len(sh.Members)), Unsettled: sh.Unsettled}
	v.Leader, _ = s.soft.leader(sh.ID)
	nodes := make([]string, len(sh.Members))
	for i, m := range sh.Members {
		r, ok := s.soft.replica(m.Node, sh.ID)
		v.Members[i] = MemberView{Node: m.Node, Role: m.Role, Diverged: ok && r.diverged}
		nodes[i] = m.Node
	}
	v.Conf = s.conf(sh.ID, sh.Generation, nodes)
	return v
}

// directoryView shows the directory's own group: by the table, before that by this node's replica or the
// list of founders.
func (s *Service) directoryView() ShardView {
	v := ShardView{ID: shard.Directory, Members: []MemberView{}}
	v.Leader, _ = s.soft.leader(shard.Directory)
	if t := s.Table(); t.Founded() {
		nodes := make([]string, len(t.Directory))
		for i, m := range t.Directory {
			r, ok := s.soft.replica(m.Node, shard.Directory)
			v.Members = append(v.Members, MemberView{Node: m.Node, Role: m.Role, Diverged: ok && r.diverged})
			nodes[i] = m.Node
		}
		v.Conf = s.conf(shard.Directory, t.generation(shard.Directory), nodes)
		return v
	}
	_, founders, _ := s.cfg.Identity.Formed()
	voters := make([]string, len(founders))
	for i, f := range founders {
		voters[i] = f.Node
	}
	var learners []string
	if st, ok := s.soft.status(shard.Directory); ok && len(st.Voters) > 0 {
		voters, learners = st.Voters, st.Learners
	}
	for _, n := range voters {
		v.Members = append(v.Members, MemberView{Node: n, Role: RoleVoter})
	}
	for _, n := range learners {
		v.Members = append(v.Members, MemberView{Node: n, Role: RoleLearner})
	}
	v.Conf = s.conf(shard.Directory, 1, append(slices.Clone(voters), learners...))
	return v
}

// conf returns the ETag of a shard's configuration: the highest committed one that any of nodes
// reports.
func (s *Service) conf(id shard.ID, generation uint64, nodes []string) string {
	var conf uint64
	for _, node := range nodes {
		if r, ok := s.soft.replica(node, id); ok {
			conf = max(conf, r.conf)
		}
	}
	return fmt.Sprintf("%d-%d", generation, conf)
}

// live returns this node's replicas as they are now, not as they were at the last tick.
func (s *Service) live() map[shard.ID]shard.Status {
	live := make(map[shard.ID]shard.Status)
	for _, st := range s.host.Status() {
		live[st.Shard] = st
	}
	return live
}

// detail adds the numbers of this node's replica, else of the leader's, else of any; hits and misses of
// all. live are this node's replicas.
func (s *Service) detail(v ShardView, limit uint64, live map[shard.ID]shard.Status) ShardDetail {
	replica := func(node string) (replicaReport, bool) {
		if node == s.self.ID {
			st, ok := live[v.ID]
			return reportReplica(st), ok
		}
		return s.soft.replica(node, v.ID)
	}
	d := ShardDetail{ShardView: v, Limit: limit, Sizing: live[v.ID].Sizing}
	if own, ok := live[v.ID]; ok { // the leader is one of the term that stands beside it
		node, term := s.soft.leaderBeside(v.ID, own)
		if d.Leader = node; term < own.Term {
			d.Leader = ""
		}
	}
	sources := []string{s.self.ID, d.Leader}
	for _, m := range v.Members {
		sources = append(sources, m.Node)
	}
	for _, node := range sources {
		r, ok := replica(node)
		if !ok {
			continue
		}
		d.Source = node
		d.Term, d.Commit, d.Applied = r.term, r.commit, r.applied
		d.Items, d.Bytes, d.Evictions = r.entries, r.bytes, r.evictions
		break
	}
	for _, m := range v.Members {
		if r, ok := replica(m.Node); ok {
			d.Hits += r.hits
			d.Misses += r.misses
		}
	}
	return d
}
