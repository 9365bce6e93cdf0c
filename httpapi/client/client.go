package client

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Config says where the cluster is and how to talk to it. Zero values stand for the defaults.
type Config struct {
	// Addrs are HTTP addresses of some of the cluster's nodes, as HOST:PORT, http://HOST:PORT or
	// https://HOST:PORT, all with the same scheme. The others are learned. Required.
	Addrs []string
	// Near is the id of a node that is nearer than the others, as where this program runs beside it. Reads are sent there where it has a replica of
	// the key's shard, if as a follower, which asks the leader how far it must be; all else goes where it goes anyway. Default: none.
	Near string
	// Timeout bounds a call whose context has no deadline, its retries included. Default 5 s.
	Timeout time.Duration
	// AttemptTimeout is how long a read waits for one node's answer to begin before another one is
	// asked. Writes wait to the end, since to ask another node could write twice. Default 1 s.
	AttemptTimeout time.Duration
	// DialTimeout bounds the making of a connection, TLS included. Default 1 s.
	DialTimeout time.Duration
	// MaxValueBytes is the longest value that Put sends and Get takes. Servers have a limit of
	// their own. Default 64 MiB.
	MaxValueBytes int64
	// MaxIdlePerNode is how many idle connections are kept to each node. Default 128.
	MaxIdlePerNode int
	// TLS is for https addresses. Default: the system's roots.
	TLS *tls.Config
	// DialContext makes the connections. Default: that of a net.Dialer.
	DialContext func(ctx context.Context, network, addr string) (net.Conn, error)
	// NoRetry has each call send at most one request, on a connection of its own, and wait for its
	// answer to the end. It is for tests that need to know what was sent. The routing table is kept nonetheless.
	NoRetry bool
	// NoIdempotency has writes carry no idempotency key unless they are given one. Then they are not sent again
	// once they may have been applied.
	NoIdempotency bool
}

const (
	defaultTimeout       = 5 * time.Second
	defaultAttempt       = time.Second
	defaultDial          = time.Second
	defaultMaxValueBytes = 64 << 20
	defaultMaxIdle       = 128
	// idleTimeout is well below the servers' two minutes: a write should not meet their closing.
	idleTimeout = 30 * time.Second
	// continueTimeout is how long a long body waits for the server's word. What does not know
	// 100-continue gets the body nonetheless.
	continueTimeout = time.Second
	// maxAnswerHeader bounds the header of an answer, bytes.
	maxAnswerHeader = 64 << 10
)

// validate fills in defaults and returns the scheme and the hosts of Addrs.
func (cfg *Config) validate() (scheme string, hosts []string, err error) {
	if len(cfg.Addrs) == 0 {
		return "", nil, errors.New("client: Config.Addrs is empty")
	}
	for _, addr := range cfg.Addrs {
		text := addr
		if !strings.Contains(text, "://") {
			text = "http://" + text
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Port() == "" ||
			u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			return "", nil, fmt.Errorf("client: address %q is not HOST:PORT or http://HOST:PORT", addr)
		}
		if scheme != "" && u.Scheme != scheme {
			return "", nil, fmt.Errorf("client: addresses of both http and https: %q", cfg.Addrs)
		}
		scheme, hosts = u.Scheme, append(hosts, u.Host)
	}
	for _, f := range []struct {
		name  string
		value int64
	}{
		{"Timeout", int64(cfg.Timeout)}, {"AttemptTimeout", int64(cfg.AttemptTimeout)}, {"DialTimeout", int64(cfg.DialTimeout)},
		{"MaxValueBytes", cfg.MaxValueBytes}, {"MaxIdlePerNode", int64(cfg.MaxIdlePerNode)},
	} {
		if f.value < 0 {
			return "", nil, fmt.Errorf("client: Config.%s is negative", f.name)
		}
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	cfg.AttemptTimeout = cmp.Or(cfg.AttemptTimeout, defaultAttempt)
	cfg.DialTimeout = cmp.Or(cfg.DialTimeout, defaultDial)
	cfg.MaxValueBytes = cmp.Or(cfg.MaxValueBytes, defaultMaxValueBytes)
	cfg.MaxIdlePerNode = cmp.Or(cfg.MaxIdlePerNode, defaultMaxIdle)
	if cfg.DialContext == nil {
		cfg.DialContext = (&net.Dialer{}).DialContext
	}
	return scheme, hosts, nil
}

// Client talks to one cluster. Make it with New, share it, and Close it.
//
// One goroutine belongs to it: refresh, started by the first call, ended by cancel, awaited by Close.
type Client struct {
	cfg       Config
	scheme    string
	seeds     []*node // of Config.Addrs, without ids
	transport *http.Transport

	table    atomic.Pointer[table] // nil until the first one came
	turn     atomic.Uint64         // whose turn it is among nodes that serve equally well
	skew     atomic.Int64          // how far the servers' clocks are ahead of ours at least, ns
	kick     chan struct{}         // holds one wish for a table at once
	asked    chan struct{}         // closed once the first question for a table was answered, or not
	starting sync.Once             // starts refresh

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu     sync.RWMutex   // guards closed; held over calls.Add, so that none follows calls.Wait
	closed bool           // no further calls
	calls  sync.WaitGroup // calls under way, and refresh
}

// New returns a client of the cluster that the nodes at cfg.Addrs belong to. It connects at the first call.
func New(cfg Config) (*Client, error) {
	scheme, hosts, err := cfg.validate()
	if err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, scheme: scheme, kick: make(chan struct{}, 1), asked: make(chan struct{})}
	for _, host := range hosts {
		c.seeds = append(c.seeds, &node{host: host})
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	// HTTP/1 alone, and neither proxy nor compression: doc.go says why.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	c.transport = &http.Transport{
		DialContext:            c.dial,
		Protocols:              protocols,
		TLSClientConfig:        cfg.TLS.Clone(),
		TLSHandshakeTimeout:    cfg.DialTimeout,
		MaxIdleConnsPerHost:    cfg.MaxIdlePerNode,
		IdleConnTimeout:        idleTimeout,
		ExpectContinueTimeout:  continueTimeout,
		DisableCompression:     true,
		DisableKeepAlives:      cfg.NoRetry,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
	return c, nil
}

// Close ends what the client has under way, waits for it, and closes the connections. Calls under way
// return: writes that were sent with ErrOutcomeUnknown, the others with ErrClosed, as later calls do.
// It is idempotent, and always returns nil.
func (c *Client) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.calls.Wait()
	c.transport.CloseIdleConnections()
	return nil
}

// begin admits a call; false once the client is closed. The caller must call c.calls.Done.
func (c *Client) begin() bool {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if c.closed {
		return false
	}
	c.calls.Add(1)
	c.starting.Do(func() { c.calls.Go(c.refresh) })
	return true
}

// Get reads key. An absent key is ErrNotFound, and the entry then tells which replica said so.
func (c *Client) Get(ctx context.Context, key string, opts ...ReadOption) (Entry, error) {
	r := &request{op: "get", method: http.MethodGet, key: key}
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	return a.entry(), err
}

// Put stores value under key, whether or not there is an entry. Without TTL and NoTTL the entry gets the
// cluster's default (the setting default-ttl: no end, unless it was changed), whatever one before had. With IfVersion or IfPresent it is refused with ErrPrecondition unless they hold.
func (c *Client) Put(ctx context.Context, key string, value []byte, opts ...PutOption) (Result, error) {
	r := &request{op: "put", method: http.MethodPut, key: key, value: value}
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	return a.result(), err
}

// Create stores value under key if there is no entry; else it is refused with ErrPrecondition.
func (c *Client) Create(ctx context.Context, key string, value []byte, opts ...CreateOption) (Result, error) {
	r := &request{op: "create", method: http.MethodPut, key: key, value: value, condition: condition{"If-None-Match", "*"}}
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	return a.result(), err
}

// Delete removes key. To remove an absent key succeeds, unless there is a condition.
func (c *Client) Delete(ctx context.Context, key string, opts ...ChangeOption) (Result, error) {
	r := &request{op: "delete", method: http.MethodDelete, key: key}
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	return a.result(), err
}

// Swap is Put, and returns the value that it replaced: its Value and ContentType where Result.HasValue.
func (c *Client) Swap(ctx context.Context, key string, value []byte, opts ...PutOption) (Entry, Result, error) {
	r := &request{op: "swap", method: http.MethodPut, key: key, value: value}
	r.set("return", "old")
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	if a == nil || err != nil {
		return Entry{}, a.result(), err
	}
	return Entry{Value: a.value, ContentType: a.contentType}, a.result(), nil
}

// Incr adds by to the decimal integer under key and returns the sum. An absent key counts as 0, and is created with
// the TTL among opts; an entry keeps its own. ErrNotInteger where the value is none, or the sum would be.
func (c *Client) Incr(ctx context.Context, key string, by int64, opts ...PutOption) (int64, Result, error) {
	r := &request{op: "incr", method: http.MethodPost, key: key}
	r.set("op", "incr")
	r.set("by", strconv.FormatInt(by, 10))
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	if err != nil || !a.hasValue {
		return 0, a.result(), err
	}
	n, parseErr := strconv.ParseInt(string(a.value), 10, 64)
	if parseErr != nil {
		return 0, Result{}, &Error{Op: r.op, Kind: ErrOutcomeUnknown, Applied: AppliedYes, Detail: "the answer is no integer", Err: parseErr}
	}
	return n, a.result(), nil
}

// Append adds value at the end of the one under key and returns the whole. An absent key is created with TTL and
// ContentType among opts; an entry keeps its own.
func (c *Client) Append(ctx context.Context, key string, value []byte, opts ...PutOption) ([]byte, Result, error) {
	r := &request{op: "append", method: http.MethodPost, key: key, value: value}
	r.set("op", "append")
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	if a == nil || err != nil {
		return nil, a.result(), err
	}
	return a.value, a.result(), nil
}

// Expire has the entry of key end after ttl: whole milliseconds, 0 for never. Its value and version stay. Without an
// entry it is ErrNotFound.
func (c *Client) Expire(ctx context.Context, key string, ttl time.Duration, opts ...ChangeOption) (Result, error) {
	r := &request{op: "expire", method: http.MethodPatch, key: key, contentType: "application/merge-patch+json"}
	r.value = []byte(`{"ttl":null}`)
	if ttl != 0 {
		r.value = fmt.Appendf(nil, `{"ttl":%q}`, ttl)
	}
	if ttl < 0 || ttl%time.Millisecond != 0 {
		r.refuse("the TTL %s is not a number of milliseconds", ttl)
	}
	for _, o := range opts {
		o.apply(r)
	}
	a, err := c.do(ctx, r)
	return a.result(), err
}

// Touch counts as a use of key's entry, so that it is evicted later. Without an entry it is ErrNotFound.
func (c *Client) Touch(ctx context.Context, key string) (Result, error) {
	r := &request{op: "touch", method: http.MethodPost, key: key}
	r.set("op", "touch")
	a, err := c.do(ctx, r)
	return a.result(), err
}
