package client

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// Config is what New needs.
type Config struct {
	Recorder *history.Recorder
	// Timeout is how long to wait for each answer.
	Timeout time.Duration
	// Dial opens connections; nil is net.Dialer's.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Targets are the nodes that an answer may name, as ?route=local has it. Who is not among them is not asked.
	Targets []Target
}

// Client performs operations against any node.
type Client struct {
	cfg   Config
	conns pool
}

// New returns a client.
func New(cfg Config) *Client {
	if cfg.Dial == nil {
		cfg.Dial = new(net.Dialer).DialContext
	}
	return &Client{cfg: cfg, conns: pool{dial: cfg.Dial, idle: map[string][]*conn{}}}
}

// Close closes idle connections.
func (c *Client) Close() { c.conns.close() }

// Target is a node to ask.
type Target struct {
	Node string
	URL  string // http://host:port
}

func (t Target) addr() string { return strings.TrimPrefix(t.URL, "http://") }

// KeyURL is the URL of key at a node. Every byte but letters and digits is escaped, so that the key
// arrives as it is.
func KeyURL(base, key string) string { return base + keyPath(key) }

func keyPath(key string) string {
	const hex = "0123456789ABCDEF"
	var b strings.Builder
	b.WriteString("/v1/kv/")
	for i := range len(key) {
		switch c := key[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			b.WriteByte(c)
		default:
			b.Write([]byte{'%', hex[c>>4], hex[c&15]})
		}
	}
	return b.String()
}

// Do sends o, of which the request's fields are set, to target, fills in the rest, records it and
// returns it. An Outcome of Unknown means that the process must not be used again.
func (c *Client) Do(ctx context.Context, target Target, o history.Operation) history.Operation {
	o.Node = target.Node
	o.Invoke = c.cfg.Recorder.Now()
	c.attempt(ctx, target, &o)
	c.cfg.Recorder.Add(o)
	return o
}

// attempt sends o once and fills in the answer.
func (c *Client) attempt(ctx context.Context, target Target, o *history.Operation) {
	if err := c.send(ctx, target, o); err != nil {
		c.cfg.Recorder.Defect(fmt.Errorf("%w: %s", err, o))
		doubtful(o) // what it says can't be checked, so nothing may be concluded from it
	}
}

// doubtful makes o one of unknown outcome, of which no answer says anything.
func doubtful(o *history.Operation) {
	o.Outcome = history.Unknown
	o.Place, o.ServedBy, o.Version = history.Place{}, "", 0
	o.Conflict, o.Replayed, o.Existed, o.Number = false, false, false, 0
	o.Found, o.Read, o.Path, o.Age, o.Miss, o.Timed, o.Left = false, "", "", 0, "", false, 0
}

// maxHops bounds the way from node to node while leaders change.
const maxHops = 4

// send performs o, from node to node where it says so; its error is a defect of the server.
func (c *Client) send(ctx context.Context, target Target, o *history.Operation) error {
	deadline := time.Now().Add(c.cfg.Timeout)
	q := newRequest(o, c.cfg.Timeout)
	for {
		a, sent, err := c.conns.exchange(ctx, target.addr(), q, deadline)
		o.Return = c.cfg.Recorder.Now()
		if err != nil {
			o.Err = err.Error()
			o.Outcome = history.Unknown
			if !sent || !o.Kind.Write() {
				o.Outcome = history.Refused
			}
			return nil
		}
		o.Status = a.status
		next, err := c.elsewhere(q, a, o)
		if err != nil {
			return err
		}
		if next.URL != "" && o.Hops < maxHops {
			target = next
			o.Hops++
			continue
		}
		if a.status == redirected && o.Route == "redirect" {
			o.Outcome = history.Refused // sent in a circle, by nodes that know different leaders
			return nil
		}
		return fill(o, target.Node, a)
	}
}

// redirected is the status by which a node names another's address.
const redirected = 307

// elsewhere returns where an answer sends o, with no URL if nowhere.
func (c *Client) elsewhere(q *request, a *answer, o *history.Operation) (Target, error) {
	switch {
	case o.Route == "redirect" && a.status == redirected:
		to, err := url.Parse(a.header.Get("Location"))
		if err != nil || to.Scheme != "http" || to.Host == "" {
			return Target{}, fmt.Errorf("a redirect to %q", a.header.Get("Location"))
		}
		if got := to.RequestURI(); got != q.uri {
			return Target{}, fmt.Errorf("a redirect of %s to %s", q.uri, got)
		}
		next := Target{URL: "http://" + to.Host}
		for _, t := range c.cfg.Targets {
			if t.URL == next.URL {
				next.Node = t.Node
			}
		}
		return next, nil
	case o.Route == "local" && a.status == misdirected:
		for _, t := range c.cfg.Targets {
			if t.Node == a.header.Get("Larder-Leader") {
				return t, nil
			}
		}
	}
	return Target{}, nil
}
