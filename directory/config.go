package directory

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/shard"
)

// Config is what a Service needs. All fields but Zone (of Self), Logger and Registry are required.
type Config struct {
	// Host hosts this node's replicas. New registers handlers with it, so it must not be started yet;
	// Start needs it started.
	Host *shard.Host
	// Identity is the node's data folder; a shard.Host is one.
	Identity Identity
	// Self is this node as it wants to be known: addresses as others reach them, zone, capacity.
	// ID and Incarnation are filled in from Host and Identity.
	Self Node
	// Initial maps the ids of the initial nodes to their Raft addresses, this node included; for a
	// node that joined later, the nodes by which it finds the others.
	Initial map[string]string
	// Join: this node is no initial one; where it has joined no cluster yet, it joins that of the nodes
	// in Initial.
	Join bool
	// Memory is that of the process, bytes: once the table is known, the node's capacity follows from
	// it by the cluster's settings. 0 leaves Self.Capacity as it is; a node that joins must have some.
	Memory uint64
	// OnCapacity is told how many bytes the node has for entries, once the table is known and whenever its settings
	// change that. It must not wait. nil is nobody.
	OnCapacity func(bytes uint64)
	// TableFile is where the node keeps a copy of the table; "" keeps none.
	TableFile string
	// Settings seed the first table. Zero fields mean their defaults.
	Settings Settings
	// Logger receives what an operator would tell a colleague; nil discards it.
	Logger *slog.Logger
	// Registry receives the package's metrics; nil keeps them to oneself.
	Registry prometheus.Registerer
}

func (c Config) validate(node string) error {
	switch {
	case c.Identity == nil:
		return errors.New("directory: no identity")
	case !isHexID(c.Identity.Incarnation()):
		return fmt.Errorf("directory: incarnation %q is not 32 hex digits", c.Identity.Incarnation())
	case c.Self.Capacity == 0:
		return fmt.Errorf("directory: node %s has no memory for entries", node)
	}
	for what, address := range map[string]string{"Raft": c.Self.Raft, "HTTP": c.Self.HTTP} {
		if _, _, err := net.SplitHostPort(address); err != nil || len(address) > maxAddress {
			return fmt.Errorf("directory: %s address %q is not host:port", what, address)
		}
	}
	if err := c.Settings.Validate(); err != nil {
		return fmt.Errorf("directory: %w", err)
	}
	if _, _, formed := c.Identity.Formed(); formed {
		return nil
	}
	if c.Join {
		if len(c.Initial) == 0 {
			return fmt.Errorf("directory: node %s is to join a cluster and knows no node of it", node)
		}
		if c.Memory == 0 {
			return fmt.Errorf("directory: node %s is to join a cluster and has no memory", node)
		}
		return nil
	}
	if _, ok := c.Initial[node]; !ok {
		return fmt.Errorf("directory: node %s is not among the initial nodes %v", node, slices.Sorted(maps.Keys(c.Initial)))
	}
	if c.Settings.Replicas > len(c.Initial) {
		return fmt.Errorf("directory: replicas is %d, but there are only %d initial nodes", c.Settings.Replicas, len(c.Initial))
	}
	return nil
}
