package directory

import (
	"reflect"
	"testing"
)

// FuzzDecodeCommand ensures that no bytes of a command crash a replica: they are refused, or they are a
// command that can be encoded again and applied to any table, with a table that is valid after it.
func FuzzDecodeCommand(f *testing.F) {
	table := testTable(f, 3, smallSettings)
	old, _ := mustDecode(f, oldInit(f, 3, smallSettings)).apply(&Table{})
	for _, c := range []Command{
		testInit(f, 3, smallSettings),
		{RegisterNode: &RegisterNode{Node: testNodes(1)[0]}},
		{SetLimits: &SetLimits{Expect: 1, Limits: []ShardLimit{{1, 2}}}},
		{SetLevel: &SetLevel{Level: 1}},
		{Regrant: &Regrant{Shard: 1, Expect: 1}},
		{AddNode: &AddNode{Node: testNodes(4)[3]}},
		{RemoveNode: &RemoveNode{ID: "a"}},
		{Start: &StartOperation{Kind: RemoveMember, Shard: 1, Node: "a", Conf: 1}},
		{Start: &StartOperation{Kind: RebuildMember, Shard: 1, Node: "a", R: 1, Conf: 1, Reason: reasonDiverged}},
		{Advance: &AdvanceOperation{ID: 1, From: PhaseHandingOver, FromConf: 1, State: OperationRunning, Phase: PhaseRemoving, Conf: 1}},
		{Cancel: &CancelOperation{ID: 1}},
		{Recover: &RecoverShard{Shard: 1, Generation: 1, Nodes: []string{"a", "b"}}},
		{Recover: &RecoverShard{Shard: 1, Generation: 1, Nodes: []string{"a"}, Keep: 1}},
		{SetLevel: &SetLevel{Level: 2, ShardLevel: 2, Expect: 1}},
		{SetSettings: &SetSettings{Expect: 1, Settings: Settings{InitialShards: 4, Replicas: 3, CacheMemory: "50%", ShardBytes: 1 << 20, DefaultTTL: "1h", TouchInterval: "1s"}}},
	} {
		data, err := c.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Add([]byte(`{"v":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeCommand(data)
		if err != nil {
			return
		}
		again, err := c.Encode()
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		if back, err := DecodeCommand(again); err != nil || !reflect.DeepEqual(back, c) {
			t.Fatalf("%+v is decoded as %+v, %v", c, back, err)
		}
		for _, before := range []*Table{{}, table, old} {
			if next, _ := c.apply(before); next != nil {
				if err := next.Validate(); err != nil {
					t.Fatalf("%s makes a table that is none: %v", data, err)
				}
			}
		}
	})
}
