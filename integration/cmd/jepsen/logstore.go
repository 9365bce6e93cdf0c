package main

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"github.com/larder-cache/larder/integration/cluster"
)

// The log stores of nodes, as their flag has them, and mixedLogs, which draws one for each start of each node.
const (
	boltLog   = "bolt"
	sharedLog = "shared"
	mixedLogs = "mixed"
)

// logs is where the run's nodes keep the logs of the replicas that they make. A replica keeps the store that it was made in, and a setting may
// change with any start. So every other seed draws anew for each start of each node: members of one shard then differ in
// it, and so do the replicas of a node once some were made again. The rest is alike everywhere, as most users have it: a loss that only one of
// the stores suffers is not made good by members that have the other.
func (o options) logs() string {
	if o.logStore != autoMode {
		return o.logStore
	}
	return []string{mixedLogs, sharedLog, mixedLogs, boltLog}[rand.New(rand.NewPCG(o.seed, 7)).IntN(4)]
}

// logOf is the setting of a node's nth start, from 0 on.
func (o options) logOf(node string, start int) string {
	if all := o.logs(); all != mixedLogs {
		return all
	}
	return []string{boltLog, sharedLog}[rand.New(rand.NewPCG(o.seed, uint64(node[0])<<32+uint64(start))).IntN(2)]
}

// logFlags are the flags of a node's nth start.
func (o options) logFlags(node string, start int) []string {
	return []string{"--log-store", o.logOf(node, start)}
}

// logsOf tells the settings of all starts of nodes, for example "a: bolt shared bolt; b: shared".
func (o options) logsOf(nodes []*cluster.Node) string {
	var all []string
	for _, n := range nodes {
		var drawn []string
		for start := range n.Starts() {
			drawn = append(drawn, o.logOf(n.ID, start))
		}
		if len(drawn) > 0 {
			all = append(all, fmt.Sprintf("%s: %s", n.ID, strings.Join(drawn, " ")))
		}
	}
	return strings.Join(all, "; ")
}
