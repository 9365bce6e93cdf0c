package directory

import (
	"context"
	"testing"
	"time"

	"github.com/larder-cache/larder/shard"
)

// BenchmarkRouterDo is what the way to a replica takes that serves at once.
func BenchmarkRouterDo(b *testing.B) {
	latest := NewLatest()
	latest.Publish(testTable(b, 3, Settings{InitialShards: 1, Replicas: 3, CacheMemory: "60%"}))
	r := &Router{
		self:    "a",
		latest:  latest,
		known:   func() error { return nil },
		hot:     func(shard.ID) bool { return false },
		leader:  func(shard.ID) (string, uint64) { return "a", 1 },
		up:      func(string) bool { return true },
		retried: func(string) {},
		do: func(_ context.Context, node string, _ shard.Request) (shard.Response, error) {
			return shard.Response{ServedBy: node}, nil
		},
	}
	ctx, cancel := context.WithTimeout(b.Context(), time.Hour)
	defer cancel()
	for name, op := range map[string]shard.Op{"read": shard.OpGet, "write": shard.OpPut} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			req := shard.Request{Op: op, Key: []byte("user:1234")}
			for b.Loop() {
				if _, err := r.Do(ctx, req); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
