package load

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/larder-cache/larder/httpapi/client"
)

// Route is how requests find their way.
type Route string

const (
	// RouteLeader: straight to the leader of the key's shard, by the routing table of the Go client.
	RouteLeader Route = "leader"
	// RouteAny: to the same node for all keys, which forwards. Clients take the addresses in turn.
	RouteAny Route = "any"
)

// HTTP is a cluster of Larder, or what speaks like one, over REST.
type HTTP struct {
	// Addrs are addresses of nodes, as the Go client takes them. Required.
	Addrs []string
	Route Route // default RouteLeader
	// Timeout is how long servers may take for a request, default 5 s. Clients wait 2 s longer.
	Timeout time.Duration
}

const (
	defaultTimeout = 5 * time.Second // servers have the same
	// grace is how much longer than the server clients wait: it answers at its own deadline.
	grace = 2 * time.Second
	// tableTime is how long the servers may take to say who leads.
	tableTime = 5 * time.Second
)

// Target is a cluster to send requests to. Close ends what it keeps running.
type Target struct {
	addrs   []string // HOST:PORT
	tls     bool
	routes  *client.Client // nil: RouteAny
	limit   time.Duration  // that clients wait
	headers string         // of each request
	roots   *x509.CertPool // nil: the system's
}

// Open learns the routes of a cluster. The error says that its nodes can't be reached, or cfg is wrong.
func Open(ctx context.Context, cfg HTTP) (*Target, error) {
	if len(cfg.Addrs) == 0 {
		return nil, errors.New("load: no addresses")
	}
	t := &Target{limit: defaultTimeout + grace, headers: "User-Agent: larder-bench\r\n"}
	if cfg.Timeout != 0 && cfg.Timeout != defaultTimeout {
		t.limit = cfg.Timeout + grace
		t.headers += "Larder-Timeout: " + cfg.Timeout.String() + "\r\n"
	}
	for _, addr := range cfg.Addrs {
		host, secure := strings.CutPrefix(addr, "https://")
		t.tls = secure
		t.addrs = append(t.addrs, strings.TrimSuffix(strings.TrimPrefix(host, "http://"), "/"))
	}
	if cfg.Route == RouteAny {
		return t, nil
	}
	routes, err := client.New(client.Config{Addrs: cfg.Addrs})
	if err != nil {
		return nil, err
	}
	t.routes = routes
	ctx, cancel := context.WithTimeout(ctx, tableTime)
	defer cancel()
	if _, err := routes.Leader(ctx, keyPrefix); err != nil {
		return nil, errors.Join(err, routes.Close())
	}
	return t, nil
}

// Close ends what keeps the routes fresh.
func (t *Target) Close() error {
	if t.routes == nil {
		return nil
	}
	return t.routes.Close()
}

// Dial makes the connection of a client: to one node now, and to each other one once a key asks for it.
func (t *Target) Dial(ctx context.Context, i int) (Conn, error) {
	c := &larderConn{target: t, own: t.addrs[i%len(t.addrs)]}
	addr, err := c.route(ctx, []byte(keyPrefix))
	if err != nil {
		return nil, err
	}
	if _, err := c.to(ctx, addr); err != nil {
		return nil, err
	}
	return c, nil
}

// larderConn is the connections of one client, one for each node.
type larderConn struct {
	target *Target
	own    string // of RouteAny
	addrs  []string
	conns  []*httpConn // to addrs
	batch  batchAnswer // the last one
}

// route returns the address to send a request for key to.
func (c *larderConn) route(ctx context.Context, key []byte) (string, error) {
	if c.target.routes == nil {
		return c.own, nil
	}
	return c.target.routes.Leader(ctx, string(key))
}

// to returns the connection to a node.
func (c *larderConn) to(ctx context.Context, addr string) (*httpConn, error) {
	for i, a := range c.addrs {
		if a == addr {
			return c.conns[i], nil
		}
	}
	conn, err := c.target.dial(ctx, addr)
	if err != nil {
		return nil, err
	}
	c.addrs, c.conns = append(c.addrs, addr), append(c.conns, conn)
	return conn, nil
}

// drop closes the connection to a node.
func (c *larderConn) drop(addr string) {
	for i, a := range c.addrs {
		if a == addr {
			_ = c.conns[i].Close() // it failed already
			last := len(c.addrs) - 1
			c.addrs[i], c.conns[i] = c.addrs[last], c.conns[last]
			c.addrs, c.conns = c.addrs[:last], c.conns[:last]
			return
		}
	}
}

// Close implements Conn.
func (c *larderConn) Close() error {
	var errs []error
	for _, conn := range c.conns {
		errs = append(errs, conn.Close())
	}
	return errors.Join(errs...)
}

// dial connects to a node, by TLS where the addresses say so.
func (t *Target) dial(ctx context.Context, addr string) (*httpConn, error) {
	conn, err := dialHTTP(ctx, addr, t.limit)
	if err != nil || !t.tls {
		return conn, err
	}
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	secured := tls.Client(conn.Conn, &tls.Config{RootCAs: t.roots, ServerName: host, NextProtos: []string{"http/1.1"}})
	ctx, cancel := context.WithTimeout(ctx, t.limit)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	conn.Conn = secured
	return conn, nil
}

// Get implements Conn.
func (c *larderConn) Get(ctx context.Context, key []byte) error {
	return c.request(ctx, key, nil, true)
}

// Put implements Conn.
func (c *larderConn) Put(ctx context.Context, key, value []byte) error {
	return c.request(ctx, key, value, false)
}

func (c *larderConn) request(ctx context.Context, key, value []byte, read bool) error {
	addr, err := c.route(ctx, key)
	if err != nil {
		return &Failure{Unavailable, err.Error()}
	}
	conn, err := c.to(ctx, addr)
	if err != nil {
		c.learn(key, addr, "")
		return &Failure{Unavailable, "no connection"}
	}
	if read {
		conn.get(key, addr, c.target.headers)
	} else {
		conn.put(key, value, addr, c.target.headers)
	}
	a, sent, err := conn.do()
	if err != nil {
		c.drop(addr)
		c.learn(key, addr, "")
		return broken(read, sent, err)
	}
	if a.forwarded && len(a.servedBy) > 0 {
		c.learn(key, addr, string(a.servedBy))
	}
	err = a.outcome(read)
	if a.closing {
		c.drop(addr)
	}
	return err
}

// learn tells the table of routes what came of a request.
func (c *larderConn) learn(key []byte, addr, servedBy string) {
	if c.target.routes != nil {
		c.target.routes.Answered(string(key), addr, servedBy)
	}
}

// broken is what a request without an answer came to.
func broken(read, sent bool, err error) *Failure {
	kind, reason := Unknown, "no answer"
	if read || !sent {
		kind = Unavailable
	}
	var timeout net.Error
	switch {
	case !sent:
		reason = "nothing could be sent"
	case errors.As(err, &timeout) && timeout.Timeout():
		reason = "no answer in time"
	case errors.Is(err, errMalformed):
		reason = errMalformed.Error()
		if kind != Unknown {
			kind = Rejected
		}
	}
	return &Failure{kind, reason}
}

// outcome is what an answer says became of the request. A success that no shard is named in is not Larder's.
func (a *answer) outcome(read bool) error {
	if done, err := outcomeOf(a.status, a.larder, read); done {
		return err
	}
	var p problemBody
	_ = json.Unmarshal(a.body, &p) // what is none has no type of Larder's
	return p.failure(a.status, read)
}

// outcomeOf is what a status says became of an operation that a shard answered, as named tells. done: nothing else has to be looked at.
func outcomeOf(status int, named, read bool) (done bool, err error) {
	switch {
	case named && read && status == http.StatusOK:
		return true, nil
	case named && !read && (status == http.StatusNoContent || status == http.StatusCreated):
		return true, nil
	case named && read && status == http.StatusNotFound:
		return true, ErrMissing
	}
	return false, nil
}

// problemBody is what Larder says of an operation that failed.
type problemBody struct {
	Type    string `json:"type"`
	Applied string `json:"applied"`
}

// failure is what it comes to, with a status.
func (p problemBody) failure(status int, read bool) *Failure {
	if !strings.HasPrefix(p.Type, problemPrefix) {
		f := &Failure{Rejected, fmt.Sprintf("%d, not an answer of Larder", status)}
		if !read && (status < 300 || status >= 500) {
			f.Kind = Unknown
		}
		return f
	}
	f := &Failure{Rejected, fmt.Sprintf("%d %s", status, strings.TrimPrefix(p.Type, problemPrefix))}
	switch {
	case p.Applied != "no" && !read:
		f.Kind = Unknown
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		f.Kind = Denied
	case status == http.StatusTooManyRequests || status >= 500:
		f.Kind = Unavailable
	}
	return f
}

// problemPrefix begins the types of Larder's problems.
const problemPrefix = "/problems/"
