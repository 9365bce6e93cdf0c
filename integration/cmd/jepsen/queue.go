package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
)

const (
	// queuedReads are sent to a paused node, at most queuedPerKey of a key: an order must still be found.
	queuedReads  = 48
	queuedPerKey = 5
	queuedTime   = 3 * time.Second
	// queuedWriters keep the node busy, so that answers of its peers are under way whenever it is paused.
	queuedWriters = 18
)

// queue is a nemesis.Queue.
type queue struct {
	r       *runner
	target  client.Target
	client  *client.Client
	stop    context.CancelFunc
	writers sync.WaitGroup
}

// queue opens connections to a node, in which reads can wait while it stands still: a connection that is opened only
// then takes the node a while to accept, and what is old in its other sockets is handled by then.
func (r *runner) queue(ctx context.Context, node string) nemesis.Queue {
	q := &queue{r: r, target: cluster.Targets([]*cluster.Node{r.cluster.Node(node)})[0]}
	q.client = client.New(client.Config{Recorder: r.recorder, Timeout: queuedTime, Dial: r.cluster.Dial})
	q.write()
	opened := r.readsOf(ctx, q.client, q.target, r.recent(nil, 0, history.Get))
	opened()
	return q
}

// write keeps the node busy until Close. What is written is no part of the history, and nobody reads it.
func (q *queue) write() {
	ctx, stop := context.WithCancel(context.Background())
	q.stop = stop
	for i := range queuedWriters {
		q.writers.Go(func() {
			c := client.New(client.Config{Recorder: history.NewRecorder(), Timeout: queuedTime, Dial: q.r.cluster.Dial})
			defer c.Close()
			for n := 0; ctx.Err() == nil; n++ {
				o := c.Do(ctx, q.target, history.Operation{Process: i, Kind: history.Put, Key: fmt.Sprint("busy/", i), Value: fmt.Sprint(n)})
				if o.Outcome != history.OK {
					sleep(ctx, 10*time.Millisecond)
				}
			}
		})
	}
}

// Send implements nemesis.Queue.
func (q *queue) Send(ctx context.Context, shards []uint64, since time.Duration) (sent int, wait func()) {
	keys := q.r.recent(shards, since, history.Put, history.Create, history.Replace, history.Delete, history.DeleteIf, history.Incr, history.Append, history.Swap)
	return len(keys), q.r.readsOf(ctx, q.client, q.target, keys)
}

// Close implements nemesis.Queue.
func (q *queue) Close() {
	q.stop()
	q.writers.Wait()
	q.client.Close()
}

// readsOf reads keys at a node, all at once, and returns a function that waits for the answers.
func (r *runner) readsOf(ctx context.Context, c *client.Client, target client.Target, keys []string) (wait func()) {
	var reads sync.WaitGroup
	for _, key := range keys {
		reads.Go(func() {
			c.Do(ctx, target, history.Operation{Process: r.recorder.NewProcess(), Kind: history.Get, Key: key})
		})
	}
	return reads.Wait
}

// recent returns the keys of which there were successes of these kinds last, since a time and in these shards,
// nil for all, each several times and queuedReads in all at most.
func (r *runner) recent(shards []uint64, since time.Duration, kinds ...history.Kind) []string {
	ops := r.recorder.Operations()
	var keys []string
	seen := map[string]bool{}
	for i := len(ops) - 1; i >= 0 && len(keys) < queuedReads; i-- {
		o := ops[i]
		if o.Outcome == history.OK && !o.Conflict && o.Invoke >= since && !seen[o.Key] && slices.Contains(kinds, o.Kind) &&
			(shards == nil || slices.Contains(shards, o.Place.Shard)) {
			seen[o.Key] = true
			keys = append(keys, slices.Repeat([]string{o.Key}, queuedPerKey)...)
		}
	}
	return keys[:min(len(keys), queuedReads)]
}

// writes returns the median time of acknowledged writes that began between two times, 0 where there was none.
func (r *runner) writes(from, to time.Duration) time.Duration {
	var took []time.Duration
	for _, o := range r.recorder.Operations() {
		if o.Kind.Write() && o.Outcome == history.OK && from <= o.Invoke && o.Invoke < to {
			took = append(took, o.Return-o.Invoke)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[len(took)/2]
}
