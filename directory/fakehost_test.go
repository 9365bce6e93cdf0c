package directory

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// fakeHost is the host of one node of a rig, and that node's replica of the directory's group. It
// ends when its node stops; the next start gets a new one.
type fakeHost struct {
	rig     *testRig
	id      string
	change  chan struct{}
	stopped chan struct{}  // closed when the node stops: ends ping
	pings   sync.WaitGroup // for ping

	// Guarded by the rig's mu.
	handlers map[string]shard.Handler
	report   func() []byte
	receive  func(from string, payload []byte)
	heard    map[string]time.Time
	peers    map[string]shard.Peer // as last set
	specs    []shard.Spec          // replicas that are open, in the order of opening
	failOpen error                 // what OpenCache fails with
	// afterOpen is called when OpenGroup has opened a replica, before it returns.
	afterOpen func(shard.Spec)
	machine   shard.StateMachine  // of the directory; nil: no replica here
	applied   int                 // entries of the directory's log that machine has seen
	hits      map[shard.ID]uint64 // reads served here

	touchIntervals []time.Duration // all that were set
	bandwidth      uint64          // of snapshots, as last set
}

var (
	_ host  = (*fakeHost)(nil)
	_ group = (*fakeHost)(nil)
)

// ping tells all nodes within reach what the service reports, until the node stops.
func (h *fakeHost) ping() {
	ticker := time.NewTicker(pingEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-h.stopped:
			return
		}
		payload := h.report()
		for _, receive := range h.reach() {
			receive(h.id, payload)
		}
	}
}

// reach lets all nodes within reach hear this one, and returns what takes in its pings there.
func (h *fakeHost) reach() []func(from string, payload []byte) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	var receivers []func(from string, payload []byte)
	for id, peer := range h.rig.hosts {
		if id != h.id && peer.receive != nil && h.rig.linkedLocked(h.id, id) {
			peer.heard[h.id] = time.Now()
			receivers = append(receivers, peer.receive)
		}
	}
	return receivers
}

// Node implements host.
func (h *fakeHost) Node() string { return h.id }

// SetPeers implements host: it records peers. Links do not depend on addresses here.
func (h *fakeHost) SetPeers(peers map[string]shard.Peer) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	h.peers = peers
}

// OpenCache implements host.
func (h *fakeHost) OpenCache(spec shard.Spec) error {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.failOpen != nil {
		return h.failOpen
	}
	if err := h.admitLocked(spec); err != nil {
		return err
	}
	r.opened[spec.Shard] = append(r.opened[spec.Shard], spec)
	h.openLocked(spec)
	return nil
}

// OpenGroup implements host, for the directory. The machine gets the log once there is a leader
// within reach: what of it is committed, a replica can't know by itself.
func (h *fakeHost) OpenGroup(spec shard.Spec, newMachine func() shard.StateMachine) (group, error) {
	g, err := h.openGroup(spec, newMachine)
	if h.afterOpen != nil {
		h.afterOpen(spec)
	}
	return g, err
}

func (h *fakeHost) openGroup(spec shard.Spec, newMachine func() shard.StateMachine) (group, error) {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if spec.Shard != shard.Directory {
		return nil, fmt.Errorf("%w: %d is no group of its own", shard.ErrUnknownShard, spec.Shard)
	}
	if err := h.admitLocked(spec); err != nil {
		return nil, err
	}
	h.machine, h.applied = newMachine(), 0
	h.openLocked(spec)
	r.replicateLocked()
	return h, nil
}

// openLocked notes a replica, and holds the group's very first election if this one campaigns.
func (h *fakeHost) openLocked(spec shard.Spec) {
	h.specs = append(h.specs, spec)
	if h.rig.confs[spec.Shard] == nil && len(spec.Members) > 0 {
		conf := &shard.Configuration{Index: rigConf, Generation: 1}
		for _, m := range spec.Members {
			conf.Voters = append(conf.Voters, shard.Progress{Replica: shard.ReplicaID{Shard: spec.Shard, Node: m.Node, R: m.R}})
		}
		h.rig.confs[spec.Shard] = conf
	}
	if spec.Campaign && h.rig.terms[spec.Shard] == 0 {
		h.rig.leadLocked(spec.Shard, h.id)
	}
}

// Status implements host.
func (h *fakeHost) Status() []shard.Status {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]shard.Status, len(h.specs))
	for i, spec := range h.specs {
		st := shard.Status{
			Shard:   spec.Shard,
			Replica: fmt.Sprintf("%d/%s/%d", spec.Shard, h.id, spec.R),
			Role:    shard.RoleFollower,
			Term:    r.terms[spec.Shard],
			Leader:  h.leaderLocked(spec.Shard),
			Conf:    r.confs[spec.Shard].Index,
			Hits:    h.hits[spec.Shard],
		}
		if v := r.diverged[shard.ReplicaID{Shard: spec.Shard, Node: h.id, R: spec.R}]; v != nil {
			st.Diverged, st.Stopped = v.String(), true
		}
		if st.Leader == h.id {
			st.Role, st.Ready = shard.RoleLeader, true
		}
		for _, v := range r.confs[spec.Shard].Voters {
			st.Voters = append(st.Voters, v.Replica.Node)
		}
		if spec.Shard == shard.Directory {
			applied := uint64(h.applied)
			st.Commit, st.Applied, st.Last = applied, applied, applied
		} else {
			cache := r.caches[spec.Shard]
			st.Cache = &cache
		}
		all[i] = st
	}
	slices.SortFunc(all, func(a, b shard.Status) int { return cmp.Compare(a.Shard, b.Shard) })
	return all
}

// leaderLocked returns who leads a shard, as far as this node can hear; "" for nobody.
func (h *fakeHost) leaderLocked(id shard.ID) string {
	leader := h.rig.leaders[id]
	if !h.rig.linkedLocked(h.id, leader) {
		return ""
	}
	return leader
}

// servesLocked returns the refusal of what only a shard's leader does, nil where this node leads.
func (h *fakeHost) servesLocked(id shard.ID) error {
	if h.rig.hosts[h.id] != h {
		return shard.ErrStopped
	}
	if !slices.ContainsFunc(h.specs, func(s shard.Spec) bool { return s.Shard == id }) {
		return shard.ErrUnknownShard
	}
	if leader := h.leaderLocked(id); leader != h.id {
		return &shard.NotLeaderError{Leader: leader}
	}
	return nil
}

// DoBatch implements host, as Do does.
func (h *fakeHost) DoBatch(ctx context.Context, node string, b shard.Batch) ([]shard.Reply, error) {
	replies := make([]shard.Reply, len(b.Ops))
	for i, req := range b.Ops {
		req.Shard = b.Shard
		replies[i].Response, replies[i].Err = h.Do(ctx, node, req)
	}
	return replies, nil
}

// Do implements host: the leader of a shard serves what lies in its range. It keeps no entries.
func (h *fakeHost) Do(_ context.Context, node string, req shard.Request) (shard.Response, error) {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.linkedLocked(h.id, node) {
		return shard.Response{}, fmt.Errorf("%w: %s", shard.ErrUnreachable, node)
	}
	if err := r.hosts[node].servesLocked(req.Shard); err != nil {
		return shard.Response{}, err
	}
	cache := r.caches[req.Shard]
	if !cache.Range.Contains(fsm.Slot(req.Key)) {
		return shard.Response{}, &shard.NotOwnerError{Epoch: cache.Epoch}
	}
	if req.Op == shard.OpGet {
		r.hosts[node].hits[req.Shard]++
	}
	return shard.Response{Shard: req.Shard, Epoch: cache.Epoch, ServedBy: node, Status: fsm.StatusOK}, nil
}

// Call implements host: the other node's handler runs at once. The answer of a node that stops
// meanwhile is lost.
func (h *fakeHost) Call(ctx context.Context, node, method string, payload []byte) ([]byte, error) {
	handle, err := h.dial(node, method)
	if err != nil {
		return nil, err
	}
	h.rig.mu.Lock()
	old := h.rig.old[node]
	h.rig.mu.Unlock()
	answer, failed := handle(ctx, h.id, payload)
	if old && method == methodForm && failed == nil {
		answer = reportOfOld(answer)
	}
	if _, err := h.dial(node, method); err != nil {
		return nil, fmt.Errorf("%w: no answer of %s: %w", shard.ErrOutcomeUnknown, node, err)
	}
	return answer, failed
}

// reportOfOld leaves out of a FormReport what builds of level 1 do not tell.
func reportOfOld(report []byte) []byte {
	var members map[string]json.RawMessage
	if err := json.Unmarshal(report, &members); err != nil {
		panic(err)
	}
	for _, name := range []string{"level", "shard_level", "memory"} {
		delete(members, name)
	}
	report, err := json.Marshal(members)
	if err != nil {
		panic(err)
	}
	return report
}

// dial returns a node's handler of method; both nodes heard each other then.
func (h *fakeHost) dial(node, method string) (shard.Handler, error) {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	peer := r.hosts[node]
	if !r.linkedLocked(h.id, node) || peer.handlers[method] == nil {
		return nil, fmt.Errorf("%w: %s", shard.ErrUnreachable, node)
	}
	h.heard[node], peer.heard[h.id] = time.Now(), time.Now()
	return peer.handlers[method], nil
}

// Handle implements host.
func (h *fakeHost) Handle(method string, f func(ctx context.Context, from string, payload []byte) ([]byte, error)) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	h.handlers[method] = f
}

// Gossip implements host.
func (h *fakeHost) Gossip(report func() []byte, receive func(from string, payload []byte)) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	h.report, h.receive = report, receive
}

// Heard implements host.
func (h *fakeHost) Heard(node string) time.Time {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	return h.heard[node]
}

// Changed implements host.
func (h *fakeHost) Changed() <-chan struct{} { return h.change }

// Propose implements group: it appends to the directory's log and applies it wherever it can.
func (h *fakeHost) Propose(_ context.Context, data []byte) (index uint64, result any, err error) {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := h.servesLocked(shard.Directory); err != nil {
		return 0, nil, err
	}
	if r.frozen {
		return 0, nil, fmt.Errorf("%w: no quorum", shard.ErrNoLeader)
	}
	r.changed++
	r.log = append(r.log, slices.Clone(data))
	result = h.catchUpLocked()
	r.replicateLocked()
	return uint64(len(r.log)), result, nil
}

// Spread implements group: all have heard already.
func (h *fakeHost) Spread(context.Context) error { return nil }

// catchUpLocked applies what this node's replica of the directory lacks, and returns the result of
// the last entry.
func (h *fakeHost) catchUpLocked() (last any) {
	for h.applied < len(h.rig.log) {
		data := h.rig.log[h.applied]
		h.applied++
		last = h.machine.Apply(uint64(h.applied), data)
	}
	return last
}

// Grant implements host, by the order of grants (see fsm.Grant).
func (h *fakeHost) Grant(_ context.Context, id shard.ID, g fsm.Grant) error {
	return h.changeCache(id, func(st *fsm.Stats) {
		newer := g.Generation > st.Generation || g.Generation == st.Generation &&
			(g.Epoch > st.Epoch || g.Epoch == st.Epoch && g.VersionBits > st.VersionBits())
		first := st.Range == fsm.Range{}
		if !newer || !first && g.VersionBits <= st.VersionBits() {
			return
		}
		st.Range, st.Epoch, st.Generation = g.Range, g.Epoch, g.Generation
		st.Version = uint64(g.VersionBits) << 44
		setLimit(st, g.Limit, g.TableVersion)
	})
}

// SetLimit implements host.
func (h *fakeHost) SetLimit(_ context.Context, id shard.ID, bytes, tableVersion uint64) error {
	return h.changeCache(id, func(st *fsm.Stats) { setLimit(st, bytes, tableVersion) })
}

// Raise implements host.
func (h *fakeHost) Raise(_ context.Context, id shard.ID, level uint8) error {
	return h.changeCache(id, func(st *fsm.Stats) { st.Level = max(st.Level, level) })
}

// SetShards implements host.
func (h *fakeHost) SetShards(int) {}

// SetTouchInterval implements host.
func (h *fakeHost) SetTouchInterval(d time.Duration) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	h.touchIntervals = append(h.touchIntervals, d)
}

// SetSnapshotBandwidth implements host.
func (h *fakeHost) SetSnapshotBandwidth(bytes uint64) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	h.bandwidth = bytes
}

// setLimit sets a byte limit, unless the present one is as new.
func setLimit(st *fsm.Stats, bytes, tableVersion uint64) {
	if tableVersion > st.TableVersion {
		st.Limit, st.TableVersion = bytes, tableVersion
	}
}

// changeCache proposes a change of a data shard on this node's replica.
func (h *fakeHost) changeCache(id shard.ID, change func(*fsm.Stats)) error {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := h.servesLocked(id); err != nil {
		return err
	}
	r.changed++
	st := r.caches[id]
	change(&st)
	r.caches[id] = st
	return nil
}

// admitLocked refuses what the manifest of a data folder refuses, and notes the replica.
func (h *fakeHost) admitLocked(spec shard.Spec) error {
	id := shard.ReplicaID{Shard: spec.Shard, Node: h.id, R: spec.R}
	disk := h.rig.disks[h.id]
	if disk == nil {
		disk = make(map[shard.ReplicaID]bool)
		h.rig.disks[h.id] = disk
	}
	if alive, noted := disk[id]; noted && !alive {
		return fmt.Errorf("%s: %w", id, shard.ErrRetired)
	}
	for other, alive := range disk {
		if other.Shard == id.Shard && other.R != id.R && alive {
			return fmt.Errorf("%s must be destroyed first", other)
		}
	}
	disk[id] = true
	return nil
}

// Replicas implements host.
func (h *fakeHost) Replicas() []shard.ReplicaID {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	var ids []shard.ReplicaID
	for id, alive := range h.rig.disks[h.id] {
		if alive {
			ids = append(ids, id)
		}
	}
	return ids
}

// Holdings implements host: a fake has nothing that a directory could be rebuilt from.
func (h *fakeHost) Holdings() []shard.Holding { return nil }

// Destroy implements host.
func (h *fakeHost) Destroy(id shard.ID, r uint64) error {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	h.rig.disks[h.id][shard.ReplicaID{Shard: id, Node: h.id, R: r}] = false
	h.specs = slices.DeleteFunc(h.specs, func(s shard.Spec) bool { return s.Shard == id && s.R == r })
	if id == shard.Directory {
		h.machine = nil
	}
	return nil
}

// Configuration implements host. Members answer, and have the whole log, where they are linked with
// the leader and the replica is open.
func (h *fakeHost) Configuration(_ context.Context, id shard.ID) (shard.Configuration, error) {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := h.servesLocked(id); err != nil {
		return shard.Configuration{}, err
	}
	conf := *r.confs[id]
	conf.Last = 1000
	progress := func(members []shard.Progress) []shard.Progress {
		members = slices.Clone(members)
		for i, p := range members {
			peer := r.hosts[p.Replica.Node]
			open := peer != nil && slices.ContainsFunc(peer.specs, func(s shard.Spec) bool { return s.Shard == id && s.R == p.Replica.R })
			members[i].Recent = open && r.linkedLocked(h.id, p.Replica.Node)
			if members[i].Recent && !r.lagging[p.Replica.Node] {
				members[i].Match = conf.Last
			}
		}
		return members
	}
	conf.Voters, conf.Learners = progress(conf.Voters), progress(conf.Learners)
	return conf, nil
}

// Compare implements host.
func (h *fakeHost) Compare(_ context.Context, id shard.ID) (shard.Comparison, error) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	return shard.Comparison{Shard: id, Index: 9}, h.servesLocked(id)
}

// Diverged implements host.
func (h *fakeHost) Diverged(id shard.ID) (string, *shard.Verdict, error) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	for _, spec := range h.specs {
		if spec.Shard == id {
			replica := shard.ReplicaID{Shard: id, Node: h.id, R: spec.R}
			return replica.String(), h.rig.diverged[replica], nil
		}
	}
	return "", nil, shard.ErrUnknownShard
}

// Fate implements host: nothing is ever gone. Of what a rig says nothing, it can't be told.
func (h *fakeHost) Fate(id shard.ReplicaID) (shard.Fate, error) {
	h.rig.mu.Lock()
	defer h.rig.mu.Unlock()
	fate, told := h.rig.fates[id]
	if !told {
		return fate, shard.ErrStopped
	}
	return fate, nil
}

// Step implements host, as the library does: a change of members upon the configuration prev alone. A
// rig may hold a step back, and let it be made later.
func (h *fakeHost) Step(_ context.Context, step memberStep) error {
	r := h.rig
	r.mu.Lock()
	defer r.mu.Unlock()
	r.steps = append(r.steps, step)
	if r.holdSteps || step.Step == r.holdStep {
		return fmt.Errorf("%w: held back", shard.ErrOutcomeUnknown)
	}
	if err := h.servesLocked(step.Shard); err != nil {
		return err
	}
	return r.makeLocked(step)
}

// makeLocked makes a step.
func (r *testRig) makeLocked(step memberStep) error {
	if step.Step == stepTransfer {
		r.leadLocked(step.Shard, step.Node)
		return nil
	}
	conf := *r.confs[step.Shard]
	if step.Prev != conf.Index {
		return shard.ErrConfChanged
	}
	conf.Index++
	conf.Voters, conf.Learners = slices.Clone(conf.Voters), slices.Clone(conf.Learners)
	if step.Step != stepFence {
		id, err := shard.ParseReplicaID(step.Replica)
		if err != nil {
			return err
		}
		p := shard.Progress{Replica: id}
		is := func(q shard.Progress) bool { return q.Replica == id }
		switch step.Step {
		case stepAddLearner:
			conf.Learners = append(conf.Learners, p)
		case stepPromote:
			conf.Learners = slices.DeleteFunc(conf.Learners, is)
			conf.Voters = append(conf.Voters, p)
		case stepRemove:
			conf.Learners = slices.DeleteFunc(conf.Learners, is)
			conf.Voters = slices.DeleteFunc(conf.Voters, is)
		}
	}
	r.confs[step.Shard] = &conf
	return nil
}

// fakeIdentity is a data folder in memory. Only formed changes, once.
type fakeIdentity struct {
	incarnation string

	mu     sync.Mutex // guards formed
	formed *founding
}

// Incarnation implements Identity.
func (i *fakeIdentity) Incarnation() string { return i.incarnation }

// Formed implements Identity.
func (i *fakeIdentity) Formed() (cluster string, list []shard.Founder, ok bool) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.formed == nil {
		return "", nil, false
	}
	return i.formed.cluster, slices.Clone(i.formed.list), true
}

// Form implements Identity: a second cluster is an error.
func (i *fakeIdentity) Form(cluster string, list []shard.Founder) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.formed != nil && i.formed.cluster != cluster {
		return fmt.Errorf("%w: formed %s, can't enter %s", shard.ErrWrongCluster, i.formed.cluster, cluster)
	}
	if i.formed == nil {
		i.formed = &founding{cluster, slices.Clone(list)}
	}
	return nil
}

// Scan implements host, as Do does: there are no keys.
func (h *fakeHost) Scan(ctx context.Context, node string, s shard.Scan) (shard.Page, error) {
	return shard.Page{}, shard.ErrUnknownShard
}

// Erase implements host, likewise.
func (h *fakeHost) Erase(ctx context.Context, node string, s shard.Scan) (shard.Page, error) {
	return shard.Page{}, shard.ErrUnknownShard
}
