package directory

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/shard"
)

// metrics shows the service's state to Prometheus. Gauges are read when they are asked for.
type metrics struct {
	service *Service
	retries *prometheus.CounterVec

	leaderMoves, rate, version, nodes, shards, operations, relocations, isLeader, dropped, generation *prometheus.Desc
}

func newMetrics(s *Service) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc("larder_directory_"+name, help, labels, nil)
	}
	m := &metrics{
		service: s,
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "larder_router_retries_total",
			Help: "Tries of a request that were refused and led to another try, by the kind of refusal.",
		}, []string{"reason"}),
		version:    desc("version", "Version of the table that this node knows."),
		nodes:      desc("nodes", "Nodes in the table, by their state as this node sees it.", "state"),
		shards:     desc("shards", "Data shards in the table, by whether this node knows a leader of them.", "leader"),
		operations: desc("operations", "Operations that the table keeps, by their state.", "state"),
		relocations: desc("relocations", "Changes of members that the directory wants and has not begun, by whether something keeps it from them.",
			"waits"),
		generation: desc("shard_generation",
			"Generation of a data shard by the table that this node knows; it grows when the shard is recovered, and what it held is lost.", "shard"),
		leaderMoves: desc("leader_moves", "Leaderships that the directory wants to move next, for nodes to lead and to serve about as much as others."),
		rate:        desc("shard_rate", "Reads and log entries per second that the leader of a data shard served, over half a minute.", "shard"),
		isLeader:    desc("is_leader", "Whether this node leads the directory."),
		dropped:     desc("reports_dropped_total", "Reports of other nodes that could not be read or kept."),
	}
	for _, reason := range retryReasons {
		m.retries.WithLabelValues(reason)
	}
	return m
}

func (m *metrics) register(r prometheus.Registerer) error {
	if err := r.Register(m.retries); err != nil {
		return err
	}
	return r.Register(m)
}

func (m *metrics) retried(reason string) { m.retries.WithLabelValues(reason).Inc() }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.version, m.nodes, m.shards, m.operations, m.relocations, m.leaderMoves, m.rate, m.isLeader, m.dropped, m.generation} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	t := m.service.Table()
	ch <- prometheus.MustNewConstMetric(m.version, prometheus.GaugeValue, float64(t.Version))
	up := 0
	for id := range t.Nodes {
		if state, _ := m.service.soft.state(id); state == NodeUp {
			up++
		}
	}
	gauge(m.nodes, up, NodeUp)
	gauge(m.nodes, len(t.Nodes)-up, NodeDown)
	led := 0
	for _, s := range t.Shards {
		gauge(m.generation, int(s.Generation), strconv.FormatUint(uint64(s.ID), 10))
		if leader, _ := m.service.soft.leader(s.ID); leader != "" {
			led++
		}
	}
	gauge(m.shards, led, "known")
	gauge(m.shards, len(t.Shards)-led, "unknown")
	states := map[OperationState]int{}
	for _, o := range t.Operations {
		states[o.State]++
	}
	for _, state := range []OperationState{OperationRunning, OperationDone, OperationFailed, OperationCancelled} {
		gauge(m.operations, states[state], string(state))
	}
	waits, look := map[bool]int{}, m.service.outlook(t)
	gauge(m.leaderMoves, len(m.service.leaderMoves(t, look)))
	for _, sh := range t.Shards {
		if rate, known := look.rates[sh.ID]; known {
			gauge(m.rate, int(rate), strconv.FormatUint(uint64(sh.ID), 10))
		}
	}
	for _, r := range t.wanted(look) {
		waits[r.waits != ""]++
	}
	for _, w := range []bool{false, true} {
		gauge(m.relocations, waits[w], strconv.FormatBool(w))
	}
	leads := 0
	if st, ok := m.service.soft.status(shard.Directory); ok && st.Role == shard.RoleLeader {
		leads = 1
	}
	gauge(m.isLeader, leads)
	ch <- prometheus.MustNewConstMetric(m.dropped, prometheus.CounterValue, float64(m.service.soft.dropped.Load()))
}
