package integration

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

const (
	walkRate = 500 // requests a second, whatever becomes of them
	walkKeys = 400 // so few requests meet on a key that each is checked in all orders
	// walkOutage is the longest time that a request which is repeated until it succeeds may take, from its
	// first failure on.
	walkOutage = 2 * time.Second
	// walkLimit bounds the whole.
	walkLimit = 60 * time.Second
	// probeTimeout is how long an attempt of a repeated request may take: it is a failure then.
	probeTimeout = time.Second
)

// TestUserWalk ensures that what an operator of a growing cluster does with the command line costs its
// users nothing: a node joins, becomes a member of each shard, leaders are handed over, members
// are removed, leaders among them, under a steady load; no answer is wrong and no request fails for long.
func TestUserWalk(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 4, Delay: time.Millisecond, Args: byHand})
	w := startWalk(t, c)
	all := append(shards(t, c), 0)

	w.larder("put", "greeting", "hello")
	c.Join(t, c.Nodes[0])
	c.WaitReady(t, 30*time.Second)
	w.serve(c.Nodes)
	w.log("d has joined")
	for _, shard := range all {
		w.larder("member", "add", id(shard), "d")
	}
	w.larder("shard", "transfer-leader", id(all[0]), "d")
	p := newOperator(t, c)
	for i, shard := range all {
		m := p.members(shard)
		voters, _ := m.Voters()
		node := m.Leader
		if i%2 == 1 {
			node = voters[slices.IndexFunc(voters, func(v string) bool { return v != m.Leader })]
		}
		w.larder("member", "remove", id(shard), node)
		p.settled(shard, wantedMembers(m, node, false))
	}
	w.larder("get", "greeting")
	w.stop()
	w.report()
	w.run.verify(walkRate)
}

func id(shard uint64) string { return strconv.FormatUint(shard, 10) }

// walk is a steady load, and requests that are repeated until they succeed.
type walk struct {
	run     *run
	targets atomic.Pointer[[]client.Target]
	start   time.Time
	sent    int
	stop    func()

	mu      sync.Mutex // guards what follows
	longest outage
	outages int
}

// outage is a time in which all attempts at one request failed.
type outage struct {
	what   string
	from   time.Time
	lasted time.Duration
	last   history.Operation // the last attempt that failed
}

func startWalk(t *testing.T, c *cluster.Cluster) *walk {
	t.Helper()
	w := &walk{run: &run{t: t, cluster: c, recorder: history.NewRecorder()}, start: time.Now()}
	w.serve(c.Nodes)
	ctx, cancel := context.WithTimeout(t.Context(), walkLimit)
	var all sync.WaitGroup
	all.Go(func() { w.load(ctx) })
	d, err := c.Nodes[0].Directory(within(t, 10*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	keys := make([][]string, 2*len(d.Shards))
	for i, s := range d.Shards {
		for j, kind := range []history.Kind{history.Put, history.Get} {
			all.Go(func() { keys[2*i+j] = w.probe(ctx, kind, s.ID, s.Start, s.End) })
		}
	}
	w.stop = sync.OnceFunc(func() {
		if ctx.Err() != nil {
			t.Errorf("the walk takes longer than %v", walkLimit)
		}
		cancel()
		all.Wait()
		w.run.probes = append(w.run.probes, slices.Concat(keys...)...)
	})
	t.Cleanup(w.stop)
	return w
}

// serve lets the load use these nodes.
func (w *walk) serve(nodes []*cluster.Node) {
	targets := cluster.Targets(nodes)
	w.targets.Store(&targets)
}

// larder runs a command as a user does.
func (w *walk) larder(args ...string) {
	t := w.run.t
	t.Helper()
	began := time.Now()
	var servers []string
	for _, n := range w.run.cluster.Nodes {
		servers = append(servers, n.URL)
	}
	cmd := exec.CommandContext(within(t, walkLimit), builder.Binary(t), append(args, "--server", strings.Join(servers, ","))...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("larder %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	w.log(fmt.Sprintf("larder %s: %.2f s", strings.Join(args, " "), time.Since(began).Seconds()))
}

func (w *walk) log(what string) {
	w.run.t.Helper()
	w.run.t.Logf("%5.2f s: %s", time.Since(w.start).Seconds(), what)
}

// load sends walkRate requests a second until ctx ends, and waits for the answers.
func (w *walk) load(ctx context.Context) {
	c := client.New(client.Config{Recorder: w.run.recorder, Timeout: 6 * time.Second})
	defer c.Close()
	var under sync.WaitGroup
	defer under.Wait()
	start := time.Now()
	tick := time.NewTicker(time.Second / walkRate)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			for i := range min(walkKeys, w.sent) {
				w.run.probes = append(w.run.probes, walkKey(i))
			}
			return
		case <-tick.C:
		}
		// Those that a late tick skipped are due too.
		for due := int(time.Since(start) * walkRate / time.Second); w.sent < due; w.sent++ {
			n, targets := w.sent, *w.targets.Load()
			o := history.Operation{Process: w.run.recorder.NewProcess(), Kind: history.Get, Key: walkKey(n)}
			if (n+n/walkKeys)%2 == 0 {
				o.Kind, o.Value = history.Put, fmt.Sprintf("walk %d", n)
			}
			under.Go(func() { c.Do(context.WithoutCancel(ctx), targets[n%len(targets)], o) })
		}
	}
}

func walkKey(n int) string { return fmt.Sprintf("walk/%d", n%walkKeys) }

// probe repeats one request of a shard after the other, each until it succeeds, and notes for how long it
// did not. It returns the keys that it used.
func (w *walk) probe(ctx context.Context, kind history.Kind, shard uint64, start, end int) (keys []string) {
	c := client.New(client.Config{Recorder: w.run.recorder, Timeout: probeTimeout})
	defer c.Close()
	pause := time.NewTicker(20 * time.Millisecond)
	defer pause.Stop()
	var failing outage
	const perKey = 100
	candidate := 0
	for n := 0; ctx.Err() == nil; n++ {
		for n%perKey == 0 {
			key := fmt.Sprintf("probe/%s/%d", kind, candidate)
			candidate++
			if slot := slotOf(key); start <= slot && slot < end {
				keys = append(keys, key)
				break
			}
		}
		targets := *w.targets.Load()
		o := history.Operation{Process: w.run.recorder.NewProcess(), Kind: kind, Key: keys[len(keys)-1]}
		if kind == history.Put {
			o.Value = fmt.Sprintf("probe of shard %d, %d", shard, n)
		}
		began := time.Now()
		o = c.Do(context.WithoutCancel(ctx), targets[n%len(targets)], o)
		switch {
		case o.Outcome != history.OK && failing.from.IsZero():
			failing = outage{what: fmt.Sprintf("%s, shard %d", kind, shard), from: began, last: o}
		case o.Outcome != history.OK:
			failing.last = o
		case !failing.from.IsZero():
			w.over(failing)
			failing = outage{}
		}
		select {
		case <-pause.C:
		case <-ctx.Done():
		}
	}
	if !failing.from.IsZero() {
		w.over(failing)
	}
	return keys
}

// over notes an outage that ends now.
func (w *walk) over(o outage) {
	o.lasted = time.Since(o.from)
	w.mu.Lock()
	defer w.mu.Unlock()
	w.outages++
	if o.lasted > w.longest.lasted {
		w.longest = o
	}
}

// report tells what the load met, and fails the test for an outage that was too long.
func (w *walk) report() {
	t := w.run.t
	t.Helper()
	var took []time.Duration
	failures := map[string]int{}
	for _, o := range w.run.recorder.Operations() {
		if !strings.HasPrefix(o.Key, "walk/") {
			continue
		}
		took = append(took, o.Return-o.Invoke)
		if o.Outcome != history.OK {
			failures[fmt.Sprintf("%s %d %s%s", o.Outcome, o.Status, o.Problem, o.Err)]++
		}
	}
	if len(took) == 0 {
		t.Fatal("not proved: nothing was sent")
	}
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	t.Logf("%d requests in %.1f s: p50 %.1f ms, p99 %.1f ms, max %.1f ms; failures %v",
		len(took), time.Since(w.start).Seconds(), ms(took[len(took)/2]), ms(took[len(took)*99/100]), ms(took[len(took)-1]), failures)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.outages == 0 {
		t.Log("no repeated request ever failed")
		return
	}
	t.Logf("repeated requests failed %d times, the longest time for %.2f s, from %.2f s on: %s; last by %s",
		w.outages, w.longest.lasted.Seconds(), w.longest.from.Sub(w.start).Seconds(), w.longest.what, w.longest.last)
	if w.longest.lasted > walkOutage {
		t.Errorf("a request failed for %v, the limit is %v", w.longest.lasted, walkOutage)
	}
}
