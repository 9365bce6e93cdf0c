package shard

import (
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// boltSyncs is how often bbolt syncs for a transaction: its pages, then the page that makes them valid. When the file
// grows there is one more, which is not counted.
const boltSyncs = 2

// counted is an engine that counts its writes, each of which is a transaction of bbolt.
type counted struct {
	engine
	writes *atomic.Uint64
}

func (c counted) count(err error) error {
	if err == nil {
		c.writes.Add(1)
	}
	return err
}

// StoreLogs implements engine.
func (c counted) StoreLogs(logs []*raft.Log) error { return c.count(c.engine.StoreLogs(logs)) }

// DeleteRange implements engine.
func (c counted) DeleteRange(min, max uint64) error { return c.count(c.engine.DeleteRange(min, max)) }

// Set implements engine.
func (c counted) Set(key, value []byte) error { return c.count(c.engine.Set(key, value)) }
