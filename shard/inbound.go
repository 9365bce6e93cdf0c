package shard

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// unknownFrame is how a node says that it knows no frames of a kind: nothing was done.
const unknownFrame = "unknown frame kind"

// inboundRequests bounds the requests of one peer that are being served at the same time.
const inboundRequests = 8192

// inbound is a link that another node dialled: its requests come in, our answers go out. serve
// owns it; each request that may wait has a goroutine of its own, so that no group holds up another.
type inbound struct {
	host    *Host
	link    Link
	node    string
	formed  bool // the peer is a member of this cluster
	other   bool // it has another data folder than the node that we know by its id: what it says is not that node's
	out     *outbox
	transit transit
	lastID  uint64 // of the last frame that is served once
	running atomic.Int64
	wg      sync.WaitGroup
}

// serveLink serves a link that came in until it breaks.
func (h *Host) serveLink(link Link) {
	defer link.Close()
	h.mu.Lock()
	h.inbounds[link] = hello{}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.inbounds, link)
		h.mu.Unlock()
	}()
	in := &inbound{host: h, link: link, out: newOutbox(h.cfg)}
	ctx, cancel := context.WithCancel(h.ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { link.Close() })()
	if err := in.greet(ctx); err != nil {
		h.log.Debug("link refused", "peer", in.node, "err", err)
		return
	}
	in.wg.Go(func() {
		_ = in.out.run(link, ctx.Done())
		link.Close()
	})
	err := in.read(ctx)
	cancel()
	in.wg.Wait()
	h.log.Debug("link from peer ended", "peer", in.node, "err", err)
}

func (in *inbound) greet(ctx context.Context) error {
	timer := time.AfterFunc(dialTimeout, func() { in.link.Close() })
	defer timer.Stop()
	frame, err := in.link.Recv()
	if err != nil {
		return err
	}
	r := reader{b: frame}
	if r.byte() != frameHello {
		return errShortFrame
	}
	id, _ := r.uint(), r.uint()
	if r.err != nil {
		return r.err
	}
	theirs, err := decodeHello(r.b)
	if err == nil {
		// Listed first: SetPeers, when it comes after the check, must see whose link it is.
		in.host.mu.Lock()
		in.host.inbounds[in.link] = theirs
		in.host.mu.Unlock()
		err = in.host.admit(theirs)
	}
	if err != nil {
		_ = in.link.Send([][]byte{replyFrame(id, nil, err)})
		return err
	}
	mine := in.host.hello("")
	in.node = theirs.node
	in.formed = mine.cluster != "" && theirs.cluster == mine.cluster
	known := in.host.peerAddr(theirs.node)
	in.other = known.Incarnation != "" && known.Incarnation != theirs.incarnation
	return in.link.Send([][]byte{replyFrame(id, mine.append(nil), nil)})
}

// admit decides whether a node may open a link.
func (h *Host) admit(theirs hello) error {
	mine := h.hello("")
	switch {
	case theirs.min > protocolMax || theirs.max < protocolMin:
		return fmt.Errorf("%w: it speaks peer protocols %d to %d, this node %d to %d",
			ErrWrongCluster, theirs.min, theirs.max, protocolMin, protocolMax)
	case theirs.target != mine.node:
		return fmt.Errorf("%w: this is node %q, not %q", ErrWrongCluster, mine.node, theirs.target)
	case theirs.cluster != "" && mine.cluster != "" && theirs.cluster != mine.cluster:
		return fmt.Errorf("%w: this node belongs to %s, the caller to %s", ErrWrongCluster, mine.cluster, theirs.cluster)
	}
	known := h.peerAddr(theirs.node)
	if theirs.cluster != "" && mine.cluster != "" && known.Incarnation != "" && known.Incarnation != theirs.incarnation {
		return fmt.Errorf("%w: node %s is known with another data folder", ErrRejoin, theirs.node)
	}
	return nil
}

func (in *inbound) read(ctx context.Context) error {
	for {
		frame, err := in.link.Recv()
		if err != nil {
			return err
		}
		r := reader{b: frame}
		kind, id := r.byte(), r.uint()
		sent := time.Duration(r.uint()) * time.Microsecond
		if r.err != nil {
			return r.err
		}
		age := in.transit.age(sent, in.host.mono())
		if p := in.host.peer(in.node); p != nil && !in.other {
			p.touch()
		}
		if err := in.dispatch(ctx, kind, id, age, r.b); err != nil {
			return err
		}
	}
}

// dispatch serves a request. age is how long the frame was on its way beyond the usual: what came
// in while this process was stopped is as old as the stop was long, and so is its deadline.
func (in *inbound) dispatch(ctx context.Context, kind byte, id uint64, age time.Duration, body []byte) error {
	h := in.host
	switch kind {
	case framePing:
		if !in.other {
			h.receiveGossip(in.node, body)
		}
		in.reply(id, pongBody(h.now()), nil, false)
		return nil
	case frameProbe:
		if !in.formed {
			in.reply(id, nil, ErrUnreachable, false)
			return nil
		}
		answer, err := h.answerProbe(body)
		in.reply(id, answer, err, false)
		return nil
	case frameTouch:
		if in.formed && id > in.lastID {
			in.lastID = id
			h.serveTouches(in.node, body)
		}
		return nil
	case frameRaft, frameCall, frameData, frameIndex, frameBatch, frameScan:
	default:
		in.reply(id, nil, fmt.Errorf("%s %d", unknownFrame, kind), false)
		return nil
	}
	if kind != frameCall && !in.formed {
		in.reply(id, nil, ErrUnreachable, false)
		return nil
	}
	if kind != frameRaft {
		if id <= in.lastID { // repeated or overtaken by the network: never run twice
			return nil
		}
		in.lastID = id
	}
	if in.running.Add(1) > inboundRequests {
		in.running.Add(-1)
		in.reply(id, nil, ErrOverloaded, false)
		return nil
	}
	in.wg.Go(func() {
		defer in.running.Add(-1)
		switch kind {
		case frameRaft:
			answer, lazy, err := h.serveRaft(ctx, in.node, age, body)
			in.reply(id, answer, err, lazy)
		case frameCall:
			answer, err := h.serveCall(ctx, in.node, in.formed, age, body)
			in.reply(id, answer, err, false)
		case frameData:
			answer, err := h.serveData(ctx, age, body)
			in.reply(id, answer, err, false)
		case frameBatch:
			answer, err := h.serveBatch(ctx, age, body)
			in.reply(id, answer, err, false)
		case frameScan:
			answer, err := h.serveScan(ctx, age, body)
			in.reply(id, answer, err, false)
		case frameIndex:
			answer, err := h.serveReadIndex(ctx, in.node, age, body)
			in.reply(id, answer, err, false)
		}
	})
	return nil
}

// reply queues an answer; one that can't be sent is lost, as the network might lose it.
func (in *inbound) reply(id uint64, body []byte, err error, lazy bool) {
	_ = in.out.put(replyFrame(id, body, err), lazy)
}

// serveCall runs the handler of a method. Between nodes that are not both members yet, only the
// methods meant for that answer.
func (h *Host) serveCall(ctx context.Context, from string, formed bool, age time.Duration, body []byte) ([]byte, error) {
	r := reader{b: body}
	timeout, method, payload := r.duration(), r.string(), r.bytes()
	if r.err != nil {
		return nil, r.err
	}
	if timeout <= age {
		return nil, ErrDeadline
	}
	h.mu.Lock()
	handler := h.handlers[method]
	h.mu.Unlock()
	if handler == nil || !formed && !strings.HasPrefix(method, "form") {
		return nil, fmt.Errorf("no method %q", method)
	}
	ctx, cancel := context.WithTimeout(ctx, timeout-age)
	defer cancel()
	answer, err := handler(ctx, from, payload)
	if err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		err = fmt.Errorf("%w: %w", ErrOutcomeUnknown, err)
	}
	return answer, err
}

// transit estimates how late a link's frames are. The smallest difference between arrival (our
// clock) and departure (theirs) is the usual way; what a frame took beyond it is its age. The
// smallest is taken over the last one to two windows, since clocks drift; a window never ends
// between two frames that came far apart, or a stop of this process would pass for the usual.
type transit struct {
	last, began time.Duration
	now, before time.Duration
	started     bool
}

const transitWindow = 30 * time.Second

func (t *transit) age(sent, received time.Duration) time.Duration {
	d := received - sent
	switch {
	case !t.started:
		*t = transit{last: received, began: received, now: d, before: d, started: true}
	case received-t.began > transitWindow && received-t.last < 2*pingInterval:
		t.before, t.now, t.began = t.now, d, received
	}
	t.now = min(t.now, d)
	t.last = received
	return d - min(t.now, t.before)
}
