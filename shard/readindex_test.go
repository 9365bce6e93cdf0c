package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/larder-cache/larder/fsm"
)

// followed makes the replica on a node the leader, and waits until all others that run follow it.
func (c *cluster) followed(node string) *Host {
	c.t.Helper()
	l := c.lead(node)
	c.until("all follow "+node, func() bool {
		for _, h := range c.hosts {
			s := h.Group(testShard).Status()
			if member := slices.Contains(s.Voters, h.Node()); member && s.Leader != node {
				return false
			}
		}
		return true
	})
	return l
}

func old(h *Host, key string, consistency Consistency, staleness time.Duration) (Response, error) {
	return do(h, Request{Shard: testShard, Op: OpGet, Key: []byte(key), Consistency: consistency, MaxStaleness: staleness})
}

// TestFollowerReads ensures that a follower, and a learner, serve reads that see each write acknowledged
// before, at once, also while nothing else tells them what is committed.
func TestFollowerReads(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		l := c.followed("a")
		c.addLearner(l, "d")
		began := time.Now()
		for n := range 100 {
			value := fmt.Sprint("v", n)
			w := c.mustPut(l, "k", value)
			for _, name := range []string{"b", "c", "d"} {
				r, err := get(c.hosts[name], "k")
				if err != nil || string(r.Value) != value || r.Read != ReadFollower || r.ServedBy != name || r.Index < w.Index || r.Version != w.Version {
					t.Fatalf("%s: %+v, %v, want %s of %+v", name, r, err, value, w)
				}
			}
			if r, err := get(c.hosts["b"], "absent"); err != nil || r.Found {
				t.Fatalf("absent: %+v, %v", r, err)
			}
		}
		// Without the leader's word on what is committed each write would take the commit timeout to show.
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("100 writes and 400 reads took %v of virtual time", took)
		}
	})
}

// TestReadIndexIsAskedAfter ensures that a question which was sent before a read began does not confirm
// the read: its answer says what was to be seen then, and a newer value was acknowledged since. (Made to
// join the round in flight, in join, the second reader reads the old value here.)
func TestReadIndexIsAskedAfter(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "old")
		c.wantGet(c.hosts["b"], "k", "old")
		c.wantGet(c.hosts["c"], "k", "old")
		c.net.Hold("a", "b") // the answer to the first question; and b learns nothing new
		first := readers(c.hosts["b"], "k", 1)
		synctest.Wait()
		c.mustPut(l, "k", "new") // with c
		second := readers(c.hosts["b"], "k", 4)
		synctest.Wait()
		c.net.Release("a", "b")
		resps, errs := second()
		for i, r := range resps {
			if errs[i] != nil || string(r.Value) != "new" {
				t.Errorf("a read that began after the write: %q, %v", r.Value, errs[i])
			}
		}
		if _, errs := first(); errs[0] != nil {
			t.Errorf("the first read: %v", errs[0])
		}
	})
}

// TestReadIndexForMembersOnly ensures that a leader answers only the replicas of its configuration, only
// in its own name, and that others don't answer at all.
func TestReadIndexForMembersOnly(t *testing.T) {
	inBubbleWithSpares(t, 4, 1, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		link := c.dial("b", "a")
		ask := func(source, target string) error {
			body := appendDuration(nil, time.Second)
			body = binary.AppendUvarint(body, uint64(testShard))
			body = appendBool(appendString(appendString(body, source), target), false)
			_, err := link.ask(frameIndex, body)
			return err
		}
		for _, tc := range []struct {
			name, source, target string
			ok                   bool
		}{
			{"a member", "1/b/1", "1/a/1", true},
			{"another life of it", "1/b/2", "1/a/1", false},
			{"in another node's name", "1/c/1", "1/a/1", false},
			{"of another shard", "2/b/1", "1/a/1", false},
			{"to another life of the leader", "1/b/1", "1/a/2", false},
			{"to a follower", "1/b/1", "1/c/1", false},
		} {
			if err := ask(tc.source, tc.target); (err == nil) != tc.ok {
				t.Errorf("%s: %v", tc.name, err)
			}
		}
		// d is no member: its replica knows no leader, and one that made it believe in a gets no answer.
		if r, err := get(c.hosts["d"], "k"); err == nil || !Refused(err) {
			t.Errorf("read on a node that is no member: %+v, %v", r, err)
		}
		// One that was removed reads nothing more, also before it knows.
		c.remove(ReplicaID{testShard, "c", 1})
		c.mustPut(l, "k", "newer")
		for _, consistency := range []Consistency{Linearizable, Bounded} {
			req := Request{Shard: testShard, Op: OpGet, Key: []byte("k"), Consistency: consistency}
			if consistency == Bounded {
				req.MaxStaleness = time.Millisecond
			}
			time.Sleep(10 * time.Millisecond)
			if r, err := do(c.hosts["c"], req); err == nil {
				t.Errorf("read on a removed member: %+v", r)
			}
		}
	})
}

// TestOldReads ensures that a read which may be old is served without a question while its replica is
// known to be fresh enough, never before something was confirmed, and tells its age; and that a follower
// which is cut off serves what it may and refuses the rest.
func TestOldReads(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v1")
		b := c.hosts["b"]
		var asked atomic.Int64
		c.net.DropWhen(func(from, _ string, frame []byte) bool {
			if from == "b" && frame[0] == frameIndex {
				asked.Add(1)
			}
			return false
		})
		want := func(what string, consistency Consistency, staleness time.Duration, value string, path ReadPath, questions int64, least, most time.Duration) {
			t.Helper()
			before := asked.Load()
			r, err := old(b, "k", consistency, staleness)
			if err != nil || string(r.Value) != value || r.Read != path || r.Age < least || r.Age > most || asked.Load()-before != questions {
				t.Errorf("%s: %+v, %v after %d questions", what, r, err, asked.Load()-before)
			}
		}
		want("the first asks", Any, 0, "v1", ReadFollower, 1, 0, 100*time.Millisecond)
		c.mustPut(l, "k", "v2")
		time.Sleep(3 * time.Second)
		want("any, later", Any, 0, "v2", ReadLocal, 0, 3*time.Second, 3200*time.Millisecond)
		want("bounded, fresh enough", Bounded, 4*time.Second, "v2", ReadLocal, 0, 3*time.Second, 3200*time.Millisecond)
		want("bounded, too old", Bounded, time.Second, "v2", ReadFollower, 1, 0, 100*time.Millisecond)
		c.net.Isolate("b", "a", "c")
		time.Sleep(500 * time.Millisecond)
		c.mustPut(l, "k", "v3")
		want("cut off, within the bound", Bounded, time.Second, "v2", ReadLocal, 0, 500*time.Millisecond, 700*time.Millisecond)
		time.Sleep(2 * time.Second)
		for what, req := range map[string]Request{
			"linearizable":      {Shard: testShard, Op: OpGet, Key: []byte("k")},
			"bounded, past it":  {Shard: testShard, Op: OpGet, Key: []byte("k"), Consistency: Bounded, MaxStaleness: time.Second},
			"another replica's": {Shard: testShard, Op: OpGet, Key: []byte("k"), Consistency: Any, R: 7},
		} {
			if r, err := do(b, req); err == nil || !Refused(err) {
				t.Errorf("cut off, %s: %+v, %v", what, r, err)
			}
		}
		want("cut off, any", Any, 0, "v2", ReadLocal, 0, 2500*time.Millisecond, 9*time.Second)
		// A new instance knows nothing of how fresh it is.
		c.crash("b")
		b = c.start("b")
		if r, err := old(b, "k", Any, 0); err == nil {
			t.Errorf("any, before anything was confirmed: %+v", r)
		}
		c.net.Heal()
		c.until("b serves again", func() bool {
			r, err := old(b, "k", Any, 0)
			return err == nil && string(r.Value) == "v3"
		})
		// The leader too.
		b = l
		time.Sleep(3 * time.Second)
		want("on the leader", Bounded, time.Second, "v3", ReadProbe, 0, 0, 100*time.Millisecond)
		want("on the leader, again", Any, 0, "v3", ReadLocal, 0, 0, 100*time.Millisecond)
	})
}

// TestFreshSinceAsked ensures that what a replica shows counts as being of when it asked, not of when the answer came: on a follower, and on a
// leader that asks its voters.
func TestFreshSinceAsked(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "k", "v")
		slow := LinkFaults{Delay: 100 * time.Millisecond}
		for _, n := range c.others(l.Node()) {
			c.net.SetFaults(l.Node(), n, slow)
		}
		for _, n := range c.names {
			began, h := time.Now(), c.hosts[n]
			at := h.mono()
			c.wantGet(h, "k", "v")
			if took := time.Since(began); took < slow.Delay {
				t.Fatalf("a read on %s took %v: it proves nothing", n, took)
			}
			if fresh, known := h.Group(testShard).instance().fresh(); !known || fresh > at {
				t.Errorf("%s counts as fresh (%t) from %v on, %v after its read began", n, known, fresh, fresh-at)
			}
		}
	})
}

// TestAgeOfForwardedRead ensures that a read which another node serves is as old as the time since its replica asked the
// leader, which counts once.
func TestAgeOfForwardedRead(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		const slow = 100 * time.Millisecond
		c.net.SetFaults("a", "b", LinkFaults{Delay: slow})
		c.net.SetFaults("b", "a", LinkFaults{Delay: slow})
		time.Sleep(time.Second)
		r, err := c.hosts["c"].Do(context.Background(), "b", Request{Shard: testShard, Op: OpGet, Key: []byte("k"),
			Consistency: Bounded, MaxStaleness: time.Millisecond})
		if err != nil || r.Read != ReadFollower || r.Age < 2*slow || r.Age > 3*slow {
			t.Errorf("%+v, %v, want an age of %v", r, err, 2*slow)
		}
	})
}

// TestDueOnFollower ensures that an entry whose time is over is not shown by a follower, though the log
// clock has not reached its end: the read is left to the leader, which logs it; and that what was seen
// gone is gone for all.
func TestDueOnFollower(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		if _, err := do(l, Request{Shard: testShard, Op: OpPut, Key: []byte("k"), Value: []byte("v"), TTL: 2 * time.Second}); err != nil {
			t.Fatal(err)
		}
		r, err := get(c.hosts["b"], "k")
		if err != nil || !r.HasTTL || r.TTL > 2*time.Second || r.TTL < 1900*time.Millisecond {
			t.Fatalf("at first: %+v, %v", r, err)
		}
		time.Sleep(1500 * time.Millisecond)
		if r, err = get(c.hosts["b"], "k"); err != nil || r.TTL > 600*time.Millisecond {
			t.Errorf("later: %+v, %v", r, err)
		}
		time.Sleep(time.Second)
		_, err = get(c.hosts["b"], "k")
		var notLeader *NotLeaderError
		if !errors.As(err, &notLeader) || notLeader.Leader != "a" {
			t.Errorf("when it is due: %v, want it left to a", err)
		}
		if r, err := old(c.hosts["b"], "k", Any, 0); err != nil || !r.Found || r.TTL != 0 && r.TTL > 2*time.Second {
			t.Errorf("a read that may be old: %+v, %v", r, err)
		}
		if r, err := get(l, "k"); err != nil || r.Found || r.Read != ReadLog {
			t.Errorf("on the leader: %+v, %v", r, err)
		}
		for _, name := range []string{"b", "c"} {
			if r, err := get(c.hosts[name], "k"); err != nil || r.Found {
				t.Errorf("afterwards on %s: %+v, %v", name, r, err)
			}
		}
	})
}

// TestFollowerFarBehind ensures that a read does not wait for a follower that has much to apply, nor for
// a leader that is gone.
func TestFollowerFarBehind(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		i := c.hosts["b"].Group(testShard).instance()
		held := i.fsm.applied.at()
		c.until("it is told", func() bool { return held >= l.Group(testShard).Status().Applied || i.fsm.applied.at() > held })
		c.net.Isolate("b", "a", "c")
		for n := range maxReadLag + 100 {
			c.mustPut(l, fmt.Sprint("k", n), "v")
		}
		// It reaches the leader again for the question alone: what it lacks does not come.
		c.net.Heal()
		c.net.DropWhen(func(from, to string, frame []byte) bool { return from == "a" && to == "b" && frame[0] == frameRaft })
		c.until("linked again", func() bool {
			began := time.Now()
			_, err := get(c.hosts["b"], "k")
			var notLeader *NotLeaderError
			if err == nil || time.Since(began) > 300*time.Millisecond {
				t.Fatalf("read far behind: %v after %v", err, time.Since(began))
			}
			return errors.As(err, &notLeader) && notLeader.Leader == "a"
		})
	})
}

// TestReadIndexEnds ensures that questions end with the instance, and readers with their deadlines.
func TestReadIndexEnds(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		c.net.Hold("a", "b")
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		began := time.Now()
		if _, err := c.hosts["b"].Do(ctx, "b", Request{Shard: testShard, Op: OpGet, Key: []byte("k")}); !errors.Is(err, ErrDeadline) {
			t.Errorf("past its deadline: %v", err)
		}
		if took := time.Since(began); took > 60*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		wait := readers(c.hosts["b"], "k", 3)
		synctest.Wait()
		h := c.hosts["b"]
		delete(c.hosts, "b")
		if err := h.Close(); err != nil {
			t.Error(err)
		}
		for _, err := range func() []error { _, errs := wait(); return errs }() {
			if err == nil || !Refused(err) {
				t.Errorf("a read on a node that closed: %v", err)
			}
		}
		c.net.Release("a", "b")
	})
}

// TestFollowerRefusesSoon ensures that a follower whose leader is gone refuses reads at once, that one whose
// leader went silent spends one request on it, and that it serves again as soon as it follows another.
func TestFollowerRefusesSoon(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		c.mustPut(c.followed("a"), "k", "v")
		f := c.hosts["b"]
		refused := func(what string, most time.Duration) {
			t.Helper()
			began := time.Now()
			r, err := get(f, "k")
			if took := time.Since(began); !errors.Is(err, ErrUnreachable) && !errors.Is(err, ErrNoLeader) || took > most {
				t.Errorf("%s: %+v, %v after %v", what, r, err, took)
			}
		}
		c.net.Isolate("c", "b") // no election
		for _, dir := range [][2]string{{"a", "b"}, {"b", "a"}, {"a", "c"}, {"c", "a"}} {
			c.net.Hold(dir[0], dir[1])
		}
		refused("silent leader", readIndexTimeout)
		time.Sleep(300 * time.Millisecond)
		refused("leader not heard for a second", time.Millisecond)
		for _, dir := range [][2]string{{"a", "b"}, {"b", "a"}, {"a", "c"}, {"c", "a"}} {
			c.net.Release(dir[0], dir[1])
		}
		c.net.Heal()
		c.until("b serves again", func() bool { _, err := get(f, "k"); return err == nil })

		l := c.followed("a")
		for _, o := range c.others("a") {
			c.net.Hold("a", o)
			c.net.Hold(o, "a")
		}
		time.Sleep(700 * time.Millisecond) // an election comes before a request made now ends by itself
		served := time.Time{}
		c.until("b serves under another leader", func() bool {
			if r, err := get(f, "k"); err != nil || r.Read == ReadFollower && f.Group(testShard).Status().Leader == "a" {
				return false
			}
			served = time.Now()
			return true
		})
		next := c.leader("b", "c")
		if next == l || time.Since(served) > 100*time.Millisecond {
			t.Errorf("served %v before there was a leader", time.Since(served))
		}
		for _, o := range c.others("a") {
			c.net.Release("a", o)
			c.net.Release(o, "a")
		}
		c.wantSameState()

		c.followed("a")
		c.crash("a")
		refused("leader gone", 10*time.Millisecond)
	})
}

// TestFollowerOfAnotherGeneration ensures that a replica whose state is of another life of the shard than
// its leader's serves no read by the leader's index.
func TestFollowerOfAnotherGeneration(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l, f := c.followed("a"), c.hosts["b"]
		c.mustPut(l, "k", "v")
		c.wantGet(f, "k", "v")
		other := fsm.New()
		grant := fsm.Grant{Range: fsm.Range{Start: 0, End: fsm.Slots}, Epoch: 2, Generation: 2, VersionBits: 2, Limit: 1 << 20, TableVersion: 2}
		if _, err := other.Apply(l.Group(testShard).Status().Applied, fsm.Batch{Stamp: 1, Level: commandLevel,
			Commands: []fsm.Command{{Kind: fsm.KindGrant, Grant: grant}}}); err != nil {
			t.Fatal(err)
		}
		i := f.Group(testShard).instance()
		i.follows.fresh.Store(0)
		m := i.fsm.machine.(*cacheMachine)
		m.mu.Lock()
		m.m = other
		m.mu.Unlock()
		_, err := get(f, "k")
		c.wantLeftToLeader("linearizable", err, "a")
		_, err = old(f, "k", Any, 0)
		c.wantLeftToLeader("any", err, "a")
		_, err = old(f, "k", Bounded, time.Minute)
		c.wantLeftToLeader("bounded", err, "a")
	})
}

// TestRecycledInstanceKnowsNoAge ensures that what one Raft instance had confirmed says nothing of the next
// one's state.
func TestRecycledInstanceKnowsNoAge(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		c.mustPut(c.followed("a"), "k", "v")
		f := c.hosts["b"]
		if r, err := old(f, "k", Any, 0); err != nil || r.Read != ReadFollower {
			t.Fatalf("%+v, %v", r, err)
		}
		if r, err := old(f, "k", Any, 0); err != nil || r.Read != ReadLocal {
			t.Fatalf("%+v, %v", r, err)
		}
		g := f.Group(testShard)
		before := g.instance()
		before.installed <- struct{}{}
		c.until("another instance runs", func() bool { i := g.instance(); return i != nil && i != before })
		c.until("it serves", func() bool {
			r, err := old(f, "k", Any, 0)
			if err == nil && (r.Read != ReadFollower || string(r.Value) != "v") {
				t.Fatalf("the first read of the new instance: %+v", r)
			}
			return err == nil
		})
	})
}

// TestReadCommitIsChecked ensures that a follower takes the entry at a read index for committed only if it
// has that very entry: its own uncommitted one at that place may be another.
func TestReadCommitIsChecked(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		// c has one entry more, which nobody else gets.
		c.net.DropWhen(func(_, to string, frame []byte) bool {
			a, ok := appendIn(frame)
			return ok && to != "c" && len(a.Entries) > 0
		})
		index := l.Group(testShard).Status().Last + 1
		ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
		defer cancel()
		_, _ = l.Do(ctx, "a", Request{Shard: testShard, Op: OpPut, Key: []byte("k"), Value: []byte("uncommitted")})
		i := c.hosts["c"].Group(testShard).instance()
		if i.raft.LastIndex() != index || i.raft.CommitIndex() >= index {
			t.Fatalf("c has entries up to %d, committed up to %d", i.raft.LastIndex(), i.raft.CommitIndex())
		}
		term := i.raft.CurrentTerm()
		x := readIndex{leader: "a", commit: index, term: term, commitTerm: term + 1}
		i.learnCommit(x)
		if got := i.raft.CommitIndex(); got >= index {
			t.Errorf("an entry of another term was taken for committed: commit index %d", got)
		}
		x.term, x.commitTerm = term-1, term
		i.learnCommit(x)
		if got := i.raft.CommitIndex(); got >= index {
			t.Errorf("the word of a leader of an earlier term was taken: commit index %d", got)
		}
		if i.raft.State() != raft.Follower {
			t.Errorf("state %v", i.raft.State())
		}
	})
}

// wantLeftToLeader wants a read to be refused with the leader's name.
func (c *cluster) wantLeftToLeader(what string, err error, leader string) {
	c.t.Helper()
	var elsewhere *NotLeaderError
	if !errors.As(err, &elsewhere) || elsewhere.Leader != leader {
		c.t.Errorf("%s: %v, want it left to %s", what, err, leader)
	}
}

// TestDeposedLeaderGivesNoIndex ensures that a leader which was cut off with one follower, while the others
// elected another and acknowledged a newer value, confirms no read of that follower, whether its request
// waited since before or came after; and that no answer of a voter from before helps it.
func TestDeposedLeaderGivesNoIndex(t *testing.T) {
	tune := func(n string, cfg *Config) {
		patient("a")(n, cfg)
		if n == "d" {
			patient("d")(n, cfg)
		}
	}
	inBubble(t, 5, tune, func(c *cluster) {
		a, f := c.followed("a"), c.hosts["d"]
		c.mustPut(a, "k", "old")
		c.wantGet(f, "k", "old")
		c.net.Hold("d", "a") // a is stopped: what reaches it waits
		for _, n := range []string{"b", "c", "e"} {
			c.net.Hold(n, "a")
			c.net.Isolate("d", n)
			c.net.SetFaults("a", n, LinkFaults{Cut: true})
		}
		c.net.DropWhen(func(from, to string, frame []byte) bool { // nobody tells a of the election
			return from != "d" && to == "a" && isRequest(frame)
		})
		early := readers(f, "k", 3)
		next := c.leader("b", "c", "e")
		c.mustPut(next, "k", "new")
		time.Sleep(10 * time.Millisecond)
		late := readers(f, "k", 3)
		synctest.Wait()
		if s := f.Group(testShard).Status(); s.Leader != "a" || !a.Group(testShard).Status().Ready {
			t.Fatalf("d follows %q already: this proves nothing", s.Leader)
		}
		c.net.Release("d", "a") // a goes on
		synctest.Wait()
		more := readers(f, "k", 3)
		for _, n := range []string{"b", "c", "e"} { // and gets the answers from before
			c.net.Release(n, "a")
		}
		_, errs := early() // they began before the newer value was acknowledged
		for _, err := range errs {
			if err != nil && !Refused(err) {
				t.Errorf("an early reader: %v", err)
			}
		}
		for _, wait := range []func() ([]Response, []error){late, more} {
			resps, errs := wait()
			for i, err := range errs {
				if err == nil && string(resps[i].Value) != "new" {
					t.Errorf("stale read on a follower: %q after %q was acknowledged", resps[i].Value, "new")
				}
				if err != nil && !Refused(err) {
					t.Errorf("a late reader: %v", err)
				}
			}
		}
		c.net.DropWhen(nil)
		c.net.Heal()
		c.until("d serves the newer value", func() bool {
			r, err := get(f, "k")
			if err == nil && string(r.Value) != "new" {
				t.Fatalf("stale read: %+v", r)
			}
			return err == nil
		})
		c.wantSameState()
	})
}

// compactedStore is a store whose log is compacted just as somebody looks at an entry of it.
type compactedStore struct {
	replicaStore
	compact func()
}

func (s compactedStore) Kind(uint64) (raft.LogType, bool) {
	s.compact()
	return 0, false
}

// TestVisibleAcrossCompaction ensures that the index which a read must see is not below the commit index
// where a snapshot takes the entry away between two looks: what was applied by then covers it.
func TestVisibleAcrossCompaction(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.followed("a")
		c.mustPut(l, "k", "v")
		g := l.Group(testShard)
		i := g.instance()
		commit := i.fsm.applied.at() + 5
		compacted := &instance{fsm: i.fsm, group: &Group{store: compactedStore{g.store, func() { i.fsm.applied.reach(commit) }}}}
		if got := compacted.visible(commit); got < commit {
			t.Errorf("a read must see %d, committed is %d", got, commit)
		}
	})
}
