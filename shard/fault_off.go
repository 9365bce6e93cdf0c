//go:build !faults

package shard

import "github.com/larder-cache/larder/fsm"

// No bug is seeded in what users run: the compiler leaves out all of it.

func (bug) on() bool { return false }

func (i *instance) replicas() (all []ReplicaID) { return nil }

func (c *cacheMachine) misrestore(*fsm.Machine) {}

func (c *cacheMachine) misuse([]byte) {}

func (c *Cache) judgeOutside(*Request) (Response, bool) { return Response{}, false }

func (c *Cache) guess(*Request) outcome { return outcome{} }
