package proxy

import (
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// conn is one proxied connection: serve runs it, with two goroutines per direction that it waits for.
type conn struct {
	client      *net.TCPConn
	there, back *link
	lost        atomic.Bool   // bytes were swallowed in either direction
	done        chan struct{} // closed by reset

	mu     sync.Mutex   // guards what follows
	server *net.TCPConn // nil until connected
	ended  bool
}

// dialLimit bounds the connection to the node itself, over loopback.
const dialLimit = 5 * time.Second

// newConn starts nothing; serve must be called once.
func newConn(client *net.TCPConn, there, back *link) *conn {
	return &conn{client: client, there: there, back: back, done: make(chan struct{})}
}

// serve connects to target, from the client's own IP, and carries bytes both ways until both are over.
func (c *conn) serve(ip net.IP, target string) {
	defer c.reset()
	if _, m, _ := c.there.now(); m == cut {
		if c.lose(c.there) { // the first packet already
			<-c.done
		}
		return
	}
	d := net.Dialer{Timeout: dialLimit, LocalAddr: &net.TCPAddr{IP: ip}}
	s, err := d.Dial("tcp", target)
	if err != nil {
		return // as the client would have met: reset
	}
	server := s.(*net.TCPConn)
	c.mu.Lock()
	if c.ended {
		c.mu.Unlock()
		server.Close()
		return
	}
	c.server = server
	c.mu.Unlock()

	var both sync.WaitGroup
	both.Go(func() { c.carry(server, c.client, c.there) })
	both.Go(func() { c.carry(c.client, server, c.back) })
	both.Wait()
	c.end(-1)
}

// reset closes both ends in a way that neither can take for the end of a stream.
func (c *conn) reset() { c.end(0) }

// end closes both ends, with that SO_LINGER: 0 resets, -1 lets what was written arrive.
func (c *conn) end(linger int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.ended = true
	close(c.done)
	for _, end := range []*net.TCPConn{c.client, c.server} {
		if end != nil {
			end.SetLinger(linger)
			end.Close()
		}
	}
}

// chunk is bytes, or the end of them, with the time at which they were sent.
type chunk struct {
	data []byte
	sent time.Time
	err  error
}

// inFlight bounds what a direction keeps, in chunks of at most chunkSize: beyond it the sender
// waits, as it would for a TCP window.
const (
	inFlight  = 1024
	chunkSize = 16 << 10
)

// carry moves bytes from src to dst over l until src ends or the connection is reset.
func (c *conn) carry(dst, src *net.TCPConn, l *link) {
	chunks := make(chan chunk, inFlight)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(chunks)
		buf := make([]byte, chunkSize)
		for {
			n, err := src.Read(buf)
			select {
			case chunks <- chunk{data: append([]byte(nil), buf[:n]...), sent: time.Now(), err: err}:
			case <-c.done:
				return
			}
			if err != nil {
				return
			}
		}
	})
	defer reader.Wait()
	hole := false // from here on the stream would have one: swallow all of it, whatever the link does
	for ch := range chunks {
		switch {
		case hole:
			l.count(false)
		case !l.carry(ch.sent, len(ch.data), c.done):
			hole = true
			if !c.lose(l) {
				return
			}
		case ch.err != nil && ch.err != io.EOF:
			c.reset()
			return
		default:
			l.count(true)
			if _, err := dst.Write(ch.data); err != nil {
				c.reset()
				return
			}
			if ch.err == io.EOF {
				dst.CloseWrite()
			}
		}
	}
}

// lose notes that bytes were lost on l and reports whether the connection lives on in silence. It
// does not when the link was healed meanwhile: Heal may have looked before the loss was noted.
func (c *conn) lose(l *link) bool {
	c.lost.Store(true)
	if _, m, _ := l.now(); m != cut {
		c.reset()
		return false
	}
	l.count(false)
	return true
}
