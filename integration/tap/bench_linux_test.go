package tap

import (
	"context"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/proxy"
)

// BenchmarkRequests is how many small requests 8 clients make over each kind of network without delay, and over
// the switch and proxies with one.
func BenchmarkRequests(b *testing.B) {
	for _, delay := range []time.Duration{0, 2 * time.Millisecond} {
		suffix := ""
		if delay > 0 {
			suffix = " " + delay.String()
		} else {
			b.Run("loopback", func(b *testing.B) {
				l, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					b.Fatal(err)
				}
				var d net.Dialer
				requests(b, l, l.Addr().String(), d.DialContext)
			})
		}
		b.Run("proxy"+suffix, func(b *testing.B) {
			n := proxy.New(delay, 0)
			b.Cleanup(n.Close)
			var targets [2]net.Listener
			var fronts [2]string
			for i, ip := range []string{"127.0.0.21", "127.0.0.22"} {
				var err error
				if targets[i], err = net.Listen("tcp", ip+":0"); err != nil {
					b.Fatal(err)
				}
				if fronts[i], err = n.Listen(ip, ip, targets[i].Addr().String()); err != nil {
					b.Fatal(err)
				}
			}
			b.Cleanup(func() { targets[0].Close() })
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 21)}}
			requests(b, targets[1], fronts[1], d.DialContext)
		})
		b.Run("tap"+suffix, func(b *testing.B) {
			if err := Supported(); err != nil {
				b.Skip(err)
			}
			n := New(Config{Delay: delay})
			b.Cleanup(func() { n.Close() })
			for _, name := range []string{"a", "b"} {
				if _, err := n.Add(name); err != nil {
					b.Fatal(err)
				}
			}
			var l net.Listener
			if err := n.Run("b", func() (err error) {
				l, err = net.Listen("tcp", "10.77.0.12:80")
				return err
			}); err != nil {
				b.Fatal(err)
			}
			requests(b, l, l.Addr().String(), func(ctx context.Context, network, addr string) (net.Conn, error) {
				return n.Dial(ctx, "a", network, addr)
			})
		})
	}
}

// requests measures requests to a server on l.
func requests(b *testing.B, l net.Listener, addr string, dial func(context.Context, string, string) (net.Conn, error)) {
	const clients = 8
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "a small answer") })}
	go server.Serve(l)
	b.Cleanup(func() { server.Close() })
	c := &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: clients}}
	b.Cleanup(c.CloseIdleConnections)
	get := func() {
		resp, err := c.Get("http://" + addr)
		if err != nil {
			b.Error(err)
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
	get()
	var done atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range clients {
		all.Go(func() {
			for done.Add(1) <= int64(b.N) {
				get()
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
}

// BenchmarkRoundTrip is how long a line takes there and back over links of 2 ms each: 4 ms and what the switch and
// the kernel's timers add.
func BenchmarkRoundTrip(b *testing.B) {
	if err := Supported(); err != nil {
		b.Skip(err)
	}
	n := New(Config{Delay: 2 * time.Millisecond})
	b.Cleanup(func() { n.Close() })
	for _, name := range []string{"a", "b"} {
		if _, err := n.Add(name); err != nil {
			b.Fatal(err)
		}
	}
	c, err := n.Dial(b.Context(), "a", "tcp", echo(b, n, "b"))
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	buf := []byte("x")
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}
