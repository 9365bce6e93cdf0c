package httpapi

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/larder-cache/larder/directory"
)

// showMembers serves a shard's members, as its leader has them. The ETag is the conf version, which a
// change of them names in If-Match; leader, states and indexes are outside of it, and a 304 doesn't
// renew them.
func (s *server) showMembers(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if _, err := readTags(r.Header); err != nil {
		return err
	}
	id, err := shardOf(r)
	if err != nil {
		return err
	}
	ctx, cancel, err := bounded(r)
	if err != nil {
		return err
	}
	defer cancel()
	view, err := s.cfg.Admin.Members(ctx, id)
	if err != nil {
		return err
	}
	return writeJSON(w, r, view, confTag(view.Conf))
}

func (s *server) addMember(w http.ResponseWriter, r *http.Request) error {
	return s.changeMember(w, r, true)
}

func (s *server) removeMember(w http.ResponseWriter, r *http.Request) error {
	return s.changeMember(w, r, false)
}

func (s *server) changeMember(w http.ResponseWriter, r *http.Request, add bool) error {
	values, err := query(r, "force")
	if err != nil {
		return err
	}
	id, err := shardOf(r)
	if err != nil {
		return err
	}
	node, err := nodeOf(r, "node")
	if err != nil {
		return err
	}
	conf, err := confCondition(r.Header, values)
	if err != nil {
		return err
	}
	ctx, cancel, err := change(w, r, true)
	if err != nil {
		return err
	}
	defer cancel()
	operation, err := s.cfg.Admin.ChangeMember(ctx, directory.MemberChange{Shard: id, Node: node, Add: add, Conf: conf})
	if err != nil {
		return err
	}
	return accept(w, operation)
}

// putLeader hands leadership of a shard to a node.
func (s *server) putLeader(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := shardOf(r)
	if err != nil {
		return err
	}
	if err := refuseConditions(r.Header, false); err != nil {
		return err
	}
	if err := checkJSONType(r.Header); err != nil {
		return err
	}
	ctx, cancel, err := bounded(r)
	if err != nil {
		return err
	}
	defer cancel()
	body, err := s.smallBody(ctx, w, r)
	if err != nil {
		return err
	}
	node, err := parseLeader(body)
	if err != nil {
		return err
	}
	if err := s.cfg.Admin.TransferLeader(ctx, id, node); err != nil {
		return err
	}
	return done(w)
}

// confTag is the entity tag of a conf version.
func confTag(conf string) string { return `"` + conf + `"` }

// confCondition is the conf version that a change of members is made for: that of If-Match, "" with
// force=true. One of the two is required, since a change that was planned for other members can cost
// the quorum.
func confCondition(h http.Header, values url.Values) (string, error) {
	force := false
	if values.Has("force") {
		switch values.Get("force") {
		case "true":
			force = true
		case "false":
		default:
			return "", kindBadParameter.problem("force is true or false.")
		}
	}
	lines := h.Values("If-Match")
	switch {
	case len(lines) == 0 && force:
		return "", nil
	case len(lines) == 0:
		return "", kindPreconditionRequired.problem(
			"Give the ETag of the shard's members, as GET shows it, in If-Match, so that a change meets the members that it was decided for; or force=true.")
	case force:
		return "", kindBadParameter.problem("force=true and If-Match exclude each other.")
	}
	list, ok := parseTags(lines)
	if ok && len(list.tags) == 1 && !list.tags[0].weak {
		conf := strings.Trim(list.tags[0].opaque, `"`)
		if isConf(conf) {
			return conf, nil
		}
	}
	return "", kindBadHeader.problem(`If-Match takes the one strong ETag of the shard's members, such as "1-7".`)
}

// isConf reports whether text has the form "<generation>-<conf>".
func isConf(text string) bool {
	generation, index, ok := strings.Cut(text, "-")
	if !ok {
		return false
	}
	_, okGeneration := decimal(generation)
	_, okIndex := decimal(index)
	return okGeneration && okIndex
}
