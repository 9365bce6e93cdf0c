package directory

import (
	"fmt"
	"slices"

	"github.com/larder-cache/larder/shard"
)

// AddNode makes a node known that joins the cluster. Precondition: its id, its incarnation and its
// peer address are no other node's, and its build knows the feature levels.
type AddNode struct {
	Node Node `json:"node"`
	// Level and ShardLevel are the highest that the node's build knows; 0, as in a table of level 1, is 1.
	Level      uint8 `json:"level,omitempty"`
	ShardLevel uint8 `json:"shard_level,omitempty"`
}

// RemoveNode forgets a node. Precondition: it hosts no replica.
type RemoveNode struct {
	ID string `json:"id"`
}

// DrainNode begins to drain a node, or ends that: replicas move off it, and none onto it. Precondition: the node is known, and the
// feature level is 3 or more.
type DrainNode struct {
	ID    string `json:"id"`
	Drain bool   `json:"drain"`
}

func (c *AddNode) apply(t *Table) (*Table, string) {
	if !t.Founded() {
		return nil, "the cluster is not founded yet"
	}
	if known, ok := t.Nodes[c.Node.ID]; ok {
		if known.Incarnation != c.Node.Incarnation {
			return nil, fmt.Sprintf("node %s is known by another data folder; where that one is lost, remove the node first, or choose another id", known.ID)
		}
		return nil, ""
	}
	if max(c.Level, 1) < t.Level || max(c.ShardLevel, 1) < t.ShardLevel {
		return nil, fmt.Sprintf("the build of node %s knows the feature levels %d and %d, the cluster is at %d and %d: a newer build of larder is needed",
			c.Node.ID, max(c.Level, 1), max(c.ShardLevel, 1), t.Level, t.ShardLevel)
	}
	next := t.clone()
	next.Version++
	next.Nodes[c.Node.ID] = c.Node
	if err := next.validateNodes(); err != nil {
		return nil, err.Error()
	}
	return next, ""
}

func (c *RemoveNode) apply(t *Table) (*Table, string) {
	if _, known := t.Nodes[c.ID]; !known {
		return nil, fmt.Sprintf("node %s is unknown", c.ID)
	}
	if hosted := t.hosted(c.ID); len(hosted) > 0 {
		return nil, fmt.Sprintf("node %s hosts replicas of the shards %v: remove these members first", c.ID, hosted)
	}
	next := t.clone()
	next.Version++
	delete(next.Nodes, c.ID)
	if at, draining := slices.BinarySearch(next.Draining, c.ID); draining {
		next.Draining = slices.Delete(next.Draining, at, at+1)
	}
	if len(next.Draining) == 0 {
		next.Draining = nil // as a snapshot restores it
	}
	return next, ""
}

func (c *DrainNode) apply(t *Table) (*Table, string) {
	if _, known := t.Nodes[c.ID]; !known {
		return nil, fmt.Sprintf("node %s is unknown", c.ID)
	}
	if t.Level < placementLevel {
		return nil, fmt.Sprintf("the feature level is %d, nodes are drained from %d on", t.Level, placementLevel)
	}
	at, draining := slices.BinarySearch(t.Draining, c.ID)
	if draining == c.Drain {
		return nil, ""
	}
	next := t.clone()
	next.Version++
	if c.Drain {
		next.Draining = slices.Insert(next.Draining, at, c.ID)
	} else {
		next.Draining = slices.Delete(next.Draining, at, at+1)
	}
	if len(next.Draining) == 0 {
		next.Draining = nil // as a snapshot restores it
	}
	return next, ""
}

// drained reports whether replicas move off a node, and none onto it.
func (t *Table) drained(node string) bool { return slices.Contains(t.Draining, node) }

// hosted returns the shards that have a replica on a node, the directory's group (0) among them.
func (t *Table) hosted(node string) []shard.ID {
	var ids []shard.ID
	if _, member := t.member(shard.Directory, node); member {
		ids = append(ids, shard.Directory)
	}
	for _, s := range t.Shards {
		if _, member := s.Member(node); member {
			ids = append(ids, s.ID)
		}
	}
	return ids
}
