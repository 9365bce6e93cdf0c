package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/client"
	"github.com/larder-cache/larder/integration/cluster"
	"github.com/larder-cache/larder/integration/history"
)

// TestTap ensures that a cluster in namespaces goes on while one way of its leader is cut and while packets are lost and repeated, and
// that whatever loses power, one node or all, nothing that was acknowledged is lost.
func TestTap(t *testing.T) {
	processes(t)
	for what, err := range map[string]error{"networks": cluster.CanTap(), "disks": cluster.CanLoop()} {
		if err != nil {
			t.Skipf("no %s can be made here: %v", what, err)
		}
	}
	c := cluster.Start(t, cluster.Config{
		Binary: builder.Binary(t), Shards: 3, Net: cluster.Tap, Disk: cluster.Loop,
		Delay: 2 * time.Millisecond, Jitter: 500 * time.Microsecond, Seed: 1,
	})
	w := startWriters(t, c, 6)
	w.progress(100)

	l := leader(t, c.Nodes, shards(t, c)[0])
	cutOut := func(do func(from, to string) error) {
		for _, other := range c.Others(l.ID) {
			if err := do(l.ID, other.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
	cutOut(c.Links.Cut)
	if err := cluster.Poll(within(t, 30*time.Second), func() bool {
		replica, ok := replicaOf(t.Context(), c.Others(l.ID)[0], shards(t, c)[0])
		return ok && replica.Leader != "" && replica.Leader != l.ID
	}); err != nil {
		t.Errorf("with all cut that %s sends, it leads on", l.ID)
	}
	w.progress(100)
	cutOut(c.Links.Mend)
	if n := c.Links.Counts(); n.Cut == 0 || n.Lost+n.Repeated != 0 {
		t.Errorf("after a cut the links count %+v", n)
	}
	c.WaitReady(t, 30*time.Second)

	weather := func(loss, duplicate float64) {
		for _, from := range c.Nodes {
			for _, to := range c.Others(from.ID) {
				if err := errors.Join(c.Links.SetLoss(from.ID, to.ID, loss), c.Links.SetDuplicate(from.ID, to.ID, duplicate)); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	weather(0.1, 0.1)
	w.progress(100)
	weather(0, 0)
	if n := c.Links.Counts(); n.Lost == 0 || n.Repeated == 0 {
		t.Errorf("in bad weather the links count %+v", n)
	}
	if err := c.Links.Heal(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t, 30*time.Second)
	w.progress(100)

	lost := leader(t, c.Nodes, shards(t, c)[0])
	if err := lost.PowerLoss(); err != nil {
		t.Fatal(err)
	}
	if lost.Running() {
		t.Fatalf("%s runs without power", lost.ID)
	}
	w.progress(100)
	if err := lost.Start(); err != nil {
		t.Fatal(err)
	}
	c.WaitReady(t, 30*time.Second)

	for range rounds(t, 2) {
		if err := c.PowerLoss(c.Nodes...); err != nil {
			t.Fatal(err)
		}
		if live := c.Live(); len(live) > 0 {
			t.Fatalf("%d nodes run without power", len(live))
		}
		if err := c.StartAll(t.Context(), 30*time.Second); err != nil {
			t.Fatal(err)
		}
		w.progress(100)
	}
	w.stop()
	w.readAll()
	for _, shard := range append(shards(t, c), 0) {
		wantSamples(t, c, shard)
	}
}

// wantSamples waits until the nodes tell of a replica each, one of them as leader, all of one term and index, and, but
// for the directory's, with equal checksums.
func wantSamples(t *testing.T, c *cluster.Cluster, shard uint64) {
	t.Helper()
	var said []history.Sample
	var err error
	ctx := within(t, 20*time.Second)
	if cluster.Poll(ctx, func() bool {
		said = nil
		leaders := 0
		for _, n := range c.Nodes {
			var samples []history.Sample
			if samples, err = n.Samples(ctx); err != nil {
				return false
			}
			for _, s := range samples {
				if s.Shard == shard && s.Node == n.ID {
					said = append(said, s)
				}
				if s.Shard == shard && s.Role == "leader" {
					leaders++
				}
			}
		}
		if len(said) != len(c.Nodes) || leaders != 1 {
			return false
		}
		for _, s := range said {
			if s.Term != said[0].Term || s.Applied != said[0].Applied || s.Applied == 0 {
				return false
			}
		}
		if shard != 0 {
			_, err = c.Nodes[0].Checksums(ctx, shard)
		}
		return err == nil
	}) != nil {
		t.Errorf("of shard %d the nodes say %+v, %v", shard, said, err)
	}
}

// writers put keys that nobody else writes, each once, and remember which of them were acknowledged.
type writers struct {
	t       *testing.T
	cluster *cluster.Cluster
	http    *http.Client
	cancel  context.CancelFunc
	writing sync.WaitGroup

	mu    sync.Mutex // guards what follows
	acked []string
}

func startWriters(t *testing.T, c *cluster.Cluster, count int) *writers {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &writers{
		t: t, cluster: c, cancel: cancel,
		http: &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: c.Dial, MaxIdleConnsPerHost: count}},
	}
	for i := range count {
		w.writing.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("writer-%d/%d", i, n)
				status, _, err := w.do(http.MethodPut, c.Nodes[i%len(c.Nodes)], key)
				if err == nil && status == http.StatusCreated {
					w.mu.Lock()
					w.acked = append(w.acked, key)
					w.mu.Unlock()
				}
				select {
				case <-ctx.Done():
				case <-time.After(5 * time.Millisecond):
				}
			}
		})
	}
	t.Cleanup(w.stop)
	return w
}

// do gets a key at a node, or puts its own name there.
func (w *writers) do(method string, n *cluster.Node, key string) (int, string, error) {
	var value io.Reader
	if method == http.MethodPut {
		value = strings.NewReader(key)
	}
	req, err := http.NewRequest(method, client.KeyURL(n.URL, key), value)
	if err != nil {
		return 0, "", err
	}
	resp, err := w.http.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(body), err
}

func (w *writers) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.acked)
}

// progress waits until so many more keys are acknowledged.
func (w *writers) progress(more int) {
	w.t.Helper()
	const limit = 40 * time.Second
	from, start := w.count(), time.Now()
	if err := cluster.Poll(within(w.t, limit), func() bool { return w.count() >= from+more }); err != nil {
		w.t.Fatalf("%d writes in %v, want %d: no progress", w.count()-from, limit, more)
	}
	w.t.Logf("%d writes in %v", more, time.Since(start).Round(time.Millisecond))
}

// stop ends the writers.
func (w *writers) stop() {
	w.cancel()
	w.writing.Wait()
	w.http.CloseIdleConnections()
}

// readAll reads all that was acknowledged.
func (w *writers) readAll() {
	w.t.Helper()
	ctx := within(w.t, 60*time.Second)
	const readers = 8
	var all sync.WaitGroup
	for first := range readers {
		all.Go(func() {
			for i := first; i < len(w.acked); i += readers {
				w.read(ctx, w.cluster.Nodes[i%len(w.cluster.Nodes)], w.acked[i])
			}
		})
	}
	all.Wait()
	w.t.Logf("%d acknowledged keys were read", len(w.acked))
}

// read reads a key that must be there.
func (w *writers) read(ctx context.Context, n *cluster.Node, key string) {
	var status int
	var body string
	if err := cluster.Poll(ctx, func() bool {
		var err error
		status, body, err = w.do(http.MethodGet, n, key)
		return err == nil && (status == http.StatusOK || status == http.StatusNotFound)
	}); err != nil {
		w.t.Errorf("key %s can't be read: %v", key, err)
	} else if status != http.StatusOK || body != key {
		w.t.Errorf("key %s was acknowledged, and is %d %q now", key, status, body)
	}
}
