package directory

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/larder-cache/larder/shard"
)

// Machine is the state machine of the directory's group: it turns logged commands into tables, and
// publishes each of them. Apply, Snapshot and Restore are called on one goroutine.
type Machine struct {
	table      *Table
	publish    func(*Table)
	generation atomic.Uint64 // of the table, for those who ask beside Apply
}

var _ shard.StateMachine = (*Machine)(nil)

// NewMachine returns a machine with the empty table. It hands each table that it comes to hold to
// publish, on the goroutine of Apply; what was handed over never changes.
func NewMachine(publish func(*Table)) *Machine {
	return &Machine{table: &Table{}, publish: publish}
}

// Apply applies the command at index and returns its Result. It panics on a command that this build
// can't read: going on would let the replicas diverge.
func (m *Machine) Apply(index uint64, data []byte) any {
	c, err := DecodeCommand(data)
	if err != nil {
		panic(fmt.Sprintf("directory: entry %d: %v", index, err))
	}
	next, result := c.apply(m.table)
	if next != nil {
		m.hold(next)
	}
	return result
}

// hold replaces the table.
func (m *Machine) hold(t *Table) {
	m.table = t
	m.generation.Store(t.generation(shard.Directory))
	m.publish(t)
}

// Generation returns the generation of the directory's own group; it may be called from anywhere.
func (m *Machine) Generation() uint64 { return m.generation.Load() }

// apply returns the table after c, nil when c does not change it, and what became of c. It reads
// nothing but its arguments.
func (c Command) apply(t *Table) (*Table, Result) {
	next, refusal := c.fields()[c.Kind].apply(t)
	switch {
	case refusal != "":
		return nil, Result{Outcome: OutcomeRefused, Version: t.Version, Reason: refusal}
	case next == nil:
		return nil, Result{Outcome: OutcomeUnchanged, Version: t.Version}
	}
	result := Result{Outcome: OutcomeApplied, Version: next.Version}
	if c.Kind == KindStart || c.Kind == KindRecover {
		result.Operation = next.NextOperation
	}
	return next, result
}

func (c *Init) apply(t *Table) (*Table, string) {
	if t.Founded() {
		return nil, fmt.Sprintf("the cluster was founded already, as %s", t.Cluster)
	}
	next := (&Table{
		Cluster:    c.Cluster,
		Version:    t.Version + 1,
		Level:      c.Level,
		ShardLevel: c.ShardLevel,
		Settings:   c.Settings,
		Shards:     c.Shards,
		Directory:  c.Directory,
	}).clone() // c belongs to the caller
	next.Nodes = make(map[string]Node, len(c.Nodes))
	for _, n := range c.Nodes {
		if _, twice := next.Nodes[n.ID]; twice {
			return nil, fmt.Sprintf("node %s is listed twice", n.ID)
		}
		next.Nodes[n.ID] = n
	}
	for _, s := range next.Shards {
		if s.ID < math.MaxUint64 {
			next.NextShard = max(next.NextShard, s.ID+1)
		}
		next.VersionGrant = max(next.VersionGrant, s.VersionBits)
	}
	slices.SortFunc(next.Shards, func(a, b Shard) int { return int(a.Start) - int(b.Start) })
	if err := next.Validate(); err != nil {
		return nil, err.Error()
	}
	return next, ""
}

func (c *RegisterNode) apply(t *Table) (*Table, string) {
	known, ok := t.Nodes[c.Node.ID]
	switch {
	case !ok:
		return nil, fmt.Sprintf("node %s is unknown", c.Node.ID)
	case known.Incarnation != c.Node.Incarnation:
		return nil, fmt.Sprintf("node %s has incarnation %s, not %s", known.ID, known.Incarnation, c.Node.Incarnation)
	case known == c.Node:
		return nil, ""
	}
	next := t.clone()
	next.Version++
	next.Nodes[c.Node.ID] = c.Node
	if err := next.validateNodes(); err != nil {
		return nil, err.Error()
	}
	return next, ""
}

func (c *SetLimits) apply(t *Table) (*Table, string) {
	if t.Version != c.Expect {
		return nil, fmt.Sprintf("the table has version %d, not %d", t.Version, c.Expect)
	}
	next := t.clone()
	next.Version++
	changed := false
	for _, l := range c.Limits {
		i := slices.IndexFunc(next.Shards, func(s Shard) bool { return s.ID == l.Shard })
		if i < 0 {
			return nil, fmt.Sprintf("shard %d is unknown", l.Shard)
		}
		if l.Limit == 0 {
			return nil, fmt.Sprintf("a limit of 0 bytes for shard %d", l.Shard)
		}
		if s := &next.Shards[i]; s.Limit != l.Limit {
			s.Limit, s.LimitVersion = l.Limit, next.Version
			changed = true
		}
	}
	if !changed {
		return nil, ""
	}
	return next, ""
}

func (c *SetLevel) apply(t *Table) (*Table, string) {
	switch {
	case !t.Founded():
		return nil, "the cluster is not founded yet"
	case c.Level < t.Level:
		return nil, fmt.Sprintf("the feature level is %d and is never lowered", t.Level)
	case c.ShardLevel < t.ShardLevel:
		return nil, fmt.Sprintf("the feature level of shards is %d and is never lowered", t.ShardLevel)
	case c.Level == t.Level && c.ShardLevel == t.ShardLevel:
		return nil, ""
	case c.Level >= settingsLevel && c.Expect != t.Version:
		return nil, fmt.Sprintf("the table has version %d, not %d", t.Version, c.Expect)
	}
	next := t.clone()
	next.Version++
	next.Level, next.ShardLevel = c.Level, c.ShardLevel
	if err := next.validateLevels(); err != nil {
		return nil, err.Error()
	}
	return next, ""
}

func (c *Regrant) apply(t *Table) (*Table, string) {
	i := slices.IndexFunc(t.Shards, func(s Shard) bool { return s.ID == c.Shard })
	switch {
	case i < 0:
		return nil, fmt.Sprintf("shard %d is unknown", c.Shard)
	case t.Shards[i].VersionBits != c.Expect:
		return nil, fmt.Sprintf("shard %d has version bits %d, not %d", c.Shard, t.Shards[i].VersionBits, c.Expect)
	case t.VersionGrant >= maxVersionBits:
		return nil, "all version bits are granted"
	}
	next := t.clone()
	next.Version++
	next.VersionGrant++
	next.Shards[i].VersionBits = next.VersionGrant
	return next, ""
}

// describe names what a command does, for the log of a node.
func (c Command) describe() string {
	kind := c.kind()
	switch {
	case c.RegisterNode != nil:
		return fmt.Sprintf("%s %s", kind, c.RegisterNode.Node.ID)
	case c.AddNode != nil:
		return fmt.Sprintf("%s %s", kind, c.AddNode.Node.ID)
	case c.RemoveNode != nil:
		return fmt.Sprintf("%s %s", kind, c.RemoveNode.ID)
	case c.DrainNode != nil:
		return fmt.Sprintf("%s %s %v", kind, c.DrainNode.ID, c.DrainNode.Drain)
	case c.Recover != nil:
		return fmt.Sprintf("%s %d: generation %d ends, nodes %s", kind, c.Recover.Shard, c.Recover.Generation, strings.Join(c.Recover.Nodes, ","))
	case c.Settle != nil:
		return fmt.Sprintf("%s %d", kind, c.Settle.Shard)
	case c.Start != nil:
		return fmt.Sprintf("%s %s: shard %d, node %s", kind, c.Start.Kind, c.Start.Shard, c.Start.Node)
	case c.Advance != nil:
		return strings.TrimSpace(fmt.Sprintf("%s %d: %s %s %s%s", kind, c.Advance.ID, c.Advance.State, c.Advance.Phase, c.Advance.Detail, c.Advance.Error))
	case c.Cancel != nil:
		return fmt.Sprintf("%s %d", kind, c.Cancel.ID)
	case c.Regrant != nil:
		return fmt.Sprintf("%s %d", kind, c.Regrant.Shard)
	case c.SetLevel != nil:
		return fmt.Sprintf("%s %d, of shards %d", kind, c.SetLevel.Level, c.SetLevel.ShardLevel)
	case c.SetLimits != nil:
		ids := make([]string, len(c.SetLimits.Limits))
		for i, l := range c.SetLimits.Limits {
			ids[i] = fmt.Sprint(l.Shard)
		}
		return fmt.Sprintf("%s %s", kind, strings.Join(ids, ","))
	}
	return string(kind)
}
