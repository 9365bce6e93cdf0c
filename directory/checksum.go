package directory

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/larder-cache/larder/shard"
)

const (
	methodCompare  = "shard.compare"
	methodDiverged = "shard.diverged"
)

// ChecksumView compares the replicas of a shard at one index of its log.
type ChecksumView struct {
	Shard    shard.ID          `json:"shard"`
	Index    uint64            `json:"index"`
	Equal    bool              `json:"equal"` // all members told their checksum, and it is the same
	Replicas []ReplicaChecksum `json:"replicas"`
}

// ReplicaChecksum is the checksum of one replica's state, or why there is none.
type ReplicaChecksum struct {
	Node     string `json:"node"`
	Replica  string `json:"replica"`
	Checksum string `json:"checksum"` // SHA-256 in hex, "" where there is an error
	Error    string `json:"error"`
	// Diverged: it has stopped for good, or is about to, since its state differs from that of others.
	Diverged bool `json:"diverged"`
}

// divergedReplica is what a node says of its replica of a shard.
type divergedReplica struct {
	Replica string         `json:"replica"`
	Verdict *shard.Verdict `json:"verdict,omitempty"` // nil: it has not stopped
}

// Checksum compares the states of all members of a data shard, at an entry that it has the leader log.
// Where all have stopped since no majority agrees, it shows the comparison that they stopped upon.
// UnknownError: there is no such shard. What a member can't tell is in its line.
func (s *Service) Checksum(ctx context.Context, id shard.ID) (ChecksumView, error) {
	if id == shard.Directory {
		return ChecksumView{}, &ConflictError{Reason: "the directory's own group has no checksums: every node shows its table version"}
	}
	if c, split := s.split(ctx, id); split {
		return checksumView(c), nil
	}
	_, leader, _, err := s.ask(ctx, id)
	if err != nil {
		return ChecksumView{}, err
	}
	var c shard.Comparison
	if err := s.askAbout(ctx, leader, methodCompare, id, &c); err != nil {
		return ChecksumView{}, err
	}
	return checksumView(c), nil
}

func checksumView(c shard.Comparison) ChecksumView {
	view := ChecksumView{Shard: c.Shard, Index: c.Index, Equal: c.Equal(), Replicas: []ReplicaChecksum{}}
	o, common := c.Outcome()
	for _, r := range c.Replicas {
		v := ReplicaChecksum{Replica: r.Replica, Checksum: r.Checksum, Error: r.Error}
		if id, err := shard.ParseReplicaID(r.Replica); err == nil {
			v.Node = id.Node
		}
		v.Diverged = r.Stopped != "" || r.Checksum != "" && (o == shard.OutcomeSplit || o == shard.OutcomeMinority && r.Checksum != common)
		view.Replicas = append(view.Replicas, v)
	}
	return view
}

// split returns the comparison upon which the members of a shard stopped, where no majority agreed.
func (s *Service) split(ctx context.Context, id shard.ID) (c shard.Comparison, found bool) {
	members, _ := s.Table().Members(id)
	for _, m := range members {
		if r, ok := s.soft.replica(m.Node, id); !ok || !r.diverged {
			continue
		}
		if v, _ := s.diverged(ctx, m.id(id)); v != nil && v.Outcome == shard.OutcomeSplit {
			return v.Comparison, true
		}
	}
	return c, false
}

// diverged asks a replica's node why that replica has stopped; nil: it has not. known is false where the node does not
// tell, or hosts another one.
func (s *Service) diverged(ctx context.Context, id shard.ReplicaID) (v *shard.Verdict, known bool) {
	ctx, cancel := context.WithTimeout(ctx, readAttempt)
	defer cancel()
	var r divergedReplica
	if err := s.askAbout(ctx, id.Node, methodDiverged, id.Shard, &r); err != nil || r.Replica != id.String() {
		return nil, false
	}
	return r.Verdict, true
}

// askAbout asks a node about its replica of a shard, and reads the answer into v. Nothing that is asked
// for can do harm, so all errors refuse.
func (s *Service) askAbout(ctx context.Context, node, method string, id shard.ID, v any) error {
	request, err := json.Marshal(id)
	if err != nil {
		return err
	}
	answer, err := s.host.Call(ctx, node, method, request)
	if err != nil {
		return fmt.Errorf("%w: asking %s about shard %d: %v", shard.ErrUnreachable, node, id, err)
	}
	return json.Unmarshal(answer, v)
}

// handleCompare has the replicas of a shard that this node leads compared.
func (s *Service) handleCompare(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var id shard.ID
	if err := json.Unmarshal(payload, &id); err != nil {
		return nil, fmt.Errorf("request for a comparison: %w", err)
	}
	c, err := s.host.Compare(ctx, id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(c)
}

// handleDiverged tells why this node's replica of a shard has stopped.
func (s *Service) handleDiverged(_ context.Context, _ string, payload []byte) ([]byte, error) {
	var id shard.ID
	if err := json.Unmarshal(payload, &id); err != nil {
		return nil, fmt.Errorf("question about a replica: %w", err)
	}
	replica, v, err := s.host.Diverged(id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(divergedReplica{replica, v})
}
