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
	// MaxValue is the length of the longest value that KindAppend makes, in bytes. Puts are bounded by
	// whoever proposes them.
	MaxValue = 8 << 20
	// MaxIdempotencyKey and MaxCaller are the lengths of the longest idempotency key and caller's name,
	// in bytes.
	MaxIdempotencyKey = 64
	MaxCaller         = 128
	// MaxPartBits bounds the parts that a slot can be divided into by KindDeletePrefix.
	MaxPartBits = 24
	// MaxAtomic is how many commands a KindAtomic can hold together.
	MaxAtomic = 512
)

// MaxLevel is the highest feature level that this build knows. A machine starts at baseLevel and is
// raised by a KindLevel command once every replica runs a build that knows the level, so that two
// builds never read the same log differently.
const MaxLevel = 4

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
	// MaxLevel is an error that stops the replica. The raise from level 1 brings the Seed of the hashes
	// of keys and hashes all that is stored anew, in time proportional to the entries; the Seed of a later one is not used.
	KindLevel Kind = 5

	// The kinds from here on need level 2.

	// KindIncr adds Delta to the value of Key, a decimal integer of 64 bits. It keeps content type and
	// time to live; an absent key counts as 0 and is created with TTL. StatusNotInteger when the value
	// is no integer or the sum is out of range. Result.Value is the new value.
	KindIncr Kind = 6
	// KindAppend appends Value to the value of Key. It keeps content type and time to live; an absent
	// key is created with ContentType and TTL. Result.Value is the new value.
	KindAppend Kind = 7
	// KindExpire changes when Key expires: TTL from the log clock on, 0 for never. Version and value
	// stay. StatusNotFound without a live entry. Counts as a use.
	KindExpire Kind = 8
	// KindTouch moves Key to the recent end. StatusNotFound without a live entry.
	KindTouch Kind = 9
	// KindTouches moves what was read to the recent end, in the order of Touches. Always StatusOK:
	// entries that are not there, or not owned, are passed over.
	KindTouches Kind = 10
	// KindFlush removes all entries. Result.Count says how many; it takes a version if there was any.
	KindFlush Kind = 11
	// KindDeletePrefix removes the entries whose key begins with Key (which may be empty), in Slots, in
	// one Part of 2^PartBits of their slots, of at most Version. Result.Count says how many; it takes a
	// version if there was any. Who proposes it chooses slots and part such that it walks over few
	// entries (see Machine.PlanDelete).
	KindDeletePrefix Kind = 12

	// The kinds from here on need level 3.

	// KindGet reads Key between the commands around it. It changes nothing. Result.Existed says whether there is
	// a live entry, which the result then tells of.
	KindGet Kind = 13
	// KindAtomic makes of the Ops commands that follow it in the batch one change: all of them apply, or none
	// does (see applyAtomic). They are commands on one key, KindGet included, without idempotency keys of their own and
	// without CondFill. Under its own idempotency key it stands for all of them, and holds no KindGet.
	KindAtomic Kind = 14

	// The kinds from here on need level 4. They move a range of slots from one machine, the source, to another, the target; see
	// Transfer for who says what, and when.

	// KindBegin has the target stage Transfer.Range, with nothing in it yet.
	KindBegin Kind = 15
	// KindChunk stages what Value holds (see Copy), as the Transfer.Seq-th of its attempt. Each counts once. StatusBusy: the rest of it
	// is left for a repetition.
	KindChunk Kind = 16
	// KindSeal has the source answer nothing any more for Transfer.Range.
	KindSeal Kind = 17
	// KindAccept has the target own what it has staged if that is what the source had when it sealed, and refuse the transfer if it isn't.
	KindAccept Kind = 18
	// KindRefuse has the target refuse the transfer unless it has accepted.
	KindRefuse Kind = 19
	// KindSettle ends the seal as Transfer.Outcome says the target has decided.
	KindSettle Kind = 20
	// KindVoid has the source never seal for the transfer, unless it has.
	KindVoid Kind = 21
	// KindClose tells the target how the source has settled: what is staged still goes.
	KindClose Kind = 22
)

// needs returns the feature level that c needs.
func (c *Command) needs() uint8 {
	if c.Kind >= KindBegin {
		return 4
	}
	if c.Kind >= KindGet || c.DefaultTTL && c.IdempotencyKey == "" {
		return 3
	}
	if c.Kind >= KindIncr || c.Cond.Kind == CondFill || c.extended() {
		return 2
	}
	return 1
}

// keyed reports whether c is a command on one key.
func (c *Command) keyed() bool {
	switch c.Kind {
	case KindPut, KindDelete, KindIncr, KindAppend, KindExpire, KindTouch, KindGet:
		return true
	}
	return false
}

// LevelOf returns the feature level that commands need.
func LevelOf(commands []Command) uint8 {
	level := uint8(baseLevel)
	for i := range commands {
		level = max(level, commands[i].needs())
	}
	return level
}

// extended reports whether c has what the first encoding of its kind has no room for.
func (c *Command) extended() bool { return c.ReturnOld || c.DefaultTTL || c.IdempotencyKey != "" }

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
	// CondFill holds when Key was neither written nor removed since Version, which is a fill token: the
	// shard's version when a reader missed it (R8). Another key's removal can make it fail, when the
	// two share a slot; so does a grant. For puts only. Needs level 2.
	CondFill CondKind = 4
)

// Cond is the condition of a command on one key, decided in Apply and nowhere else (R6).
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
	Key         []byte // put, delete, incr, append, expire, touch, get; delete prefix: the prefix
	Value       []byte // put, append, chunk
	ContentType string // put, append
	TTL         uint64 // put, incr, append, expire; milliseconds of log clock, 0 = lives until removed
	Cond        Cond   // put, delete, incr, append, expire
	Delta       int64  // incr
	ReturnOld   bool   // put: Result.Value is what was replaced
	// DefaultTTL: nobody asked for TTL, it is the default of the moment (put, incr, append, idempotent or of an
	// idempotent KindAtomic). The same request made again is the same change, whatever the default has become meanwhile.
	DefaultTTL bool

	// Caller and IdempotencyKey are the scope of an idempotent put, delete, incr, append, expire or atomic
	// (R7): applied once, and answered again from memory. Without a key there is no caller.
	Caller         string
	IdempotencyKey string

	Ops uint32 // atomic; 1 to MaxAtomic

	Touches []byte // touches; see AppendTouch

	Slots    Range  // delete prefix
	PartBits uint8  // delete prefix
	Part     uint32 // delete prefix; below 2^PartBits
	Version  uint64 // delete prefix

	Grant Grant // grant

	Limit        uint64 // limit; bytes
	TableVersion uint64 // limit; orders it, not 0

	Level    uint8     // level
	Transfer *Transfer // begin, chunk, seal, accept, refuse, settle, void, close

	// Seed of the hashes of keys from level 2 on, at random: who does not know it can't make up keys that share
	// hashes, which would have to be searched one by one (level, when that is 2 or above).
	Seed uint64
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
	// StatusNotFound: an expire or touch of a key without a live entry; nothing changed.
	StatusNotFound Status = 7
	// StatusNotInteger: an incr of a value that is no integer, or whose sum is out of range; nothing
	// changed.
	StatusNotInteger Status = 8
	// StatusKeyReused: the idempotency key belongs to another change; nothing changed now.
	StatusKeyReused Status = 9
	// StatusKeyTooOld: the idempotency key is so old that a change under it would be forgotten by now.
	// Nothing changed now; whether it did before is not known.
	StatusKeyTooOld Status = 10
	// StatusKeyTooNew: the idempotency key's time lies too far ahead; nothing changed.
	StatusKeyTooNew Status = 11
	// StatusKeysFull: the memory for idempotency keys is full; nothing changed.
	StatusKeysFull Status = 12
	// StatusAborted: the command was to be applied with others, or not at all, and one of those was refused;
	// nothing changed.
	StatusAborted Status = 13
	// StatusSealed: the range of the key is about to go to another shard, which is decided soon; nothing changed. Of a void: the
	// machine has sealed for the transfer.
	StatusSealed Status = 14
	// StatusBusy: of a transfer, not yet, or not all of it; the same command again goes on.
	StatusBusy Status = 15
	// StatusAccepted and StatusRefused are how a transfer has ended here.
	StatusAccepted Status = 16
	StatusRefused  Status = 17
)

// Result answers one command. Value is shared with the machine, as Entry.Value is.
type Result struct {
	Status  Status
	Existed bool   // with StatusOK or StatusCondition: a live entry stood there before
	Version uint64 // the change's own version, 0 when nothing changed; with StatusCondition, and of a get, the current one

	Replayed    bool   // answered from memory: the change was made by an earlier command
	HasValue    bool   // Value and ContentType are set, an empty value included
	Value       []byte // incr, append: the new value; put with ReturnOld: the old one; get: the present one
	ContentType string // of Value
	Count       uint64 // flush, delete prefix: entries removed
	TTL         uint64 // get: what is left of it, milliseconds of log clock; 0 = lives until removed
}

// validate returns what keeps c from being a command, nil if nothing does. Encoding, decoding and
// Apply share it, so that they accept exactly the same commands.
func (c *Command) validate() error {
	switch c.Kind {
	case KindPut, KindDelete, KindIncr, KindAppend, KindExpire, KindTouch, KindGet:
		if err := c.validateKeyed(); err != nil {
			return err
		}
	case KindAtomic:
		if c.Ops == 0 || c.Ops > MaxAtomic {
			return fmt.Errorf("%d commands held together", c.Ops)
		}
		if err := c.validateIdempotent(); err != nil {
			return err
		}
	case KindTouches:
		if len(c.Touches) == 0 || len(c.Touches)%touchSize != 0 {
			return fmt.Errorf("touches of %d bytes", len(c.Touches))
		}
	case KindFlush:
	case KindDeletePrefix:
		switch {
		case len(c.Key) > MaxKey:
			return fmt.Errorf("prefix of %d bytes", len(c.Key))
		case c.Slots.Start >= c.Slots.End || c.Slots.End > Slots:
			return fmt.Errorf("slots [%d, %d)", c.Slots.Start, c.Slots.End)
		case c.PartBits > MaxPartBits || c.Part >= 1<<c.PartBits:
			return fmt.Errorf("part %d of %d bits", c.Part, c.PartBits)
		}
	case KindGrant:
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
		if c.TableVersion == 0 {
			return errors.New("limit without a table version")
		}
	case KindLevel:
	case KindBegin, KindChunk, KindSeal, KindAccept, KindRefuse, KindSettle, KindVoid, KindClose:
		if err := c.validateTransfer(); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unknown kind %d", c.Kind)
	}
	if c.fields()&^c.may() != 0 {
		return fmt.Errorf("a field that kind %d does not have", c.Kind)
	}
	return nil
}

// validateKeyed is validate for the commands on one key.
func (c *Command) validateKeyed() error {
	switch {
	case len(c.Key) == 0 || len(c.Key) > MaxKey:
		return fmt.Errorf("key of %d bytes", len(c.Key))
	case len(c.ContentType) > MaxContentType:
		return fmt.Errorf("content type of %d bytes", len(c.ContentType))
	case c.Cond.Kind > CondFill:
		return fmt.Errorf("unknown condition %d", c.Cond.Kind)
	case c.Cond.Kind < CondVersion && c.Cond.Version != 0:
		return fmt.Errorf("condition %d with a version", c.Cond.Kind)
	case c.Cond.Kind == CondFill && c.Kind != KindPut:
		return fmt.Errorf("fill token with kind %d", c.Kind)
	}
	return c.validateIdempotent()
}

// validateIdempotent is validate for the scope of an idempotent command.
func (c *Command) validateIdempotent() error {
	switch {
	case len(c.IdempotencyKey) > MaxIdempotencyKey:
		return fmt.Errorf("idempotency key of %d bytes", len(c.IdempotencyKey))
	case len(c.Caller) > MaxCaller:
		return fmt.Errorf("caller's name of %d bytes", len(c.Caller))
	case c.IdempotencyKey == "" && c.Caller != "":
		return errors.New("a caller without an idempotency key")
	}
	return nil
}

// fieldSet is a set of the fields of a Command, Kind apart.
type fieldSet uint32

const (
	fieldKey fieldSet = 1 << iota
	fieldValue
	fieldContentType
	fieldTTL
	fieldCond
	fieldDelta
	fieldReturnOld
	fieldDefaultTTL
	fieldCaller
	fieldIdempotencyKey
	fieldTouches
	fieldSlots
	fieldPart // and its bits
	fieldVersion
	fieldGrant
	fieldLimit
	fieldTableVersion
	fieldLevel
	fieldSeed
	fieldOps
	fieldTransfer

	fieldsIdempotent = fieldCaller | fieldIdempotencyKey
)

// fieldsOf are the fields that a kind has.
var fieldsOf = [...]fieldSet{
	KindPut:          fieldKey | fieldCond | fieldsIdempotent | fieldValue | fieldContentType | fieldTTL | fieldDefaultTTL | fieldReturnOld,
	KindDelete:       fieldKey | fieldCond | fieldsIdempotent,
	KindGrant:        fieldGrant,
	KindLimit:        fieldLimit | fieldTableVersion,
	KindLevel:        fieldLevel | fieldSeed,
	KindIncr:         fieldKey | fieldCond | fieldsIdempotent | fieldDelta | fieldTTL | fieldDefaultTTL,
	KindAppend:       fieldKey | fieldCond | fieldsIdempotent | fieldValue | fieldContentType | fieldTTL | fieldDefaultTTL,
	KindExpire:       fieldKey | fieldCond | fieldsIdempotent | fieldTTL,
	KindTouch:        fieldKey,
	KindTouches:      fieldTouches,
	KindFlush:        0,
	KindDeletePrefix: fieldKey | fieldSlots | fieldPart | fieldVersion,
	KindGet:          fieldKey,
	KindAtomic:       fieldsIdempotent | fieldOps,
	KindBegin:        fieldTransfer,
	KindChunk:        fieldTransfer | fieldValue,
	KindSeal:         fieldTransfer,
	KindAccept:       fieldTransfer,
	KindRefuse:       fieldTransfer,
	KindSettle:       fieldTransfer,
	KindVoid:         fieldTransfer,
	KindClose:        fieldTransfer,
}

// may returns the fields that c may have, its Kind being known.
func (c *Command) may() fieldSet {
	may := fieldsOf[c.Kind]
	if c.Level < 2 {
		may &^= fieldSeed
	}
	return may
}

// fields returns the fields that are not zero. It is asked of every command three times on its way.
func (c *Command) fields() (set fieldSet) {
	if len(c.Key) > 0 {
		set |= fieldKey
	}
	if len(c.Value) > 0 {
		set |= fieldValue
	}
	if c.ContentType != "" {
		set |= fieldContentType
	}
	if c.TTL != 0 {
		set |= fieldTTL
	}
	if c.Cond != (Cond{}) {
		set |= fieldCond
	}
	if c.Delta != 0 {
		set |= fieldDelta
	}
	if c.ReturnOld {
		set |= fieldReturnOld
	}
	if c.DefaultTTL {
		set |= fieldDefaultTTL
	}
	if c.Caller != "" {
		set |= fieldCaller
	}
	if c.IdempotencyKey != "" {
		set |= fieldIdempotencyKey
	}
	if len(c.Touches) > 0 {
		set |= fieldTouches
	}
	if c.Slots != (Range{}) {
		set |= fieldSlots
	}
	if uint32(c.PartBits)|c.Part != 0 {
		set |= fieldPart
	}
	if c.Version != 0 {
		set |= fieldVersion
	}
	if c.Grant != (Grant{}) {
		set |= fieldGrant
	}
	if c.Limit != 0 {
		set |= fieldLimit
	}
	if c.TableVersion != 0 {
		set |= fieldTableVersion
	}
	if c.Level != 0 {
		set |= fieldLevel
	}
	if c.Seed != 0 {
		set |= fieldSeed
	}
	if c.Ops != 0 {
		set |= fieldOps
	}
	if c.Transfer != nil {
		set |= fieldTransfer
	}
	return set
}
