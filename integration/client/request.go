package client

import (
	"bytes"
	"fmt"
	"net/url"
	"strconv"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// request is what an operation sends, whoever it goes to.
type request struct {
	method string
	uri    string // path and query
	fields bytes.Buffer
	body   string
	sized  bool // say how long the body is
}

// bytes is the request as it goes to addr.
func (q *request) bytes(addr string) []byte {
	b := make([]byte, 0, 256+q.fields.Len()+len(q.body))
	b = fmt.Appendf(b, "%s %s HTTP/1.1\r\nHost: %s\r\n", q.method, q.uri, addr)
	b = append(b, q.fields.Bytes()...)
	if q.sized {
		b = fmt.Appendf(b, "Content-Length: %d\r\n", len(q.body))
	}
	b = append(b, "\r\n"...)
	return append(b, q.body...)
}

func (q *request) header(name, value string) {
	q.fields.WriteString(name)
	q.fields.WriteString(": ")
	q.fields.WriteString(value)
	q.fields.WriteString("\r\n")
}

// margin is how much earlier the server's deadline is, as a part of the client's.
const margin = 8

// newRequest returns what o asks for, to be answered within timeout.
func newRequest(o *history.Operation, timeout time.Duration) *request {
	q := &request{uri: keyPath(o.Key) + query(o)}
	// The server counts the wait for another's fill on top.
	q.header("Larder-Timeout", max(time.Millisecond, timeout-timeout/margin-o.Fill).Round(time.Millisecond).String())
	switch o.Kind {
	case history.Put, history.Create, history.Replace, history.Swap:
		q.method, q.body, q.sized = "PUT", o.Value, true
	case history.Delete, history.DeleteIf:
		q.method = "DELETE"
	case history.Expire:
		q.method, q.body, q.sized = "PATCH", expiry(o.TTL), true
		q.header("Content-Type", "application/merge-patch+json")
	case history.Append:
		q.method, q.body, q.sized = "POST", o.Value, true
	case history.Incr, history.Touch:
		q.method, q.sized = "POST", true
	default:
		q.method = "GET"
	}
	switch {
	case o.Kind == history.Create && o.FillToken != 0:
		q.header("Larder-Fill", strconv.FormatUint(o.FillToken, 10))
	case o.Kind == history.Create:
		q.header("If-None-Match", "*")
	case o.Kind == history.Replace, o.Kind == history.DeleteIf:
		q.header("If-Match", quoted(o.IfMatch))
	}
	if o.IdempotencyKey != "" {
		q.header("Idempotency-Key", strconv.Quote(o.IdempotencyKey))
	}
	return q
}

func quoted(version uint64) string { return `"` + strconv.FormatUint(version, 10) + `"` }

// expiry is the body of an Expire.
func expiry(ttl time.Duration) string {
	if ttl == 0 {
		return `{"ttl":null}`
	}
	return `{"ttl":"` + ttl.String() + `"}`
}

// query is what the URL of an operation says beside the key, with its question mark.
func query(o *history.Operation) string {
	values := url.Values{}
	switch {
	case o.Local:
		values.Set("route", "local")
	case o.Route != "":
		values.Set("route", o.Route)
	}
	if o.NoTouch {
		values.Set("touch", "false")
	}
	if o.Fill != 0 {
		values.Set("fill", o.Fill.String())
	}
	switch o.Kind {
	case history.GetBounded:
		values.Set("consistency", "bounded")
		values.Set("max-staleness", o.MaxStaleness.String())
	case history.GetAny:
		values.Set("consistency", "any")
	case history.Swap:
		values.Set("return", "old")
	case history.Incr:
		values.Set("op", "incr")
		values.Set("by", strconv.FormatInt(o.Delta, 10))
	case history.Append:
		values.Set("op", "append")
	case history.Touch:
		values.Set("op", "touch")
	}
	if o.TTL != 0 && o.Kind != history.Expire {
		values.Set("ttl", o.TTL.String())
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}
