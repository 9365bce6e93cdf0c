package directory

import (
	"context"
	"fmt"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// LeastShard is the room that a shard needs to take an entry with the longest key and half a KiB of
// value, bytes: one entry may have an eighth of it.
const LeastShard = 16 << 10

// SettingsView is the cluster-wide settings as users see them; Options tells what they mean.
type SettingsView struct {
	Version           uint64 `json:"-"` // table version of their last change
	CacheMemory       string `json:"cache-memory"`
	ShardBytes        uint64 `json:"shard-bytes"`
	DefaultTTL        string `json:"default-ttl"`
	TouchInterval     string `json:"touch-interval"`
	RepairAfter       string `json:"repair-after"`
	Balance           string `json:"balance"`
	SnapshotBandwidth string `json:"snapshot-bandwidth"`
	MemoryOnly        string `json:"memory-only"`
	InitialShards     int    `json:"initial-shards"`
	Replicas          int    `json:"replicas"`
}

// SettingsChange asks for other settings.
type SettingsChange struct {
	// Values are the new ones by name, in any form that a user may write; nil is the default.
	Values map[string]*string
	// Version, where it is not 0, is that of the settings which the change was decided for.
	Version uint64
}

// SettingsVersionError: the settings have another version than the change was made for.
type SettingsVersionError struct{ Version uint64 }

func (e *SettingsVersionError) Error() string {
	return fmt.Sprintf("the settings have version %d", e.Version)
}

// Settings returns the cluster-wide settings as this node knows them.
func (s *Service) Settings() SettingsView { return s.Table().settingsView() }

func (t *Table) settingsView() SettingsView {
	return SettingsView{
		Version:           t.settingsVersion(),
		CacheMemory:       t.Settings.CacheMemory,
		ShardBytes:        t.Settings.ShardBytes,
		DefaultTTL:        ttlText(t.Settings),
		TouchInterval:     touchText(t.Settings),
		RepairAfter:       repairText(t.Settings),
		Balance:           balanceText(t.Settings),
		SnapshotBandwidth: bandwidthText(t.Settings),
		MemoryOnly:        memoryOnlyText(t.Settings),
		InitialShards:     t.Settings.InitialShards,
		Replicas:          t.Settings.Replicas,
	}
}

// DefaultTTL is the time to live that a value stored through this node gets where the request has
// none; 0 is none.
func (s *Service) DefaultTTL() time.Duration { return s.Table().Settings.TTL() }

// ChangeSettings changes settings, and returns all of them once this node's table shows the change. It
// refuses with a SettingError what can't work with the nodes and shards that there are, with a
// SettingsVersionError what was decided for others, and with a ConflictError while there are nodes
// whose builds know no changes. ErrOutcomeUnknown: Settings tells, in time.
func (s *Service) ChangeSettings(ctx context.Context, c SettingsChange) (SettingsView, error) {
	if err := s.Known(); err != nil {
		return SettingsView{}, err
	}
	for {
		t := s.Table()
		if c.Version != 0 && c.Version != t.settingsVersion() {
			if t.settingsVersion() < c.Version && s.hears(ctx, c.Version) {
				continue
			}
			return SettingsView{}, &SettingsVersionError{Version: t.settingsVersion()}
		}
		next, err := t.Settings.With(c.Values)
		if err != nil {
			return SettingsView{}, err
		}
		if next == t.Settings {
			return t.settingsView(), nil
		}
		if t.Level < settingsLevel {
			return SettingsView{}, &ConflictError{Reason: "settings change once all nodes run a build of larder that knows how, and are up"}
		}
		if err := s.judge(ctx, t, next); err != nil {
			return SettingsView{}, err
		}
		result, err := s.Propose(ctx, Command{SetSettings: &SetSettings{Expect: t.Version, Settings: next}})
		if _, again := retryable(err); again && s.pause(ctx) {
			continue
		}
		if err != nil {
			return SettingsView{}, err
		}
		if result.Outcome == OutcomeRefused && result.Version <= t.Version {
			return SettingsView{}, &ConflictError{Reason: result.Reason}
		}
		after, err := s.latest.Newer(ctx, result.Version-1)
		switch {
		case result.Outcome == OutcomeRefused && err != nil: // the table has changed, and this node waits for it
			return SettingsView{}, fmt.Errorf("%w: %w", shard.ErrDeadline, err)
		case result.Outcome == OutcomeRefused:
			continue
		case err != nil:
			return SettingsView{}, fmt.Errorf("%w: it was taken, but this node has not seen it yet: %w", shard.ErrOutcomeUnknown, err)
		}
		s.log.Info("settings changed", "version", result.Version)
		return after.settingsView(), nil
	}
}

// hears waits a moment for settings of at least that version, of which this node may not know yet.
func (s *Service) hears(ctx context.Context, version uint64) bool {
	ctx, cancel := context.WithTimeout(ctx, readAttempt)
	defer cancel()
	t, err := s.latest.Newer(ctx, version-1)
	return err == nil && t.settingsVersion() >= version
}

// judge returns why other settings can't work with the nodes and shards of t, nil if they may: a
// SettingError. The memory of nodes is asked of those that are up; the others count as they are.
func (s *Service) judge(ctx context.Context, t *Table, next Settings) error {
	before := t.Settings
	if next.CacheMemory == before.CacheMemory && next.ShardBytes == before.ShardBytes && next.Replicas <= before.Replicas {
		return nil
	}
	memory := map[string]uint64{s.self.ID: s.cfg.Memory}
	var others []string
	for _, id := range t.NodeIDs() {
		if state, _ := s.soft.state(id); id != s.self.ID && state == NodeUp {
			others = append(others, id)
		}
	}
	for _, a := range s.askAll(ctx, others) {
		if a.err == nil {
			memory[a.node] = a.report.Memory
		}
	}
	return t.judge(next, memory)
}

// judge is the pure part of Service.judge: memory is that of the nodes' processes, as far as it is known.
func (t *Table) judge(next Settings, memory map[string]uint64) error {
	size, err := ParseMemory(next.CacheMemory)
	if err != nil {
		return &SettingError{Name: "cache-memory", Reason: err.Error()}
	}
	before := t.Settings
	t = t.clone()
	t.Settings = next
	for _, id := range t.NodeIDs() {
		n := t.Nodes[id]
		if memory[id] == 0 {
			continue
		}
		if size.bytes > memory[id] {
			return &SettingError{Name: "cache-memory", Reason: fmt.Sprintf("%s is more than the %d bytes of memory that node %s has", next.CacheMemory, memory[id], id)}
		}
		n.Capacity = next.Capacity(memory[id])
		t.Nodes[id] = n
	}
	if next.Replicas > before.Replicas {
		if err := t.judgeReplicas(); err != nil {
			return err
		}
	}
	if next.CacheMemory == before.CacheMemory && next.ShardBytes == before.ShardBytes {
		return nil
	}
	if next.ShardBytes != 0 {
		return t.judgeShardBytes(next.ShardBytes)
	}
	limits, err := planLimits(t.Shards, t.Nodes, next)
	if err != nil {
		return &SettingError{Name: "cache-memory", Reason: err.Error()}
	}
	for i, sh := range t.Shards {
		if limits[i] < LeastShard {
			return &SettingError{Name: "cache-memory", Reason: fmt.Sprintf("%s leaves shard %d %d bytes, %d are the least", next.CacheMemory, sh.ID, limits[i], LeastShard)}
		}
	}
	return nil
}

// judgeReplicas returns why the nodes of t have no room for as many replicas as its settings want, spread evenly over all of them. Where there are fewer nodes than that,
// each gets one of each shard, until others join.
func (t *Table) judgeReplicas() error {
	nodes := len(t.Nodes)
	hosted := uint64((len(t.Shards)*min(t.Settings.Replicas, nodes) + nodes - 1) / nodes)
	for _, id := range t.NodeIDs() {
		capacity := t.Nodes[id].Capacity
		switch room := share(capacity, hosted); {
		case t.Settings.ShardBytes > 0 && t.Settings.ShardBytes > capacity/hosted:
			return &SettingError{Name: "replicas", Reason: fmt.Sprintf("node %s has %d bytes for entries (cache-memory), not enough for %d replicas of shard-bytes each", id, capacity, hosted)}
		case t.Settings.ShardBytes == 0 && room < LeastShard:
			return &SettingError{Name: "replicas", Reason: fmt.Sprintf("node %s would have %d bytes for each of %d replicas, %d are the least", id, room, hosted, LeastShard)}
		}
	}
	return nil
}

// judgeShardBytes returns why no node of t may give each of its replicas that room.
func (t *Table) judgeShardBytes(bytes uint64) error {
	if bytes < LeastShard {
		return &SettingError{Name: "shard-bytes", Reason: fmt.Sprintf("%d are the least that a shard can work with", LeastShard)}
	}
	if bytes > fsm.MaxLimit {
		return &SettingError{Name: "shard-bytes", Reason: fmt.Sprintf("%d are the most that a shard can hold", uint64(fsm.MaxLimit))}
	}
	for _, id := range t.NodeIDs() {
		var hosted uint64
		for _, sh := range t.Shards {
			if _, member := sh.Member(id); member {
				hosted++
			}
		}
		if hosted > 0 && bytes > t.Nodes[id].Capacity/hosted {
			return &SettingError{Name: "shard-bytes", Reason: fmt.Sprintf("node %s has %d bytes for entries (cache-memory) and %d replicas: at most %d each",
				id, t.Nodes[id].Capacity, hosted, t.Nodes[id].Capacity/hosted)}
		}
	}
	return nil
}

// tellCapacity tells whoever wants to know what this node has for entries, where that changed.
func (s *Service) tellCapacity(bytes uint64) {
	if s.cfg.OnCapacity != nil && bytes != s.told {
		s.told = bytes
		s.cfg.OnCapacity(bytes)
	}
}

// setTouchInterval tells the host how long reads are gathered, where that changed.
func (s *Service) setTouchInterval(t *Table) {
	if interval := t.Settings.Touch(); t.Founded() && interval != s.touchSet {
		s.touchSet = interval
		s.host.SetTouchInterval(interval)
	}
}

// setSnapshotBandwidth tells the host how much of snapshots it may send in a second.
func (s *Service) setSnapshotBandwidth(t *Table) {
	if t.Founded() {
		s.host.SetSnapshotBandwidth(t.Settings.Bandwidth())
	}
}
