package directory

import (
	"context"
	"time"

	"github.com/larder-cache/larder/shard"
)

// tick is the longest time between two looks of the service's loop at the world.
const tick = 100 * time.Millisecond

// lookCost, for each shard, is the least time between two looks, but no more than mostLookCost: where shards are many, all of them together would
// take too much of a processor, and a thousand leaderships that change at the same time would each have all of them looked at.
const (
	lookCost     = 250 * time.Microsecond
	mostLookCost = 400 * time.Millisecond
)

// run is the loop.
func (s *Service) run() {
	next := time.NewTimer(0)
	defer next.Stop()
	for {
		table, replaced := s.latest.Changed()
		s.step(table)
		next.Reset(min(time.Duration(len(table.Shards))*lookCost, mostLookCost))
		select {
		case <-next.C:
		case <-s.ctx.Done():
			return
		}
		// At round times, when package shard wakes the process for its heartbeats anyway.
		next.Reset(tick - time.Duration(time.Now().UnixNano()%int64(tick)))
		select {
		case <-next.C:
		case <-replaced:
		case <-s.host.Changed():
		case <-s.ctx.Done():
			return
		}
	}
}

// step looks once at the table and at this node's replicas, and starts what is to be done.
func (s *Service) step(t *Table) {
	s.look(time.Now())
	statuses := s.host.Status()
	s.soft.refresh(statuses, t.Version, s.self.Raft, s.self.HTTP)
	s.countRates(t, time.Now())
	s.countReads(t, time.Now())
	s.setPeers(t)
	s.setTouchInterval(t)
	s.host.SetShards(len(t.Shards))
	s.setSnapshotBandwidth(t)
	s.follow(t)
	s.keep(t)
	s.retire(t)
	if unopened := s.unopened(t); len(unopened) > 0 {
		s.duties.try("open replicas", func(ctx context.Context) error { return s.open(ctx, unopened) })
	}
	self := s.self
	if s.cfg.Memory > 0 && t.Founded() {
		self.Capacity = t.Settings.Capacity(s.cfg.Memory)
		s.tellCapacity(t.Settings.room(s.cfg.Memory))
	}
	if s.knows(t) && t.Nodes[s.self.ID] != self {
		s.duties.try("register", func(ctx context.Context) error {
			return s.proposeDuty(ctx, Command{RegisterNode: &RegisterNode{Node: self}})
		})
	}
	for _, st := range statuses {
		if st.Role != shard.RoleLeader || !st.Ready {
			continue
		}
		if st.Shard == shard.Directory {
			s.mu.Lock()
			r := s.groupID.R
			s.mu.Unlock()
			if !s.left(r) {
				s.lead(t)
			}
		} else if sh, ok := t.Shard(st.Shard); ok && st.Cache != nil && !t.former(st.Replica) {
			s.grant(sh, t.ShardLevel, *st.Cache)
		}
	}
}

// look notes that the loop runs. One that stood still has heard nobody meanwhile.
func (s *Service) look(now time.Time) {
	if now.Sub(s.looked) > softLife {
		s.began.Store(&now)
	}
	s.looked = now
}

// lead does what the leader of the directory has to see to.
func (s *Service) lead(t *Table) {
	if !t.Founded() {
		s.duties.try("found the cluster", s.found)
		return
	}
	s.reconcile(t)
	if ownLevels.above(t) {
		s.duties.try("raise the feature levels", func(ctx context.Context) error { return s.raise(ctx, t) })
	}
	s.rebuild(t)
	s.reset(t)
	s.settle(t)
	v := s.outlook(t)
	calm := s.calm(v)
	s.place(t, v, calm)
	s.balance(t, v, calm)
	changes, err := limitChanges(t)
	if err != nil || len(changes) > 0 {
		s.duties.try("set limits", func(ctx context.Context) error {
			if err != nil {
				return err
			}
			return s.proposeDuty(ctx, Command{SetLimits: &SetLimits{Expect: t.Version, Limits: changes}})
		})
	}
}
