package shard

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// sendTimeout bounds how long a peer that does not read can hold a link's writer.
const sendTimeout = 10 * time.Second

// TCP is the Network of production. On the wire a frame is its length (4 bytes, big endian) and
// its bytes.
type TCP struct {
	// Source, when set, is the local IP from which links are dialled, so that peers and what
	// stands between (a firewall, a test's proxy) see which node calls.
	Source net.IP
}

// Listen implements Network.
func (t TCP) Listen(addr string) (Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, err
	}
	return tcpListener{l}, nil
}

// Dial implements Network.
func (t TCP) Dial(ctx context.Context, addr string) (Link, error) {
	d := net.Dialer{KeepAlive: 15 * time.Second}
	if t.Source != nil {
		d.LocalAddr = &net.TCPAddr{IP: t.Source}
	}
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return newTCPLink(c), nil
}

type tcpListener struct{ net.Listener }

func (l tcpListener) Accept() (Link, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return newTCPLink(c), nil
}

func (l tcpListener) Addr() string { return l.Listener.Addr().String() }

type tcpLink struct {
	conn    net.Conn
	r       *bufio.Reader
	scratch []byte // Send's, reused
	close   sync.Once
}

func newTCPLink(c net.Conn) *tcpLink {
	return &tcpLink{conn: c, r: bufio.NewReaderSize(c, 64<<10)}
}

// Send joins small frames into one write; large ones go out from where they lie (writev).
func (l *tcpLink) Send(frames [][]byte) error {
	const small = 16 << 10
	if err := l.conn.SetWriteDeadline(time.Now().Add(sendTimeout)); err != nil {
		return err
	}
	var bufs net.Buffers
	l.scratch = l.scratch[:0]
	need := 0
	for _, f := range frames {
		need += 4
		if len(f) <= small {
			need += len(f)
		}
	}
	if cap(l.scratch) < need || cap(l.scratch) > 1<<20 {
		l.scratch = make([]byte, 0, need) // one array: slices of it stay valid below
	}
	start := 0
	for _, f := range frames {
		l.scratch = binary.BigEndian.AppendUint32(l.scratch, uint32(len(f)))
		if len(f) <= small {
			l.scratch = append(l.scratch, f...)
			continue
		}
		bufs = append(bufs, l.scratch[start:len(l.scratch):len(l.scratch)], f)
		start = len(l.scratch)
	}
	if start < len(l.scratch) {
		bufs = append(bufs, l.scratch[start:])
	}
	_, err := bufs.WriteTo(l.conn)
	return err
}

func (l *tcpLink) Recv() ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(l.r, head[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(head[:])
	if n > maxFrame {
		return nil, fmt.Errorf("frame of %d bytes, at most %d allowed", n, maxFrame)
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(l.r, b); err != nil {
		return nil, err
	}
	return b, nil
}

func (l *tcpLink) Close() (err error) {
	l.close.Do(func() { err = l.conn.Close() })
	return err
}
