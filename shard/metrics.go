package shard

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// Collector returns the metrics of all replicas on a node, read at scrape time. Labels: shard.
func (h *Host) Collector() prometheus.Collector { return hostCollector{h} }

type hostCollector struct{ host *Host }

func shardDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("larder_"+name, help, []string{"shard"}, nil)
}

var (
	descLeader  = shardDesc("shard_is_leader", "1 where this replica leads and serves.")
	descTerm    = shardDesc("shard_term", "Raft term.")
	descCommit  = shardDesc("shard_commit_index", "Highest log index known to be committed.")
	descApplied = shardDesc("shard_applied_index", "Last log index that the state machine saw.")
	descLast    = shardDesc("shard_last_index", "Last index in the log.")
	descHits    = shardDesc("shard_read_hits_total", "Reads of this replica that found the key.")
	descMisses  = shardDesc("shard_read_misses_total", "Reads of this replica that did not.")
	descMissed  = prometheus.NewDesc("larder_misses_total", "Reads of this replica that did not find the key, by what became of it: "+
		"evicted, expired, deleted, or absent (never there, as far as is known).", []string{"shard", "reason"}, nil)
	descSizing = prometheus.NewDesc("larder_sizing_hit_ratio", "Hit ratio of the last minutes' reads of this replica, as it was (1x), "+
		"and as it would have been with more memory.", []string{"shard", "memory"}, nil)
	descSamples          = shardDesc("sizing_samples", "Evicted entries in the sample that larder_sizing_hit_ratio is made of.")
	descGhosts           = shardDesc("ghost_bytes", "Memory that knows why keys are gone.")
	descAge              = shardDesc("evicted_age_seconds", "Time since its last use, of each entry that this replica evicted.")
	descEntries          = shardDesc("fsm_entries", "Entries in the cache.")
	descBytes            = shardDesc("fsm_bytes", "Bytes that the entries count for.")
	descLimit            = shardDesc("fsm_limit_bytes", "Byte bound of the cache.")
	descEvictions        = shardDesc("fsm_evictions_total", "Entries evicted for space.")
	descExpirations      = shardDesc("fsm_expirations_total", "Entries removed since their time to live ended.")
	descReads            = prometheus.NewDesc("larder_shard_reads_total", "Reads of this replica, by how they were confirmed.", []string{"shard", "path"}, nil)
	descTouches          = prometheus.NewDesc("larder_touches_total", "Reads that found an entry, by what became of the touch that renews its place in the LRU order.", []string{"shard", "outcome"}, nil)
	descDivergence       = shardDesc("shard_divergence", "Members whose state differs from the majority's, as the leader found; on others 1 where this replica has stopped. 0 is normal.")
	descChecks           = shardDesc("shard_checks_total", "Comparisons of the replicas' states that this replica made as leader.")
	descEpoch            = shardDesc("fsm_epoch", "Epoch of the shard's range.")
	descSnapshotSent     = prometheus.NewDesc("larder_snapshot_sent_bytes_total", "Bytes of snapshots that this node sent, those that were sent again included.", nil, nil)
	descSnapshotReceived = prometheus.NewDesc("larder_snapshot_received_bytes_total", "Bytes of snapshots that came in.", nil, nil)
	descSnapshots        = prometheus.NewDesc("larder_snapshots", "Snapshots that are on their way: sending, waiting for their turn to be sent, or receiving.", []string{"state"}, nil)
	descSnapshotEnds     = prometheus.NewDesc("larder_snapshot_sends_total", "Snapshots that this node sent, by what became of them: installed, failed, "+
		"or resumed where an earlier transfer, or link, had ended (those are counted again at their own end).", []string{"outcome"}, nil)
	descLogSyncs  = prometheus.NewDesc("larder_log_syncs_total", "Syncs of logs, by where they are (--log-store): bolt, files of one replica each, the directory's among them, or shared.", []string{"store"}, nil)
	descLogWrites = prometheus.NewDesc("larder_log_writes_total", "Changes that were made durable in them: appends, terms, votes and deletions.", []string{"store"}, nil)
	descLogMemory = prometheus.NewDesc("larder_log_memory_bytes", "Memory that the shared log takes, without the newest entries that each replica keeps.", nil, nil)
	descLogDisk   = prometheus.NewDesc("larder_log_disk_bytes", "Room that the shared log takes on the disk.", nil, nil)
	hostDescs     = []*prometheus.Desc{descLeader, descTerm, descCommit, descApplied, descLast, descHits, descMisses, descReads, descTouches,
		descEntries, descBytes, descLimit, descEvictions, descExpirations, descEpoch, descDivergence, descChecks,
		descMissed, descSizing, descSamples, descGhosts, descAge,
		descSnapshotSent, descSnapshotReceived, descSnapshots, descSnapshotEnds,
		descLogSyncs, descLogWrites, descLogMemory, descLogDisk}
)

func (c hostCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range hostDescs {
		ch <- d
	}
}

func (c hostCollector) Collect(ch chan<- prometheus.Metric) {
	all := c.host.Status()
	c.host.snapshots.collect(ch, all)
	if d, ok := c.host.storage.(*disk); ok {
		d.collectLogs(ch)
	}
	for _, s := range all {
		shard := strconv.FormatUint(uint64(s.Shard), 10)
		put := func(d *prometheus.Desc, kind prometheus.ValueType, v uint64) {
			ch <- prometheus.MustNewConstMetric(d, kind, float64(v), shard)
		}
		ready := uint64(0)
		if s.Ready {
			ready = 1
		}
		put(descLeader, prometheus.GaugeValue, ready)
		put(descTerm, prometheus.GaugeValue, s.Term)
		put(descCommit, prometheus.GaugeValue, s.Commit)
		put(descApplied, prometheus.GaugeValue, s.Applied)
		put(descLast, prometheus.GaugeValue, s.Last)
		if s.Cache == nil {
			if s.Stopped { // it does not run, as its data is lost
				put(descDivergence, prometheus.GaugeValue, uint64(s.Differ))
			}
			continue
		}
		put(descHits, prometheus.CounterValue, s.Hits)
		put(descMisses, prometheus.CounterValue, s.Misses)
		for _, path := range readPaths {
			ch <- prometheus.MustNewConstMetric(descReads, prometheus.CounterValue, float64(s.Reads[path]), shard, string(path))
		}
		for _, reason := range missReasons {
			ch <- prometheus.MustNewConstMetric(descMissed, prometheus.CounterValue, float64(s.Missed[reason]), shard, string(reason))
		}
		if z := s.Sizing; z != nil {
			for _, r := range []struct {
				memory string
				ratio  float64
			}{{"1x", z.HitRatio}, {"1.25x", z.Plus25}, {"1.5x", z.Plus50}, {"2x", z.Plus100}} {
				ch <- prometheus.MustNewConstMetric(descSizing, prometheus.GaugeValue, r.ratio, shard, r.memory)
			}
			put(descSamples, prometheus.GaugeValue, uint64(z.Samples))
		}
		if cache := c.host.Cache(s.Shard); cache != nil {
			ages, bytes := cache.evicted()
			put(descGhosts, prometheus.GaugeValue, bytes)
			ch <- prometheus.MustNewConstHistogram(descAge, ages.count, float64(ages.sum)/1000, ages.cumulative(), shard)
		}
		for outcome, n := range map[string]uint64{"collected": s.Touches.Collected, "deduplicated": s.Touches.Deduplicated,
			"skipped": s.Touches.Skipped, "replicated": s.Touches.Replicated, "dropped": s.Touches.Dropped} {
			ch <- prometheus.MustNewConstMetric(descTouches, prometheus.CounterValue, float64(n), shard, outcome)
		}
		put(descDivergence, prometheus.GaugeValue, uint64(s.Differ))
		put(descChecks, prometheus.CounterValue, s.Checks)
		put(descEntries, prometheus.GaugeValue, uint64(s.Cache.Entries))
		put(descBytes, prometheus.GaugeValue, s.Cache.Bytes)
		put(descLimit, prometheus.GaugeValue, s.Cache.Limit)
		put(descEvictions, prometheus.CounterValue, s.Cache.Evictions)
		put(descExpirations, prometheus.CounterValue, s.Cache.Expirations)
		put(descEpoch, prometheus.GaugeValue, s.Cache.Epoch)
	}
}

// collectLogs tells of what logs cost.
func (d *disk) collectLogs(ch chan<- prometheus.Metric) {
	put := func(store LogStore, syncs, writes uint64) {
		ch <- prometheus.MustNewConstMetric(descLogSyncs, prometheus.CounterValue, float64(syncs), string(store))
		ch <- prometheus.MustNewConstMetric(descLogWrites, prometheus.CounterValue, float64(writes), string(store))
	}
	writes := d.boltWrites.Load()
	put(LogBolt, boltSyncs*writes, writes)
	if d.log == nil {
		return
	}
	s := d.log.stats()
	put(LogShared, s.Syncs, s.Writes)
	ch <- prometheus.MustNewConstMetric(descLogMemory, prometheus.GaugeValue, float64(s.Memory))
	ch <- prometheus.MustNewConstMetric(descLogDisk, prometheus.GaugeValue, float64(s.Disk))
}

// collect tells of a node's snapshots; all are its replicas.
func (t *snapshotTraffic) collect(ch chan<- prometheus.Metric, all []Status) {
	receiving := 0
	for _, s := range all {
		if s.SnapshotTotal > 0 {
			receiving++
		}
	}
	put := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, kind, v, labels...)
	}
	put(descSnapshotSent, prometheus.CounterValue, float64(t.sent.Load()))
	put(descSnapshotReceived, prometheus.CounterValue, float64(t.received.Load()))
	put(descSnapshots, prometheus.GaugeValue, float64(t.sending.Load()), "sending")
	put(descSnapshots, prometheus.GaugeValue, float64(t.waiting.Load()), "waiting")
	put(descSnapshots, prometheus.GaugeValue, float64(receiving), "receiving")
	put(descSnapshotEnds, prometheus.CounterValue, float64(t.installed.Load()), "installed")
	put(descSnapshotEnds, prometheus.CounterValue, float64(t.failures.Load()), "failed")
	put(descSnapshotEnds, prometheus.CounterValue, float64(t.resumed.Load()), "resumed")
}
