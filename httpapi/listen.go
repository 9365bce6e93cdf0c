package httpapi

import (
	"context"
	"log"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Server serves the REST interface on connections. Plain requests, which are all but a few in number, it takes in by
// itself (see plainHeader); for whatever else a client sends, its connection is handed to net/http, with what
// was read of it, and stays there. Both have the same handler, the same limits and the same answers.
//
// A goroutine accepts, and one per plain connection serves; Close ends them and Shutdown waits for them.
type Server struct {
	handler http.Handler
	rest    *http.Server    // serves what is not plain
	closing context.Context // ends when the server shuts down
	errLog  *log.Logger     // nil: the standard one

	count connCount // of connections

	noPlain bool // leave all to net/http, in tests

	shuttingDown atomic.Bool
	mu           sync.Mutex // guards what follows
	listeners    map[net.Listener]struct{}
	conns        map[*plainConn]struct{}
	drained      chan struct{} // made by Shutdown, closed once conns is empty
}

// NewServer returns a server of handler with this package's limits. Bodies are bounded by the handlers that read
// them. Shutdown ends the waits for a change of the table.
//
// maxConnections bounds its connections at the same time, further ones are closed at once; see CheckMaxConnections. With 0 half of the process's
// descriptors do, 32,768 at most, for all servers of the process together.
func NewServer(handler http.Handler, maxConnections int) *Server {
	rest, closing := newRest(handler)
	s := &Server{handler: handler, rest: rest, closing: closing, listeners: map[net.Listener]struct{}{}, conns: map[*plainConn]struct{}{}}
	s.count.limit = processConns
	if maxConnections > 0 {
		s.count.limit = &connLimit{most: int64(maxConnections)}
	}
	return s
}

// Serve serves the connections that l accepts until it fails, or the server is closed: then it returns
// http.ErrServerClosed.
func (s *Server) Serve(l net.Listener) error {
	handed := &handedOver{addr: l.Addr(), conns: make(chan net.Conn), closed: make(chan struct{})}
	if !s.listen(l) {
		l.Close()
		return http.ErrServerClosed
	}
	done := make(chan struct{})
	go func() {
		s.rest.Serve(handed)
		close(done)
	}()
	defer func() {
		s.unlisten(l)
		handed.Close()
		<-done
	}()
	var pause time.Duration
	for {
		c, err := l.Accept()
		switch {
		case err == nil:
			pause = 0
			s.start(c, handed)
		case s.shuttingDown.Load():
			return http.ErrServerClosed
		case temporary(err):
			pause = min(max(2*pause, 5*time.Millisecond), time.Second)
			s.logf("http: Accept error: %v; retrying in %v", err, pause)
			time.Sleep(pause)
		default:
			return err
		}
	}
}

// start serves c on a goroutine of its own, or closes it where there are too many.
func (s *Server) start(c net.Conn, handed *handedOver) {
	if !s.count.take() {
		c.Close()
		if s.count.limit.tell() {
			s.logf("http: %d connections are open, as many as there may be; further ones are closed", s.count.limit.most)
		}
		return
	}
	raw, ok := plain(c)
	if !ok || s.noPlain {
		go handed.take(&conn{Conn: c, count: &s.count})
		return
	}
	p := &plainConn{Conn: c, server: s, raw: raw, remote: c.RemoteAddr().String()}
	s.mu.Lock()
	if s.shuttingDown.Load() {
		s.mu.Unlock()
		c.Close()
		s.count.release()
		return
	}
	s.conns[p] = struct{}{}
	s.mu.Unlock()
	go func() {
		defer s.forget(p)
		if !p.serve() {
			c.Close()
			s.count.release()
			return
		}
		unread, _ := p.in.Peek(p.in.Buffered())
		c.SetDeadline(time.Time{})
		handed.take(&conn{Conn: c, count: &s.count, unread: unread})
	}()
}

func (s *Server) forget(p *plainConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, p)
	if s.drained != nil && len(s.conns) == 0 {
		close(s.drained)
		s.drained = nil
	}
}

func (s *Server) listen(l net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shuttingDown.Load() {
		return false
	}
	s.listeners[l] = struct{}{}
	return true
}

func (s *Server) unlisten(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

// stop has the server accept no more, and closes the plain connections that are idle; all of them where at once is set.
// It returns what is closed once there are none.
func (s *Server) stop(atOnce bool) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shuttingDown.Store(true)
	for l := range s.listeners {
		l.Close()
	}
	for p := range s.conns {
		// A connection that becomes idle after this look sees shuttingDown.
		if p.state.CompareAndSwap(plainIdle, plainClosed) || atOnce {
			p.Conn.Close()
		}
	}
	drained := make(chan struct{})
	switch {
	case len(s.conns) == 0:
		close(drained)
	case s.drained == nil:
		s.drained = drained
	default:
		drained = s.drained
	}
	return drained
}

// Shutdown stops the server once the requests under way are answered, or ctx ends.
func (s *Server) Shutdown(ctx context.Context) error {
	drained := s.stop(false)
	err := s.rest.Shutdown(ctx)
	select {
	case <-drained:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close stops the server and all connections at once.
func (s *Server) Close() error {
	s.stop(true)
	return s.rest.Close()
}

func (s *Server) logf(format string, args ...any) {
	if s.errLog != nil {
		s.errLog.Printf(format, args...)
		return
	}
	log.Printf(format, args...)
}

// handedOver is the listener of the connections that are handed to net/http.
type handedOver struct {
	addr   net.Addr
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

// take hands c over, or closes it where nobody takes it any more.
func (l *handedOver) take(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.closed:
		c.Close()
	}
}

func (l *handedOver) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *handedOver) Addr() net.Addr { return l.addr }

func (l *handedOver) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}
