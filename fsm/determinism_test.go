package fsm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
)

// TestSameLogSameBytes ensures that one log gives the same results, checksum and snapshot bytes wherever and
// however often it is applied: on one processor and on several, from encodings or commands, straight on, with
// snapshots under way, or restored in between.
func TestSameLogSameBytes(t *testing.T) {
	log := randomLog(7, 3000)
	apply := func(variant int) (results string, m *Machine) {
		m = New()
		var out bytes.Buffer
		done := make(chan error, 1)
		done <- nil
		for i, data := range log {
			b, err := DecodeBatch(data)
			if err != nil {
				t.Fatal(err)
			}
			r, err := m.Apply(uint64(i+1), b)
			if err != nil {
				t.Fatal(err)
			}
			if i%97 == 0 {
				fmt.Fprintln(&out, i, r)
			}
			if variant == 1 && i%501 == 500 { // a snapshot is written beside what follows
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				s := m.Snapshot()
				go func() {
					_, err := s.WriteTo(&bytes.Buffer{})
					done <- err
				}()
			}
			if variant == 2 && i%701 == 700 {
				if m, err = Restore(bytes.NewReader(snapshotBytes(t, m))); err != nil {
					t.Fatal(err)
				}
			}
		}
		return out.String(), m
	}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	results, first := apply(0)
	sum, image := first.Checksum(), snapshotBytes(t, first)
	if s := first.Stats(); s.Evictions < 1000 || s.Expirations < 100 || s.Keys == 0 {
		t.Fatalf("the log is too simple: %+v", s)
	}
	for variant := range 3 {
		for _, procs := range []int{1, 8} {
			runtime.GOMAXPROCS(procs)
			r, m := apply(variant)
			if r != results || m.Checksum() != sum || !bytes.Equal(snapshotBytes(t, m), image) {
				t.Errorf("variant %d on %d processors differs", variant, procs)
			}
			checkInvariants(t, m)
		}
	}
}

// randomLog makes a log of n encoded batches of all kinds of commands, against a limit that makes room for a
// part of the keys.
func randomLog(seed uint64, n int) [][]byte {
	rnd := rand.New(rand.NewPCG(seed, seed))
	clock := uint64(now)
	encode := func(b Batch) []byte {
		data, err := b.AppendBinary(nil)
		if err != nil {
			panic(err)
		}
		return data
	}
	log := [][]byte{
		encode(Batch{Level: 1, Commands: []Command{{Kind: KindLevel, Level: 2, Seed: 9}}}),
		encode(Batch{Stamp: clock, Level: 2, Commands: []Command{{Kind: KindGrant, Grant: Grant{
			Range: Range{0, Slots}, Epoch: 1, VersionBits: 1, Limit: 1 << 19, TableVersion: 1}}}}),
	}
	key := func() string { return fmt.Sprint("key", rnd.IntN(3000)) }
	for len(log) < n {
		clock += uint64(rnd.IntN(50))
		b := Batch{Stamp: clock, Level: 2}
		for range rnd.IntN(20) {
			var c Command
			switch rnd.IntN(12) {
			default:
				c = Command{Kind: KindPut, Key: []byte(key()), Value: make([]byte, rnd.IntN(1000)), TTL: uint64(rnd.IntN(3) * rnd.IntN(20_000))}
			case 0:
				c = remove(key())
			case 1:
				c = incr(fmt.Sprint("n", rnd.IntN(50)), int64(rnd.IntN(9)))
			case 2:
				c = appendTo(key(), "more")
			case 3:
				c = expire(key(), uint64(rnd.IntN(3000)))
			case 4, 5:
				c = Command{Kind: KindTouches}
				for range 1 + rnd.IntN(20) {
					c.Touches = AppendTouch(c.Touches, unseeded([]byte(key())))
				}
			}
			if c.Kind != KindTouches && rnd.IntN(4) == 0 {
				c.IdempotencyKey = fmt.Sprintf("%d-%d", clock-uint64(rnd.IntN(20_000)), rnd.IntN(3))
			}
			b.Commands = append(b.Commands, c)
		}
		if rnd.IntN(400) == 0 {
			b.Commands = append(b.Commands, Command{Kind: KindDeletePrefix, Key: []byte("key1"), Slots: Range{0, Slots}, PartBits: 1, Part: 1, Version: 1 << 63})
		}
		log = append(log, encode(b))
	}
	return log
}
