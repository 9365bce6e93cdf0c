package load

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"time"
)

// httpConn is a connection for requests of HTTP/1.1, one after the other. It knows as much of HTTP as the answers to
// them take: a status, a few headers, and a body of a length that is told. What it can't
// tell for certain is an error, and the connection is then of no more use.
//
// It is for one goroutine, and allocates nothing per request.
type httpConn struct {
	net.Conn
	limit time.Duration // for an answer
	out   []byte
	ops   []byte    // a batch, as it goes out
	in    []byte    // [0, got) is what was read; an answer begins at 0
	until time.Time // the deadline that is set
	// chunks: the answer may come in chunks, as it does to a batch.
	chunks bool
}

const (
	// firstBuffer takes an answer with a short value.
	firstBuffer = 4 << 10
	// maxAnswerHeader bounds the header of an answer, bytes.
	maxAnswerHeader = 64 << 10
)

func newHTTPConn(c net.Conn, limit time.Duration) *httpConn {
	return &httpConn{Conn: c, limit: limit, out: make([]byte, 0, firstBuffer), in: make([]byte, firstBuffer)}
}

// answer is what came back. Its bytes are valid until the next request.
type answer struct {
	status    int
	body      []byte
	larder    bool   // it says which shard it is of
	forwarded bool   // by the node that was asked
	servedBy  []byte // id of the node that served it
	closing   bool   // the connection is of no more use
	chunked   bool
}

var errMalformed = errors.New("an answer that is not HTTP/1.1 as Larder speaks it")

// do sends c.out and reads its answer. sent reports whether a byte may have left.
func (c *httpConn) do() (a answer, sent bool, err error) {
	// A deadline per request would cost more than it is worth: it is moved on when a quarter of it is over.
	if now := time.Now(); c.until.Sub(now) < c.limit {
		c.until = now.Add(c.limit + c.limit/4)
		if err := c.SetDeadline(c.until); err != nil {
			return a, false, err
		}
	}
	n, err := c.Write(c.out)
	if err != nil {
		return a, n > 0, err
	}
	a, err = c.read()
	return a, true, err
}

var (
	endOfHeader = []byte("\r\n\r\n")
	endOfLine   = []byte("\r\n")
)

// read reads an answer, and nothing after it: there is one request at a time.
func (c *httpConn) read() (a answer, err error) {
	got, head := 0, -1
	for head < 0 {
		if got == len(c.in) {
			if got >= maxAnswerHeader {
				return a, errMalformed
			}
			c.grow(2*len(c.in), got)
		}
		n, err := c.Read(c.in[got:])
		// The end of what was looked at before may be the beginning of the end.
		from := max(got-len(endOfHeader)+1, 0)
		got += n
		if i := bytes.Index(c.in[from:got], endOfHeader); i >= 0 {
			head = from + i + len(endOfHeader)
			break
		}
		if err != nil {
			if errors.Is(err, io.EOF) && got > 0 {
				err = io.ErrUnexpectedEOF
			}
			return a, err
		}
	}
	length, err := a.parse(c.in[:head])
	if err != nil {
		return a, err
	}
	if a.chunked {
		if !c.chunks {
			return a, errMalformed
		}
		a.body, err = c.readChunks(head, got)
		return a, err
	}
	end := head + length
	if got > end {
		return a, errMalformed
	}
	if end > len(c.in) {
		c.grow(end, got)
		if _, err := a.parse(c.in[:head]); err != nil { // its bytes have moved
			return a, err
		}
	}
	if _, err := io.ReadFull(c.Conn, c.in[got:end]); err != nil {
		return a, fmt.Errorf("reading a body: %w", err)
	}
	a.body = c.in[head:end]
	return a, nil
}

// grow makes room for size bytes, of which got are there.
func (c *httpConn) grow(size, got int) {
	in := make([]byte, size)
	copy(in, c.in[:got])
	c.in = in
}

// parse reads a header, and returns the length of the body that follows.
func (a *answer) parse(head []byte) (length int, err error) {
	line, rest, _ := bytes.Cut(head, endOfLine)
	// HTTP/1.1 200 OK
	if len(line) < 12 || !bytes.HasPrefix(line, []byte("HTTP/1.1 ")) {
		return 0, errMalformed
	}
	if a.status = decimal(line[9:12]); a.status < 200 {
		return 0, errMalformed
	}
	bodyless := a.status == 204 || a.status == 304
	length = -1
	for len(rest) > len(endOfLine) {
		line, rest, _ = bytes.Cut(rest, endOfLine)
		name, value, ok := bytes.Cut(line, []byte(":"))
		if !ok {
			return 0, errMalformed
		}
		value = bytes.TrimSpace(value)
		switch len(name) {
		case len("Connection"):
			if bytes.EqualFold(name, []byte("Connection")) && bytes.EqualFold(value, []byte("close")) {
				a.closing = true
			}
		case len("Larder-Shard"):
			a.larder = a.larder || bytes.EqualFold(name, []byte("Larder-Shard"))
		case len("Content-Length"):
			if bytes.EqualFold(name, []byte("Content-Length")) {
				if length = decimal(value); length < 0 || length > MaxValue {
					return 0, errMalformed
				}
			}
		case len("Larder-Forwarded"): // and Larder-Served-By
			if bytes.EqualFold(name, []byte("Larder-Forwarded")) {
				a.forwarded = true
			} else if bytes.EqualFold(name, []byte("Larder-Served-By")) {
				a.servedBy = value
			}
		case len("Transfer-Encoding"):
			if bytes.EqualFold(name, []byte("Transfer-Encoding")) {
				if !bytes.EqualFold(value, []byte("chunked")) {
					return 0, errMalformed
				}
				a.chunked = true
			}
		}
	}
	switch {
	case a.chunked && (bodyless || length >= 0):
		return 0, errMalformed
	case a.chunked:
		return 0, nil
	case bodyless && length > 0:
		return 0, errMalformed
	case bodyless:
		return 0, nil
	case length < 0:
		return 0, errMalformed
	}
	return length, nil
}

// decimal returns the number that text is, -1 if it is none or too long.
func decimal(text []byte) int {
	if len(text) == 0 || len(text) > 10 {
		return -1
	}
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	return n
}

// appendRequest adds the beginning of a request for a key, up to where headers may follow. All of the key but letters,
// digits, '-' and '_' is percent-encoded: dots too, since a key ".." would else be tidied away on the way.
func appendRequest(b []byte, method string, key []byte, host string) []byte {
	const hex = "0123456789ABCDEF"
	b = append(append(b, method...), " /v1/kv/"...)
	for _, c := range key {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
			b = append(b, c)
		default:
			b = append(b, '%', hex[c>>4], hex[c&15])
		}
	}
	return append(append(append(b, " HTTP/1.1\r\nHost: "...), host...), "\r\n"...)
}

// get makes c.out a GET. headers are lines with their ends.
func (c *httpConn) get(key []byte, host, headers string) {
	c.chunks = false
	c.out = append(append(appendRequest(c.out[:0], "GET", key, host), headers...), endOfLine...)
}

// put makes c.out a PUT.
func (c *httpConn) put(key, value []byte, host, headers string) {
	c.chunks = false
	b := append(appendRequest(c.out[:0], "PUT", key, host), headers...)
	b = strconv.AppendInt(append(b, "Content-Length: "...), int64(len(value)), 10)
	b = append(append(b, endOfLine...), endOfLine...)
	c.out = append(b, value...)
}

// dialHTTP connects within limit.
func dialHTTP(ctx context.Context, addr string, limit time.Duration) (*httpConn, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return newHTTPConn(conn, limit), nil
}
