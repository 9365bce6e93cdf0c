package directory

import (
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/larder-cache/larder/shard"
)

func drawReport(t *rapid.T) report {
	r := report{
		tableVersion: rapid.Uint64().Draw(t, "version"),
		raft:         rapid.StringN(0, -1, maxAddress).Draw(t, "raft"),
		http:         rapid.StringN(0, -1, maxAddress).Draw(t, "http"),
		replicas:     make([]replicaReport, rapid.IntRange(0, 20).Draw(t, "replicas")),
	}
	for i := range r.replicas {
		p := &r.replicas[i]
		p.shard = shard.ID(rapid.Uint64().Draw(t, "shard"))
		p.leader, p.ready = rapid.Bool().Draw(t, "leader"), rapid.Bool().Draw(t, "ready")
		for _, n := range p.numbers() {
			*n = rapid.Uint64().Draw(t, "number")
		}
	}
	return r
}

// TestReportRoundTrip ensures that a report survives its encoding whole, and that cut or longer bytes
// are refused.
func TestReportRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := drawReport(t)
		b := want.encode()
		if got, err := decodeReport(b); err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, %v\nwant %+v", got, err, want)
		}
		if got, err := decodeReport(b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]); err == nil {
			t.Fatalf("cut, but read as %+v", got)
		}
		if got, err := decodeReport(append(b, 0)); err == nil {
			t.Fatalf("longer, but read as %+v", got)
		}
	})
}

// TestReportFits ensures that the largest report is within the bound that receivers accept, and that
// numbers returns each of a replica's plain fields once.
func TestReportFits(t *testing.T) {
	full := report{raft: string(make([]byte, maxAddress)), http: string(make([]byte, maxAddress)), tableVersion: 1 << 63}
	for range maxReported {
		p := replicaReport{shard: 1 << 63, leader: true, ready: true, diverged: true}
		for _, n := range p.numbers() {
			*n = 1 << 63
		}
		full.replicas = append(full.replicas, p)
	}
	if b := full.encode(); len(b) > maxReport {
		t.Errorf("%d bytes, want at most %d", len(b), maxReport)
	} else if _, err := decodeReport(b); err != nil {
		t.Error(err)
	}
	const others = 4 // shard, leader, ready, diverged
	var p replicaReport
	if got, want := len(p.numbers()), reflect.TypeFor[replicaReport]().NumField()-others; got != want {
		t.Errorf("numbers returns %d fields of %d", got, want)
	}
}

// TestWindow ensures that a node with more replicas than fit in a report reports each of them in turn.
func TestWindow(t *testing.T) {
	many := make([]shard.Status, 3*maxReported+7)
	for i := range many {
		many[i].Shard = shard.ID(i)
	}
	seen := make(map[shard.ID]bool)
	for turn := range uint64(4) {
		w := window(many, turn)
		if len(w) != maxReported {
			t.Fatalf("%d in a report", len(w))
		}
		for _, s := range w {
			seen[s.Shard] = true
		}
	}
	if len(seen) != len(many) {
		t.Errorf("%d of %d reported after four turns", len(seen), len(many))
	}
}

// FuzzDecodeReport ensures that no bytes of a peer make the node fall, and that what is read can be
// written again.
func FuzzDecodeReport(f *testing.F) {
	r := report{tableVersion: 3, raft: "r:1", http: "h:1", replicas: []replicaReport{{shard: 1, leader: true, term: 4}}}
	f.Add(r.encode())
	f.Add([]byte{})
	f.Add([]byte{reportVersion, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeReport(b)
		if err != nil {
			return
		}
		again, err := decodeReport(r.encode())
		if err != nil || !reflect.DeepEqual(again, r) {
			t.Errorf("%x: read as %+v, then as %+v, %v", b, r, again, err)
		}
	})
}
