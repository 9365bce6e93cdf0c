package integration

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// The schedule that shows reads which a paused leader confirms with old evidence: answers of its
// followers to requests from before the pause wait in its sockets, and so do reads that were sent after
// another leader has acknowledged a newer value. Bare loopback hides it, because there no
// answer is under way at the moment of the pause; so links take a few milliseconds, and
// writers keep every leader busy.
const (
	queuedShards  = 6
	queuedDelay   = 5 * time.Millisecond
	queuedWriters = 18
	queuedReaders = 48
	// readsBeforeResume is how long the reads lie in the paused node's sockets.
	readsBeforeResume = 30 * time.Millisecond
)

// TestPauseQueuedReads ensures that a leader which was paused while another took over answers no
// read, queued meanwhile, with what was true before.
func TestPauseQueuedReads(t *testing.T) {
	processes(t)
	p := startPauses(t, builder.Binary(t))
	n := rounds(t, 4)
	for range n {
		if stale := p.round(); len(stale) > 0 {
			t.Fatalf("%d stale reads, the first is\n%s", len(stale), stale[0])
		}
	}
	t.Logf("%d pauses, %d reads: %d answered, 0 of them stale", n, p.reads, p.answered)
}

// TestPauseQueuedReadsFindsVerifyLeader ensures that the schedule of TestPauseQueuedReads does find
// stale reads where they can be: in a build that confirms reads with hashicorp/raft's VerifyLeader.
func TestPauseQueuedReadsFindsVerifyLeader(t *testing.T) {
	processes(t)
	p := startPauses(t, builder.Binary(t, "faults"), "LARDER_FAULTS=verify-leader-reads")
	const tries = 80 // about one pause in eight shows it
	for n := range tries {
		if stale := p.round(); len(stale) > 0 {
			t.Logf("found after %d pauses: %d stale reads, the first is\n%s", n+1, len(stale), stale[0])
			return
		}
	}
	t.Errorf("%d pauses, %d reads, %d answered, none stale: the schedule has lost its teeth", tries, p.reads, p.answered)
}

// pauses is a cluster whose leaders are kept busy.
type pauses struct {
	t        *testing.T
	cluster  *cluster.Cluster
	recorder *history.Recorder
	client   *client.Client // of the reads
	shards   []uint64
	count    int

	reads, answered int
}

func startPauses(t *testing.T, binary string, env ...string) *pauses {
	t.Helper()
	c := cluster.Start(t, cluster.Config{
		Binary: binary, Shards: queuedShards, Delay: queuedDelay, Env: env, Limit: 20 * time.Minute,
	})
	r := history.NewRecorder()
	p := &pauses{t: t, cluster: c, recorder: r, client: client.New(client.Config{Recorder: r, Timeout: 3 * time.Second}), shards: shards(t, c)}
	t.Cleanup(p.client.Close)
	return p
}

// round pauses the node that leads the most shards and returns the stale reads.
func (p *pauses) round() []history.Operation {
	t := p.t
	t.Helper()
	p.count++
	victim, led := p.victim()
	others := p.cluster.Others(victim.ID)
	targets := cluster.Targets(others)
	paused := cluster.Targets([]*cluster.Node{victim})[0]

	keys := map[uint64]string{}
	for _, shard := range led {
		keys[shard] = keyIn(t, others[0], fmt.Sprintf("watched-%d", p.count), shard)
		p.put(keys[shard], "old", []client.Target{paused, targets[0], targets[1]})
	}
	stopWriters := p.startWriters(paused, led)
	defer stopWriters()
	p.read(paused, led, keys, nil) // opens the connections that the reads below lie in

	if err := victim.Pause(); err != nil {
		t.Fatal(err)
	}
	newer := map[uint64]uint64{}
	for _, shard := range led {
		newer[shard] = p.put(keys[shard], "new", targets)
	}
	answers := p.read(paused, led, keys, func() {
		if err := victim.Resume(); err != nil {
			t.Fatal(err)
		}
	})
	stopWriters()
	p.cluster.WaitReady(t, 60*time.Second)
	for _, err := range p.recorder.Defects() {
		t.Fatalf("interface broken: %v", err)
	}

	var stale []history.Operation
	for i, o := range answers {
		p.reads++
		if o.Outcome != history.OK {
			continue
		}
		p.answered++
		if o.Version < newer[led[i%len(led)]] { // absent is version 0
			stale = append(stale, o)
		}
	}
	return stale
}

// victim returns the node that leads the most shards, and these.
func (p *pauses) victim() (*cluster.Node, []uint64) {
	p.t.Helper()
	led := map[*cluster.Node][]uint64{}
	var most *cluster.Node
	for _, shard := range p.shards {
		n := leader(p.t, p.cluster.Nodes, shard)
		led[n] = append(led[n], shard)
		if len(led[n]) > len(led[most]) {
			most = n
		}
	}
	return most, led[most]
}

// put writes value through the targets in turn until it is acknowledged, and returns its version.
func (p *pauses) put(key, value string, through []client.Target) uint64 {
	p.t.Helper()
	c := client.New(client.Config{Recorder: p.recorder, Timeout: 500 * time.Millisecond})
	defer c.Close()
	var version uint64
	attempts := 0
	if err := cluster.Poll(within(p.t, failoverNever), func() bool {
		o := c.Do(p.t.Context(), through[attempts%len(through)], history.Operation{
			Process: p.recorder.NewProcess(), Kind: history.Put, Key: key, Value: fmt.Sprintf("%s %d", value, attempts),
		})
		attempts++
		version = o.Version
		return o.Outcome == history.OK
	}); err != nil {
		p.t.Fatalf("no write to %s in %v", key, failoverNever)
	}
	return version
}

// startWriters keeps the shards that target leads busy until the function it returns is called.
func (p *pauses) startWriters(target client.Target, led []uint64) (stop func()) {
	p.t.Helper()
	ctx, cancel := context.WithCancel(p.t.Context())
	var writers sync.WaitGroup
	var written atomic.Int64
	others := p.cluster.Others(target.Node)
	for i := range queuedWriters {
		key := keyIn(p.t, others[0], fmt.Sprintf("busy-%d", i), led[i%len(led)])
		writers.Go(func() {
			r := history.NewRecorder() // these writes only make traffic
			c := client.New(client.Config{Recorder: r, Timeout: requestTimeout})
			defer c.Close()
			for n := 0; ctx.Err() == nil; n++ {
				o := c.Do(ctx, target, history.Operation{Process: i, Kind: history.Put, Key: key, Value: fmt.Sprint(n)})
				if o.Outcome == history.OK {
					written.Add(1)
				}
			}
		})
	}
	if err := cluster.Poll(within(p.t, 20*time.Second), func() bool { return written.Load() > 3*queuedWriters }); err != nil {
		p.t.Fatal("the writers make no progress")
	}
	return sync.OnceFunc(func() {
		cancel()
		writers.Wait()
	})
}

// read sends queuedReaders reads to target at once, the i-th of the key of shard led[i mod len]. When all were sent
// and lay there for a while it calls then, if there is one, and returns the answers.
func (p *pauses) read(target client.Target, led []uint64, keys map[uint64]string, then func()) []history.Operation {
	p.t.Helper()
	answers := make([]history.Operation, queuedReaders)
	var all sync.WaitGroup
	for i := range answers {
		all.Go(func() {
			answers[i] = p.client.Do(p.t.Context(), target, history.Operation{
				Process: p.recorder.NewProcess(), Kind: history.Get, Key: keys[led[i%len(led)]],
			})
		})
	}
	if then != nil {
		wait := time.NewTimer(readsBeforeResume)
		<-wait.C
		then()
	}
	all.Wait()
	return answers
}
