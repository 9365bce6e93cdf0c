package directory

import (
	"fmt"
	"slices"
	"strconv"
)

// Option describes a cluster-wide setting to who reads or changes it.
type Option struct {
	Name    string
	Default string
	Meaning string
	// Fixed: only the first start of the cluster can choose it.
	Fixed bool

	// text is the value in settings, in its canonical form.
	text func(Settings) string
	// set reads a value into settings.
	set func(s *Settings, text string) error
}

// Text is the option's value in s, as users see it.
func (o Option) Text(s Settings) string { return o.text(s) }

// Options are all settings, in the order in which they are shown.
func Options() []Option { return slices.Clone(options) }

var options = []Option{
	{
		Name: "cache-memory", Default: DefaultCacheMemory,
		Meaning: "the part of each node's memory that is for entries: a share of --max-memory or a size",
		text:    func(s Settings) string { return s.CacheMemory },
		set: func(s *Settings, text string) error {
			_, err := ParseMemory(text)
			s.CacheMemory = text
			return err
		},
	},
	{
		Name: "shard-bytes", Default: "0",
		Meaning: "the room of each shard, bytes; 0 derives it from cache-memory",
		text:    func(s Settings) string { return strconv.FormatUint(s.ShardBytes, 10) },
		set: func(s *Settings, text string) (err error) {
			s.ShardBytes = 0
			if text != "0" {
				s.ShardBytes, err = ParseSize(text)
			}
			return err
		},
	},
	{
		Name: "default-ttl", Default: none,
		Meaning: "the time to live of values that are stored without one of their own",
		text:    ttlText,
		set: func(s *Settings, text string) error {
			if text == "" {
				return errTTL
			}
			ttl, err := parseTTL(text)
			if s.DefaultTTL = ""; ttl != 0 {
				s.DefaultTTL = formatDuration(ttl)
			}
			return err
		},
	},
	{
		Name: "touch-interval", Default: formatDuration(DefaultTouchInterval),
		Meaning: "how long reads are gathered before their recency is replicated; 0s replicates none",
		text:    touchText,
		set: func(s *Settings, text string) error {
			interval, err := parseTouchInterval(text)
			if s.TouchInterval = ""; interval != DefaultTouchInterval {
				s.TouchInterval = formatDuration(interval)
			}
			return err
		},
	},
	{
		Name: "repair-after", Default: formatDuration(DefaultRepairAfter),
		Meaning: "how long a node is unseen until its replicas are replaced by others; 0s never replaces any",
		text:    repairText,
		set: func(s *Settings, text string) error {
			after, err := parseRepairAfter(text)
			if s.RepairAfter = ""; after != DefaultRepairAfter {
				s.RepairAfter = formatDuration(after)
			}
			return err
		},
	},
	{
		Name: "balance", Default: on,
		Meaning: "on: replicas and leaders move until nodes hold and lead alike, and members that are missing or too many come and go; off: they stay where they are",
		text:    balanceText,
		set: func(s *Settings, text string) error {
			switch text {
			case on:
				s.Balance = ""
			case off:
				s.Balance = off
			default:
				return errOnOff
			}
			return nil
		},
	},
	{
		Name: "snapshot-bandwidth", Default: DefaultSnapshotBandwidth,
		Meaning: "bytes of snapshots that a node sends in a second, to all others together; 0 is no limit",
		text:    bandwidthText,
		set: func(s *Settings, text string) error {
			_, err := parseBandwidth(text)
			if s.SnapshotBandwidth = ""; text != DefaultSnapshotBandwidth {
				s.SnapshotBandwidth = text
			}
			return err
		},
	},
	{
		Name: "replicas", Default: strconv.Itoa(DefaultReplicas),
		Meaning: "members of each shard, 1 to 9; they come and go one at a time while balance is on",
		text:    func(s Settings) string { return strconv.Itoa(s.Replicas) },
		set: func(s *Settings, text string) error {
			n, err := strconv.Atoi(text)
			if err != nil || n < 1 || n > maxReplicas {
				return errReplicas
			}
			s.Replicas = n
			return nil
		},
	},
	{
		Name: "memory-only", Default: off, Fixed: true,
		Meaning: "on: shards are kept in memory alone, and a node that starts again gets its replicas anew",
		text:    memoryOnlyText,
		set: func(s *Settings, text string) error {
			if text != on && text != off {
				return errOnOff
			}
			s.MemoryOnly = text == on
			return nil
		},
	},
	{
		Name: "initial-shards", Default: strconv.Itoa(DefaultInitialShards), Fixed: true,
		Meaning: "shards that the keys were first divided among",
		text:    func(s Settings) string { return strconv.Itoa(s.InitialShards) },
		set: func(s *Settings, text string) (err error) {
			s.InitialShards, err = strconv.Atoi(text)
			return err
		},
	},
}

func ttlText(s Settings) string {
	if s.TTL() == 0 {
		return none
	}
	return formatDuration(s.TTL())
}

func repairText(s Settings) string { return formatDuration(s.Repair()) }

func balanceText(s Settings) string {
	if s.Balanced() {
		return on
	}
	return off
}

func bandwidthText(s Settings) string {
	if s.SnapshotBandwidth == "" {
		return DefaultSnapshotBandwidth
	}
	return s.SnapshotBandwidth
}

func memoryOnlyText(s Settings) string {
	if s.MemoryOnly {
		return on
	}
	return off
}

func touchText(s Settings) string { return formatDuration(s.Touch()) }

// SettingError refuses a value of a setting, or the name of one.
type SettingError struct {
	Name, Reason string
}

func (e *SettingError) Error() string { return fmt.Sprintf("%s: %s", e.Name, e.Reason) }

// With returns s with values in place of its own, by name; nil is the default. The error is a
// SettingError.
func (s Settings) With(values map[string]*string) (Settings, error) {
	var names []string
	for name := range values {
		names = append(names, name)
	}
	slices.Sort(names) // of several errors, always the same one is told
	for _, name := range names {
		i := slices.IndexFunc(options, func(o Option) bool { return o.Name == name })
		if i < 0 {
			return s, &SettingError{Name: name, Reason: "there is no such setting"}
		}
		o := options[i]
		before, text := o.text(s), o.Default
		if values[name] != nil {
			text = *values[name]
		}
		if o.Fixed && text != before {
			return s, &SettingError{Name: name, Reason: fmt.Sprintf("it is %s since the cluster was founded", before)}
		}
		if err := o.set(&s, text); err != nil {
			return s, &SettingError{Name: name, Reason: err.Error()}
		}
	}
	return s, nil
}
