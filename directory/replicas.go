package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/larder-cache/larder/shard"
)

// retire destroys the replicas of this node that the table does not list any more. An r is the table
// version that allotted it, so a table of an earlier version says nothing of it.
func (s *Service) retire(t *Table) {
	if !t.Founded() {
		return
	}
	for _, id := range s.host.Replicas() {
		if m, member := t.member(id.Shard, s.self.ID); id.R > t.Version || member && m.R == id.R || s.keeps(t, id) {
			continue
		}
		if t.doubtful(id) {
			s.duties.try(fmt.Sprintf("leave replica %s", id), func(ctx context.Context) error { return s.leave(ctx, id) })
			continue
		}
		s.duties.try(fmt.Sprintf("destroy replica %s", id), func(context.Context) error { return s.destroy(t, id) })
	}
}

// keeps reports whether the state of a replica of this node is to become that of its successor, which is not open yet. Opening that destroys it.
func (s *Service) keeps(t *Table, id shard.ReplicaID) bool {
	sh, ok := t.Shard(id.Shard)
	if !ok || sh.Kept != id.R || sh.Bootstrap[0].Node != s.self.ID || !slices.Contains(sh.Members, sh.Bootstrap[0]) {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	err, tried := s.opened[sh.Bootstrap[0].id(sh.ID)]
	return !tried || err != nil
}

// destroy destroys a replica of this node that a table does not list.
func (s *Service) destroy(t *Table, id shard.ReplicaID) error {
	s.mu.Lock()
	delete(s.opened, id)
	s.mu.Unlock()
	s.leaveDirectory(id)
	err := s.host.Destroy(id.Shard, id.R)
	s.leaveDirectory(id) // it may have been opened just before
	if began := t.began(id.Shard); err == nil && id.R < began {
		s.log.Warn("a replica of a former generation is destroyed, as its shard was recovered", "shard", id.Shard, "replica", id.String(), "epoch", began)
	}
	if err == nil && id.Shard == shard.Directory && id.R < t.Rebuilt {
		s.log.Warn("a replica of the directory that was lost is destroyed, as the directory was rebuilt", "replica", id.String(), "version", t.Rebuilt)
	}
	return err
}

// knows reports whether a table knows this node by this data folder.
func (s *Service) knows(t *Table) bool {
	n, ok := t.Nodes[s.self.ID]
	return ok && n.Incarnation == s.self.Incarnation
}

// unopened returns the replicas that the table puts on this node and that are not open. Where the table
// knows the node's id by another data folder, they are that one's: opened here too, with nothing in them,
// they would take back what it said.
func (s *Service) unopened(t *Table) []shard.Spec {
	if !s.knows(t) {
		return nil
	}
	doubtful := map[shard.ID]shard.ReplicaID{}
	if t.Rebuilt > 0 {
		for _, id := range s.host.Replicas() {
			if m, member := t.member(id.Shard, s.self.ID); t.doubtful(id) && !(member && m.R == id.R) {
				doubtful[id.Shard] = id
			}
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var specs []shard.Spec
	for _, sh := range t.Shards {
		id, there := doubtful[sh.ID]
		if err, tried := s.opened[id]; there && !(tried && err == nil) { // its shard may need it
			specs = append(specs, shard.Spec{Shard: id.Shard, R: id.R, Volatile: t.Settings.MemoryOnly})
		}
	}
	if own, member := t.member(shard.Directory, s.self.ID); member && s.group == nil {
		specs = append(specs, shard.Spec{Shard: shard.Directory, R: own.R})
	}
	for _, sh := range t.Shards {
		own, member := sh.Member(s.self.ID)
		if err, tried := s.opened[own.id(sh.ID)]; !member || tried && err == nil {
			continue
		}
		spec := shard.Spec{Shard: sh.ID, R: own.R, Volatile: t.Settings.MemoryOnly}
		if slices.ContainsFunc(sh.Bootstrap, func(m Member) bool { return m.Node == own.Node && m.R == own.R }) {
			spec.Campaign = sh.Bootstrap[0].Node == s.self.ID
			for _, m := range sh.Bootstrap {
				spec.Members = append(spec.Members, shard.Member{Node: m.Node, R: m.R})
			}
			if sh.Kept > 0 {
				spec.Keep = shard.Keep{R: sh.Kept, Grant: sh.Grant()}
			}
		}
		specs = append(specs, spec)
	}
	return specs
}

// openTogether is how many replicas are opened at the same time: each waits for its disk, and they share the syncs.
const openTogether = 32

// open opens replicas, each for itself, and returns what failed.
func (s *Service) open(ctx context.Context, specs []shard.Spec) error {
	var opens sync.WaitGroup
	failed := make([]error, len(specs))
	turns := make(chan struct{}, openTogether)
	for n, spec := range specs {
		turns <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		opens.Go(func() {
			defer func() { <-turns }()
			failed[n] = s.openOne(spec)
		})
	}
	opens.Wait()
	return errors.Join(failed...)
}

// openOne opens a replica, and notes what came of it.
func (s *Service) openOne(spec shard.Spec) error {
	if spec.Shard == shard.Directory {
		return s.openDirectory(spec)
	}
	err := s.host.OpenCache(spec)
	s.mu.Lock()
	s.opened[shard.ReplicaID{Shard: spec.Shard, Node: s.self.ID, R: spec.R}] = err
	s.mu.Unlock()
	if err != nil {
		return fmt.Errorf("shard %d: %w", spec.Shard, err)
	}
	return nil
}
