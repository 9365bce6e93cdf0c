package workload

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// serve starts the nodes of f.
func serve(t *testing.T, f *fake) []client.Target {
	t.Helper()
	urls := map[string]string{}
	var targets []client.Target
	for _, name := range f.nodes {
		var handler http.Handler
		node := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }))
		handler = f.node(name, func(other string) string { return urls[other] })
		node.Config.ErrorLog = nil
		t.Cleanup(node.Close)
		urls[name] = node.URL
		targets = append(targets, client.Target{Node: name, URL: node.URL})
	}
	return targets
}

// run runs a workload against f until it did enough operations, and returns what was recorded, the final reads apart.
func run(t *testing.T, f *fake, name string, enough int64) (ops, final []history.Operation, load *Load) {
	t.Helper()
	return runUntil(t, f, name, enough, func([]history.Operation) bool { return true })
}

// runUntil is run that goes on, for a while, until what was recorded is what the test is about.
func runUntil(t *testing.T, f *fake, name string, enough int64, met func([]history.Operation) bool) (ops, final []history.Operation, load *Load) {
	t.Helper()
	r := history.NewRecorder()
	load = Start(t.Context(), r, Config{
		Workload: name, Targets: serve(t, f),
		Pinned: 2, Roaming: 3, Keys: 3, Prefix: "k", Timeout: 10 * time.Second, SteadyClocks: true, Seed: 1,
	})
	deadline := time.Now().Add(30 * time.Second)
	for (load.Done() < enough || !met(r.Operations())) && time.Now().Before(deadline) {
		<-time.After(20 * time.Millisecond)
	}
	load.Stop()
	if load.Done() < enough {
		t.Fatalf("%d operations in 30 s", load.Done())
	}
	ops = r.Operations()
	f.mu.Lock()
	f.lose = 0
	f.mu.Unlock()
	final, err := load.Finish(t.Context())
	if err != nil {
		t.Error(err)
	}
	for _, err := range r.Defects() {
		t.Error(err)
	}
	return ops, final, load
}

// answers counts operations by kind and what came of them.
func answers(ops []history.Operation) map[string]int {
	n := map[string]int{}
	for _, o := range ops {
		k := string(o.Kind)
		n[k]++
		n[fmt.Sprintf("%s conflict=%t", k, o.Conflict)]++
		n[fmt.Sprintf("%s found=%t", k, o.Found)]++
		n[fmt.Sprintf("%s existed=%t", k, o.Existed)]++
		n[fmt.Sprintf("%s local=%t", k, o.Local)]++
		n[fmt.Sprintf("%s ttl=%t", k, o.TTL > 0)]++
		n[fmt.Sprintf("%s token=%t", k, o.FillToken > 0)]++
		n[fmt.Sprintf("%s keyed=%t", k, o.IdempotencyKey != "")]++
		n[fmt.Sprintf("route %s, hops %d", o.Route, o.Hops)]++
		n["miss "+o.Miss]++
		n[fmt.Sprintf("replayed=%t", o.Replayed)]++
		n[fmt.Sprintf("touched=%t", !o.NoTouch)]++
		n[fmt.Sprintf("large=%t", len(o.Value) > 2<<10)]++
		n[fmt.Sprintf("status %d", o.Status)]++
	}
	return n
}

// TestShapes ensures that each workload asks for what it is about and meets all answers to it, in the shape that is promised.
func TestShapes(t *testing.T) {
	reads := []string{"get found=true", "get found=false", "get local=true", "get local=false", "touched=false"}
	old := []string{"get-bounded local=true", "get-bounded local=false", "get-any local=true", "get-any local=false"}
	ways := []string{"route redirect, hops 1", "route redirect, hops 0", "route local, hops 1"}
	conditions := []string{
		"create conflict=true", "create conflict=false", "replace conflict=true", "replace conflict=false",
		"delete-if conflict=true", "delete-if conflict=false", "delete existed=true", "delete existed=false",
	}
	swaps := []string{"swap found=true", "swap existed=false"}
	for name, want := range map[string][]string{
		"register": slices.Concat(reads, old, ways, conditions, swaps, []string{
			"touch existed=true", "put existed=true", "large=true", "put keyed=true", "put keyed=false"}),
		"counter":     slices.Concat(reads, ways, []string{"incr keyed=true", "incr keyed=false"}),
		"set":         slices.Concat(reads, ways, []string{"append keyed=true", "append keyed=false", "append found=true"}),
		"durable":     {"put", "create conflict=true", "create conflict=false", "delete", "get local=false"},
		"ttl":         slices.Concat(reads, []string{"put ttl=true", "put ttl=false", "expire existed=true", "expire ttl=true", "expire ttl=false", "touch", "swap ttl=true"}),
		"evict":       slices.Concat(reads, []string{"miss evicted", "get token=true", "create token=true", "put keyed=false", "touch existed=true", "touch existed=false"}),
		"bounded":     slices.Concat(old, []string{"put", "delete"}),
		"follower":    {"get local=true", "put", "delete existed=true"},
		"idempotency": slices.Concat(conditions, swaps, []string{"incr keyed=true", "append keyed=true", "put keyed=true", "replayed=false"}),
		"batch": slices.Concat(conditions, swaps, []string{"get found=true", "get found=false", "touched=false", "touch existed=true", "incr", "append found=true",
			"put existed=true", "large=true", "status 424", "status 412"}),
		"directory": {"get-any found=true", "put existed=true", "replace", "create"},
		"mixed":     slices.Concat(reads, old, ways, []string{"swap", "touch", "incr", "append", "expire ttl=true", "put ttl=true"}),
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake("a", "b", "c")
			if name == "evict" {
				f.room = 500
			}
			var missing []string
			ops, final, load := runUntil(t, f, name, 3000, func(ops []history.Operation) bool {
				got := answers(ops)
				missing = slices.DeleteFunc(slices.Clone(want), func(w string) bool { return got[w] > 0 })
				return len(missing) == 0
			})
			got := answers(ops)
			if len(missing) > 0 {
				t.Errorf("no %s in %v", strings.Join(missing, ", "), got)
			}
			for _, no := range []string{"put keyed=true"} {
				if name == "evict" && got[no] > 0 {
					t.Errorf("%d of %s", got[no], no)
				}
			}
			shaped(t, load, ops)
			ended := map[string]bool{}
			for _, o := range final {
				ended[o.Key] = true
			}
			for _, o := range ops {
				if !ended[o.Key] {
					t.Fatalf("key %s was not read at the end", o.Key)
				}
			}
		})
	}
}

// shaped ensures what the package documents of a key's history.
func shaped(t *testing.T, load *Load, ops []history.Operation) {
	t.Helper()
	perKey, values := map[string]int{}, map[string]bool{}
	hits := map[history.Kind]Reads{}
	for _, o := range ops {
		perKey[o.Key]++
		if o.Kind.Stores() && values[o.Value] {
			t.Errorf("value %q is used twice", o.Value)
		}
		values[o.Value] = true
		if o.Outcome == history.Unknown || o.Outcome == history.Refused && o.Key != settingKey && o.Problem != history.ProblemAborted {
			t.Errorf("a cluster without faults: %s", o)
		}
		if o.Kind.Read() && o.Outcome == history.OK {
			n := hits[o.Kind]
			if o.Found {
				n.Hits++
			} else {
				n.Misses++
			}
			hits[o.Kind] = n
		}
	}
	for key, n := range perKey {
		if n > 150+concurrency && key != settingKey {
			t.Errorf("%d operations on key %s", n, key)
		}
	}
	for kind, n := range load.Reads() {
		if n != hits[kind] {
			t.Errorf("%s: %+v counted, %+v recorded", kind, n, hits[kind])
		}
	}
}

// TestCorrectCache ensures that what a correct cache answers passes the checks, whether answers get lost or not.
func TestCorrectCache(t *testing.T) {
	for _, name := range Names() {
		if name == "admin" { // as register, with operators beside it
			continue
		}
		for _, lose := range []int{0, 200} {
			f, mode := newFake("a", "b", "c"), history.Strict
			f.lose = lose
			if name == "evict" {
				f.room, mode = 500, history.Tight
			}
			ops, final, _ := run(t, f, name, 2000)
			r := check.Run(&history.Run{Meta: history.Meta{Workload: name, Mode: mode}, Ops: ops, Final: final}, check.Options{KeyLimit: 10 * time.Second})
			if r.Verdict() != check.Valid {
				t.Errorf("%s, one answer in %d lost: %s: %+v: %v", name, lose, r.Verdict(), r.Checks, r.Err())
			}
		}
	}
}

// TestStaleCache ensures that the load makes a stale cache show itself.
func TestStaleCache(t *testing.T) {
	f := newFake("a")
	f.stale = true
	ops, _, _ := run(t, f, "follower", 2000)
	r := check.Linearizable(ops, history.Strict, 10*time.Second)
	if len(r.Violations) == 0 {
		t.Error("porcupine saw nothing")
	}
	if violations, _ := check.Certificate(ops, history.Strict); len(violations) == 0 {
		t.Error("the certificate saw nothing")
	}
}

// TestLostAnswers ensures that writes which are sent again happen once: counters and sets have what was acknowledged,
// each once, while answers get lost.
func TestLostAnswers(t *testing.T) {
	f := newFake("a", "b", "c")
	f.lose = 25
	ops, final, _ := run(t, f, "idempotency", 3000)
	sum, open := map[string]int64{}, map[string]bool{}
	var again, replayed int
	for _, o := range ops {
		open[o.Key] = open[o.Key] || o.Outcome == history.Unknown
		if o.Outcome == history.OK && o.Kind == history.Incr {
			sum[o.Key] += o.Delta
		}
		if o.Attempts > 1 {
			again++
		}
		if o.Replayed {
			replayed++
		}
	}
	if again == 0 || replayed == 0 {
		t.Errorf("%d operations were sent again, %d were answered as before", again, replayed)
	}
	counted := 0
	for _, o := range final {
		if want, ok := sum[o.Key]; ok && !open[o.Key] {
			counted++
			if o.Read != fmt.Sprint(want) {
				t.Errorf("the counter %s is %s, %d were acknowledged", o.Key, o.Read, want)
			}
		}
		if strings.Contains(o.Key, "/set/") {
			elements := strings.SplitAfter(o.Read, ";")
			slices.Sort(elements)
			if n := len(slices.Compact(slices.Clone(elements))); n != len(elements) {
				t.Errorf("%d of the elements of %s are there twice", len(elements)-n, o.Key)
			}
		}
	}
	if counted == 0 {
		t.Error("no counter could be compared")
	}
}

// TestForgetfulCache ensures that a cache which forgets what was made under a key is found out, by the answers alone.
func TestForgetfulCache(t *testing.T) {
	f := newFake("a", "b", "c")
	r := history.NewRecorder()
	targets := serve(t, f)
	c := client.New(client.Config{Recorder: r, Timeout: 10 * time.Second})
	defer c.Close()
	o := history.Operation{Kind: history.Incr, Key: "n", Delta: 1, IdempotencyKey: "once"}
	o = c.DoAgain(t.Context(), func(int) (client.Target, time.Duration) { return targets[0], 0 }, 3, o)
	if !c.Repeat(t.Context(), targets[1], o) || len(r.Defects()) != 0 {
		t.Errorf("a cache that remembers: %v", r.Defects())
	}
	f.again = func() string { return `"once"` }
	if !c.Repeat(t.Context(), targets[1], o) || len(r.Defects()) != 1 {
		t.Errorf("a cache that forgets: %v", r.Defects())
	}
}

// TestTables ensures that tables which contradict themselves or each other are found out.
func TestTables(t *testing.T) {
	whole := []client.TableShard{{ID: 1, Start: 0, End: 100, Epoch: 1}, {ID: 2, Start: 100, End: slots, Epoch: 1}}
	for _, tt := range []struct {
		name   string
		tables []client.Table
		good   bool
	}{
		{"whole", []client.Table{{Version: 1, Shards: whole}, {Version: 1, Shards: whole}, {Version: 2, Shards: whole[:1:1]}}, false},
		{"whole twice", []client.Table{{Version: 1, Shards: whole}, {Version: 1, Shards: whole}}, true},
		{"gap", []client.Table{{Version: 1, Shards: []client.TableShard{whole[0], {ID: 2, Start: 101, End: slots}}}}, false},
		{"overlap", []client.Table{{Version: 1, Shards: []client.TableShard{whole[0], {ID: 2, Start: 99, End: slots}}}}, false},
		{"one version with two contents", []client.Table{{Version: 1, Shards: whole}, {Version: 1, Shards: []client.TableShard{{ID: 1, Start: 0, End: 100, Epoch: 2}, whole[1]}}}, false},
		{"two versions", []client.Table{{Version: 1, Shards: whole}, {Version: 2, Shards: []client.TableShard{{ID: 1, Start: 0, End: 100, Epoch: 2}, whole[1]}}}, true},
	} {
		var seen tables
		good := true
		for _, table := range tt.tables {
			good = seen.see(table) == nil && good
		}
		if good != tt.good {
			t.Errorf("%s: good %t, want %t", tt.name, good, tt.good)
		}
	}
}

// TestTight ensures that a load which is to be too much for a little room is.
func TestTight(t *testing.T) {
	f := newFake("a")
	r := history.NewRecorder()
	load := Start(t.Context(), r, Config{
		Targets: serve(t, f), Pinned: 8, Keys: 3, Prefix: "k", Timeout: 10 * time.Second, Tight: true, SteadyClocks: true, Seed: 1,
	})
	deadline := time.Now().Add(30 * time.Second)
	for load.Done() < 4000 && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	load.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	bytes := 0
	for _, e := range f.entries {
		bytes += len(e.value)
	}
	if bytes < 256<<10 {
		t.Errorf("%d entries have %d bytes", len(f.entries), bytes)
	}
	for _, o := range r.Operations() {
		if o.IdempotencyKey != "" && strings.HasPrefix(o.IdempotencyKey, "k") {
			t.Fatalf("an idempotency key without a time: %s", o.IdempotencyKey)
		}
	}
}

// TestPropose ensures that operators keep as many members as a shard had, unless they may do with less for a while.
func TestPropose(t *testing.T) {
	member := func(ids ...string) cluster.Members {
		m := cluster.Members{Shard: 1, Conf: "1-1"}
		for _, id := range ids {
			m.Members = append(m.Members, cluster.Member{Node: id, Role: "voter"})
		}
		return m
	}
	for _, tt := range []struct {
		name    string
		members cluster.Members
		shrink  bool
		want    string
	}{
		{"all nodes are members", member("a", "b", "c"), false, ""},
		{"all nodes are members, one may go", member("a", "b", "c"), true, "remove-member"},
		{"one more than there were", member("a", "b", "c", "d"), false, "remove-member"},
	} {
		l := &Load{cfg: Config{Shrink: tt.shrink}}
		p := &operators{l: l, rng: rand.New(rand.NewPCG(1, 1)), whole: map[uint64]int{1: 3}}
		got := ""
		if c := p.propose(tt.members); c != nil {
			got = c.String()
			if !tt.members.Has(c.node) {
				t.Errorf("%s: %s of %s", tt.name, got, c.node)
			}
		}
		if got != tt.want {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
	done := func(id uint64, state string) cluster.Operation { return cluster.Operation{ID: id, State: state} }
	if !bothDone(done(1, "done"), done(2, "done")) {
		t.Error("two changes by one configuration are not found out")
	}
	if bothDone(done(1, "done"), done(1, "done")) || bothDone(done(1, "done"), done(2, "failed")) || bothDone(done(1, "done"), cluster.Operation{}) {
		t.Error("one change counts as two")
	}
}

// TestRate ensures that the clients together make about as many requests as they were told to.
func TestRate(t *testing.T) {
	r := history.NewRecorder()
	load := Start(t.Context(), r, Config{
		Targets: serve(t, newFake("a")), Pinned: 4, Keys: 3, Prefix: "k", Timeout: 10 * time.Second, Rate: 200, Seed: 1,
	})
	began := time.Now()
	for load.Done() < 200 && time.Since(began) < 20*time.Second {
		<-time.After(time.Millisecond)
	}
	took := time.Since(began)
	load.Stop()
	// A busy machine may be late, and never early.
	if took < 600*time.Millisecond || load.Done() < 200 {
		t.Errorf("%d operations at 200 a second took %v", load.Done(), took)
	}
}

// TestKeysAreGivenUp ensures that writes of unknown outcome count against a key's concurrency and
// that a key which had its share is replaced once.
func TestKeysAreGivenUp(t *testing.T) {
	k := newKeys("k", 1, []*flavor{registers}, false)
	rng := rand.New(rand.NewPCG(1, 1))
	var taken []*slot
	for s := k.take(rng); s != nil; s = k.take(rng) {
		taken = append(taken, s)
	}
	if len(taken) != concurrency {
		t.Fatalf("%d operations at once on a key, want %d", len(taken), concurrency)
	}
	if k.retake(taken[0]) {
		t.Error("a key that is as busy as it may be was taken again")
	}
	for i, s := range taken {
		k.give(s, &history.Operation{Outcome: history.Unknown})
		if i < unknownsPerKey-1 && k.take(rng) != nil {
			t.Errorf("after %d unknown writes another operation may start", i+1)
		}
	}
	if got := k.names(); len(got) != 2 {
		t.Errorf("keys used are %v, want two", got)
	}
}
