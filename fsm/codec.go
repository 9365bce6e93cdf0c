package fsm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"
)

// A batch, version 1. Numbers that may be wide are unsigned varints (encoding/binary), each in its
// shortest form; "bytes" are a varint length and that many bytes.
//
//	 byte 0    byte 1
//	+---------+-------+-------+-------+---------+-----
//	| version | level | stamp | count | command | ...     count commands, then the end
//	+---------+-------+-------+-------+---------+-----
//	   =1        u8     varint  varint
//
//	put     | 1 | condition | key bytes | ttl varint | content type bytes | value bytes
//	delete  | 2 | condition | key bytes
//	grant   | 3 | start | end | epoch | generation | version bits | limit | table version   all varints
//	limit   | 4 | limit varint | table version varint
//	level   | 5 | level u8
//	incr    | 6 | condition | key bytes | ttl varint | delta zigzag varint
//	append  | 7 | condition | key bytes | ttl varint | content type bytes | value bytes
//	expire  | 8 | condition | key bytes | ttl varint
//	touch   | 9 | key bytes
//	touches | 10 | touches bytes, 5 each
//	flush   | 11
//	prefix  | 12 | prefix bytes | start varint | end varint | part bits u8 | part varint | version varint
//	get     | 13 | key bytes
//	atomic  | 14 | ops varint
//	begin   | 15 | id | attempt | start | end | generation | version bits           all varints
//	chunk   | 16 | id | attempt | seq, all varints | items bytes
//	seal    | 17 | id | start | end | target                                       all varints
//	accept  | 18 | id varint | what the source had, in the order of Sealed, of fixed width, big-endian
//	refuse  | 19 | id varint
//	settle  | 20 | id varint | outcome u8
//	void    | 21 | id varint
//	close   | 22 | id varint | outcome u8
//
//	condition   | kind u8 | version varint, only where kind is CondVersion or CondFill |
//
// A command that is idempotent, or returns the old value, has its kind's highest bit set and begins with
// what the kind has no room for:
//
//	extended    | 0x80+kind | flags u8 | caller bytes | idempotency key bytes | ...the kind's own fields
//	flags       | 1: caller and idempotency key follow | 2: return the old value | 4: ttl is a default |
//
// A batch has exactly one encoding, and each accepted input is the encoding of exactly one batch.
// Fields that a kind does not have can't be written down.
const batchVersion = 1

// decodeAhead is for how many commands DecodeBatch has room at once: most batches hold no more.
const decodeAhead = 1040

var (
	// ErrCorrupt is returned by DecodeBatch, DecodeCommand and Restore for bytes that no version of
	// this package wrote: damaged, cut short, continued, or contradicting themselves.
	ErrCorrupt = errors.New("corrupt")
	// ErrUnknownVersion is returned by DecodeBatch and Restore for bytes of a format version or
	// feature level that this build does not know: a newer build may.
	ErrUnknownVersion = errors.New("unknown version")
)

// AppendBinary appends the encoding of b to dst. It fails with ErrMalformed, and leaves dst as it
// was, when a command is malformed. It does not judge b.Level.
func (b Batch) AppendBinary(dst []byte) ([]byte, error) {
	out := append(dst, batchVersion, b.Level)
	out = binary.AppendUvarint(out, b.Stamp)
	out = binary.AppendUvarint(out, uint64(len(b.Commands)))
	for i := range b.Commands {
		var err error
		if out, err = AppendCommand(out, &b.Commands[i]); err != nil {
			return dst, fmt.Errorf("command %d: %w", i, err)
		}
	}
	if err := validateTogether(b.Commands); err != nil {
		return dst, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return out, nil
}

// AppendCommand appends the encoding of one command, as it stands in a batch, to dst. It fails with
// ErrMalformed, and leaves dst as it was, when c is malformed.
func AppendCommand(dst []byte, c *Command) ([]byte, error) {
	if err := c.validate(); err != nil {
		return dst, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	out := dst
	if c.extended() {
		out = appendExtension(out, c)
	} else {
		out = append(out, byte(c.Kind))
	}
	switch c.Kind {
	case KindPut, KindAppend:
		out = appendCond(out, c.Cond)
		out = appendBytes(out, c.Key)
		out = binary.AppendUvarint(out, c.TTL)
		out = appendBytes(out, c.ContentType)
		out = appendBytes(out, c.Value)
	case KindDelete:
		out = appendCond(out, c.Cond)
		out = appendBytes(out, c.Key)
	case KindIncr:
		out = appendCond(out, c.Cond)
		out = appendBytes(out, c.Key)
		out = binary.AppendUvarint(out, c.TTL)
		out = binary.AppendVarint(out, c.Delta)
	case KindExpire:
		out = appendCond(out, c.Cond)
		out = appendBytes(out, c.Key)
		out = binary.AppendUvarint(out, c.TTL)
	case KindTouch, KindGet:
		out = appendBytes(out, c.Key)
	case KindAtomic:
		out = binary.AppendUvarint(out, uint64(c.Ops))
	case KindTouches:
		out = appendBytes(out, c.Touches)
	case KindFlush:
	case KindDeletePrefix:
		out = appendBytes(out, c.Key)
		out = binary.AppendUvarint(out, uint64(c.Slots.Start))
		out = binary.AppendUvarint(out, uint64(c.Slots.End))
		out = append(out, c.PartBits)
		out = binary.AppendUvarint(out, uint64(c.Part))
		out = binary.AppendUvarint(out, c.Version)
	case KindGrant:
		g := &c.Grant
		out = binary.AppendUvarint(out, uint64(g.Range.Start))
		out = binary.AppendUvarint(out, uint64(g.Range.End))
		out = binary.AppendUvarint(out, g.Epoch)
		out = binary.AppendUvarint(out, g.Generation)
		out = binary.AppendUvarint(out, uint64(g.VersionBits))
		out = binary.AppendUvarint(out, g.Limit)
		out = binary.AppendUvarint(out, g.TableVersion)
	case KindLimit:
		out = binary.AppendUvarint(out, c.Limit)
		out = binary.AppendUvarint(out, c.TableVersion)
	case KindLevel:
		out = append(out, c.Level)
		if c.Level >= 2 {
			out = binary.AppendUvarint(out, c.Seed)
		}
	default:
		out = appendTransfer(out, c)
	}
	return out, nil
}

// Flags of an extended command.
const (
	extendedBit    = 0x80
	flagIdempotent = 1
	flagReturnOld  = 2
	flagDefaultTTL = 4
)

func appendExtension(dst []byte, c *Command) []byte {
	flags := byte(0)
	if c.IdempotencyKey != "" {
		flags |= flagIdempotent
	}
	if c.ReturnOld {
		flags |= flagReturnOld
	}
	if c.DefaultTTL {
		flags |= flagDefaultTTL
	}
	dst = append(dst, extendedBit|byte(c.Kind), flags)
	if flags&flagIdempotent != 0 {
		dst = appendBytes(dst, c.Caller)
		dst = appendBytes(dst, c.IdempotencyKey)
	}
	return dst
}

func appendCond(dst []byte, c Cond) []byte {
	dst = append(dst, byte(c.Kind))
	if c.Kind >= CondVersion {
		dst = binary.AppendUvarint(dst, c.Version)
	}
	return dst
}

func appendBytes[B []byte | string](dst []byte, b B) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(b)))
	return append(dst, b...)
}

// DecodeBatch decodes what AppendBinary wrote, and nothing else: ErrUnknownVersion when data has
// another format version or a level above MaxLevel, ErrCorrupt for everything else that is not the
// encoding of a batch. Keys and values of the result alias data.
func DecodeBatch(data []byte) (Batch, error) {
	d := decoder{rest: data}
	if version := d.byte("format version"); d.err == nil && version != batchVersion {
		return Batch{}, fmt.Errorf("%w: batch format %d, this build knows %d", ErrUnknownVersion, version, batchVersion)
	}
	var b Batch
	b.Level = d.byte("level")
	if d.err == nil && b.Level > MaxLevel {
		return Batch{}, fmt.Errorf("%w: batch of level %d, this build knows %d", ErrUnknownVersion, b.Level, MaxLevel)
	}
	b.Stamp = d.uvarint("stamp")
	count := d.uvarint("count")
	// No command is shorter than a byte, so count can't ask for more than data holds.
	if d.err == nil && count > uint64(len(d.rest)) {
		d.fail("count %d with %d bytes left", count, len(d.rest))
	}
	if d.err == nil && count > 0 {
		// A command takes far more memory than a byte: what count claims is believed as far as commands come.
		b.Commands = make([]Command, 0, min(count, decodeAhead+uint64(len(d.rest))/uint64(unsafe.Sizeof(Command{}))))
	}
	for i := uint64(0); d.err == nil && i < count; i++ {
		b.Commands = append(b.Commands, Command{})
		if d.command(&b.Commands[i]); d.err != nil {
			return Batch{}, fmt.Errorf("command %d: %w", i, d.err)
		}
	}
	if d.err == nil && len(d.rest) > 0 {
		d.fail("%d bytes after the last command", len(d.rest))
	}
	if d.err == nil {
		if err := validateTogether(b.Commands); err != nil {
			d.fail("%v", err)
		}
	}
	if d.err != nil {
		return Batch{}, d.err
	}
	return b, nil
}

// DecodeCommand decodes what AppendCommand wrote at the start of data, and returns what follows it.
// It fails with ErrCorrupt. Key and value of the result alias data.
func DecodeCommand(data []byte) (c Command, rest []byte, err error) {
	d := decoder{rest: data}
	if d.command(&c); d.err != nil {
		return Command{}, nil, d.err
	}
	return c, d.rest, nil
}

// decoder takes values off the front of rest. After the first failure, which err keeps, it returns
// zero values.
type decoder struct {
	rest []byte
	err  error
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrCorrupt, fmt.Sprintf(format, args...))
	}
	d.rest = nil
}

func (d *decoder) byte(what string) byte {
	if len(d.rest) == 0 {
		d.fail("cut short at %s", what)
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uvarint(what string) uint64 {
	v, n := binary.Uvarint(d.rest)
	switch {
	case n == 0:
		d.fail("cut short at %s", what)
		return 0
	case n < 0:
		d.fail("%s does not fit in 64 bits", what)
		return 0
	case n > 1 && d.rest[n-1] == 0:
		d.fail("%s is not in its shortest form", what)
		return 0
	}
	d.rest = d.rest[n:]
	return v
}

func (d *decoder) uvarint32(what string) uint32 {
	v := d.uvarint(what)
	if v > 1<<32-1 {
		d.fail("%s %d is out of bounds", what, v)
		return 0
	}
	return uint32(v)
}

// bytes returns nil for a length of 0. The result has no spare capacity, so that appending to it
// can't write into data.
func (d *decoder) bytes(what string) []byte {
	n := d.uvarint(what)
	if n > uint64(len(d.rest)) {
		d.fail("%s of %d bytes with %d left", what, n, len(d.rest))
	}
	if n == 0 || d.err != nil {
		return nil
	}
	b := d.rest[:n:n]
	d.rest = d.rest[n:]
	return b
}

func (d *decoder) cond() Cond {
	c := Cond{Kind: CondKind(d.byte("condition"))}
	if c.Kind >= CondVersion {
		c.Version = d.uvarint("condition's version")
	}
	return c
}

func (d *decoder) command(c *Command) {
	kind := d.byte("kind")
	c.Kind = Kind(kind &^ extendedBit)
	if kind&extendedBit != 0 {
		d.extension(c)
	}
	switch c.Kind {
	case KindPut, KindAppend:
		c.Cond = d.cond()
		c.Key = d.bytes("key")
		c.TTL = d.uvarint("ttl")
		c.ContentType = string(d.bytes("content type"))
		c.Value = d.bytes("value")
	case KindDelete:
		c.Cond = d.cond()
		c.Key = d.bytes("key")
	case KindIncr:
		c.Cond = d.cond()
		c.Key = d.bytes("key")
		c.TTL = d.uvarint("ttl")
		zigzag := d.uvarint("delta")
		c.Delta = int64(zigzag>>1) ^ -int64(zigzag&1)
	case KindExpire:
		c.Cond = d.cond()
		c.Key = d.bytes("key")
		c.TTL = d.uvarint("ttl")
	case KindTouch, KindGet:
		c.Key = d.bytes("key")
	case KindAtomic:
		c.Ops = d.uvarint32("ops")
	case KindTouches:
		c.Touches = d.bytes("touches")
	case KindFlush:
	case KindDeletePrefix:
		c.Key = d.bytes("prefix")
		c.Slots.Start = d.uvarint32("slots' start")
		c.Slots.End = d.uvarint32("slots' end")
		c.PartBits = d.byte("part bits")
		c.Part = d.uvarint32("part")
		c.Version = d.uvarint("version")
	case KindGrant:
		g := &c.Grant
		g.Range.Start = d.uvarint32("range start")
		g.Range.End = d.uvarint32("range end")
		g.Epoch = d.uvarint("epoch")
		g.Generation = d.uvarint("generation")
		g.VersionBits = d.uvarint32("version bits")
		g.Limit = d.uvarint("limit")
		g.TableVersion = d.uvarint("table version")
	case KindLimit:
		c.Limit = d.uvarint("limit")
		c.TableVersion = d.uvarint("table version")
	case KindLevel:
		if c.Level = d.byte("level"); c.Level >= 2 {
			c.Seed = d.uvarint("seed")
		}
	case KindBegin, KindChunk, KindSeal, KindAccept, KindRefuse, KindSettle, KindVoid, KindClose:
		d.transfer(c)
	}
	if d.err != nil {
		return
	}
	if err := c.validate(); err != nil {
		d.fail("%v", err)
	}
}

func (d *decoder) extension(c *Command) {
	flags := d.byte("flags")
	if d.err == nil && (flags == 0 || flags > flagIdempotent|flagReturnOld|flagDefaultTTL) {
		d.fail("flags %d", flags)
		return
	}
	c.ReturnOld, c.DefaultTTL = flags&flagReturnOld != 0, flags&flagDefaultTTL != 0
	if flags&flagIdempotent != 0 {
		c.Caller = string(d.bytes("caller"))
		if c.IdempotencyKey = string(d.bytes("idempotency key")); d.err == nil && c.IdempotencyKey == "" {
			d.fail("no idempotency key")
		}
	}
}
