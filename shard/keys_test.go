package shard

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/fsm"
)

// scanOn has a node list keys, or remove them, by way of h.
func scanOn(h *Host, node string, s Scan, erase bool) (Page, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	s.Shard = testShard
	return h.scan(ctx, node, s, erase)
}

// listOn returns all keys that begin with prefix, in pages of limit.
func listOn(t *testing.T, h *Host, node, prefix string, limit int) (keys []string, read ReadPath) {
	t.Helper()
	s := Scan{Prefix: []byte(prefix), Limit: limit}
	for s.From = s.From.Within(s.Prefix); s.From.Slot < fsm.Slots; {
		p, err := scanOn(h, node, s, false)
		if err != nil {
			t.Fatalf("%s by way of %s, from %+v: %v", node, h.Node(), s.From, err)
		}
		for _, key := range p.Keys {
			keys = append(keys, string(key))
		}
		s.From, read = p.Next, p.Read
	}
	return keys, read
}

func byPlace(a, b string) int {
	if sa, sb := fsm.Slot([]byte(a)), fsm.Slot([]byte(b)); sa != sb {
		return int(sa) - int(sb)
	}
	return strings.Compare(a, b)
}

// TestScanOnAll ensures that every replica lists the same keys, in order and by whatever node it is asked, as soon as they are
// acknowledged; that it takes no log entry, and that listing is no use of the entries.
func TestScanOnAll(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		var want []string
		for i := range 60 {
			key := fmt.Sprint("k", i)
			c.mustPut(l, key, "v")
			want = append(want, key)
		}
		c.mustPut(l, "other", "v")
		slices.SortFunc(want, byPlace)
		last := l.Group(testShard).Status().Last
		for _, via := range c.names {
			for _, node := range c.names {
				keys, read := listOn(t, c.hosts[via], node, "k", 7)
				path := ReadFollower
				if node == l.Node() {
					path = ReadProbe
				}
				if !slices.Equal(keys, want) || read != path && !(path == ReadProbe && read == ReadLease) {
					t.Errorf("%s by way of %s, %s: %q", node, via, read, keys)
				}
			}
		}
		if now := l.Group(testShard).Status().Last; now != last {
			t.Errorf("%d log entries", now-last)
		}
		for _, node := range c.names {
			if s := c.hosts[node].Cache(testShard).Status(); *s.Touches != (TouchStats{}) {
				t.Errorf("%s: touches %+v", node, *s.Touches)
			}
		}
		time.Sleep(time.Second)
		for _, q := range []Scan{{Limit: 100, Consistency: Any}, {Limit: 100, Consistency: Bounded, MaxStaleness: time.Minute}} {
			p, err := scanOn(c.hosts[c.others(l.Node())[0]], l.Node(), q, false)
			if err != nil || len(p.Keys) != 61 || p.Age <= 0 {
				t.Errorf("consistency %d: %d keys of age %v, %v", q.Consistency, len(p.Keys), p.Age, err)
			}
		}
	})
}

// TestScanMeetsDue ensures that a key which is due is not listed: the leader has the log say so first, and a follower leaves it to
// the leader.
func TestScanMeetsDue(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "stays", "v")
		if _, err := do(l, Request{Shard: testShard, Op: OpPut, Key: []byte("due"), Value: []byte("v"), TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(1500 * time.Millisecond)
		var leader *NotLeaderError
		follower := c.others(l.Node())[0]
		if p, err := scanOn(l, follower, Scan{Limit: 10}, false); !errors.As(err, &leader) || leader.Leader != l.Node() {
			t.Errorf("on a follower: %q, %v", p.Keys, err)
		}
		if p, err := scanOn(l, l.Node(), Scan{Limit: 10}, false); err != nil || len(p.Keys) != 1 || p.Read != ReadLog {
			t.Errorf("%q by %s, %v", p.Keys, p.Read, err)
		}
		if p, err := scanOn(l, follower, Scan{Limit: 10}, false); err != nil || len(p.Keys) != 1 || p.Read != ReadFollower {
			t.Errorf("then on a follower: %q by %s, %v", p.Keys, p.Read, err)
		}
	})
}

// TestScanLeaderChange ensures that a leader which was cut off lists nothing to who must not see old state, that its successor goes on
// where it stopped, with what was written meanwhile; and that what it was asked to remove is unknown, or refused.
func TestScanLeaderChange(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		var want []string
		for i := range 40 {
			want = append(want, fmt.Sprint("k", i))
			c.mustPut(l, want[i], "v")
		}
		first, err := scanOn(l, l.Node(), Scan{Limit: 10}, false)
		if err != nil || len(first.Keys) != 10 {
			t.Fatalf("%+v, %v", first, err)
		}
		others := c.others(l.Node())
		for _, node := range others {
			c.net.Hold(l.Node(), node)
			c.net.Hold(node, l.Node())
		}
		type end struct {
			p   Page
			err error
		}
		old, removed := make(chan end, 1), make(chan end, 1)
		go func() {
			p, err := scanOn(l, l.Node(), Scan{Limit: 10, From: first.Next, NoLease: true}, false)
			old <- end{p, err}
		}()
		go func() {
			p, err := scanOn(l, l.Node(), Scan{Prefix: []byte("k")}, true)
			removed <- end{p, err}
		}()
		next := c.leader(others...)
		c.mustPut(next, "{new}", "v")
		want = append(want, "{new}")
		slices.SortFunc(want, byPlace)
		var got []string
		for _, key := range first.Keys {
			got = append(got, string(key))
		}
		for s := (Scan{From: first.Next, Limit: 10}); s.From.Slot < fsm.Slots; {
			p, err := scanOn(next, next.Node(), s, false)
			if err != nil {
				t.Fatal(err)
			}
			for _, key := range p.Keys {
				got = append(got, string(key))
			}
			s.From = p.Next
		}
		want = slices.DeleteFunc(want, func(key string) bool { return key == "{new}" && byPlace(key, string(first.Keys[9])) < 0 })
		if !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		if e := <-old; e.err == nil || !Refused(e.err) {
			t.Errorf("a page of a leader that nobody confirms: %q, %v", e.p.Keys, e.err)
		}
		if e := <-removed; e.err == nil {
			t.Errorf("removed by a leader that nobody confirms: %+v", e.p)
		}
	})
}

// TestErase ensures that exactly the keys of a prefix are removed, with their number, by the leader alone and by whatever node it is
// asked, in steps where they are many, of which the end of each is where the next begins.
func TestErase(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		var ops []Request
		for i := range 500 {
			ops = append(ops, putOp(fmt.Sprint("user:", i), "v"), putOp(fmt.Sprint("{t}:", i), "v"))
		}
		if _, err := doBatch(l, ops...); err != nil {
			t.Fatal(err)
		}
		follower := c.others(l.Node())[0]
		var leader *NotLeaderError
		if _, err := scanOn(l, follower, Scan{Prefix: []byte("user:")}, true); !errors.As(err, &leader) || leader.Leader != l.Node() {
			t.Errorf("on a follower: %v", err)
		}
		c.mustPut(l, "early", "v")
		slot := uint32(fsm.Slot([]byte("early")))
		for removed, from := range []uint32{slot + 1, slot} { // what is before the slot stays
			p, err := scanOn(l, l.Node(), Scan{Prefix: []byte("early"), From: fsm.Cursor{Slot: from}}, true)
			if err != nil || p.Removed != uint64(removed) || p.Next.Slot != fsm.Slots {
				t.Errorf("from slot %d, the key being in %d: %+v, %v", from, slot, p, err)
			}
		}
		for _, row := range []struct {
			prefix        string
			removed, left int
		}{{"none", 0, 1000}, {"user:1", 111, 889}, {"{t}:", 500, 389}, {"user:", 389, 0}} {
			s, removed := Scan{Prefix: []byte(row.prefix)}, 0
			for s.From = s.From.Within(s.Prefix); s.From.Slot < fsm.Slots; {
				p, err := scanOn(c.hosts[follower], l.Node(), s, true)
				if err != nil || p.Status != fsm.StatusOK || p.Next.Slot <= s.From.Slot {
					t.Fatalf("%q from %+v: %+v, %v", row.prefix, s.From, p, err)
				}
				removed += int(p.Removed)
				s.From = p.Next
			}
			keys, _ := listOn(t, l, l.Node(), "", 5000)
			if removed != row.removed || len(keys) != row.left || slices.ContainsFunc(keys, func(k string) bool { return strings.HasPrefix(k, row.prefix) }) {
				t.Errorf("%q: %d removed, %d left, want %d and %d", row.prefix, removed, len(keys), row.removed, row.left)
			}
		}
		c.wantSameState()
	})
}

// TestEraseInSteps ensures that removing stops at the end of a slot once it took many entries of the log, and when its time is about to
// end, with what was removed until then; and that it goes on from there.
func TestEraseInSteps(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		const tags, each = eraseMost * 3 / 2, eraseSpan
		for tag := range tags {
			var ops []Request
			for i := range each {
				ops = append(ops, putOp(fmt.Sprintf("{%d}%d", tag, i), ""))
			}
			if _, err := doBatch(l, ops...); err != nil {
				t.Fatal(err)
			}
		}
		first, err := scanOn(l, l.Node(), Scan{Prefix: []byte("{")}, true)
		if err != nil || first.Removed == 0 || first.Removed == tags*each || first.Next.Slot == fsm.Slots {
			t.Fatalf("%+v, %v", first, err)
		}
		keys, _ := listOn(t, l, l.Node(), "", fsm.MaxPage)
		if len(keys) != tags*each-int(first.Removed) || uint32(fsm.Slot([]byte(keys[0]))) < first.Next.Slot {
			t.Errorf("%d keys are left of %d, %d removed, the first of slot %d, next %d", len(keys), tags*each, first.Removed, fsm.Slot([]byte(keys[0])), first.Next.Slot)
		}
		ctx, cancel := context.WithTimeout(context.Background(), eraseMargin-10*time.Millisecond)
		defer cancel()
		second, err := l.Erase(ctx, l.Node(), Scan{Shard: testShard, Prefix: []byte("{"), From: first.Next})
		if err != nil || second.Removed == 0 || second.Next.Slot <= first.Next.Slot || second.Next.Slot == fsm.Slots {
			t.Fatalf("with little time: %+v, %v", second, err)
		}
		third, err := scanOn(l, l.Node(), Scan{Prefix: []byte("{"), From: second.Next}, true)
		if err != nil || third.Next.Slot != fsm.Slots || first.Removed+second.Removed+third.Removed != tags*each {
			t.Errorf("%d, %d and %d removed, next %+v, %v", first.Removed, second.Removed, third.Removed, third.Next, err)
		}
	})
}

// TestScanCheck ensures that what no client of ours sends is refused.
func TestScanCheck(t *testing.T) {
	long := bytes.Repeat([]byte("k"), fsm.MaxKey+1)
	for name, tc := range map[string]struct {
		s           Scan
		list, erase bool
	}{
		"list":                 {Scan{Limit: fsm.MaxPage}, true, false},
		"remove":               {Scan{}, false, true},
		"too many":             {Scan{Limit: fsm.MaxPage + 1}, false, false},
		"fewer than none":      {Scan{Limit: -1}, false, false},
		"a long prefix":        {Scan{Limit: 1, Prefix: long}, false, false},
		"a long cursor":        {Scan{Limit: 1, From: fsm.Cursor{After: long}}, false, false},
		"behind the last slot": {Scan{Limit: 1, From: fsm.Cursor{Slot: fsm.Slots}}, false, false},
		"bounded":              {Scan{Limit: 1, Consistency: Bounded, MaxStaleness: time.Second}, true, false},
		"any and an age":       {Scan{Limit: 1, Consistency: Any, MaxStaleness: time.Second}, false, false},
		"no consistency":       {Scan{Limit: 1, Consistency: 9}, false, false},
		"remove what is old":   {Scan{Consistency: Any}, false, false},
	} {
		if err := tc.s.check(false); (err == nil) != tc.list {
			t.Errorf("%s: list %v", name, err)
		}
		if err := tc.s.check(true); (err == nil) != tc.erase {
			t.Errorf("%s: remove %v", name, err)
		}
	}
}

// TestScanRoundTrip ensures that a scan and its answer are read by another node as they were meant, and half of them not at all.
func TestScanRoundTrip(t *testing.T) {
	s := Scan{Shard: 7, R: 1 << 40, Prefix: []byte("\xff\x00"), From: fsm.Cursor{Slot: 16383, After: []byte("\xff\x00k")}, Limit: 10, Consistency: Bounded,
		MaxStaleness: time.Second, NoLease: true}
	body := appendScan(nil, s)
	r := reader{b: body}
	if got := r.scan(); r.err != nil || len(r.b) != 0 || !reflect.DeepEqual(got, s) {
		t.Errorf("got %+v, %v, want %+v", got, r.err, s)
	}
	for n := range body {
		r := reader{b: body[:n]}
		if _ = r.scan(); r.err == nil {
			t.Errorf("%d of %d bytes were read", n, len(body))
		}
	}
	p := Page{Response: Response{Shard: 7, Epoch: 3, Index: 9, Status: fsm.StatusOK, Read: ReadLog, Value: []byte{}}, Removed: 1 << 33,
		Keys: [][]byte{[]byte("a"), []byte("\xff")}, Next: fsm.Cursor{Slot: fsm.Slots, After: []byte{}}}
	text := appendPage(nil, p)
	if got, err := decodePage(text); err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("got %+v, %v, want %+v", got, err, p)
	}
	for n := range text {
		if _, err := decodePage(text[:n]); err == nil {
			t.Errorf("%d of %d bytes of a page were read", n, len(text))
		}
	}
}
