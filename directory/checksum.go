package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"

	"github.com/larder-cache/larder/shard"
)

const methodChecksum = "shard.checksum"

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
}

// checksumStep is what a node is asked for: to watch for marks, to log one, or the checksum at it.
type checksumStep struct {
	Shard shard.ID `json:"shard"`
	Step  string   `json:"step"`
	Index uint64   `json:"index,omitempty"`
}

const (
	checksumWatch = "watch"
	checksumMark  = "mark"
	checksumTake  = "take"
)

// Checksum compares the states of all members of a data shard, at an entry that it has the leader log.
// UnknownError: there is no such shard. What a member can't tell is in its line.
func (s *Service) Checksum(ctx context.Context, id shard.ID) (ChecksumView, error) {
	if id == shard.Directory {
		return ChecksumView{}, &ConflictError{Reason: "the directory's own group has no checksums: every node shows its table version"}
	}
	conf, leader, _, err := s.ask(ctx, id)
	if err != nil {
		return ChecksumView{}, err
	}
	view := ChecksumView{Shard: id}
	for _, p := range append(conf.Voters, conf.Learners...) {
		view.Replicas = append(view.Replicas, ReplicaChecksum{Node: p.Replica.Node, Replica: p.Replica.String()})
	}
	// Each writes to its own line.
	each := func(f func(r *ReplicaChecksum) error) {
		var wg sync.WaitGroup
		for i := range view.Replicas {
			if r := &view.Replicas[i]; r.Error == "" {
				wg.Go(func() {
					if err := f(r); err != nil {
						r.Error = err.Error()
					}
				})
			}
		}
		wg.Wait()
	}
	each(func(r *ReplicaChecksum) error {
		try, cancel := context.WithTimeout(ctx, readAttempt) // one that is down is not waited for
		defer cancel()
		return s.checksumAt(try, r.Node, checksumStep{Shard: id, Step: checksumWatch}, nil)
	})
	if err := s.checksumAt(ctx, leader, checksumStep{Shard: id, Step: checksumMark}, &view.Index); err != nil {
		return ChecksumView{}, err
	}
	each(func(r *ReplicaChecksum) error {
		return s.checksumAt(ctx, r.Node, checksumStep{Shard: id, Step: checksumTake, Index: view.Index}, &r.Checksum)
	})
	view.Equal = true
	for _, r := range view.Replicas {
		view.Equal = view.Equal && r.Error == "" && r.Checksum == view.Replicas[0].Checksum
	}
	return view, nil
}

// checksumAt asks a node and reads its answer into v. Nothing that is asked for can do harm, so all
// errors refuse.
func (s *Service) checksumAt(ctx context.Context, node string, step checksumStep, v any) error {
	request, err := json.Marshal(step)
	if err != nil {
		return err
	}
	answer, err := s.host.Call(ctx, node, methodChecksum, request)
	if err != nil {
		return fmt.Errorf("%w: asking %s for a checksum: %v", shard.ErrUnreachable, node, err)
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(answer, v)
}

func (s *Service) handleChecksum(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var step checksumStep
	if err := json.Unmarshal(payload, &step); err != nil {
		return nil, fmt.Errorf("request for a checksum: %w", err)
	}
	switch step.Step {
	case checksumWatch:
		return nil, s.host.WatchMarks(step.Shard)
	case checksumMark:
		index, err := s.host.Mark(ctx, step.Shard)
		if err != nil {
			return nil, err
		}
		return json.Marshal(index)
	case checksumTake:
		sum, err := s.host.MarkChecksum(ctx, step.Shard, step.Index)
		if err != nil {
			return nil, err
		}
		return json.Marshal(sum)
	}
	return nil, fmt.Errorf("there is no step %q of a checksum", step.Step)
}
