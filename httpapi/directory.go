package httpapi

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gorilla/mux"

	"github.com/larder-cache/larder/directory"
	"github.com/larder-cache/larder/shard"
)

// Directory is what the REST interface asks of the directory. All of it is answered from memory, at
// once, with or without a quorum.
type Directory interface {
	// Known is nil once this node knows the table, else it is directory.ErrNoTable and says what is
	// missing. What describes the cluster before would be that of an empty one.
	Known() error
	// View is the table for clients.
	View() directory.TableView
	// Shards describes the data shards.
	Shards() []directory.ShardDetail
	// ShardView describes one shard, the directory's own (0) too, that without the table; false for an
	// id that there is not, or that is not known.
	ShardView(id shard.ID) (directory.ShardDetail, bool)
	// Nodes describes all nodes.
	Nodes() []directory.NodeView
	// Planned tells what the directory is to change next of the members of shards.
	Planned() []directory.PlannedView
	// Node describes one of them; false for an id that there is not.
	Node(id string) (directory.NodeView, bool)
	// Settings are the cluster-wide ones.
	Settings() directory.SettingsView
	// DefaultTTL is that of a value stored without a time to live of its own; 0 is none.
	DefaultTTL() time.Duration
	// Ready tells what keeps this node from serving, one check per hosted replica.
	Ready() []directory.Check
}

// Lists are objects, so that other members can join.
type (
	shardList struct {
		Shards []directory.ShardDetail `json:"shards"`
	}
	nodeList struct {
		Nodes   []directory.NodeView    `json:"nodes"`
		Planned []directory.PlannedView `json:"planned"`
	}
)

// showTable serves the table for clients. Its ETag is the table version; leaders and the states of
// nodes are hints, outside of the version, and a 304 doesn't renew them. A client that has the present
// version and prefers to wait is answered once there is another, or the wait is over.
func (s *server) showTable(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	unless, err := readTags(r.Header)
	if err != nil {
		return err
	}
	wait, err := waitOf(r.Header)
	if err != nil {
		return err
	}
	if err := s.cfg.Directory.Known(); err != nil {
		return err
	}
	// A client that sends * has no version that could be outdated.
	if wait > 0 && unless != nil && !unless.any {
		if err := s.awaitChange(r.Context(), unless, wait); err != nil {
			return err
		}
		w.Header().Set("Preference-Applied", "wait="+strconv.FormatInt(int64(wait/time.Second), 10))
	}
	view := s.cfg.Directory.View()
	return writeJSON(w, r, view, formatETag(view.Version))
}

// awaitChange returns once the table's version is none of tags, the wait is over, the client has gone,
// or the server shuts down.
func (s *server) awaitChange(ctx context.Context, tags *tagList, wait time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	defer context.AfterFunc(closing(ctx), cancel)()
	for {
		version := s.cfg.Directory.View().Version
		if !tags.matchesWeakly(formatETag(version)) {
			return nil
		}
		if err := s.cfg.Admin.Newer(ctx, version); ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func (s *server) showShards(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if err := s.cfg.Directory.Known(); err != nil {
		return err
	}
	return writeJSON(w, r, shardList{s.cfg.Directory.Shards()}, "")
}

// showShard serves one shard. Its ETag is that of its members, which a change of them names in
// If-Match; the numbers are outside of it, and a 304 doesn't renew them.
func (s *server) showShard(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	text := mux.Vars(r)["id"]
	id, err := strconv.ParseUint(text, 10, 64)
	if err == nil {
		if view, ok := s.cfg.Directory.ShardView(shard.ID(id)); ok {
			return writeJSON(w, r, view, `"`+view.Conf+`"`)
		}
	}
	if err := s.cfg.Directory.Known(); err != nil {
		return err
	}
	return kindUnknownShard.problem("There is no shard %q. GET /v1/shards lists them.", text)
}

func (s *server) showNodes(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	if err := s.cfg.Directory.Known(); err != nil {
		return err
	}
	list := nodeList{s.cfg.Directory.Nodes(), s.cfg.Directory.Planned()}
	etag, err := nodesTag(list)
	if err != nil {
		return err
	}
	return writeJSON(w, r, list, etag)
}

// nodesTag is an ETag of nodes that stays when a node is merely seen once more.
func nodesTag(list nodeList) (string, error) {
	list.Nodes = slices.Clone(list.Nodes)
	for i := range list.Nodes {
		list.Nodes[i].LastSeen = time.Time{}
	}
	body, err := json.Marshal(list)
	if err != nil {
		return "", fmt.Errorf("encoding the nodes: %w", err)
	}
	return hashTag(body), nil
}

func (s *server) showNode(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	id, err := url.PathUnescape(mux.Vars(r)["id"])
	if err == nil {
		if node, ok := s.cfg.Directory.Node(id); ok {
			etag, err := nodesTag(nodeList{Nodes: []directory.NodeView{node}})
			if err != nil {
				return err
			}
			return writeJSON(w, r, node, etag)
		}
	}
	if err := s.cfg.Directory.Known(); err != nil {
		return err
	}
	return kindUnknownNode.problem("There is no node %q. GET /v1/nodes lists them.", id)
}

func (s *server) locate(w http.ResponseWriter, r *http.Request) error {
	if _, err := query(r); err != nil {
		return err
	}
	key, err := keyAfter(r, locatePrefix)
	if err != nil {
		return err
	}
	place, err := s.cfg.Data.Locate(key)
	if err != nil {
		return err
	}
	return writeJSON(w, r, place, "")
}

// hashTag is an ETag made of content.
func hashTag(content []byte) string {
	sum := fnv.New128a()
	sum.Write(content)
	return fmt.Sprintf(`"%x"`, sum.Sum(nil))
}

// writeJSON answers with value, or 304 if the client has it. Without an etag the body's hash is it.
func writeJSON(w http.ResponseWriter, r *http.Request, value any, etag string) error {
	unless, err := readTags(r.Header)
	if err != nil {
		return err
	}
	body, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	body = append(body, '\n')
	if etag == "" {
		etag = hashTag(body)
	}
	writeJSONBytes(w, body, etag, unless)
	return nil
}

// writeJSONBytes answers with body, or 304 if unless says that the client has it.
func writeJSONBytes(w http.ResponseWriter, body []byte, etag string, unless *tagList) {
	h := w.Header()
	h.Set("ETag", etag)
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Content-Type-Options", "nosniff")
	if unless != nil && unless.matchesWeakly(etag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(http.StatusOK)
	w.Write(body) // the client that doesn't hear it has gone
}
