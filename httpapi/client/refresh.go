package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

const (
	// wait is how long the directory is asked to hold its answer until the table changes.
	wait = 30 * time.Second
	// pollPause is the pause between questions where it doesn't hold them, or fails.
	pollPause = 2 * time.Second
	// kickPause is the least time between two questions.
	kickPause = 100 * time.Millisecond
	// maxTable bounds the table, bytes.
	maxTable = 16 << 20
)

// wish asks refresh for a new table at once. An answer spoke of what the table doesn't know.
func (c *Client) wish() {
	select {
	case c.kick <- struct{}{}:
	default: // it is asked for already
	}
}

// refresh keeps the table fresh until Close. It asks one node after the other until one answers, and stays
// with that one while it does.
func (c *Client) refresh() {
	var at, failures int
	hold := true // the node is believed to hold its answers
	for c.ctx.Err() == nil {
		nodes := c.candidates(nil, nil)
		n := nodes[at%len(nodes)]
		began := time.Now()
		fresh, held, kicked, err := c.ask(n, hold)
		pause := kickPause
		switch {
		case c.ctx.Err() != nil:
			return
		case kicked:
			// What the node holds back may be old, or the node dead: another one is asked.
			at, hold = at+1, true
		case err != nil:
			n.failed()
			at, hold = at+1, true
			if failures++; failures >= len(nodes) {
				c.answered()
				pause = pollPause
			}
		default:
			n.answered()
			failures, hold = 0, held
			c.answered()
			if !fresh && time.Since(began) < pollPause {
				pause = pollPause
			}
		}
		timer := time.NewTimer(pause)
		select {
		case <-c.ctx.Done():
		case <-timer.C:
		case <-c.kickAfter(kicked || pause == kickPause):
			timer.Reset(kickPause)
			select {
			case <-c.ctx.Done():
			case <-timer.C:
			}
		}
		timer.Stop()
	}
}

// kickAfter is the channel of wishes, nil where a pause is as short as one after a wish.
func (c *Client) kickAfter(short bool) <-chan struct{} {
	if short {
		return nil
	}
	return c.kick
}

// answered lets the first calls go on.
func (c *Client) answered() {
	select {
	case <-c.asked:
	default:
		close(c.asked) // refresh alone does this
	}
}

// awaitTable waits a little for the first table. Without one, nodes forward.
func (c *Client) awaitTable(ctx context.Context) {
	select {
	case <-c.asked:
		return
	default:
	}
	timer := time.NewTimer(c.cfg.AttemptTimeout)
	defer timer.Stop()
	select {
	case <-c.asked:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// ask has n tell the table, and installs it. With hold the answer may be held back until there
// is news. fresh: there was some. held: to wait there again makes sense. kicked: a wish cut it short.
func (c *Client) ask(n *node, hold bool) (fresh, held, kicked bool, err error) {
	old := c.table.Load()
	hold = hold && old != nil
	limit := c.cfg.AttemptTimeout
	if hold {
		limit += wait
	}
	ctx, cancel := context.WithTimeout(c.ctx, limit)
	defer cancel()
	stop := make(chan struct{})
	watched := make(chan bool, 1)
	if hold {
		go func() { // ends before ask does
			select {
			case <-c.kick:
				cancel()
				watched <- true
			case <-stop:
				watched <- false
			}
		}()
		defer func() {
			close(stop)
			kicked = <-watched
		}()
	}
	req := (&http.Request{
		Method: http.MethodGet,
		URL:    &url.URL{Scheme: c.scheme, Host: n.host, Path: "/v1/directory"},
		Header: http.Header{"User-Agent": {userAgent}},
	}).WithContext(ctx)
	if old != nil && old.etag != "" {
		req.Header.Set("If-None-Match", old.etag)
		if hold {
			req.Header.Set("Prefer", fmt.Sprintf("wait=%d", wait/time.Second))
		}
	}
	began := time.Now()
	resp, err := c.transport.RoundTrip(req)
	if err != nil {
		return false, false, false, err
	}
	defer resp.Body.Close()
	c.learnTime(resp.Header, began)
	switch resp.StatusCode {
	case http.StatusNotModified:
		// A node that doesn't hold its answers is asked now and then.
		return false, hold && time.Since(began) > pollPause, false, nil
	case http.StatusNotImplemented:
		if hold {
			return false, false, false, nil
		}
	case http.StatusOK:
		body, err := io.ReadAll(io.LimitReader(resp.Body, maxTable))
		if err != nil {
			return false, false, false, err
		}
		t, err := parseTable(body, resp.Header.Get("ETag"), old)
		if err != nil {
			return false, false, false, err
		}
		if old != nil && old.cluster == t.cluster && old.version >= t.version {
			return false, false, false, nil // a node that is behind
		}
		c.table.Store(t)
		return true, true, false, nil
	}
	return false, false, false, errors.New(resp.Status)
}
