package tap

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Config describes a network.
type Config struct {
	// Delay is how long packets take from one node to another, Jitter by how much more or less that is at most.
	Delay, Jitter time.Duration
	// Seed of the chances on all links.
	Seed uint64
}

// The network's addresses: member i has the IP first+i.
const (
	first      = 11
	maxMembers = 200
)

var subnet = netip.MustParsePrefix("10.77.0.0/24")

// Network is members and the links between them.
type Network struct {
	cfg Config

	mu      sync.Mutex // guards what follows; members and links are only added
	members []*member
	links   map[pair]*link
	closed  bool
	// byNumber is members, for who forwards frames.
	byNumber atomic.Pointer[[]*member]

	goroutines sync.WaitGroup
}

// pair is one direction between two members.
type pair struct{ from, to *member }

// member is one that Add or AddClients made.
type member struct {
	name    string
	clients bool
	number  int
	ns      *namespace
	ip      netip.Addr
	off     atomic.Bool
	out     []atomic.Pointer[link] // by the number of the member that it leads to
}

// Supported returns nil when this process may make networks, else why it may not.
func Supported() error {
	n := New(Config{})
	_, err := n.Add("probe")
	return errors.Join(err, n.Close())
}

// New returns a network without members.
func New(cfg Config) *Network {
	n := &Network{cfg: cfg, links: map[pair]*link{}}
	n.byNumber.Store(&[]*member{})
	return n
}

// Add makes a node of that name and returns its IP. Links between nodes have the network's delay.
func (n *Network) Add(name string) (string, error) { return n.add(name, false) }

// AddClients makes a member that is no node: its links have no delay, and Isolate leaves them alone.
func (n *Network) AddClients(name string) (string, error) { return n.add(name, true) }

func (n *Network) add(name string, clients bool) (string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	number := len(n.members)
	switch {
	case n.closed:
		return "", net.ErrClosed
	case n.findLocked(name) != nil:
		return "", fmt.Errorf("the network has a member %q already", name)
	case number == maxMembers:
		return "", fmt.Errorf("the network has %d members already", number)
	}
	base := subnet.Addr().As4()
	base[3] = byte(first + number)
	m := &member{name: name, clients: clients, number: number, ip: netip.AddrFrom4(base), out: make([]atomic.Pointer[link], maxMembers)}
	var err error
	if m.ns, err = newNamespace(netip.PrefixFrom(m.ip, subnet.Bits()), macOf(number)); err != nil {
		return "", fmt.Errorf("adding %s to the network: %w", name, err)
	}
	for _, other := range n.members {
		n.joinLocked(m, other)
		n.joinLocked(other, m)
	}
	n.members = append(n.members, m)
	all := append([]*member(nil), n.members...)
	n.byNumber.Store(&all)
	n.goroutines.Go(func() { n.read(m) })
	return m.ip.String(), nil
}

// joinLocked makes the link of a pair, n.mu being held.
func (n *Network) joinLocked(from, to *member) {
	var base conditions
	if !from.clients && !to.clients {
		base = conditions{delay: n.cfg.Delay, jitter: n.cfg.Jitter}
	}
	// Seeds of links must differ, and be the same in each run.
	seed := rand.New(rand.NewPCG(n.cfg.Seed, uint64(from.number*maxMembers+to.number))).Uint64()
	l := newLink(base, seed, func(frame []byte) {
		if !to.off.Load() {
			to.ns.tap.Write(frame) // a device that is closed, or whose kernel has no room, loses it as networks do
		}
	})
	n.links[pair{from, to}] = l
	from.out[to.number].Store(l)
	n.goroutines.Go(l.serve)
}

// findLocked returns the member of that name, nil if there is none, n.mu being held.
func (n *Network) findLocked(name string) *member {
	for _, m := range n.members {
		if m.name == name {
			return m
		}
	}
	return nil
}

func (n *Network) member(name string) (*member, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, net.ErrClosed
	}
	if m := n.findLocked(name); m != nil {
		return m, nil
	}
	return nil, fmt.Errorf("the network has no member %q", name)
}

// Run runs f on a thread in the namespace of a member. A process that f starts runs there, and a socket that f makes
// belongs there. The thread lives as long as the network. f must not wait for long: others' calls wait for it.
func (n *Network) Run(name string, f func() error) error {
	m, err := n.member(name)
	if err != nil {
		return err
	}
	return m.ns.run(f)
}

// Dial connects from within the namespace of a member. The address must be one of IP and port.
func (n *Network) Dial(ctx context.Context, from, network, addr string) (net.Conn, error) {
	m, err := n.member(from)
	if err != nil {
		return nil, err
	}
	// A name would be looked up elsewhere, by a goroutine outside of the namespace.
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, err
	}
	var c net.Conn
	err = m.ns.enter(func() (err error) {
		var d net.Dialer
		c, err = d.DialContext(ctx, network, addr)
		return err
	})
	return c, err
}

// Close ends all links and namespaces and waits for what served them.
func (n *Network) Close() error {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return nil
	}
	n.closed = true
	n.mu.Unlock()
	for _, l := range n.links {
		l.close()
	}
	for _, m := range n.members {
		m.ns.close()
	}
	n.goroutines.Wait()
	return nil
}

// read forwards what a member sends until its device is closed.
func (n *Network) read(m *member) {
	buf := make([]byte, maxFrame)
	for {
		size, err := m.ns.tap.Read(buf)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				panic(fmt.Sprintf("tap: reading what %s sends: %v", m.name, err)) // nothing means anything now
			}
			return
		}
		if !m.off.Load() {
			n.forward(m, buf[:size])
		}
	}
}
