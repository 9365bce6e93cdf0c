package shard

import (
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

// TestSuccession ensures that a lost leader is replaced as soon as what happened to it can be told: well before the library's
// own timeouts, by one election, and whatever was written before; also where shards are so many that heartbeats are rare.
func TestSuccession(t *testing.T) {
	for _, l := range []struct {
		name   string
		lose   func(c *cluster, leader string)
		within time.Duration
	}{
		{"its process is gone", func(c *cluster, leader string) { c.crash(leader) }, 200 * time.Millisecond},
		{"its process is started again", func(c *cluster, leader string) { c.crash(leader); c.start(leader) }, 700 * time.Millisecond},
		{"its machine is gone", func(c *cluster, leader string) { c.net.Kill(leader) }, 1300 * time.Millisecond},
	} {
		for _, shards := range []int{0, 1000} {
			t.Run(fmt.Sprintf("%s, %d shards", l.name, shards), func(t *testing.T) {
				for round := range 10 {
					inBubbleWithShards(t, 3+2*(round%2), shards, func(c *cluster) {
						leader := c.leader()
						c.mustPut(leader, "k", "v")
						time.Sleep(time.Second + time.Duration(round)*17*time.Millisecond)
						term, began := leader.Group(testShard).Status().Term, time.Now()
						l.lose(c, leader.Node())
						next := c.leader(c.others(leader.Node())...)
						if took := time.Since(began); took > l.within {
							t.Errorf("another leads after %v, at most %v expected", took, l.within)
						}
						if now := next.Group(testShard).Status().Term; now != term+1 {
							t.Errorf("%d elections, one expected", now-term)
						}
						c.wantGet(next, "k", "v")
						c.net.Revive(leader.Node())
					})
				}
			})
		}
	}
}

// inBubbleWithShards is inBubble in a cluster that has so many shards.
func inBubbleWithShards(t *testing.T, n, shards int, f func(c *cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, n, nil)
		c.shards = shards
		defer c.close()
		c.startAll()
		f(c)
	})
}

// TestManyShards ensures that groups whose leaders' nodes are heard make do with rare heartbeats where shards are many, that nobody
// stands for election meanwhile, and that a leader is replaced which can't be heard though its node is.
func TestManyShards(t *testing.T) {
	heartbeats := map[int]int{} // by shards, in a minute
	for _, shards := range []int{manyShards, 1000} {
		inBubbleWithShards(t, 3, shards, func(c *cluster) {
			leader := c.leader()
			c.mustPut(leader, "k", "v")
			var raftFrames atomic.Int64
			c.net.DropWhen(func(from, _ string, frame []byte) bool {
				if from == leader.Node() && frame[0] == frameRaft {
					raftFrames.Add(1)
				}
				return false
			})
			term := leader.Group(testShard).Status().Term
			time.Sleep(time.Minute)
			heartbeats[shards] = int(raftFrames.Load())
			if now := leader.Group(testShard).Status(); !now.Ready || now.Term != term {
				t.Errorf("%d shards: term %d became %d within a quiet minute", shards, term, now.Term)
			}
			c.net.DropWhen(func(from, _ string, frame []byte) bool { return from == leader.Node() && frame[0] == frameRaft })
			began := time.Now()
			next := c.leader(c.others(leader.Node())...)
			if took := time.Since(began); took > 3*time.Second*time.Duration(leader.patience()/time.Second) {
				t.Errorf("%d shards: a leader that can't be heard is replaced after %v", shards, took)
			}
			c.net.DropWhen(nil)
			c.wantGet(next, "k", "v")
		})
	}
	if few, many := heartbeats[manyShards], heartbeats[1000]; many == 0 || many > few/(mostPatience-1) {
		t.Errorf("%d messages of the leader in an idle minute with few shards, %d with many", few, many)
	}
}

// TestSuccessionSlowDisk ensures that voters whose disks are slow don't split their votes: one that stands is waited for, though the
// others hear of it late.
func TestSuccessionSlowDisk(t *testing.T) {
	for _, write := range []time.Duration{40 * time.Millisecond, 90 * time.Millisecond, 250 * time.Millisecond} {
		for round := range 4 {
			inBubble(t, 3, nil, func(c *cluster) {
				leader := c.leader()
				c.mustPut(leader, "k", "v")
				time.Sleep(time.Second + time.Duration(round)*37*time.Millisecond)
				for _, n := range c.names {
					c.hosts[n].Group(testShard).store.(*memoryStore).onTerm(func() { time.Sleep(write) })
				}
				term, began := leader.Group(testShard).Status().Term, time.Now()
				c.net.Kill(leader.Node())
				next := c.leader(c.others(leader.Node())...)
				if took, most := time.Since(began), 1350*time.Millisecond+4*write; took > most {
					t.Errorf("writes take %v: another leads after %v, at most %v expected", write, took, most)
				}
				if now := next.Group(testShard).Status().Term; now != term+1 {
					t.Errorf("writes take %v: %d elections, one expected", write, now-term)
				}
				c.net.Revive(leader.Node())
			})
		}
	}
}

// TestSuccessionPassesPreVotes ensures that a voter whose own patience ends first, and which asks for votes in vain before it stands,
// holds up nobody who could win.
func TestSuccessionPassesPreVotes(t *testing.T) {
	for n := range 2 {
		inBubble(t, 3, nil, func(c *cluster) {
			leader := c.leader()
			c.mustPut(leader, "k", "v")
			time.Sleep(time.Second)
			began := time.Now()
			c.net.Kill(leader.Node())
			time.Sleep(750 * time.Millisecond)
			early := raftOf(c.hosts[c.others(leader.Node())[n]])
			rc := early.ReloadableConfig()
			rc.HeartbeatTimeout = 650 * time.Millisecond
			if err := early.ReloadConfig(rc); err != nil {
				t.Fatal(err)
			}
			c.until("it asks", func() bool { return early.State() == raft.Candidate })
			c.leader(c.others(leader.Node())...)
			if took := time.Since(began); took > 1300*time.Millisecond {
				t.Errorf("another leads after %v", took)
			}
			c.net.Revive(leader.Node())
		})
	}
}

// TestSuccessionSlowLinks ensures that a leader stays where a message and its answer take 300 ms, and is replaced as soon where it
// is lost.
func TestSuccessionSlowLinks(t *testing.T) {
	for _, n := range []int{3, 5} {
		inBubble(t, n, nil, func(c *cluster) {
			for _, from := range c.names {
				for _, to := range c.others(from) {
					c.net.SetFaults(from, to, LinkFaults{Delay: 150 * time.Millisecond})
				}
			}
			time.Sleep(10 * time.Second)
			term := c.leader().Group(testShard).Status().Term
			time.Sleep(2 * time.Minute)
			leader := c.leader()
			if now := leader.Group(testShard).Status().Term; now != term {
				t.Errorf("%d elections, though nothing happened", now-term)
			}
			began := time.Now()
			c.crash(leader.Node())
			c.leader(c.others(leader.Node())...)
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("another leads after %v", took)
			}
		})
	}
}

// TestSuccessionByLog ensures that the follower with the longer log goes first, as the other could not win.
func TestSuccessionByLog(t *testing.T) {
	for _, behind := range []string{"b", "c"} {
		inBubble(t, 3, nil, func(c *cluster) {
			c.lead("a")
			c.net.Isolate("a", behind)
			for n := range 10 {
				c.mustPut(c.hosts["a"], fmt.Sprint("k", n), "v")
			}
			term := c.hosts["a"].Group(testShard).Status().Term
			c.net.Heal()
			c.net.DropWhen(func(from, to string, _ []byte) bool { return from == "a" && to == behind })
			c.crash("a")
			next := c.leader(c.others("a")...)
			if s := next.Group(testShard).Status(); next.Node() == behind || s.Term != term+1 {
				t.Errorf("%s leads in term %d after term %d, though its log is shorter", next.Node(), s.Term, term)
			}
		})
	}
}

// TestSuccessionNeedsOthers ensures that a follower that misses its leader alone leaves it alone, though its address refuses it.
func TestSuccessionNeedsOthers(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		leader := c.lead("a")
		term := leader.Group(testShard).Status().Term
		c.net.DropWhen(func(from, to string, _ []byte) bool { return from == "a" && to == "b" })
		p := c.hosts["b"].peer("a")
		p.refused.Store(int64(c.hosts["b"].mono()) + 1)
		time.Sleep(2 * time.Minute)
		if s := leader.Group(testShard).Status(); !s.Ready || s.Term != term {
			t.Errorf("the leader was deposed: %+v", s)
		}
		asked := &c.hosts["b"].Group(testShard).instance().heirs
		asked.mu.Lock()
		defer asked.mu.Unlock()
		if asked.tries == 0 {
			t.Error("the follower never missed it")
		}
	})
}

// TestSuccessionWithoutQuorum ensures that one that could not win does not stand: terms don't grow.
func TestSuccessionWithoutQuorum(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		c.lead("a")
		c.crash("a")
		c.crash("b")
		left := c.hosts["c"].Group(testShard)
		time.Sleep(5 * time.Second)
		term := left.store.Term()
		time.Sleep(time.Minute)
		if now := left.store.Term(); now != term {
			t.Errorf("the last voter went from term %d to %d", term, now)
		}
		c.start("b")
		c.leader("b", "c")
	})
}

// TestSuccessionDecides ensures that a replica stands where enough have lost the leader, enough would vote for it, and nobody is to
// go first.
func TestSuccessionDecides(t *testing.T) {
	const shard = 3 // a's turn is the first, b's the second, c's the last
	var voters []ReplicaID
	for _, n := range []string{"a", "b", "c"} {
		voters = append(voters, ReplicaID{shard, n, 1})
	}
	lost := successionAnswer{Term: 2, Lost: true, Able: true, LastTerm: 2, LastIndex: 10}
	with := func(change func(*successionAnswer)) successionAnswer {
		a := lost
		change(&a)
		return a
	}
	for _, c := range []struct {
		name    string
		me      string
		leader  string
		answers map[string]successionAnswer
		want    heir
	}{
		{"alone", "a", "c", map[string]successionAnswer{"a": lost}, staysBehind},
		{"all", "a", "c", map[string]successionAnswer{"a": lost, "b": lost}, goesFirst},
		{"all, second", "b", "c", map[string]successionAnswer{"a": lost, "b": lost}, goesLater},
		{"the other hears it", "a", "c", map[string]successionAnswer{"a": lost, "b": with(func(a *successionAnswer) { a.Lost = false })}, staysBehind},
		{"the first can't", "b", "c", map[string]successionAnswer{"a": with(func(a *successionAnswer) { a.Able = false }), "b": lost}, goesFirst},
		{"the first stands already", "b", "c", map[string]successionAnswer{"a": with(func(a *successionAnswer) { a.Able, a.Stands = false, true }), "b": lost}, goesLater},
		{"the second stands already", "a", "c", map[string]successionAnswer{"a": lost, "b": with(func(a *successionAnswer) { a.Able, a.Stands = false, true })}, goesLater},
		{"one stands in vain", "b", "c", map[string]successionAnswer{"a": with(func(a *successionAnswer) { a.Able, a.Stands, a.LastIndex = false, true, 9 }), "b": lost}, goesFirst},
		{"the other's log is longer", "a", "c", map[string]successionAnswer{"a": lost, "b": with(func(a *successionAnswer) { a.LastIndex++ })}, staysBehind},
		{"the other's log is of a later term", "a", "c", map[string]successionAnswer{"a": lost,
			"b": with(func(a *successionAnswer) { a.LastTerm, a.LastIndex = 3, 5 })}, staysBehind},
		{"a third one's log is longer", "b", "", map[string]successionAnswer{"a": with(func(a *successionAnswer) { a.LastIndex-- }), "b": lost,
			"c": with(func(a *successionAnswer) { a.LastIndex++ })}, goesLater},
		{"the leader says no", "a", "c", map[string]successionAnswer{"a": with(func(a *successionAnswer) { a.Lost = false }),
			"b": with(func(a *successionAnswer) { a.Lost = false }), "c": with(func(a *successionAnswer) { a.Lost = false })}, goesFirst},
		{"the leader leads", "a", "c", map[string]successionAnswer{"a": lost, "b": lost,
			"c": with(func(a *successionAnswer) { a.Lost, a.Able, a.Leads = false, false, true })}, staysBehind},
		{"one leads that was deposed", "a", "b", map[string]successionAnswer{"a": lost, "b": lost,
			"c": with(func(a *successionAnswer) { a.Term, a.Lost, a.Able, a.Leads = 1, false, false, true })}, goesFirst},
	} {
		answers := map[ReplicaID]successionAnswer{}
		for n, a := range c.answers {
			answers[ReplicaID{shard, n, 1}] = a
		}
		leader := ""
		if c.leader != "" {
			leader = ReplicaID{shard, c.leader, 1}.String()
		}
		if got := decide(ReplicaID{shard, c.me, 1}, voters, leader, answers); got != c.want {
			t.Errorf("%s: %v, %v expected", c.name, got, c.want)
		}
	}
}

// TestSuccessionSpreads ensures that shards whose logs are equally long go to different nodes.
func TestSuccessionSpreads(t *testing.T) {
	voters := []ReplicaID{{Node: "a"}, {Node: "b"}, {Node: "c"}}
	firsts := map[string]int{}
	for id := range ID(30) {
		for n := range voters {
			voters[n].Shard = id
		}
		turns := map[int]bool{}
		for _, v := range voters {
			turns[turn(v, voters)] = true
			if turn(v, voters) == 0 {
				firsts[v.Node]++
			}
		}
		if len(turns) != len(voters) {
			t.Fatalf("shard %d: two voters have the same turn", id)
		}
	}
	if firsts["a"] != 10 || firsts["b"] != 10 || firsts["c"] != 10 {
		t.Errorf("who goes first, of 30 shards: %v", firsts)
	}
}
