package shard

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
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
	at          time.Duration // when it was answered
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

// linearizable looks for an order of one key's operations in which each takes effect between its call
// and its return and gives the answer that it gave (Wing and Gong 1993, with the memory of visited
// configurations of Lowe 2017). Those of unknown outcome take effect after their call or never. It
// gives up after a bounded number of configurations.
func linearizable(ops []operation) (ok, decided bool) {
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
	visited := map[string]bool{}
	const limit = 2_000_000
	var search func(first, state int) bool
	search = func(first, state int) bool {
		if left == 0 {
			return true
		}
		key := string(taken) + fmt.Sprint(state)
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
		for _, unknown := range []bool{false, true} { // the known ones first: they decide more
			for i := first; i < len(ops) && ops[i].call < horizon; i++ {
				if has(i) || (ops[i].done == never) != unknown {
					continue
				}
				after, fits := ops[i].step(state)
				if !fits || unknown && after == state {
					continue
				}
				taken[i/8] |= 1 << (i % 8)
				if !unknown {
					left--
				}
				if search(first, after) {
					return true
				}
				taken[i/8] &^= 1 << (i % 8)
				if !unknown {
					left++
				}
			}
		}
		return false
	}
	ok = search(0, 0)
	return ok, ok || len(visited) <= limit
}

// recorder collects the operations of concurrent clients.
type recorder struct {
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

// begin notes the call of an operation.
func (r *recorder) begin(kind int, key string, expect int) operation {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ids++
	r.events++
	return operation{id: r.ids, kind: kind, key: key, expect: expect, call: r.events}
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

// check judges the whole history: per key by search, and over all keys by the places in the log that
// the answers name.
func (r *recorder) check(t testing.TB) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	keys := map[string][]operation{}
	for _, o := range r.ops {
		keys[o.key] = append(keys[o.key], o)
		if o.kind == opGet && r.refused[o.seen] {
			t.Errorf("the value of a refused write was read: %v", o)
		}
	}
	for _, o := range r.aged {
		if r.refused[o.seen] {
			t.Errorf("the value of a refused write was read: %v", o)
		}
	}
	for key, ops := range keys {
		ok, decided := linearizable(ops)
		switch {
		case !decided:
			t.Errorf("key %s: no verdict on %d operations", key, len(ops))
		case !ok:
			t.Errorf("key %s: not linearizable:\n%s", key, list(ops))
		}
	}
	if err := inLogOrder(r.ops); err != nil {
		t.Error(err)
	}
	if err := asOldAsTold(r.ops, r.aged); err != nil {
		t.Error(err)
	}
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

// asOldAsTold checks the reads that may be old against the others: their state is that of the place in the
// log which they name, and no older than their age, so that they saw what was answered longer ago.
func asOldAsTold(ops, aged []operation) error {
	maybeDeleted := map[string]bool{}
	for _, o := range ops {
		maybeDeleted[o.key] = maybeDeleted[o.key] || o.kind == opDelete && o.done == never
	}
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
	writes := map[string][]operation{} // those that changed their key
	known := map[int]bool{}
	for _, o := range ops {
		if o.kind != opGet && o.resp.Status == fsm.StatusOK {
			writes[o.key] = append(writes[o.key], o)
			known[o.id] = true
		}
	}
	for _, w := range writes {
		slices.SortFunc(w, comparePlaces)
	}
	for _, o := range aged {
		var w operation // the last before o
		for _, x := range writes[o.key] {
			if comparePlaces(x, o) > 0 {
				break
			}
			w = x
		}
		state := w.id
		if w.kind == opDelete {
			state = 0
		}
		// A write of unknown outcome names no place.
		if o.seen != state && (known[o.seen] || o.seen == 0 && !maybeDeleted[o.key]) {
			return fmt.Errorf("the state is not that of its place, #%d:\n%v\n%v", state, w, o)
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
		if o.resp.Status != fsm.StatusOK || o.resp.Version == 0 {
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
	for _, c := range []struct {
		name string
		ops  []operation
		want bool
	}{
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
		if got, decided := linearizable(c.ops); got != c.want || !decided {
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
		if err := asOldAsTold([]operation{first, second, lost}, []operation{c.read}); (err == nil) != c.want {
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
	} {
		if err := inLogOrder(c.ops); (err == nil) != c.want {
			t.Errorf("%s: %v, want %v", c.name, err, c.want)
		}
	}
}
