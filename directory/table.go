package directory

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// Table is what the directory knows: which slots are which shard, on which nodes. A Table that was
// published never changes; a change makes a new one. The zero value is the empty table, before the
// cluster was founded.
type Table struct {
	// Cluster is the id of the cluster (R14), 32 hex digits.
	Cluster string `json:"cluster"`
	// Version grows by one with each change.
	Version uint64 `json:"version"`
	// Rebuilt is the version that this lineage of tables began with, where the directory was lost and rebuilt (RebuildDirectory); 0: with its founding.
	// Needs level 4.
	Rebuilt uint64 `json:"rebuilt,omitempty"`
	// Level is the feature level of the directory's own commands (R1).
	Level uint8 `json:"level"`
	// ShardLevel is the feature level that the state machines of shards are raised to: all nodes know
	// it. 0, below level 2, is that which they begin with.
	ShardLevel uint8    `json:"shard_level,omitempty"`
	Settings   Settings `json:"settings"`
	// SettingsVersion is the table version of the last change of Settings; 0 is that of the founding.
	SettingsVersion uint64          `json:"settings_version,omitempty"`
	Nodes           map[string]Node `json:"nodes"`
	// Draining are the nodes that replicas move off, and none onto, in the order of their ids. Needs level 3.
	Draining []string `json:"draining,omitempty"`
	// Shards are the data shards, in the order of their ranges.
	Shards []Shard `json:"shards"`
	// Directory are the members of the directory's own group, shard 0.
	Directory []Member `json:"directory"`
	// Operations are those that run, and the last ones that ended, in the order of their ids.
	Operations []Operation `json:"operations,omitempty"`
	// NextOperation is the id of the last operation; they begin with 1.
	NextOperation uint64 `json:"next_operation,omitempty"`
	// NextShard is the lowest shard id that was never allotted.
	NextShard shard.ID `json:"next_shard"`
	// VersionGrant is the highest version bits that any shard was ever granted (R3).
	VersionGrant uint32 `json:"version_grant"`
}

// Node is a node as the directory knows it.
type Node struct {
	ID          string `json:"id"`
	Incarnation string `json:"incarnation"`
	Raft        string `json:"raft"` // address for peers
	HTTP        string `json:"http"` // address for clients
	Zone        string `json:"zone,omitempty"`
	Capacity    uint64 `json:"capacity"` // bytes for entries
}

// Shard is one data shard: a range of slots and the replicas that serve it.
type Shard struct {
	ID    shard.ID `json:"id"`
	Start uint32   `json:"start"` // the range is [Start, End)
	End   uint32   `json:"end"`
	// Epoch is the table version allotted with the last change of the range.
	Epoch uint64 `json:"epoch"`
	// Generation counts the lives of the group; the first is 1.
	Generation uint64 `json:"generation"`
	// VersionBits is the granted high part of the shard's version counter (R3).
	VersionBits uint32 `json:"version_bits"`
	Limit       uint64 `json:"limit"` // bytes
	// LimitVersion is the table version at which Limit was set.
	LimitVersion uint64   `json:"limit_version"`
	Members      []Member `json:"members"`
	// Bootstrap are the members that the group began with: each of them begins with exactly these,
	// also one that is opened late. All others join.
	Bootstrap []Member `json:"bootstrap"`
	// Kept is the r of the former generation's replica whose state this one began with, on the node of its only founding member; 0: it began empty.
	Kept uint64 `json:"kept,omitempty"`
	// Unsettled: Members are a guess since the directory was rebuilt, until the shard's leader has told its own (SettleMembers). Until then nothing is
	// changed or concluded by them.
	Unsettled bool `json:"unsettled,omitempty"`
}

// Member is one replica of a shard.
type Member struct {
	Node string `json:"node"`
	// R is the table version at which this replica was allotted: part of its server id.
	R    uint64 `json:"r"`
	Role Role   `json:"role"`
}

// id is the member's server id.
func (m Member) id(of shard.ID) shard.ReplicaID {
	return shard.ReplicaID{Shard: of, Node: m.Node, R: m.R}
}

// Role is what a member is to be.
type Role string

// The roles of a member.
const (
	RoleVoter   Role = "voter"
	RoleLearner Role = "learner"
)

// maxVersionBits is the highest grant: 20 bits above the 44 that a shard counts (R3).
const maxVersionBits = 1<<20 - 1

// Range returns the shard's slots.
func (s Shard) Range() fsm.Range { return fsm.Range{Start: s.Start, End: s.End} }

// Grant returns what the table grants the shard's state machine.
func (s Shard) Grant() fsm.Grant {
	return fsm.Grant{
		Range:        s.Range(),
		Epoch:        s.Epoch,
		Generation:   s.Generation,
		VersionBits:  s.VersionBits,
		Limit:        s.Limit,
		TableVersion: s.LimitVersion,
	}
}

// Member returns the replica on node.
func (s Shard) Member(node string) (Member, bool) {
	for _, m := range s.Members {
		if m.Node == node {
			return m, true
		}
	}
	return Member{}, false
}

// Founded reports whether the table has content.
func (t *Table) Founded() bool { return t.Version > 0 }

// Lookup returns the shard that owns slot; false when the table is empty or slot is none.
func (t *Table) Lookup(slot uint16) (Shard, bool) {
	i := sort.Search(len(t.Shards), func(i int) bool { return t.Shards[i].End > uint32(slot) })
	if i == len(t.Shards) || !t.Shards[i].Range().Contains(slot) {
		return Shard{}, false
	}
	return t.Shards[i], true
}

// Shard returns the shard of that id.
func (t *Table) Shard(id shard.ID) (Shard, bool) {
	i := t.place(id)
	if i < 0 {
		return Shard{}, false
	}
	return t.Shards[i], true
}

// place returns the place of a shard among t.Shards, below 0 where there is none. Shards are numbered by their ranges at first, so it looks from where the
// id would be then: there are many, and all are looked for each time that the service looks at the world.
func (t *Table) place(id shard.ID) int {
	n := len(t.Shards)
	guess := int(min(max(uint64(id), 1)-1, uint64(n)))
	for off := range n + 1 {
		if i := guess + off; i < n && t.Shards[i].ID == id {
			return i
		}
		if i := guess - off; i >= 0 && i < n && t.Shards[i].ID == id {
			return i
		}
	}
	return -1
}

// generation returns the generation of a group: each is a life of its own, whose configurations and terms say nothing of another's. That of the directory is the
// version with which its lineage began.
func (t *Table) generation(id shard.ID) uint64 {
	if id == shard.Directory {
		return max(t.Rebuilt, 1)
	}
	s, _ := t.Shard(id)
	return s.Generation
}

// NodeIDs returns the ids of all nodes, in order.
func (t *Table) NodeIDs() []string { return slices.Sorted(maps.Keys(t.Nodes)) }

// clone returns a copy that shares nothing with t that could be changed.
func (t *Table) clone() *Table {
	c := *t
	c.Nodes = maps.Clone(t.Nodes)
	c.Shards = slices.Clone(t.Shards)
	for i := range c.Shards {
		c.Shards[i].Members = slices.Clone(c.Shards[i].Members)
		c.Shards[i].Bootstrap = slices.Clone(c.Shards[i].Bootstrap)
	}
	c.Directory = slices.Clone(t.Directory)
	c.Operations = slices.Clone(t.Operations)
	c.Draining = slices.Clone(t.Draining)
	return &c
}

// Validate reports the first of these guarantees that t does not give:
//
//  1. The empty table (version 0) has no content.
//  2. Cluster is 32 lower-case hex digits; the settings are within their bounds. Level is at least 1; at
//     1 there is no ShardLevel and no later setting, above it there is a ShardLevel. SettingsVersion is
//     at most Version.
//  3. A node stands under its own id, has an incarnation of 32 lower-case hex digits that no other
//     node has, addresses for peers and clients, and a capacity; no two nodes share a Raft address. Those
//     that are drained are known, and in order; below level 3 there are none.
//  4. The shards, in their order, cover all slots with no gap and no overlap; none is empty.
//  5. Shard ids are distinct, at least 1 (0 is the directory) and below NextShard.
//  6. Epoch and LimitVersion are at least 1 and at most Version; Generation is at least 1; Limit is
//     above 0.
//  7. VersionBits are distinct, at least 1 and at most VersionGrant, which fits in 20 bits.
//  8. The members of a shard are on distinct nodes that the table knows; their r is at least 1 and at
//     most Version; each is a voter or a learner, and at least one is a voter. The same holds of the
//     directory's own members, whose r is 0 for those who founded it.
//  9. A shard's bootstrap has voters only, on distinct nodes, which may be gone.
//  10. The ids of operations rise and are at most NextOperation; at most one runs on a shard, and what
//     it is about is there, both members of a replacement.
//  11. Rebuilt is at most Version. Without it no shard is unsettled, and below level 4 there is none.
//
// The machine refuses an init whose table fails, so these checks are part of the meaning of logged
// commands: another set of them needs a higher feature level (R1).
func (t *Table) Validate() error {
	if !t.Founded() {
		if t.Cluster != "" || t.Level != 0 || t.ShardLevel != 0 || t.Settings != (Settings{}) || t.SettingsVersion != 0 || t.Rebuilt != 0 || len(t.Nodes) != 0 ||
			len(t.Draining) != 0 || len(t.Shards) != 0 || len(t.Directory) != 0 || len(t.Operations) != 0 || t.NextOperation != 0 || t.NextShard != 0 || t.VersionGrant != 0 {
			return errors.New("a table of version 0 has content")
		}
		return nil
	}
	if !isHexID(t.Cluster) {
		return fmt.Errorf("cluster id %q is not 32 hex digits", t.Cluster)
	}
	if err := t.validateLevels(); err != nil {
		return err
	}
	if t.Rebuilt > t.Version || t.Rebuilt > 0 && t.Level < lossLevel {
		return fmt.Errorf("rebuilt at version %d, at table version %d and feature level %d", t.Rebuilt, t.Version, t.Level)
	}
	if err := t.validateSettings(); err != nil {
		return err
	}
	if err := t.validateNodes(); err != nil {
		return err
	}
	if err := t.validateMembers(t.Directory, 0); err != nil {
		return fmt.Errorf("the directory: %w", err)
	}
	if err := t.validateOperations(); err != nil {
		return err
	}
	if t.VersionGrant > maxVersionBits {
		return fmt.Errorf("version grant %d does not fit in 20 bits", t.VersionGrant)
	}
	var end uint32
	ids := make(map[shard.ID]bool, len(t.Shards))
	grants := make(map[uint32]shard.ID, len(t.Shards))
	for _, s := range t.Shards {
		if s.Start != end || s.End <= s.Start || s.End > fsm.Slots {
			return fmt.Errorf("shard %d has slots [%d, %d) after slot %d", s.ID, s.Start, s.End, end)
		}
		end = s.End
		if s.ID < 1 || s.ID >= t.NextShard || ids[s.ID] {
			return fmt.Errorf("shard id %d is used twice or was never allotted", s.ID)
		}
		ids[s.ID] = true
		if other, taken := grants[s.VersionBits]; taken || s.VersionBits < 1 || s.VersionBits > t.VersionGrant {
			return fmt.Errorf("version bits %d of shard %d were never granted or are shard %d's", s.VersionBits, s.ID, other)
		}
		grants[s.VersionBits] = s.ID
		if s.Unsettled && t.Rebuilt == 0 {
			return fmt.Errorf("shard %d is unsettled in a table that was not rebuilt", s.ID)
		}
		if err := t.validateShard(s); err != nil {
			return fmt.Errorf("shard %d: %w", s.ID, err)
		}
	}
	if end != fsm.Slots {
		return fmt.Errorf("no shard has the slots from %d", end)
	}
	return nil
}

func (t *Table) validateLevels() error {
	switch {
	case t.Level < 1:
		return errors.New("the feature level is 0")
	case t.Level < settingsLevel && t.ShardLevel != 0:
		return fmt.Errorf("feature level %d of shards at level %d", t.ShardLevel, t.Level)
	case t.Level >= settingsLevel && t.ShardLevel < 1:
		return errors.New("the feature level of shards is 0")
	}
	return nil
}

func (t *Table) validateSettings() error {
	switch {
	case t.Settings.level() > t.Level:
		return fmt.Errorf("settings that feature level %d does not have", t.Level)
	case t.SettingsVersion > t.Version || t.SettingsVersion > 0 && t.Level < settingsLevel:
		return fmt.Errorf("settings version %d at table version %d and feature level %d", t.SettingsVersion, t.Version, t.Level)
	}
	return t.Settings.Validate()
}

func (t *Table) validateNodes() error {
	incarnations := make(map[string]string, len(t.Nodes))
	addresses := make(map[string]string, len(t.Nodes))
	for _, id := range t.NodeIDs() {
		n := t.Nodes[id]
		switch {
		case id == "" || n.ID != id:
			return fmt.Errorf("node %q stands under the id %q", n.ID, id)
		case !isHexID(n.Incarnation):
			return fmt.Errorf("incarnation %q of node %s is not 32 hex digits", n.Incarnation, id)
		case n.Raft == "" || n.HTTP == "":
			return fmt.Errorf("node %s lacks an address", id)
		case n.Capacity == 0:
			return fmt.Errorf("node %s has no capacity for entries", id)
		}
		if other, taken := incarnations[n.Incarnation]; taken {
			return fmt.Errorf("nodes %s and %s have the same incarnation", other, id)
		}
		if other, taken := addresses[n.Raft]; taken {
			return fmt.Errorf("nodes %s and %s have the same Raft address %s", other, id, n.Raft)
		}
		incarnations[n.Incarnation], addresses[n.Raft] = id, id
	}
	for i, id := range t.Draining {
		if _, known := t.Nodes[id]; !known || i > 0 && t.Draining[i-1] >= id || t.Level < placementLevel {
			return fmt.Errorf("node %s can't be drained at feature level %d, or is not in its place", id, t.Level)
		}
	}
	return nil
}

func (t *Table) validateShard(s Shard) error {
	switch {
	case s.Epoch < 1 || s.Epoch > t.Version:
		return fmt.Errorf("epoch %d at table version %d", s.Epoch, t.Version)
	case s.LimitVersion < 1 || s.LimitVersion > t.Version:
		return fmt.Errorf("limit version %d at table version %d", s.LimitVersion, t.Version)
	case s.Generation < 1:
		return errors.New("generation 0")
	case s.Limit < 1:
		return errors.New("a limit of 0 bytes")
	}
	if len(s.Bootstrap) == 0 {
		return errors.New("no members to begin with")
	}
	begin := make(map[string]bool, len(s.Bootstrap))
	for _, m := range s.Bootstrap {
		if m.Node == "" || begin[m.Node] || m.Role != RoleVoter || m.R < 1 || m.R > t.Version {
			return fmt.Errorf("it began with the member %+v", m)
		}
		begin[m.Node] = true
	}
	if s.Kept > 0 && (len(s.Bootstrap) != 1 || s.Kept >= s.Bootstrap[0].R) {
		return fmt.Errorf("it began with the state of replica %d and the members %+v", s.Kept, s.Bootstrap)
	}
	return t.validateMembers(s.Members, 1)
}

// validateMembers checks the members of one group; leastR is the lowest r that there is.
func (t *Table) validateMembers(members []Member, leastR uint64) error {
	voters := 0
	nodes := make(map[string]bool, len(members))
	for _, m := range members {
		if _, known := t.Nodes[m.Node]; !known || nodes[m.Node] {
			return fmt.Errorf("member on node %q, which is unknown or a member already", m.Node)
		}
		nodes[m.Node] = true
		if m.R < leastR || m.R > t.Version {
			return fmt.Errorf("r %d of the member on %s at table version %d", m.R, m.Node, t.Version)
		}
		switch m.Role {
		case RoleVoter:
			voters++
		case RoleLearner:
		default:
			return fmt.Errorf("member on %s is %q, want voter or learner", m.Node, m.Role)
		}
	}
	if voters == 0 {
		return errors.New("no voter")
	}
	return nil
}

func (t *Table) validateOperations() error {
	var last uint64
	busy := make(map[shard.ID]bool)
	for _, o := range t.Operations {
		if o.ID <= last || o.ID > t.NextOperation {
			return fmt.Errorf("operation %d after %d of %d", o.ID, last, t.NextOperation)
		}
		last = o.ID
		if o.State != OperationRunning {
			continue
		}
		m, member := t.member(o.Shard, o.Node)
		if !member || m.R != o.R || busy[o.Shard] || transitions[o.Phase] == nil {
			return fmt.Errorf("operation %d (%s, %s) on shard %d can't run", o.ID, o.Kind, o.Phase, o.Shard)
		}
		if from, there := t.member(o.Shard, o.From); o.Kind == ReplaceMember && (!there || from.R != o.FromR || t.Level < placementLevel) {
			return fmt.Errorf("operation %d replaces a member of shard %d that is not there", o.ID, o.Shard)
		}
		busy[o.Shard] = true
	}
	return nil
}

// isHexID reports whether s is 128 bits in lower-case hex.
func isHexID(s string) bool {
	if len(s) != 32 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}
