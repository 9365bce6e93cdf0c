package shard

import (
	"errors"
	"log/slog"
	"testing"

	"github.com/hashicorp/raft"
	"github.com/prometheus/client_golang/prometheus"
)

// logCollector collects what a disk tells of its logs.
type logCollector struct{ d *disk }

func (c logCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descLogSyncs, descLogWrites, descLogMemory, descLogDisk} {
		ch <- d
	}
}
func (c logCollector) Collect(ch chan<- prometheus.Metric) { c.d.collectLogs(ch) }

// TestLogMetrics ensures that appends, votes and deletions are counted with their syncs, whichever store a replica has, and that a
// store which is closed takes nothing back.
func TestLogMetrics(t *testing.T) {
	for _, kind := range []LogStore{LogBolt, LogShared} {
		d, err := openDisk(t.TempDir(), "a", kind, slog.New(slog.DiscardHandler), func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(logCollector{d})
		look := func(name string) float64 {
			t.Helper()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range families {
				for _, m := range f.GetMetric() {
					if f.GetName() == name && m.GetLabel()[0].GetValue() == string(kind) {
						return m.GetCounter().GetValue()
					}
				}
			}
			t.Fatalf("%s: there is no %s", kind, name)
			return 0
		}
		bootstrap := func(store replicaStore, _ raft.SnapshotStore) error {
			return store.SetUint64([]byte(keyCurrentTerm), 1)
		}
		store, _, err := d.open(ReplicaID{2, "a", 5}, false, 0, newRaftLogger(slog.New(slog.DiscardHandler), 2), func(err error) { t.Error(err) }, bootstrap)
		if err != nil {
			t.Fatal(err)
		}
		syncs, writes := look("larder_log_syncs_total"), look("larder_log_writes_total")
		const appends = 5
		for i := range uint64(appends) {
			if err := storeSynced(store, []*raft.Log{{Index: i + 1, Term: 1, Data: []byte("x")}}); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(store.SetUint64([]byte(keyCurrentTerm), 2), store.DeleteRange(1, 2)); err != nil {
			t.Fatal(err)
		}
		const made = appends + 2
		gotSyncs, gotWrites := look("larder_log_syncs_total")-syncs, look("larder_log_writes_total")-writes
		if least := map[LogStore]float64{LogBolt: boltSyncs * made, LogShared: made}[kind]; gotSyncs < least || gotSyncs > least+1 || gotWrites != made {
			t.Errorf("%s: got %g syncs of %g writes, want %g of %d", kind, gotSyncs, gotWrites, least, made)
		}
		before := look("larder_log_syncs_total")
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}
		if after := look("larder_log_syncs_total"); after < before {
			t.Errorf("%s: a store was closed, and %g syncs became %g", kind, before, after)
		}
	}
}
