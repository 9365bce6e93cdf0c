package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/larder-cache/larder/shard"
)

// methodJoin begins with "form": it is served to nodes that are not members yet.
const methodJoin = "form.join"

// joinRequest asks to be made known to the cluster.
type joinRequest struct {
	Node Node `json:"node"`
	// Memory is that of the node's process, bytes; its capacity for entries follows from it by the
	// cluster's settings.
	Memory uint64 `json:"memory"`
	// Level and ShardLevel are as in a FormReport.
	Level      uint8 `json:"level,omitempty"`
	ShardLevel uint8 `json:"shard_level,omitempty"`
}

// joinAnswer tells a node what it joined, or why it can't.
type joinAnswer struct {
	Refusal string `json:"refusal,omitempty"` // final
	Table   *Table `json:"table,omitempty"`
}

// join makes a new node known to the cluster, by any of the nodes in cfg.Initial. It returns once this
// node's membership is on disk. A crash before the cluster took the node leaves no trace; one after it
// leaves a node that is known and has not formed: its next start asks again, with the same data folder,
// and is answered the same. Where that folder is lost in between, the answer is a refusal.
func (s *Service) join(ctx context.Context) error {
	request, err := json.Marshal(joinRequest{Node: s.self, Memory: s.cfg.Memory, Level: ownLevels.directory, ShardLevel: ownLevels.shards})
	if err != nil {
		return err
	}
	var reminded time.Time
	for {
		s.setPeers(s.latest.Table())
		var last error
		for _, node := range slices.Sorted(maps.Keys(s.cfg.Initial)) {
			answer, err := s.joinBy(ctx, node, request)
			switch {
			case err != nil:
				last = fmt.Errorf("asking %s: %w", node, err)
				continue
			case answer.Refusal != "":
				return fmt.Errorf("the cluster does not take node %s: %s", s.self.ID, answer.Refusal)
			}
			if err := s.cfg.Identity.Form(answer.Table.Cluster, nil); err != nil {
				return fmt.Errorf("keeping the cluster id: %w", err)
			}
			s.mu.Lock()
			s.former.persisted(&founding{cluster: answer.Table.Cluster})
			s.mu.Unlock()
			s.latest.Publish(answer.Table)
			s.log.Info("joined a cluster", "cluster", answer.Table.Cluster, "by", node)
			return nil
		}
		if last != nil && time.Since(reminded) >= formPatience {
			reminded = time.Now()
			s.log.Info("waiting to join", "err", last)
		}
		if !s.pause(ctx) {
			return context.Cause(ctx)
		}
	}
}

func (s *Service) joinBy(ctx context.Context, node string, request []byte) (joinAnswer, error) {
	ctx, cancel := context.WithTimeout(ctx, dutyTimeout)
	defer cancel()
	payload, err := s.host.Call(ctx, node, methodJoin, request)
	if err != nil {
		return joinAnswer{}, err
	}
	var answer joinAnswer
	if err := json.Unmarshal(payload, &answer); err != nil {
		return joinAnswer{}, err
	}
	if answer.Refusal != "" {
		return answer, nil
	}
	if answer.Table == nil || answer.Table.Validate() != nil || answer.Table.Nodes[s.self.ID].Incarnation != s.self.Incarnation {
		return joinAnswer{}, fmt.Errorf("%s answered with a table that this node is not in", node)
	}
	return answer, nil
}

// handleJoin makes a node known.
func (s *Service) handleJoin(ctx context.Context, from string, payload []byte) ([]byte, error) {
	var request joinRequest
	if err := json.Unmarshal(payload, &request); err != nil {
		return nil, fmt.Errorf("request to join: %w", err)
	}
	refuse := func(format string, args ...any) ([]byte, error) {
		return json.Marshal(joinAnswer{Refusal: fmt.Sprintf(format, args...)})
	}
	n := request.Node
	if err := shard.ValidNode(n.ID); err != nil || n.ID != from {
		return refuse("node %s calls itself %q", from, n.ID)
	}
	if err := s.Known(); err != nil {
		return nil, err
	}
	t := s.Table()
	n.Capacity = t.Settings.Capacity(request.Memory)
	add := &AddNode{Node: n}
	if t.Level >= settingsLevel { // below it, there may be replicas that know no such fields
		add.Level, add.ShardLevel = request.Level, request.ShardLevel
	}
	result, err := s.Propose(ctx, Command{AddNode: add})
	if err != nil {
		return nil, err
	}
	if result.Outcome == OutcomeRefused && t.Level < settingsLevel {
		// The levels may have been raised meanwhile, and were not told of the node's.
		if now, err := s.latest.Newer(ctx, result.Version-1); err != nil || now.Level >= settingsLevel {
			return nil, fmt.Errorf("%w: the cluster's feature level is being raised", shard.ErrNoLeader)
		}
	}
	if result.Outcome == OutcomeRefused {
		return refuse("%s", result.Reason)
	}
	if result.Outcome == OutcomeApplied {
		s.log.Info("a node joined", "node", n.ID, "raft", n.Raft, "http", n.HTTP)
	}
	if t, err = s.latest.Newer(ctx, result.Version-1); err != nil {
		return nil, err
	}
	return json.Marshal(joinAnswer{Table: t})
}

// Capacity is how many bytes of entries a process of so much memory has room for. Where there is no disk for them, an entry takes
// memory in the log and in the newest snapshot too: see shard.VolatileShare.
func (s Settings) Capacity(memory uint64) uint64 {
	room := s.room(memory)
	if s.MemoryOnly {
		return shard.VolatileShare(room)
	}
	return room
}

// room is the part of a process's memory that is for entries, by the cluster's settings.
func (s Settings) room(memory uint64) uint64 {
	m, err := ParseMemory(s.CacheMemory)
	if err != nil { // Validate refuses such settings
		return 0
	}
	return m.Of(memory)
}
