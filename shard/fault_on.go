//go:build faults

package shard

import (
	"context"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/fsm"
)

var bugs = strings.Split(os.Getenv("LARDER_FAULTS"), ",")

func (b bug) on() bool { return slices.Contains(bugs, string(b)) }

// confirmers are who may confirm that this replica leads: the voters.
func (i *instance) confirmers(voters []ReplicaID) (all []ReplicaID) {
	if !bugLearnersCounted.on() {
		return voters
	}
	for _, s := range i.raft.GetConfiguration().Configuration().Servers {
		if r, err := ParseReplicaID(string(s.ID)); err == nil {
			all = append(all, r)
		}
	}
	return all
}

// misrestore spoils a machine that a snapshot came in for, before it takes the place of c's.
func (c *cacheMachine) misrestore(m *fsm.Machine) {
	if bugRestoreNoOrder.on() {
		m.Disorder()
	}
	if bugRestoreNoKeys.on() {
		m.ForgetKeys()
	}
	if bugRestoreMerges.on() {
		m.Merge(c.m)
	}
}

// misuse makes key recent here alone.
func (c *cacheMachine) misuse(key []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m.Use(key)
}

// misevict changes here alone what is evicted next.
func (c *cacheMachine) misevict() { c.m.Spare() }

// judgeOutside judges req's condition by what this replica has now. true: the response is the answer.
func (c *Cache) judgeOutside(req *Request) (Response, bool) {
	i := c.group.instance()
	if i == nil || req.Cond.Kind == fsm.CondAlways || req.Cond.Kind == fsm.CondFill {
		return Response{}, false
	}
	l, at, _ := i.fsm.machine.(*cacheMachine).look(req.Key)
	holds := l.Found
	switch req.Cond.Kind {
	case fsm.CondAbsent:
		holds = !l.Found
	case fsm.CondVersion:
		holds = l.Found && l.Entry.Version == req.Cond.Version
	}
	req.Cond = fsm.Cond{}
	if holds || !l.Owned {
		return Response{}, false
	}
	r := c.response(l.Epoch, at.index, at.position)
	r.Status, r.Version, r.Existed = fsm.StatusCondition, l.Entry.Version, l.Found
	return r, true
}

// guess is an outcome for a write whose own is not known: what it would most likely be.
func (c *Cache) guess(key []byte) outcome {
	i := c.group.instance()
	if i == nil {
		return outcome{}
	}
	m := i.fsm.machine.(*cacheMachine)
	l, _, _ := m.look(key)
	return outcome{index: i.raft.LastIndex(), epoch: l.Epoch,
		result: fsm.Result{Status: fsm.StatusOK, Existed: l.Found, Version: l.Version + 1}}
}

// earlyTime is how long a write may take to be committed before it is acknowledged anyway.
const earlyTime = 20 * time.Millisecond

// submitEarly submits a command, and waits no longer than earlyTime.
func (c *Cache) submitEarly(ctx context.Context, command *fsm.Command) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	done := make(chan outcome, 1)
	go func() {
		defer cancel()
		o, err := c.batches.submit(ctx, command)
		o.err = err
		done <- o
	}()
	select {
	case o := <-done:
		return o, o.err
	case <-time.After(earlyTime):
		return c.guess(command.Key), nil
	}
}
