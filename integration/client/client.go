package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Client performs operations against any node.
type Client struct {
	recorder *history.Recorder
	http     *http.Client
	timeout  time.Duration
}

// New returns a client that waits at most timeout for each answer and records to r.
func New(r *history.Recorder, timeout time.Duration) *Client {
	return &Client{
		recorder: r,
		timeout:  timeout,
		http: &http.Client{
			Transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: 10 * time.Second, DisableCompression: true},
			CheckRedirect: func(*http.Request, []*http.Request) error {
				return http.ErrUseLastResponse
			},
		},
	}
}

// Close closes idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Target is a node to ask.
type Target struct {
	Node string
	URL  string // http://host:port
}

// KeyURL is the URL of key at a node. Every byte but letters and digits is escaped, so that the key
// arrives as it is.
func KeyURL(base, key string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.WriteString(base + "/v1/kv/")
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// Do sends o, of which the request's fields are set, to target, fills in the rest, records it and
// returns it. An Outcome of Unknown means that the process must not be used again.
func (c *Client) Do(ctx context.Context, target Target, o history.Operation) history.Operation {
	o.Node = target.Node
	o.Invoke = c.recorder.Now()
	if err := c.send(ctx, target, &o); err != nil {
		c.recorder.Defect(fmt.Errorf("%w: %s", err, o))
	}
	c.recorder.Add(o)
	return o
}

// margin is how much earlier the server's deadline is, as a part of the client's.
const margin = 8

// send performs o; its error is a defect of the server.
func (c *Client) send(ctx context.Context, target Target, o *history.Operation) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	// Once the transport has a connection, bytes may have left.
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { sent.Store(true) }})

	resp, body, err := c.roundTrip(ctx, target, o)
	o.Return = c.recorder.Now()
	if err != nil {
		o.Err = err.Error()
		o.Outcome = history.Unknown
		if !sent.Load() || !o.Kind.Write() {
			o.Outcome = history.Refused
		}
		return nil
	}
	o.Status = resp.StatusCode
	reply, etag, err := parse(resp, body)
	if err != nil {
		o.Outcome = history.Unknown
		return err
	}
	o.Problem = reply.Problem
	o.Outcome, err = history.Classify(o.Kind, reply)
	if err != nil || o.Outcome != history.OK {
		return err
	}
	if err := fill(o, resp, body, etag); err != nil {
		// What it says can't be checked, so nothing may be concluded from it.
		o.Outcome = history.Unknown
		return err
	}
	return nil
}

// roundTrip sends the request and reads the whole answer.
func (c *Client) roundTrip(ctx context.Context, target Target, o *history.Operation) (*http.Response, []byte, error) {
	method, body := http.MethodGet, io.Reader(nil)
	switch {
	case o.Kind.Stores():
		method, body = http.MethodPut, strings.NewReader(o.Value)
	case o.Kind.Write():
		method = http.MethodDelete
	}
	req, err := http.NewRequestWithContext(ctx, method, KeyURL(target.URL, o.Key)+query(o), body)
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Larder-Timeout", (c.timeout - c.timeout/margin).Round(time.Millisecond).String())
	switch o.Kind {
	case history.Create:
		req.Header.Set("If-None-Match", "*")
	case history.Replace, history.DeleteIf:
		req.Header.Set("If-Match", fmt.Sprintf("%q", strconv.FormatUint(o.IfMatch, 10)))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		var u *url.Error
		if errors.As(err, &u) {
			err = u.Err // without the URL, which the operation has
		}
		return nil, nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	return resp, answer, err
}

// query is what the URL of an operation says beside the key, with its question mark.
func query(o *history.Operation) string {
	values := url.Values{}
	if o.Local {
		values.Set("route", "local")
	}
	switch o.Kind {
	case history.GetBounded:
		values.Set("consistency", "bounded")
		values.Set("max-staleness", o.MaxStaleness.String())
	case history.GetAny:
		values.Set("consistency", "any")
	}
	if len(values) == 0 {
		return ""
	}
	return "?" + values.Encode()
}

// paths are the ways to a read that the interface knows, and whether they make it linearizable.
var paths = map[string]bool{"probe": true, "log": true, "follower": true, "local": false}

// fillRead sets the fields of a read beside the value; its error is a defect.
func fillRead(o *history.Operation, h http.Header) error {
	o.Path = h.Get("Larder-Read")
	linearizable, known := paths[o.Path]
	switch {
	case !known:
		return fmt.Errorf("a read with Larder-Read %q", o.Path)
	case !linearizable && o.Kind == history.Get:
		return fmt.Errorf("a linearizable read with Larder-Read %q", o.Path)
	case o.Local && o.ServedBy != o.Node:
		return fmt.Errorf("a read with route=local at %s was served by %s", o.Node, o.ServedBy)
	case !o.Kind.Old():
		return nil
	}
	var err error
	if o.Age, err = strconv.Atoi(h.Get("Age")); err != nil || o.Age < 0 {
		return fmt.Errorf("a read that may be old with Age %q", h.Get("Age"))
	}
	return nil
}

// parse reads what every answer has: the problem body where there is one, and the ETag (0: none).
func parse(resp *http.Response, body []byte) (history.Reply, uint64, error) {
	r := history.Reply{Status: resp.StatusCode}
	if resp.StatusCode >= 400 {
		if got := resp.Header.Get("Content-Type"); got != "application/problem+json" {
			return r, 0, fmt.Errorf("status %d with content type %q", resp.StatusCode, got)
		}
		var p struct {
			Type    string
			Status  int
			Applied string
		}
		if err := json.Unmarshal(body, &p); err != nil {
			return r, 0, fmt.Errorf("status %d with a body that is no JSON: %w", resp.StatusCode, err)
		}
		if p.Status != resp.StatusCode {
			return r, 0, fmt.Errorf("status %d with a body that says %d", resp.StatusCode, p.Status)
		}
		r.Problem, r.Applied = p.Type, p.Applied
	}
	tag := resp.Header.Get("ETag")
	if tag == "" {
		return r, 0, nil
	}
	opaque, err := strconv.Unquote(tag)
	if err != nil {
		return r, 0, fmt.Errorf("ETag %s is not quoted", tag)
	}
	version, err := strconv.ParseUint(opaque, 10, 64)
	if err != nil || version == 0 {
		return r, 0, fmt.Errorf("ETag %s is not a version", tag)
	}
	return r, version, nil
}

// fill sets the fields of an operation that happened; its error is a defect.
func fill(o *history.Operation, resp *http.Response, body []byte, etag uint64) error {
	h := resp.Header
	var err error
	number := func(name, text string) uint64 {
		n, parseErr := strconv.ParseUint(text, 10, 64)
		if parseErr != nil && err == nil {
			err = fmt.Errorf("status %d with %s %q", resp.StatusCode, name, h.Get(name))
		}
		return n
	}
	index, position, _ := strings.Cut(h.Get("Larder-Index"), ".")
	o.Place = history.Place{
		Shard:    number("Larder-Shard", h.Get("Larder-Shard")),
		Epoch:    number("Larder-Epoch", h.Get("Larder-Epoch")),
		Index:    number("Larder-Index", index),
		Position: number("Larder-Index", position),
	}
	if err != nil {
		return err
	}
	if o.ServedBy = h.Get("Larder-Served-By"); o.ServedBy == "" {
		return fmt.Errorf("status %d without Larder-Served-By", resp.StatusCode)
	}
	o.Version = etag
	o.Conflict = resp.StatusCode == http.StatusPreconditionFailed
	switch {
	case o.Conflict:
	case o.Kind.Read():
		if err := fillRead(o, h); err != nil {
			return err
		}
		if o.Found = resp.StatusCode == http.StatusOK; o.Found {
			o.Read = string(body)
		}
		if o.Found != (etag != 0) {
			return fmt.Errorf("status %d with ETag %q", resp.StatusCode, h.Get("ETag"))
		}
	case o.Kind.Stores():
		o.Existed = resp.StatusCode == http.StatusNoContent
		if etag == 0 {
			return fmt.Errorf("status %d without an ETag", resp.StatusCode)
		}
	default:
		switch existed := h.Get("Larder-Existed"); existed {
		case "?1":
			o.Existed = true
		case "?0":
		default:
			return fmt.Errorf("a delete with Larder-Existed %q", existed)
		}
	}
	return nil
}
