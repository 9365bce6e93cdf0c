package shard

import (
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Config is what a Host needs. Zero means the default where one is given.
type Config struct {
	// Node is this node's id: 1 to 64 of a-z, A-Z, 0-9, '-', '_', '.'.
	Node string
	// Dir is the data folder; "" keeps everything in Memory.
	Dir string
	// Memory is where a node without a data folder keeps its state. It outlives the Host, as a disk
	// outlives a process. For tests.
	Memory *Memory

	// LogStore is where replicas that are made from now on keep log, term and vote, default DefaultLogStore. Those that are there
	// keep theirs. The directory's is always in bbolt, and volatile ones have none.
	LogStore LogStore

	// Network and Addr: where peers' links come in.
	Network Network
	Addr    string

	// Log gets what an operator should know; never keys or values.
	Log *slog.Logger
	// Now is the wall clock, default time.Now. It ends up in stamps of log entries and nowhere else.
	Now func() time.Time
	// Fatal ends the process: a disk write failed, or the data folder is not the one that peers
	// know. It must not return in production. It may close the Host, which then waits for nothing that hangs. Default: panic.
	Fatal func(error)

	// HeartbeatTimeout is how long a leader is silent before a follower takes it for lost, default 1 s; where its process is
	// known to be gone, it takes no such time (succession.go). It must exceed the worst stall of a disk: the library's
	// heartbeats wait behind writes.
	HeartbeatTimeout time.Duration
	// ElectionTimeout is how long a candidate waits for votes, default 1 s.
	ElectionTimeout time.Duration
	// CommitTimeout is how soon idle followers learn the commit index, default 500 ms.
	CommitTimeout time.Duration
	// Leases: a leader here answers reads on the strength of its voters' promises while it has them (readlease.go).
	// Every node gives such promises.
	Leases bool
	// TouchInterval is how soon reads that no write follows renew the recency of what they found, default
	// 100 ms; see Host.SetTouchInterval.
	TouchInterval time.Duration

	// A replica takes a snapshot once it applied SnapshotBytes (default 64 MiB) of commands, or
	// SnapshotEntries (default 65,536), since the last.
	SnapshotBytes   uint64
	SnapshotEntries uint64
	// TrailingLogs is how many entries at most stay in the log behind a snapshot, for followers
	// that are a little behind; default 8,192, fewer where they are large.
	TrailingLogs uint64

	// CheckInterval is how often the replicas of a data shard that is in use are compared, default 5 s.
	CheckInterval time.Duration
}

// LogStore names a kind of log store.
type LogStore string

const (
	// LogBolt is a bbolt file for each replica.
	LogBolt LogStore = "bolt"
	// LogShared is one log for all data shards of a node, so that their writes share syncs.
	LogShared LogStore = "shared"

	DefaultLogStore = LogShared
)

// ParseLogStore reads the name of a log store.
func ParseLogStore(s string) (LogStore, error) {
	switch l := LogStore(s); l {
	case LogBolt, LogShared:
		return l, nil
	}
	return "", fmt.Errorf("%q is not %s or %s", s, LogBolt, LogShared)
}

func (c *Config) validate() error {
	if err := ValidNode(c.Node); err != nil {
		return err
	}
	if c.Network == nil || c.Addr == "" {
		return errors.New("shard: Network and Addr must be set")
	}
	if (c.Dir == "") == (c.Memory == nil) {
		return errors.New("shard: exactly one of Dir and Memory must be set")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Fatal == nil {
		c.Fatal = func(err error) { panic(err) }
	}
	setDefault(&c.LogStore, DefaultLogStore)
	if _, err := ParseLogStore(string(c.LogStore)); err != nil {
		return fmt.Errorf("shard: log store %w", err)
	}
	setDefault(&c.HeartbeatTimeout, time.Second)
	setDefault(&c.ElectionTimeout, time.Second)
	setDefault(&c.CommitTimeout, 500*time.Millisecond)
	setDefault(&c.TouchInterval, 100*time.Millisecond)
	setDefault(&c.CheckInterval, 5*time.Second)
	setDefault(&c.SnapshotBytes, 64<<20)
	setDefault(&c.SnapshotEntries, 65536)
	setDefault(&c.TrailingLogs, 8192)
	return nil
}

func setDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// ValidNode says why a node id is none; server ids, file names and URLs are made of it.
func ValidNode(id string) error {
	if len(id) == 0 || len(id) > 64 {
		return fmt.Errorf("node id %q: 1 to 64 characters", id)
	}
	for _, c := range []byte(id) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '-', c == '_', c == '.' && id != "." && id != "..":
		default:
			return fmt.Errorf("node id %q: only letters, digits, '-', '_' and '.'", id)
		}
	}
	return nil
}
