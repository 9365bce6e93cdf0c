//go:build faults

package shard

import (
	"os"
	"slices"
	"strings"

	"github.com/larder-cache/larder/fsm"
)

var bugs = strings.Split(os.Getenv("LARDER_FAULTS"), ",")

func (b bug) on() bool { return slices.Contains(bugs, string(b)) }

// replicas are all that the configuration has, learners too.
func (i *instance) replicas() (all []ReplicaID) {
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
func (c *Cache) guess(req *Request) outcome {
	i := c.group.instance()
	if i == nil {
		return outcome{}
	}
	m := i.fsm.machine.(*cacheMachine)
	l, _, _ := m.look(req.Key)
	return outcome{index: i.raft.LastIndex(), epoch: l.Epoch,
		result: fsm.Result{Status: fsm.StatusOK, Existed: l.Found, Version: l.Version + 1}}
}
