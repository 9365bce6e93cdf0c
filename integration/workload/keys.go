package workload

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	"github.com/larder-cache/larder/integration/history"
)

// The shape of one key's history, see the package's documentation.
const (
	opsPerKey      = 120
	concurrency    = 8
	unknownsPerKey = 4
)

// keys is the set of keys in use; spent ones are replaced.
type keys struct {
	prefix string

	mu      sync.Mutex // guards what follows
	current []*slot
	all     []string
}

// slot is a key in use.
type slot struct {
	key      string
	ops      int
	unknowns int
	underWay int
}

func newKeys(prefix string, n int) *keys {
	k := &keys{prefix: prefix}
	for range n {
		k.current = append(k.current, k.freshLocked())
	}
	return k
}

func (k *keys) freshLocked() *slot {
	s := &slot{key: fmt.Sprintf("%s/%d", k.prefix, len(k.all))}
	k.all = append(k.all, s.key)
	return s
}

// take returns a key for one operation, nil when all are as busy as they may be.
func (k *keys) take(rng *rand.Rand) *slot {
	k.mu.Lock()
	defer k.mu.Unlock()
	first := rng.IntN(len(k.current))
	for i := range k.current {
		s := k.current[(first+i)%len(k.current)]
		if s.underWay+s.unknowns < concurrency {
			s.underWay++
			return s
		}
	}
	return nil
}

// give ends the operation that take was called for.
func (k *keys) give(s *slot, o history.Operation) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s.underWay--
	s.ops++
	if o.Outcome == history.Unknown {
		s.unknowns++
	}
	if s.ops < opsPerKey && s.unknowns < unknownsPerKey {
		return
	}
	if i := slices.Index(k.current, s); i >= 0 { // once; later ones still under way find it replaced
		k.current[i] = k.freshLocked()
	}
}

// names returns all keys that were ever in use.
func (k *keys) names() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.all)
}
