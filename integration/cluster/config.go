package cluster

import (
	"errors"
	"fmt"
	"time"
)

// Net is how nodes reach each other and clients reach nodes.
type Net string

const (
	// Proxy is loopback, with proxies between the nodes.
	Proxy Net = "proxy"
	// Tap is a network namespace for each node and one for the clients, and a switch between them.
	Tap Net = "tap"
)

// Disk is what a node's data folder lies on.
type Disk string

const (
	// Folder is a folder of the machine.
	Folder Disk = "folder"
	// Loop is a file system of its own, which can lose power and run full.
	Loop Disk = "loop"
)

// Config describes a cluster. Zero values are defaults.
type Config struct {
	Binary string
	Shards int
	// Nodes that form the cluster, 1 to 5; two more may join. Default 3.
	Nodes int
	// Replicas of each shard. Default Nodes.
	Replicas int
	Net      Net  // default Proxy
	Disk     Disk // default Folder
	// Delay of each link between two nodes, one way, and by how much more or less it is at most.
	Delay, Jitter time.Duration
	// Seed of chances on the network.
	Seed uint64
	// Args and Env are added to each node's flags and environment.
	Args, Env []string
	// StartArgs, where it is given, returns flags of one start of a node, its nth, from 0 on.
	StartArgs func(node string, start int) []string `json:"-"`
	// Limit is how long the cluster may live before everything is killed. Default 5 minutes.
	Limit time.Duration
	// Dir gets the folder of each node, with its log and its data. It is made where it is missing, and stays. Default: a
	// temporary one, which Close removes.
	Dir string
}

const (
	maxFounders  = 5
	maxJoiners   = 2
	defaultNodes = 3
	defaultLimit = 5 * time.Minute
)

// validate fills in defaults.
func (c *Config) validate() error {
	if c.Nodes == 0 {
		c.Nodes = defaultNodes
	}
	if c.Replicas == 0 {
		c.Replicas = c.Nodes
	}
	if c.Net == "" {
		c.Net = Proxy
	}
	if c.Disk == "" {
		c.Disk = Folder
	}
	if c.Limit == 0 {
		c.Limit = defaultLimit
	}
	switch {
	case c.Binary == "":
		return errors.New("cluster: no binary")
	case c.Shards < 1:
		return fmt.Errorf("cluster: %d shards", c.Shards)
	case c.Nodes < 1 || c.Nodes > maxFounders:
		return fmt.Errorf("cluster: %d nodes, want 1 to %d", c.Nodes, maxFounders)
	case c.Replicas < 1 || c.Replicas > c.Nodes:
		return fmt.Errorf("cluster: %d replicas on %d nodes", c.Replicas, c.Nodes)
	case c.Net != Proxy && c.Net != Tap:
		return fmt.Errorf("cluster: no network is called %q", c.Net)
	case c.Disk != Folder && c.Disk != Loop:
		return fmt.Errorf("cluster: no disk is called %q", c.Disk)
	case c.Jitter > c.Delay:
		return fmt.Errorf("cluster: a jitter of %v is more than the delay of %v", c.Jitter, c.Delay)
	}
	return nil
}
