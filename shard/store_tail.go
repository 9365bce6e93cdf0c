package shard

import "github.com/hashicorp/raft"

// tailLimits bounds the entries that a store keeps in memory, whichever is reached first.
type tailLimits struct {
	entries int
	bytes   int // of Data and Extensions, plus entryOverhead each
}

// defaultTail holds what followers a little behind, and Apply, are about to read, where much is written. It is dropped when it
// gets old, see age.
var defaultTail = tailLimits{entries: 4096, bytes: 8 << 20}

// entryOverhead is about what a raft.Log costs besides its bytes.
const entryOverhead = 128

// tail holds the newest entries of a log, in order and without holes. The newest is always held,
// whatever its size. It is not raft.LogCache since that forgets everything at each compaction, just
// when the snapshot keeps the disk busy, and keeps the futures alive that entries are part of.
type tail struct {
	limits tailLimits
	logs   []raft.Log // logs[0] has the lowest index
	bytes  int
	aged   uint64 // what is up to here is as old as the last call of age
}

func cost(log *raft.Log) int { return len(log.Data) + len(log.Extensions) + entryOverhead }

// get copies the entry at index into log, if it is here.
func (t *tail) get(index uint64, log *raft.Log) bool {
	if len(t.logs) == 0 || index < t.logs[0].Index || index > t.logs[len(t.logs)-1].Index {
		return false
	}
	*log = t.logs[index-t.logs[0].Index]
	return true
}

// append adds logs, which follow the newest entry or find the tail empty.
func (t *tail) append(logs []*raft.Log) {
	for _, log := range logs {
		t.logs = append(t.logs, *log)
		t.bytes += cost(log)
	}
	drop := 0
	for bytes := t.bytes; len(t.logs)-drop > 1 &&
		(len(t.logs)-drop > t.limits.entries || bytes > t.limits.bytes); drop++ {
		bytes -= cost(&t.logs[drop])
	}
	t.dropFirst(drop)
}

// dropFirst forgets the n oldest entries. The array behind is left as soon as append needs room.
func (t *tail) dropFirst(n int) {
	for i := range t.logs[:n] {
		t.bytes -= cost(&t.logs[i])
	}
	clear(t.logs[:n])
	t.logs = t.logs[n:]
}

// age forgets what was here when it was called before, but for the newest entry: by then it is applied, and followers that still lack
// it are so far behind that they wait for a disk anyway. Small entries would else stay for hours, as their bytes reach no limit.
func (t *tail) age() {
	if len(t.logs) == 0 {
		return
	}
	newest := t.logs[len(t.logs)-1].Index
	if last := min(t.aged, newest-1); last >= t.logs[0].Index {
		t.dropBelow(last + 1)
		t.logs = append([]raft.Log(nil), t.logs...) // the array may be far larger
	}
	t.aged = newest
}

// dropBelow forgets entries before index.
func (t *tail) dropBelow(index uint64) {
	if len(t.logs) > 0 && index > t.logs[0].Index {
		t.dropFirst(int(min(index-t.logs[0].Index, uint64(len(t.logs)))))
	}
}

// dropAbove forgets entries after index.
func (t *tail) dropAbove(index uint64) {
	keep := 0
	if len(t.logs) > 0 && index >= t.logs[0].Index {
		keep = int(min(index-t.logs[0].Index+1, uint64(len(t.logs))))
	}
	for i := range t.logs[keep:] {
		t.bytes -= cost(&t.logs[keep+i])
	}
	clear(t.logs[keep:])
	t.logs = t.logs[:keep]
	t.aged = min(t.aged, index)
}

// reset forgets everything.
func (t *tail) reset() { t.logs, t.bytes, t.aged = nil, 0, 0 }
