package directory

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/larder-cache/larder/shard"
)

const (
	methodForm    = "form"
	methodPropose = "directory.propose"
	methodTable   = "directory.table"
)

const (
	// formTimeout bounds one question of a round.
	formTimeout = time.Second
	// formPause is the longest pause between two rounds.
	formPause = 50 * time.Millisecond
	// formPatience is the time between two lines of the log that say who is missing; the first one
	// follows the first round.
	formPatience = 5 * time.Second
)

// form runs the rounds that found the cluster, until it is founded and that is on disk (see former).
// It returns at once when it was before.
func (s *Service) form(ctx context.Context) error {
	var reminded time.Time
	for {
		if cluster, _, ok := s.cfg.Identity.Formed(); ok {
			s.log.Info("member of a cluster", "cluster", cluster)
			return nil
		}
		d, missing, err := s.formRound(ctx)
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.missing = slices.Sorted(maps.Keys(missing))
		s.mu.Unlock()
		if d != nil {
			if err := s.cfg.Identity.Form(d.cluster, d.list); err != nil {
				return fmt.Errorf("keeping the cluster id: %w", err)
			}
			s.mu.Lock()
			s.former.persisted(d)
			s.mu.Unlock()
			continue
		}
		if len(missing) > 0 && time.Since(reminded) >= formPatience {
			reminded = time.Now()
			var why []string
			for _, node := range slices.Sorted(maps.Keys(missing)) {
				why = append(why, fmt.Sprintf("%s: %v", node, missing[node]))
			}
			s.log.Info("waiting for all initial nodes", "missing", strings.Join(why, "; "))
		}
		pause := time.NewTimer(formPause/2 + rand.N(formPause/2))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
}

// formRound asks each other initial node once and returns what was decided, and who did not answer
// and why.
func (s *Service) formRound(ctx context.Context) (d *founding, missing map[string]error, err error) {
	s.setPeers(s.latest.Table())
	s.mu.Lock()
	s.former.begin()
	s.mu.Unlock()
	missing = make(map[string]error)
	for _, a := range s.askAll(ctx, s.others()) {
		if a.err != nil {
			missing[a.node] = a.err
			continue
		}
		s.mu.Lock()
		adopted, err := s.former.answer(a.node, a.report)
		s.mu.Unlock()
		if err != nil {
			return nil, nil, err
		}
		if adopted != nil {
			d = adopted
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ended := s.former.end(); ended != nil {
		d = ended
	}
	return d, missing, nil
}

// others returns the initial nodes but this one, in order.
func (s *Service) others() []string {
	var names []string
	for name := range s.cfg.Initial {
		if name != s.host.Node() {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// formAnswer is what one node answered to "form".
type formAnswer struct {
	node   string
	report FormReport
	err    error
}

// askAll asks the nodes for their reports, all at once, and returns when each answered or failed to.
func (s *Service) askAll(ctx context.Context, nodes []string) []formAnswer {
	ctx, cancel := context.WithTimeout(ctx, formTimeout)
	defer cancel()
	answers := make(chan formAnswer)
	for _, node := range nodes {
		go func() {
			a := formAnswer{node: node}
			payload, err := s.host.Call(ctx, node, methodForm, nil)
			if err == nil {
				err = json.Unmarshal(payload, &a.report)
			}
			a.err = err
			answers <- a
		}()
	}
	all := make([]formAnswer, len(nodes))
	for i := range all {
		all[i] = <-answers
	}
	slices.SortFunc(all, func(a, b formAnswer) int { return strings.Compare(a.node, b.node) })
	return all
}

// handleForm answers another node's "form".
func (s *Service) handleForm(context.Context, string, []byte) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return json.Marshal(s.former.report())
}

// found proposes the first table: the founders as they describe themselves now, and the plan made
// from that. All of them must answer; it is the first start.
func (s *Service) found(ctx context.Context) error {
	cluster, founders, _ := s.cfg.Identity.Formed()
	var others []string
	nodes, known := []Node{s.self}, ownLevels
	for _, f := range founders {
		if f.Node != s.self.ID {
			others = append(others, f.Node)
		}
	}
	for _, a := range s.askAll(ctx, others) {
		switch {
		case a.err != nil:
			return fmt.Errorf("asking %s: %w", a.node, a.err)
		case a.report.Cluster != cluster:
			return fmt.Errorf("%s has not formed yet", a.node)
		case !slices.Contains(founders, shard.Founder{Node: a.node, Incarnation: a.report.Node.Incarnation}):
			return fmt.Errorf("%s is not the incarnation that the cluster was founded with", a.node)
		}
		nodes, known = append(nodes, a.report.Node), known.with(a.report)
	}
	known = known.recorded()
	var directory []Member
	for _, f := range founders { // all with r 0: no table version could have allotted them one
		directory = append(directory, Member{Node: f.Node, Role: RoleVoter})
	}
	shards, err := PlanInitial(nodes, s.cfg.Settings)
	if err != nil {
		return err
	}
	return s.proposeDuty(ctx, Command{Init: &Init{
		Cluster:    cluster,
		Level:      known.directory,
		ShardLevel: known.shards,
		Settings:   s.cfg.Settings,
		Nodes:      nodes,
		Shards:     shards,
		Directory:  directory,
	}})
}

// errNotFounder is returned by Start on a data folder whose cluster has no such founder.
var errNotFounder = errors.New("the cluster's founders include this node's id with another incarnation")
