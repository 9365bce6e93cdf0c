package shard

import (
	"fmt"
	"testing"

	"github.com/larder-cache/larder/fsm"
)

// BenchmarkMark tells what a mark costs a replica: 100,000 entries in an eighth of the slots, and in all.
func BenchmarkMark(b *testing.B) {
	for _, slots := range []uint32{fsm.Slots / 8, fsm.Slots} {
		b.Run(fmt.Sprint(slots), func(b *testing.B) {
			m := newCacheMachine(testShard)
			grant := fsm.Grant{Range: fsm.Range{End: slots}, Epoch: 1, Generation: 1, VersionBits: 1, Limit: 1 << 30, TableVersion: 1}
			batch := fsm.Batch{Level: 1, Commands: []fsm.Command{{Kind: fsm.KindGrant, Grant: grant}}}
			for n := range 100_000 {
				batch.Commands = append(batch.Commands, fsm.Command{Kind: fsm.KindPut, Key: fmt.Appendf(nil, "key%d", n), Value: make([]byte, 128)})
			}
			if _, err := m.m.Apply(1, batch); err != nil {
				b.Fatal(err)
			}
			for index := uint64(2); b.Loop(); index++ {
				m.Mark(index)
			}
		})
	}
}
