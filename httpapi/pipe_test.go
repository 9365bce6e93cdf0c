package httpapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// pipeConn is one end of a connection in memory, for tests in virtual time. Unlike a net.Pipe it can be closed for one
// direction, and it passes for a connection of the system's own. What is written in one go is read in one go.
type pipeConn struct {
	net.Conn          // what is read
	out      net.Conn // what is written
}

func newPipe() (client, server *pipeConn) {
	up, served := net.Pipe()
	answered, down := net.Pipe()
	return &pipeConn{answered, up}, &pipeConn{served, down}
}

func (c *pipeConn) Write(p []byte) (int, error)        { return c.out.Write(p) }
func (c *pipeConn) CloseWrite() error                  { return c.out.Close() }
func (c *pipeConn) Close() error                       { return errors.Join(c.out.Close(), c.Conn.Close()) }
func (c *pipeConn) SetWriteDeadline(t time.Time) error { return c.out.SetWriteDeadline(t) }
func (c *pipeConn) SetReadDeadline(t time.Time) error {
	c.Conn.SetReadDeadline(t) // fails where the peer will send no more: then none is needed
	return nil
}
func (c *pipeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}
func (c *pipeConn) SyscallConn() (syscall.RawConn, error) { return noDescriptor{}, nil }

// noDescriptor is that of a connection whose peer never goes.
type noDescriptor struct{ syscall.RawConn }

func (noDescriptor) Control(func(fd uintptr)) error { return nil }

// pipeListener accepts what is put into it.
type pipeListener struct{ *handedOver }

func newPipeListener() pipeListener {
	return pipeListener{&handedOver{addr: &net.UnixAddr{}, conns: make(chan net.Conn), closed: make(chan struct{})}}
}

// pipeServer is a server for connections in memory, over a cache of its own. It is for one bubble.
type pipeServer struct {
	*Server
	data *fakeData
	reg  *prometheus.Registry
	l    pipeListener
	done chan struct{}
}

func newPipeServer(t testing.TB, byNetHTTP bool, change ...func(*Config)) *pipeServer {
	t.Helper()
	data := &fakeData{entries: map[string]fakeEntry{"old": {value: []byte("value"), contentType: "a/b", version: 9, ttl: time.Minute}}, version: 9, leader: "b"}
	cfg := fixtureConfig(data)
	for _, c := range change {
		c(&cfg)
	}
	handler, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s := &pipeServer{NewServer(handler, 0), data, cfg.Metrics, newPipeListener(), make(chan struct{})}
	s.noPlain = byNetHTTP
	s.count.limit = &connLimit{most: 100}
	s.errLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	s.rest.ErrorLog = s.errLog
	go func() {
		s.Serve(s.l)
		close(s.done)
	}()
	return s
}

func (s *pipeServer) dial() *pipeConn {
	client, server := newPipe()
	s.l.take(server)
	return client
}

// stop ends the server, and waits until it has. No connection is left then.
func (s *pipeServer) stop(t testing.TB) {
	t.Helper()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Errorf("shutdown: %v", err)
	}
	<-s.done
	synctest.Wait()
	if all, own := s.count.limit.open.Load(), s.count.open.Load(); all != 0 || own != 0 {
		t.Errorf("%d connections are left, %d of this server", all, own)
	}
}

// counts are how many requests the metrics tell of, by their labels.
func (s *pipeServer) counts(t testing.TB) map[string]uint64 {
	t.Helper()
	families, err := s.reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]uint64{}
	for _, family := range families {
		for _, m := range family.Metric {
			counts[fmt.Sprint(family.GetName(), m.GetLabel())] = m.GetHistogram().GetSampleCount()
		}
	}
	return counts
}

// heard is what came back over a connection.
type heard struct {
	answers string        // without dates
	after   time.Duration // from the first byte sent to the end
}

// talk sends pieces to s with a pause after each, closes the connection for its direction unless silent is set, and returns
// what comes back until the server closes it.
func (s *pipeServer) talk(t testing.TB, pieces []string, pause time.Duration, silent bool) heard {
	t.Helper()
	conn, start := s.dial(), time.Now()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for _, piece := range pieces {
			if _, err := conn.Write([]byte(piece)); err != nil {
				return
			}
			time.Sleep(pause)
		}
		if !silent {
			conn.CloseWrite()
		}
	}()
	conn.SetReadDeadline(start.Add(time.Hour))
	all, err := io.ReadAll(conn)
	if err != nil {
		t.Errorf("%q, silent %t: the server goes on for an hour: %v", pieces, silent, err)
	}
	after := time.Since(start)
	conn.Close()
	<-sent
	return heard{dateLine.ReplaceAllString(string(all), ""), after}
}

// checkPipes has both servers answer the same bytes on a connection in memory.
func checkPipes(t *testing.T, pieces []string, pause time.Duration, silent bool) (own, net heard) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		limit := func(c *Config) { c.MaxValueBytes = 1000 }
		ownServer, netServer := newPipeServer(t, false, limit), newPipeServer(t, true, limit)
		defer ownServer.stop(t)
		defer netServer.stop(t)
		own, net = ownServer.talk(t, pieces, pause, silent), netServer.talk(t, pieces, pause, silent)
		synctest.Wait()
		// net/http tells a client that falls silent in its request line that this is malformed.
		if own.answers != net.answers && !(silent && strings.HasPrefix(net.answers, own.answers)) {
			t.Errorf("to %q, pause %s, silent %t, was answered after %s\n%s\nby net/http after %s\n%s", pieces, pause, silent, own.after, own.answers, net.after, net.answers)
		}
		if !reflect.DeepEqual(ownServer.data.entries, netServer.data.entries) || !reflect.DeepEqual(ownServer.data.requests, netServer.data.requests) {
			t.Errorf("%q made of the cache\n%+v by\n%+v\nby net/http\n%+v by\n%+v", pieces, ownServer.data.entries, ownServer.data.requests, netServer.data.entries, netServer.data.requests)
		}
		if own, net := ownServer.counts(t), netServer.counts(t); !reflect.DeepEqual(own, net) {
			t.Errorf("%q was counted\n%v\nby net/http\n%v", pieces, own, net)
		}
	})
	return own, net
}

// inTime fails the test where a connection that brought raw was held for long, or by one server much longer than by the other.
func inTime(t *testing.T, raw string, own, net time.Duration) {
	t.Helper()
	if max(own, net) > bodyTimeout+idleTimeout+2*readHeaderTimeout || own < net-deadlineSlack || own > net+readHeaderTimeout {
		t.Errorf("after %q it took %s, by net/http %s", raw, own, net)
	}
}

// A client that falls silent anywhere in what it sends, and never leaves, holds its connection no longer than the limits of
// connections allow, whoever serves it; and it is answered the same.
func TestSilentClients(t *testing.T) {
	for what, text := range conversations {
		if len(text) > 8<<10 {
			continue
		}
		t.Run(what, func(t *testing.T) {
			for i := range 20 {
				end := len(text) * (i + 1) / 20
				own, net := checkPipes(t, []string{text[:end]}, 0, true)
				inTime(t, text[:end], own.after, net.after)
			}
		})
	}
}

// A client that is slow gets the same answers from both servers, wherever its pauses fall.
func TestSlowClients(t *testing.T) {
	more := map[string]string{
		"a deadline of the request before": "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nLarder-Timeout: 1s\r\nContent-Length: 3\r\n\r\n|abcDELETE /v1/kv/old HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n|xyzGET /v1/kv/k HTTP/1.1\r\nHost: a\r\n\r\n",
	}
	for what, text := range conversations {
		if len(text) <= 8<<10 {
			more[what] = text
		}
	}
	for what, text := range more {
		t.Run(what, func(t *testing.T) {
			whole := strings.ReplaceAll(text, "|", "")
			checkPipes(t, strings.Split(text, "|"), 600*time.Millisecond, false)
			checkPipes(t, strings.Split(whole, ""), 0, false)
			checkPipes(t, []string{whole[:len(whole)/3], whole[len(whole)/3 : len(whole)/2], whole[len(whole)/2:]}, time.Second, false)
		})
	}
}

// Whatever bytes come on a connection, wherever they are cut, both servers answer and do the same, to the byte, and count it
// the same.
func FuzzSameAnswers(f *testing.F) {
	for _, text := range conversations {
		if len(text) <= 8<<10 {
			f.Add([]byte(text), uint64(0), false)
			f.Add([]byte(text), uint64(0x1f2e3d4c5b6a7988), true)
		}
	}
	for _, tc := range oddKeys {
		f.Add([]byte("GET /v1/kv/"+tc.wire+" HTTP/1.1\r\nHost: a\r\n\r\n"), uint64(5), false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, cuts uint64, silent bool) {
		var pieces []string
		rest, pause := string(raw), time.Duration(cuts&1)*100*time.Millisecond
		for ; cuts > 1 && rest != ""; cuts >>= 8 {
			n := min(len(rest), int(cuts&0xff))
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		own, net := checkPipes(t, append(pieces, rest), pause, silent)
		inTime(t, string(raw), own.after, net.after)
	})
}

// brokenConn is a connection of which the server makes what nobody planned for.
type brokenConn struct{ *pipeConn }

func (brokenConn) Write([]byte) (int, error) { panic("broken") }

// A panic of the server's own, beside the handler, costs the connection and not the process.
func TestPanicBesideHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newPipeServer(t, false)
		defer s.stop(t)
		client, server := newPipe()
		s.l.take(brokenConn{server})
		fmt.Fprintf(client, "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n")
		if got, err := io.ReadAll(client); len(got) > 0 || err != nil {
			t.Errorf("got %q, %v", got, err)
		}
		if got := s.talk(t, []string{"GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n"}, 0, false); !strings.HasSuffix(got.answers, "value") {
			t.Errorf("then %q", got.answers)
		}
	})
}

// At whatever moment a server shuts down, each request that reached the cache is answered in full, and it waits for nobody
// longer than a header may take.
func TestShutdownAtAnyMoment(t *testing.T) {
	const write = "PUT /v1/kv/k HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
	pieces := []string{write[:30], write[30:], write + write[:55], write[55:], write + "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n", write[:50], write[50:] + write, write}
	for _, byNetHTTP := range []bool{false, true} {
		for at := time.Duration(0); at < 1200*time.Millisecond; at += 13 * time.Millisecond {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t, byNetHTTP)
				s.data.answer = func(context.Context, shard.Request) (shard.Response, error) {
					time.Sleep(70 * time.Millisecond)
					return shard.Response{Shard: 3, Status: fsm.StatusOK, Version: 1}, nil
				}
				stopped := make(chan struct{})
				go func() {
					defer close(stopped)
					time.Sleep(at)
					start := time.Now()
					s.stop(t)
					if took := time.Since(start); took > 2*readHeaderTimeout {
						t.Errorf("by net/http %t, after %s: it took %s", byNetHTTP, at, took)
					}
				}()
				got := s.talk(t, pieces, 50*time.Millisecond, true).answers
				<-stopped
				answered := strings.Count(got, "HTTP/1.1 201 Created\r\n")
				if reached := s.data.reached(); answered != reached || got != "" && !strings.HasSuffix(got, "\r\n\r\n") && !strings.HasSuffix(got, "ok\n") {
					t.Errorf("by net/http %t, after %s: of %d requests %d are answered: %s", byNetHTTP, at, reached, answered, got)
				}
			})
		}
	}
}

// A client that takes nothing of its answer, long or short, holds its connection no longer than the answer may take, also
// where it was quick before.
func TestClientThatReadsNothing(t *testing.T) {
	const read, missing = "GET /v1/kv/old HTTP/1.1\r\nHost: a\r\n\r\n", "GET /v1/kv/absent HTTP/1.1\r\nHost: a\r\n\r\n"
	for _, byNetHTTP := range []bool{false, true} {
		for _, requests := range []string{read, missing, missing + read} {
			synctest.Test(t, func(t *testing.T) {
				s := newPipeServer(t, byNetHTTP)
				defer s.stop(t)
				s.data.entries["old"] = fakeEntry{value: make([]byte, 100_000), version: 1}
				conn := s.dial()
				defer conn.Close()
				for range 3 {
					fmt.Fprint(conn, missing)
					if n, err := conn.Read(make([]byte, 4096)); err != nil || n < 100 {
						t.Fatalf("%d bytes of an answer, %v", n, err)
					}
					time.Sleep(time.Minute)
				}
				fmt.Fprint(conn, requests)
				time.Sleep(writeTimeout + time.Second)
				if n, err := conn.Read(make([]byte, 1)); err != io.EOF {
					t.Errorf("by net/http %t, %q: it still writes: %d bytes, %v", byNetHTTP, requests, n, err)
				}
			})
		}
	}
}
