package directory

import (
	"context"
	"fmt"

	"github.com/larder-cache/larder/fsm"
)

// levels are the highest feature levels that a build knows (R1): of the directory's commands, and of
// the shards' state machines. A cluster is raised to what the builds of all its nodes know, by a
// command, and each of its shards follows by a command of its own.
type levels struct {
	directory, shards uint8
}

// ownLevels are this build's.
var ownLevels = levels{MaxLevel, fsm.MaxLevel}

// with returns what both l and the build that gave a report know. Builds before level 2 say nothing.
func (l levels) with(r FormReport) levels {
	return levels{min(l.directory, max(r.Level, 1)), min(l.shards, max(r.ShardLevel, 1))}
}

// recorded returns l as a table has it: one of level 1 has no place for that of shards, since the
// builds that know no other could not read it.
func (l levels) recorded() levels {
	if l.directory < settingsLevel {
		l.shards = 0
	}
	return l
}

// above reports whether l is higher than what t has.
func (l levels) above(t *Table) bool { return l.directory > t.Level || l.shards > t.ShardLevel }

// raise records the feature levels that all nodes of t know. Each of them must answer: one that is down
// may come back with the build that it had.
func (s *Service) raise(ctx context.Context, t *Table) error {
	var others []string
	for _, id := range t.NodeIDs() {
		if id != s.self.ID {
			others = append(others, id)
		}
	}
	known := ownLevels
	for _, a := range s.askAll(ctx, others) {
		if a.err != nil {
			return fmt.Errorf("asking %s what its build knows: %w", a.node, a.err)
		}
		if a.report.Node.Incarnation != t.Nodes[a.node].Incarnation {
			return fmt.Errorf("another node answers as %s", a.node)
		}
		known = known.with(a.report)
		if l := known.recorded(); !l.above(t) {
			return fmt.Errorf("the build of %s knows the feature levels %d and %d, of which the cluster makes use: newer ones are not used yet", a.node, t.Level, max(t.ShardLevel, 1))
		}
	}
	l := known.recorded()
	l = levels{max(l.directory, t.Level), max(l.shards, t.ShardLevel)}
	return s.proposeDuty(ctx, Command{SetLevel: &SetLevel{Level: l.directory, ShardLevel: l.shards, Expect: t.Version}})
}
