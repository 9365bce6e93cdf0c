package fsm

import (
	"math"
	"slices"
)

// twin is a second implementation of the rules of Machine, as naive as can be: one slice, oldest entry
// first, scanned for everything.
type twin struct {
	entries                       []twinEntry
	applied, clock, counter, bits uint64
	generation, epoch             uint64
	granted                       bool
	start, end                    int
	limit, bound, tableVersion    uint64
	evictions, expirations, level uint64
}

type twinEntry struct {
	key, value, contentType string
	version, expireAt       uint64
}

func (e twinEntry) cost() uint64 {
	return uint64(Overhead + len(e.key+e.value+e.contentType))
}

func (tw *twin) dead(e twinEntry) bool { return e.expireAt > 0 && tw.clock >= e.expireAt }

func (tw *twin) bytes() (sum uint64) {
	for _, e := range tw.entries {
		sum += e.cost()
	}
	return sum
}

func (tw *twin) version() uint64 { return tw.bits<<44 + tw.counter }

func (tw *twin) find(key string) int {
	return slices.IndexFunc(tw.entries, func(e twinEntry) bool { return e.key == key })
}

// removeAt takes an entry out that nobody asked to delete.
func (tw *twin) removeAt(i int) {
	if tw.dead(tw.entries[i]) {
		tw.expirations++
	} else {
		tw.evictions++
	}
	tw.entries = slices.Delete(tw.entries, i, i+1)
}

func (tw *twin) apply(index uint64, b Batch) (results []Result) {
	tw.applied = index
	if b.Stamp > tw.clock {
		tw.clock = b.Stamp
	}
	for _, c := range b.Commands {
		results = append(results, tw.command(c))
	}
	for range 256 {
		first := -1
		for i, e := range tw.entries {
			if tw.dead(e) && (first < 0 || e.expireAt < tw.entries[first].expireAt ||
				e.expireAt == tw.entries[first].expireAt && e.version < tw.entries[first].version) {
				first = i
			}
		}
		if first < 0 {
			break
		}
		tw.removeAt(first)
	}
	bytes := tw.bytes()
	for n := 0; n < 1024 && bytes > tw.limit; n++ {
		bytes -= tw.entries[0].cost()
		tw.removeAt(0)
	}
	tw.bound = max(tw.limit, bytes)
	return results
}

func (tw *twin) command(c Command) Result {
	switch c.Kind {
	case KindGrant:
		return tw.grant(c.Grant)
	case KindLimit:
		if c.TableVersion <= tw.tableVersion {
			return Result{Status: StatusStale}
		}
		tw.setLimit(c.Limit, c.TableVersion)
		return Result{Status: StatusOK}
	case KindLevel:
		if uint64(c.Level) <= tw.level {
			return Result{Status: StatusStale}
		}
		tw.level = uint64(c.Level)
		return Result{Status: StatusOK}
	}

	if slot := int(Slot(c.Key)); slot < tw.start || slot >= tw.end {
		return Result{Status: StatusNotOwner}
	}
	e := twinEntry{key: string(c.Key), value: string(c.Value), contentType: c.ContentType}
	if c.Kind == KindPut && e.cost() > tw.limit/8 {
		return Result{Status: StatusTooLarge}
	}
	at := tw.find(e.key)
	live := at >= 0 && !tw.dead(tw.entries[at])
	var current uint64
	if live {
		current = tw.entries[at].version
	}
	switch c.Cond.Kind {
	case CondAbsent:
		if live {
			return Result{Status: StatusCondition, Existed: true, Version: current}
		}
	case CondPresent:
		if !live {
			return Result{Status: StatusCondition}
		}
	case CondVersion:
		if !live || current != c.Cond.Version {
			return Result{Status: StatusCondition, Existed: live, Version: current}
		}
	}
	if c.Kind == KindDelete && !live {
		return Result{Status: StatusOK}
	}
	if tw.counter == 1<<44-1 {
		return Result{Status: StatusExhausted}
	}
	tw.counter++
	result := Result{Status: StatusOK, Existed: live, Version: tw.version()}
	if live {
		tw.entries = slices.Delete(tw.entries, at, at+1)
	} else if at >= 0 {
		tw.removeAt(at)
	}
	if c.Kind == KindDelete {
		return result
	}
	e.version = tw.version()
	if c.TTL > 0 {
		e.expireAt = tw.clock + min(c.TTL, math.MaxUint64-tw.clock)
	}
	tw.entries = append(tw.entries, e)
	for bytes := tw.bytes(); bytes > tw.bound; {
		bytes -= tw.entries[0].cost()
		tw.removeAt(0)
	}
	return result
}

func (tw *twin) grant(g Grant) Result {
	bits := uint64(g.VersionBits)
	have := []uint64{tw.generation, tw.epoch, tw.bits}
	if slices.Compare([]uint64{g.Generation, g.Epoch, bits}, have) <= 0 || tw.granted && bits <= tw.bits {
		return Result{Status: StatusStale}
	}
	tw.granted = true
	tw.generation, tw.epoch, tw.bits, tw.counter = g.Generation, g.Epoch, bits, 0
	tw.start, tw.end = int(g.Range.Start), int(g.Range.End)
	tw.entries = slices.DeleteFunc(tw.entries, func(e twinEntry) bool {
		slot := int(Slot([]byte(e.key)))
		return slot < tw.start || slot >= tw.end
	})
	if g.TableVersion > tw.tableVersion {
		tw.setLimit(g.Limit, g.TableVersion)
	}
	return Result{Status: StatusOK}
}

func (tw *twin) setLimit(limit, tableVersion uint64) {
	tw.limit, tw.tableVersion = limit, tableVersion
	tw.bound = max(tw.bound, limit)
}

func (tw *twin) stats() Stats {
	return Stats{
		Entries: len(tw.entries), Bytes: tw.bytes(), Limit: tw.limit, Bound: tw.bound, TableVersion: tw.tableVersion,
		Evictions: tw.evictions, Expirations: tw.expirations, Clock: tw.clock, Version: tw.version(),
		Epoch: tw.epoch, Generation: tw.generation, Range: Range{uint32(tw.start), uint32(tw.end)},
		Level: uint8(tw.level), Applied: tw.applied,
	}
}
