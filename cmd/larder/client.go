package main

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
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/pflag"
)

const (
	maxKey = 1024 // bytes
	// maxTimeout is the longest Larder-Timeout that servers take.
	maxTimeout = 60 * time.Second
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
}

func (c *client) flags(f *pflag.FlagSet) {
	f.StringVar(&c.servers, "server", "http://127.0.0.1:7070", "servers, comma-separated: the next one is tried only when nothing was sent")
	f.DurationVar(&c.timeout, "timeout", 5*time.Second, "how long the operation may take, at most 60s")
	f.StringVarP(&c.output, "output", "o", "", "table or json: print what the server tells of the entry")
}

// request is one operation on a key.
type request struct {
	method string
	key    string
	query  url.Values
	header http.Header
	body   []byte // put; nil sends none
}

func (r request) write() bool { return r.method != http.MethodGet }

// answer is what a server replied.
type answer struct {
	server string
	status int
	header http.Header
	body   []byte
}

// check validates what all client commands have in common.
func (c *client) check(key string) error {
	switch {
	case key == "":
		return usageError{errors.New("the key is empty")}
	case len(key) > maxKey:
		return usageError{fmt.Errorf("the key has %d bytes, %d are allowed", len(key), maxKey)}
	case c.timeout <= 0 || c.timeout > maxTimeout:
		return usageError{fmt.Errorf("--timeout %s: more than 0, at most %s", c.timeout, maxTimeout)}
	case c.output != "" && c.output != "table" && c.output != "json":
		return usageError{fmt.Errorf("-o %q is not table or json", c.output)}
	}
	return nil
}

// do sends r to the first server that can be reached. ^C gives up, and says what that means.
func (c *client) do(ctx context.Context, r request) (answer, error) {
	servers, err := parseServers(c.servers)
	if err != nil {
		return answer{}, usageError{err}
	}
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	ctx, cancel := context.WithTimeout(ctx, c.timeout+grace)
	defer cancel()

	var unreached []error
	for _, server := range servers {
		a, sent, err := c.ask(ctx, server, r, c.timeout/time.Duration(len(servers)))
		switch {
		case err == nil:
			return a, nil
		case sent && r.write():
			return a, exitError{exitUnknown, fmt.Errorf("%w: it is not known whether the write happened; read the key to learn it", err)}
		case sent:
			return a, exitError{exitUnavailable, fmt.Errorf("%w: try again", err)}
		}
		unreached = append(unreached, err)
		if ctx.Err() != nil {
			break
		}
	}
	return answer{}, exitError{exitUnavailable, fmt.Errorf("%w: nothing was sent; is a server running there (try \"larder dev\"), is --server right?", errors.Join(unreached...))}
}

// ask sends r to one server. sent reports whether any of it may have arrived.
func (c *client) ask(ctx context.Context, server *url.URL, r request, dial time.Duration) (a answer, sent bool, err error) {
	// Both forms of the path: with RawPath set, each byte of the key goes out as PathEscape wrote it.
	target := *server
	target.Path = "/v1/kv/" + r.key
	target.RawPath = "/v1/kv/" + url.PathEscape(r.key)
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
	req.Header = r.header
	req.Header.Set("Larder-Timeout", c.timeout.String())
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
