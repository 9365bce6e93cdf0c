package shard

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/fsm"
)

// cramped lets the shard hold a number of entries with keys of three bytes and values of a hundred.
func (c *cluster) cramped(entries int) *Host {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l := c.leader()
	c.mustPut(l, "one", strings.Repeat("v", 100))
	cost := l.Cache(testShard).Status().Cache.Bytes
	if err := l.Cache(testShard).SetLimit(ctx, uint64(entries)*cost, 2); err != nil {
		c.t.Fatal(err)
	}
	return l
}

// gathered returns the values of a node's metrics by name and last label ("" for what has but the shard).
func gathered(t *testing.T, h *Host) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry() // holds what is collected against what was described
	registry.MustRegister(h.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				if l.GetName() != "shard" {
					name += " " + l.GetValue()
				}
			}
			values[name] = m.Counter.GetValue() + m.Gauge.GetValue() + float64(m.Histogram.GetSampleCount())
		}
	}
	return values
}

// TestMissReasons ensures that a read that finds nothing says why, on the leader, forwarded and on a follower,
// and that a new leader still knows.
func TestMissReasons(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.cramped(50)
		value := strings.Repeat("v", 100)
		c.mustPut(l, "old", value)
		c.mustPut(l, "cut", value)
		if _, err := do(l, Request{Shard: testShard, Op: OpDelete, Key: []byte("cut")}); err != nil {
			t.Fatal(err)
		}
		if _, err := do(l, Request{Shard: testShard, Op: OpPut, Key: []byte("ttl"), Value: []byte(value), TTL: time.Second}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Second) // of virtual time
		for i := range 60 {
			c.mustPut(l, fmt.Sprintf("k%02d", i), value)
		}
		want := map[string]MissReason{"old": MissEvicted, "cut": MissDeleted, "ttl": MissExpired, "not": MissAbsent, "k59": ""}
		check := func(from *Host, on string) {
			t.Helper()
			for key, reason := range want {
				r, err := from.Do(context.Background(), on, Request{Shard: testShard, Op: OpGet, Key: []byte(key)})
				if err != nil || r.MissReason != reason || r.Found != (reason == "") {
					t.Errorf("%s on %s from %s: %+v, %v, want %q", key, on, from.Node(), r, err, reason)
				}
			}
		}
		follower := c.hosts[c.others(l.Node())[0]]
		check(l, l.Node())
		check(follower, l.Node())
		check(follower, follower.Node())

		s, metrics := l.Cache(testShard).Status(), gathered(t, l)
		for _, reason := range []MissReason{MissEvicted, MissDeleted, MissExpired, MissAbsent} {
			if s.Missed[reason] != 2 || metrics["larder_misses_total "+string(reason)] != 2 {
				t.Errorf("%s: %d counted, %v in metrics, want 2", reason, s.Missed[reason], metrics["larder_misses_total "+string(reason)])
			}
		}
		evictions := float64(s.Cache.Evictions)
		if s.Misses != 8 || s.Hits != 2 || metrics["larder_evicted_age_seconds"] != evictions || evictions == 0 || metrics["larder_ghost_bytes"] == 0 {
			t.Errorf("%+v\n%v", s, metrics)
		}

		c.mustPut(l, "old", value) // a ghost no more, and then again
		c.mustPut(l, "cut", value)
		for i := range 60 {
			c.mustPut(l, fmt.Sprintf("l%02d", i), value)
		}
		delete(want, "k59")
		want["cut"] = MissEvicted
		c.crash(l.Node())
		next := c.leader()
		check(next, next.Node())
	})
}

// TestSizingOfShard ensures that the report on a shard tells what more memory would have given: keys that are
// asked for in turn, some more than fit, are never there, and always with as much memory as all of them need.
func TestSizingOfShard(t *testing.T) {
	const room, rounds = 50, 5
	all := 1 - 1./rounds // the first time round, nothing could be there
	for keys, want := range map[int][3]float64{60: {all, all, all}, 70: {0, all, all}, 90: {0, 0, all}, 110: {}} {
		inBubble(t, 3, nil, func(c *cluster) {
			l := c.cramped(room)
			for range rounds {
				for i := range keys {
					key := fmt.Sprintf("%03d", i)
					c.wantGet(l, key, "")
					c.mustPut(l, key, strings.Repeat("v", 100))
				}
			}
			s := l.Cache(testShard).Status().Sizing
			if s == nil || s.HitRatio != 0 || s.Estimate != 0 || s.Samples < 10 {
				t.Fatalf("%d keys: got %+v", keys, s)
			}
			metrics := gathered(t, l)
			for i, got := range [][2]float64{
				{s.Plus25, metrics["larder_sizing_hit_ratio 1.25x"]},
				{s.Plus50, metrics["larder_sizing_hit_ratio 1.5x"]},
				{s.Plus100, metrics["larder_sizing_hit_ratio 2x"]},
			} {
				if math.Abs(got[0]-want[i]) > .01 || math.Abs(got[1]-want[i]) > .01 {
					t.Errorf("%d keys, size %d: got %.3f, want %.2f", keys, i, got, want[i])
				}
			}
			if s := c.hosts[c.others(l.Node())[0]].Cache(testShard).Status().Sizing; s != nil {
				t.Errorf("a replica that served no reads reports %+v", s)
			}
		})
	}
}

// TestRestoredMachineIsObserved ensures that a machine that comes out of a snapshot knows nothing of what went
// before, and is observed from then on.
func TestRestoredMachineIsObserved(t *testing.T) {
	m := newCacheMachine(1)
	index := uint64(0)
	apply := func(commands ...fsm.Command) {
		t.Helper()
		index++
		data, err := fsm.Batch{Level: 1, Stamp: 1000, Commands: commands}.AppendBinary(nil)
		if err != nil {
			t.Fatal(err)
		}
		m.Apply(index, data)
	}
	why := func(key string) MissReason {
		_, _, none := m.look([]byte(key))
		return missReasons[none.why]
	}
	apply(fsm.Command{Kind: fsm.KindGrant, Grant: fsm.Grant{Range: fsm.Range{End: fsm.Slots}, Epoch: 1, Generation: 1, VersionBits: 1, Limit: 1 << 20, TableVersion: 1}})
	for _, key := range []string{"a", "b"} {
		apply(fsm.Command{Kind: fsm.KindPut, Key: []byte(key)})
	}
	apply(fsm.Command{Kind: fsm.KindDelete, Key: []byte("a")})
	if got := why("a"); got != MissDeleted {
		t.Errorf("a before the snapshot: %s", got)
	}
	var snapshot bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := m.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	apply(fsm.Command{Kind: fsm.KindDelete, Key: []byte("b")})
	if a, b := why("a"), why("b"); a != MissAbsent || b != MissDeleted {
		t.Errorf("after the snapshot: a %s, b %s", a, b)
	}
}

// BenchmarkAside shows what is kept beside the state costs: a put that evicts, with and without an observer,
// and looks that hit and that miss.
func BenchmarkAside(b *testing.B) {
	const entries = 1 << 15
	key := func(i int) []byte { return binary.BigEndian.AppendUint64(make([]byte, 8, 16), uint64(i)) }
	value := make([]byte, 128)
	full := func(b *testing.B) (*cacheMachine, func(i int)) {
		m, index := newCacheMachine(1), uint64(0)
		apply := func(c fsm.Command) {
			index++
			batch := fsm.Batch{Level: 1, Stamp: index, Commands: []fsm.Command{c}}
			results, err := m.m.Apply(index, batch)
			if err != nil {
				b.Fatal(err)
			}
			m.aside.applied(m.m, &batch, results, m.m.Stats())
		}
		apply(fsm.Command{Kind: fsm.KindLevel, Level: 2})
		apply(fsm.Command{Kind: fsm.KindGrant, Grant: fsm.Grant{Range: fsm.Range{End: fsm.Slots}, Epoch: 1, Generation: 1, VersionBits: 1,
			Limit: entries * fsm.Cost(16, 128, 0), TableVersion: 1}})
		put := func(i int) { apply(fsm.Command{Kind: fsm.KindPut, Key: key(i), Value: value}) }
		for i := range 3 * entries {
			put(i)
		}
		return m, put
	}
	b.Run("PutEvict/observed", func(b *testing.B) {
		_, put := full(b)
		b.ResetTimer()
		for i := range b.N {
			put(3*entries + i)
		}
	})
	b.Run("PutEvict/plain", func(b *testing.B) {
		m, put := full(b)
		m.m.Observe(nil)
		b.ResetTimer()
		for i := range b.N {
			put(3*entries + i)
		}
	})
	for name, first := range map[string]int{"Hit": 2 * entries, "Miss": entries} {
		b.Run("Look"+name, func(b *testing.B) {
			m, _ := full(b)
			keys := make([][]byte, entries)
			for i, at := range rand.Perm(entries) {
				keys[i] = key(first + at)
			}
			b.ResetTimer()
			for i := range b.N {
				if l, _, _ := m.look(keys[i%entries]); l.Found != (name == "Hit") {
					b.Fatalf("%x: %t", keys[i%entries], l.Found)
				}
			}
		})
	}
}
