package directory

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/larder-cache/larder/fsm"
	"github.com/larder-cache/larder/shard"
)

// scanRig is a router on node a over a table of nodes a, b and c with four shards of 4,096 slots each, led by b, that notes who is asked
// for what. answer, when set, answers instead of a page that ends with the shard.
type scanRig struct {
	*Router
	asked  []string
	answer func(ctx context.Context, node string, s shard.Scan) (shard.Page, error)
}

func newScanRig(t *testing.T) *scanRig {
	rig := &scanRig{}
	latest := NewLatest()
	latest.Publish(testTable(t, 3, Settings{InitialShards: 4, Replicas: 3, CacheMemory: "60%"}))
	ask := func(ctx context.Context, node string, s shard.Scan) (shard.Page, error) {
		rig.asked = append(rig.asked, fmt.Sprintf("%s: %d from %d", node, s.Shard, s.From.Slot))
		if rig.answer != nil {
			return rig.answer(ctx, node, s)
		}
		return pageTo(s, 1), nil
	}
	rig.Router = &Router{
		self:    "d", // which has no replica
		latest:  latest,
		known:   func() error { return nil },
		hot:     func(shard.ID) bool { return false },
		leader:  func(shard.ID) (string, uint64) { return "b", 1 },
		up:      func(string) bool { return true },
		retried: func(string) {},
		scan:    ask,
		erase:   ask,
	}
	return rig
}

// pageTo is the page of s that ends with its shard.
func pageTo(s shard.Scan, removed uint64) shard.Page {
	return shard.Page{Response: shard.Response{Shard: s.Shard, Status: fsm.StatusOK}, Removed: removed, Next: fsm.Cursor{Slot: uint32(s.Shard) * 4096}}
}

// TestScanFindsOwner ensures that a page is asked of whoever owns the slot where it begins, that one slot's prefix is looked for there
// alone, and that behind the end nobody is asked.
func TestScanFindsOwner(t *testing.T) {
	rig := newScanRig(t)
	tag := uint32(fsm.Slot([]byte("a"))) // 15495
	for _, row := range []struct {
		from   uint32
		prefix string
		asked  string
	}{
		{0, "", "b: 1 from 0"}, {4095, "", "b: 1 from 4095"}, {4096, "k", "b: 2 from 4096"}, {fsm.Slots, "", ""},
		{0, "{a}", "b: 4 from 15495"}, {tag, "{a}", "b: 4 from 15495"}, {tag + 1, "{a}", ""},
	} {
		rig.asked = nil
		p, err := rig.Scan(t.Context(), shard.Scan{Prefix: []byte(row.prefix), From: fsm.Cursor{Slot: row.from}, Limit: 1})
		var want []string
		if row.asked != "" {
			want = []string{row.asked}
		}
		if err != nil || !slices.Equal(rig.asked, want) || want == nil && p.Next.Slot != fsm.Slots || want != nil && p.ForwardedTo != "b" {
			t.Errorf("%+v: asked %q, %+v, %v", row, rig.asked, p, err)
		}
	}
}

// TestScanTriesAgain ensures that a page is asked for again while nobody serves it, that silence is no unknown outcome of a page, and
// that overload and the end of the time are told.
func TestScanTriesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newScanRig(t)
		for _, refusal := range []error{&shard.NotLeaderError{Leader: "c"}, &shard.NotOwnerError{Epoch: 5}, shard.ErrNoLeader, shard.ErrUnreachable, shard.ErrOutcomeUnknown} {
			n := 0
			rig.answer = func(_ context.Context, _ string, s shard.Scan) (shard.Page, error) {
				if n++; n == 1 {
					return shard.Page{}, refusal
				}
				return pageTo(s, 0), nil
			}
			if _, err := rig.Scan(t.Context(), shard.Scan{Limit: 1}); err != nil || n != 2 {
				t.Errorf("%v: %v after %d", refusal, err, n)
			}
		}
		rig.answer = func(context.Context, string, shard.Scan) (shard.Page, error) {
			return shard.Page{}, shard.ErrOverloaded
		}
		if _, err := rig.Scan(t.Context(), shard.Scan{Limit: 1}); !errors.Is(err, shard.ErrOverloaded) {
			t.Error(err)
		}
		rig.answer = func(context.Context, string, shard.Scan) (shard.Page, error) { return shard.Page{}, shard.ErrNoLeader }
		began := time.Now()
		if _, err := rig.Scan(t.Context(), shard.Scan{Limit: 1}); !errors.Is(err, shard.ErrNoLeader) || time.Since(began) < DefaultTimeout {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// TestEraseGoesOn ensures that keys are removed shard by shard with their sum, that what fails before anything is removed is an error, and
// that what fails afterwards, or is not done in time, ends it where it came to; but that an unknown outcome is told.
func TestEraseGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rig := newScanRig(t)
		erase := func(timeout time.Duration) (shard.Page, error) {
			rig.asked = nil
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			return rig.Erase(ctx, shard.Scan{Prefix: []byte("k"), From: fsm.Cursor{Slot: 10}})
		}
		p, err := erase(time.Second)
		if err != nil || p.Removed != 4 || p.Next.Slot != fsm.Slots || !slices.Equal(rig.asked, []string{"b: 1 from 10", "b: 2 from 4096", "b: 3 from 8192", "b: 4 from 12288"}) {
			t.Errorf("%+v, %v, asked %q", p, err, rig.asked)
		}
		for _, row := range []struct {
			at      shard.ID
			answer  error
			status  fsm.Status
			err     error
			removed uint64
			next    uint32
		}{
			{1, shard.ErrOverloaded, 0, shard.ErrOverloaded, 0, 10}, {3, shard.ErrOverloaded, 0, nil, 2, 8192},
			{1, shard.ErrNoLeader, 0, shard.ErrNoLeader, 0, 10}, {2, shard.ErrNoLeader, 0, nil, 1, 4096},
			{1, shard.ErrOutcomeUnknown, 0, shard.ErrOutcomeUnknown, 0, 10}, {4, shard.ErrOutcomeUnknown, 0, shard.ErrOutcomeUnknown, 3, 12288},
			{2, nil, fsm.StatusExhausted, nil, 2, 8192},
		} {
			rig.answer = func(_ context.Context, _ string, s shard.Scan) (shard.Page, error) {
				p := pageTo(s, 1)
				if s.Shard != row.at {
					return p, nil
				}
				p.Status = row.status
				return p, row.answer
			}
			p, err := erase(time.Second)
			if !errors.Is(err, row.err) || (err == nil) != (row.err == nil) || p.Removed != row.removed || p.Next.Slot != row.next {
				t.Errorf("%+v: %+v, %v", row, p, err)
			}
		}
		rig.answer = func(_ context.Context, _ string, s shard.Scan) (shard.Page, error) {
			time.Sleep(300 * time.Millisecond)
			return pageTo(s, 1), nil
		}
		if p, err := erase(time.Second); err != nil || p.Removed != 3 || p.Next.Slot != 12288 {
			t.Errorf("in a second: %+v, %v", p, err)
		}
		if p, err := erase(100 * time.Millisecond); err != nil || p.Removed != 1 || p.Next.Slot != 4096 {
			t.Errorf("a first step is taken: %+v, %v", p, err)
		}
	})
}
