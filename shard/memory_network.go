package shard

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// MemoryNetwork is a Network in memory with faults, for tests in virtual time: whole clusters run
// on it inside a testing/synctest bubble. Faults are set per ordered pair of hosts (an address is
// "host:port"; the fault tables speak of the host part).
//
// A frame takes Delay plus a random share of Jitter, so that frames overtake each other when Jitter
// is set; it is lost with probability Loss and arrives twice with probability Duplicate. Cut
// swallows frames: links stay open and nothing arrives, as when a firewall drops packets. Hold
// keeps frames back until Release, as when a process is stopped with its socket buffers full: also
// the end of a link, behind the frames before it. Kill silences a host, as the end of its process.
type MemoryNetwork struct {
	mu        sync.Mutex
	rnd       *rand.Rand
	listeners map[string]*memoryListener
	rules     map[[2]string]LinkFaults
	held      map[[2]string]bool
	keep      map[[2]string][]heldFrame
	drop      func(from, to string, frame []byte) bool
	links     map[*memoryLink]struct{}
	dead      map[string]bool
	did       FaultCounts
}

// FaultCounts says what faults did so far: frames that were cut off, lost, doubled, late, later than one that
// was sent after them, or held, and links that were broken.
type FaultCounts struct {
	Cut, Lost, Doubled, Late, Overtaken, Held, Broken int
}

// LinkFaults is what happens to frames from one host to another.
type LinkFaults struct {
	Delay     time.Duration
	Jitter    time.Duration
	Loss      float64 // 0..1
	Duplicate float64 // 0..1
	Cut       bool
}

type heldFrame struct {
	link  *memoryLink
	frame []byte // nil: the link's end
}

// NewMemoryNetwork returns a network without faults. seed drives its random choices.
func NewMemoryNetwork(seed uint64) *MemoryNetwork {
	return &MemoryNetwork{
		rnd:       rand.New(rand.NewPCG(seed, 1)),
		listeners: map[string]*memoryListener{},
		rules:     map[[2]string]LinkFaults{},
		held:      map[[2]string]bool{},
		keep:      map[[2]string][]heldFrame{},
		links:     map[*memoryLink]struct{}{},
		dead:      map[string]bool{},
	}
}

// From returns the network as host sees it: links that it dials come from host.
func (n *MemoryNetwork) From(host string) Network { return memoryView{n, host} }

// SetFaults sets the faults of frames from one host to another; the zero value heals.
func (n *MemoryNetwork) SetFaults(from, to string, f LinkFaults) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.rules[[2]string{from, to}] = f
}

// Isolate cuts host off from all others, both ways; Heal ends it.
func (n *MemoryNetwork) Isolate(host string, others ...string) {
	for _, o := range others {
		n.SetFaults(host, o, LinkFaults{Cut: true})
		n.SetFaults(o, host, LinkFaults{Cut: true})
	}
}

// Heal removes all faults but held frames.
func (n *MemoryNetwork) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.rules)
}

// Hold keeps back the frames from one host to another until Release.
func (n *MemoryNetwork) Hold(from, to string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.held[[2]string{from, to}] = true
}

// Release delivers, in order, what Hold kept back, and ends holding.
func (n *MemoryNetwork) Release(from, to string) {
	key := [2]string{from, to}
	for {
		n.mu.Lock()
		frames := n.keep[key]
		delete(n.keep, key)
		if len(frames) == 0 {
			delete(n.held, key)
		}
		n.mu.Unlock()
		if len(frames) == 0 {
			return
		}
		for _, h := range frames {
			if h.frame == nil {
				h.link.end()
			} else {
				h.link.deliver(h.frame)
			}
		}
	}
}

// Kill loses whatever a host says from now on, and whatever would reach it, until Revive. Nobody is
// told: links stay open.
func (n *MemoryNetwork) Kill(host string) { n.setDead(host, true) }

// Revive undoes Kill.
func (n *MemoryNetwork) Revive(host string) { n.setDead(host, false) }

func (n *MemoryNetwork) setDead(host string, dead bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dead[host] = dead
}

// DropWhen makes the network lose the frames for which f returns true; nil ends it. f must not
// block or call the network.
func (n *MemoryNetwork) DropWhen(f func(from, to string, frame []byte) bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drop = f
}

// BreakLinks closes all links between two hosts, as a reset would.
func (n *MemoryNetwork) BreakLinks(a, b string) {
	n.mu.Lock()
	var broken []*memoryLink
	for l := range n.links {
		if l.local == a && l.remote == b || l.local == b && l.remote == a {
			broken = append(broken, l)
		}
	}
	n.did.Broken += len(broken)
	n.mu.Unlock()
	for _, l := range broken {
		l.reset()
	}
}

// Did returns what the faults did since the network was made.
func (n *MemoryNetwork) Did() FaultCounts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.did
}

type memoryView struct {
	net  *MemoryNetwork
	host string
}

func hostOf(addr string) string {
	h, _, err := net.SplitHostPort(addr)
	if err != nil {
		return addr
	}
	return h
}

func (v memoryView) Listen(addr string) (Listener, error) {
	v.net.mu.Lock()
	defer v.net.mu.Unlock()
	if v.net.listeners[addr] != nil {
		return nil, fmt.Errorf("listen %s: address in use", addr)
	}
	l := &memoryListener{net: v.net, addr: addr, links: make(chan *memoryLink, 16), done: make(chan struct{})}
	v.net.listeners[addr] = l
	return l, nil
}

func (v memoryView) Dial(ctx context.Context, addr string) (Link, error) {
	n := v.net
	n.mu.Lock()
	l := n.listeners[addr]
	key := [2]string{v.host, hostOf(addr)}
	back := [2]string{key[1], key[0]}
	cut := n.rules[key].Cut || n.rules[back].Cut || n.held[key] || n.held[back] || n.dead[key[0]] || n.dead[key[1]]
	n.mu.Unlock()
	if cut { // the opening packets are swallowed
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if l == nil {
		return nil, syscall.ECONNREFUSED
	}
	a := newMemoryLink(n, v.host, hostOf(addr))
	b := newMemoryLink(n, a.remote, v.host)
	a.other, b.other = b, a
	n.mu.Lock()
	n.links[a], n.links[b] = struct{}{}, struct{}{}
	n.mu.Unlock()
	select {
	case l.links <- b:
		return a, nil
	case <-l.done:
		a.Close()
		return nil, syscall.ECONNREFUSED
	case <-ctx.Done():
		a.Close()
		return nil, ctx.Err()
	}
}

type memoryListener struct {
	net   *MemoryNetwork
	addr  string
	links chan *memoryLink
	done  chan struct{}
	once  sync.Once
}

func (l *memoryListener) Accept() (Link, error) {
	select {
	case k := <-l.links:
		return k, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memoryListener) Addr() string { return l.addr }

func (l *memoryListener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		delete(l.net.listeners, l.addr)
		l.net.mu.Unlock()
		close(l.done)
		for {
			select {
			case k := <-l.links:
				k.Close()
			default:
				return
			}
		}
	})
	return nil
}

// memoryLink is one end of a link; other is the opposite end.
type memoryLink struct {
	net           *MemoryNetwork
	local, remote string
	other         *memoryLink
	wake          chan struct{} // one token: something came in
	done          chan struct{} // closed by this side, or reset
	once          sync.Once
	ended         chan struct{} // the other side closed; what came before can still be read
	endOnce       sync.Once
	latest        time.Time // guarded by net.mu: when the last frame from here arrives

	mu sync.Mutex // guards in
	in [][]byte
}

// memoryWindow is how many frames may wait for the reader of a link.
const memoryWindow = 4096

func newMemoryLink(n *MemoryNetwork, local, remote string) *memoryLink {
	return &memoryLink{net: n, local: local, remote: remote, wake: make(chan struct{}, 1),
		done: make(chan struct{}), ended: make(chan struct{})}
}

func (l *memoryLink) Send(frames [][]byte) error {
	for _, f := range frames {
		select {
		case <-l.done:
			return net.ErrClosed
		case <-l.ended:
			return io.ErrClosedPipe
		default:
		}
		l.send(append([]byte(nil), f...))
	}
	return nil
}

func (l *memoryLink) send(f []byte) {
	n := l.net
	key := [2]string{l.local, l.remote}
	n.mu.Lock()
	r := n.rules[key]
	lost := n.dead[l.local] || n.dead[l.remote] || n.drop != nil && n.drop(l.local, l.remote, f)
	switch {
	case lost:
	case r.Cut:
		lost = true
		n.did.Cut++
	case r.Loss > 0 && n.rnd.Float64() < r.Loss:
		lost = true
		n.did.Lost++
	}
	copies := 1
	if r.Duplicate > 0 && n.rnd.Float64() < r.Duplicate {
		copies = 2
	}
	held := n.held[key] && !lost
	var delays [2]time.Duration
	for i := range copies {
		delays[i] = r.Delay
		if r.Jitter > 0 {
			delays[i] += time.Duration(n.rnd.Int64N(int64(r.Jitter)))
		}
	}
	switch {
	case lost:
	case held:
		n.keep[key] = append(n.keep[key], heldFrame{l.other, f})
		n.did.Held++
	default:
		n.did.Doubled += copies - 1
		if delays[0] > 0 {
			n.did.Late++
		}
		if due := time.Now().Add(delays[0]); due.Before(l.latest) {
			n.did.Overtaken++
		} else {
			l.latest = due
		}
	}
	n.mu.Unlock()
	if lost || held {
		return
	}
	for i := range copies {
		f := append([]byte(nil), f...) // each is its receiver's to keep
		if delays[i] == 0 {
			l.other.deliver(f)
			continue
		}
		time.AfterFunc(delays[i], func() { l.other.deliver(f) })
	}
}

// deliver hands a frame to this end. A full end loses it: nobody may wait for a reader here, since
// timers call it too.
func (l *memoryLink) deliver(f []byte) {
	l.mu.Lock()
	full := len(l.in) == memoryWindow
	if !full {
		l.in = append(l.in, f)
	}
	l.mu.Unlock()
	if full {
		l.reset() // as a peer whose window stays shut
		return
	}
	notify(l.wake)
}

// end tells this end that the other one closed.
func (l *memoryLink) end() { l.endOnce.Do(func() { close(l.ended) }) }

// Recv returns the next frame. Only one goroutine may wait for it.
func (l *memoryLink) Recv() ([]byte, error) {
	for {
		select {
		case <-l.done: // what came before is lost with the link
			return nil, io.EOF
		default:
		}
		if f, ok := l.next(); ok {
			return f, nil
		}
		select {
		case <-l.wake:
		case <-l.done:
		case <-l.ended:
			if f, ok := l.next(); ok { // it came before the end
				return f, nil
			}
			return nil, io.EOF
		}
	}
}

// next takes the frame that came first.
func (l *memoryLink) next() (f []byte, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.in) == 0 {
		return nil, false
	}
	f = l.in[0]
	l.in[0] = nil
	l.in = l.in[1:]
	return f, true
}

// Close ends the link: at once here, and for the other side behind the frames that are held.
func (l *memoryLink) Close() error {
	l.once.Do(func() {
		n := l.net
		key := [2]string{l.local, l.remote}
		n.mu.Lock()
		delete(n.links, l)
		held := n.held[key]
		if held {
			n.keep[key] = append(n.keep[key], heldFrame{link: l.other})
		}
		n.mu.Unlock()
		close(l.done)
		if !held {
			l.other.end()
		}
	})
	return nil
}

// reset breaks both ends at once.
func (l *memoryLink) reset() {
	l.Close()
	l.other.Close()
}
