package directory

import (
	"errors"
	"fmt"
	"slices"

	"github.com/larder-cache/larder/shard"
)

// directorySpec returns this node's replica of the directory, as far as that is known without a table:
// the one that is in the data folder, or that of a founder. All founders are its first members, with r
// 0, since no table version could have allotted them one.
func (s *Service) directorySpec() (spec shard.Spec, member bool, err error) {
	_, founders, _ := s.cfg.Identity.Formed()
	spec = shard.Spec{Shard: shard.Directory}
	first := s.self.ID
	for _, f := range founders {
		if f.Node == s.self.ID {
			if f.Incarnation != s.self.Incarnation {
				return shard.Spec{}, false, fmt.Errorf("%w: %w", shard.ErrRejoin, errNotFounder)
			}
			member = true
		}
		spec.Members = append(spec.Members, shard.Member{Node: f.Node})
		first = min(first, f.Node)
	}
	spec.Campaign = first == s.self.ID
	for _, id := range s.host.Replicas() {
		if id.Shard == shard.Directory && id.R > 0 {
			return shard.Spec{Shard: shard.Directory, R: id.R}, true, nil
		}
	}
	return spec, member, nil
}

// left reports whether the table says that this node's replica r of the directory is no member any more: since it was removed, or the directory was
// rebuilt without it. With others like it, it would go on as if it were one.
func (s *Service) left(r uint64) bool {
	t := s.Table()
	own, member := t.member(shard.Directory, s.self.ID)
	return t.Founded() && r <= t.Version && !(member && own.R == r)
}

// openDirectory opens a replica of the directory. One that was here and was destroyed is none.
func (s *Service) openDirectory(spec shard.Spec) error {
	g, err := s.host.OpenGroup(spec, func() shard.StateMachine { return NewMachine(s.latest.Publish) })
	if errors.Is(err, shard.ErrRetired) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the directory: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	id := shard.ReplicaID{Shard: shard.Directory, Node: s.self.ID, R: spec.R}
	if slices.Contains(s.host.Replicas(), id) { // else it was destroyed meanwhile, and must not stand in the way of the next one
		s.group, s.groupID = g, id
	}
	return nil
}

// leaveDirectory forgets the replica of the directory with that id.
func (s *Service) leaveDirectory(id shard.ReplicaID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.groupID == id {
		s.group, s.groupID = nil, shard.ReplicaID{}
	}
}
