package directory

import (
	"errors"
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// Settings are the cluster-wide settings. They live in the table; flags only seed them at the first
// start, where all initial nodes must agree on them. Options describes them to users.
type Settings struct {
	// InitialShards is the number of shards that the slots are first divided among.
	InitialShards int `json:"initial-shards"`
	// Replicas is the number of members of each shard. Another one than at the founding needs level 4.
	Replicas int `json:"replicas"`
	// CacheMemory is the part of a node's memory that is for entries: a percentage of its
	// --max-memory ("60%") or a size ("512MiB"). See Memory.
	CacheMemory string `json:"cache-memory"`
	// ShardBytes overrides the byte limit of each shard; 0 derives it from the nodes' capacity (R4).
	ShardBytes uint64 `json:"shard-bytes,omitempty"`
	// DefaultTTL is the time to live of values that are stored without one of their own, as a
	// duration; "" is none. Needs level 2.
	DefaultTTL string `json:"default-ttl,omitempty"`
	// TouchInterval is how long reads are gathered before their recency goes into the log, as a
	// duration: "0s" replicates no recency, "" is DefaultTouchInterval. Needs level 2.
	TouchInterval string `json:"touch-interval,omitempty"`
	// RepairAfter is how long a node must be unseen until its replicas are replaced by new ones on other nodes, as
	// a duration: "0s" is never, "" is DefaultRepairAfter. Needs level 3.
	RepairAfter string `json:"repair-after,omitempty"`
	// Balance is "off" where leaders and replicas stay wherever elections, operators and repairs put them; "" moves leaders until nodes lead
	// equally many shards, and replicas until nodes hold alike, and keeps the numbers of members. Needs level 3.
	Balance string `json:"balance,omitempty"`
	// MemoryOnly keeps the replicas of data shards in memory alone; the directory is on disk all the same. Only the first
	// start can choose it. Needs level 4.
	MemoryOnly bool `json:"memory-only,omitempty"`
	// SnapshotBandwidth is how much of snapshots a node sends in a second, to all others together, as a size: "0" is as much as it
	// can, "" is DefaultSnapshotBandwidth. Needs level 4.
	SnapshotBandwidth string `json:"snapshot-bandwidth,omitempty"`
}

// The settings of a cluster that was told nothing.
const (
	DefaultInitialShards = 8
	DefaultReplicas      = 3
	DefaultCacheMemory   = "60%"
	DefaultTouchInterval = 100 * time.Millisecond
	DefaultRepairAfter   = time.Minute
	// DefaultSnapshotBandwidth is half of what a link of 1 Gbit/s carries: a shard of 1 GiB takes 16 s.
	DefaultSnapshotBandwidth = "32MiB"
)

const (
	// maxReplicas bounds Replicas: a majority of more nodes costs more than it protects.
	maxReplicas = 9
	// MaxTTL bounds a time to live. Longer ones are more likely a mistake in the unit than a wish.
	MaxTTL = 10 * 365 * 24 * time.Hour
	// The bounds of a TouchInterval that is not 0: more log entries than one in leastTouchInterval
	// cost more than they tell, and recency that is older than maxTouchInterval is none.
	leastTouchInterval = 10 * time.Millisecond
	maxTouchInterval   = time.Minute
	// The bounds of a RepairAfter that is not 0: a node that starts again is not to be replaced meanwhile.
	leastRepairAfter = 5 * time.Second
	maxRepairAfter   = 7 * 24 * time.Hour
	// leastSnapshotBandwidth is the least of a SnapshotBandwidth that is not 0: below, the log behind a snapshot would be gone before it
	// has arrived.
	leastSnapshotBandwidth = 64 << 10
)

// WithDefaults returns s with the default in place of each zero value that no later build may read
// another way.
func (s Settings) WithDefaults() Settings {
	if s.InitialShards == 0 {
		s.InitialShards = DefaultInitialShards
	}
	if s.Replicas == 0 {
		s.Replicas = DefaultReplicas
	}
	if s.CacheMemory == "" {
		s.CacheMemory = DefaultCacheMemory
	}
	return s
}

// Validate reports the first setting that is out of its bounds.
func (s Settings) Validate() error {
	if s.InitialShards < 1 || s.InitialShards > fsm.Slots {
		return fmt.Errorf("initial-shards is %d, want 1 to %d", s.InitialShards, fsm.Slots)
	}
	if s.Replicas < 1 || s.Replicas > maxReplicas {
		return fmt.Errorf("replicas is %d, want 1 to %d", s.Replicas, maxReplicas)
	}
	if _, err := ParseMemory(s.CacheMemory); err != nil {
		return fmt.Errorf("cache-memory: %w", err)
	}
	if s.DefaultTTL != "" {
		if ttl, err := parseTTL(s.DefaultTTL); err != nil || ttl == 0 {
			return fmt.Errorf("default-ttl: %w", errTTL)
		}
	}
	if s.TouchInterval != "" {
		if _, err := parseTouchInterval(s.TouchInterval); err != nil {
			return fmt.Errorf("touch-interval: %w", err)
		}
	}
	if s.RepairAfter != "" {
		if _, err := parseRepairAfter(s.RepairAfter); err != nil {
			return fmt.Errorf("repair-after: %w", err)
		}
	}
	if s.Balance != "" && s.Balance != off {
		return fmt.Errorf("balance: %w", errOnOff)
	}
	if s.SnapshotBandwidth != "" {
		if _, err := parseBandwidth(s.SnapshotBandwidth); err != nil {
			return fmt.Errorf("snapshot-bandwidth: %w", err)
		}
	}
	return nil
}

// level is the lowest feature level of a table that can hold s.
func (s Settings) level() uint8 {
	if s.MemoryOnly || s.SnapshotBandwidth != "" {
		return memoryLevel
	}
	if s.RepairAfter != "" || s.Balance != "" {
		return placementLevel
	}
	if s.DefaultTTL != "" || s.TouchInterval != "" {
		return settingsLevel
	}
	return 1
}

// TTL is the time to live of values that are stored without one of their own; 0 is none. The settings
// are valid.
func (s Settings) TTL() time.Duration {
	ttl, _ := parseTTL(s.DefaultTTL)
	return ttl
}

// Touch is how long reads are gathered before their recency goes into the log; 0: it never does. The
// settings are valid.
func (s Settings) Touch() time.Duration {
	if s.TouchInterval == "" {
		return DefaultTouchInterval
	}
	interval, _ := parseTouchInterval(s.TouchInterval)
	return interval
}

// Repair is how long a node must be unseen until its replicas are replaced; 0: they never are. The settings are valid.
func (s Settings) Repair() time.Duration {
	if s.RepairAfter == "" {
		return DefaultRepairAfter
	}
	after, _ := parseRepairAfter(s.RepairAfter)
	return after
}

// Bandwidth is how many bytes of snapshots a node sends in a second; 0: as many as it can. The settings are valid.
func (s Settings) Bandwidth() uint64 {
	bytes, _ := parseBandwidth(bandwidthText(s))
	return bytes
}

// Balanced reports whether leaders and replicas are spread over the nodes.
func (s Settings) Balanced() bool { return s.Balance != off }

// The values of Balance and MemoryOnly that users see.
const on, off = "on", "off"

var (
	errTTL           = fmt.Errorf("want a duration such as 1h30m in whole milliseconds, at most %s, or none", formatDuration(MaxTTL))
	errTouchInterval = fmt.Errorf("want a duration such as 100ms from %s to %s in whole milliseconds, or 0", formatDuration(leastTouchInterval), formatDuration(maxTouchInterval))
	errRepairAfter   = fmt.Errorf("want a duration such as 60s from %s to %s in whole milliseconds, or 0 for never", formatDuration(leastRepairAfter), formatDuration(maxRepairAfter))
	errOnOff         = errors.New("want on or off")
	errReplicas      = fmt.Errorf("want 1 to %d", maxReplicas)
)

// none stands for no time to live.
const none = "none"

// parseTTL reads a time to live; 0 is none, however that is written.
func parseTTL(text string) (time.Duration, error) {
	if text == "" || text == none {
		return 0, nil
	}
	ttl, err := time.ParseDuration(text)
	if err != nil || ttl < 0 || ttl > MaxTTL || ttl%time.Millisecond != 0 {
		return 0, errTTL
	}
	return ttl, nil
}

func parseTouchInterval(text string) (time.Duration, error) {
	interval, err := time.ParseDuration(text)
	if err != nil || interval != 0 && (interval < leastTouchInterval || interval > maxTouchInterval) || interval%time.Millisecond != 0 {
		return 0, errTouchInterval
	}
	return interval, nil
}

func parseRepairAfter(text string) (time.Duration, error) {
	after, err := time.ParseDuration(text)
	if err != nil || after != 0 && (after < leastRepairAfter || after > maxRepairAfter) || after%time.Millisecond != 0 {
		return 0, errRepairAfter
	}
	return after, nil
}

var errBandwidth = fmt.Errorf("want a size such as %s, at least %d bytes, or 0 for no limit", DefaultSnapshotBandwidth, leastSnapshotBandwidth)

func parseBandwidth(text string) (uint64, error) {
	if text == "0" {
		return 0, nil
	}
	bytes, err := ParseSize(text)
	if err != nil || bytes < leastSnapshotBandwidth {
		return 0, errBandwidth
	}
	return bytes, nil
}

// formatDuration writes d as time.ParseDuration reads it, without the zeros that Duration.String ends
// with: 1h, not 1h0m0s.
func formatDuration(d time.Duration) string {
	text := d.String()
	if short, ok := strings.CutSuffix(text, "m0s"); ok {
		text = short + "m"
	}
	if short, ok := strings.CutSuffix(text, "h0m"); ok {
		text = short + "h"
	}
	return text
}

// difference names the first setting in which s and other differ, with both values; "" when none.
func (s Settings) difference(other Settings) (name, mine, theirs string) {
	for _, o := range options {
		if mine, theirs := o.text(s), o.text(other); mine != theirs {
			return o.Name, mine, theirs
		}
	}
	return "", "", ""
}

// Memory is an amount of memory, absolute or as a share of a whole. The zero value is nothing.
type Memory struct {
	bytes    uint64
	permille uint64
}

// ParseMemory reads a size as ParseSize does, or a percentage of up to one decimal, above 0% and at
// most 100%.
func ParseMemory(text string) (Memory, error) {
	share, isShare := strings.CutSuffix(text, "%")
	if !isShare {
		size, err := ParseSize(text)
		if err != nil {
			return Memory{}, err
		}
		return Memory{bytes: size}, nil
	}
	whole, decimal, hasDecimal := strings.Cut(share, ".")
	if !digits(whole) || hasDecimal && (!digits(decimal) || len(decimal) != 1) {
		return Memory{}, fmt.Errorf("%q is not a percentage such as 60%% or 12.5%%", text)
	}
	if !hasDecimal {
		decimal = "0"
	}
	permille, err := strconv.ParseUint(whole+decimal, 10, 64)
	if err != nil || permille == 0 || permille > 1000 {
		return Memory{}, fmt.Errorf("%q is out of range, want above 0%% and at most 100%%", text)
	}
	return Memory{permille: permille}, nil
}

// Of returns the amount in bytes, given the whole that a share is of. A size beyond the whole is cut
// down to it.
func (m Memory) Of(whole uint64) uint64 {
	if m.permille == 0 {
		return min(m.bytes, whole)
	}
	return whole/1000*m.permille + whole%1000*m.permille/1000
}

// sizeUnits are the units that ParseSize knows; the longer suffix first.
var sizeUnits = []struct {
	suffix string
	bytes  uint64
}{
	{"KiB", 1 << 10},
	{"MiB", 1 << 20},
	{"GiB", 1 << 30},
	{"TiB", 1 << 40},
	{"B", 1},
	{"", 1},
}

// ParseSize reads a number of bytes above 0: "1073741824", "64KiB", "512MiB", "1.5GiB". Powers of
// ten (MB, G) are refused: people disagree on what they mean.
func ParseSize(text string) (uint64, error) {
	for _, unit := range sizeUnits {
		number, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		whole, fraction, hasFraction := strings.Cut(number, ".")
		if !digits(whole) || hasFraction && !digits(fraction) || len(number) > 32 {
			break
		}
		exact, ok := new(big.Rat).SetString(number)
		if !ok {
			break
		}
		exact.Mul(exact, new(big.Rat).SetFrac(new(big.Int).SetUint64(unit.bytes), big.NewInt(1)))
		if !exact.IsInt() {
			return 0, fmt.Errorf("%q is not a whole number of bytes", text)
		}
		if size := exact.Num(); size.Sign() > 0 && size.IsUint64() && size.Uint64() <= math.MaxInt64 {
			return size.Uint64(), nil
		}
		return 0, fmt.Errorf("%q is out of range", text)
	}
	return 0, fmt.Errorf("%q is not a size such as 512MiB or 1.5GiB", text)
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
