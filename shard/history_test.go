package shard

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// The operations of a history.
const (
	opGet = iota
	opPut
	opPutAbsent // put where there is no entry
	opCAS       // put where the entry is that which op expect wrote
	opDelete
)

// operation is one operation of a client, with what it was told. Values are unique: a put writes its
// own id, so that a state is the id of the put that made it, 0 where there is no entry.
type operation struct {
	id         int
	kind       int
	key        string
	expect     int // CAS
	call, done int // places in the order of calls and returns; done is never when the outcome is unknown

	resp Response
	seen int // get: the state

	consistency Consistency   // get
	ttl         time.Duration // of what a put stores; 0 = none
	began, at   time.Duration // when it was asked and answered
}

const never = math.MaxInt

func (o operation) String() string {
	names := []string{"get", "put", "put-absent", "cas", "delete"}
	s := fmt.Sprintf("%6d..", o.call)
	if o.done == never {
		s += "   ???"
	} else {
		s += fmt.Sprintf("%6d", o.done)
	}
	s += fmt.Sprintf(" %s #%d", names[o.kind], o.id)
	if o.ttl != 0 {
		s += fmt.Sprintf(" for %v at %v", o.ttl, o.began)
	}
	if o.kind == opCAS {
		s += fmt.Sprintf(" expects #%d", o.expect)
	}
	if o.done == never {
		return s
	}
	if o.kind == opGet {
		s += fmt.Sprintf(" -> #%d at %d.%d by %s (%s)", o.seen, o.resp.Index, o.resp.Position, o.resp.ServedBy, o.resp.Read)
		if o.consistency != Linearizable {
			s += fmt.Sprintf(" answered at %v, of age %v", o.at, o.resp.Age)
		}
		return s
	}
	if o.resp.Replayed {
		s += " (replayed)"
	}
	return s + fmt.Sprintf(" -> status %d existed %v version %d at %d.%d by %s",
		o.resp.Status, o.resp.Existed, o.resp.Version, o.resp.Index, o.resp.Position, o.resp.ServedBy)
}

// step says whether the operation can take effect on a state with the answer that it got, and the
// state after it. One whose outcome is unknown can always take effect.
func (o *operation) step(state int) (after int, ok bool) {
	holds := true
	after = o.id
	switch o.kind {
	case opGet:
		return state, o.done == never || o.seen == state
	case opPutAbsent:
		holds = state == 0
	case opCAS:
		holds = state == o.expect
	case opDelete:
		after = 0
	}
	if !holds {
		after = state
	}
	if o.done == never {
		return after, true
	}
	return after, o.resp.Status == fsm.StatusOK == holds && o.resp.Existed == (state != 0)
}

// vanishing says when an entry may go by itself. Once it has, it never comes back.
type vanishing struct {
	tight bool                  // memory is: at any time
	ends  map[int]time.Duration // put -> the earliest end of its time to live; those that are not there have none
}

func (v vanishing) may(put int, by time.Duration) bool {
	ends, mortal := v.ends[put]
	return v.tight || mortal && by >= ends
}

// steps are the states after the operation took effect on a state, which may have vanished just before. There are
// none where it can't have given the answer that it gave, and two only where nobody knows its answer.
func (o *operation) steps(state int, v vanishing) (after [2]int, n int) {
	if s, ok := o.step(state); ok {
		after[n], n = s, n+1
	}
	by := o.at
	if o.done == never {
		by = math.MaxInt64 // it may take effect long after it was given up
	}
	if state != 0 && v.may(state, by) {
		if s, ok := o.step(0); ok {
			after[n], n = s, n+1
		}
	}
	return after, n
}

// linearizable looks for an order of one key's operations in which each takes effect between its call
// and its return and gives the answer that it gave (Wing and Gong 1993, with the memory of visited
// configurations of Lowe 2017). Those of unknown outcome take effect after their call or never. It tries the others
// in the order of their places in the log: in a right system that is the order which it looks for. Where the next of them can't
// be, one of unknown outcome that somebody saw is missing before it. All else comes after that: each of unknown outcome doubles the configurations. It
// gives up after a bounded number of configurations.
func linearizable(ops []operation, v vanishing) (ok, decided bool) {
	ops = slices.Clone(ops)
	slices.SortFunc(ops, func(a, b operation) int { return cmp.Compare(a.call, b.call) })
	taken := make([]byte, (len(ops)+7)/8)
	has := func(i int) bool { return taken[i/8]&(1<<(i%8)) != 0 }
	left := 0
	for _, o := range ops {
		if o.done != never {
			left++
		}
	}
	seen := map[int]bool{}
	for _, o := range ops {
		seen[o.seen] = true
	}
	var known, missing, others []int // in the order in which they are tried
	for i, o := range ops {
		switch {
		case o.done != never:
			known = append(known, i)
		case seen[o.id]:
			missing = append(missing, i)
		default:
			others = append(others, i)
		}
	}
	slices.SortStableFunc(known, func(i, j int) int {
		return cmp.Or(comparePlaces(ops[i], ops[j]), cmp.Compare(ops[j].kind, ops[i].kind)) // gets last: opGet is 0
	})
	visited := map[string]bool{}
	const limit = 200_000 // histories of a right system are decided after a few thousand
	// loose: what was taken last is of unknown outcome. A put or a delete after it hides it: then it need never have taken effect.
	var search func(first, state int, loose bool) bool
	search = func(first, state int, loose bool) bool {
		if left == 0 {
			return true
		}
		key := string(strconv.AppendBool(strconv.AppendInt(slices.Clone(taken), int64(state), 10), loose))
		if visited[key] || len(visited) > limit {
			return false
		}
		visited[key] = true
		for first < len(ops) && has(first) {
			first++
		}
		// Before the earliest return among those not taken, any that was called may come next.
		horizon := never
		for i := first; i < len(ops) && ops[i].call < horizon; i++ {
			if !has(i) {
				horizon = min(horizon, ops[i].done)
			}
		}
		try := func(i int) bool {
			if i < first || ops[i].call >= horizon || has(i) {
				return false
			}
			unknown := ops[i].done == never
			if unknown && loose && (ops[i].kind == opPut || ops[i].kind == opDelete) {
				return false
			}
			after, n := ops[i].steps(state, v)
			for _, next := range after[:n] {
				if unknown && next == state { // as if it never did
					continue
				}
				taken[i/8] |= 1 << (i % 8)
				if !unknown {
					left--
				}
				if search(first, next, unknown) {
					return true
				}
				taken[i/8] &^= 1 << (i % 8)
				if !unknown {
					left++
				}
			}
			return false
		}
		next := slices.IndexFunc(known, func(i int) bool { return !has(i) }) // there is one: left is not 0
		return try(known[next]) || slices.ContainsFunc(missing, try) || slices.ContainsFunc(known[next+1:], try) || slices.ContainsFunc(others, try)
	}
	ok = search(0, 0, false)
	return ok, ok || len(visited) <= limit
}

// recorder collects the operations of concurrent clients.
type recorder struct {
	tight  bool // memory is: what was stored may vanish
	clocks bool // they may be wrong: what has a time to live may vanish sooner, or stay longer

	began    time.Time
	mu       sync.Mutex
	events   int
	ids      int
	ops      []operation
	aged     []operation    // bounded reads and those of any age
	versions map[uint64]int // version -> the put that got it
	refused  map[int]bool   // puts that were refused
	unknown  int
}

func newRecorder() *recorder {
	return &recorder{began: time.Now(), versions: map[uint64]int{}, refused: map[int]bool{}}
}

// begin notes the call of an operation, and gives it its id.
func (r *recorder) begin(o operation) operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids++
	r.events++
	o.id, o.call, o.began = r.ids, r.events, time.Since(r.began)
	return o
}

// end notes its return. What was refused is not part of the history: should it have had an effect, that
// shows as a state that nobody made.
func (r *recorder) end(o operation, resp Response, err error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.events++
	o.done, o.resp, o.at = r.events, resp, time.Since(r.began)
	switch {
	case errors.Is(err, ErrOutcomeUnknown):
		r.unknown++
		o.done, o.resp = never, Response{}
		if o.kind == opGet {
			return fmt.Errorf("a read ended as unknown: %w", err)
		}
	case err != nil:
		r.refused[o.id] = true
		return nil
	case resp.Status != fsm.StatusOK && resp.Status != fsm.StatusCondition:
		return fmt.Errorf("status %d: %v", resp.Status, o)
	case o.kind == opGet && resp.Found:
		if _, err := fmt.Sscanf(string(resp.Value), "#%d", &o.seen); err != nil {
			return fmt.Errorf("a value that nobody wrote: %q", resp.Value)
		}
		if r.refused[o.seen] {
			return fmt.Errorf("the value of a refused write was read: %v", o)
		}
		if put, ok := r.versions[resp.Version]; ok && put != o.seen {
			return fmt.Errorf("version %d names #%d and #%d", resp.Version, put, o.seen)
		}
		r.versions[resp.Version] = o.seen
	case o.kind != opGet && o.kind != opDelete && resp.Status == fsm.StatusOK:
		if put, ok := r.versions[resp.Version]; ok && put != o.id {
			return fmt.Errorf("version %d names #%d and #%d", resp.Version, put, o.id)
		}
		r.versions[resp.Version] = o.id
	}
	if o.consistency != Linearizable {
		r.aged = append(r.aged, o)
		return nil
	}
	r.ops = append(r.ops, o)
	return nil
}

// answered is how many operations have an outcome that is known.
func (r *recorder) answered() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.ops) + len(r.aged) - r.unknown
}

// check judges the whole history.
func (r *recorder) check(t testing.TB) {
	t.Helper()
	for _, err := range r.errors() {
		t.Error(err)
	}
}

// errors judges the whole history: per key by search, and over all keys by the places in the log that the answers
// name.
func (r *recorder) errors() (errs []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Concat(r.ops, r.aged)
	keys := map[string][]operation{}
	for _, o := range r.ops {
		keys[o.key] = append(keys[o.key], o)
	}
	for _, o := range all {
		if o.kind == opGet && r.refused[o.seen] {
			errs = append(errs, fmt.Errorf("the value of a refused write was read: %v", o))
		}
	}
	v := vanishing{tight: r.tight, ends: r.ends()}
	for key, ops := range keys {
		ok, decided := linearizable(ops, v)
		switch {
		case !decided:
			errs = append(errs, fmt.Errorf("key %s: no verdict on %d operations:\n%s", key, len(ops), list(ops)))
		case !ok:
			errs = append(errs, fmt.Errorf("key %s: not linearizable:\n%s", key, list(ops)))
		}
	}
	found := []error{inLogOrder(r.ops), asOldAsTold(r.ops, r.aged), ofTheirPlaces(all, v)}
	if !r.clocks {
		found = append(found, overInTime(r.ops))
	}
	for _, err := range found {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

// clockError is how far the log clock may be from the true time, both when an entry is stored and when it is read,
// while no clock is wrong: clocks of others are known to half a round trip, of a second at most.
const clockError = time.Second

// ends returns when the times to live of the puts can end at the earliest.
func (r *recorder) ends() map[int]time.Duration {
	ends := map[int]time.Duration{}
	for _, o := range r.ops {
		switch {
		case o.ttl == 0:
		case r.clocks:
			ends[o.id] = 0
		default:
			ends[o.id] = o.began + o.ttl - clockError
		}
	}
	return ends
}

// overInTime checks that nobody saw a value whose time to live was over.
func overInTime(ops []operation) error {
	puts := map[int]operation{}
	for _, o := range ops {
		if o.ttl != 0 && o.done != never && !o.resp.Replayed {
			puts[o.id] = o
		}
	}
	for _, o := range ops {
		if p, ok := puts[o.seen]; ok && o.kind == opGet && o.began > p.at+p.ttl+clockError {
			return fmt.Errorf("read at %v though its time was over:\n%v\n%v", o.began, p, o)
		}
	}
	return nil
}

func list(ops []operation) string {
	var b strings.Builder
	slices.SortFunc(ops, func(a, b operation) int { return cmp.Compare(a.call, b.call) })
	for _, o := range ops {
		fmt.Fprintln(&b, o)
	}
	return b.String()
}

// comparePlaces compares the places in the log that two answers name.
func comparePlaces(a, b operation) int {
	return cmp.Or(cmp.Compare(a.resp.Index, b.resp.Index), cmp.Compare(a.resp.Position, b.resp.Position))
}

// asOldAsTold checks the reads that may be old against the others: their place in the log is no older than their
// age, so that they saw what was answered longer ago.
func asOldAsTold(ops, aged []operation) error {
	ops = slices.DeleteFunc(slices.Clone(ops), func(o operation) bool { return o.done == never })
	slices.SortFunc(ops, func(a, b operation) int { return cmp.Compare(a.at, b.at) })
	aged = slices.Clone(aged)
	slices.SortFunc(aged, func(a, b operation) int { return cmp.Compare(a.at-a.resp.Age, b.at-b.resp.Age) })
	var last operation // the one with the highest place that was answered before
	n := 0
	for _, o := range aged {
		for ; n < len(ops) && ops[n].at < o.at-o.resp.Age; n++ {
			if last.id == 0 || comparePlaces(ops[n], last) > 0 {
				last = ops[n]
			}
		}
		if last.id != 0 && comparePlaces(last, o) > 0 {
			return fmt.Errorf("older than told: it did not see what was answered at %v:\n%v\n%v", last.at, last, o)
		}
	}
	return nil
}

// ofTheirPlaces checks that reads of all kinds, and the answers of writes, saw the state of the place in the log
// which they name: what the write before it left, unless that has vanished meanwhile, and then nobody sees it in
// a later place.
func ofTheirPlaces(ops []operation, v vanishing) error {
	keys := map[string][]operation{}
	loose := map[string][]int{}    // by key: the puts in an unknown place
	maybeGone := map[string]bool{} // keys of which a write in an unknown place may have left nothing
	for _, o := range ops {
		switch {
		case o.done != never && !o.resp.Replayed:
			keys[o.key] = append(keys[o.key], o)
		case o.kind != opGet:
			loose[o.key] = append(loose[o.key], o.id)
			maybeGone[o.key] = maybeGone[o.key] || o.kind == opDelete || o.ttl != 0
		}
	}
	for key, ops := range keys {
		slices.SortStableFunc(ops, func(a, b operation) int {
			return cmp.Or(comparePlaces(a, b), cmp.Compare(b.kind, a.kind)) // gets last: opGet is 0
		})
		state := 0
		over := map[int]bool{} // states that were and are no more
		move := func(to int) {
			if to != state && state != 0 {
				over[state] = true
			}
			state = to
		}
		var last operation // it showed the state
		for n, o := range ops {
			shown := state
			switch {
			case o.kind == opGet:
				shown = o.seen
			case !o.resp.Existed:
				shown = 0
			}
			switch {
			case shown == state:
			case n > 0 && o.kind == opGet && last.kind == opGet && comparePlaces(o, last) == 0:
				return fmt.Errorf("two states of one place:\n%v\n%v", last, o)
			case over[shown]:
				return fmt.Errorf("it came back, after #%d:\n%v\n%v", state, last, o)
			case shown == 0 && !maybeGone[key] && !v.may(state, o.at), shown != 0 && !slices.Contains(loose[key], shown):
				return fmt.Errorf("the state is not that of its place, #%d:\n%v\n%v", state, last, o)
			}
			move(shown)
			if o.kind != opGet && o.resp.Status == fsm.StatusOK {
				if o.kind == opDelete {
					move(0)
				} else {
					move(o.id)
				}
			}
			last = o
		}
	}
	return nil
}

// inLogOrder checks that the places in the log which the answers name agree with real time: what
// returned before another was called lies before it, also where they concern different keys. Versions
// grow with the places, and no two writes share one.
func inLogOrder(ops []operation) error {
	type event struct {
		when int
		op   int
	}
	var events []event
	var writes []operation
	for i, o := range ops {
		if o.done == never {
			continue
		}
		events = append(events, event{o.call, i}, event{o.done, i})
		if o.kind != opGet {
			writes = append(writes, o)
		}
	}
	slices.SortFunc(events, func(a, b event) int { return cmp.Compare(a.when, b.when) })
	var last operation // the one with the highest place of those that returned
	before := make([]operation, len(ops))
	for _, e := range events {
		o := ops[e.op]
		if e.when == o.call {
			before[e.op] = last
			continue
		}
		if b := before[e.op]; b.id != 0 {
			if c := comparePlaces(b, o); c > 0 || c == 0 && o.kind != opGet {
				return fmt.Errorf("places in the log against real time:\n%v\n%v", b, o)
			}
		}
		if last.id == 0 || comparePlaces(o, last) > 0 {
			last = o
		}
	}
	slices.SortFunc(writes, comparePlaces)
	version := uint64(0)
	for i, o := range writes {
		if i > 0 && comparePlaces(o, writes[i-1]) == 0 {
			return fmt.Errorf("two writes in one place:\n%v\n%v", writes[i-1], o)
		}
		if o.resp.Status != fsm.StatusOK || o.resp.Version == 0 || o.resp.Replayed { // made in an earlier place
			continue
		}
		if o.resp.Version <= version {
			return fmt.Errorf("version %d after %d:\n%v", o.resp.Version, version, o)
		}
		version = o.resp.Version
	}
	return nil
}

// TestHistoryChecker ensures that the checker of the random tests tells good histories from bad ones.
func TestHistoryChecker(t *testing.T) {
	ok := Response{Status: fsm.StatusOK}
	over := Response{Status: fsm.StatusOK, Existed: true}
	failed := Response{Status: fsm.StatusCondition, Existed: true}
	op := func(kind, id, call, done int, resp Response) operation {
		return operation{kind: kind, id: id, call: call, done: done, resp: resp}
	}
	read := func(call, done, seen int) operation {
		return operation{kind: opGet, call: call, done: done, seen: seen}
	}
	cas := func(id, expect, call, done int, resp Response) operation {
		return operation{kind: opCAS, id: id, expect: expect, call: call, done: done, resp: resp}
	}
	lostWith := func(then ...operation) (ops []operation) { // many that nobody knows the outcome of, then what came of them
		for i := range 24 {
			ops = append(ops, op([]int{opPut, opDelete, opPutAbsent}[i%3], i+1, i+1, never, Response{}))
		}
		return append(ops, then...)
	}
	for _, c := range []struct {
		name string
		ops  []operation
		want bool
	}{
		{"one of many unknown writes seen", lostWith(read(30, 31, 6), op(opPut, 40, 32, 33, over), read(34, 35, 40)), true},
		{"none of many unknown writes seen", lostWith(read(30, 31, 40)), false},
		{"many unknown writes, one seen twice", lostWith(read(30, 31, 6), read(32, 33, 9), read(34, 35, 6)), false},
		{"read own write", []operation{op(opPut, 1, 1, 2, ok), read(3, 4, 1)}, true},
		{"lost write", []operation{op(opPut, 1, 1, 2, ok), read(3, 4, 0)}, false},
		{"stale read", []operation{op(opPut, 1, 1, 2, ok), op(opPut, 2, 3, 4, over), read(5, 6, 1)}, false},
		{"concurrent writes", []operation{op(opPut, 1, 1, 5, over), op(opPut, 2, 2, 6, ok), read(7, 8, 1)}, true},
		{"back and forth", []operation{op(opPut, 1, 1, 2, ok), op(opPut, 2, 3, 10, over), read(4, 5, 2), read(6, 7, 1)}, false},
		{"unknown write seen", []operation{op(opPut, 1, 1, never, Response{}), read(2, 3, 1)}, true},
		{"unknown write seen late", []operation{op(opPut, 1, 1, never, Response{}), read(2, 3, 0), read(4, 5, 1)}, true},
		{"unknown write seen before its call", []operation{read(1, 2, 1), op(opPut, 1, 3, never, Response{})}, false},
		{"unknown write comes and goes", []operation{op(opPut, 1, 1, never, Response{}), read(2, 3, 1), read(4, 5, 0)}, false},
		{"cas twice", []operation{op(opPut, 1, 1, 2, ok), cas(2, 1, 3, 4, over), cas(3, 1, 5, 6, over)}, false},
		{"cas fails rightly", []operation{op(opPut, 1, 1, 2, ok), cas(2, 1, 3, 4, over), cas(3, 1, 5, 6, failed)}, true},
		{"cas fails wrongly", []operation{op(opPut, 1, 1, 2, ok), cas(3, 1, 5, 6, failed)}, false},
		{"value of nobody", []operation{read(1, 2, 9)}, false},
		{"deleted comes back", []operation{op(opPut, 1, 1, 2, ok), op(opDelete, 2, 3, 4, over), read(5, 6, 1)}, false},
		{"unknown write executed twice", []operation{op(opPut, 1, 1, never, Response{}), op(opPut, 2, 2, 3, over), read(4, 5, 2), read(6, 7, 1)}, false},
	} {
		if got, decided := linearizable(c.ops, vanishing{}); got != c.want || !decided {
			t.Errorf("%s: %v (decided %v), want %v", c.name, got, decided, c.want)
		}
	}
	at := func(o operation, index uint64, version uint64) operation {
		o.id, o.resp.Index, o.resp.Version = o.id+1, index, version
		return o
	}
	aged := func(answered, age time.Duration, index uint64, seen int) operation {
		o := read(1, 2, seen)
		o.consistency, o.at, o.resp.Age, o.resp.Index = Any, answered, age, index
		return o
	}
	first, second := at(op(opPut, 1, 1, 2, ok), 5, 1), at(op(opPut, 2, 3, 4, over), 6, 2) // #2, then #3
	first.at, second.at = time.Second, 2*time.Second
	lost := op(opPut, 9, 5, never, Response{})
	for _, c := range []struct {
		name string
		read operation
		want bool
	}{
		{"fresh", aged(3*time.Second, 0, 6, 3), true},
		{"as old as told", aged(3*time.Second, time.Second, 5, 2), true},
		{"older than told", aged(3*time.Second, 900*time.Millisecond, 5, 2), false},
		{"before the first", aged(3*time.Second, 2*time.Second, 4, 0), true},
		{"not the state of its place", aged(3*time.Second, 0, 6, 2), false},
		{"a state from before its place", aged(3*time.Second, 0, 6, 0), false},
		{"an unknown write", aged(3*time.Second, 0, 6, 9), true},
	} {
		err := errors.Join(asOldAsTold([]operation{first, second, lost}, []operation{c.read}),
			ofTheirPlaces([]operation{first, second, lost, c.read}, vanishing{}))
		if (err == nil) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
	for _, c := range []struct {
		name string
		ops  []operation
		want bool
	}{
		{"in order", []operation{at(op(opPut, 1, 1, 2, ok), 5, 1), at(read(3, 4, 1), 5, 1), at(op(opPut, 2, 5, 6, ok), 6, 2)}, true},
		{"a later write lies before", []operation{at(op(opPut, 1, 1, 2, ok), 5, 1), at(op(opPut, 2, 3, 4, ok), 4, 2)}, false},
		{"a later read lies before", []operation{at(op(opPut, 1, 1, 2, ok), 5, 1), at(read(3, 4, 0), 4, 0)}, false},
		{"one place for two", []operation{at(op(opPut, 1, 1, 3, ok), 5, 1), at(op(opPut, 2, 2, 4, ok), 5, 2)}, false},
		{"versions go back", []operation{at(op(opPut, 1, 1, 3, ok), 5, 2), at(op(opPut, 2, 2, 4, ok), 6, 1)}, false},
		{"a repeated write tells its version of then", []operation{at(op(opPut, 1, 1, 5, Response{Status: fsm.StatusOK, Replayed: true}), 8, 1), at(op(opPut, 2, 2, 4, ok), 6, 2)}, true},
	} {
		if err := inLogOrder(c.ops); (err == nil) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}

// TestVanishingChecker ensures that the checker knows what may be gone, when, and that it stays so.
func TestVanishingChecker(t *testing.T) {
	const s = time.Second
	ok, over := Response{Status: fsm.StatusOK}, Response{Status: fsm.StatusOK, Existed: true}
	// Each is asked and answered within its second of the history, and takes the place of that number.
	op := func(kind, at, seen int, resp Response) operation {
		resp.Index = uint64(at)
		return operation{kind: kind, id: at, call: 2 * at, done: 2*at + 1, began: time.Duration(at) * s, at: time.Duration(at) * s, seen: seen, resp: resp}
	}
	put := func(at int) operation { return op(opPut, at, 0, ok) }
	get := func(at, seen int) operation { return op(opGet, at, seen, ok) }
	ttl := func(o operation, ttl time.Duration) operation {
		o.ttl = ttl
		return o
	}
	unknown := func(o operation) operation {
		o.done, o.resp = never, Response{}
		return o
	}
	old := func(o operation, place uint64) operation {
		o.consistency, o.resp.Index, o.resp.Age = Any, place, time.Hour
		return o
	}
	for _, c := range []struct {
		name          string
		tight, clocks bool
		want          bool
		ops           []operation
	}{
		{"gone for no reason", false, false, false, []operation{put(1), get(2, 0)}},
		{"evicted", true, false, true, []operation{put(1), get(2, 1), get(3, 0)}},
		{"evicted and back", true, false, false, []operation{put(1), get(2, 0), get(3, 1)}},
		{"evicted, seen by a condition, and back", true, false, false, []operation{put(1), op(opCAS, 2, 0, Response{Status: fsm.StatusCondition}), get(3, 1)}},
		{"evicted, put anew, and the first back", true, false, false, []operation{put(1), put(2), get(3, 1)}},
		{"evicted where it was not", true, false, false, []operation{put(1), op(opPut, 2, 0, over), get(3, 1)}},
		{"evicted before a put where there is none", true, false, true, []operation{put(1), op(opPutAbsent, 2, 0, ok), get(3, 2)}},
		{"not evicted before a put where there is none", true, false, false, []operation{put(1), op(opPutAbsent, 2, 0, ok), get(3, 1)}},
		{"evicted before an unknown put where there is none", true, false, true, []operation{put(1), unknown(op(opPutAbsent, 2, 0, ok)), get(3, 2)}},
		{"an unknown put where there is one", false, false, false, []operation{put(1), unknown(op(opPutAbsent, 2, 0, ok)), get(3, 2)}},
		{"an old read of before its end", true, false, true, []operation{put(1), get(3, 0), old(get(4, 1), 2)}},
		{"an old read of after its end", true, false, false, []operation{put(1), get(3, 0), old(get(4, 1), 3)}},
		{"two states of one place", true, false, false, []operation{put(1), get(3, 0), old(get(4, 1), 3)}},
		{"over", false, false, true, []operation{ttl(put(1), 5*s), get(3, 1), get(7, 0)}},
		{"over too soon", false, false, false, []operation{ttl(put(1), 5*s), get(3, 0)}},
		{"over too soon, by wrong clocks", false, true, true, []operation{ttl(put(1), 5*s), get(3, 0)}},
		{"over, and back, by wrong clocks", false, true, false, []operation{ttl(put(1), 5*s), get(3, 0), get(4, 1)}},
		{"over too late", false, false, false, []operation{ttl(put(1), 5*s), get(9, 1)}},
		{"over too late, by wrong clocks", false, true, true, []operation{ttl(put(1), 5*s), get(9, 1)}},
		{"over, and back", false, false, false, []operation{ttl(put(1), 5*s), get(7, 0), get(8, 1)}},
		{"its successor is not over", false, false, false, []operation{ttl(put(1), 5*s), op(opPut, 2, 0, over), get(9, 0)}},
		{"an unknown one is over", false, false, true, []operation{put(1), unknown(ttl(put(2), s)), get(3, 2), get(8, 0)}},
		{"an unknown one took its place and is over", false, false, true, []operation{put(1), unknown(ttl(put(2), s)), get(8, 0)}},
		{"an unknown one is over, and the one before it back", false, false, false, []operation{put(1), unknown(ttl(put(2), s)), get(8, 0), get(9, 1)}},
	} {
		r := newRecorder()
		r.tight, r.clocks = c.tight, c.clocks
		for _, o := range c.ops {
			if o.consistency == Linearizable {
				r.ops = append(r.ops, o)
			} else {
				r.aged = append(r.aged, o)
			}
		}
		if errs := r.errors(); (len(errs) == 0) != c.want {
			t.Errorf("%s: %v, want accepted %v", c.name, errs, c.want)
		}
	}
}
