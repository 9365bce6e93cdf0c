package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	pingInterval = 500 * time.Millisecond
	// linkTimeout is how long a peer may leave pings unanswered before its link is given up. What
	// was sent on it and not answered is then unknown.
	linkTimeout = 3 * time.Second
	// clockTrip is the longest round trip of a ping that still tells the peer's clock: half of it is
	// the error.
	clockTrip   = time.Second
	dialTimeout = 2 * time.Second
	redialMin   = 20 * time.Millisecond
	redialMax   = 500 * time.Millisecond
)

// peer is this node's way to another: one link that it dials, carrying all its requests to that
// node, whatever their group, and the answers. (The other node dials one of its own.)
//
// run owns the link: it dials, shakes hands, starts the reader, the writer, the pinger and the
// prober, waits for all of them and dials again. It ends with ctx; Host.Close waits for it.
type peer struct {
	host   *Host
	node   string
	ctx    context.Context // ends when the host closes, or knows the node no more
	cancel context.CancelFunc
	done   chan struct{}
	redial chan struct{} // one token: address or identity changed

	probes probeQueue
	asked  atomic.Int64 // monotonic time + 1 when the question in flight left; 0 = there is none
	slow   atomic.Int64 // monotonic time until which it is not among those that are asked first

	heard   atomic.Int64 // monotonic time of the last frame from the node, by any link; 0 = never
	refuses atomic.Int64 // monotonic time since when the node refuses our data folder; 0 = it does not
	broke   atomic.Int64 // monotonic time when the last link that was dialed ended; 0 = none did
	refused atomic.Int64 // monotonic time since when no process takes links at its address; 0 = unknown, or one does

	mu      sync.Mutex // guards following
	addr    Peer
	link    Link
	out     *outbox       // nil while there is no link
	up      chan struct{} // closed while there is a link
	pending map[uint64]chan answer
	nextID  uint64
	formed  bool // the link's far end belongs to this cluster
	lastErr error
}

type answer struct {
	body []byte
	err  error
}

func newPeer(h *Host, node string, addr Peer) *peer {
	ctx, cancel := context.WithCancel(h.ctx)
	return &peer{host: h, node: node, addr: addr, ctx: ctx, cancel: cancel, done: make(chan struct{}),
		redial: make(chan struct{}, 1), up: make(chan struct{}), pending: map[uint64]chan answer{},
		probes: newProbeQueue()}
}

// setAddr changes how the node is reached; a link to another address or identity is dropped.
func (p *peer) setAddr(a Peer) {
	p.mu.Lock()
	changed := p.addr.Addr != a.Addr || p.addr.Incarnation != a.Incarnation && p.addr.Incarnation != ""
	p.addr = a
	link := p.link
	p.mu.Unlock()
	if changed {
		if link != nil {
			link.Close()
		}
		notify(p.redial)
	}
}

// drop closes the link; run dials again.
func (p *peer) drop() {
	p.mu.Lock()
	link := p.link
	p.mu.Unlock()
	if link != nil {
		link.Close()
	}
	notify(p.redial)
}

func (p *peer) run() {
	defer close(p.done)
	wait := redialMin
	for p.ctx.Err() == nil {
		began := time.Now()
		err := p.session()
		p.mu.Lock()
		p.lastErr = err
		p.mu.Unlock()
		p.noteRefusal(err)
		if time.Since(began) > time.Second {
			wait = redialMin
		}
		if err != nil {
			p.host.log.Debug("link ended", "peer", p.node, "err", err)
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
			wait = min(2*wait, redialMax)
		case <-p.redial:
			wait = redialMin
		case <-p.ctx.Done():
		}
		t.Stop()
	}
}

// noteRefusal notes whether an attempt to dial says that no process is there.
func (p *peer) noteRefusal(err error) {
	if !errors.Is(err, syscall.ECONNREFUSED) {
		p.refused.Store(0)
	} else if p.refused.CompareAndSwap(0, int64(p.host.mono())+1) {
		notify(p.host.missing)
	}
}

// session dials, serves the link until it breaks, and returns why it did.
func (p *peer) session() error {
	ctx, cancel := context.WithTimeout(p.ctx, dialTimeout)
	defer cancel()
	p.mu.Lock()
	addr := p.addr
	p.mu.Unlock()
	link, err := p.host.net.Dial(ctx, addr.Addr)
	if err != nil {
		return err
	}
	defer link.Close()
	as := p.host.hello(p.node)
	formed, err := p.greet(ctx, link, addr, as)
	if err != nil {
		return err
	}

	out := newOutbox(p.host.cfg)
	stop := make(chan struct{})
	p.mu.Lock()
	p.link, p.out, p.formed = link, out, formed
	p.refused.Store(0)
	close(p.up)
	moved := p.addr != addr
	p.mu.Unlock()
	p.host.log.Info("peer connected", "peer", p.node)
	defer func() {
		if p.ctx.Err() == nil {
			p.host.log.Info("peer disconnected", "peer", p.node)
		}
	}()
	if moved || p.host.hello("").cluster != as.cluster {
		link.Close() // setAddr or Host.Form came meanwhile, and did not see the link yet
	}

	var wg sync.WaitGroup
	var once sync.Once
	var cause error
	end := func(err error) {
		once.Do(func() {
			cause = err
			close(stop)
			link.Close()
		})
	}
	wg.Go(func() { end(out.run(link, stop)) })
	wg.Go(func() { end(p.read(link)) })
	wg.Go(func() { end(p.ping(stop)) })
	wg.Go(func() { p.probeLoop(stop) })
	select {
	case <-p.ctx.Done():
		end(ErrStopped)
	case <-stop:
	}
	p.mu.Lock()
	p.link, p.out = nil, nil
	p.up = make(chan struct{})
	p.mu.Unlock()
	p.broke.Store(int64(p.host.mono()) + 1)
	notify(p.host.missing)
	out.close()
	p.mu.Lock()
	lost := p.pending // complete: without out nobody joins it
	p.pending = map[uint64]chan answer{}
	p.mu.Unlock()
	for _, ch := range lost { // the pinger and the prober too, or they would hold up the next link
		ch <- answer{err: fmt.Errorf("%w: link to %s lost", ErrOutcomeUnknown, p.node)}
	}
	wg.Wait()
	return cause
}

// greet shakes hands: both sides name their cluster, node and incarnation, and agree on a protocol.
// formed says whether the far end is a member of this cluster (rather than a founder-to-be).
func (p *peer) greet(ctx context.Context, link Link, addr Peer, mine hello) (formed bool, err error) {
	stop := context.AfterFunc(ctx, func() { link.Close() })
	defer stop()
	h := p.host
	if err := link.Send([][]byte{requestFrame(frameHello, 0, h.mono(), mine.append(nil))}); err != nil {
		return false, err
	}
	frame, err := link.Recv()
	if err != nil {
		return false, err
	}
	id, body, err := decodeReply(frame, p.node)
	if err == nil && id != 0 {
		err = errShortFrame
	}
	if err != nil {
		if errors.Is(err, ErrDataLost) {
			p.refuses.CompareAndSwap(0, int64(h.mono())+1)
			h.checkRefusals(err)
		}
		return false, err
	}
	p.refuses.Store(0)
	theirs, err := decodeHello(body)
	if err != nil {
		return false, err
	}
	if theirs.node != p.node {
		return false, fmt.Errorf("%w: %s is node %q, not %q", ErrWrongCluster, addr.Addr, theirs.node, p.node)
	}
	if theirs.cluster != mine.cluster && theirs.cluster != "" && mine.cluster != "" {
		return false, fmt.Errorf("%w: %s belongs to %s", ErrWrongCluster, p.node, theirs.cluster)
	}
	if addr.Incarnation != "" && theirs.incarnation != addr.Incarnation {
		return false, fmt.Errorf("%w: node %s came back with another data folder", ErrRejoin, p.node)
	}
	return theirs.cluster != "" && mine.cluster != "", nil
}

func decodeReply(frame []byte, node string) (id uint64, body []byte, err error) {
	r := reader{b: frame}
	if r.byte() != frameReply {
		return 0, nil, errShortFrame
	}
	id = r.uint()
	failed := r.byte()
	if r.err != nil {
		return 0, nil, r.err
	}
	if failed != 0 {
		return id, nil, decodeError(r.b, node)
	}
	return id, r.b, nil
}

// read hands answers to those who wait; an answer that nobody waits for is dropped by its id.
func (p *peer) read(link Link) error {
	for {
		frame, err := link.Recv()
		if err != nil {
			return err
		}
		p.touch()
		if len(frame) == 0 || frame[0] != frameReply {
			return errShortFrame
		}
		id, body, err := decodeReply(frame, p.node)
		if err == errShortFrame {
			return err
		}
		p.mu.Lock()
		ch := p.pending[id]
		delete(p.pending, id)
		p.mu.Unlock()
		if ch != nil {
			ch <- answer{body, err}
		}
	}
}

// touch notes that the node was heard.
func (p *peer) touch() { p.heard.Store(int64(p.host.mono()) + 1) }

// ping measures the peer's clock, carries gossip, and gives the link up when the peer is silent.
func (p *peer) ping(stop <-chan struct{}) error {
	t := time.NewTicker(pingInterval)
	defer t.Stop()
	for {
		ctx, cancel := context.WithTimeout(context.Background(), linkTimeout)
		began := time.Now()
		body, err := p.call(ctx, framePing, p.host.gossip(), false)
		cancel()
		if err != nil && !errors.Is(err, ErrOverloaded) { // a full outbox is no reason to lose what is in it
			return fmt.Errorf("ping: %w", err)
		}
		r := reader{b: body}
		trip := time.Since(began)
		if theirs := r.uint(); r.err == nil && theirs > 0 && trip <= clockTrip {
			p.host.clocks.observe(p.node, int64(theirs), began.Add(trip/2))
		}
		select {
		case <-t.C:
		case <-stop:
			return nil
		}
	}
}

// call sends a request and waits for its answer. ErrUnreachable, ErrOverloaded and ErrDeadline mean
// that it was not sent; ErrOutcomeUnknown that it was, or may have been, and no answer came.
func (p *peer) call(ctx context.Context, kind byte, body []byte, lazy bool) ([]byte, error) {
	if ctx.Err() != nil {
		return nil, ErrDeadline
	}
	ch := make(chan answer, 1)
	p.mu.Lock()
	if p.out == nil {
		err := p.lastErr
		p.mu.Unlock()
		if errors.Is(err, ErrDataLost) || errors.Is(err, ErrWrongCluster) {
			return nil, err
		}
		return nil, ErrUnreachable
	}
	if !p.formed && kind != framePing && kind != frameCall {
		p.mu.Unlock()
		return nil, ErrUnreachable
	}
	p.nextID++
	id := p.nextID
	p.pending[id] = ch
	// Queued under the lock: ids leave in order, which is how the other side knows a frame that
	// the network repeated.
	err := p.out.put(requestFrame(kind, id, p.host.mono(), body), lazy)
	if err != nil {
		delete(p.pending, id)
	}
	p.mu.Unlock()
	if err != nil {
		return nil, err
	}
	select {
	case a := <-ch:
		return a.body, a.err
	case <-ctx.Done():
		p.mu.Lock()
		delete(p.pending, id)
		p.mu.Unlock()
		return nil, fmt.Errorf("%w: no answer from %s: %w", ErrOutcomeUnknown, p.node, ctx.Err())
	}
}

// linked reports whether there is a link to the peer.
func (p *peer) linked() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out != nil
}

// tellBytes bounds what may wait on a link for something that is only told to join it.
const tellBytes = 1 << 20

// tell sends what nobody answers, with the next lazy frames. An error says that it will never be sent.
func (p *peer) tell(kind byte, body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.out == nil || !p.formed:
		return ErrUnreachable
	case p.out.waiting() > tellBytes:
		return ErrOverloaded
	}
	p.nextID++ // queued under the lock, as in call
	return p.out.put(requestFrame(kind, p.nextID, p.host.mono(), body), true)
}

// flush sends what waits on the link.
func (p *peer) flush() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.out != nil {
		p.out.flush()
	}
}

// waitUp waits until there is a link.
func (p *peer) waitUp(ctx context.Context, stop <-chan struct{}) bool {
	p.mu.Lock()
	up := p.up
	p.mu.Unlock()
	select {
	case <-up:
		return true
	case <-ctx.Done():
	case <-stop:
	case <-p.ctx.Done():
	}
	return false
}

// timeLeft is what remains of ctx's deadline, at most max.
func timeLeft(ctx context.Context, max time.Duration) time.Duration {
	if d, ok := ctx.Deadline(); ok {
		return min(time.Until(d), max)
	}
	return max
}

func pongBody(wall time.Time) []byte {
	return binary.AppendUvarint(nil, uint64(wall.UnixMilli()))
}
