package httpapi

import (
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// gatherBytes is up to how many bytes an answer is gathered, to be sent at once.
const gatherBytes = 4 << 10

// plainAnswer is the http.ResponseWriter of plain requests, one after the other. To the byte it answers as net/http does,
// but for the chunked coding: a body without a Content-Length is gathered until the handler has ended.
type plainAnswer struct {
	conn    *plainConn
	head    bool // the request was a HEAD
	header  http.Header
	status  int   // 0: none yet
	length  int64 // that the handler has announced, -1: none
	written int64
	out     []byte // not sent yet; the header first, once that is rendered
	spare   []byte // memory for either
	begun   bool   // the header is rendered
	hangUp  bool   // the connection ends with the answer
	err     error  // of the connection
	names   []string
}

// begin makes it the answer to another request.
func (a *plainAnswer) begin(method string) {
	if a.header == nil {
		a.header = http.Header{}
	}
	clear(a.header)
	a.head, a.status, a.length, a.written, a.begun, a.hangUp = method == http.MethodHead, 0, -1, 0, false, false
	a.out = a.out[:0]
}

func (a *plainAnswer) Header() http.Header { return a.header }

func (a *plainAnswer) WriteHeader(status int) {
	if a.status != 0 {
		return
	}
	a.status = status
	if text := a.header["Content-Length"]; len(text) > 0 {
		n, err := strconv.ParseInt(text[0], 10, 64)
		if err != nil || n < 0 {
			delete(a.header, "Content-Length")
			return
		}
		a.length = n
	}
}

// bodyAllowed reports whether the status has a body (RFC 9110 6.4.1).
func (a *plainAnswer) bodyAllowed() bool {
	return a.status >= 200 && a.status != http.StatusNoContent && a.status != http.StatusNotModified
}

func (a *plainAnswer) Write(p []byte) (int, error) {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	switch {
	case len(p) == 0:
		return 0, nil
	case !a.bodyAllowed():
		return 0, http.ErrBodyNotAllowed
	case a.length >= 0 && a.written+int64(len(p)) > a.length:
		return 0, http.ErrContentLength
	}
	a.written += int64(len(p))
	if a.length < 0 {
		a.out = append(a.out, p...)
		return len(p), nil
	}
	if !a.begun {
		a.render(p)
	}
	switch {
	case a.head:
	case len(a.out)+len(p) <= gatherBytes:
		a.out = append(a.out, p...)
	case a.err == nil:
		buffers := net.Buffers{a.out, p}
		_, a.err = buffers.WriteTo(a.conn.Conn)
		a.out = a.out[:0]
	}
	return len(p), a.err
}

// SetReadDeadline bounds how long the handler waits for the body, by way of http.ResponseController.
func (a *plainAnswer) SetReadDeadline(t time.Time) error { return a.conn.body.setDeadline(t) }

// finish sends what is left to be sent once the handler has ended. It reports whether the connection can go on.
func (a *plainAnswer) finish() bool {
	if a.status == 0 {
		a.WriteHeader(http.StatusOK)
	}
	if !a.begun {
		body := a.out
		a.out, a.spare = a.spare[:0], body
		if a.length < 0 && a.bodyAllowed() && (!a.head || len(body) > 0) {
			a.render(body, "Content-Length: "+strconv.Itoa(len(body)))
		} else {
			a.render(body)
		}
		if !a.head {
			a.out = append(a.out, body...)
		}
	}
	if len(a.out) > 0 && a.err == nil {
		_, a.err = a.conn.Conn.Write(a.out)
	}
	if cap(a.out) > 2*gatherBytes {
		a.out = nil
	}
	if cap(a.spare) > 2*gatherBytes {
		a.spare = nil
	}
	short := !a.head && a.length >= 0 && a.bodyAllowed() && a.written != a.length
	return a.err == nil && !a.hangUp && !short
}

// render puts the header into out, before all else. p is what the body begins with. What is left of the request's body is
// taken in first: who sends all of it before he reads would wait for us as we for him.
func (a *plainAnswer) render(p []byte, further ...string) {
	a.begun = true
	given := a.header.Get("Connection") == "close"
	a.hangUp = given || a.conn.server.shuttingDown.Load()
	if !a.hangUp && a.conn.body.left > 0 {
		_, err := io.Copy(io.Discard, &a.conn.body)
		a.hangUp = err != nil
	}
	if a.hangUp && !given {
		delete(a.header, "Connection")
	}
	a.out = append(a.out, "HTTP/1.1 "...)
	a.out = strconv.AppendInt(a.out, int64(a.status), 10)
	a.out = append(a.out, ' ')
	a.out = append(a.out, http.StatusText(a.status)...)
	a.out = append(a.out, "\r\n"...)
	a.names = a.names[:0]
	for name := range a.header {
		a.names = append(a.names, name)
	}
	slices.Sort(a.names)
	for _, name := range a.names {
		if !a.bodyAllowed() && (name == "Content-Length" || name == "Content-Type" && a.status == http.StatusNotModified) {
			continue
		}
		for _, value := range a.header[name] {
			a.field(name, value)
		}
	}
	a.out = append(a.out, "Date: "...)
	a.out = append(a.out, httpDate(time.Now())...)
	a.out = append(a.out, "\r\n"...)
	for _, line := range further {
		a.out = append(a.out, line...)
		a.out = append(a.out, "\r\n"...)
	}
	if _, typed := a.header["Content-Type"]; !typed && a.bodyAllowed() && len(p) > 0 && a.header.Get("Content-Encoding") == "" {
		a.field("Content-Type", http.DetectContentType(p))
	}
	if a.hangUp && !given {
		a.field("Connection", "close")
	}
	a.out = append(a.out, "\r\n"...)
}

// lineEnds become spaces: a value never ends its line.
var lineEnds = strings.NewReplacer("\n", " ", "\r", " ")

func (a *plainAnswer) field(name, value string) {
	if strings.IndexByte(value, '\n') >= 0 || strings.IndexByte(value, '\r') >= 0 {
		value = lineEnds.Replace(value)
	}
	if value != "" && (value[0] <= ' ' || value[len(value)-1] <= ' ') {
		value = strings.Trim(value, " \t")
	}
	a.out = append(a.out, name...)
	a.out = append(a.out, ": "...)
	a.out = append(a.out, value...)
	a.out = append(a.out, "\r\n"...)
}

// dateText is a second as the field Date has it.
type dateText struct {
	second int64
	text   string
}

var latestDate atomic.Pointer[dateText]

// httpDate is now as the field Date has it.
func httpDate(now time.Time) string {
	second := now.Unix()
	if d := latestDate.Load(); d != nil && d.second == second {
		return d.text
	}
	d := &dateText{second, now.UTC().Format(http.TimeFormat)}
	latestDate.Store(d)
	return d.text
}
