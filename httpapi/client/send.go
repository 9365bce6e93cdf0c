package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const userAgent = "larder-go"

// attempt sends r to n once. Its error says whether another attempt may be made.
func (c *Client) attempt(ctx context.Context, n *node, mode string, r *request) (*answer, *Error) {
	deadline, _ := ctx.Deadline()
	limit := time.Until(deadline)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Time that the server waits for another's fill is no silence of its.
	fill := time.Duration(0)
	if r.fill != 0 {
		fill = min(time.Until(r.fillEnd), max(limit-c.cfg.AttemptTimeout, limit*3/4))
		fill = max(fill.Truncate(time.Millisecond), time.Millisecond)
		limit -= fill
	}
	if r.repeated && !r.until.IsZero() {
		limit = min(limit, time.Until(r.until)) // the server proposes nothing after that
	}
	var silence *time.Timer
	if r.read() && !c.cfg.NoRetry {
		limit = min(limit, c.cfg.AttemptTimeout)
		silence = time.AfterFunc(limit+fill, cancel)
		defer silence.Stop()
	}
	var w wire
	traced := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: w.gotConn})
	began := time.Now()
	resp, err := c.transport.RoundTrip(c.newRequest(traced, n, mode, r, limit, fill))
	if err != nil {
		return nil, r.failed(n, w.sent(), err)
	}
	defer resp.Body.Close()
	c.learnTime(resp.Header, began)
	if silence != nil {
		silence.Stop() // the answer has begun; a long value may take longer
	}
	return r.settle(n, resp, c.cfg.MaxValueBytes)
}

// newRequest is r on the wire. For net/http it is no request that may be sent twice: see doc.go.
func (c *Client) newRequest(ctx context.Context, n *node, mode string, r *request, limit, fill time.Duration) *http.Request {
	query := "route=" + mode
	if fill != 0 {
		query += "&fill=" + fill.String()
	}
	if len(r.query) > 0 {
		query += "&" + r.query.Encode()
	}
	// The server's deadline is a little before ours, so that we hear what it says at its own.
	told := min(max((limit-limit/8).Round(time.Millisecond), time.Millisecond), maxLarderTime)
	h := http.Header{"User-Agent": {userAgent}, "Larder-Timeout": {told.String()}}
	if r.condition.name != "" {
		h[r.condition.name] = []string{r.condition.value}
	}
	if r.contentType != "" {
		h["Content-Type"] = []string{r.contentType}
	}
	if r.once != "" {
		h[idempotencyHeader] = []string{`"` + escapeKey.Replace(r.once) + `"`}
	}
	path := keyPath(r.key)
	if r.batch != nil {
		path, query = "/v1/batch", ""
	}
	if r.scan {
		path, query = "/v1/keys", r.query.Encode()
	}
	req := (&http.Request{
		Method: r.method,
		// An opaque URL is sent as it is.
		URL:    &url.URL{Scheme: c.scheme, Host: n.host, Opaque: path, RawQuery: query},
		Header: h,
		Proto:  "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}).WithContext(ctx)
	if r.method == http.MethodPut || r.method == http.MethodPost || r.method == http.MethodPatch {
		req.Body = http.NoBody
		if req.ContentLength = int64(len(r.value)); req.ContentLength > 0 {
			req.Body = io.NopCloser(bytes.NewReader(r.value)) // and no GetBody
		}
		if len(r.value) >= expectFromBytes {
			// A server that refuses for what the header says, above all a length over its limit, closes
			// the connection without reading the rest. Whoever sends that rest may lose the answer.
			h["Expect"] = []string{"100-continue"}
		}
	}
	return req
}

// failed is the error of an attempt without an answer.
func (r *request) failed(n *node, sent bool, err error) *Error {
	e := &Error{Op: r.op, Kind: ErrUnavailable, Applied: AppliedNo, Node: n.host, Err: err, again: true, broken: true}
	switch {
	case sent && !r.read():
		e.Kind, e.Applied, e.again = ErrOutcomeUnknown, AppliedUnknown, r.repeatable()
		e.Detail = "no answer to a write that was sent"
	case sent:
		e.Detail = "no answer"
	default:
		e.Detail = "nothing was sent"
	}
	return e
}

// wire tells whether any byte of a request was written. net/http calls gotConn before the first one is; the
// bytes are counted on the connection.
type wire struct {
	mu     sync.Mutex
	conn   *countedConn
	before int64
	dirty  bool // an earlier connection got some, or one can't be counted
}

func (w *wire) gotConn(info httptrace.GotConnInfo) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty = w.sentLocked()
	conn := info.Conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS
		conn = t.NetConn()
	}
	counted, ok := conn.(*countedConn)
	if !ok {
		w.dirty = true
		return
	}
	w.conn, w.before = counted, counted.written.Load()
}

func (w *wire) sent() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sentLocked()
}

func (w *wire) sentLocked() bool {
	return w.dirty || w.conn != nil && w.conn.written.Load() != w.before
}

// countedConn counts what is written to a connection.
type countedConn struct {
	net.Conn
	written atomic.Int64
}

// Write counts before it writes, so that what is under way counts as written.
func (c *countedConn) Write(p []byte) (int, error) {
	c.written.Add(int64(len(p)))
	n, err := c.Conn.Write(p)
	c.written.Add(int64(n - len(p)))
	return n, err
}

// dial makes a connection within the time that is allowed for it.
func (c *Client) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.DialTimeout)
	defer cancel()
	conn, err := c.cfg.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &countedConn{Conn: conn}, nil
}

// readBody reads a body that may have limit bytes, and fails if it can't be known to be whole.
func readBody(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, errTooLong
	}
	if resp.ContentLength >= 0 {
		body := make([]byte, resp.ContentLength)
		_, err := io.ReadFull(resp.Body, body)
		return body, err
	}
	if len(resp.TransferEncoding) == 0 {
		return nil, errors.New("the answer does not say how long it is")
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = errTooLong
	}
	return body, err
}

var errTooLong = errors.New("the answer is longer than allowed")

// number parses a decimal header.
func number(h http.Header, name string) (uint64, error) {
	n, err := strconv.ParseUint(h.Get(name), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is %q", name, h.Get(name))
	}
	return n, nil
}
