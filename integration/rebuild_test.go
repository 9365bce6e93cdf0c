package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// TestRebuildDirectory ensures, on real processes and disks, that a directory whose majority is gone is rebuilt over REST on a node that was no member of it, while shards serve what they
// hold; that it takes changes and gets three members by itself; that a repeat is refused; that a coordinator which is killed right after goes on with it; and that
// the former members, back with all that they had, fall in line.
func TestRebuildDirectory(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Nodes: 5, Replicas: 3, Shards: 10, Delay: time.Millisecond})
	a, gone := c.Node("a"), []*cluster.Node{c.Node("d"), c.Node("e")}
	change := func(at *cluster.Node, method, path, body string, want int) {
		t.Helper()
		last := ""
		if !until(t, func() bool {
			answer, err := at.Ask(within(t, 10*time.Second), method, path, body, "Content-Type", "application/merge-patch+json")
			last = fmt.Sprint(answer, err)
			return err == nil && answer.Status == want
		}) {
			t.Fatalf("%s %s at %s: %s", method, path, at.ID, last)
		}
	}
	members := func(at *cluster.Node) []string {
		m, err := at.Members(within(t, 5*time.Second), 0)
		if err != nil {
			return nil
		}
		voters, all := m.Voters()
		if slices.Sort(voters); !all {
			return nil
		}
		return voters
	}
	change(a, "PATCH", "/v1/settings", `{"balance":"off"}`, 200)
	for _, node := range []string{"a", "b"} { // a directory of c, d and e
		change(a, "DELETE", "/v1/shards/0/members/"+node+"?force=true", "", 202)
		if !until(t, func() bool { return members(a) != nil && !slices.Contains(members(a), node) }) {
			t.Fatalf("%s stays: %v", node, members(a))
		}
	}
	values := map[string]string{}
	for i := range 100 {
		key := fmt.Sprint("key", i)
		put(t, a, key, "before")
		values[key] = "before"
	}
	holds := func(n *cluster.Node, needed func(key string) bool) {
		t.Helper()
		for key, value := range values {
			if !needed(key) {
				continue
			}
			if answer := raw(t, n, "GET", "/v1/kv/"+key, nil, ""); answer.body != value {
				t.Errorf("%s at %s: %s %s", key, n.ID, answer.Status, answer.body)
			}
		}
	}
	if answer, err := a.Rebuild(within(t, 30*time.Second)); err != nil || answer.Status != 200 {
		t.Fatalf("with a majority it was answered %s, %v", answer, err)
	}
	for _, n := range gone {
		if err := n.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	table, err := a.Directory(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	whole := map[uint64]bool{}
	for _, s := range table.Shards {
		there := 0
		for _, m := range s.Members {
			if m.Node < "d" {
				there++
			}
		}
		whole[s.ID] = 2*there > len(s.Members)
	}
	has := func(key string) bool {
		l, err := a.Locate(within(t, 10*time.Second), key)
		if err != nil {
			t.Fatal(err)
		}
		return whole[l.Shard]
	}
	if !until(t, func() bool { // at first a leader that has lost its majority may take it, and never know
		answer, err := a.Ask(within(t, 10*time.Second), "PATCH", "/v1/settings", `{"balance":"on"}`, "Content-Type", "application/merge-patch+json", "Larder-Timeout", "1s")
		return err == nil && answer.Status == 503
	}) {
		t.Error("without its majority the directory takes changes")
	}
	served := make(chan error, 1)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	key := ""
	for k := range values {
		if has(k) {
			key = k
		}
	}
	if key == "" {
		t.Fatal("no shard has its majority")
	}
	go func() { // shards serve all the time
		for ctx.Err() == nil {
			try, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
			answer, err := c.Node("b").Ask(try, "PATCH", "/v1/kv/"+key, `{"ttl":"1h"}`, "Content-Type", "application/merge-patch+json")
			cancel()
			if err != nil || answer.Status != 204 {
				served <- fmt.Errorf("%s, %w", answer, err)
				return
			}
			time.Sleep(20 * time.Millisecond)
		}
		served <- nil
	}()
	var done struct {
		Version, Became uint64
		Node            string
	}
	began := time.Now()
	answer, err := a.Rebuild(within(t, 30*time.Second))
	if err != nil || answer.Status != 202 || json.Unmarshal(answer.Body, &done) != nil || done.Node != "a" || done.Became <= done.Version {
		t.Fatalf("%s, %v", answer, err)
	}
	change(a, "PATCH", "/v1/settings", `{"balance":"on"}`, 200)
	t.Logf("it was rebuilt and took a change after %v", time.Since(began))
	if answer, err := a.Ask(within(t, 30*time.Second), "POST", "/v1/directory/rebuild", fmt.Sprintf(`{"unsafe":true,"version":%d}`, done.Version), "Content-Type", "application/json"); err != nil || answer.Status != 409 {
		t.Errorf("a repeat was answered %s, %v", answer, err)
	}
	stop()
	if err := <-served; err != nil {
		t.Errorf("a shard that has its majority, meanwhile: %v", err)
	}
	if err := a.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	if !until(t, func() bool { return slices.Equal(members(a), []string{"a"}) || len(members(a)) == 3 }) {
		t.Fatalf("after the death of the coordinator its members are %v", members(a))
	}
	for _, n := range []*cluster.Node{a, c.Node("b"), c.Node("c")} {
		holds(n, has)
	}
	if !until(t, func() bool { return slices.Equal(members(c.Node("c")), []string{"a", "b", "c"}) }) {
		t.Fatalf("its members are %v, want three that are up", members(c.Node("c")))
	}
	for _, n := range gone {
		if err := n.Start(); err != nil {
			t.Fatal(err)
		}
	}
	c.WaitReady(t, 60*time.Second)
	for _, n := range c.Nodes {
		holds(n, func(string) bool { return true })
		d, err := n.Directory(within(t, 10*time.Second))
		if err != nil || d.Version < done.Became {
			t.Errorf("%s has version %d, %v", n.ID, d.Version, err)
		}
		if slices.Contains([]string{"d", "e"}, n.ID) && slices.Contains(members(n), n.ID) {
			t.Errorf("%s is a member of the directory again: %v", n.ID, members(n))
		}
	}
	// No shard is left unsettled.
	if !until(t, func() bool {
		answer, err := a.Ask(within(t, 5*time.Second), "GET", "/v1/shards", "")
		var all struct {
			Shards []struct{ Unsettled bool }
		}
		return err == nil && json.Unmarshal(answer.Body, &all) == nil && len(all.Shards) == 10 &&
			!slices.ContainsFunc(all.Shards, func(s struct{ Unsettled bool }) bool { return s.Unsettled })
	}) {
		t.Error("a shard is not settled")
	}
}
