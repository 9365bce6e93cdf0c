package check

import (
	"strings"

	"github.com/larder-cache/larder/integration/history"
)

// settings precede the names of cluster-wide settings in keys that stand for them. They are in no cache.
const settings = "settings/"

// trait says what is special about a key.
type trait struct {
	// vanish: what it holds may vanish by itself, since there is not room for all or since some values end.
	vanish bool
	// timed: some values end.
	timed bool
	// derived: values are made of those before them (incr, append), so what a read shows need not have been stored by one
	// request.
	derived bool
}

// traitsOf returns the traits of all keys.
func traitsOf(ops []history.Operation, mode history.Mode) map[string]trait {
	traits := map[string]trait{}
	for i := range ops {
		o := &ops[i]
		t := traits[o.Key]
		t.timed = t.timed || o.TTL != 0
		t.vanish = mode == history.Tight && !strings.HasPrefix(o.Key, settings) || t.timed
		t.derived = t.derived || o.Kind == history.Incr || o.Kind == history.Append
		traits[o.Key] = t
	}
	return traits
}
