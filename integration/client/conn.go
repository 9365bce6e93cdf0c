package client

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// pool keeps connections by address.
type pool struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)

	mu   sync.Mutex // guards idle
	idle map[string][]*conn
}

// conn is a connection on which one request is under way at a time.
type conn struct {
	net.Conn
	r *bufio.Reader
}

// answer is an HTTP answer, all of it.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// maxBody bounds an answer's body: values and settings are far smaller.
const maxBody = 8 << 20

// exchange sends q to addr and reads the answer, once. sent is false if certainly no byte of q has left.
func (p *pool) exchange(ctx context.Context, addr string, q *request, deadline time.Time) (a *answer, sent bool, err error) {
	c, err := p.get(ctx, addr, deadline)
	if err != nil {
		return nil, false, err
	}
	defer func() {
		if c != nil {
			c.Close()
		}
	}()
	if err := c.SetDeadline(deadline); err != nil {
		return nil, false, err
	}
	if ctx.Done() != nil {
		defer context.AfterFunc(ctx, func() { c.SetDeadline(time.Unix(1, 0)) })()
	}
	if n, err := c.Write(q.bytes(addr)); err != nil {
		return nil, n > 0, err
	}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil {
		return nil, true, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	if err != nil {
		return nil, true, err
	}
	if len(body) > maxBody {
		return nil, true, fmt.Errorf("more than %d bytes of body", maxBody)
	}
	if !resp.Close && c.r.Buffered() == 0 && ctx.Err() == nil {
		p.put(addr, c)
		c = nil
	}
	return &answer{resp.StatusCode, resp.Header, body}, true, nil
}

// get returns an idle connection that the other side has not closed, or a new one.
func (p *pool) get(ctx context.Context, addr string, deadline time.Time) (*conn, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for {
		c := p.take(addr)
		if c == nil {
			break
		}
		if quiet(c.Conn) {
			return c, nil
		}
		c.Close()
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	n, err := p.dial(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &conn{n, bufio.NewReader(n)}, nil
}

func (p *pool) take(addr string) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	idle := p.idle[addr]
	if len(idle) == 0 {
		return nil
	}
	c := idle[len(idle)-1]
	p.idle[addr] = idle[:len(idle)-1]
	return c
}

func (p *pool) put(addr string, c *conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle[addr] = append(p.idle[addr], c)
}

func (p *pool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, idle := range p.idle {
		for _, c := range idle {
			c.Close()
		}
	}
	clear(p.idle)
}
