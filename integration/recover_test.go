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

// TestRecoverKeepsData ensures that a shard of which one replica is left, and which is recovered with what that one has, has all that was acknowledged, with
// the versions, idempotency keys and order of use that it had; and that it has three replicas again once nodes take them, which go on with that.
func TestRecoverKeepsData(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Nodes: 5, Replicas: 3, Shards: 10, Delay: time.Millisecond})
	a, gone := c.Node("a"), []*cluster.Node{c.Node("d"), c.Node("e")}
	if answer, err := a.Set(within(t, 10*time.Second), "shard-bytes", "128KiB"); err != nil || answer.Status != 200 {
		t.Fatal(answer, err)
	}
	tag, shard := "", uint64(0)
	for i := 0; tag == ""; i++ {
		l, err := a.Locate(within(t, 10*time.Second), fmt.Sprint(i))
		if err != nil || i > 1000 {
			t.Fatalf("no shard has members on d and e: %+v, %v", l, err)
		}
		if slices.Contains(l.Members, "d") && slices.Contains(l.Members, "e") {
			tag, shard = fmt.Sprintf("{%d}", i), l.Shard
		}
	}
	// Of these keys the first few are used again, so the others are the first to go.
	const keys, used = 40, 10
	key := func(n int) string { return fmt.Sprint(tag, n) }
	value := strings.Repeat("v", 1000)
	versions := map[string]uint64{}
	for n := range keys {
		versions[key(n)] = put(t, a, key(n), value)
	}
	for n := range used {
		if answer := raw(t, a, "GET", "/v1/kv/"+key(n), nil, ""); answer.StatusCode != 200 {
			t.Fatal(answer.Status)
		}
	}
	if !until(t, func() bool { return len(pendingTouches(t, c, shard, used)) == 0 }) { // their recency goes through the log
		t.Fatal(pendingTouches(t, c, shard, used))
	}
	once := []string{fmt.Sprintf(`Idempotency-Key: "%d-recover"`, time.Now().Add(9*time.Second).UnixMilli())}
	incr := raw(t, a, "POST", "/v1/kv/"+tag+"n?op=incr&by=5", once, "")
	if incr.StatusCode != 200 || incr.body != "5" {
		t.Fatal(incr.Status, incr.body)
	}
	if !until(t, func() bool { // a majority has it now, and the one that stays may be the third
		_, err := a.Checksums(within(t, 10*time.Second), shard)
		return err == nil
	}) {
		t.Fatal("the replicas do not agree")
	}
	for _, n := range gone {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	recover := func(body string) (view struct{ Kept, Against string }, status int) {
		t.Helper()
		answer, err := a.Ask(within(t, 30*time.Second), "POST", fmt.Sprintf("/v1/shards/%d/recover", shard), body, "Content-Type", "application/json")
		if err != nil {
			t.Fatal(err)
		}
		_ = json.Unmarshal(answer.Body, &view) // an error leaves it empty
		return view, answer.Status
	}
	if !until(t, func() bool { // while the nodes count as up, it is refused
		plan, status := recover(`{"keep_data":true}`)
		return status == 200 && plan.Kept != "" && plan.Against == ""
	}) {
		t.Fatal("no plan to keep anything")
	}
	if done, status := recover(`{"keep_data":true,"unsafe":true,"generation":1}`); status != 202 || done.Kept == "" {
		t.Fatal(done, status)
	}
	if !until(t, func() bool { return raw(t, a, "GET", "/v1/kv/"+key(0)+"?touch=false", nil, "").StatusCode == 200 }) {
		t.Fatal("the shard does not serve")
	}
	there := func(at *cluster.Node, n int) bool {
		t.Helper()
		answer := raw(t, at, "GET", "/v1/kv/"+key(n)+"?touch=false", nil, "")
		if answer.StatusCode == 200 && answer.Header.Get("ETag") != fmt.Sprintf("%q", fmt.Sprint(versions[key(n)])) {
			t.Errorf("%s has ETag %s, want %d", key(n), answer.Header.Get("ETag"), versions[key(n)])
		}
		return answer.StatusCode == 200
	}
	for n := range keys {
		if !there(a, n) {
			t.Errorf("%s is lost", key(n))
		}
	}
	if again := raw(t, a, "POST", "/v1/kv/"+tag+"n?op=incr&by=5", once, ""); again.body != "5" || again.Header.Get("Idempotency-Replayed") != "?1" ||
		again.Header.Get("ETag") != incr.Header.Get("ETag") {
		t.Errorf("the same increment again: %s %s %v", again.Status, again.body, again.Header)
	}
	for n := keys; there(a, used); n++ { // until the oldest is evicted
		if version := put(t, a, key(n), value); version <= versions[key(keys-1)] {
			t.Fatalf("version %d after %d", version, versions[key(keys-1)])
		} else if n > 1000 {
			t.Fatal("nothing is evicted")
		}
	}
	for n := range keys {
		if n != used && !there(a, n) {
			t.Errorf("%s is evicted before one that was not used as long", key(n))
		}
	}
	if !until(t, func() bool { // three nodes are left, and all take one
		s, err := a.Shard(within(t, 10*time.Second), shard)
		return err == nil && len(s.Members) == 3 && !slices.ContainsFunc(s.Members, func(m struct{ Node, Role string }) bool { return m.Role != "voter" })
	}) {
		t.Fatal("the shard has not got three members again")
	}
	l, err := a.Locate(within(t, 10*time.Second), key(0))
	if err != nil || l.Leader == "" {
		t.Fatalf("%+v, %v", l, err)
	}
	leader := c.Node(l.Leader)
	at := c.Node("b")
	if leader == at {
		at = c.Node("c")
	}
	if err := leader.Kill(); err != nil { // the others have it too: the directory has no quorum now, and isn't needed
		t.Fatal(err)
	}
	if !until(t, func() bool { return there(at, 0) }) {
		t.Fatal("nobody serves without the node that had it first")
	}
	for n := range used {
		if !there(at, n) {
			t.Errorf("%s is lost with the node that had it first", key(n))
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
// pendingTouches says why the touches of a shard's reads, so many at least, are not all in its log; "" where they are.
func pendingTouches(t *testing.T, c *cluster.Cluster, shard uint64, least int) string {
	t.Helper()
	counts := map[string]int{}
	for _, n := range c.Nodes {
		for line := range strings.Lines(raw(t, n, "GET", "/metrics", nil, "").body) {
			for _, outcome := range []string{"collected", "deduplicated", "skipped", "replicated", "dropped"} {
				if value, ok := strings.CutPrefix(line, fmt.Sprintf("larder_touches_total{outcome=%q,shard=\"%d\"} ", outcome, shard)); ok {
					count, err := strconv.Atoi(strings.TrimSpace(value))
					if err != nil {
						t.Fatal(err)
					}
					counts[outcome] += count
				}
			}
		}
	}
	if counts["replicated"] >= least {
		return ""
	}
	return fmt.Sprintf("%d touches are to be in the log of shard %d: %v", least, shard, counts)
}

func until(t *testing.T, holds func() bool) bool {
	t.Helper()
	return cluster.Poll(within(t, time.Minute), holds) == nil
}
