//go:build !faults

package shard

import (
	"context"

	"github.com/larder-cache/larder/fsm"
)

// No bug is seeded in what users run: the compiler leaves out all of it.

func (bug) on() bool { return false }

func (i *instance) confirmers(voters []ReplicaID) []ReplicaID { return voters }

func (c *cacheMachine) misrestore(*fsm.Machine) {}

func (c *cacheMachine) misuse([]byte) {}

func (c *cacheMachine) misevict() {}

func misstore(e engine) engine { return e }

func (c *Cache) judgeOutside(*Request) (Response, bool) { return Response{}, false }

func (c *Cache) guess([]byte) outcome { return outcome{} }

func (c *Cache) submitEarly(context.Context, *fsm.Command) (outcome, error) { return outcome{}, nil }
