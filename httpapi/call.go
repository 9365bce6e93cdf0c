package httpapi

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// redirectPause is how often a request that waits to be redirected looks for a leader again.
const redirectPause = 25 * time.Millisecond

// call is one request on a key: what all methods have in common.
type call struct {
	s        *server
	r        *http.Request
	key      []byte
	mode     Mode
	deadline time.Time
}

func (s *server) newCall(r *http.Request, values map[string][]string) (call, error) {
	mode, err := routeOf(values, s.cfg.Route)
	if err != nil {
		return call{}, err
	}
	timeout, err := timeoutOf(r.Header)
	if err != nil {
		return call{}, err
	}
	key, err := keyAfter(r, kvPrefix)
	if err != nil {
		return call{}, err
	}
	return call{s: s, r: r, key: key, mode: mode, deadline: time.Now().Add(timeout)}, nil
}

// perform does req as the call's mode says. Its error is a *Problem or one for errorTable.
func (c call) perform(req shard.Request) (shard.Response, error) {
	ctx, cancel := withDeadline(c.r.Context(), c.deadline)
	defer cancel()
	if c.mode == Forward {
		return c.s.cfg.Data.Do(ctx, req)
	}
	for {
		resp, err := c.s.cfg.Data.Local(ctx, req)
		if err == nil || !elsewhere(err) {
			return resp, err
		}
		place := c.place(err)
		// This node has just refused: to name it would send the client in a circle.
		known := place.Leader != "" && place.Leader != c.s.cfg.Node
		if c.mode == Refuse {
			if known {
				return resp, misdirected(place, err, isRead(c.r))
			}
			return resp, err
		}
		if known {
			if node, ok := c.s.cfg.Directory.Node(place.Leader); ok {
				return resp, c.redirect(node.HTTP)
			}
		}
		// Nobody to name yet: the request waits, as a forwarded one does.
		select {
		case <-ctx.Done():
			return resp, err
		case <-time.After(redirectPause):
		}
	}
}

// elsewhere reports whether err says that this node refused since another one serves the key, or
// is about to.
func elsewhere(err error) bool {
	return as[*shard.NotLeaderError](err) || as[*shard.NotOwnerError](err) ||
		errors.Is(err, shard.ErrUnknownShard) || errors.Is(err, shard.ErrNoLeader)
}

// place is where the key lives, with no leader where none is known. The refusing replica knows its
// leader better than the directory does.
func (c call) place(refusal error) directory.Location {
	place, err := c.s.cfg.Data.Locate(c.key)
	if err != nil {
		return directory.Location{}
	}
	var notLeader *shard.NotLeaderError
	if errors.As(refusal, &notLeader) && notLeader.Leader != "" {
		place.Leader = notLeader.Leader
	}
	return place
}

// misdirected is the 421 that a client with a routing table of its own learns from.
func misdirected(place directory.Location, refusal error, read bool) error {
	return kindMisdirected.problem("%s. Send it to the leader, or without route=local.", sentence(refusal, read)).
		with("Larder-Epoch", strconv.FormatUint(place.Epoch, 10)).
		with("Larder-Leader", place.Leader)
}

// redirect sends the client to the same path and query on another node. It is 307 always: after a
// 301 or 302 clients send a PUT again as a GET, or without its body.
func (c call) redirect(addr string) error {
	scheme := "http"
	if c.r.TLS != nil {
		scheme = "https"
	}
	location := scheme + "://" + addr + c.r.URL.EscapedPath()
	if c.r.URL.RawQuery != "" {
		location += "?" + c.r.URL.RawQuery
	}
	return redirection(location)
}

// redirection is the answer 307, on its way through the errors.
type redirection string

func (to redirection) Error() string { return "redirected to " + string(to) }
