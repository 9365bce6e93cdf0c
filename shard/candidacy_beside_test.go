package shard

import (
	"strings"
	"testing"
	"time"
)

// TestCandidacyBesideLeader ensures that replicas which can't reach their leader, while a majority follows it, don't end candidacies of their own one after the
// other: their terms would grow, and depose the leader as soon as it is reached again.
func TestCandidacyBesideLeader(t *testing.T) {
	for _, shards := range []int{0, 1000} {
		inBubbleWithShards(t, 5, shards, func(c *cluster) {
			c.lead("a")
			term := c.hosts["a"].Group(testShard).store.Term()
			cut := func(from, to string) bool { return from == "a" && strings.Contains("cd", to) }
			c.net.DropWhen(func(from, to string, _ []byte) bool { return cut(from, to) || cut(to, from) })
			time.Sleep(2 * time.Minute)
			for _, n := range c.names {
				if now := c.hosts[n].Group(testShard).store.Term(); now != term {
					t.Errorf("%d shards: %s went from term %d to %d", shards, n, term, now)
				}
			}
			c.net.DropWhen(nil)
			time.Sleep(time.Minute)
			if s := c.hosts["a"].Group(testShard).Status(); !s.Ready || s.Term != term {
				t.Errorf("%d shards: %+v, want ready in term %d", shards, s, term)
			}
		})
	}
}

// TestCandidacyVotesSplit ensures that candidacies end which others voted for, and by which nobody can win, whatever the number of voters.
func TestCandidacyVotesSplit(t *testing.T) {
	for _, l := range []struct {
		voters int
		hears  string // who hears whom, while a is gone
	}{
		{4, "bd"},
		{5, "bd ce"},
	} {
		for _, shards := range []int{0, 1000} {
			inBubbleWithShards(t, l.voters, shards, func(c *cluster) {
				c.lead("a")
				c.mustPut(c.hosts["a"], "k", "v")
				c.net.DropWhen(func(from, to string, _ []byte) bool {
					return from != "a" && to != "a" && !strings.Contains(l.hears, from+to) && !strings.Contains(l.hears, to+from)
				})
				c.crash("a")
				c.standNow("b", "c")
				time.Sleep(300 * time.Millisecond)
				c.net.DropWhen(nil)
				began := time.Now()
				next := c.leader(c.others("a")...)
				if took := time.Since(began); took > 4*time.Second {
					t.Errorf("%d voters, %d shards: another leads after %v", l.voters, shards, took)
				}
				c.wantGet(next, "k", "v")
			})
		}
	}
}

// TestCandidacyOfTheOnlyOne ensures that a candidacy ends whose only voter neither heard of it nor could win itself, and so knows of the lost leader still.
func TestCandidacyOfTheOnlyOne(t *testing.T) {
	for _, shards := range []int{0, 1000} {
		inBubbleWithShards(t, 3, shards, func(c *cluster) {
			c.lead("a")
			c.net.DropWhen(func(from, to string, _ []byte) bool { return from == "c" || to == "c" })
			c.mustPut(c.hosts["a"], "k", "v")
			c.crash("a")
			c.standNow("b")
			time.Sleep(300 * time.Millisecond)
			c.net.DropWhen(nil)
			began := time.Now()
			next := c.leader("b", "c")
			if took := time.Since(began); took > 4*time.Second {
				t.Errorf("%d shards: another leads after %v", shards, took)
			}
			c.wantGet(next, "k", "v")
		})
	}
}
