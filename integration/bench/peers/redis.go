package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/larder-cache/larder/httpapi/client/load"
	"github.com/larder-cache/larder/integration/bench/local"
	"github.com/larder-cache/larder/integration/port"
)

// redis is one server that keeps nothing on disk and has no replicas.
type redis struct {
	addr string
	p    *local.Process
}

func startRedis(ctx context.Context, dir string) (system, error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return nil, fmt.Errorf("redis: %w: there is no redis-server in PATH (apt-get install redis-server)", errSkip)
	}
	addr, err := port.Free("127.0.0.1")
	if err != nil {
		return nil, err
	}
	_, number, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	p, err := local.Start("redis", filepath.Join(dir, "log"), binary, "--bind", "127.0.0.1", "--port", number, "--save", "", "--appendonly", "no", "--dir", dir)
	if err != nil {
		return nil, err
	}
	r := redis{addr, p}
	if err := p.Await(ctx, "ready", func() bool { return listens(ctx, addr) }); err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r redis) processes() []*local.Process { return []*local.Process{r.p} }

func (r redis) open(context.Context) (load.Dial, func() error, error) {
	dial := func(ctx context.Context, _ int) (load.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", r.addr)
		if err != nil {
			return nil, err
		}
		return &redisConn{Conn: conn, in: bufio.NewReader(conn)}, nil
	}
	return dial, func() error { return nil }, nil
}

func (r redis) counters(context.Context) (counters, error) { return counters{}, nil }

func (r redis) close() error { return r.p.Kill() }

// redisConn speaks as much of Redis's protocol as GET and SET take.
type redisConn struct {
	net.Conn
	in    *bufio.Reader
	out   []byte
	until time.Time
}

// requestTime is how long a server may take for a request.
const requestTime = 7 * time.Second

// ask sends a command and returns the first line of its answer.
func (c *redisConn) ask(words ...[]byte) ([]byte, error) {
	if now := time.Now(); c.until.Sub(now) < requestTime {
		c.until = now.Add(2 * requestTime)
		if err := c.SetDeadline(c.until); err != nil {
			return nil, err
		}
	}
	b := append(strconv.AppendInt(append(c.out[:0], '*'), int64(len(words)), 10), "\r\n"...)
	for _, w := range words {
		b = append(strconv.AppendInt(append(b, '$'), int64(len(w)), 10), "\r\n"...)
		b = append(append(b, w...), "\r\n"...)
	}
	c.out = b
	if _, err := c.Write(b); err != nil {
		return nil, err
	}
	line, err := c.in.ReadSlice('\n')
	return bytes.TrimSuffix(line, []byte("\r\n")), err
}

var (
	wordGet = []byte("GET")
	wordSet = []byte("SET")
)

// Get implements load.Conn.
func (c *redisConn) Get(_ context.Context, key []byte) error {
	line, err := c.ask(wordGet, key)
	switch {
	case err != nil:
		return &load.Failure{Kind: load.Unavailable, Reason: "no answer"}
	case string(line) == "$-1":
		return load.ErrMissing
	case len(line) < 2 || line[0] != '$':
		return &load.Failure{Kind: load.Rejected, Reason: string(line)}
	}
	size, err := strconv.Atoi(string(line[1:]))
	if err == nil {
		_, err = io.CopyN(io.Discard, c.in, int64(size)+2)
	}
	if err != nil {
		return &load.Failure{Kind: load.Unavailable, Reason: "no answer"}
	}
	return nil
}

// Put implements load.Conn.
func (c *redisConn) Put(_ context.Context, key, value []byte) error {
	line, err := c.ask(wordSet, key, value)
	switch {
	case err != nil:
		return &load.Failure{Kind: load.Unknown, Reason: "no answer"}
	case string(line) != "+OK":
		return &load.Failure{Kind: load.Rejected, Reason: string(line)}
	}
	return nil
}
