package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"
)

// raftFrame is a Raft request taken apart.
type raftFrame struct {
	shard          ID
	target, source string
	rpc            byte
	message        []byte
}

// raftIn decodes a frame that carries a Raft request; false for any other.
func raftIn(frame []byte) (f raftFrame, ok bool) {
	r := reader{b: frame}
	if r.byte() != frameRaft {
		return f, false
	}
	r.uint() // id
	r.uint() // sent
	f.shard, f.target, f.source = ID(r.uint()), r.string(), r.string()
	r.duration()
	f.rpc, f.message = r.byte(), r.b
	return f, r.err == nil
}

// appendIn decodes a frame that carries an AppendEntries request.
func appendIn(frame []byte) (*raft.AppendEntriesRequest, bool) {
	f, ok := raftIn(frame)
	if !ok || f.rpc != rpcAppend {
		return nil, false
	}
	a, err := decodeAppendEntries(f.message, f.source)
	return a, err == nil
}

// rawLink is a link on which a test says what it likes in the name of a node.
type rawLink struct {
	c    *cluster
	link Link
	id   uint64
}

// dial opens a link from one node to another with a valid handshake. It is closed with the test's
// bubble at the latest.
func (c *cluster) dial(from, to string) *rawLink {
	c.t.Helper()
	id := c.memory[from].Identity()
	l, err := c.dialAs(from, to, hello{min: protocolMin, max: protocolMax, cluster: id.Cluster, node: from, incarnation: id.Incarnation, target: to})
	if err != nil {
		c.t.Fatalf("handshake of %s with %s: %v", from, to, err)
	}
	return l
}

func (c *cluster) dialAs(from, to string, h hello) (*rawLink, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	link, err := c.net.From(from).Dial(ctx, addrOf(to))
	if err != nil {
		return nil, err
	}
	c.t.Cleanup(func() { link.Close() })
	l := &rawLink{c: c, link: link}
	if err := link.Send([][]byte{requestFrame(frameHello, 0, 0, h.append(nil))}); err != nil {
		return nil, err
	}
	if _, err := l.recv(0); err != nil {
		link.Close()
		return nil, err
	}
	return l, nil
}

// ask sends a request and returns its answer.
func (l *rawLink) ask(kind byte, body []byte) ([]byte, error) {
	l.id++
	if err := l.link.Send([][]byte{requestFrame(kind, l.id, 0, body)}); err != nil {
		return nil, err
	}
	return l.recv(l.id)
}

var errSilent = errors.New("no answer")

func (l *rawLink) recv(id uint64) ([]byte, error) {
	for {
		frame, err := l.link.Recv()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errSilent, err)
		}
		got, body, err := decodeReply(frame, "peer")
		if got == id {
			return body, err
		}
	}
}

// askRaft sends a Raft message of one replica to another.
func (l *rawLink) askRaft(shard ID, source, target string, rpc byte, message []byte) ([]byte, error) {
	return l.ask(frameRaft, raftBody(shard, source, target, rpc, message))
}

func raftBody(shard ID, source, target string, rpc byte, message []byte) []byte {
	body := binary.AppendUvarint(nil, uint64(shard))
	body = appendString(body, target)
	body = appendString(body, source)
	body = appendDuration(body, time.Second)
	body = append(body, rpc)
	return append(body, message...)
}
