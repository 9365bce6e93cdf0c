package check

import (
	"strings"

	"github.com/larder-cache/larder/integration/history"
)

// settings precede the names of cluster-wide settings in keys that stand for them. They are in no cache.
const settings = "settings/"

// trait says what is special about a key.
type trait struct {
	// evicts: there is not room for all, so that what it holds may vanish.
	evicts bool
	// timed: some values end.
	timed bool
	// derived: values are made of those before them (incr, append), so what a read shows need not have been stored by one
	// request.
	derived bool
}

// vanish reports whether something that the key holds may vanish by itself.
func (t trait) vanish() bool { return t.evicts || t.timed }

// traitsOf returns the traits of all keys.
func traitsOf(ops []history.Operation, mode history.Mode) map[string]trait {
	traits := map[string]trait{}
	for i := range ops {
		o := &ops[i]
		t := traits[o.Key]
		t.timed = t.timed || o.TTL != 0
		t.evicts = mode == history.Tight && !strings.HasPrefix(o.Key, settings)
		t.derived = t.derived || o.Kind == history.Incr || o.Kind == history.Append
		traits[o.Key] = t
	}
	return traits
}
