package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/larder-cache/larder/shard"
)

const (
	methodConf = "shard.configuration"
	methodStep = "shard.step"
)

// reconcile takes the next step of each running operation. Only the directory's leader does: one that
// was deposed and does not know it can't record, and its steps are fenced (see Operation).
func (s *Service) reconcile(t *Table) {
	for _, o := range t.Operations {
		if o.State == OperationRunning {
			s.duties.try(fmt.Sprintf("operation %d", o.ID), func(ctx context.Context) error { return s.goOn(ctx, o, t.Version) })
		}
	}
}

// goOn takes one step of an operation that runs by the table of that version.
func (s *Service) goOn(ctx context.Context, o Operation, version uint64) error {
	conf, leader, err := s.configuration(ctx, o.Shard)
	if err != nil {
		return fmt.Errorf("operation %d: asking the leader of shard %d: %w", o.ID, o.Shard, err)
	}
	m := o.next(conf, leader)
	switch {
	case m.advance != nil:
		return s.proposeDuty(ctx, Command{Advance: m.advance})
	case m.step != nil:
		m.step.Table = version
		if err := s.stepAt(ctx, leader, *m.step); err != nil {
			return fmt.Errorf("%s by %s: %w", m.step.Step, leader, err)
		}
		s.log.Info("step of an operation", "operation", o.ID, "shard", o.Shard, "step", m.step.Step, "replica", m.step.Replica, "to", m.step.Node, "leader", leader)
	}
	return nil
}

// configuration asks a shard's leader, wherever it is, for the configuration, confirmed by a quorum
// after the call began. It returns who leads. Errors refuse.
func (s *Service) configuration(ctx context.Context, id shard.ID) (conf shard.Configuration, leader string, err error) {
	leader, _ = s.soft.leader(id)
	if leader == "" {
		leader = s.anyMember(id)
	}
	for range 3 {
		if leader == "" {
			return conf, "", fmt.Errorf("%w: shard %d", shard.ErrNoLeader, id)
		}
		conf, err = s.configurationAt(ctx, leader, id)
		var notLeader *shard.NotLeaderError
		if !errors.As(err, &notLeader) || notLeader.Leader == "" || notLeader.Leader == leader {
			break
		}
		leader = notLeader.Leader
	}
	if errors.Is(err, shard.ErrOutcomeUnknown) { // nothing was asked that could have happened
		err = fmt.Errorf("%w: %s did not answer: %v", shard.ErrUnreachable, leader, err)
	}
	return conf, leader, err
}

// configurationAt asks one node.
func (s *Service) configurationAt(ctx context.Context, node string, id shard.ID) (conf shard.Configuration, err error) {
	request, err := json.Marshal(id)
	if err != nil {
		return conf, err
	}
	answer, err := s.host.Call(ctx, node, methodConf, request)
	if err != nil {
		return conf, err
	}
	if err := json.Unmarshal(answer, &conf); err != nil {
		return conf, fmt.Errorf("configuration that %s told: %w", node, err)
	}
	began := s.Table().began(id)
	if slices.ContainsFunc(slices.Concat(conf.Voters, conf.Learners), func(p shard.Progress) bool { return p.Replica.R < began }) {
		return conf, fmt.Errorf("%w: %s tells of a generation of shard %d that has ended", shard.ErrNoLeader, node, id)
	}
	return conf, nil
}

// handleConf answers with the configuration of a shard that this node leads.
func (s *Service) handleConf(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var id shard.ID
	if err := json.Unmarshal(payload, &id); err != nil {
		return nil, fmt.Errorf("request for a configuration: %w", err)
	}
	conf, err := s.host.Configuration(ctx, id)
	if err != nil {
		return nil, err
	}
	return json.Marshal(conf)
}

// anyMember returns a node with a replica of a shard that is up, another one each second; "" when
// there is none. Where it does not lead, it names who does.
func (s *Service) anyMember(id shard.ID) string {
	var names []string
	members, ok := s.Table().Members(id)
	for _, m := range members {
		names = append(names, m.Node)
	}
	if !ok && id == shard.Directory {
		_, founders, _ := s.cfg.Identity.Formed()
		for _, f := range founders {
			names = append(names, f.Node)
		}
	}
	if len(names) == 0 && id == shard.Directory { // joined, and knows no table yet
		names = slices.Collect(maps.Keys(s.cfg.Initial))
	}
	return s.anyUp(names)
}

// stepAt has a shard's leader make a step. ErrOutcomeUnknown: the configuration will show.
func (s *Service) stepAt(ctx context.Context, leader string, step memberStep) error {
	request, err := json.Marshal(step)
	if err != nil {
		return err
	}
	_, err = s.host.Call(ctx, leader, methodStep, request)
	return err
}

// handleStep makes a step on this node's replica.
func (s *Service) handleStep(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	var step memberStep
	if err := json.Unmarshal(payload, &step); err != nil {
		return nil, fmt.Errorf("step: %w", err)
	}
	if began := s.Table().Rebuilt; step.Table != 0 && step.Table < began {
		return nil, fmt.Errorf("%w: it was planned by table version %d, before the directory was rebuilt at %d", shard.ErrConfChanged, step.Table, began)
	}
	return nil, s.host.Step(ctx, step)
}
