package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/disk"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
)

// system is a cluster of processes as the nemesis and the runner see it.
type system struct {
	cluster.Links
	cluster *cluster.Cluster
	knobs   nemesis.Knobs
	// founders form the cluster; guest is one node more, nil where none may come.
	founders []*cluster.Node
	guest    *cluster.Node
	// probes is a key of each data shard, which nobody stores.
	probes map[uint64]string
}

var _ nemesis.System = (*system)(nil)

// newSystem returns that of a cluster whose nodes are ready; invites: a guest may come.
func newSystem(ctx context.Context, c *cluster.Cluster, k nemesis.Knobs, invites bool) (*system, error) {
	s := &system{Links: c.Links, cluster: c, knobs: k, founders: slices.Clone(c.Nodes), probes: map[uint64]string{}}
	if invites {
		var err error
		if s.guest, err = c.Spare(); err != nil {
			return nil, err
		}
	}
	const tries = 10_000
	for i := 0; len(s.probes) < k.Shards; i++ {
		if i == tries {
			return nil, fmt.Errorf("%d keys belong to %d shards only, want %d", tries, len(s.probes), k.Shards)
		}
		key := fmt.Sprintf("probe/%d", i)
		l, err := c.Nodes[0].Locate(ctx, key)
		if err != nil {
			return nil, err
		}
		if s.probes[l.Shard] == "" {
			s.probes[l.Shard] = key
		}
	}
	return s, nil
}

func (s *system) node(id string) *cluster.Node { return s.cluster.Node(id) }

func (s *system) Nodes() []string {
	var ids []string
	for _, n := range s.founders {
		ids = append(ids, n.ID)
	}
	return ids
}

func (s *system) Spare() string { return s.guest.ID }

func (s *system) Running(node string) bool   { return s.node(node).Running() }
func (s *system) Start(node string) error    { return s.node(node).Start() }
func (s *system) Kill(node string) error     { return s.node(node).Kill() }
func (s *system) Pause(node string) error    { return s.node(node).Pause() }
func (s *system) Resume(node string) error   { return s.node(node).Resume() }
func (s *system) FillDisk(node string) error { return s.node(node).FillDisk() }
func (s *system) FreeDisk(node string) error { return s.node(node).FreeDisk() }
func (s *system) Wipe(node string) error     { return s.node(node).Wipe() }

func (s *system) Terminate(ctx context.Context, node string) error {
	return s.node(node).Terminate(ctx)
}

func (s *system) SlowDisk(node string, sync time.Duration) error { return s.node(node).SlowDisk(sync) }

func (s *system) PowerLoss(nodes ...string) error {
	var all []*cluster.Node
	for _, id := range nodes {
		all = append(all, s.node(id))
	}
	return s.cluster.PowerLoss(all...)
}

func (s *system) Rejoin(node, via string) error {
	return s.cluster.Rejoin(s.node(node), s.node(via))
}

// Damage implements nemesis.System. A file that is damaged already may be shorter than what is mapped of it.
func (s *system) Damage(node string, d nemesis.Damage, seed uint64) (did string, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if fault := recover(); fault != nil {
			err = fmt.Errorf("damaging %s, which was damaged before: %v", node, fault)
		}
	}()
	n := s.node(node)
	if n.Running() {
		return "", fmt.Errorf("damaging %s: %w", node, cluster.ErrRunning)
	}
	switch d {
	case nemesis.DamageLogTail:
		return disk.DamageLog(n.DataDir, seed)
	case nemesis.DamageSnapshot:
		return disk.DamageSnapshot(n.DataDir, seed)
	case nemesis.TruncateLog:
		return disk.TruncateLog(n.DataDir, seed)
	case nemesis.DamageLogFile:
		return disk.DamageLogFile(n.DataDir, seed)
	case nemesis.LoseLog:
		return disk.LoseLog(n.DataDir, seed)
	}
	return "", fmt.Errorf("damage %q: %w", d, errors.ErrUnsupported)
}

func (s *system) SetClock(ctx context.Context, node string, offset time.Duration, rate float64) error {
	a, err := s.node(node).Ask(ctx, http.MethodPost, fmt.Sprintf("/v1/faults/clock?offset=%v&rate=%g", offset, rate), "")
	if err == nil && a.Status != http.StatusOK && a.Status != http.StatusNoContent {
		err = fmt.Errorf("setting the clock of %s: %s", node, a)
	}
	return err
}

func (s *system) Replicas(ctx context.Context, node string) ([]nemesis.Replica, error) {
	n := s.node(node)
	status, body, err := n.Get(ctx, "/v1/shards/0")
	if err != nil {
		return nil, err
	}
	var directory cluster.Replica
	if err := json.Unmarshal(body, &directory); err != nil || status != http.StatusOK {
		return nil, fmt.Errorf("the directory's group at %s: %d %s: %v", node, status, body, err)
	}
	views, err := n.Replicas(ctx)
	var all []nemesis.Replica
	for _, v := range append([]cluster.Replica{directory}, views...) {
		r := nemesis.Replica{Shard: v.ID, Leader: v.Leader, Term: v.Term, Applied: v.Applied}
		for _, m := range v.Members {
			r.Members = append(r.Members, m.Node)
		}
		all = append(all, r)
	}
	return all, err
}

func (s *system) Probe(ctx context.Context, node string, shard uint64) error {
	status, body, err := s.node(node).Get(ctx, "/v1/kv/"+s.probes[shard]+"?touch=false")
	if err == nil && status != http.StatusNotFound {
		err = fmt.Errorf("reading %s at %s: %d %s", s.probes[shard], node, status, body)
	}
	return err
}

func (s *system) Alive(ctx context.Context, node string) error {
	_, _, err := s.node(node).Get(ctx, "/livez")
	return err
}

func (s *system) Ready(ctx context.Context, node string) bool {
	status, _, err := s.node(node).Get(ctx, "/readyz")
	return err == nil && status == http.StatusOK
}

func (s *system) Logged(node, text string) (int, error) {
	log, err := os.ReadFile(s.node(node).LogFile)
	return strings.Count(string(log), text), err
}

func (s *system) Members(ctx context.Context, via string, shard uint64) (cluster.Members, error) {
	return s.node(via).Members(ctx, shard)
}

func (s *system) ChangeMember(ctx context.Context, via string, shard uint64, node string, add bool, conf string) (cluster.Answer, cluster.Operation, error) {
	return s.node(via).ChangeMember(ctx, shard, node, add, conf)
}

func (s *system) Operations(ctx context.Context, via string) ([]cluster.Operation, error) {
	return s.node(via).Operations(ctx)
}

func (s *system) Transfer(ctx context.Context, via string, shard uint64, to string) (cluster.Answer, error) {
	return s.node(via).TransferLeader(ctx, shard, to)
}

func (s *system) Cancel(ctx context.Context, via string, operation uint64) (cluster.Answer, error) {
	return s.node(via).Cancel(ctx, operation)
}

func (s *system) Node(ctx context.Context, via, node string) (cluster.NodeState, error) {
	return s.node(via).Node(ctx, node)
}

func (s *system) Drain(ctx context.Context, via, node string, drain bool) (cluster.Answer, error) {
	return s.node(via).Drain(ctx, node, drain)
}

func (s *system) Set(ctx context.Context, via, name, value string) (cluster.Answer, error) {
	return s.node(via).Set(ctx, name, value)
}

func (s *system) Rebuild(ctx context.Context, via string) (cluster.Answer, error) {
	return s.node(via).Rebuild(ctx)
}

func (s *system) Forget(ctx context.Context, via, node string) (cluster.Answer, error) {
	return s.node(via).RemoveNode(ctx, node)
}

// servedBy returns how many shards are read at some node that is not away.
func (s *system) servedBy(ctx context.Context, away []string) int {
	const limit = 800 * time.Millisecond
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var mu sync.Mutex
	served := map[uint64]bool{}
	var all sync.WaitGroup
	for _, node := range s.Nodes() {
		if slices.Contains(away, node) || !s.Running(node) {
			continue
		}
		for shard := range s.probes {
			all.Go(func() {
				if s.Probe(ctx, node, shard) == nil {
					mu.Lock()
					defer mu.Unlock()
					served[shard] = true
				}
			})
		}
	}
	all.Wait()
	return len(served)
}

// checksums compares the replicas of a data shard, which must be equal at one place of the log, and as many as
// wanted, if that is not 0.
func (s *system) checksums(ctx context.Context, shard uint64, want int) (samples []history.Sample, err error) {
	err = errors.New("no node runs")
	for _, n := range s.cluster.Live() {
		if samples, err = n.Checksums(ctx, shard); err == nil {
			break
		}
	}
	if err == nil && want != 0 && len(samples) != want {
		err = fmt.Errorf("shard %d has %d replicas, want %d", shard, len(samples), want)
	}
	return samples, err
}

// voters fails unless a shard has want members, and all of them vote.
func (s *system) voters(ctx context.Context, shard uint64, want int) error {
	err := errors.New("no node runs")
	for _, n := range s.cluster.Live() {
		var m cluster.Members
		if m, err = n.Members(ctx, shard); err != nil {
			continue
		}
		if voters, all := m.Voters(); !all || len(voters) != want {
			err = fmt.Errorf("shard %d has %d voters of %d members, want %d", shard, len(voters), len(m.Members), want)
		}
		break
	}
	return err
}

// describe says how the cluster is, for a failure.
func (s *system) describe(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	var said []string
	for _, node := range s.Nodes() {
		if !s.Running(node) {
			said = append(said, node+" does not run")
			continue
		}
		_, ready, err := s.node(node).Get(ctx, "/readyz")
		if err != nil {
			said = append(said, fmt.Sprintf("%s does not answer (%v)", node, err))
			continue
		}
		var lacks []string
		for line := range strings.Lines(string(ready)) {
			if strings.HasPrefix(line, "[-]") {
				lacks = append(lacks, strings.TrimSpace(line))
			}
		}
		said = append(said, fmt.Sprintf("%s runs, %s", node, strings.Join(append([]string{"ready but for:"}, lacks...), " ")))
	}
	return strings.Join(said, "; ")
}

// logTail returns the end of a node's log.
func (s *system) logTail(node string) string {
	const size = 2 << 10
	log, err := os.ReadFile(s.node(node).LogFile)
	if err != nil {
		return err.Error()
	}
	return string(log[max(0, len(log)-size):])
}
