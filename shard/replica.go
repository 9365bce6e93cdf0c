package shard

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
)

// ReplicaID is the Raft server id (and address) of a replica, written Shard/Node/R. R is the table
// version at which the directory allotted the replica: a node that leaves a shard and comes back is
// another replica, and no id ever speaks with lost or older state (R14).
type ReplicaID struct {
	Shard ID
	Node  string
	R     uint64
}

func (r ReplicaID) String() string { return fmt.Sprintf("%d/%s/%d", r.Shard, r.Node, r.R) }

func compareReplicas(a, b ReplicaID) int {
	return cmp.Or(cmp.Compare(a.Shard, b.Shard), cmp.Compare(a.Node, b.Node), cmp.Compare(a.R, b.R))
}

// ParseReplicaID is the inverse of String.
func ParseReplicaID(s string) (ReplicaID, error) {
	shard, rest, ok1 := strings.Cut(s, "/")
	node, r, ok2 := strings.Cut(rest, "/")
	id, err1 := strconv.ParseUint(shard, 10, 64)
	rr, err2 := strconv.ParseUint(r, 10, 64)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || node == "" {
		return ReplicaID{}, fmt.Errorf("%q is no replica id", s)
	}
	return ReplicaID{Shard: ID(id), Node: node, R: rr}, nil
}
