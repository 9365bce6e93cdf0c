package directory

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

const (
	// DefaultTimeout is the deadline of a request that brings none.
	DefaultTimeout = 5 * time.Second
	// readAttempt is how long one node may take for a read before another is asked: a leader that
	// was paused or cut off must not use up the whole deadline.
	readAttempt = time.Second
	// The pause before asking again doubles from minPause to maxPause; each is drawn from its upper
	// half, so that the requests which wait for one election don't come back together.
	minPause = 5 * time.Millisecond
	maxPause = 50 * time.Millisecond
)

// Router performs requests wherever their key lives. It has no state of its own beside counters,
// and is safe for concurrent use.
type Router struct {
	self    string
	latest  *Latest
	known   func() error // why latest is empty, when it is
	leader  func(shard.ID) (node string, term uint64)
	up      func(node string) bool
	hot     func(shard.ID) bool // of a shard that this node leads: others had better answer some of its reads
	do      func(ctx context.Context, node string, req shard.Request) (shard.Response, error)
	doBatch func(ctx context.Context, node string, b shard.Batch) ([]shard.Reply, error)
	scan    func(ctx context.Context, node string, s shard.Scan) (shard.Page, error)
	erase   func(ctx context.Context, node string, s shard.Scan) (shard.Page, error)
	retried func(reason string)
}

// Location is where a key lives, by the present table and the present belief about the leader.
type Location struct {
	Slot    uint16   `json:"slot"`
	Shard   shard.ID `json:"shard"`
	Epoch   uint64   `json:"epoch"`
	Leader  string   `json:"leader"`
	Members []string `json:"members"`
}

// Locate returns where key lives; ErrNoTable while the table is not known.
func (r *Router) Locate(key []byte) (Location, error) {
	slot := fsm.Slot(key)
	s, ok := r.latest.Table().Lookup(slot)
	if !ok {
		return Location{}, r.noTable()
	}
	l := Location{Slot: slot, Shard: s.ID, Epoch: s.Epoch, Members: make([]string, len(s.Members))}
	l.Leader, _ = r.leader(s.ID)
	for i, m := range s.Members {
		l.Members[i] = m.Node
	}
	return l, nil
}

// ErrNoTable: refused; this node does not know the table yet. It is a shard.ErrNoLeader: another try
// can help.
var ErrNoTable = fmt.Errorf("%w: the table is not known yet", shard.ErrNoLeader)

// noTable returns why no shard was found. The table may have come since.
func (r *Router) noTable() error {
	if err := r.known(); err != nil {
		return err
	}
	return ErrNoTable
}

// Local performs req on this node's own replica, once, or refuses: with NotLeaderError, naming the
// believed leader, where this node hosts none, or one that may not serve. A follower serves reads.
func (r *Router) Local(ctx context.Context, req shard.Request) (shard.Response, error) {
	s, ok := r.latest.Table().Lookup(fsm.Slot(req.Key))
	if !ok {
		return shard.Response{}, r.noTable()
	}
	leader, _ := r.leader(s.ID)
	own, member := s.Member(r.self)
	if !member {
		return shard.Response{}, &shard.NotLeaderError{Leader: leader}
	}
	req.Shard, req.R = s.ID, own.R
	resp, err := r.do(ctx, r.self, req)
	if errors.Is(err, shard.ErrDiverged) && leader != "" && leader != r.self {
		return shard.Response{}, &shard.NotLeaderError{Leader: leader}
	}
	if errors.Is(err, shard.ErrUnknownShard) || req.Op == shard.OpGet && errors.Is(err, shard.ErrUnreachable) {
		return shard.Response{}, &shard.NotLeaderError{Leader: leader}
	}
	r.tellHot(&resp)
	return resp, err
}

// Do performs req where its key is served, here or one hop away: a write on the leader of its shard; a
// read on this node's own voter, where it has one, else on the leader, or, where it may be old, on any
// member. While nobody can serve it (an election, a range in motion, a node that is gone) it tries
// again, with pauses, until ctx's deadline.
//
//   - Once ctx ended, the last refusal is returned, wrapped: shard.Refused holds.
//   - shard.ErrOverloaded, and refusals that another try can't change, are returned at once.
//   - shard.ErrOutcomeUnknown of a write is returned at once: it is never tried again. A read
//     changes nothing, so an unanswered one is a refusal and is asked elsewhere.
func (r *Router) Do(ctx context.Context, req shard.Request) (shard.Response, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, DefaultTimeout)
		defer cancel()
	}
	slot := fsm.Slot(req.Key)
	// The leader alone knows who would fill a miss: such a read goes to it as a write does.
	h := hunt{router: r, read: req.Op == shard.OpGet && req.Fill == 0, listed: req.Consistency == shard.Any}
	var fillEnd time.Time
	if req.Fill != 0 {
		fillEnd = time.Now().Add(req.Fill)
	}
	var last error
	for {
		if ctx.Err() != nil {
			return shard.Response{}, h.giveUp(last)
		}
		table, replaced := r.latest.Changed()
		s, ok := table.Lookup(slot)
		if !ok {
			last = r.noTable()
			h.pause(ctx, replaced)
			continue
		}
		node := h.next(s)
		if node == "" {
			if last == nil {
				last = fmt.Errorf("%w: shard %d", shard.ErrNoLeader, s.ID)
			}
			h.pause(ctx, replaced)
			continue
		}
		req.Shard, req.R = s.ID, 0
		if req.Op == shard.OpGet || s.Generation > 1 {
			// Only by the replica that the table lists: one that was removed, or is of a former generation, may still be there.
			m, _ := s.Member(node)
			req.R = m.R
		}
		if req.Fill != 0 { // what is left of it, after an election
			req.Fill = max(time.Until(fillEnd).Truncate(time.Millisecond), time.Millisecond)
		}
		resp, err := r.attempt(ctx, node, req)
		if err == nil {
			if node != r.self {
				resp.ForwardedTo = node
			} else {
				r.tellHot(&resp)
			}
			return resp, nil
		}
		reason, again := retryable(err)
		if !again {
			return shard.Response{}, err
		}
		last = err
		r.retried(reason)
		if !h.follow(s, node, err) {
			h.pause(ctx, replaced)
		}
	}
}

// tellHot notes in the answer of this node's own replica to a read whether it leads a shard that is hot.
func (r *Router) tellHot(resp *shard.Response) {
	resp.Hot = (resp.Read == shard.ReadProbe || resp.Read == shard.ReadLease) && r.hot(resp.Shard)
}

// attempt asks one node once. Of a read it makes any failure a refusal.
func (r *Router) attempt(ctx context.Context, node string, req shard.Request) (resp shard.Response, err error) {
	if req.Op != shard.OpGet {
		return r.do(ctx, node, req)
	}
	err = attemptRead(ctx, readAttempt+req.Fill, node, func(ctx context.Context) error { // what waits for a fill is no silence
		resp, err = r.do(ctx, node, req)
		return err
	})
	return resp, err
}

// attemptRead has node asked for a read, for no longer than patience.
func attemptRead(ctx context.Context, patience time.Duration, node string, ask func(context.Context) error) error {
	try := limit(ctx, patience)
	defer try.end()
	err := ask(try)
	if errors.Is(err, shard.ErrOutcomeUnknown) {
		// %v: a read has no outcome that could be unknown.
		return fmt.Errorf("%w: %s did not answer the read: %v", errUnanswered, node, err)
	}
	// The time given to the try travels rounded down, so it may end there before it does here.
	if err != nil && (try.Err() != nil || errors.Is(err, shard.ErrDeadline)) {
		return fmt.Errorf("%w: %s did not answer the read in time: %w", errUnanswered, node, err)
	}
	return err
}

// errUnanswered is a read that one node left unanswered.
var errUnanswered = fmt.Errorf("%w: read unanswered", shard.ErrNoLeader)

// retryable says whether another try can help after err, and names why for the metrics.
func retryable(err error) (reason string, again bool) {
	var notLeader *shard.NotLeaderError
	var notOwner *shard.NotOwnerError
	switch {
	case errors.Is(err, shard.ErrOutcomeUnknown), errors.Is(err, shard.ErrOverloaded):
		return "", false
	case errors.Is(err, errUnanswered):
		return "unanswered", true
	case errors.As(err, &notLeader):
		return "not_leader", true
	case errors.As(err, &notOwner):
		return "not_owner", true
	case errors.Is(err, shard.ErrNoLeader):
		return "no_leader", true
	case errors.Is(err, shard.ErrUnknownShard):
		return "unknown_shard", true
	case errors.Is(err, shard.ErrDiverged):
		return "diverged", true // of the node asked; others may serve
	case errors.Is(err, shard.ErrStopped):
		return "stopped", true
	case errors.Is(err, shard.ErrUnreachable), errors.Is(err, shard.ErrDataLost), errors.Is(err, shard.ErrWrongCluster):
		return "unreachable", true // of the node asked; another may serve
	}
	return "", false
}

// retryReasons are the reasons that retryable gives.
var retryReasons = []string{"unanswered", "not_leader", "not_owner", "no_leader", "unknown_shard", "diverged", "stopped", "unreachable"}

// hunt is the search of one request for a node that serves it.
type hunt struct {
	router   *Router
	read     bool
	listed   bool // only a replica that the table lists may serve it
	attempts int
	hint     string    // named by a refusal: ask it next, without a pause
	failed   string    // asked last, in vain
	asked    []string  // since the last pause; a few at most
	room     [3]string // for asked
	turn     int       // over the members
	wait     time.Duration
}

// next returns the node to ask: for a read this one first; the one that a refusal named, else the
// believed leader, else (where that one just failed, or none is known) the next member in turn that seems
// up; "" when there is none.
func (h *hunt) next(s Shard) string {
	node := h.choose(s)
	if node != "" {
		if h.asked == nil {
			h.asked = h.room[:0]
		}
		h.asked = append(h.asked, node)
		h.attempts++
	}
	return node
}

// mayAsk reports whether a node that is said to lead may be asked though the table does not list it: it may have been added just now. Not where
// the shard was recovered, as it may lead the former generation.
func (h *hunt) mayAsk(s Shard, node string) bool {
	_, member := s.Member(node)
	return member || !h.listed && s.Generation == 1
}

func (h *hunt) choose(s Shard) string {
	if own, member := s.Member(h.router.self); h.read && h.attempts == 0 && member && own.Role == RoleVoter {
		return h.router.self
	}
	if node := h.hint; node != "" {
		h.hint = ""
		if h.mayAsk(s, node) { // the table may be another since it was named
			return node
		}
	}
	if node, _ := h.router.leader(s.ID); node != "" && node != h.failed && h.router.up(node) {
		if h.mayAsk(s, node) {
			return node
		}
	}
	for range s.Members {
		node := s.Members[h.turn%len(s.Members)].Node
		h.turn++
		if node != h.failed && h.router.up(node) && !(h.read && node == h.router.self && slices.Contains(h.asked, node)) {
			return node
		}
	}
	h.failed = "" // after the pause it may be asked again
	return ""
}

// follow takes the name of the leader from a refusal of node; it reports whether to go on at once: to
// a member not yet asked since the last pause, or from this node's own replica, which a read asks first.
func (h *hunt) follow(s Shard, node string, err error) bool {
	h.failed = node
	own := h.read && h.attempts == 1 && node == h.router.self
	silent := errors.Is(err, errUnanswered) || errors.Is(err, shard.ErrUnreachable)
	if leader, _ := h.router.leader(s.ID); own && leader != "" && silent {
		h.failed = leader // what did not answer is the leader that this replica follows: ask another
		return true
	}
	var notLeader *shard.NotLeaderError
	if !errors.As(err, &notLeader) || notLeader.Leader == "" || slices.Contains(h.asked, notLeader.Leader) {
		return own
	}
	if _, member := s.Member(notLeader.Leader); !member || !h.router.up(notLeader.Leader) {
		return own
	}
	h.hint = notLeader.Leader
	return true
}

// pause waits before the next try: until its time is over, a newer table came, or ctx ended.
func (h *hunt) pause(ctx context.Context, replaced <-chan struct{}) {
	h.asked = h.asked[:0]
	h.wait = min(max(2*h.wait, minPause), maxPause)
	t := time.NewTimer(h.wait/2 + rand.N(h.wait/2+1))
	defer t.Stop()
	select {
	case <-t.C:
	case <-replaced:
	case <-ctx.Done():
	}
}

// giveUp returns the error for a request that nobody served in time.
func (h *hunt) giveUp(last error) error {
	if last == nil {
		return shard.ErrDeadline
	}
	return fmt.Errorf("gave up after %d attempts: %w", h.attempts, last)
}
