package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// Get asks the node for a path and returns status and body.
func (n *Node) Get(ctx context.Context, path string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, n.URL+path, nil)
	if err != nil {
		return 0, nil, err
	}
	resp, err := n.cluster.asking.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

// get decodes the JSON that the node answers to path.
func (n *Node) get(ctx context.Context, path string, into any) error {
	status, body, err := n.Get(ctx, path)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s at %s: status %d: %s", path, n.ID, status, body)
	}
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("%s at %s: %w: %s", path, n.ID, err, body)
	}
	return nil
}

// Directory is the table, as clients see it.
type Directory struct {
	Cluster string
	Version uint64
	Shards  []struct {
		ID      uint64
		Start   int
		End     int
		Epoch   uint64
		Leader  string
		Members []struct{ Node, Role string }
	}
	Nodes map[string]struct{ HTTP, State string }
}

// Directory returns the node's view of the table.
func (n *Node) Directory(ctx context.Context) (Directory, error) {
	var d Directory
	err := n.get(ctx, "/v1/directory", &d)
	return d, err
}

// Replica is what a node says of a shard.
type Replica struct {
	ID        uint64
	Source    string // the node whose replica the numbers are of: the one asked, if it hosts one
	Conf      string // generation-index of its configuration
	Term      uint64
	Commit    uint64
	Applied   uint64
	Leader    string // the node that the one asked believes to lead
	Items     uint64
	Bytes     uint64
	Evictions uint64
	Members   []struct{ Node, Role string } // by the node's table
}

// Replicas returns what the node says of each data shard.
func (n *Node) Replicas(ctx context.Context) ([]Replica, error) {
	var r struct{ Shards []Replica }
	err := n.get(ctx, "/v1/shards", &r)
	return r.Shards, err
}

// Shard is what a node says of the members of a shard, by the table.
type Shard struct {
	ID      uint64
	Conf    string
	Leader  string
	Members []struct{ Node, Role string }
}

// Shard returns what the node knows of a shard, 0 being the directory.
func (n *Node) Shard(ctx context.Context, id uint64) (Shard, error) {
	var s Shard
	err := n.get(ctx, fmt.Sprintf("/v1/shards/%d", id), &s)
	return s, err
}

// Location is where a key belongs.
type Location struct {
	Slot    int
	Shard   uint64
	Epoch   uint64
	Leader  string
	Members []string
}

// Locate returns where the node believes that key belongs.
func (n *Node) Locate(ctx context.Context, key string) (Location, error) {
	var l Location
	err := n.get(ctx, "/v1/locate/"+url.PathEscape(key), &l)
	return l, err
}
