package shard

import (
	"fmt"
	"hash/maphash"
	"slices"
	"strings"
	"testing"
)

// This file is a model of the protocol that rangetransfer.go describes, and walks through everything that can happen to it, within small bounds: every order of
// every step, with messages that come late, twice, or never, drivers that are replaced at any time, and shards that are lost and recovered.
//
// A driver keeps nothing that matters, so its death needs no step of its own: the next one may do whatever the last one could. A message that
// can be sent is taken as sent, and may be taken in at any time from then on, any number of times: what is under way is then a function of the past, and the walk has only to choose
// what happens next.

const (
	modelKeys      = 2
	modelTransfers = 2
	modelIndexes   = 7 // that a source may go through while it copies
)

// modelEntry is what a shard knows of a key; the zero value is that it has none.
type modelEntry struct{ version, touch uint8 }

type modelEntries [modelKeys]modelEntry

// vanished reports whether e is what f may have become by evictions.
func (e modelEntries) vanished(f modelEntries) bool {
	for k := range e {
		if e[k] != f[k] && e[k] != (modelEntry{}) {
			return false
		}
	}
	return true
}

// modelOutcome is what has become of a transfer.
type modelOutcome uint8

const (
	modelOpen modelOutcome = iota // none yet, or none that is remembered
	modelStaging
	modelAccepted
	modelRefused
	modelOrphan // T was recovered and doesn't know what it was
)

func (o modelOutcome) String() string {
	return [...]string{"open", "staging", "accepted", "refused", "orphan"}[o]
}

// modelShard is what a shard's log made of it.
type modelShard struct {
	lost    bool
	owns    bool // the range that is transferred to and fro
	entries modelEntries
	version uint8

	// As a source.
	sealed  uint8 // the transfer that it is sealed for
	atSeal  modelEntries
	settled uint8 // the last one that has ended here
	how     modelOutcome

	// As a target.
	current          uint8 // the last one that has begun here
	state            modelOutcome
	asOf             uint8 // the source's index that was staged last
	received, staged modelEntries
}

// serves reports whether it answers for the range.
func (s *modelShard) serves(b modelBug) bool {
	return !s.lost && s.owns && (s.sealed == 0 || b == bugNoFence)
}

// refuse ends the current transfer at its target.
func (s *modelShard) refuse() {
	s.state, s.asOf, s.received, s.staged = modelRefused, 0, modelEntries{}, modelEntries{}
}

// modelTransfer is one transfer: what the directory has recorded, and the messages of it that were sent.
type modelTransfer struct {
	source   uint8
	intended bool
	index    uint8                      // the source's
	copies   [modelIndexes]modelEntries // what a driver may have read at each
	sealed   bool                       // Accept and Refuse were sent
	atSeal   modelEntries
	version  uint8
	refuses  bool // Refuse was sent by the directory
	voids    bool // Void was sent
	answers  [5]bool
	reports  [5]bool      // how the source said that it settled, also in a former generation
	outcome  modelOutcome // how the directory says that it did, in Close
	closed   bool         // the target's answer to that
}

type modelState struct {
	shards    [2]modelShard
	transfers [modelTransfers + 1]modelTransfer

	// The directory.
	last, open uint8 // transfers
	owner      uint8
	outcome    modelOutcome // of the open one, as the source settled it

	truth   modelEntries // what a client must see
	highest uint8        // version that was given

	writes, touches, evictions, losses, aborts uint8 // that may still happen
}

func (s *modelState) source() *modelShard { return &s.shards[s.transfers[s.open].source] }
func (s *modelState) target() *modelShard { return &s.shards[1-s.transfers[s.open].source] }

// modelBug is a rule that is left out, to see that the walk finds what it is for.
type modelBug uint8

const (
	noBug modelBug = iota
	bugNoFence
	bugHashesNotCompared
	bugSecondOutcome
	bugUnsealedByTimeout
	bugOrphanRefuses
	bugOrphanAccepts
	bugSealedAfterSettled
	bugClosedBeforeSourceSettled
	bugClosedBeforeTargetTold
	bugVersionNotRaised
	bugBegunAgain
	bugSourceRecoveredUnasked
	bugVoidedAfterSeal
	bugTargetRecoveredAsOwner
	bugAnswerForAnother
	bugSecondReport
	bugOrphanWithoutVersions
	modelBugs
)

func (b modelBug) String() string {
	return [...]string{"none", "no fence at the source", "hashes are not compared", "a second outcome counts", "unsealed by a timeout", "an orphan refuses", "an orphan accepts by itself",
		"sealed though settled", "closed before the source has settled", "closed before the target was told", "versions are not raised", "begun again", "source recovered without asking the target",
		"voided though sealed", "target recovered as owner", "an answer counts for another transfer", "a second report counts", "an orphan gets no new versions"}[b]
}

// modelEvent is something that can happen.
type modelEvent struct {
	what      string
	id, at    uint8 // of the transfer; the shard
	key, asOf uint8
	how       string
}

func (e modelEvent) String() string {
	s := fmt.Sprintf("%s at %d", e.what, e.at)
	if e.id > 0 {
		s += fmt.Sprintf(" for %d", e.id)
	}
	if e.asOf > 0 {
		s += fmt.Sprintf(" key %d as of %d", e.key, e.asOf)
	}
	return strings.TrimSpace(s + " " + e.how)
}

// modelStep is what a state becomes by an event.
type modelStep struct {
	event modelEvent
	to    modelState
}

// modelWalk makes the steps that are possible from a state. What is wrong panics with a string.
type modelWalk struct {
	bug   modelBug
	from  *modelState
	steps []modelStep
}

// step adds a step, unless it changes nothing.
func (w *modelWalk) step(event modelEvent, change func(s *modelState)) {
	to := *w.from
	change(&to)
	if to != *w.from {
		w.steps = append(w.steps, modelStep{event, to})
	}
}

// note records what the driver may read at the source's index from here on.
func (s *modelState) note(shard uint8) {
	for id := uint8(1); id <= s.last; id++ {
		if t := &s.transfers[id]; t.source == shard && s.shards[shard].settled < id && int(t.index) < modelIndexes-1 {
			t.index++
			t.copies[t.index] = s.shards[shard].entries
		}
	}
}

// answer records that a target answers with its outcome.
func (s *modelState) answer(id uint8, o modelOutcome) { s.transfers[id].answers[o] = true }

// settle ends a transfer at its source.
func (s *modelState) settle(id uint8, how modelOutcome) {
	t := &s.transfers[id]
	src := &s.shards[t.source]
	src.settled, src.how, t.reports[how] = id, how, true
	if src.sealed != id {
		return
	}
	src.sealed, src.atSeal = 0, modelEntries{}
	if how == modelAccepted {
		src.owns, src.entries = false, modelEntries{}
		return
	}
	if !src.entries.vanished(s.truth) {
		panic("unsealed with other entries than were sealed")
	}
	s.truth = src.entries
}

// accept makes a target the owner.
func (s *modelState) accept(t *modelShard, entries modelEntries, version uint8, bug modelBug) {
	t.state, t.owns, t.entries = modelAccepted, true, entries
	t.received, t.staged, t.asOf = modelEntries{}, modelEntries{}, 0
	if bug != bugVersionNotRaised {
		t.version = max(t.version, version)
	}
	if !entries.vanished(s.truth) {
		panic("accepted with other entries than were sealed")
	}
	s.truth = entries
}

func (w *modelWalk) clients() {
	for n := range w.from.shards {
		sh := &w.from.shards[n]
		for k := range modelKeys {
			if sh.serves(w.bug) {
				change := func(what string, f func(s *modelState, sh *modelShard)) {
					w.step(modelEvent{what: what, key: uint8(k), at: uint8(n)}, func(s *modelState) {
						f(s, &s.shards[n])
						s.truth = s.shards[n].entries
						s.note(uint8(n))
					})
				}
				write := func(s *modelState, sh *modelShard) {
					s.writes--
					sh.version++
					if sh.version <= s.highest {
						panic("a version is used again")
					}
					s.highest = sh.version
				}
				if w.from.writes > 0 {
					change("put", func(s *modelState, sh *modelShard) { write(s, sh); sh.entries[k] = modelEntry{version: sh.version} })
					if sh.entries[k].version > 0 {
						change("delete", func(s *modelState, sh *modelShard) { write(s, sh); sh.entries[k] = modelEntry{} })
					}
				}
				if w.from.touches > 0 && sh.entries[k].version > 0 {
					change("touch", func(s *modelState, sh *modelShard) { s.touches--; sh.entries[k].touch++ })
				}
			}
			if w.from.evictions == 0 || sh.lost {
				continue
			}
			if sh.owns && sh.entries[k].version > 0 {
				w.step(modelEvent{what: "evict", key: uint8(k), at: uint8(n)}, func(s *modelState) {
					s.evictions--
					s.shards[n].entries[k] = modelEntry{}
					if s.shards[n].serves(w.bug) {
						s.truth[k] = modelEntry{}
					}
					s.note(uint8(n))
				})
			}
			if sh.staged[k].version > 0 {
				w.step(modelEvent{what: "evict staged", key: uint8(k), at: uint8(n)}, func(s *modelState) {
					s.evictions--
					s.shards[n].staged[k] = modelEntry{}
				})
			}
		}
	}
}

// atTarget makes the steps of the target of transfer id.
func (w *modelWalk) atTarget(id uint8) {
	n := 1 - w.from.transfers[id].source
	if w.from.shards[n].lost {
		return
	}
	m := w.from.transfers[id]
	step := func(what string, f func(s *modelState, t *modelShard)) {
		w.step(modelEvent{what: what, id: id, at: n}, func(s *modelState) { f(s, &s.shards[n]) })
	}
	step("begin", func(s *modelState, t *modelShard) {
		if (t.current < id || w.bug == bugBegunAgain) && !t.owns {
			t.current, t.state, t.asOf, t.received, t.staged = id, modelStaging, 0, modelEntries{}, modelEntries{}
		}
	})
	for asOf := uint8(1); asOf <= m.index; asOf++ {
		stage := func(what string, key int, f func(t *modelShard)) {
			w.step(modelEvent{what: what, id: id, at: n, key: uint8(key), asOf: asOf}, func(s *modelState) {
				if t := &s.shards[n]; t.current == id && t.state == modelStaging && asOf >= t.asOf {
					t.asOf = asOf
					f(t)
				}
			})
		}
		for k, e := range m.copies[asOf] {
			if e.version > 0 {
				stage("chunk", k, func(t *modelShard) { t.received[k], t.staged[k] = e, e })
			}
		}
		stage("list", 0, func(t *modelShard) {
			for k, e := range m.copies[asOf] {
				if e.version == 0 {
					t.received[k], t.staged[k] = e, e
				}
			}
		})
	}
	if m.sealed {
		step("accept", func(s *modelState, t *modelShard) {
			switch {
			case t.current < id:
				t.current, t.state = id, modelRefused
			case t.current > id:
				return
			case t.state == modelOrphan && w.bug == bugOrphanAccepts:
				s.truth = modelEntries{}
				s.accept(t, modelEntries{}, m.version, w.bug)
			case t.state == modelStaging && (t.received == m.atSeal || w.bug == bugHashesNotCompared):
				s.accept(t, t.staged, m.version, w.bug)
			case t.state == modelStaging:
				t.refuse()
			}
			s.answer(id, t.state)
		})
	}
	if m.sealed || m.refuses {
		step("refuse", func(s *modelState, t *modelShard) {
			switch {
			case t.current < id:
				t.current, t.state = id, modelRefused
			case t.current > id:
				return
			case t.state == modelStaging, t.state == modelOrphan && w.bug == bugOrphanRefuses:
				t.refuse()
			case t.state == modelAccepted && w.bug == bugSecondOutcome:
				t.state, t.owns, t.entries = modelRefused, false, modelEntries{}
			}
			s.answer(id, t.state)
		})
	}
	if m.outcome != modelOpen {
		step("close", func(s *modelState, t *modelShard) { s.close(id, t, w.bug) })
	}
}

// close tells a target how the source settled.
func (s *modelState) close(id uint8, t *modelShard, bug modelBug) {
	m := &s.transfers[id]
	m.closed = true
	if t.current > id || t.current == id && t.state == modelOpen {
		return // a late one
	}
	switch {
	case m.outcome == modelAccepted && t.current == id && t.state == modelOrphan:
		s.truth = modelEntries{}
		granted := s.highest // the directory's grants are above all that it ever granted
		if bug == bugOrphanWithoutVersions {
			granted = 0
		}
		s.accept(t, modelEntries{}, granted, noBug)
	case m.outcome == modelAccepted:
		if t.current != id || t.state != modelAccepted {
			panic("the source gave up what the target did not take")
		}
	case t.current == id && t.state == modelAccepted:
		panic("the target took what the source did not give up")
	default:
		t.current = id
		t.refuse()
	}
}

// atSource makes the steps of the source of transfer id.
func (w *modelWalk) atSource(id uint8) {
	m := w.from.transfers[id]
	if w.from.shards[m.source].lost {
		return
	}
	step := func(what string, f func(s *modelState, src *modelShard)) {
		w.step(modelEvent{what: what, id: id, at: m.source}, func(s *modelState) { f(s, &s.shards[m.source]) })
	}
	step("seal", func(s *modelState, src *modelShard) {
		if !src.owns || src.sealed != 0 || src.settled >= id && w.bug != bugSealedAfterSettled {
			return
		}
		src.sealed, src.atSeal = id, src.entries
		s.note(m.source)
		t := &s.transfers[id]
		t.sealed, t.atSeal, t.version = true, src.entries, src.version
	})
	if m.voids {
		step("void", func(s *modelState, src *modelShard) {
			if src.settled < id && (src.sealed != id || w.bug == bugVoidedAfterSeal) {
				s.settle(id, modelRefused)
			}
		})
	}
	if m.sealed && w.bug == bugUnsealedByTimeout {
		step("time out", func(s *modelState, src *modelShard) {
			if src.sealed == id {
				s.settle(id, modelRefused)
			}
		})
	}
	for o, answered := range m.answers {
		if o := modelOutcome(o); answered && (o == modelAccepted || o == modelRefused || o == modelOrphan) {
			step("learn "+o.String(), func(s *modelState, src *modelShard) {
				at := id
				if w.bug == bugAnswerForAnother && src.sealed != 0 {
					at = src.sealed
				}
				if src.sealed != at {
					return
				}
				if o == modelOrphan {
					o = modelAccepted
				}
				s.settle(at, o)
			})
		}
	}
}

// keep has the directory keep how the source of the open transfer settled.
func (s *modelState) keep(how modelOutcome) {
	t := &s.transfers[s.open]
	s.outcome, t.outcome = how, how
	if how == modelAccepted {
		s.owner = 1 - t.source
	}
}

func (w *modelWalk) atDirectory() {
	s := w.from
	if s.open == 0 {
		if s.last < modelTransfers {
			for source := range s.shards {
				if s.shards[source].owns && int(s.owner) == source {
					w.step(modelEvent{what: "open", id: s.last + 1, at: uint8(source)}, func(s *modelState) {
						s.last++
						s.open, s.outcome = s.last, modelOpen
						t := &s.transfers[s.open]
						t.source, t.intended = uint8(source), true
						s.note(uint8(source))
					})
				}
			}
		}
		return
	}
	m := s.transfers[s.open]
	if s.aborts > 0 && !m.voids {
		w.step(modelEvent{what: "abort"}, func(s *modelState) { s.aborts--; s.transfers[s.open].voids = true })
	}
	flip := func(s *modelState) { s.owner = 1 - m.source }
	if m.answers[modelAccepted] {
		w.step(modelEvent{what: "flip"}, flip)
	}
	for how, reported := range m.reports {
		if how := modelOutcome(how); reported && (s.outcome == modelOpen || w.bug == bugSecondReport) {
			w.step(modelEvent{what: "settled", how: how.String()}, func(s *modelState) { s.keep(how) })
		}
	}
	if m.closed && (s.outcome != modelOpen) || s.outcome != modelOpen && w.bug == bugClosedBeforeTargetTold {
		w.step(modelEvent{what: "forget"}, func(s *modelState) { s.open, s.outcome = 0, modelOpen })
	}
	if w.bug == bugClosedBeforeSourceSettled && m.answers[modelRefused] {
		w.step(modelEvent{what: "forget"}, func(s *modelState) { s.open, s.outcome = 0, modelOpen })
	}
}

// losses makes the steps by which shards are lost and recovered, empty.
func (w *modelWalk) losses() {
	for n := range w.from.shards {
		n := uint8(n)
		sh := &w.from.shards[n]
		if !sh.lost {
			if w.from.losses > 0 {
				w.step(modelEvent{what: "lose", at: n}, func(s *modelState) { s.losses--; s.shards[n] = modelShard{lost: true} })
			}
			continue
		}
		s := w.from
		recovered := modelShard{version: s.highest, settled: s.last, how: modelRefused, current: s.last}
		serve := func(s *modelState, owns bool) {
			s.shards[n] = recovered
			if owns {
				s.shards[n].owns, s.truth = true, modelEntries{}
			}
		}
		recover := func(how string, f func(s *modelState)) { w.step(modelEvent{what: "recover", at: n, how: how}, f) }
		if s.open == 0 {
			recover("at rest", func(s *modelState) { serve(s, s.owner == n) })
			continue
		}
		m := s.transfers[s.open]
		if m.source != n { // the target
			switch {
			case s.outcome == modelAccepted, w.bug == bugTargetRecoveredAsOwner:
				recover("owner", func(s *modelState) {
					serve(s, true)
					s.shards[n].state = modelAccepted
				})
			case s.outcome != modelOpen:
				recover("not owner", func(s *modelState) { serve(s, false) })
			default:
				recover("orphan", func(s *modelState) { serve(s, false); s.shards[n].state = modelOrphan; s.answer(s.open, modelOrphan) })
			}
			continue
		}
		switch {
		case s.outcome != modelOpen:
			recover("settled", func(s *modelState) { serve(s, s.outcome != modelAccepted); s.shards[n].how = s.outcome })
		case w.bug == bugSourceRecoveredUnasked:
			recover("unasked", func(s *modelState) {
				s.keep(modelRefused)
				serve(s, true)
			})
		default:
			if !m.refuses {
				w.step(modelEvent{what: "refuse for the lost source"}, func(s *modelState) { s.transfers[s.open].refuses = true })
			}
			for o, answered := range m.answers {
				if o := modelOutcome(o); answered {
					if o == modelOrphan {
						o = modelAccepted
					}
					recover("target "+o.String(), func(s *modelState) {
						s.keep(o)
						serve(s, o != modelAccepted)
						s.shards[n].how = o
					})
				}
			}
		}
	}
}

// next is everything that can happen from s.
func (w *modelWalk) next(s *modelState) []modelStep {
	w.from, w.steps = s, w.steps[:0]
	w.clients()
	w.atDirectory()
	for id := uint8(1); id <= s.last; id++ {
		w.atSource(id)
		w.atTarget(id)
	}
	w.losses()
	return w.steps
}

// check says what is wrong with a state, "" if nothing is.
func (s *modelState) check(bug modelBug) string {
	serving := 0
	for n := range s.shards {
		sh := &s.shards[n]
		if !sh.serves(bug) {
			continue
		}
		serving++
		if sh.entries != s.truth {
			return fmt.Sprintf("shard %d serves %v, and a client knows of %v", n, sh.entries, s.truth)
		}
	}
	if serving > 1 {
		return "two shards serve"
	}
	if s.open == 0 {
		for n := range s.shards {
			if sh := &s.shards[n]; !sh.lost && (sh.owns != (int(s.owner) == n) || sh.sealed != 0) {
				return fmt.Sprintf("at rest the directory says that %d owns the range, and shard %d: owns %v, sealed %d", s.owner, n, sh.owns, sh.sealed)
			}
		}
	}
	return ""
}

// modelTrace is how a state was come to.
type modelTrace struct {
	parent uint64
	event  modelEvent
}

// modelResult is what a walk found.
type modelResult struct {
	states    int
	violation string
	trace     []string
	ends      map[modelOutcome]int // of the open transfer, from each state
}

// walkModel goes through everything that can happen, breadth first, so that a violation is told by the shortest way to it. States are known by hashes of 64 bits.
func walkModel(start modelState, bug modelBug) (r modelResult) {
	seed := maphash.MakeSeed()
	hash := func(s *modelState) uint64 { return maphash.Comparable(seed, *s) }
	from := map[uint64]modelTrace{hash(&start): {}}
	queue := []modelState{start}
	w := &modelWalk{bug: bug}
	r.ends = map[modelOutcome]int{}
	ends := modelEnds{}
	path := func(h uint64) {
		for t := from[h]; t.event.what != ""; t = from[t.parent] {
			r.trace = append(r.trace, t.event.String())
		}
		slices.Reverse(r.trace)
	}
	for len(queue) > 0 {
		s := queue[0]
		queue = queue[1:]
		h := hash(&s)
		steps, wrong := attempt(func() []modelStep { return w.next(&s) })
		if wrong == "" {
			wrong = s.check(bug)
		}
		if wrong == "" && bug == noBug {
			var how modelOutcome
			how, wrong = ends.finish(s, hash)
			r.ends[how]++
		}
		if wrong != "" {
			path(h)
			r.violation = wrong
			break
		}
		for _, next := range steps {
			n := hash(&next.to)
			if _, known := from[n]; !known {
				from[n] = modelTrace{h, next.event}
				queue = append(queue, next.to)
			}
		}
	}
	r.states = len(from)
	return r
}

// attempt calls f, and returns what it panics with.
func attempt(f func() []modelStep) (steps []modelStep, wrong string) {
	defer func() {
		if p := recover(); p != nil {
			wrong = p.(string)
		}
	}()
	return f(), ""
}

// modelEnds are the outcomes of transfers that nothing happens to any more, by the hash of the state.
type modelEnds map[uint64]modelOutcome

// finish goes on from s as the drivers do if nothing else happens, and says how the transfer ends, or what is wrong.
func (ends modelEnds) finish(s modelState, hash func(*modelState) uint64) (how modelOutcome, wrong string) {
	s.writes, s.touches, s.evictions, s.losses, s.aborts = 0, 0, 0, 0, 1
	if s.open == 0 {
		return modelOpen, ""
	}
	mustSucceed := s.mustSucceed()
	w := &modelWalk{}
	var way []uint64
	for s.open != 0 {
		h := hash(&s)
		if ends[h] != modelOpen {
			how = ends[h]
			break
		}
		if way = append(way, h); len(way) > 64 {
			return how, "it does not end"
		}
		if s.outcome != modelOpen {
			how = s.outcome
		}
		steps, wrong := attempt(func() []modelStep { return w.next(&s) })
		if wrong == "" {
			wrong = s.check(noBug)
		}
		if wrong != "" {
			return how, wrong
		}
		event := s.drive()
		i := slices.IndexFunc(steps, func(n modelStep) bool { n.event.how = ""; return n.event == event })
		if i < 0 {
			return how, fmt.Sprintf("it does not end: %q is not possible", event)
		}
		s = steps[i].to
	}
	for _, h := range way {
		ends[h] = how
	}
	if how == modelRefused && mustSucceed {
		return how, "a transfer that nothing stands in the way of comes to nothing"
	}
	return how, ""
}

// mustSucceed reports whether the open transfer has to end by Accept if nothing else happens.
func (s *modelState) mustSucceed() bool {
	src, t, m := s.source(), s.target(), s.transfers[s.open]
	if src.lost || t.lost || m.voids || src.settled >= s.open {
		return false
	}
	if src.sealed != 0 {
		return src.entries == src.atSeal && t.current == s.open && t.state == modelStaging
	}
	return t.current < s.open || t.state == modelStaging
}

// drive is what the drivers do next.
func (s *modelState) drive() modelEvent {
	m, src, t := &s.transfers[s.open], s.source(), s.target()
	id := s.open
	atSource := func(what string) modelEvent { return modelEvent{what: what, id: id, at: m.source} }
	atTarget := func(what string) modelEvent { return modelEvent{what: what, id: id, at: 1 - m.source} }
	switch {
	case t.lost:
		return modelEvent{what: "recover", at: 1 - m.source}
	case src.lost && s.outcome == modelOpen && !m.refuses:
		return modelEvent{what: "refuse for the lost source"}
	case src.lost && s.outcome == modelOpen && m.answers == [5]bool{}:
		return atTarget("refuse")
	case src.lost:
		return modelEvent{what: "recover", at: m.source}
	case s.outcome != modelOpen && m.closed:
		return modelEvent{what: "forget"}
	case s.outcome != modelOpen:
		return atTarget("close")
	case m.reports != [5]bool{}:
		return modelEvent{what: "settled"}
	case src.sealed == id:
		for _, o := range []modelOutcome{modelAccepted, modelRefused, modelOrphan} {
			if m.answers[o] {
				return atSource("learn " + o.String())
			}
		}
	case m.voids:
		return atSource("void")
	case t.current < id:
		return atTarget("begin")
	case t.state != modelStaging:
		return modelEvent{what: "abort"}
	}
	if t.current == id && t.state == modelStaging && t.asOf <= m.index && t.received != src.entries {
		e := atTarget("list")
		e.asOf = m.index
		for k, entry := range src.entries {
			if entry.version > 0 && t.received[k] != entry {
				e.what, e.key = "chunk", uint8(k)
				break
			}
		}
		return e
	}
	switch {
	case src.sealed == 0:
		return atSource("seal")
	case t.current == id && t.state == modelStaging && t.received == m.atSeal:
		return atTarget("accept")
	}
	return atTarget("refuse")
}

// modelBounds are how many of each may happen.
type modelBounds struct{ writes, touches, evictions, losses, aborts uint8 }

// modelStart is a shard with an entry, beside one without.
func modelStart(b modelBounds) modelState {
	s := modelState{writes: b.writes, touches: b.touches, evictions: b.evictions, losses: b.losses, aborts: b.aborts, highest: 1}
	s.shards[0] = modelShard{owns: true, version: 1, entries: modelEntries{{version: 1}}}
	s.truth = s.shards[0].entries
	return s
}

// TestRangeTransferModel ensures that whatever happens, one shard at most serves the range, with the entries that were written to it and not evicted; that each transfer ends, whatever happened before,
// and with success where nothing stands in its way.
func TestRangeTransferModel(t *testing.T) {
	bounds := []modelBounds{
		{writes: 1, losses: 1, aborts: 1},
		{losses: 2, aborts: 1},
		{writes: 2, aborts: 1},
		{writes: 1, evictions: 1, aborts: 1},
		{writes: 2, touches: 1},
		{writes: 2, losses: 1},
	}
	if !testing.Short() {
		bounds = append(bounds,
			modelBounds{writes: 1, losses: 2, aborts: 1},
			modelBounds{writes: 1, touches: 1, evictions: 1, aborts: 1},
			modelBounds{writes: 1, evictions: 1, losses: 1, aborts: 1},
			modelBounds{writes: 2, evictions: 1})
	}
	for _, b := range bounds {
		r := walkModel(modelStart(b), noBug)
		t.Logf("%+v: %d states, from which transfers end %v", b, r.states, r.ends)
		if r.violation != "" {
			t.Fatalf("%+v: %s:\n%s", b, r.violation, strings.Join(r.trace, "\n"))
		}
		if r.ends[modelAccepted] == 0 || r.ends[modelRefused] == 0 {
			t.Errorf("%+v: the walk saw too little", b)
		}
	}
}

// TestRangeTransferModelBugs ensures that no rule of the protocol can be left out: that the walk finds what each is for.
func TestRangeTransferModelBugs(t *testing.T) {
	for bug := noBug + 1; bug < modelBugs; bug++ {
		r := walkModel(modelStart(modelBounds{writes: 2, losses: 1}), bug)
		if r.violation == "" {
			r = walkModel(modelStart(modelBounds{writes: 1, losses: 2, aborts: 1}), bug)
		}
		if r.violation == "" {
			t.Errorf("%v: not found", bug)
			continue
		}
		t.Logf("%v: %s: %s", bug, r.violation, strings.Join(r.trace, "; "))
	}
}
