package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
)

const (
	maxKey   = 1024 // bytes
	kvPrefix = "/v1/kv/"
	// maxTimeout is the longest Larder-Timeout that servers take.
	maxTimeout = 60 * time.Second
	// maxFill is the longest fill time that servers take.
	maxFill = 30 * time.Second
	// grace is how much longer than the server we wait: it answers at its own deadline.
	grace = 2 * time.Second
	// maxValue bounds what is held in memory, bytes, far above the values that servers take.
	maxValue = 1 << 30
)

// client talks to the servers that its flags name.
type client struct {
	servers string
	timeout time.Duration
	output  string

	answered string // the server that answered last, which later requests try first
}

// flags adds those of a command on a key, which says little unless it is asked to.
func (c *client) flags(f *pflag.FlagSet) {
	c.connectionFlags(f)
	f.StringVarP(&c.output, "output", "o", "", "table or json: print what the server tells of the entry")
}

// adminFlags adds those of a command on the cluster.
func (c *client) adminFlags(f *pflag.FlagSet) {
	c.connectionFlags(f)
	f.StringVarP(&c.output, "output", "o", "table", "table or json")
}

func (c *client) connectionFlags(f *pflag.FlagSet) {
	f.StringVar(&c.servers, "server", "http://127.0.0.1:7070", "servers, comma-separated: a change goes to the next one only when nothing was sent")
	f.DurationVar(&c.timeout, "timeout", 5*time.Second, "how long a request may take, at most 60s")
}

// request is one request to a server.
type request struct {
	method string
	path   string // in plain ASCII that needs no escapes
	name   string // what follows path, any bytes: a key, the id of a node
	suffix string // what follows that, in plain ASCII
	query  url.Values
	header http.Header
	body   []byte // nil sends none
	// wait is how much longer than its timeout a server may hold the request.
	wait time.Duration
	// again lets a read go to the next server also when this one got it, but has no good answer.
	again bool
	// learn says how to learn what became of a change whose outcome is unknown.
	learn string
}

func (r request) write() bool { return r.method != http.MethodGet }

// answer is what a server replied.
type answer struct {
	server string
	status int
	header http.Header
	body   []byte
}

// checkKey validates what all commands on a key have in common.
func (c *client) checkKey(key string) error {
	switch {
	case key == "":
		return usageError{errors.New("the key is empty")}
	case len(key) > maxKey:
		return usageError{fmt.Errorf("the key has %d bytes, %d are allowed", len(key), maxKey)}
	}
	return c.check()
}

// check validates what all client commands have in common.
func (c *client) check() error {
	switch {
	case c.timeout <= 0 || c.timeout > maxTimeout:
		return usageError{fmt.Errorf("--timeout %s: more than 0, at most %s", c.timeout, maxTimeout)}
	case c.output != "" && c.output != "table" && c.output != "json":
		return usageError{fmt.Errorf("-o %q is not table or json", c.output)}
	}
	return nil
}

// do sends r to the first server that can be reached; one that may go elsewhere is sent to the next
// until an answer is good or is the client's own fault. ^C gives up, and says what that means.
func (c *client) do(ctx context.Context, r request) (answer, error) {
	servers, err := parseServers(c.servers)
	if err != nil {
		return answer{}, usageError{err}
	}
	slices.SortStableFunc(servers, func(a, b *url.URL) int {
		return cmp.Compare(c.rank(a), c.rank(b))
	})
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, c.timeout+r.wait+grace)
	defer cancel()

	deadline := time.Now().Add(c.timeout)
	var unreached []error
	var got answer     // the last one that was no good
	var gotError error // of the last server that got the request, when it has no answer
	for i, server := range servers {
		share := c.timeout
		if r.again {
			share = max(time.Until(deadline)/time.Duration(len(servers)-i), time.Millisecond)
		}
		a, sent, err := c.ask(ctx, server, r, share, c.timeout/time.Duration(len(servers)))
		more := r.again && i < len(servers)-1 && ctx.Err() == nil
		switch {
		case err == nil && more && (a.status >= http.StatusInternalServerError || a.status == http.StatusNotFound):
			// It can't tell, or has not heard of it yet.
			got, gotError = a, nil
			continue
		case err == nil:
			c.answered = server.String()
			return a, nil
		case sent && r.write():
			return a, exitError{exitUnknown, fmt.Errorf("%w: it is not known whether it happened; %s", err, r.learn)}
		case sent:
			err = exitError{exitUnavailable, fmt.Errorf("%w: try again", err)}
			if !more {
				return a, err
			}
			gotError = err
			continue
		}
		unreached = append(unreached, err)
		if ctx.Err() != nil {
			break
		}
	}
	switch {
	case gotError != nil:
		return answer{}, gotError
	case got.status != 0:
		return got, nil
	}
	return answer{}, exitError{exitUnavailable, fmt.Errorf("%w: nothing was sent; is a server running there (try \"larder dev\"), is --server right?", errors.Join(unreached...))}
}

// rank puts the server that answered last before the others.
func (c *client) rank(server *url.URL) int {
	if server.String() == c.answered {
		return 0
	}
	return 1
}

// ask sends r to one server, which has the given time to answer. sent reports whether any of it may
// have arrived.
func (c *client) ask(ctx context.Context, server *url.URL, r request, allowed, dial time.Duration) (a answer, sent bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, allowed+r.wait+grace)
	defer cancel()
	// Both forms of the path: with RawPath set, each byte of the key goes out as PathEscape wrote it.
	target := *server
	target.Path = r.path + r.name + r.suffix
	target.RawPath = r.path + url.PathEscape(r.name) + r.suffix
	target.RawQuery = r.query.Encode()
	var connected atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { connected.Store(true) }})
	var body io.Reader
	if r.body != nil {
		body = bytes.NewReader(r.body)
	}
	req, err := http.NewRequestWithContext(ctx, r.method, target.String(), body)
	if err != nil {
		return a, false, err
	}
	// String loses a path such as "//" to the grammar of URLs; the URL itself does not.
	req.URL = &target
	req.Header = r.header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Larder-Timeout", allowed.String())
	req.Header.Set("User-Agent", "larder")
	if len(r.body) > 0 {
		// A server that refuses for what the header says, above all a length over its limit, closes
		// the connection without reading the rest. Whoever sends that rest may lose the answer.
		req.Header.Set("Expect", "100-continue")
	}
	client := http.Client{
		// One request, no proxy (they tidy up paths, and so keys), no second try behind our back.
		Transport: &http.Transport{
			DialContext:       (&net.Dialer{Timeout: dial}).DialContext,
			DisableKeepAlives: true,
			// What does not know 100-continue gets the body nonetheless.
			ExpectContinueTimeout: time.Second,
			// Values come back as they are stored.
			DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	if err != nil {
		// Its text would repeat the whole URL.
		var urlErr *url.Error
		if errors.As(err, &urlErr) {
			err = urlErr.Err
		}
		return a, connected.Load(), fmt.Errorf("%s: %w", server, err)
	}
	defer resp.Body.Close()
	a = answer{server: server.String(), status: resp.StatusCode, header: resp.Header}
	a.body, err = io.ReadAll(io.LimitReader(resp.Body, maxValue+1))
	if err == nil && len(a.body) > maxValue {
		err = fmt.Errorf("it has more than %d bytes", maxValue)
	}
	if err != nil {
		return a, true, fmt.Errorf("%s: reading the answer: %w", server, err)
	}
	return a, true, nil
}

// parseServers splits --server. A server is a host and port; the scheme may be left out.
func parseServers(list string) ([]*url.URL, error) {
	var servers []*url.URL
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.User != nil {
			return nil, fmt.Errorf("--server %q is not a list of http://HOST:PORT", list)
		}
		servers = append(servers, &url.URL{Scheme: u.Scheme, Host: u.Host})
	}
	return servers, nil
}
