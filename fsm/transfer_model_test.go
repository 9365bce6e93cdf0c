package fsm

import (
	"bytes"
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// side is one shard: a machine, and one that is replaced by its own restored snapshot now and then.
type side struct {
	name               string
	straight, restored *Machine
	index              uint64
}

func (s *side) run(t *rapid.T, stamp uint64, commands ...Command) []Result {
	s.index++
	data, err := Batch{Stamp: stamp, Commands: commands}.AppendBinary(nil)
	if err != nil {
		t.Fatal(err)
	}
	var results [2][]Result
	for i, m := range []*Machine{s.straight, s.restored} {
		b, err := DecodeBatch(bytes.Clone(data))
		if err != nil {
			t.Fatal(err)
		}
		if results[i], err = m.Apply(s.index, b); err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
	}
	if !slices.EqualFunc(results[0], results[1], sameResult) {
		t.Fatalf("%s: results %+v, restored %+v", s.name, results[0], results[1])
	}
	return results[0]
}

func (s *side) restore(t *rapid.T) {
	var image bytes.Buffer
	if _, err := s.restored.Snapshot().WriteTo(&image); err != nil {
		t.Fatal(err)
	}
	var again bytes.Buffer
	m, err := Restore(bytes.NewReader(image.Bytes()))
	if err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	if m.Snapshot().WriteTo(&again); !bytes.Equal(image.Bytes(), again.Bytes()) {
		t.Fatalf("%s: a restored snapshot is another one", s.name)
	}
	s.restored = m
}

// transferModel moves a range to and fro between two shards, by drivers that die and repeat themselves, while clients use both.
type transferModel struct {
	sides [2]*side
	stamp uint64
	bits  uint32

	id, attempt uint64
	from        int // of sides: the source
	rng         Range
	copy        *Copy
	seq         uint64
	chunk       []byte // not taken yet
	sealed      bool   // and the rest is being sent
	complete    bool
	flushed     bool // the target, since the attempt began
	atSeal      []twinEntry
	had         Sealed

	sent   [2][]Command      // commands of transfers, by the side that they went to
	truth  map[string]string // what was written last; "": nothing
	done   map[string]bool   // idempotency keys under which something was changed
	once   []Command
	counts map[string]int
	checks int
}

var transferCounts = map[string]int{}

// TestTransferModel ensures that a range that moves between two shards, with deletions, evictions, expiry, idempotency keys and drivers that die and repeat
// what they sent, is answered by one shard at most, with what was written last or nothing; that what is done once stays so; and that all replicas agree.
func TestTransferModel(t *testing.T) {
	clear(transferCounts)
	defer func(before struct{ dropped, walked int }) { steps = before }(steps)
	runs := 0
	rapid.Check(t, func(t *rapid.T) {
		if runs++; testing.Short() && runs > 30 {
			return
		}
		m := &transferModel{stamp: epoch, bits: 10, truth: map[string]string{}, done: map[string]bool{}, counts: transferCounts}
		steps.dropped, steps.walked = rapid.IntRange(1, 5).Draw(t, "dropped"), rapid.IntRange(1, 5).Draw(t, "walked")
		split := rapid.Bool().Draw(t, "split")
		roomy := rapid.Bool().Draw(t, "roomy")
		for i := range m.sides {
			s := &side{name: []string{"a", "b"}[i], straight: New(), restored: New()}
			m.sides[i] = s
			limit := uint64(1 << 20)
			if !roomy {
				limit = rapid.Uint64Range(2000, 8000).Draw(t, "limit")
			}
			s.run(t, 0, Command{Kind: KindLevel, Level: 4, Seed: rapid.Uint64().Draw(t, "seed")})
			if split && i == 1 {
				s.run(t, 0, Command{Kind: KindLimit, Limit: limit, TableVersion: 1})
				continue
			}
			r := Range{0, Slots}
			if !split {
				r = []Range{{0, Slots / 2}, {Slots / 2, Slots}}[i]
			}
			s.run(t, epoch, Command{Kind: KindGrant, Grant: Grant{Range: r, Epoch: 1, Generation: 1, VersionBits: uint32(1 + i), Limit: limit, TableVersion: 1}})
		}
		t.Repeat(map[string]func(*rapid.T){
			"":      m.check,
			"write": m.write,
			"fill":  m.fill,
			"drive": m.driveOn, "drive 2": m.driveOn,
			"write 2": m.write, "fill 2": m.fill,
			"die":     m.die,
			"repeat":  m.repeat,
			"refuse":  m.refuse,
			"restore": func(t *rapid.T) { m.sides[rapid.IntRange(0, 1).Draw(t, "side")].restore(t) },
		})
	})
	t.Log(transferCounts)
	for _, what := range []string{"accepted", "busy", "repeated", "another attempt"} { // each dozens of times; the others are rare
		if transferCounts[what] == 0 && !testing.Short() {
			t.Errorf("nothing was %s", what)
		}
	}
}

func (m *transferModel) source() *side { return m.sides[m.from] }
func (m *transferModel) target() *side { return m.sides[1-m.from] }

// to proposes a command of a transfer.
func (m *transferModel) to(t *rapid.T, s *side, c Command) Result {
	i := slices.Index(m.sides[:], s)
	m.sent[i] = append(m.sent[i], c)
	return s.run(t, m.stamp, c)[0]
}

// driveOn does some steps of a transfer.
func (m *transferModel) driveOn(t *rapid.T) {
	for range rapid.IntRange(1, 4).Draw(t, "steps") {
		m.drive(t)
	}
}

// fill writes what may need more room than there is.
func (m *transferModel) fill(t *rapid.T) {
	s := m.sides[rapid.IntRange(0, 1).Draw(t, "side")]
	owned := s.straight.owned
	var commands []Command
	for i := range rapid.IntRange(1, 30).Draw(t, "puts") {
		commands = append(commands, Command{Kind: KindPut, Key: fmt.Appendf(nil, "f%d", i), Value: fmt.Appendf(nil, "%090d", m.stamp)})
	}
	for i, r := range s.run(t, m.stamp, commands...) {
		m.learn(t, s, owned, commands[i], r)
	}
}

// drive does the next step of a transfer.
func (m *transferModel) drive(t *rapid.T) {
	s, target := m.source(), m.target()
	tr := func() *Transfer { return &Transfer{ID: m.id} }
	switch {
	case m.id == 0 || m.rng == Range{}:
		m.choose(t)
	case m.copy == nil:
		begin := tr()
		begin.Range, begin.Attempt, begin.Generation, begin.VersionBits = m.rng, m.attempt, 1, m.bits
		switch r := m.to(t, target, Command{Kind: KindBegin, Transfer: begin}); r.Status {
		case StatusOK:
			m.copy, m.seq, m.chunk, m.sealed, m.complete, m.flushed = s.straight.StartCopy(m.rng), 0, nil, false, false, false
		case StatusBusy:
			m.counts["busy"]++
		case StatusRefused:
			m.end(t, OutcomeRefused)
		default:
			t.Fatalf("begin: %+v; target %+v", r, target.straight.Moving())
		}
	case m.chunk == nil && !m.complete:
		if m.chunk = m.copy.Next(rapid.IntRange(1, 2000).Draw(t, "size")); m.chunk != nil {
			m.countItems()
			return
		}
		switch {
		case m.sealed:
			m.complete = true
		case rapid.IntRange(0, 4).Draw(t, "seal") == 0:
			seal := tr()
			seal.Range, seal.Target = m.rng, 77
			atSeal := entriesOf(s.straight)
			switch r := m.to(t, s, Command{Kind: KindSeal, Transfer: seal}); r.Status {
			case StatusOK:
				m.sealed = true
				m.had = s.straight.Moving().Had
				// What expires with the very entry of the seal was there when it was sealed.
				m.atSeal = atSeal
			case StatusBusy:
				m.counts["busy"]++
			case StatusRefused:
				m.end(t, OutcomeRefused)
			default:
				t.Fatalf("seal: %+v", r)
			}
		default:
			if _, err := s.straight.CaptureCopy(m.copy); err != nil {
				m.again()
			}
		}
	case m.chunk != nil:
		c := Command{Kind: KindChunk, Value: m.chunk, Transfer: &Transfer{ID: m.id, Attempt: m.attempt, Seq: m.seq + 1}}
		switch r := m.to(t, target, c); r.Status {
		case StatusOK:
			m.seq, m.chunk = m.seq+1, nil
		case StatusBusy:
			m.counts["busy"]++
		case StatusStale: // spoiled by a flush
			if !target.straight.Moving().Spoiled || !m.flushed {
				t.Fatalf("chunk: %+v, target %+v", r, target.straight.Moving())
			}
			if m.sealed { // too late for another attempt: it will be refused
				m.chunk, m.complete = nil, true
				s.straight.StopCopy(m.copy)
				return
			}
			m.again()
		case StatusRefused:
			m.end(t, OutcomeRefused)
		default:
			t.Fatalf("chunk: %+v", r)
		}
	default:
		in := target.straight.moves.In
		accept := tr()
		accept.Sealed = s.straight.Moving().Had
		switch r := m.to(t, target, Command{Kind: KindAccept, Transfer: accept}); r.Status {
		case StatusAccepted:
			m.accepted(t, in)
			m.end(t, OutcomeAccepted)
		case StatusBusy:
			m.counts["busy"]++
		case StatusRefused:
			if (in.Spoiled == 0 || !m.flushed) && in.State == OutcomeStaging && s.straight.copying == m.copy && m.copy.Sealed() {
				t.Fatalf("refused for nothing: source %+v\ntarget %+v", s.straight.Moving(), in)
			}
			m.end(t, OutcomeRefused)
		default:
			t.Fatalf("accept: %+v", r)
		}
	}
}

func (m *transferModel) countItems() {
	for rest := m.chunk; len(rest) > 0; {
		var it item
		if it, rest, _ = nextItem(rest); it.what == itemUsed {
			m.counts["used"]++
		}
	}
}

// accepted checks that the target has what the source had when it sealed, in its place, less what it counted as lost.
func (m *transferModel) accepted(t *rapid.T, in incoming) {
	now := entriesOf(m.target().straight)
	var moved []twinEntry
	for _, e := range m.atSeal {
		if m.rng.Contains(Slot([]byte(e.key))) {
			moved = append(moved, e)
		}
	}
	lost := in.Lost[kindEntry].Count
	if lost == 0 {
		m.counts["accepted in full"]++
	} else {
		m.counts["accepted with losses"]++
	}
	found := 0
	for _, e := range now {
		if !m.rng.Contains(Slot([]byte(e.key))) {
			continue
		}
		if !slices.Contains(moved, e) {
			t.Fatalf("%+v was accepted, and not there", e)
		}
		found++
	}
	// Some may have expired or been evicted with the very entry of the acceptance.
	stats := m.target().straight.Stats()
	if gone := stats.Evictions + stats.Expirations; found+int(lost) != len(moved) && gone == 0 {
		t.Fatalf("%d of %d are here, %d were lost", found, len(moved), lost)
	}
}

// choose opens a transfer.
func (m *transferModel) choose(t *rapid.T) {
	m.from = rapid.IntRange(0, 1).Draw(t, "from")
	if m.source().straight.owned == (Range{}) {
		m.from = 1 - m.from
	}
	owned, other := m.source().straight.owned, m.target().straight.owned
	cut := owned.Start + (owned.End-owned.Start)*rapid.SampledFrom([]uint32{2, 1, 3, 4}).Draw(t, "cut")/4
	low := rapid.Bool().Draw(t, "low")
	if other != (Range{}) {
		low = other.End == owned.Start
	}
	if m.rng = (Range{owned.Start, cut}); !low {
		m.rng = Range{cut, owned.End}
	}
	if m.rng.Start == m.rng.End {
		m.rng = owned
	}
	m.id, m.attempt, m.copy = max(m.id, 1)+1, 1, nil
	m.bits++
}

// again begins another attempt.
func (m *transferModel) again() {
	m.source().straight.StopCopy(m.copy)
	m.copy, m.chunk, m.complete = nil, nil, false
	m.attempt++
	m.counts["another attempt"]++
}

// die loses the driver. One that comes when the source has sealed has nothing to send what is missing from, and may be refused.
func (m *transferModel) die(t *rapid.T) {
	if m.copy == nil || rapid.IntRange(0, 5).Draw(t, "rarely") > 0 {
		return
	}
	if m.sealed {
		m.source().straight.StopCopy(m.copy)
		m.complete, m.chunk = true, nil
		return
	}
	m.again()
}

// refuse has the driver give up.
func (m *transferModel) refuse(t *rapid.T) {
	if m.id == 0 || m.rng == (Range{}) || rapid.IntRange(0, 7).Draw(t, "rarely") > 0 {
		return
	}
	if !m.sealed {
		if r := m.to(t, m.source(), Command{Kind: KindVoid, Transfer: &Transfer{ID: m.id}}); r.Status != StatusRefused {
			t.Fatalf("void: %+v", r)
		}
		m.to(t, m.target(), Command{Kind: KindClose, Transfer: &Transfer{ID: m.id, Outcome: OutcomeRefused}})
		m.end(t, 0)
		return
	}
	if r := m.to(t, m.target(), Command{Kind: KindRefuse, Transfer: &Transfer{ID: m.id}}); r.Status != StatusRefused {
		t.Fatalf("refuse: %+v", r)
	}
	m.end(t, OutcomeRefused)
}

// end settles.
func (m *transferModel) end(t *rapid.T, how Outcome) {
	if how != 0 && m.sealed {
		if r := m.to(t, m.source(), Command{Kind: KindSettle, Transfer: &Transfer{ID: m.id, Outcome: how}}); r.Status != how.status() {
			t.Fatalf("settle: %+v", r)
		}
		m.to(t, m.target(), Command{Kind: KindClose, Transfer: &Transfer{ID: m.id, Outcome: how}})
		if how == OutcomeAccepted {
			m.counts["accepted"]++
		} else {
			m.counts["refused"]++
		}
	}
	if m.copy != nil {
		m.source().straight.StopCopy(m.copy)
	}
	m.rng, m.copy, m.chunk, m.sealed, m.complete = Range{}, nil, nil, false, false
}

// repeat sends again what was sent before.
func (m *transferModel) repeat(t *rapid.T) {
	i := rapid.IntRange(0, 1).Draw(t, "side")
	if len(m.sent[i]) == 0 {
		return
	}
	c := m.sent[i][len(m.sent[i])-1-rapid.IntRange(0, min(12, len(m.sent[i])-1)).Draw(t, "which")]
	if c.Transfer.ID == m.id && !m.sealed && c.Kind != KindChunk && c.Kind != KindBegin {
		return // of this transfer that would be a step that nobody may take yet
	}
	if c.Transfer.ID == m.id && (c.Kind == KindChunk || c.Kind == KindBegin) && c.Transfer.Attempt == m.attempt && m.copy == nil {
		return // likewise
	}
	if c.Transfer.ID == m.id && (c.Kind == KindAccept || c.Kind == KindRefuse || c.Kind == KindSettle || c.Kind == KindClose) {
		return
	}
	m.counts["repeated"]++
	m.sides[i].run(t, m.stamp, c)
}

// write has clients use a shard.
func (m *transferModel) write(t *rapid.T) {
	m.stamp += rapid.SampledFrom([]uint64{0, 0, 1, 40, 700}).Draw(t, "later")
	s := m.sides[rapid.IntRange(0, 1).Draw(t, "side")]
	key := func() []byte {
		return []byte(rapid.SampledFrom([]string{"k", "{t}", "{u}"}).Draw(t, "tag") + fmt.Sprint(rapid.IntRange(0, 12).Draw(t, "key")))
	}
	ttl := rapid.SampledFrom([]uint64{0, 0, 0, 30, 900})
	var commands []Command
	for range rapid.IntRange(1, 6).Draw(t, "commands") {
		var c Command
		switch rapid.SampledFrom([]string{"put", "put", "put", "delete", "incr", "incr", "again", "expire", "touch", "touches", "prefix", "flush", "get"}).Draw(t, "kind") {
		case "put":
			c = Command{Kind: KindPut, Key: key(), Value: bytes.Repeat([]byte("v"), rapid.IntRange(0, 90).Draw(t, "length")), TTL: ttl.Draw(t, "ttl")}
			c.Value = fmt.Appendf(c.Value, "%d", rapid.IntRange(0, 1000).Draw(t, "value"))
			if rapid.IntRange(0, 3).Draw(t, "keyed") == 0 {
				c.IdempotencyKey = fmt.Sprintf("%d-%d", m.stamp, len(m.once))
				m.once = append(m.once, c)
			}
		case "delete":
			c = Command{Kind: KindDelete, Key: key()}
		case "incr":
			c = Command{Kind: KindIncr, Key: append(key(), 'n'), Delta: 1, IdempotencyKey: fmt.Sprintf("%d-%d", m.stamp, len(m.once))}
			m.once = append(m.once, c)
		case "again":
			if len(m.once) == 0 {
				continue
			}
			c = m.once[rapid.IntRange(max(0, len(m.once)-10), len(m.once)-1).Draw(t, "which")]
		case "expire":
			c = Command{Kind: KindExpire, Key: key(), TTL: ttl.Draw(t, "ttl")}
		case "touch":
			c = Command{Kind: KindTouch, Key: key()}
		case "touches":
			c = Command{Kind: KindTouches}
			for range 3 {
				c.Touches = AppendTouch(c.Touches, s.straight.TouchOf(key()))
			}
		case "prefix":
			c = Command{Kind: KindDeletePrefix, Key: key(), Slots: Range{0, Slots}, Version: 1<<64 - 1}
		case "flush":
			if rapid.IntRange(0, 9).Draw(t, "rarely") > 0 {
				continue
			}
			c = Command{Kind: KindFlush}
		case "get":
			c = Command{Kind: KindGet, Key: key()}
		}
		commands = append(commands, c)
	}
	owned := s.straight.owned
	results := s.run(t, m.stamp, commands...)
	for i, c := range commands {
		m.learn(t, s, owned, c, results[i])
	}
}

// learn notes what a command has done.
func (m *transferModel) learn(t *rapid.T, s *side, owned Range, c Command, r Result) {
	if c.keyed() && !owned.Contains(Slot(c.Key)) && r.Status != StatusNotOwner {
		t.Fatalf("%s does not own %q and says %+v", s.name, c.Key, r)
	}
	if r.Status != StatusOK {
		return
	}
	if c.IdempotencyKey != "" {
		if r.Replayed {
			m.counts["replayed"]++
			return
		}
		if m.done[c.IdempotencyKey] {
			t.Fatalf("%s: %q was done twice", s.name, c.IdempotencyKey)
		}
		m.done[c.IdempotencyKey] = true
	}
	switch c.Kind {
	case KindPut:
		m.truth[string(c.Key)] = string(c.Value)
	case KindIncr:
		m.truth[string(c.Key)] = string(r.Value)
	case KindDelete:
		m.truth[string(c.Key)] = ""
	case KindGet:
		if r.Existed && string(r.Value) != m.truth[string(c.Key)] {
			t.Fatalf("%s: %q is %q, want %q", s.name, c.Key, r.Value, m.truth[string(c.Key)])
		}
	case KindFlush, KindDeletePrefix:
		m.flushed = m.flushed || c.Kind == KindFlush && s == m.target()
		for key := range m.truth {
			if owned.Contains(Slot([]byte(key))) && (c.Kind == KindFlush || bytes.HasPrefix([]byte(key), c.Key)) {
				m.truth[key] = ""
			}
		}
	}
}

func (m *transferModel) check(t *rapid.T) {
	for key, want := range m.truth {
		answered := 0
		for _, s := range m.sides {
			l := s.straight.Lookup([]byte(key))
			if l.Owned {
				answered++
			}
			if l.Found && string(l.Entry.Value) != want {
				t.Fatalf("%s: %q is %q, want %q or nothing", s.name, key, l.Entry.Value, want)
			}
		}
		if answered > 1 {
			t.Fatalf("two shards answer for %q", key)
		}
		if !m.sealed && m.rng == (Range{}) && answered == 0 {
			t.Fatalf("nobody answers for %q", key)
		}
	}
	if m.checks++; m.checks%4 != 0 {
		return // as in TestModel, a difference stays
	}
	for _, s := range m.sides {
		if s.straight.Checksum() != s.restored.Checksum() {
			t.Fatalf("%s: the checksums differ:\n%+v\n%+v", s.name, s.straight.header, s.restored.header)
		}
		checkInvariants(t, s.straight)
		checkInvariants(t, s.restored)
	}
}
