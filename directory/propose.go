package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/larder-cache/larder/shard"
)

// What puts commands into the directory's log, wherever its leader is.

// spreadPatience is how long whoever changed the table waits until all may have heard.
const spreadPatience = 200 * time.Millisecond

// Propose has the directory's leader, wherever it is, put c into the log, and returns what became of
// it. A refusal by c's precondition is a Result, not an error; errors are as for shard.Group.Propose.
func (s *Service) Propose(ctx context.Context, c Command) (Result, error) {
	data, err := c.Encode()
	if err != nil {
		return Result{}, err
	}
	target, _ := s.soft.leader(shard.Directory)
	if target == "" {
		target = s.anyMember(shard.Directory)
	}
	if target == "" {
		return Result{}, fmt.Errorf("%w: the directory", shard.ErrNoLeader)
	}
	for hop := 0; ; hop++ {
		result, err := s.proposeAt(ctx, target, data)
		var notLeader *shard.NotLeaderError
		if hop == 2 || !shard.Refused(err) || !errors.As(err, &notLeader) || notLeader.Leader == "" || notLeader.Leader == target {
			return result, err
		}
		target = notLeader.Leader
	}
}

// proposeAt proposes an encoded command on a node's replica of the directory.
func (s *Service) proposeAt(ctx context.Context, node string, data []byte) (Result, error) {
	if node == s.self.ID {
		return s.proposeHere(ctx, data)
	}
	answer, err := s.host.Call(ctx, node, methodPropose, data)
	if err != nil {
		return Result{}, err
	}
	var result Result
	if err := json.Unmarshal(answer, &result); err != nil {
		return Result{}, fmt.Errorf("%w: unreadable answer of %s: %w", shard.ErrOutcomeUnknown, node, err)
	}
	return result, nil
}

// proposeDuty proposes c on the cluster's own behalf, and makes a refusal an error.
func (s *Service) proposeDuty(ctx context.Context, c Command) error {
	result, err := s.Propose(ctx, c)
	if err != nil {
		return err
	}
	if result.Outcome == OutcomeRefused {
		return fmt.Errorf("refused: %s", result.Reason)
	}
	s.log.Info("directory changed", "command", c.describe(), "outcome", result.Outcome, "version", result.Version)
	// The loop acts on the table: let it see the change before it looks for the next thing to do.
	_, err = s.latest.Newer(ctx, result.Version-1)
	return err
}

// proposeHere proposes an encoded command on this node's replica. What a replica could not read is refused: in the log it
// would stop it.
func (s *Service) proposeHere(ctx context.Context, data []byte) (Result, error) {
	s.mu.Lock()
	g, r := s.group, s.groupID.R
	s.mu.Unlock()
	if g == nil || s.left(r) { // a directory that is lost may not have heard of it
		return Result{}, shard.ErrUnknownShard
	}
	c, err := DecodeCommand(data)
	if err != nil {
		return Result{}, err
	}
	if t := s.Table(); t.Founded() && c.level() > t.Level {
		return Result{Outcome: OutcomeRefused, Version: t.Version,
			Reason: fmt.Sprintf("it needs the feature level %d, the cluster is at %d: once all nodes run a build of larder that knows it, and are up", c.level(), t.Level)}, nil
	}
	_, result, err := g.Propose(ctx, data)
	if err != nil {
		return Result{}, err
	}
	done, ok := result.(Result)
	if !ok {
		return Result{}, fmt.Errorf("%w: the directory's machine returned %T", shard.ErrOutcomeUnknown, result)
	}
	if done.Outcome == OutcomeApplied { // every node serves by its copy of the table
		ctx, cancel := context.WithTimeout(ctx, spreadPatience)
		defer cancel()
		_ = g.Spread(ctx) // the change is made whatever comes of this, and spreads by itself in time
	}
	return done, nil
}

// handlePropose proposes what another node sent.
func (s *Service) handlePropose(ctx context.Context, _ string, payload []byte) ([]byte, error) {
	result, err := s.proposeHere(ctx, payload)
	if err != nil {
		return nil, err
	}
	return json.Marshal(result)
}
