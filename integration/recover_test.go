package integration

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// TestRecoverShards ensures that shards of which a majority of replicas is on nodes that are gone serve nobody until an operator recovers
// them; that they then miss what they held, or, where that was asked for, have all that the replica which was left had; that they take writes with
// higher versions; that a repeat is refused; and that the nodes, when they are back after all, with
// their data, serve nothing of what was given up.
func TestRecoverShards(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Nodes: 5, Replicas: 3, Shards: 10, Delay: time.Millisecond})
	a, gone := c.Node("a"), []*cluster.Node{c.Node("d"), c.Node("e")}
	directory, err := a.Directory(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[uint64]string{} // one of each shard that loses its quorum
	versions := map[uint64]uint64{}
	for _, s := range directory.Shards {
		lost := 0
		for _, m := range s.Members {
			if slices.ContainsFunc(gone, func(n *cluster.Node) bool { return n.ID == m.Node }) {
				lost++
			}
		}
		if lost < 2 {
			continue
		}
		for i := 0; keys[s.ID] == ""; i++ {
			if l, err := a.Locate(within(t, 10*time.Second), fmt.Sprint("key", i)); err != nil {
				t.Fatal(err)
			} else if l.Shard == s.ID {
				keys[s.ID] = fmt.Sprint("key", i)
			}
		}
		versions[s.ID] = put(t, a, keys[s.ID], "before")
	}
	if len(keys) == 0 {
		t.Fatalf("no shard loses its quorum: %+v", directory.Shards)
	}
	for _, n := range gone {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	ask := func(shard uint64, body string) cluster.Answer {
		t.Helper()
		answer, err := a.Ask(within(t, 30*time.Second), "POST", fmt.Sprintf("/v1/shards/%d/recover", shard), body, "Content-Type", "application/json")
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	kept := map[uint64]bool{}
	for shard, key := range keys {
		kept[shard] = len(kept)%2 == 0
		if answer := raw(t, a, "GET", "/v1/kv/"+key, []string{"Larder-Timeout: 1s"}, ""); answer.StatusCode != 503 {
			t.Errorf("shard %d without a quorum answers %s %s", shard, answer.Status, answer.body)
		}
		var plan struct {
			Generation uint64
			Against    string
		}
		if !until(t, func() bool { // while the nodes count as up, it is refused
			plan.Against = ""
			answer := ask(shard, "{}")
			return answer.Status == 200 && json.Unmarshal(answer.Body, &plan) == nil && plan.Against == ""
		}) {
			t.Fatalf("shard %d: %s", shard, plan.Against)
		}
		request := fmt.Sprintf(`{"unsafe":true,"generation":%d,"keep_data":%t}`, plan.Generation, kept[shard])
		if answer := ask(shard, request); answer.Status != 202 {
			t.Fatalf("recovering shard %d: %s", shard, answer)
		}
		if answer := ask(shard, request); answer.Status != 409 {
			t.Errorf("recovering shard %d again: %s", shard, answer)
		}
	}
	for shard, key := range keys {
		answer := raw(t, a, "GET", "/v1/kv/"+key, nil, "")
		switch tag := answer.Header.Get("ETag"); {
		case !kept[shard] && answer.StatusCode != 404:
			t.Errorf("shard %d, recovered, answers %s %s", shard, answer.Status, answer.body)
		case kept[shard] && (answer.body != "before" || tag != fmt.Sprintf("%q", fmt.Sprint(versions[shard]))):
			t.Errorf("shard %d, recovered with its data, answers %s %s, %s, want version %d", shard, answer.Status, answer.body, tag, versions[shard])
		}
		if version := put(t, a, key, "after"); version <= versions[shard] {
			t.Errorf("shard %d: version %d after %d", shard, version, versions[shard])
		}
	}
	for _, n := range gone {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	for began := time.Now(); time.Since(began) < 5*time.Second; {
		for _, n := range gone {
			for _, query := range []string{"", "?consistency=any", "?route=local"} {
				for shard, key := range keys {
					req, err := http.NewRequestWithContext(within(t, time.Second), "GET", n.URL+"/v1/kv/"+key+query, nil)
					if err != nil {
						t.Fatal(err)
					}
					resp, err := http.DefaultClient.Do(req)
					if err != nil {
						continue // it is not up yet
					}
					body := make([]byte, 16)
					size, _ := resp.Body.Read(body)
					resp.Body.Close()
					if resp.StatusCode == 200 && string(body[:size]) != "after" {
						t.Fatalf("%s answers %q of shard %d%s", n.ID, body[:size], shard, query)
					}
				}
			}
		}
	}
	c.WaitReady(t, 60*time.Second)
	for shard, key := range keys {
		for _, n := range c.Nodes {
			if answer := raw(t, n, "GET", "/v1/kv/"+key, nil, ""); answer.body != "after" {
				t.Errorf("shard %d at %s: %s %s", shard, n.ID, answer.Status, answer.body)
			}
		}
	}
}

// put stores a value and returns its version.
func put(t *testing.T, n *cluster.Node, key, value string) uint64 {
	t.Helper()
	a := raw(t, n, "PUT", "/v1/kv/"+key, nil, value)
	version, err := strconv.ParseUint(strings.Trim(a.Header.Get("ETag"), `"`), 10, 64)
	if a.StatusCode/100 != 2 || err != nil {
		t.Fatalf("put of %s at %s answered %s %s", key, n.ID, a.Status, a.body)
	}
	return version
}

// until asks until something holds, for a minute.
func until(t *testing.T, holds func() bool) bool {
	t.Helper()
	return cluster.Poll(within(t, time.Minute), holds) == nil
}
