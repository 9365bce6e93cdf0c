package fsm

// Reason says why an entry is gone.
type Reason uint8

const (
	// ReasonEvicted: alive, it made room for others.
	ReasonEvicted Reason = 1
	// ReasonExpired: it had expired.
	ReasonExpired Reason = 2
	// ReasonDeleted: a command removed it.
	ReasonDeleted Reason = 3
)

// Observer hears, from within Apply, what becomes of entries. It stands beside the state: no answer of a
// machine depends on it, and it may differ between replicas. A replacement is a Stored alone; entries that
// leave with their slots are not told of.
type Observer interface {
	// Stored hears that an entry of the given cost stands at the recent end now, new or replaced.
	Stored(key Touch, cost uint64)
	// Removed hears that an entry is gone, idle milliseconds of log clock after its last use. expireAt is when
	// it expires or did, 0 for never.
	Removed(key Touch, cost uint64, why Reason, idle, expireAt uint64)
}
