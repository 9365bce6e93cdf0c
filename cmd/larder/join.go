package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/larder-cache/larder/directory"
)

const (
	joinTimeout = 5 * time.Second
	// maxNodeList bounds what is read of a list of nodes, bytes.
	maxNodeList = 16 << 20
)

// findPeers asks a node of a cluster for the peer addresses of all its nodes. servers are tried in turn.
func findPeers(ctx context.Context, servers string) (map[string]string, error) {
	urls, err := parseServers(servers)
	if err != nil {
		return nil, usageError{fmt.Errorf("--join: %w", err)}
	}
	var failed error
	for _, u := range urls {
		peers, err := askPeers(ctx, u.String()+"/v1/nodes")
		if err == nil {
			return peers, nil
		}
		failed = errors.Join(failed, fmt.Errorf("--join %s: %w", u, err))
	}
	return nil, failed
}

func askPeers(ctx context.Context, url string) (map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // and no proxy
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxNodeList))
	if err != nil {
		return nil, err
	}
	var list struct {
		Nodes []directory.NodeView `json:"nodes"`
	}
	if resp.StatusCode != http.StatusOK || json.Unmarshal(body, &list) != nil || len(list.Nodes) == 0 {
		return nil, fmt.Errorf("%s does not tell the nodes of a cluster (status %d): is it a node, and is its cluster formed?", url, resp.StatusCode)
	}
	peers := map[string]string{}
	for _, n := range list.Nodes {
		peers[n.ID] = n.Raft
	}
	return peers, nil
}
