package httpapi

import (
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the handler's own. All labels are bounded: route is a template, method one that HTTP
// names or "other".
type metrics struct {
	duration *prometheus.HistogramVec
	inFlight prometheus.Gauge

	// known are the histograms of all labels that there were so far: a map that doesn't change, replaced by a larger one.
	known atomic.Pointer[map[answerLabels]prometheus.Observer]
	mu    sync.Mutex // taken to replace known
}

// answerLabels are the labels of one answer.
type answerLabels struct {
	route, method string
	status        int
}

func newMetrics(registry prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "larder_http_request_duration_seconds",
			Help: "Time from the request's header to the end of the answer.",
			// A read on loopback takes 100 us, a write waits for disks, a deadline is at most 60 s.
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 60},
		}, []string{"route", "method", "code"}),
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "larder_http_requests_in_flight",
			Help: "Requests being answered now.",
		}),
	}
	m.known.Store(&map[answerLabels]prometheus.Observer{})
	for _, c := range []prometheus.Collector{m.duration, m.inFlight} {
		if err := registry.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// observe counts one answer. Status 0 is a connection that was cut before any.
func (m *metrics) observe(route, method string, status int, took time.Duration) {
	labels := answerLabels{route, methodLabel(method), status}
	histogram, ok := (*m.known.Load())[labels]
	if !ok {
		histogram = m.add(labels)
	}
	histogram.Observe(took.Seconds())
}

// add makes the histogram of labels known.
func (m *metrics) add(labels answerLabels) prometheus.Observer {
	m.mu.Lock()
	defer m.mu.Unlock()
	histogram := m.duration.WithLabelValues(labels.route, labels.method, strconv.Itoa(labels.status))
	known := maps.Clone(*m.known.Load())
	known[labels] = histogram
	m.known.Store(&known)
	return histogram
}

// methodLabel bounds the label: a client may send any word as its method.
func methodLabel(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodPatch,
		http.MethodDelete, http.MethodOptions, http.MethodConnect, http.MethodTrace:
		return method
	}
	return "other"
}

// showMetrics serves /metrics.
func (s *server) showMetrics(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	promhttp.HandlerFor(s.cfg.Metrics, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}).ServeHTTP(w, r)
	return nil
}
