package workload

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/larder-cache/larder/integration/history"
)

// The shape of one key's history, see the package's documentation.
const (
	concurrency    = 8
	unknownsPerKey = 4
)

// keyGroups is how many groups tagged keys fall into.
const keyGroups = 3

// keys is the set of keys in use; spent ones are replaced.
type keys struct {
	prefix  string
	flavors []*flavor
	skewed  bool // some keys are asked for far more often than others

	mu      sync.Mutex // guards what follows
	current []*slot
	all     []string
}

// slot is a key in use.
type slot struct {
	key      string
	tag      int // of a tagged flavor: which group
	flavor   *flavor
	at       int // in current
	most     int // operations before it is given up
	ops      int
	unknowns int
	underWay int
}

func newKeys(prefix string, n int, flavors []*flavor, skewed bool) *keys {
	k := &keys{prefix: prefix, flavors: flavors, skewed: skewed}
	for i := range max(n, len(flavors)) {
		k.current = append(k.current, k.freshLocked(i))
	}
	return k
}

// freshLocked makes the key at place i of those in use, which has always the same flavor.
func (k *keys) freshLocked(i int) *slot {
	f := k.flavors[i%len(k.flavors)]
	n := len(k.all)
	s := &slot{key: fmt.Sprintf("%s/%s/%d", k.prefix, f.name, n), flavor: f, at: i, most: f.least + n*7%(f.most-f.least+1)}
	if f.tagged {
		s.tag = i / len(k.flavors) % keyGroups
		s.key = fmt.Sprintf("%s/%s/{%d}%d", k.prefix, f.name, s.tag, n)
	}
	k.all = append(k.all, s.key)
	return s
}

// take returns a key for one operation, nil when all are as busy as they may be.
func (k *keys) take(rng *rand.Rand) *slot {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := rng.IntN(len(k.current))
	if k.skewed {
		// The twentieth of the keys that is wanted most gets two thirds of the operations.
		if wanted := len(k.current) / 20; wanted > 0 && rng.IntN(3) < 2 {
			first = rng.IntN(wanted)
		}
	}
	for i := range k.current {
		s := k.current[(first+i)%len(k.current)]
		if s.underWay+s.unknowns < concurrency {
			s.underWay++
			return s
		}
	}
	return nil
}

// takeLike takes other keys of the same group for one operation each, at most most of them.
func (k *keys) takeLike(s *slot, most int) (others []*slot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i := range k.current {
		o := k.current[(s.at+1+i)%len(k.current)]
		if len(others) == most {
			break
		}
		if o != s && o.tag == s.tag && o.underWay+o.unknowns < concurrency {
			o.underWay++
			others = append(others, o)
		}
	}
	return others
}

// retake takes a key that was taken or given just now once more, and reports whether it may be.
func (k *keys) retake(s *slot) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.underWay+s.unknowns >= concurrency {
		return false
	}
	s.underWay++
	return true
}

// give ends the operation that take was called for.
func (k *keys) give(s *slot, o *history.Operation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.underWay--
	s.ops++
	if o.Outcome == history.Unknown {
		s.unknowns++
	}
	if s.ops < s.most && s.unknowns < unknownsPerKey {
		return
	}
	if k.current[s.at] == s { // once; later ones still under way find it replaced
		k.current[s.at] = k.freshLocked(s.at)
	}
}

// names returns all keys that were ever in use.
func (k *keys) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return append([]string(nil), k.all...)
}
