package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// longPoll is how long a node holds a question for a newer table, and the bound of what it
	// accepts to.
	longPoll = 2 * time.Second
	// patience is how long a node with a replica of the directory waits for its own replica before
	// it fetches a newer table from a peer.
	patience = time.Second
)

// tableRequest asks a node for its table, if that is newer than Since.
type tableRequest struct {
	Since uint64 `json:"since"`
	// WaitMillis is how long the answer may be held back while there is none.
	WaitMillis int64 `json:"wait_ms"`
}

// follow keeps the table current where the directory's own replication does not: on a node without
// a replica of it, by long polls of any node that is up; on the others from a peer that is known to
// be ahead for a while, as when their replica is cut off from its group or the group has no quorum.
// A committed table is the same wherever it comes from.
func (s *Service) follow(t *Table) {
	node, ahead := s.soft.newest(t.Version)
	if !ahead {
		s.behind = time.Time{}
	} else if s.behind.IsZero() {
		s.behind = time.Now()
	}
	s.mu.Lock()
	member := s.group != nil
	s.mu.Unlock()
	switch {
	case member && (!ahead || time.Since(s.behind) < patience):
	case ahead:
		s.duties.try("fetch the table", func(ctx context.Context) error { return s.fetch(ctx, node, t.Version, 0) })
	default:
		if node := s.source(t); node != "" {
			s.duties.try("fetch the table", func(ctx context.Context) error { return s.fetch(ctx, node, t.Version, longPoll) })
		}
	}
}

// source returns a node to ask for the table, "" when none is up.
func (s *Service) source(t *Table) string {
	return s.anyUp(s.known(t))
}

// anyUp returns one of nodes that is up, another one each second; "" when none is.
func (s *Service) anyUp(nodes []string) string {
	up := slices.DeleteFunc(slices.Sorted(slices.Values(nodes)), func(id string) bool {
		state, _ := s.soft.state(id)
		return state != NodeUp
	})
	if len(up) == 0 {
		return ""
	}
	return up[int(time.Now().Unix()%int64(len(up)))]
}

// fetch gets the table from node, if it is newer than since or becomes so within wait.
func (s *Service) fetch(ctx context.Context, node string, since uint64, wait time.Duration) error {
	request, err := json.Marshal(tableRequest{Since: since, WaitMillis: wait.Milliseconds()})
	if err != nil {
		return err
	}
	answer, err := s.host.Call(ctx, node, methodTable, request)
	if err != nil {
		return fmt.Errorf("asking %s: %w", node, err)
	}
	if len(answer) == 0 {
		return nil // nothing newer
	}
	t, err := decodeTable(answer)
	if err != nil {
		return fmt.Errorf("table of %s: %w", node, err)
	}
	if cluster, _, ok := s.cfg.Identity.Formed(); ok && t.Founded() && t.Cluster != cluster {
		return fmt.Errorf("%s has the table of cluster %s, not %s", node, t.Cluster, cluster)
	}
	s.latest.Publish(t)
	return nil
}

// catchUpPatience is how long a node that starts waits for the others to tell it newer tables than its own.
const catchUpPatience = time.Second

// catchUp asks all other nodes that are known for a table newer than the one that this node starts with, before any replica is opened: one of a data shard may
// be of a generation that has ended meanwhile, one of the directory of a directory that was rebuilt, and with others like it would serve what was given up, or
// change what is not its own any more. Who does not answer within a second is not waited for: data flows without the directory (R19), and without
// nodes that are gone.
func (s *Service) catchUp(ctx context.Context) {
	if len(s.host.Replicas()) == 0 {
		return
	}
	t := s.Table()
	ctx, cancel := context.WithTimeout(ctx, catchUpPatience)
	defer cancel()
	var asked sync.WaitGroup
	ids := t.NodeIDs()
	if !t.Founded() {
		ids = s.known(t)
	}
	for _, id := range ids {
		if id == s.self.ID {
			continue
		}
		asked.Go(func() {
			for s.fetch(ctx, id, t.Version, 0) != nil && s.pause(ctx) {
			}
		})
	}
	asked.Wait()
}

// known returns all other nodes that this one knows by a table, its flags or the founding.
func (s *Service) known(t *Table) []string {
	known := maps.Clone(t.Nodes)
	if known == nil {
		known = map[string]Node{}
	}
	for id := range s.cfg.Initial {
		known[id] = Node{}
	}
	_, founders, _ := s.cfg.Identity.Formed()
	for _, f := range founders {
		known[f.Node] = Node{}
	}
	delete(known, s.self.ID)
	return slices.Sorted(maps.Keys(known))
}

// handleTable answers with this node's table, or with nothing when it has none that is newer.
func (s *Service) handleTable(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var request tableRequest
	if err := json.Unmarshal(payload, &request); err != nil {
		return nil, fmt.Errorf("request for a table: %w", err)
	}
	wait := min(max(time.Duration(request.WaitMillis)*time.Millisecond, 0), longPoll)
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	t, err := s.latest.Newer(ctx, request.Since)
	if err != nil {
		return nil, nil // the wait is over: nothing newer is an answer
	}
	return json.Marshal(t)
}
