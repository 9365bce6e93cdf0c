package client

import "time"

// Version identifies one value of a key: no other value of it ever has the same. Versions are opaque; compare
// them by == alone. "" is that of no entry.
type Version string

// valid reports whether v can stand in an entity tag.
func (v Version) valid() bool {
	for i := range len(v) {
		if v[i] <= ' ' || v[i] == '"' || v[i] >= 0x7f {
			return false
		}
	}
	return v != ""
}

// ReadPath is how a read was made certain.
type ReadPath string

const (
	ReadProbe    ReadPath = "probe"    // the leader, confirmed by a round among the voters
	ReadLease    ReadPath = "lease"    // the leader, by a promise of the voters
	ReadLog      ReadPath = "log"      // the leader, after an entry of its own in the log
	ReadFollower ReadPath = "follower" // a follower that asked the leader how far it must be
	ReadLocal    ReadPath = "local"    // a replica by itself: Bounded and Any only
)

// Place tells which replica answered, and where in its shard's log the answer belongs.
type Place struct {
	Shard    uint64
	Epoch    uint64 // of the shard's range
	Index    string // "index.position": of a write its own place, of a read the last one that it saw
	ServedBy string // node
}

// Entry is what Get found.
type Entry struct {
	Value       []byte
	ContentType string // application/octet-stream where none was given
	Version     Version
	Expires     bool          // the entry has an end
	TTL         time.Duration // how long it still has if it Expires, rounded down to the second
	ReadPath    ReadPath
	Age         time.Duration // of a Bounded or Any read: at most how far behind, rounded up to the second
	Place       Place
	// FillToken, with ErrNotFound after Fill: this reader is to load the value. "" for none.
	FillToken string
}

// Result is what came of a write that was applied.
type Result struct {
	Version Version // of the entry now; "" after Delete
	Existed bool    // Put, Create, Swap, Delete: there was an entry before
	// HasValue: the value of Incr, Append or Swap is there. It is missing where Replayed by a cluster that
	// remembers that much no more, and of Swap where nothing Existed.
	HasValue bool
	// Replayed: the write was made by an earlier attempt or call under the same idempotency key.
	Replayed bool
	Place    Place
}
