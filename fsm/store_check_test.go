package fsm

import (
	"bytes"
	"slices"
)

// fataler is what a testing.T, a testing.B and a rapid.T have in common here.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkStore ensures that all parts of a store agree with each other.
func checkStore(t fataler, s *store) {
	t.Helper()
	used := checkList(t, s)
	checkPages(t, s, used)
	checkIndex(t, s, used)
	checkArena(t, s)
	checkDue(t, s)
}

// checkList walks the order both ways and returns the records in it.
func checkList(t fataler, s *store) map[ref]bool {
	t.Helper()
	used := make(map[ref]bool)
	var prev ref
	for r := s.oldest(); r != 0; r = s.newer(r) {
		rec := s.records.read(r)
		if used[r] || rec.prev != prev {
			t.Fatalf("list: record %d after %d: seen before %v, %+v", r, prev, used[r], rec)
		}
		if prev != 0 && rec.stamp < s.records.read(prev).stamp {
			t.Fatalf("list: stamp %d after %d", rec.stamp, s.records.read(prev).stamp)
		}
		if f := &s.foreseen; f.next == r && f.before != len(used) {
			t.Fatalf("foreseen: record %d has %d before it, not %d", r, len(used), f.before)
		}
		used[r] = true
		prev = r
	}
	if next := s.foreseen.next; next != 0 && !used[next] {
		t.Fatalf("foreseen: record %d is not in the list", next)
	}
	if s.newestRef != prev || s.len() != len(used) {
		t.Fatalf("list ends at %d with %d entries, want %d with %d", prev, len(used), s.newestRef, s.len())
	}
	return used
}

func checkPages(t fataler, s *store, used map[ref]bool) {
	t.Helper()
	rs := &s.records
	if len(rs.info) != len(rs.pages) || len(rs.places) != len(rs.pages) || len(rs.expiries) != len(rs.pages) {
		t.Fatalf("%d pages, %d infos, %d places, %d expiries", len(rs.pages), len(rs.info), len(rs.places), len(rs.expiries))
	}
	listed := make(map[uint32]bool)
	for p, prev := rs.room, uint32(0); p != 0; p, prev = rs.info[p-1].next, p {
		if listed[p] || rs.info[p-1].prev != prev || rs.info[p-1].free == 0 {
			t.Fatalf("page %d listed wrongly: %+v", p-1, rs.info[p-1])
		}
		listed[p] = true
	}
	placed := 0
	for p, info := range rs.info {
		if rs.places[p] != nil {
			placed++
		}
		if (rs.places[p] == nil) != (rs.expiries[p] == nil) {
			t.Fatalf("page %d has places: %v, expiries: %v", p, rs.places[p] != nil, rs.expiries[p] != nil)
		}
		free := 0
		for r := info.free; r != 0; r = rs.read(r).next {
			if int(r-1)/pageRefs != p || int(r-1)%pageRefs >= pageLen || used[r] || rs.read(r).prev != r || rs.expiry(r) != 0 || free > pageLen {
				t.Fatalf("page %d: record %d is not free", p, r)
			}
			free++
		}
		if free+int(info.used) != pageLen || listed[uint32(p)+1] != (free > 0) || info.epoch > rs.epoch {
			t.Fatalf("page %d: %d free, listed %v, %+v in epoch %d", p, free, listed[uint32(p)+1], info, rs.epoch)
		}
	}
	if placed != rs.placed {
		t.Fatalf("%d pages have places, want %d", placed, rs.placed)
	}
}

// checkIndex walks all tables, and sums slots up anew.
func checkIndex(t fataler, s *store, used map[ref]bool) {
	t.Helper()
	if s.index != nil && (len(s.index) != int(s.owned.End-s.owned.Start) || len(s.summed) != len(s.index)) {
		t.Fatalf("%d tables, %d sums for %+v", len(s.index), len(s.summed), s.owned)
	}
	var size uint64
	entries := 0
	for i := range s.index {
		x := &s.index[i]
		want := slotSums{gone: s.summed[i].gone, lost: s.summed[i].lost}
		tables := 0
		x.eachTable(func(tb *table, common uint32, depth uint8) bool {
			tables++
			n := uint32(0)
			for at, c := range tb.cells {
				if c.ref == 0 {
					continue
				}
				n++
				rec, e := s.records.read(c.ref), s.at(c.ref)
				block, hash := s.arena.block(rec.block()), s.hash(e.key)
				switch {
				case !used[c.ref]:
					t.Fatalf("cell: record %d is none", c.ref)
				case uint32(s.slotOf(c.ref))-s.owned.Start != uint32(i) || s.keySlot(e.key) != s.slotOf(c.ref):
					t.Fatalf("record of slot %d, key of slot %d in %d", s.slotOf(c.ref), s.keySlot(e.key), i)
				case hash != rec.hash() || c != newCell(hash, rec.block(), c.ref):
					t.Fatalf("record of hash %x at %x, its cell says %x at %x", rec.hash(), rec.block(), c.hash(), c.block())
				case x.tableOf(hash) != tb || hash&(1<<depth-1) != common:
					t.Fatalf("record of hash %x in table %x", hash, common)
				case tb.place(hash, c.ref) != uint32(at):
					t.Fatalf("cell %d is reached as %d", at, tb.place(hash, c.ref))
				case !bytes.Equal(block, blockOf(e.key, e.contentType, e.value, nil)):
					t.Fatalf("block of %q", e.key)
				case len(block) != blockHeader+s.sizeOf(c.ref):
					t.Fatalf("size %d of a block of %d", s.sizeOf(c.ref), len(block))
				}
				for j := tb.home(hash); j != uint32(at); j = tb.after(j) {
					if tb.cells[j].ref == 0 {
						t.Fatalf("cell %d can't be reached over the gap at %d", at, j)
					}
				}
				want.add(block, rec.version, e.expireAt, rec.stamp)
			}
			if n != tb.n || n > 0 && int(n) >= len(tb.cells) || len(tb.cells) != cap(tb.cells) || tb.sparse() && x.parts == nil {
				t.Fatalf("%d entries, counted as %d, in %d cells", n, tb.n, len(tb.cells))
			}
			return true
		})
		if x.parts != nil && (want.entries < joinBelow || x.cells != nil) {
			t.Fatalf("%d tables for %d entries", tables, want.entries)
		}
		if s.summed[i] != want {
			t.Fatalf("sums of slot %d are %+v, want %+v", int(s.owned.Start)+i, s.summed[i], want)
		}
		entries += int(want.entries)
		size += want.payload
	}
	if entries != s.len() || size != s.payload() {
		t.Fatalf("%d entries of %d bytes, want %d of %d", entries, size, s.len(), s.payload())
	}
}

func checkArena(t fataler, s *store) {
	t.Helper()
	a := &s.arena
	live := make([]uint64, len(a.segments))
	for r := s.oldest(); r != 0; r = s.newer(r) {
		rec := s.records.read(r)
		live[rec.block().segment()] += uint64(blockHeader + s.sizeOf(r))
	}
	var all, lone, shared uint64
	for n, info := range a.info {
		filling := slices.Contains(a.filling[:], uint32(n)+1)
		if uint64(info.live) != live[n] || int(info.room) != cap(a.segments[n]) ||
			info.room != 0 && info.live == 0 && !filling || info.lone && filling || info.filling != filling {
			t.Fatalf("segment %d: %d bytes live of %d, filling %v, %+v", n, live[n], cap(a.segments[n]), filling, info)
		}
		all += live[n]
		if info.lone {
			lone += live[n]
		} else {
			shared += uint64(info.room)
		}
	}
	if all != a.live || lone != a.lone || shared != a.shared {
		t.Fatalf("arena: %d live, %d alone, %d shared; want %d, %d, %d", a.live, a.lone, a.shared, all, lone, shared)
	}
	if s.len() == 0 && (a.shared != 0 || a.filling != [1 + ages]uint32{}) {
		t.Fatalf("an empty store holds %d bytes", a.shared)
	}
	free := make(map[uint32]bool)
	for _, n := range a.numbers {
		if free[n] || a.segments[n] != nil {
			t.Fatalf("segment %d is not free", n)
		}
		free[n] = true
	}
	for n, buf := range a.segments {
		if buf == nil && !free[uint32(n)] {
			t.Fatalf("segment %d is lost", n)
		}
	}
}

func checkDue(t fataler, s *store) {
	t.Helper()
	expiring := 0
	for r := s.oldest(); r != 0; r = s.newer(r) {
		_, expireAt, _ := s.meta(r)
		if expireAt == 0 {
			continue
		}
		expiring++
		i := *s.records.place(r)
		if i >= s.due.n || *s.due.at(i) != (due{expireAt, r}) {
			t.Fatalf("record %d, expiry %d, is not at place %d of %d", r, expireAt, i, s.due.n)
		}
		if i > 0 && s.dueBefore(s.due.at(i), s.due.at((i-1)/4)) {
			t.Fatalf("place %d comes before its parent", i)
		}
	}
	if n := len(s.due.chunks) * dueChunk; int(s.due.n) != expiring || n < expiring || n > expiring+2*dueChunk {
		t.Fatalf("%d of %d places for %d expiring entries", s.due.n, n, expiring)
	}
}

// blockOf returns the block of an entry.
func blockOf(key, contentType, v1, v2 []byte) []byte {
	b := make([]byte, blockHeader+len(key)+len(contentType)+len(v1)+len(v2))
	writeBlock(b, key, contentType, v1, v2)
	return b
}
