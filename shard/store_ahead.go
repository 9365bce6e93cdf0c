package shard

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/hashicorp/raft"
)

// # Entries ahead of their sync
//
// The library's leader stores an entry and then sends it, so a write would take two syncs, one after the other. On an engine that is a
// beginner StoreLogs returns once the entry can be read, and the leader's sync goes on while the followers make theirs (Ongaro 2014,
// 10.2.1). The library then counts the leader's own copy too early, which its documentation forbids (LogStore, in its log.go): an entry
// could be committed, and applied by followers, that vanishes with the leader. So nothing that rests on an entry leaves the process, or
// reaches the state machine, before the entry is synced here:
//
//   - The state machine waits before it applies (adapter.ApplyBatch), and with it answers to clients, reads and snapshots.
//   - The commit index that others hear of is at most what is synced (instance.commit, transport.append).
//   - A replica that confirms entries to a leader waits until it has synced them (transport.receive), whoever appended them.
//   - All but commands is synced before StoreLogs returns: the library itself acts upon configurations, barriers and no-ops. So is what
//     follows a cut: a write that takes something back or changes term or vote waits for all before it, and is synced when it returns.
//
// An entry that is in the log of a process which runs is as good as synced to that process: it takes part in votes, as the voter who denies
// its vote for a longer log that it then loses has denied too much, not too little, and a candidate counts its own log only with an
// entry of its new term, a no-op, which is synced.
//
// What a death leaves:
//
//	it happens                                      after the restart                        shown by
//	before the leader's sync, entry on no other     it is gone: never applied anywhere       TestAheadOfSync, TestNemesis
//	likewise, on a quorum without it                the next leader has and commits it       TestAheadOfSync, TestNemesis
//	likewise, on one of two others                  it is there or gone: nobody has applied  TestAheadOfSync, TestNemesis
//	                                                it, or was told that it is committed
//	after the leader's sync                         as if it had been synced before it left  TestNemesis
//	before a follower's sync                        it did not confirm the entry             TestFollowerSyncsFirst
//	within a failed sync                            the process ends, and applied nothing    TestAheadFails
//
// A sync that fails ends the process like that of any other write. One that does not end keeps all that is behind it from being answered, while
// heartbeats and reads go on: so its leader hands over (instance.evade), to a voter that has synced the entries.

// beginner is an engine that can append without waiting for the sync.
type beginner interface {
	// beginLogs is StoreLogs, but returns as soon as the entries can be read. They, and all that was written before, are durable
	// once wait returns nil; it must be called once. A nil wait: they are durable already. What is written later is not durable before.
	beginLogs(logs []*raft.Log) (wait func() error, err error)
}

// aheadWrite is an append that is not known to be synced.
type aheadWrite struct {
	first uint64 // entry
	began time.Time
	done  chan struct{} // closed once it is synced, or failed
}

// goAhead takes down, with mu, that the entries from first on are synced when wait returns.
func (s *store) goAhead(first uint64, wait func() error) {
	w := &aheadWrite{first, time.Now(), make(chan struct{})}
	s.ahead = append(s.ahead, w)
	go func() {
		err := wait()
		s.mu.Lock()
		report := false
		if err == nil {
			s.ahead = slices.DeleteFunc(s.ahead, func(other *aheadWrite) bool { return other == w })
		} else { // it stays: it never becomes durable
			err = fmt.Errorf("syncing the log: %w", err)
			report = s.failLocked(err)
		}
		s.mu.Unlock()
		close(w.done)
		if report {
			s.fatal(err) // without locks: it may well close the store
		}
	}()
}

// durable implements replicaStore.
func (s *store) durable() uint64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.ahead) > 0 {
		return s.ahead[0].first - 1
	}
	return math.MaxUint64
}

// syncing implements replicaStore.
func (s *store) syncing() time.Duration {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if len(s.ahead) > 0 {
		return time.Since(s.ahead[0].began)
	}
	return 0
}

// await implements replicaStore.
func (s *store) await(ctx context.Context, index uint64) error {
	for {
		s.mu.RLock()
		failed := s.failed
		var oldest, w *aheadWrite // of those that bring an entry up to index
		for _, other := range s.ahead {
			if other.first <= index {
				oldest, w = cmp.Or(oldest, other), other
			}
		}
		s.mu.RUnlock()
		switch {
		case w == nil:
			return nil
		case failed != nil:
			return fmt.Errorf("entries from %d on may not be durable: %w", oldest.first, failed)
		}
		select {
		case <-w.done:
		case <-ctx.Done():
			return ErrDeadline
		}
	}
}

// settle waits for all appends that are under way.
func (s *store) settle() error { return s.await(context.Background(), math.MaxUint64) }
