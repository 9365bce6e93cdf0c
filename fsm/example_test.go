package fsm_test

import (
	"bytes"
	"fmt"

	"github.com/larder-cache/larder/fsm"
)

// A machine owns nothing until a grant, and then holds what its log puts there.
func ExampleMachine_Apply() {
	m := fsm.New()
	results, err := m.Apply(1, fsm.Batch{Stamp: 1000, Level: 1, Commands: []fsm.Command{
		{Kind: fsm.KindGrant, Grant: fsm.Grant{
			Range: fsm.Range{Start: 0, End: fsm.Slots}, Epoch: 1, VersionBits: 1, Limit: 1 << 20, TableVersion: 1,
		}},
		{Kind: fsm.KindPut, Key: []byte("greeting"), Value: []byte("hello"), TTL: 500},
		{Kind: fsm.KindPut, Key: []byte("greeting"), Value: []byte("hi"), Cond: fsm.Cond{Kind: fsm.CondAbsent}},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(results[1].Status == fsm.StatusOK, results[2].Status == fsm.StatusCondition, results[2].Version == results[1].Version)

	found := m.Lookup([]byte("greeting"))
	fmt.Printf("%s until %d\n", found.Entry.Value, found.Entry.ExpireAt)

	if _, err := m.Apply(2, fsm.Batch{Stamp: 1500}); err != nil { // a tick moves the clock
		fmt.Println(err)
		return
	}
	fmt.Println(m.Lookup([]byte("greeting")).Found)
	// Output:
	// true true true
	// hello until 1500
	// false
}

// A restored machine is the one that was snapshotted, to the last bit.
func ExampleRestore() {
	m := fsm.New()
	if _, err := m.Apply(1, fsm.Batch{Stamp: 1000}); err != nil {
		fmt.Println(err)
		return
	}
	var image bytes.Buffer
	if _, err := m.Snapshot().WriteTo(&image); err != nil {
		fmt.Println(err)
		return
	}
	again, err := fsm.Restore(&image)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(again.Checksum() == m.Checksum(), again.Stats().Clock)
	// Output: true 1000
}
