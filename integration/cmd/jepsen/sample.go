package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/larder-cache/larder/integration/history"
	"github.com/larder-cache/larder/integration/nemesis"
)

// sampleTime is how often nodes are asked what they say of their replicas.
const sampleTime = 500 * time.Millisecond

// sampler asks the nodes again and again, one goroutine each.
type sampler struct {
	system   *system
	recorder *history.Recorder
	nemesis  *nemesis.Nemesis
	cancel   context.CancelFunc
	asking   sync.WaitGroup

	mu       sync.Mutex // guards what follows
	samples  []history.Sample
	failures []string
}

// watch starts a sampler of all nodes.
func watch(s *system, r *history.Recorder, n *nemesis.Nemesis) *sampler {
	ctx, cancel := context.WithCancel(context.Background())
	w := &sampler{system: s, recorder: r, nemesis: n, cancel: cancel}
	for _, n := range s.cluster.Nodes {
		node := n.ID
		w.asking.Go(func() { w.ask(ctx, node) })
	}
	w.asking.Go(func() { w.guard(ctx) })
	return w
}

// ask asks one node until ctx ends. A node that does not answer is asked again a while later.
func (w *sampler) ask(ctx context.Context, node string) {
	for ctx.Err() == nil {
		if w.system.Running(node) {
			asked, cancel := context.WithTimeout(ctx, 2*sampleTime)
			samples, err := w.system.node(node).Samples(asked)
			cancel()
			if err == nil {
				at := w.recorder.Now()
				w.mu.Lock()
				for _, s := range samples {
					s.At = at
					w.samples = append(w.samples, s)
				}
				w.mu.Unlock()
			}
		}
		sleep(ctx, sampleTime)
	}
}

// guard looks for nodes that ended by themselves, and tells of each end once.
func (w *sampler) guard(ctx context.Context) {
	told := map[string]bool{}
	for ctx.Err() == nil {
		sleep(ctx, sampleTime/2)
		gone := map[string]bool{}
		for _, node := range w.nemesis.Deserters() {
			gone[node] = true
			if !told[node] && ctx.Err() == nil {
				w.mu.Lock()
				w.failures = append(w.failures, fmt.Sprintf("at %.1f s %s had ended by itself; its log ends with\n%s", w.recorder.Now().Seconds(), node, w.system.logTail(node)))
				w.mu.Unlock()
			}
		}
		told = gone
	}
}

// stop ends the sampler, and returns what it saw. It may be called again.
func (w *sampler) stop() ([]history.Sample, []string) {
	w.cancel()
	w.asking.Wait()
	return w.samples, w.failures
}
