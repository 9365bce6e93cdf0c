package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/shard"
)

// Where shards are in memory alone, one is reset once so many of its replicas are gone that none of the others can ever lead it again: a new
// generation of it begins, empty, without anybody's word (R18). Only what is certain counts: a node that says, itself and now,
// that a replica was in the memory of a process of its that has ended; it never speaks again. A node that is not heard may come back with
// all that it had, so it is waited for, or an operator gives it up (RecoverShard).
//
// Why none can lead: whoever stands needs a majority of the configuration that is the latest in his own log. All replicas that are not gone
// were asked for theirs, and none of these has a majority that is not gone. Only a leader could give them others, and none leads. That was so when each answered,
// and stays so: a leader that had sent one of them another configuration after its answer would have told of that one itself, or was gone
// before the first was asked (allFates).
//
// Where some can't be asked, the table may tell enough: whoever leads has the newest configuration that was committed, or the one after it, and
// these are the table's members, with or without what the operation that runs on the shard changes. Where a majority of each such
// configuration is gone (outlived), nobody can be elected, whatever those are that were not asked.
//
// The table must still be the one that the replicas were looked up in when the command is applied (Expect): all of them may have been replaced
// since, by a leader of the directory that went on while this one stood still.
//
// What a death of the directory's leader leaves: before the command is in the log the shard as it was, which the next leader looks at; after that the next
// generation, see RecoverShard.

const methodFate = "shard.fate"

// resetPatience is how long the directory's leader waits, from its own start on, for nodes that would take a replica of a shard that is reset: where all
// start again, some are later than others.
const resetPatience = 10 * time.Second

// reset begins the next generation of shards that nobody can lead again. Only the directory's leader does.
func (s *Service) reset(t *Table) {
	if t.Level < recoveryLevel || !t.Settings.MemoryOnly {
		return
	}
	for _, sh := range t.Shards {
		if sh.Unsettled { // others than those that are listed may have it
			continue
		}
		leader, _ := s.soft.leader(sh.ID)
		lost := slices.ContainsFunc(sh.Members, func(m Member) bool {
			r, ok := s.soft.replica(m.Node, sh.ID)
			return ok && r.diverged
		})
		if lost && leader == "" {
			s.duties.try(fmt.Sprintf("reset shard %d", sh.ID), func(ctx context.Context) error { return s.resetShard(ctx, t, sh) })
		}
	}
}

// resetShard asks the nodes of all its replicas, and resets the shard where no replica can lead it.
func (s *Service) resetShard(ctx context.Context, t *Table, sh Shard) error {
	ask := []shard.ReplicaID{}
	for _, m := range sh.Members {
		ask = append(ask, m.id(sh.ID))
	}
	if o, runs := t.runningOn(sh.ID); runs {
		ask = append(ask, o.replica(), o.leaving())
	}
	fates, err := allFates(ask, func(id shard.ReplicaID) (shard.Fate, error) {
		fate, err := s.fate(ctx, id)
		if first := sh.first(); err == nil && !fate.Gone && len(fate.Voters) == 0 && slices.Contains(first, id) { // it was not opened yet, and begins so
			fate.Voters = first
		}
		return fate, err
	})
	if (err != nil || mayLead(fates)) && !t.outlived(sh, s.gone(ctx, ask)) {
		if err != nil {
			return fmt.Errorf("shard %d may have to be reset: %w", sh.ID, err)
		}
		return nil
	}
	nodes := t.newHosts(sh.ID, s.outlook(t))
	if wanted := min(t.Settings.Replicas, len(t.Nodes)); len(nodes) == 0 || len(nodes) < wanted && time.Since(*s.began.Load()) < resetPatience {
		return fmt.Errorf("shard %d is to be reset: %d nodes that are up take a replica, %d are wanted", sh.ID, len(nodes), wanted)
	}
	s.log.Error("a shard is reset and begins empty: too many of its replicas were in the memory of processes that have ended", "shard", sh.ID,
		"generation", sh.Generation+1, "nodes", nodes)
	return s.proposeDuty(ctx, Command{Recover: &RecoverShard{Shard: sh.ID, Generation: sh.Generation, Nodes: nodes, Expect: t.Version}})
}

// allFates asks for what became of replicas, and of all whom their configurations name, until none that was there turns out to be gone: whoever
// is gone by the last round was so before it began, and has told nobody anything after that one's answer.
func allFates(ids []shard.ReplicaID, ask func(shard.ReplicaID) (shard.Fate, error)) (map[shard.ReplicaID]shard.Fate, error) {
	gone := map[shard.ReplicaID]bool{}
	for {
		fates, found := map[shard.ReplicaID]shard.Fate{}, false
		for rest := slices.Clone(ids); len(rest) > 0; rest = rest[1:] {
			id := rest[0]
			if _, asked := fates[id]; asked {
				continue
			}
			if gone[id] {
				fates[id] = shard.Fate{Gone: true}
				continue
			}
			fate, err := ask(id)
			if err != nil {
				return nil, fmt.Errorf("asking about replica %s: %w", id, err)
			}
			if fate.Gone {
				gone[id], found = true, true
			}
			fates[id] = fate
			rest = append(rest, fate.Voters...)
		}
		if !found {
			return fates, nil
		}
	}
}

// first returns the replicas that the shard's present generation begins with.
func (s Shard) first() (ids []shard.ReplicaID) {
	for _, m := range s.Bootstrap {
		ids = append(ids, m.id(s.ID))
	}
	return ids
}

// mayLead reports whether one of a shard's replicas leads it or can come to, by what their nodes say of all of them. It is pure.
func mayLead(fates map[shard.ReplicaID]shard.Fate) bool {
	for _, f := range fates {
		left := 0
		for _, v := range f.Voters {
			if !fates[v].Gone {
				left++
			}
		}
		if f.Leads || left > len(f.Voters)/2 {
			return true
		}
	}
	return false
}

// gone returns those of some replicas whose nodes say that they never speak again.
func (s *Service) gone(ctx context.Context, ids []shard.ReplicaID) map[shard.ReplicaID]bool {
	gone := map[shard.ReplicaID]bool{}
	var mu sync.Mutex // guards gone
	var asked sync.WaitGroup
	for _, id := range ids {
		asked.Go(func() {
			if f, err := s.fate(ctx, id); err == nil && f.Gone {
				mu.Lock()
				defer mu.Unlock()
				gone[id] = true
			}
		})
	}
	asked.Wait()
	return gone
}

// outlived reports whether of each configuration that a shard's group can have, by the table, a majority is gone. It is pure.
func (t *Table) outlived(sh Shard, gone map[shard.ReplicaID]bool) bool {
	voters := map[shard.ReplicaID]bool{}
	for _, m := range sh.Members {
		if m.Role == RoleVoter {
			voters[m.id(sh.ID)] = true
		}
	}
	var changing []shard.ReplicaID // may vote or not
	if o, runs := t.runningOn(sh.ID); runs {
		changing = append(changing, o.replica(), o.leaving())
	}
	for vote := range 1 << len(changing) {
		conf := maps.Clone(voters)
		for i, id := range changing {
			if delete(conf, id); vote>>i&1 == 1 {
				conf[id] = true
			}
		}
		left := 0
		for id := range conf {
			if !gone[id] {
				left++
			}
		}
		if left > len(conf)/2 {
			return false
		}
	}
	return true
}

// fate asks a replica's node what became of it.
func (s *Service) fate(ctx context.Context, id shard.ReplicaID) (f shard.Fate, err error) {
	ctx, cancel := context.WithTimeout(ctx, readAttempt)
	defer cancel()
	request, err := json.Marshal(id)
	if err != nil {
		return f, err
	}
	answer, err := s.host.Call(ctx, id.Node, methodFate, request)
	if err != nil {
		return f, err
	}
	return f, json.Unmarshal(answer, &f)
}

// handleFate tells what became of a replica of this node.
func (s *Service) handleFate(_ context.Context, _ string, payload []byte) ([]byte, error) {
	var id shard.ReplicaID
	if err := json.Unmarshal(payload, &id); err != nil {
		return nil, fmt.Errorf("question about a replica: %w", err)
	}
	if id.Node != s.self.ID {
		return nil, fmt.Errorf("replica %s is not on node %s", id, s.self.ID)
	}
	f, err := s.host.Fate(id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(f)
}
