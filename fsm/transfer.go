package fsm

import (
	"encoding/binary"
	"fmt"

	"github.com/zeebo/xxh3"
)

// Transfer is what the commands say that move a range of slots from one machine, the source, to another, the target (R20 to R23).
// A transfer has an id; ids only grow, and say nothing to a machine in which a higher one has begun or ended.
//
// The target has begun, staged what the source had, and accepted or refused; the source has sealed, and settled by what the target
// decided. What is staged is stored like any entry, in its place of the order, and is evicted, expires and is forgotten with all
// else; but nobody is answered from it. What leaves that way still counts as received (incoming.Lost): the target accepts if all
// that it received, less what it heard is gone from the source, sums up to what the source had when it sealed.
type Transfer struct {
	ID uint64 // the table version of the directory's intent; the epoch that both have afterwards

	Range       Range   // begin, seal
	Attempt     uint64  // begin, chunk: which of them it is; a higher one has the target begin anew
	Generation  uint64  // begin: of the target
	VersionBits uint32  // begin: granted for this; above what either has
	Seq         uint64  // chunk: counted from 1
	Target      uint64  // seal: the shard that the range goes to
	Sealed      Sealed  // accept: what the source had
	Outcome     Outcome // settle, close
}

// Outcome is how a transfer has ended, or how far it is at the target.
type Outcome uint8

const (
	// OutcomeAccepted: the target owns the range.
	OutcomeAccepted Outcome = 1
	// OutcomeRefused: the source does.
	OutcomeRefused Outcome = 2
	// OutcomeStaging: not decided.
	OutcomeStaging Outcome = 3
)

// Sum sums up entries, or idempotency records, so that two machines can compare what they have (R8).
type Sum struct {
	Count, Payload uint64
	Content, Order [2]uint64
}

// Sealed is what a source had when it sealed a range.
type Sealed struct {
	Range                  Range
	Entries, Timed, Opaque Sum
	Gone                   [2]uint64 // of the highest versions that are gone from each slot
	Clock, Version         uint64
	Recency, Horizon       uint64
	Tokens                 uint64 // the least fill token that it took
}

// moves is what a machine knows of transfers. It is encoded field by field (encoding/binary).
type moves struct {
	Out outgoing
	In  incoming
	// Dropping are slots that are not owned any more, or are staged in vain: what is stored of them goes, step by step, in the order of recency:
	// of the store DropStore all up to the stamp Dropped is gone.
	Dropping  Range
	DropStore uint64
	Dropped   uint64
	// Tokens is the least fill token that may be taken: what became of slots before is not known.
	Tokens uint64
}

// outgoing is the source's part.
type outgoing struct {
	ID     uint64 // of the transfer that Sealed.Range is sealed for; 0: none
	Target uint64
	Sealed Sealed
	// Past is the highest id that has ended here, and How, MovedTo and Moved what it did.
	Past    uint64
	How     Outcome
	MovedTo uint64
	Moved   Range
}

// incoming is the target's part.
type incoming struct {
	ID          uint64 // the highest one that has begun or ended here
	Attempt     uint64
	State       Outcome // 0: none has begun
	Range       Range
	Generation  uint64
	VersionBits uint64
	Seq         uint64    // of the last chunk that is staged whole
	Part        uint64    // items of the next one that are staged
	Spoiled     uint64    // 1: what was staged is gone, and has to be staged anew
	Reach       [3]uint64 // of each store, the stamp behind which the next item is looked for
	Lost        [3]Sum    // of each store, what was received and is not here any more
}

// storeKind names a store of a machine.
type storeKind uint64

const (
	kindEntry storeKind = iota
	kindTimed
	kindOpaque
	storeKinds
)

func (m *Machine) storeOf(k storeKind) *store {
	switch k {
	case kindTimed:
		return m.keys.timed
	case kindOpaque:
		return m.keys.opaque
	}
	return m.store
}

// sealed reports whether slot, which is owned, is about to go.
func (m *Machine) sealed(slot uint16) bool {
	return m.moves.Out.ID != 0 && m.moves.Out.Sealed.Range.Contains(slot)
}

// staged reports whether what is stored of slot is staged.
func (m *Machine) staged(slot uint16) bool {
	return m.moves.In.State == OutcomeStaging && m.moves.In.Range.Contains(slot) && !m.moves.Dropping.Contains(slot)
}

// moving reports whether a part of what is stored is on its way.
func (m *Machine) moving() bool {
	return m.moves.Out.ID != 0 || m.moves.In.State == OutcomeStaging || m.moves.Dropping != Range{}
}

// stored are the slots of which there may be something: those that are owned, staged or dropped, and any between them.
func (h *header) stored() Range {
	all := h.owned
	if h.moves.In.State == OutcomeStaging {
		all = all.hull(h.moves.In.Range)
	}
	return all.hull(h.moves.Dropping)
}

// hull is the smallest range with the slots of both.
func (r Range) hull(o Range) Range {
	switch (Range{}) {
	case r:
		return o
	case o:
		return r
	}
	return Range{min(r.Start, o.Start), max(r.End, o.End)}
}

func (r Range) overlaps(o Range) bool { return r.Start < o.End && o.Start < r.End }

// begin is KindBegin.
func (m *Machine) begin(t *Transfer) Result {
	in := &m.moves.In
	switch {
	case t.ID < in.ID, t.ID == in.ID && t.Attempt < in.Attempt:
		return Result{Status: StatusStale}
	case t.ID == in.ID && in.State != OutcomeStaging:
		return Result{Status: in.State.status()}
	case t.ID == in.ID && t.Attempt == in.Attempt:
		return Result{Status: StatusOK}
	case m.moves.Out.ID != 0 || m.moves.Dropping != Range{}, m.tableVersion == 0: // without a limit nothing has room
		return Result{Status: StatusBusy}
	case t.Range.overlaps(m.owned), m.owned != Range{} && t.Range.End != m.owned.Start && t.Range.Start != m.owned.End,
		m.generation != 0 && m.generation != t.Generation, uint64(t.VersionBits) <= m.version>>counterBits:
		return Result{Status: StatusStale}
	}
	if in.State == OutcomeStaging {
		m.moves.Dropping = in.Range
	}
	*in = incoming{ID: t.ID, Attempt: t.Attempt, State: OutcomeStaging, Range: t.Range, Generation: t.Generation, VersionBits: uint64(t.VersionBits)}
	m.ownStored()
	return Result{Status: StatusOK}
}

// ownStored has the stores take what may be stored, with the marks at the beginning.
func (m *Machine) ownStored() {
	m.own(m.stored())
	for k := range storeKinds {
		m.storeOf(k).marks[markStaged] = 0
	}
}

func (o Outcome) status() Status {
	switch o {
	case OutcomeAccepted:
		return StatusAccepted
	case OutcomeRefused:
		return StatusRefused
	}
	return StatusStale
}

// seal is KindSeal. Of the same transfer again it is StatusOK, or how it has ended.
func (m *Machine) seal(t *Transfer) Result {
	out, r := &m.moves.Out, t.Range
	switch {
	case out.ID == t.ID:
		return Result{Status: StatusOK}
	case out.Past == t.ID:
		return Result{Status: out.How.status()}
	case out.Past > t.ID:
		return Result{Status: StatusStale}
	case m.moving():
		return Result{Status: StatusBusy}
	case !m.owned.hasEnd(r):
		return Result{Status: StatusStale}
	}
	out.ID, out.Target = t.ID, t.Target
	out.Sealed = Sealed{Range: r, Clock: m.clock, Version: m.version, Recency: m.recency, Horizon: m.horizon, Tokens: m.moves.Tokens}
	out.Sealed.sum(m)
	if c := m.copying; c != nil && c.r == r && !m.broken(c) {
		c.capture(m) // what is sealed may still be evicted, or expire
		c.sealed = !m.broken(c)
	}
	return Result{Status: StatusOK}
}

// sum sums up what m has of the range.
func (s *Sealed) sum(m *Machine) {
	s.Entries, s.Timed, s.Opaque = m.store.total(s.Range), m.keys.timed.total(s.Range), m.keys.opaque.total(s.Range)
	s.Gone = [2]uint64{}
	for slot := s.Range.Start; slot < s.Range.End; slot++ {
		if gone := m.store.gone(uint16(slot)); gone != 0 {
			var b [10]byte
			binary.LittleEndian.PutUint16(b[:], uint16(slot))
			binary.LittleEndian.PutUint64(b[2:], gone)
			h := xxh3.Hash128(b[:])
			s.Gone = add128(s.Gone, [2]uint64{h.Hi, h.Lo})
		}
	}
}

// total is the sum of the slots of r.
func (s *store) total(r Range) (sum Sum) {
	for slot := max(r.Start, s.owned.Start); slot < min(r.End, s.owned.End) && s.summed != nil; slot++ {
		of := &s.summed[slot-s.owned.Start]
		sum = sum.plus(Sum{uint64(of.entries), of.payload, of.content, of.order})
	}
	return sum
}

func (s Sum) plus(o Sum) Sum {
	return Sum{s.Count + o.Count, s.Payload + o.Payload, add128(s.Content, o.Content), add128(s.Order, o.Order)}
}

func (s Sum) minus(o Sum) Sum {
	return Sum{s.Count - o.Count, s.Payload - o.Payload, sub128(s.Content, o.Content), sub128(s.Order, o.Order)}
}

// sumOf is the sum of one entry with the given block.
func sumOf(block []byte, version, expireAt, stamp uint64) Sum {
	return Sum{1, uint64(len(block) - blockHeader), contentHash(block, version, expireAt), orderHash(version, stamp)}
}

// accept is KindAccept.
func (m *Machine) accept(t *Transfer) Result {
	in := &m.moves.In
	if t.ID != in.ID || in.State != OutcomeStaging {
		return m.refuse(t.ID)
	}
	if m.moves.Dropping != (Range{}) {
		return Result{Status: StatusBusy} // what another attempt has staged
	}
	here := Sealed{Range: in.Range, Clock: t.Sealed.Clock, Version: t.Sealed.Version, Recency: t.Sealed.Recency, Horizon: t.Sealed.Horizon, Tokens: t.Sealed.Tokens}
	here.sum(m)
	here.Entries, here.Timed, here.Opaque = here.Entries.plus(in.Lost[kindEntry]), here.Timed.plus(in.Lost[kindTimed]), here.Opaque.plus(in.Lost[kindOpaque])
	if here != t.Sealed || t.Sealed.Version>>counterBits >= in.VersionBits || m.version>>counterBits >= in.VersionBits ||
		m.generation > in.Generation || m.epoch > t.ID { // granted since
		return m.refuse(t.ID)
	}
	if m.owned == (Range{}) {
		m.moves.Tokens = t.Sealed.Tokens
		m.outdate(in.Range, 0)
	} else { // slots part as to which tokens may be taken
		m.outdate(m.owned, m.moves.Tokens)
		m.outdate(in.Range, t.Sealed.Tokens)
		m.moves.Tokens = 0
	}
	m.clock, m.recency, m.horizon = max(m.clock, t.Sealed.Clock), max(m.recency, t.Sealed.Recency), max(m.horizon, t.Sealed.Horizon)
	m.generation, m.epoch, m.version = in.Generation, t.ID, in.VersionBits<<counterBits
	m.owned = m.owned.hull(in.Range)
	m.moves.In = incoming{ID: t.ID, State: OutcomeAccepted}
	m.ownStored()
	return Result{Status: StatusAccepted}
}

// outdate says by what is gone from the slots of r that no token below least may be taken, and of a slot that was staged what was lost.
func (m *Machine) outdate(r Range, least uint64) {
	for slot := r.Start; slot < r.End; slot++ {
		sums := m.store.sumsOf(uint16(slot))
		sums.gone, sums.lost = max(sums.gone, sums.lost, least), 0
	}
}

// refuse is KindRefuse. Of what has ended it says how, of what is below nothing.
func (m *Machine) refuse(id uint64) Result {
	in := &m.moves.In
	switch {
	case id < in.ID:
		return Result{Status: StatusStale}
	case id == in.ID && in.State != OutcomeStaging:
		return Result{Status: in.State.status()}
	}
	m.unstage()
	m.moves.In = incoming{ID: id, State: OutcomeRefused}
	return Result{Status: StatusRefused}
}

// unstage has what is staged, if anything is, go.
func (m *Machine) unstage() {
	if in := &m.moves.In; in.State == OutcomeStaging && m.moves.Dropping == (Range{}) {
		m.moves.Dropping = in.Range // else nothing was staged since that is dropped
	}
}

// settle is KindSettle.
func (m *Machine) settle(t *Transfer) Result {
	out := &m.moves.Out
	switch {
	case out.ID == t.ID:
	case out.Past == t.ID:
		return Result{Status: out.How.status()}
	default:
		return Result{Status: StatusStale}
	}
	past := outgoing{Past: t.ID, How: t.Outcome}
	if t.Outcome == OutcomeAccepted {
		past.MovedTo, past.Moved = out.Target, out.Sealed.Range
		m.moves.Dropping = past.Moved
		m.owned, m.epoch = m.owned.without(past.Moved), max(m.epoch, t.ID)
	}
	*out = past
	return Result{Status: past.How.status()}
}

// hasEnd reports whether o is a part of r that has an end in common with it.
func (r Range) hasEnd(o Range) bool {
	return o.Start < o.End && r.Start <= o.Start && o.End <= r.End && (o.Start == r.Start || o.End == r.End)
}

// without is r less o, which has an end in common with it.
func (r Range) without(o Range) Range {
	switch {
	case r == o:
		return Range{}
	case r.Start == o.Start:
		return Range{o.End, r.End}
	}
	return Range{r.Start, o.Start}
}

// void is KindVoid.
func (m *Machine) void(id uint64) Result {
	out := &m.moves.Out
	switch {
	case out.ID == id:
		return Result{Status: StatusSealed}
	case out.Past == id:
		return Result{Status: out.How.status()}
	case out.Past > id || out.ID != 0:
		return Result{Status: StatusStale}
	}
	*out = outgoing{Past: id, How: OutcomeRefused}
	return Result{Status: StatusRefused}
}

// closeTransfer is KindClose.
func (m *Machine) closeTransfer(t *Transfer) Result {
	in := &m.moves.In
	if t.Outcome == OutcomeRefused {
		return m.refuse(t.ID)
	}
	if t.ID != in.ID {
		return Result{Status: StatusStale}
	}
	return Result{Status: in.State.status()}
}

// dropForeign drops what is stored of a slot that isn't owned. Nobody hears of it; what was staged counts as received.
func (m *Machine) dropForeign(k storeKind, r ref) {
	s := m.storeOf(k)
	if slot := s.slotOf(r); m.staged(slot) {
		version, expireAt, stamp := s.meta(r)
		in := &m.moves.In
		in.Lost[k] = in.Lost[k].plus(sumOf(s.arena.block(s.records.read(r).block()), version, expireAt, stamp))
		if k == kindEntry {
			sums := s.sumsOf(slot)
			sums.lost = max(sums.lost, version)
		}
	}
	s.drop(r)
}

// MaxDropped is how many entries and records the end of a batch looks at to drop what the machine does not own any more, of
// which it stops at MaxRemoved bytes.
const MaxDropped = 2048

// steps are bounds on what an entry does for transfers. They never change but in tests, which have all machines take smaller ones.
var steps = struct{ dropped, walked int }{MaxDropped, maxWalk}

// dropSome drops a part of what is to be dropped. How much depends on the order of recency alone, which is the same on all replicas; what is left
// counts, and may be evicted meanwhile.
func (m *Machine) dropSome() {
	mv := &m.moves
	if mv.Dropping == (Range{}) {
		return
	}
	removed, looked := 0, 0
	for mv.DropStore < uint64(storeKinds) {
		s := m.storeOf(storeKind(mv.DropStore))
		at := s.after(s.marks[markDropped])
		if at == 0 {
			s.marks[markDropped] = 0
			mv.DropStore, mv.Dropped = mv.DropStore+1, 0
			continue
		}
		stamp := s.records.read(at).stamp
		if (looked >= steps.dropped || removed >= MaxRemoved) && stamp != mv.Dropped {
			return // those of one stamp go together, as that is all that a snapshot says of how far it is
		}
		looked++
		mv.Dropped = stamp
		if mv.Dropping.Contains(s.slotOf(at)) {
			removed += s.sizeOf(at)
			s.drop(at)
		} else {
			s.marks[markDropped] = at
		}
		if looked%64 == 0 {
			s.tidy()
		}
	}
	m.keys.timed.tidy()
	m.keys.opaque.tidy()
	mv.Dropping, mv.DropStore = Range{}, 0
	m.own(m.owned)
	m.ownStored()
}

// Moving is a machine's account of transfers.
type Moving struct {
	// Sealed is the id of the transfer that it is sealed for, 0 for none, with the shard that it goes to and what there was.
	Sealed uint64
	Target uint64
	Had    Sealed
	// Settled is the highest id that has ended at this source, How, and what went where.
	Settled uint64
	How     Outcome
	Moved   Range
	MovedTo uint64
	// Current is the highest id that has begun or ended at this target, and State, Attempt, Seq and Spoiled how far it is.
	Current uint64
	State   Outcome
	Attempt uint64
	Seq     uint64
	Spoiled bool
	// Dropping are slots of which something may still be stored, though it is of no use any more.
	Dropping Range
}

// Moving returns the machine's account of transfers.
func (m *Machine) Moving() Moving {
	out, in := &m.moves.Out, &m.moves.In
	return Moving{
		Sealed: out.ID, Target: out.Target, Had: out.Sealed, Settled: out.Past, How: out.How, Moved: out.Moved, MovedTo: out.MovedTo,
		Current: in.ID, State: in.State, Attempt: in.Attempt, Seq: in.Seq, Spoiled: in.Spoiled != 0, Dropping: m.moves.Dropping,
	}
}

// validateTransfer is validate for the commands of transfers.
func (c *Command) validateTransfer() error {
	t := c.Transfer
	if t == nil || t.ID == 0 {
		return fmt.Errorf("kind %d without the id of a transfer", c.Kind)
	}
	may := Transfer{ID: t.ID}
	switch c.Kind {
	case KindBegin:
		may.Range, may.Attempt, may.Generation, may.VersionBits = t.Range, t.Attempt, t.Generation, t.VersionBits
		if t.VersionBits >= maxVersionBits || t.Generation == 0 {
			return fmt.Errorf("begin with version bits %d, generation %d", t.VersionBits, t.Generation)
		}
	case KindChunk:
		may.Attempt, may.Seq = t.Attempt, t.Seq
		if err := validateItems(c.Value); err != nil {
			return err
		}
	case KindSeal:
		may.Range, may.Target = t.Range, t.Target
	case KindAccept:
		if may.Sealed = t.Sealed; t.Sealed.Recency >= maxStamp || t.Sealed.Tokens > t.Sealed.Version {
			return fmt.Errorf("accept of recency %d, tokens from %d on, version %d", t.Sealed.Recency, t.Sealed.Tokens, t.Sealed.Version)
		}
	case KindSettle, KindClose:
		may.Outcome = t.Outcome
		if t.Outcome != OutcomeAccepted && t.Outcome != OutcomeRefused {
			return fmt.Errorf("outcome %d", t.Outcome)
		}
	}
	if (c.Kind == KindBegin || c.Kind == KindSeal) && (t.Range.Start >= t.Range.End || t.Range.End > Slots) {
		return fmt.Errorf("transfer of range [%d, %d)", t.Range.Start, t.Range.End)
	}
	if *t != may {
		return fmt.Errorf("a field of a transfer that kind %d does not have", c.Kind)
	}
	return nil
}

// appendTransfer appends what follows the kind.
func appendTransfer(out []byte, c *Command) []byte {
	t := c.Transfer
	out = binary.AppendUvarint(out, t.ID)
	switch c.Kind {
	case KindBegin:
		for _, n := range [...]uint64{t.Attempt, uint64(t.Range.Start), uint64(t.Range.End), t.Generation, uint64(t.VersionBits)} {
			out = binary.AppendUvarint(out, n)
		}
	case KindChunk:
		out = binary.AppendUvarint(out, t.Attempt)
		out = binary.AppendUvarint(out, t.Seq)
		out = appendBytes(out, c.Value)
	case KindSeal:
		for _, n := range [...]uint64{uint64(t.Range.Start), uint64(t.Range.End), t.Target} {
			out = binary.AppendUvarint(out, n)
		}
	case KindAccept:
		out, _ = binary.Append(out, binary.BigEndian, &t.Sealed) // of fixed size
	case KindSettle, KindClose:
		out = append(out, byte(t.Outcome))
	}
	return out
}

// sealedSize is the length of an encoded Sealed.
var sealedSize = binary.Size(Sealed{})

func (d *decoder) transfer(c *Command) {
	t := &Transfer{ID: d.uvarint("id of a transfer")}
	c.Transfer = t
	switch c.Kind {
	case KindBegin:
		t.Attempt = d.uvarint("attempt")
		t.Range.Start, t.Range.End = d.uvarint32("range start"), d.uvarint32("range end")
		t.Generation, t.VersionBits = d.uvarint("generation"), d.uvarint32("version bits")
	case KindChunk:
		t.Attempt, t.Seq = d.uvarint("attempt"), d.uvarint("seq")
		c.Value = d.bytes("items")
	case KindSeal:
		t.Range.Start, t.Range.End = d.uvarint32("range start"), d.uvarint32("range end")
		t.Target = d.uvarint("target")
	case KindAccept:
		if d.err == nil && len(d.rest) < sealedSize {
			d.fail("%d bytes of what was sealed", len(d.rest))
			return
		}
		if d.err == nil {
			binary.Decode(d.rest[:sealedSize], binary.BigEndian, &t.Sealed) // can't fail: as much is there
			d.rest = d.rest[sealedSize:]
		}
	case KindSettle, KindClose:
		t.Outcome = Outcome(d.byte("outcome"))
	}
}

// validate returns why no log leads to mv beside h, nil if one may.
func (mv *moves) validate(h *header) error {
	out, in := &mv.Out, &mv.In
	bad := func(r Range) bool { return r != Range{} && (r.Start >= r.End || r.End > Slots) }
	staging := in.State == OutcomeStaging
	switch {
	case bad(out.Sealed.Range) || bad(out.Moved) || bad(in.Range) || bad(mv.Dropping),
		out.How > OutcomeRefused, in.State > OutcomeStaging,
		out.ID != 0 && (out.ID <= out.Past || staging || mv.Dropping != Range{} || !h.owned.hasEnd(out.Sealed.Range)),
		out.ID == 0 && out.Sealed != Sealed{},
		staging && (in.Range == Range{} || h.owned.overlaps(in.Range)),
		!staging && *in != incoming{ID: in.ID, State: in.State}, (in.ID == 0) != (in.State == 0),
		in.Spoiled > 1, mv.DropStore >= uint64(storeKinds),
		mv.Dropping == Range{} && (mv.DropStore != 0 || mv.Dropped != 0),
		mv.Dropping.overlaps(h.owned), in.VersionBits >= maxVersionBits:
		return fmt.Errorf("%w: state of transfers", ErrCorrupt)
	}
	return nil
}
