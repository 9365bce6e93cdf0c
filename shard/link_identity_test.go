package shard

import (
	"context"
	"encoding/binary"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestRaftFramesNameTheirReplica ensures that a Raft message is answered by exactly the replica that it
// names, from a member that it comes from, and that no other Raft instance hears of it.
func TestRaftFramesNameTheirReplica(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.lead("a")
		link := c.dial("a", "b")
		g := c.hosts["b"].Group(testShard)
		vote := appendVote(nil, 1000, 1000, 1000, true, true)
		for _, tc := range []struct {
			name           string
			shard          ID
			source, target string
		}{
			{"another life of the replica", 1, "1/a/1", "1/b/2"},
			{"another node's replica", 1, "1/a/1", "1/c/1"},
			{"a shard that is not here", 2, "2/a/1", "2/b/1"},
			{"a replica of another shard", 1, "1/a/1", "2/b/1"},
			{"in another node's name", 1, "1/c/1", "1/b/1"},
			{"from another shard", 1, "2/a/1", "1/b/1"},
		} {
			if answer, err := link.askRaft(tc.shard, tc.source, tc.target, rpcVote, vote); err == nil {
				t.Errorf("%s: answered %x", tc.name, answer)
			}
		}
		i := g.inst.Swap(nil)
		if _, err := link.askRaft(1, "1/a/1", "1/b/1", rpcVote, vote); !errors.Is(err, ErrStopped) {
			t.Errorf("without an instance: %v", err)
		}
		g.inst.Store(i)
		if term := g.store.Term(); term >= 1000 {
			t.Errorf("a message for another moved the term to %d", term)
		}
		// The same message to the right replica is heard.
		if _, err := link.askRaft(1, "1/a/1", "1/b/1", rpcVote, vote); err != nil {
			t.Error(err)
		}
		if term := g.store.Term(); term != 1000 {
			t.Errorf("the term is %d", term)
		}
		c.until("life goes on", func() bool { return l.Group(testShard).Status().Term > 1000 || c.leader() != nil })
	})
}

// TestOtherIncarnationRefused ensures that a node which comes back with another data folder is refused
// by those who know it, whoever dials, and that it learns so and ends itself.
func TestOtherIncarnationRefused(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		c.mustPut(c.lead("a"), "k", "v")
		founders := c.memory["c"].Identity().Initial
		c.crash("c")
		known := map[string]Peer{}
		for _, n := range c.names {
			known[n] = Peer{Addr: addrOf(n), Incarnation: c.memory[n].Identity().Incarnation}
		}
		wiped := NewMemory("c")
		if err := wiped.Form(c.cluster, founders); err != nil {
			t.Fatal(err)
		}
		c.memory["c"] = wiped
		h := c.start("c")
		c.until("the wiped node ends itself", func() bool { return errors.Is(c.fatal("c"), ErrDataLost) })
		// The others keep asking for the folder that they know: their links to it come to nothing.
		c.hosts["a"].SetPeers(known)
		c.until("a refuses the wiped node", func() bool {
			_, err := c.hosts["a"].Call(context.Background(), "c", "x", nil)
			return errors.Is(err, ErrDataLost)
		})
		time.Sleep(5 * time.Second)
		if s := h.Group(testShard).Status(); s.Leader != "" || s.Term > 1 {
			t.Errorf("the wiped replica took part: %+v", s)
		}
		c.mustPut(c.leader("a", "b"), "k", "v2")
	})
}

// TestOtherFolderIsNotHeard ensures that a node which asks to join under the id of one that is known by
// another data folder does not pass for that one: it does not count as heard, nor does its gossip.
func TestOtherFolderIsNotHeard(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		c.lead("a")
		c.crash("c")
		a := c.hosts["a"]
		var gossip atomic.Int64
		a.Gossip(nil, func(from string, _ []byte) {
			if from == "c" {
				gossip.Add(1)
			}
		})
		wiped, err := NewHost(Config{Node: "c", Memory: NewMemory("c"), Network: c.net.From("c"), Addr: addrOf("c")})
		if err != nil {
			t.Fatal(err)
		}
		if err := wiped.Start(); err != nil {
			t.Fatal(err)
		}
		defer wiped.Close()
		a.Handle("form.join", func(_ context.Context, from string, _ []byte) ([]byte, error) { return []byte(from), nil })
		wiped.SetPeers(map[string]Peer{"a": {Addr: addrOf("a")}})
		c.until("it asks", func() bool {
			_, err := wiped.Call(context.Background(), "a", "form.join", nil)
			return err == nil
		})
		asked := time.Now()
		time.Sleep(5 * time.Second)
		if heard := a.Heard("c"); heard.After(asked) || gossip.Load() > 0 {
			t.Errorf("c was heard at %v, %d of its reports counted, but another folder spoke from %v on", heard, gossip.Load(), asked)
		}
	})
}

// TestOtherClusterRefused ensures that nodes of different clusters, other protocols, and callers that
// mean another node get no link.
func TestOtherClusterRefused(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		good := hello{min: protocolMin, max: protocolMax, cluster: c.cluster, node: "b",
			incarnation: c.memory["b"].Identity().Incarnation, target: "a"}
		if _, err := c.dialAs("b", "a", good); err != nil {
			t.Fatal(err)
		}
		for _, tc := range []struct {
			name   string
			change func(h *hello)
			want   error
		}{
			{"another cluster", func(h *hello) { h.cluster = "other" }, ErrWrongCluster},
			{"a later protocol only", func(h *hello) { h.min, h.max = protocolMax+1, protocolMax+2 }, ErrWrongCluster},
			{"an earlier protocol only", func(h *hello) { h.min, h.max = 0, protocolMin-1 }, ErrWrongCluster},
			{"another node meant", func(h *hello) { h.target = "z" }, ErrWrongCluster},
			{"another data folder", func(h *hello) { h.incarnation = "other" }, ErrDataLost},
		} {
			h := good
			tc.change(&h)
			if _, err := c.dialAs("b", "a", h); !errors.Is(err, tc.want) {
				t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
			}
		}
		// The dialling side checks as well, should the other let it in.
		c.crash("b")
		listener, err := c.net.From("b").Listen(addrOf("b"))
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			for {
				link, err := listener.Accept()
				if err != nil {
					return
				}
				if _, err := link.Recv(); err == nil {
					stranger := hello{min: protocolMin, max: protocolMax, cluster: "other", node: "b", incarnation: good.incarnation}
					_ = link.Send([][]byte{replyFrame(0, stranger.append(nil), nil)})
				}
			}
		}()
		c.until("a refuses the stranger", func() bool {
			_, err := c.hosts["a"].Call(context.Background(), "b", "x", nil)
			return errors.Is(err, ErrWrongCluster)
		})
	})
}

// TestUnformedNodes ensures that a node which is not a member yet is served the calls for forming a
// cluster and nothing else, and that it serves nothing else itself.
func TestUnformedNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster(t, 2, nil)
		c.names = []string{"a", "b", "n"}
		c.memory["n"] = NewMemory("n")
		for _, n := range c.names {
			h, err := NewHost(Config{Node: n, Memory: c.memory[n], Network: c.net.From(n), Addr: addrOf(n)})
			if err != nil {
				t.Fatal(err)
			}
			for _, method := range []string{"form.join", "other"} {
				h.Handle(method, func(_ context.Context, from string, p []byte) ([]byte, error) {
					return []byte(from + " called " + method), nil
				})
			}
			if err := h.Start(); err != nil {
				t.Fatal(err)
			}
			c.hosts[n] = h
		}
		defer c.close()
		for _, n := range c.names {
			peers := map[string]Peer{}
			for _, o := range c.names {
				peers[o] = Peer{Addr: addrOf(o)}
			}
			c.hosts[n].SetPeers(peers)
		}
		for _, pair := range [][2]string{{"n", "a"}, {"a", "n"}} {
			from, to := c.hosts[pair[0]], pair[1]
			c.until("a form call is served", func() bool {
				answer, err := from.Call(context.Background(), to, "form.join", nil)
				return err == nil && string(answer) == from.Node()+" called form.join"
			})
			if _, err := from.Call(context.Background(), to, "other", nil); err == nil || !strings.Contains(err.Error(), "no method") {
				t.Errorf("%s calls another method of %s: %v", from.Node(), to, err)
			}
			if _, err := from.Do(context.Background(), to, Request{Shard: 1, Op: OpGet, Key: []byte("k")}); !errors.Is(err, ErrUnreachable) {
				t.Errorf("%s forwards a request to %s: %v", from.Node(), to, err)
			}
		}
		// What its own side would not send, it does not get either.
		link, err := c.dialAs("n", "a", hello{min: protocolMin, max: protocolMax, node: "n", incarnation: c.memory["n"].Identity().Incarnation, target: "a"})
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range []byte{frameRaft, frameProbe, frameData} {
			if _, err := link.ask(kind, binary.AppendUvarint(nil, 0)); !errors.Is(err, ErrUnreachable) {
				t.Errorf("frame of kind %d: %v", kind, err)
			}
		}
		// Members among each other are served, and so is the newcomer once it is one.
		founders := c.memory["a"].Identity().Initial
		if err := c.hosts["n"].Form(c.cluster, founders); err != nil {
			t.Fatal(err)
		}
		for _, from := range []string{"b", "n"} {
			c.until(from+" is served as a member", func() bool {
				_, err := c.hosts[from].Call(context.Background(), "a", "other", nil)
				return err == nil
			})
		}
	})
}
