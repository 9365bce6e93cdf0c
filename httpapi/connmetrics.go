package httpapi

import "github.com/prometheus/client_golang/prometheus"

// clientListener is the kind of listener that a Server has, the one label of its metrics: that for clients.
const clientListener = "http"

var (
	connsOpenDesc    = connDesc("larder_http_connections", "Connections that are open.")
	connsMaxDesc     = connDesc("larder_http_connections_max", "Connections that there may be at the same time; without --max-connections, of all nodes of the process together.")
	connsRefusedDesc = connDesc("larder_http_connections_refused_total", "Connections that were closed as soon as they came, since there were as many as there may be.")
)

func connDesc(name, help string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, []string{"listener"}, nil)
}

// connCollector shows a connCount.
type connCollector struct{ count *connCount }

// Collector returns the metrics of the server's connections, for one registry.
func (s *Server) Collector() prometheus.Collector { return connCollector{&s.count} }

func (connCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- connsOpenDesc
	ch <- connsMaxDesc
	ch <- connsRefusedDesc
}

func (c connCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(connsOpenDesc, prometheus.GaugeValue, float64(c.count.open.Load()), clientListener)
	ch <- prometheus.MustNewConstMetric(connsMaxDesc, prometheus.GaugeValue, float64(c.count.limit.most), clientListener)
	ch <- prometheus.MustNewConstMetric(connsRefusedDesc, prometheus.CounterValue, float64(c.count.refused.Load()), clientListener)
}
