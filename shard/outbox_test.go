package shard

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sendLog is a Link that notes what is sent when.
type sendLog struct {
	mu    sync.Mutex
	sends []sentFrames
}

type sentFrames struct {
	at     time.Time
	frames string // joined by blanks
}

func (l *sendLog) Send(frames [][]byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := sentFrames{at: time.Now()}
	for i, f := range frames {
		if i > 0 {
			s.frames += " "
		}
		s.frames += string(f)
	}
	l.sends = append(l.sends, s)
	return nil
}

func (l *sendLog) Recv() ([]byte, error) { return nil, errors.New("nothing comes in") }
func (l *sendLog) Close() error          { return nil }

// TestOutboxGrid ensures that lazy frames of all outboxes leave together at round times, that one which
// may not wait leaves at once and takes them along, and that a closed outbox takes nothing.
func TestOutboxGrid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := Config{HeartbeatTimeout: time.Second}
		round := time.Now() // a bubble begins at a round time
		if round.UnixNano()%int64(lazyGrid) != 0 {
			t.Fatalf("the bubble began at %v", round)
		}
		logs, boxes := [2]sendLog{}, [2]*outbox{}
		stop := make(chan struct{})
		var running sync.WaitGroup
		for i := range boxes {
			boxes[i] = newOutbox(cfg)
			running.Go(func() { _ = boxes[i].run(&logs[i], stop) })
		}
		put := func(box int, frame string, lazy bool) {
			t.Helper()
			if err := boxes[box].put([]byte(frame), lazy); err != nil {
				t.Errorf("put %s: %v", frame, err)
			}
		}
		const ms = time.Millisecond
		time.Sleep(10 * ms)
		put(0, "a", true)
		time.Sleep(20 * ms)
		put(0, "b", true)
		put(1, "c", true)
		time.Sleep(30 * ms) // 60: a, b and c have left at 50
		put(0, "d", true)
		time.Sleep(10 * ms)
		put(0, "e", false) // 70
		synctest.Wait()
		time.Sleep(60 * ms) // 130: d has not left a second time at 100
		put(0, "f", false)
		time.Sleep(lazyGrid)
		close(stop)
		running.Wait()

		want := [2][]sentFrames{
			{{round.Add(50 * ms), "a b"}, {round.Add(70 * ms), "d e"}, {round.Add(130 * ms), "f"}},
			{{round.Add(50 * ms), "c"}},
		}
		for i := range want {
			if !slices.Equal(logs[i].sends, want[i]) {
				t.Errorf("outbox %d sent\n%v, want\n%v", i, logs[i].sends, want[i])
			}
			if err := boxes[i].put(nil, true); !errors.Is(err, ErrUnreachable) {
				t.Errorf("a closed outbox said %v", err)
			}
		}
	})
}

// TestHeartbeatsInTime ensures that followers of an idle leader hear from it well before the half of
// HeartbeatTimeout after which a leader that hears nothing gives up, although heartbeats wait for company.
func TestHeartbeatsInTime(t *testing.T) {
	inBubble(t, 3, nil, func(c *cluster) {
		l := c.leader()
		c.mustPut(l, "k", "v")
		timeout := l.cfg.HeartbeatTimeout
		var longest time.Duration
		for range 20_000 {
			time.Sleep(timeout / 500)
			for node, h := range c.hosts {
				if node != l.Node() {
					longest = max(longest, time.Since(raftOf(h).LastContact()))
				}
			}
		}
		if longest > timeout*3/10 || longest < timeout/10 {
			t.Errorf("a follower heard nothing for %v, HeartbeatTimeout is %v", longest, timeout)
		}
		if still := c.leader(); still != l {
			t.Errorf("%s leads now, not %s", still.Node(), l.Node())
		}
	})
}

// TestToldCommit ensures that what a follower was told of the commit index only grows within a term, and
// counts for that term alone.
func TestToldCommit(t *testing.T) {
	var f followers
	for i, step := range []struct{ term, commit, want uint64 }{{1, 5, 5}, {1, 0, 5}, {1, 7, 7}, {2, 0, 0}, {2, 8, 8}} {
		f.note("x", step.term, 9, step.commit)
		if got := f.commit("x", step.term); got != step.want {
			t.Errorf("step %d: told %d, want %d", i, got, step.want)
		}
		if got := f.commit("x", step.term+1); got != 0 {
			t.Errorf("step %d: in the next term told %d, want 0", i, got)
		}
	}
	if got := f.commit("y", 1); got != 0 {
		t.Errorf("a follower that said nothing was told %d", got)
	}
}
