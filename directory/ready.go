package directory

import (
	"fmt"
	"strings"

	"github.com/larder-cache/larder/shard"
)

// maxLag is how many entries a ready follower may have yet to apply, and a voter that counts as alive to
// get.
const maxLag = 1000

// Check is one line of a node's readiness.
type Check struct {
	Name   string `json:"name"` // "directory", or "shard/<id>"
	OK     bool   `json:"ok"`
	Detail string `json:"detail"` // what is wrong, "" when OK
}

// Ready returns what must hold for this node to be ready: the table is known, and each replica that
// it hosts or should host is fine. A leader is fine when it may serve in its term and has been
// granted what the table gives the shard; a follower when it knows a leader and has at most 1,000
// entries to apply of what it, or the leader by its last report, knows to be committed.
func (s *Service) Ready() []Check {
	t := s.Table()
	known := Check{Name: "directory", OK: t.Founded()}
	if !known.OK {
		known.Detail = "the table is not known yet" + s.forming()
	}
	if known.OK && !s.knows(t) {
		known.OK, known.Detail = false, errRemoved.Error()
	}
	checks := []Check{known}
	add := func(id shard.ID, problem string) {
		checks = append(checks, Check{Name: fmt.Sprintf("shard/%d", id), OK: problem == "", Detail: problem})
	}
	s.mu.Lock()
	hostsDirectory := s.group != nil
	s.mu.Unlock()
	_, stopped, err := s.host.Diverged(shard.Directory) // also before the table is known
	if m, member := t.member(shard.Directory, s.self.ID); hostsDirectory || member && m.Role == RoleVoter || err == nil && stopped != nil {
		add(shard.Directory, s.problem(shard.Directory, nil))
	}
	for _, sh := range t.Shards {
		if m, member := sh.Member(s.self.ID); member && m.Role == RoleVoter { // learners serve nobody yet
			add(sh.ID, s.problem(sh.ID, &sh))
		}
	}
	return checks
}

// Known returns nil once this node knows the table, else an error that is ErrNoTable and says what it
// waits for.
func (s *Service) Known() error {
	if s.Table().Founded() {
		return nil
	}
	return fmt.Errorf("%w%s", ErrNoTable, s.forming())
}

// forming ends a sentence on the missing table with what the cluster needs to form, "" once it has.
func (s *Service) forming() string {
	s.mu.Lock()
	formed, missing := s.former.formed(), s.missing
	s.mu.Unlock()
	switch {
	case formed:
		return ""
	case len(missing) == 0:
		return ": the cluster is not formed yet"
	}
	return ": the cluster is not formed yet, it waits for " + strings.Join(missing, ", ")
}

// problem says what keeps this node's replica from being ready, "" when nothing does. sh is nil for
// the directory.
func (s *Service) problem(id shard.ID, sh *Shard) string {
	if sh != nil {
		s.mu.Lock()
		own, _ := sh.Member(s.self.ID)
		err, tried := s.opened[own.id(id)]
		s.mu.Unlock()
		if !tried {
			return "not open yet"
		}
		if err != nil {
			return err.Error()
		}
	}
	st, ok := s.soft.status(id)
	if !ok {
		return "not running yet"
	}
	switch {
	case st.Diverged != "":
		return st.Diverged
	case st.Role == shard.RoleStopped:
		return "stopped"
	case st.Role == shard.RoleLeader:
		if !st.Ready {
			return "leads, but nothing of its term is applied yet"
		}
		if sh != nil && (st.Cache == nil || newerGrant(sh.Grant(), *st.Cache)) {
			return "leads, but its range is not granted yet"
		}
		return ""
	case st.Leader == "":
		return "no leader"
	}
	committed := st.Commit
	if r, ok := s.soft.replica(st.Leader, id); ok {
		committed = max(committed, r.commit)
	}
	if committed > st.Applied && committed-st.Applied > maxLag {
		return fmt.Sprintf("%d entries behind", committed-st.Applied)
	}
	return ""
}
