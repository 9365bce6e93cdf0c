package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Limits of a connection.
const (
	// readHeaderTimeout bounds how long a header may trickle in.
	readHeaderTimeout = 10 * time.Second
	// bodyTimeout bounds how long a body may trickle in that no handler waits for: it is taken in before the answer.
	bodyTimeout = maxTimeout
	// idleTimeout closes connections that nobody uses.
	idleTimeout = 2 * time.Minute
	// writeTimeout bounds a request from the end of its header to the end of the answer: the
	// longest Larder-Timeout, and as much again for a slow reader.
	writeTimeout = 2 * maxTimeout
	// lingerTime is how long a client that was answered in the middle of its request may go on
	// sending. Closing at once could make the system discard the answer.
	lingerTime = 500 * time.Millisecond
	// maxHeaderBytes bounds request line and headers: far above the longest key with each of its
	// bytes encoded. net/http adds 4 KiB to it.
	maxHeaderBytes = 64 << 10
)

// newRest returns what serves handler by net/http, on connections that are *conn, and what ends when that shuts down.
func newRest(handler http.Handler) (_ *http.Server, closing context.Context) {
	closing, shutDown := context.WithCancel(context.Background())
	srv := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if c, ok := r.Context().Value(connKey{}).(*conn); ok {
				c.serving.Store(true)
				if c.framing.bad {
					c.SetReadDeadline(time.Now().Add(lingerTime)) // for what the client still sends
					kindMalformed.problem("The request could not be read: where its body ends is not clear, as it has a Transfer-Encoding beside a Content-Length, or in HTTP/1.0.").hangingUp().write(w)
					return
				}
			}
			handler.ServeHTTP(w, r)
		}),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(context.WithValue(ctx, connKey{}, c), closingKey{}, closing)
		},
		ConnState: func(c net.Conn, state http.ConnState) {
			// net/http calls this once the answer is flushed, before it looks at the next request.
			if c, ok := c.(*conn); ok && state == http.StateIdle {
				c.serving.Store(false)
			}
		},
		ReadHeaderTimeout:            readHeaderTimeout,
		ReadTimeout:                  bodyTimeout, // from the request's first byte; handlers that take a body set their own
		IdleTimeout:                  idleTimeout,
		WriteTimeout:                 writeTimeout,
		MaxHeaderBytes:               maxHeaderBytes,
		DisableGeneralOptionsHandler: true, // OPTIONS * has no answer of its own: 404 as for other paths
	}
	srv.RegisterOnShutdown(shutDown)
	return srv, closing
}

// closingKey is the context key of the context that ends when the request's server shuts down.
type closingKey struct{}

// closing returns the context that ends when the server of a request with context ctx shuts down.
func closing(ctx context.Context) context.Context {
	if c, ok := ctx.Value(closingKey{}).(context.Context); ok {
		return c
	}
	return context.Background()
}

// connKey is the context key of a request's *conn.
type connKey struct{}

// conn is a connection that knows whether a handler is answering on it. While none is, all that is
// written comes from net/http: it can't be a value that looks like such an answer. Requests so malformed that net/http
// answers them itself, in text/plain, get the same status as a problem instead.
type conn struct {
	net.Conn
	count   *connCount // that it counts for until it is closed
	closed  atomic.Bool
	unread  []byte      // to be read before what comes from the connection
	framing framing     // of what was read
	serving atomic.Bool // from the handler's start until its answer is flushed
}

// Read gives net/http no more than the rest of one header, so that framing tells of the request that is about to be served. Behind a request after
// which there can be no other it gives nothing, until the client ends or the deadline comes.
func (c *conn) Read(p []byte) (int, error) {
	for {
		if len(c.unread) > 0 {
			n := c.framing.advance(c.unread[:min(len(p), len(c.unread))])
			if n == 0 {
				c.unread = nil
				continue
			}
			copy(p, c.unread[:n])
			c.unread = c.unread[n:]
			return n, nil
		}
		read, err := c.Conn.Read(p)
		n := c.framing.advance(p[:read])
		if n < read {
			c.unread = bytes.Clone(p[n:read])
		}
		if n > 0 {
			return n, nil // an error comes again
		}
		if err != nil || read == 0 {
			return 0, err
		}
	}
}

func (c *conn) Close() error {
	if !c.closed.Swap(true) {
		c.count.release()
	}
	return c.Conn.Close()
}

// CloseWrite is what net/http uses to let a client read the answer to a request that it hasn't sent
// in full.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (c *conn) Write(p []byte) (int, error) {
	if !c.serving.Load() {
		if answer, ok := translate(p); ok {
			if _, err := c.Conn.Write(answer); err != nil {
				return 0, err
			}
			c.linger()
			return len(p), nil
		}
	}
	return c.Conn.Write(p)
}

// linger takes in what the client still sends, for a while, before net/http closes the connection.
// Nobody else reads meanwhile: net/http does so only while a handler runs.
func (c *conn) linger() {
	if c.CloseWrite() == nil && c.SetReadDeadline(time.Now().Add(lingerTime)) == nil {
		io.Copy(io.Discard, c.Conn) // ends by the client, an error or the deadline, all the same
	}
}

// translate turns net/http's own answer to a request that reached no handler into a problem. It
// writes each such answer at once; ok is false for what is none.
func translate(p []byte) (answer []byte, ok bool) {
	text, ok := strings.CutPrefix(string(p), "HTTP/1.1 ")
	if !ok || len(text) < 4 || text[3] != ' ' {
		return nil, false
	}
	status, err := strconv.Atoi(text[:3])
	if err != nil || status < 400 || status > 599 {
		return nil, false
	}
	// Some say more, as in "400 Bad Request: missing required Host header".
	line, _, _ := strings.Cut(text[4:], "\r\n")
	_, more, _ := strings.Cut(line, ": ")
	problem := belowHandlers(status, more)
	body, err := json.Marshal(problem)
	if err != nil {
		return nil, false
	}
	return fmt.Appendf(nil, "HTTP/1.1 %d %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\nDate: %s\r\n\r\n%s",
		status, http.StatusText(status), problemType, len(body), time.Now().UTC().Format(http.TimeFormat), body), true
}

// belowHandlers is the problem for a status that net/http gives by itself.
func belowHandlers(status int, more string) *Problem {
	switch status {
	case http.StatusRequestHeaderFieldsTooLarge:
		return kindHeadersTooLarge.problem("Request line and headers may have about %d KiB.", maxHeaderBytes>>10)
	case http.StatusExpectationFailed:
		return kindExpectation.problem("The only expectation that is met is 100-continue.")
	case http.StatusNotImplemented:
		return kindTransferEncoding.problem("The only transfer coding that is understood is chunked.")
	case http.StatusHTTPVersionNotSupported:
		return kindHTTPVersion.problem("Use HTTP/1.1.")
	}
	if more == "" {
		// net/http says as little of a bad request line as of a bad header.
		more = "its request line (for one, its percent-encoding) or a header does not follow the grammar of HTTP/1.1"
	}
	k := kindMalformed
	k.status = status
	return k.problem("The request could not be read: %s.", more)
}
