package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/bench/local"
)

// errNoRedis says why Redis is not measured.
var errNoRedis = errors.New("there is no redis-server in PATH (apt-get install redis-server)")

// redisRSS fills a Redis of its own, on a socket and without a disk, and returns the memory of its process.
func redisRSS(ctx context.Context, dir string, entries int) (rss uint64, version string, err error) {
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		return 0, "", errNoRedis
	}
	dir, err = os.MkdirTemp(dir, "larder-redis-")
	if err != nil {
		return 0, "", err
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "s")
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, "--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no", "--dir", dir)
	if err := cmd.Start(); err != nil {
		return 0, "", err
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	conn, err := dialSocket(ctx, socket)
	if err != nil {
		return 0, "", err
	}
	defer conn.Close()
	if err := fillRedis(conn, entries); err != nil {
		return 0, "", err
	}
	if rss, err = local.Memory(strconv.Itoa(cmd.Process.Pid), "VmRSS"); err != nil {
		return 0, "", err
	}
	out, err := exec.CommandContext(ctx, binary, "--version").Output() // "Redis server v=7.0.15 sha=..."
	if _, after, ok := strings.Cut(string(out), "v="); ok {
		version, _, _ = strings.Cut(after, " ")
	}
	return rss, version, err
}

// dialSocket waits until somebody listens.
func dialSocket(ctx context.Context, socket string) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			return conn, nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("redis-server does not listen: %w", err)
		}
	}
}

// fillRedis sets keys, many at a time, and checks that all are there.
func fillRedis(conn io.ReadWriter, entries int) error {
	const batch = 1000
	var request bytes.Buffer
	key, answers := make([]byte, keySize), bufio.NewReader(conn)
	expect := func(want string) error {
		got, err := answers.ReadString('\n')
		if err == nil && got != want+"\r\n" {
			err = fmt.Errorf("redis answered %q, want %s", got, want)
		}
		return err
	}
	for id := 0; id < entries; {
		request.Reset()
		n := min(batch, entries-id)
		for i := range n {
			keyAt(key, uint64(id+i))
			fmt.Fprintf(&request, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(key), key, valueSize, valueAt(i))
		}
		id += n
		if _, err := conn.Write(request.Bytes()); err != nil {
			return err
		}
		for range n {
			if err := expect("+OK"); err != nil {
				return err
			}
		}
	}
	if _, err := io.WriteString(conn, "*1\r\n$6\r\nDBSIZE\r\n"); err != nil {
		return err
	}
	return expect(":" + strconv.Itoa(entries))
}
