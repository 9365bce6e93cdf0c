package httpapi

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// connections is what the metrics tell of a server's.
type connections struct{ open, most, refused float64 }

func (s *pipeServer) connections(t testing.TB) (c connections) {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(s.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			for _, l := range m.GetLabel() {
				values[family.GetName()+" "+l.GetName()+"="+l.GetValue()] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	for name, to := range map[string]*float64{"larder_http_connections": &c.open, "larder_http_connections_max": &c.most, "larder_http_connections_refused_total": &c.refused} {
		value, ok := values[name+" listener=http"]
		if !ok {
			t.Fatalf("there is no %s among %v", name, values)
		}
		*to = value
	}
	return c
}

// Beyond as many connections as there may be, further ones are closed at once, told of and counted; each that ends, whoever served it,
// makes room for another.
func TestConnectionsAreLimited(t *testing.T) {
	const read, other = "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, byNetHTTP := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			s := newPipeServer(t, byNetHTTP)
			defer s.stop(t)
			s.count.limit.most = 3
			var logs bytes.Buffer
			s.errLog = log.New(&lockedWriter{w: &logs}, "", 0)
			for i, first := range []string{"", read, other, read + other} {
				held := []*pipeConn{s.dial(), s.dial(), s.dial()}
				if first != "" {
					fmt.Fprint(held[0], first)
					if n, err := held[0].Read(make([]byte, 4096)); n == 0 {
						t.Errorf("no answer: %v", err)
					}
				}
				for range 5 {
					if n, err := s.dial().Read(make([]byte, 1)); err != io.EOF {
						t.Errorf("by net/http %t: a fourth connection is open: %d bytes, %v", byNetHTTP, n, err)
					}
				}
				if got, want := s.connections(t), (connections{open: 3, most: 3, refused: 5 * float64(i+1)}); got != want {
					t.Errorf("by net/http %t: the metrics tell of %+v, want %+v", byNetHTTP, got, want)
				}
				held[0].Close()
				synctest.Wait()
				if got := s.talk(t, []string{read}, 0, false); !strings.HasSuffix(got.answers, "value") {
					t.Errorf("by net/http %t, after %q is closed: %q", byNetHTTP, first, got.answers)
				}
				held[1].Close()
				held[2].Close()
				synctest.Wait()
				if got := s.connections(t).open; got != 0 {
					t.Errorf("by net/http %t, after %q: the metrics tell of %g open connections, want none", byNetHTTP, first, got)
				}
				time.Sleep(time.Second)
			}
			if told := strings.Count(logs.String(), "3 connections are open"); told != 4 {
				t.Errorf("it is told %d times", told)
			}
		})
	}
}

// A server with a limit of its own counts no connections of others, and one without shares that of the process.
func TestMaxConnections(t *testing.T) {
	if own := NewServer(http.NotFoundHandler(), 7); own.count.limit == processConns || own.count.limit.most != 7 {
		t.Errorf("a limit of 7 is %d", own.count.limit.most)
	}
	a, b := NewServer(http.NotFoundHandler(), 0), NewServer(http.NotFoundHandler(), 0)
	if a.count.limit != b.count.limit || a.count.limit.most < 1 || a.count.limit.most > maxConns {
		t.Errorf("without a limit of its own: %d and %d", a.count.limit.most, b.count.limit.most)
	}
	spare, ok := spareDescriptors()
	if !ok || spare > 1<<40 {
		t.Logf("descriptors: %d, %t", spare, ok)
		spare = 1 << 20
	} else if err := CheckMaxConnections(int(spare) + 1); err == nil {
		t.Error("more connections than descriptors allow are allowed")
	}
	for _, n := range []int{0, 1, int(spare)} {
		if err := CheckMaxConnections(n); err != nil {
			t.Errorf("%d: %v", n, err)
		}
	}
	if err := CheckMaxConnections(-1); err == nil {
		t.Error("-1 connections are allowed")
	}
}
