package directory

import (
	"encoding/binary"
	"errors"
	"math"

	"github.com/larder-cache/larder/shard"
)

// report is what a node tells its peers with each ping: soft state, of use for seconds.
type report struct {
	tableVersion uint64
	raft, http   string // addresses
	replicas     []replicaReport
}

// replicaReport is a node's account of one of its replicas.
type replicaReport struct {
	shard         shard.ID
	leader, ready bool
	term          uint64
	commit        uint64
	applied       uint64
	last          uint64
	conf          uint64
	entries       uint64
	bytes         uint64
	hits          uint64
	misses        uint64
	evictions     uint64
	snapshotBytes uint64 // of a snapshot that comes in
	snapshotTotal uint64
	diverged      bool // it serves nothing: its state differs from that of others, or may
}

// The encoding: the version byte, then unsigned varints; a string is its length and its bytes, a
// replica its fields in the order above with its flags in one number.
const (
	reportVersion = 2
	// maxReported bounds the replicas in one report; a node with more reports them in turns.
	maxReported = 512
	// maxReport bounds the bytes of a report that is taken in: more than maxReported replicas need.
	maxReport = 80 << 10
	// maxAddress bounds an address in a report.
	maxAddress = 512

	flagLeader = 1
	flagReady  = 2
	// flagDiverged is unknown to older builds, which ignore it.
	flagDiverged = 4
)

var errReport = errors.New("not a report that this build can read")

// numbers returns the fields of r that are plain numbers, in their order on the wire.
func (r *replicaReport) numbers() []*uint64 {
	return []*uint64{&r.term, &r.commit, &r.applied, &r.last, &r.conf, &r.entries, &r.bytes, &r.hits, &r.misses, &r.evictions,
		&r.snapshotBytes, &r.snapshotTotal}
}

func (r *report) encode() []byte {
	b := []byte{reportVersion}
	b = binary.AppendUvarint(b, r.tableVersion)
	for _, address := range []string{r.raft, r.http} {
		b = binary.AppendUvarint(b, uint64(len(address)))
		b = append(b, address...)
	}
	b = binary.AppendUvarint(b, uint64(len(r.replicas)))
	for i := range r.replicas {
		p := &r.replicas[i]
		var flags uint64
		if p.leader {
			flags |= flagLeader
		}
		if p.ready {
			flags |= flagReady
		}
		if p.diverged {
			flags |= flagDiverged
		}
		b = binary.AppendUvarint(b, uint64(p.shard))
		b = binary.AppendUvarint(b, flags)
		for _, n := range p.numbers() {
			b = binary.AppendUvarint(b, *n)
		}
	}
	return b
}

// decodeReport reads a report; bytes after it are an error.
func decodeReport(b []byte) (report, error) {
	if len(b) == 0 || len(b) > maxReport || b[0] != reportVersion {
		return report{}, errReport
	}
	b = b[1:]
	bad := false
	number := func() uint64 {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			bad, b = true, nil
			return 0
		}
		b = b[size:]
		return n
	}
	text := func() string {
		n := number()
		if n > maxAddress || n > uint64(len(b)) {
			bad, b = true, nil
			return ""
		}
		s := string(b[:n])
		b = b[n:]
		return s
	}
	r := report{tableVersion: number(), raft: text(), http: text()}
	count := number()
	if bad || count > maxReported {
		return report{}, errReport
	}
	r.replicas = make([]replicaReport, count)
	for i := range r.replicas {
		p := &r.replicas[i]
		p.shard = shard.ID(number())
		flags := number()
		p.leader, p.ready, p.diverged = flags&flagLeader != 0, flags&flagReady != 0, flags&flagDiverged != 0
		for _, n := range p.numbers() {
			*n = number()
		}
	}
	if bad || len(b) > 0 {
		return report{}, errReport
	}
	return r, nil
}

// reportReplica turns a replica's status into what peers are told of it.
func reportReplica(s shard.Status) replicaReport {
	r := replicaReport{
		shard:   s.Shard,
		leader:  s.Role == shard.RoleLeader,
		ready:   s.Ready,
		term:    s.Term,
		commit:  s.Commit,
		applied: s.Applied,
		last:    s.Last,
		conf:    s.Conf,
		hits:    s.Hits,
		misses:  s.Misses,

		diverged: s.Diverged != "",

		snapshotBytes: s.SnapshotBytes,
		snapshotTotal: s.SnapshotTotal,
	}
	if c := s.Cache; c != nil {
		r.entries, r.bytes, r.evictions = uint64(max(c.Entries, 0)), c.Bytes, c.Evictions
	}
	return r
}

// window returns at most maxReported of statuses, starting after those of the previous turn.
func window(statuses []shard.Status, turn uint64) []shard.Status {
	if len(statuses) <= maxReported {
		return statuses
	}
	start := int(turn % math.MaxInt32 * maxReported % uint64(len(statuses)))
	w := make([]shard.Status, maxReported)
	for i := range w {
		w[i] = statuses[(start+i)%len(statuses)]
	}
	return w
}
