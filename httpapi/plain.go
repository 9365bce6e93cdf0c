package httpapi

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A plain connection is looked after while a request waits on it: first after firstLook, then when it has waited twice as
// long, and at least each lastLook.
const (
	firstLook = 25 * time.Millisecond
	lastLook  = 250 * time.Millisecond
)

// deadlineSlack is how much earlier than it should a connection's deadline may be, so that it isn't set for each request.
const deadlineSlack = time.Second

// States of a plain connection.
const (
	plainIdle   = iota // it waits for a request; whoever makes it plainClosed closes it
	plainBusy          // a request is being taken in or answered
	plainClosed        // the server shuts down
)

// plainConn is a connection that has brought nothing but plain requests so far. Its goroutine owns it. It ends with the
// connection, or hands that over to net/http, with all that is unread, for the first request that is not plain.
type plainConn struct {
	net.Conn
	server *Server
	raw    syscall.RawConn
	state  atomic.Int32
	in     *bufio.Reader
	header plainHeader
	answer plainAnswer
	body   plainBody
	remote string

	readDeadline, writeDeadline time.Time // as they are set

	mu      sync.Mutex // guards what follows
	waiting *plainContext
	look    *time.Timer
	looks   time.Time // when look fires; zero: it doesn't
}

// serve answers plain requests, and returns true where the connection is left to net/http. A panic ends the connection
// alone: half an answer may be out.
func (c *plainConn) serve() (handOver bool) {
	defer func() {
		if reason := recover(); reason != nil && reason != http.ErrAbortHandler {
			c.server.logf("http: panic serving %s: %v\n%s", c.remote, reason, debug.Stack())
		}
	}()
	c.in = bufio.NewReader(c.Conn)
	c.answer.conn, c.body.conn = c, c
	limit := time.Now().Add(readHeaderTimeout)
	c.limitRead(limit, 0)
	if _, err := c.in.Peek(1); err != nil || !c.state.CompareAndSwap(plainIdle, plainBusy) {
		return false
	}
	for {
		end, err := c.awaitHeader(limit)
		if err != nil {
			return false
		}
		head, _ := c.in.Peek(c.in.Buffered())
		if end < 0 || !c.header.parse(head, end+2) {
			return true
		}
		c.in.Discard(end + len(endOfHeader))
		if !c.respond() {
			return false
		}
		limit, err = c.awaitNext()
		if err != nil {
			return false
		}
	}
}

// awaitHeader waits until limit for the end of a header of which the first bytes are here, and returns where it is in
// what is buffered; -1 where the request won't be plain, whatever comes.
func (c *plainConn) awaitHeader(limit time.Time) (end int, err error) {
	for {
		b, _ := c.in.Peek(c.in.Buffered())
		if end := headerEnd(b); end >= 0 {
			return end, nil
		}
		if len(b) == c.in.Size() || !mayBePlain(b) {
			return -1, nil
		}
		c.limitRead(limit, 0)
		if _, err := c.in.Peek(len(b) + 1); err == io.EOF {
			return -1, nil // net/http tells those who wait for an answer
		} else if err != nil {
			return 0, err
		}
	}
}

// awaitNext waits for a further request on the connection. limit is until when its header is to be here.
func (c *plainConn) awaitNext() (limit time.Time, err error) {
	c.state.Store(plainIdle)
	if c.server.shuttingDown.Load() {
		return limit, http.ErrServerClosed
	}
	if c.in.Buffered() < 4 {
		c.limitRead(time.Now().Add(idleTimeout), deadlineSlack)
	}
	// As net/http has it: a request has begun when four bytes of it are here.
	begin, err := c.in.Peek(4)
	if err != nil {
		return limit, err
	}
	if !c.state.CompareAndSwap(plainIdle, plainBusy) {
		return limit, http.ErrServerClosed
	}
	if c.header.method == http.MethodPost {
		// The same: old clients send a line end too many after a form.
		n := 0
		for n < len(begin) && (begin[n] == '\r' || begin[n] == '\n') {
			n++
		}
		c.in.Discard(n)
	}
	return time.Now().Add(readHeaderTimeout), nil
}

// respond has the request in header answered. It reports whether the connection can go on.
func (c *plainConn) respond() bool {
	h := &c.header
	now := time.Now()
	if limit := now.Add(writeTimeout); limit.Sub(c.writeDeadline) > deadlineSlack {
		c.SetWriteDeadline(limit)
		c.writeDeadline = limit
	}
	ctx := &plainContext{conn: c, began: now}
	r := plainTemplate.WithContext(ctx)
	r.Method, r.URL, r.RequestURI, r.Host, r.Header = h.method, h.url, h.target, h.host, h.fields
	r.ContentLength, r.RemoteAddr = h.length, c.remote
	c.body.left = h.length
	r.Body = http.NoBody
	if h.length > 0 {
		r.Body = &c.body
		c.body.setDeadline(now.Add(bodyTimeout))
	}
	c.answer.begin(h.method)
	if !strings.HasPrefix(h.target, kvPrefix) {
		c.watch(ctx, time.Time{}) // an operation on a key is watched once it has its deadline
	}
	c.handle(r, ctx)
	ok := c.answer.finish()
	if c.answer.err == nil && c.answer.hangUp {
		c.linger()
	}
	return ok
}

// plainTemplate has what all plain requests have.
var plainTemplate = &http.Request{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}

func (c *plainConn) handle(r *http.Request, ctx *plainContext) {
	defer c.unwatch(ctx)
	c.server.handler.ServeHTTP(&c.answer, r)
}

// limitRead has reads fail after t, or up to slack earlier.
func (c *plainConn) limitRead(t time.Time, slack time.Duration) {
	if early := t.Sub(c.readDeadline); early < 0 || early > slack {
		c.SetReadDeadline(t)
		c.readDeadline = t
	}
}

// linger lets a client that has not sent all of its request read the answer.
func (c *plainConn) linger() {
	if c.body.left == 0 {
		return
	}
	half, ok := c.Conn.(interface{ CloseWrite() error })
	if ok && half.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		io.Copy(io.Discard, c.Conn)
	}
}

// watch has ctx ended at its deadline, where it has one, or when the client goes.
func (c *plainConn) watch(ctx *plainContext, deadline time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = ctx
	next := earlier(ctx.began.Add(firstLook), deadline)
	// A look that an earlier request left behind comes no later, and goes on from there.
	if c.looks.IsZero() || next.Before(c.looks) {
		c.lookLocked(next)
	}
}

func (c *plainConn) lookLocked(at time.Time) {
	c.looks = at
	if c.look == nil {
		c.look = time.AfterFunc(time.Until(at), c.lookAfter)
		return
	}
	c.look.Reset(time.Until(at))
}

// unwatch ends ctx with its request.
func (c *plainConn) unwatch(ctx *plainContext) {
	c.mu.Lock()
	c.waiting = nil
	c.mu.Unlock()
	ctx.end(context.Canceled)
}

// lookAfter looks whether the request that waits is to wait any longer.
func (c *plainConn) lookAfter() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.looks = time.Time{}
	ctx := c.waiting
	if ctx == nil {
		return
	}
	now := time.Now()
	deadline, _ := ctx.Deadline()
	switch {
	case !deadline.IsZero() && !now.Before(deadline):
		ctx.end(context.DeadlineExceeded)
	case gone(c.raw):
		ctx.end(context.Canceled)
	default:
		c.lookLocked(earlier(now.Add(min(max(now.Sub(ctx.began), firstLook), lastLook)), deadline))
	}
}

// earlier is the earlier of t and a deadline, which is zero where there is none.
func earlier(t, deadline time.Time) time.Time {
	if !deadline.IsZero() && deadline.Before(t) {
		return deadline
	}
	return t
}

// plainBody is what is left of the body of the request in hand.
type plainBody struct {
	conn *plainConn
	left int64
}

func (b *plainBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.conn.in.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0:
		err = io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

func (b *plainBody) Close() error { return nil }

// setDeadline bounds the wait for what is not here yet.
func (b *plainBody) setDeadline(t time.Time) error {
	if int64(b.conn.in.Buffered()) >= b.left {
		return nil
	}
	b.conn.readDeadline = t
	return b.conn.SetReadDeadline(t)
}

// plain reports whether c is a connection that plain requests can be served on.
func plain(c net.Conn) (syscall.RawConn, bool) {
	s, ok := c.(syscall.Conn)
	if !ok {
		return nil, false
	}
	raw, err := s.SyscallConn()
	return raw, err == nil
}

// temporary reports whether accepting may work again.
func temporary(err error) bool {
	var ne interface{ Temporary() bool }
	return errors.As(err, &ne) && ne.Temporary() && !errors.Is(err, os.ErrDeadlineExceeded)
}
