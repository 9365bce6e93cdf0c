package directory

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/larder-cache/larder/shard"
)

// countLevel is the feature level of the directory from which on it adds and removes members for the sake of their number.
const countLevel = 4

// leastDirectory is how many members the directory is to have at least: without it nothing heals.
const leastDirectory = 3

// wants is how many members a group is to have: a data shard as the settings say, the directory as many, but at least three and no even
// number, which outlives no more failures than one less.
func (t *Table) wants(id shard.ID) int {
	if id == shard.Directory {
		return max(leastDirectory, oddUpTo(t.Settings.Replicas))
	}
	return t.Settings.Replicas
}

// hasMore reports whether a group has more members than it is to have. What a directory has beyond that number stays, as its founders may
// be more, unless it is even.
func (t *Table) hasMore(sh Shard) bool {
	most := t.wants(sh.ID)
	if sh.ID == shard.Directory {
		most = max(most, oddUpTo(len(sh.Members)))
	}
	return len(sh.Members) > most
}

// oddUpTo is the highest odd number up to n.
func oddUpTo(n int) int { return n - 1 + n%2 }

// missing returns the members that groups lack or have too many, one for each group at a time; leaving is what leaves nodes that are drained or gone, which
// comes first. It is pure.
//
// Where there are fewer nodes than a group is to have members, it gets as many as there are nodes, or one less: an even number outlives no
// more failures. One is removed only while all others are there.
func (t *Table) missing(v outlook, leaving []relocation) []relocation {
	if t.Level < countLevel {
		return nil
	}
	_, tooMany := t.tooManyGone(v.sights)
	l := t.loads(v)
	var all []relocation
	for _, sh := range t.groups() {
		members := t.settled(sh)
		has, want, more := len(members), t.wants(sh.ID), t.hasMore(Shard{ID: sh.ID, Members: members})
		if has >= want && !more || slices.ContainsFunc(leaving, func(r relocation) bool { return r.shard == sh.ID }) {
			continue
		}
		r := relocation{shard: sh.ID, calm: true, reason: fmt.Sprintf("it has %d of %d members", has, want)}
		takers := 0
		for id := range t.Nodes {
			if t.takes(members, id, v.sights) {
				takers++
			}
		}
		reach := min(want, has+takers)
		if reach < want {
			reach = oddUpTo(reach)
		}
		o, runs := t.runningOn(sh.ID)
		switch {
		case runs:
			r.waits = fmt.Sprintf("operation %d runs on shard %d", o.ID, sh.ID)
		case t.unsettled(sh.ID):
			r.waits = unsettledWaits
		case tooMany && (sh.ID != shard.Directory || has >= leastDirectory): // a directory that was rebuilt grows, however many are gone
			r.waits = "too many nodes look gone"
		case more && v.hands[sh.ID]:
			r.waits = handsWait
		case more:
			if r.waits = down(members, v); r.waits != "" {
				r.waits = fmt.Sprintf("node %s is down", r.waits)
				break
			}
			r.from = t.surplus(sh, v, l)
			l.move(sh.ID, r.from.Node, "")
		case has >= reach && sh.ID == shard.Directory && len(t.Nodes) < want:
			continue // what a small cluster can't have it does not wait for
		case has >= reach && takers == 0:
			r.waits = "no other node takes one: each is down, is drained, or has one of that shard"
		case has >= reach:
			r.waits = "only one other node takes one, and an even number outlives no more failures"
		default:
			r.to = t.target(members, Member{}, v.sights, l)
			l.move(sh.ID, "", r.to)
		}
		all = append(all, r)
	}
	return all
}

// handsOff is for how long a group that an operator has added a member to keeps it, though it is one too many: who replaces a member by hand
// adds one and removes another, and who wants five members of the directory instead of three adds two, of which the first
// makes an even number.
const handsOff = 30 * time.Second

const handsWait = "an operator added a member just now: what is too many stays for half a minute"

// hands are the groups whose last change was an operator's addition of a member, each with the operation and when it was seen to have ended. A new leader of the
// directory counts from when it looks.
type hands struct {
	mu    sync.Mutex
	added map[shard.ID]addition // guarded by mu
}

type addition struct {
	operation uint64
	seen      time.Time
}

// at returns the groups that are to be left alone at the time now.
func (h *hands) at(t *Table, now time.Time) map[shard.ID]bool {
	if len(t.Operations) == 0 {
		return nil
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	last := map[shard.ID]Operation{}
	for _, o := range t.Operations {
		if o.ID >= last[o.Shard].ID {
			last[o.Shard] = o
		}
	}
	added, at := map[shard.ID]addition{}, map[shard.ID]bool{}
	for id, o := range last {
		if o.Kind != AddMember || o.Reason != "" || o.State != OperationDone {
			continue
		}
		a := h.added[id]
		if a.operation != o.ID {
			a = addition{o.ID, now}
		}
		added[id] = a
		at[id] = now.Sub(a.seen) < handsOff
	}
	h.added = added
	return at
}
