package fsm

import (
	"errors"
	"fmt"
)

// Limits of what a Command can carry. A command beyond them has no encoding.
const (
	// MaxKey is the length of the longest key, in bytes; the shortest has one.
	MaxKey = 1024
	// MaxContentType is the length of the longest content type, in bytes.
	MaxContentType = 1024
)

// MaxLevel is the highest feature level that this build knows. A machine starts at baseLevel and is
// raised by a KindLevel command once every replica runs a build that knows the level, so that two
// builds never read the same log differently.
const MaxLevel = 1

// baseLevel is the level of a machine that no command has raised. It never changes: a later build
// that replays an old log from its first entry must start where the builds before it did.
const baseLevel = 1

// maxVersionBits bounds Grant.VersionBits: 20 bits.
const maxVersionBits = 1 << (64 - counterBits)

// ErrMalformed is returned by AppendBinary, AppendCommand and Apply for a command that can't be
// encoded: a key or content type of a wrong length, an unknown kind or condition, a field set that
// the kind does not have, a grant out of bounds.
var ErrMalformed = errors.New("malformed command")

// Kind says what a Command does. The values are part of the log format: append, never renumber.
type Kind uint8

const (
	// KindPut stores Key = Value with ContentType. TTL 0 clears a former time to live.
	KindPut Kind = 1
	// KindDelete removes Key.
	KindDelete Kind = 2
	// KindGrant gives the machine its range, epoch, generation, version grant and byte limit
	// (see Grant). It applies only when it is newer than what the machine holds, so that any
	// number of proposers may repeat it. Entries outside the new range are dropped.
	KindGrant Kind = 3
	// KindLimit sets the byte bound. It applies only when its TableVersion is newer.
	KindLimit Kind = 4
	// KindLevel raises the feature level. One that is not higher is StatusStale; raising above
	// MaxLevel is an error that stops the replica.
	KindLevel Kind = 5
)

// CondKind says what must hold of the current entry for a put or delete to apply.
type CondKind uint8

const (
	// CondAlways holds for any state of the key.
	CondAlways CondKind = 0
	// CondAbsent holds when there is no live entry (If-None-Match: *).
	CondAbsent CondKind = 1
	// CondPresent holds when there is a live entry (If-Match: *).
	CondPresent CondKind = 2
	// CondVersion holds when there is a live entry of exactly Version (If-Match: "v").
	CondVersion CondKind = 3
)

// Cond is the condition of a put or delete, decided in Apply and nowhere else (R6).
type Cond struct {
	Kind    CondKind
	Version uint64
}

// Range is the half-open interval [Start, End) of slots; empty when Start == End.
type Range struct {
	Start uint32 `json:"start"`
	End   uint32 `json:"end"`
}

// Contains reports whether slot lies in r.
func (r Range) Contains(slot uint16) bool {
	return uint32(slot) >= r.Start && uint32(slot) < r.End
}

// Grant is what the directory grants a shard by KindGrant. Grants are ordered by (Generation, Epoch,
// VersionBits); one that is not newer than the machine's, or whose VersionBits are not above the
// machine's, is StatusStale. The first grant of a machine's life may have any VersionBits. Limit is
// judged on its own, by TableVersion.
type Grant struct {
	Range        Range  // not empty, within the 16,384 slots
	Epoch        uint64 // table version of the grant's intent; grows with each change of range
	Generation   uint64 // life of the group; grows at recovery and reset
	VersionBits  uint32 // 20 bits, the high part of the version counter (R3); grows with every grant
	Limit        uint64 // byte bound
	TableVersion uint64 // orders Limit against KindLimit; not 0
}

// Command is one logged operation. Fields that its Kind does not name are zero.
type Command struct {
	Kind        Kind
	Key         []byte // put, delete
	Value       []byte // put
	ContentType string // put
	TTL         uint64 // put; milliseconds of log clock, 0 = lives until removed
	Cond        Cond   // put, delete

	Grant Grant // grant

	Limit        uint64 // limit; bytes
	TableVersion uint64 // limit; orders it, not 0

	Level uint8 // level
}

// Batch is one log entry: commands in order, with the stamp that moves the log clock (R2). A batch
// without commands is a tick.
type Batch struct {
	// Stamp is the leader's estimate of wall time, Unix milliseconds.
	Stamp uint64
	// Level is the feature level that the commands need; 0 needs nothing. Above the machine's own
	// level it is divergence.
	Level    uint8
	Commands []Command
}

// Status is the outcome of one command. The values cross the wire: append, never renumber.
type Status uint8

const (
	// StatusOK: applied.
	StatusOK Status = 1
	// StatusNotOwner: this machine does not own the key's slot; nothing changed.
	StatusNotOwner Status = 2
	// StatusCondition: the condition did not hold; nothing changed. Result.Version is the
	// current version, 0 when the key is absent.
	StatusCondition Status = 3
	// StatusTooLarge: the entry would cost more than an eighth of the limit; nothing changed.
	StatusTooLarge Status = 4
	// StatusExhausted: the counted bits of the version are used up; nothing changed until the
	// directory grants new ones.
	StatusExhausted Status = 5
	// StatusStale: a grant, limit or level that is not newer than what the machine holds; nothing
	// changed.
	StatusStale Status = 6
)

// Result answers one command.
type Result struct {
	Status  Status
	Existed bool   // put, delete with StatusOK or StatusCondition: a live entry stood there before
	Version uint64 // the change's own version, 0 when nothing changed; with StatusCondition the current one
}

// validate returns what keeps c from being a command, nil if nothing does. Encoding, decoding and
// Apply share it, so that they accept exactly the same commands.
func (c *Command) validate() error {
	used := Command{Kind: c.Kind} // the fields that the kind has
	switch c.Kind {
	case KindPut:
		used.Value, used.ContentType, used.TTL = c.Value, c.ContentType, c.TTL
		fallthrough
	case KindDelete:
		used.Key, used.Cond = c.Key, c.Cond
		if len(c.Key) == 0 || len(c.Key) > MaxKey {
			return fmt.Errorf("key of %d bytes", len(c.Key))
		}
		if len(c.ContentType) > MaxContentType {
			return fmt.Errorf("content type of %d bytes", len(c.ContentType))
		}
		if c.Cond.Kind > CondVersion {
			return fmt.Errorf("unknown condition %d", c.Cond.Kind)
		}
		if c.Cond.Kind != CondVersion && c.Cond.Version != 0 {
			return fmt.Errorf("condition %d with a version", c.Cond.Kind)
		}
	case KindGrant:
		used.Grant = c.Grant
		if r := c.Grant.Range; r.Start >= r.End || r.End > Slots {
			return fmt.Errorf("grant of range [%d, %d)", r.Start, r.End)
		}
		if c.Grant.VersionBits >= maxVersionBits {
			return fmt.Errorf("grant of version bits %d", c.Grant.VersionBits)
		}
		if c.Grant.TableVersion == 0 {
			return errors.New("grant without a table version")
		}
	case KindLimit:
		used.Limit, used.TableVersion = c.Limit, c.TableVersion
		if c.TableVersion == 0 {
			return errors.New("limit without a table version")
		}
	case KindLevel:
		used.Level = c.Level
	default:
		return fmt.Errorf("unknown kind %d", c.Kind)
	}
	if !sameFields(&used, c) {
		return fmt.Errorf("a field that kind %d does not have", c.Kind)
	}
	return nil
}

// sameFields compares two commands of which one was copied from the other, byte slices by length.
func sameFields(a, b *Command) bool {
	return len(a.Key) == len(b.Key) && len(a.Value) == len(b.Value) &&
		len(a.ContentType) == len(b.ContentType) && a.TTL == b.TTL && a.Cond == b.Cond &&
		a.Grant == b.Grant && a.Limit == b.Limit && a.TableVersion == b.TableVersion &&
		a.Level == b.Level
}
