package proxy

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/port"
)

// Network is a set of nodes and the links between them.
type Network struct {
	delay, jitter time.Duration // of links that SetDelay was not called for

	mu        sync.Mutex        // guards what follows
	nodes     map[string]string // IP -> name
	links     map[pair]*link
	listeners []net.Listener
	conns     map[*conn]struct{}
	strangers []string
	closed    bool

	goroutines sync.WaitGroup
}

// pair is one direction between two nodes.
type pair struct{ from, to string }

// New returns a network whose links all take delay, one way, and by at most jitter more or less.
func New(delay, jitter time.Duration) *Network {
	return &Network{
		delay: delay, jitter: jitter,
		nodes: map[string]string{},
		links: map[pair]*link{},
		conns: map[*conn]struct{}{},
	}
}

// Listen opens the proxy in front of node, which has the given IP and itself listens on target, and
// returns the address that the others must dial.
func (n *Network) Listen(node, ip, target string) (string, error) {
	l, err := port.Listen(ip)
	if err != nil {
		return "", fmt.Errorf("listening for node %s: %w", node, err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		l.Close()
		return "", net.ErrClosed
	}
	n.nodes[ip] = node
	n.listeners = append(n.listeners, l)
	n.goroutines.Go(func() { n.accept(l, node, target) })
	return l.Addr().String(), nil
}

// accept serves one listener until it is closed.
func (n *Network) accept(l net.Listener, to, target string) {
	for {
		c, err := l.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				panic(fmt.Sprintf("proxy: accepting for %s: %v", to, err)) // no test means anything now
			}
			return
		}
		tcp := c.(*net.TCPConn)
		ip := tcp.RemoteAddr().(*net.TCPAddr).IP
		n.mu.Lock()
		from, known := n.nodes[ip.String()]
		if !known {
			n.strangers = append(n.strangers, fmt.Sprintf("%s to %s", ip, to))
		}
		if !known || n.closed {
			n.mu.Unlock()
			tcp.Close()
			continue
		}
		conn := newConn(tcp, n.linkLocked(pair{from, to}), n.linkLocked(pair{to, from}))
		n.conns[conn] = struct{}{}
		n.mu.Unlock()
		n.goroutines.Go(func() {
			conn.serve(ip, target)
			n.mu.Lock()
			delete(n.conns, conn)
			n.mu.Unlock()
		})
	}
}

// linkLocked returns the link of a pair, n.mu being held.
func (n *Network) linkLocked(p pair) *link {
	l := n.links[p]
	if l == nil {
		l = newLink(n.delay, n.jitter)
		n.links[p] = l
	}
	return l
}

func (n *Network) link(from, to string) *link {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.linkLocked(pair{from, to})
}

// SetDelay sets how long bytes take from one node to another, for bytes sent from now on; 0 gives back the network's
// delay. The jitter stays.
func (n *Network) SetDelay(from, to string, d time.Duration) error {
	n.link(from, to).setDelay(d)
	return nil
}

// SetRate bounds how many bytes a second pass, all connections together; 0 ends that.
func (n *Network) SetRate(from, to string, bytesPerSecond int) error {
	n.link(from, to).setRate(bytesPerSecond)
	return nil
}

// Cut swallows all that from sends to to, what is under way included.
func (n *Network) Cut(from, to string) error {
	n.link(from, to).setMode(cut)
	return nil
}

// Hold keeps back all that from sends to to until it is mended.
func (n *Network) Hold(from, to string) error {
	n.link(from, to).setMode(hold)
	return nil
}

// Isolate cuts node off from all others, both ways.
func (n *Network) Isolate(node string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, other := range n.nodes {
		if other != node {
			n.linkLocked(pair{node, other}).setMode(cut)
			n.linkLocked(pair{other, node}).setMode(cut)
		}
	}
	return nil
}

// Mend ends the cut or hold of one link. Connections that lost bytes on it are reset.
func (n *Network) Mend(from, to string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := n.linkLocked(pair{from, to})
	l.setMode(pass)
	for c := range n.conns {
		if (c.there == l || c.back == l) && c.lost.Load() {
			c.reset()
		}
	}
	return nil
}

// Heal ends all cuts and holds. Connections that lost bytes are reset. Delays and rates stay.
func (n *Network) Heal() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		l.setMode(pass)
	}
	for c := range n.conns {
		if c.lost.Load() {
			c.reset()
		}
	}
	return nil
}

// Counts returns how many pieces of streams passed so far, and how many were swallowed by cuts.
func (n *Network) Counts() (passed, cut uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, l := range n.links {
		p, c := l.counts()
		passed += p
		cut += c
	}
	return passed, cut
}

// Strangers returns the connections that came from an IP which is no node's: they went around the
// faults, or would have.
func (n *Network) Strangers() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.strangers...)
}

// Close closes all listeners and connections and waits for what served them.
func (n *Network) Close() {
	n.mu.Lock()
	n.closed = true
	for _, l := range n.listeners {
		l.Close()
	}
	for c := range n.conns {
		c.reset()
	}
	n.mu.Unlock()
	n.goroutines.Wait()
}
