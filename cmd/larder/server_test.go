package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// unusable returns the path of a file, below which no folder can be made: a node that gets so far as to make
// one fails with another exit code than that for usage.
func unusable(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What no node or cluster can run with is a mistake in the command line: exit code 2, with the flag's name,
// before anything is made on disk.
func TestServerUsage(t *testing.T) {
	folder := filepath.Join(unusable(t), "data")
	start := func(change ...string) (code int, stderr string) {
		args := []string{"server", "--id", "a", "--data-dir", folder, "--initial-cluster", "a=127.0.0.1:17071"}
		code, _, stderr = larder(t, "", nil, append(args, change...)...)
		return code, stderr
	}
	const three = "a=127.0.0.1:17071,b=127.0.0.1:17081,c=127.0.0.1:17091"
	for _, tc := range []struct {
		change []string
		want   string
	}{
		{[]string{"--id", ""}, "--id is missing"},
		{[]string{"--replicas", "0"}, "--replicas is 0"},
		{[]string{"--replicas", "2"}, "--replicas is 2, but there are only 1 nodes"},
		{[]string{"--replicas", "4", "--initial-cluster", three}, "--replicas is 4, but there are only 3 nodes"},
		{[]string{"--replicas", "10"}, "--replicas is 10"},
		{[]string{"--initial-shards", "0"}, "--initial-shards is 0"},
		{[]string{"--initial-shards", "16385"}, "--initial-shards is 16385"},
		{[]string{"--cache-memory", "101%"}, "--cache-memory"},
		{[]string{"--cache-memory", "much"}, "--cache-memory"},
		{[]string{"--max-memory", "0"}, "--max-memory"},
		{[]string{"--max-memory", "1GB"}, "--max-memory"},
		{[]string{"--max-memory", "64KiB"}, "--max-memory and --cache-memory"},
		{[]string{"--cache-memory", "1B"}, "--max-memory and --cache-memory"},
		{[]string{"--shard-bytes", "16383"}, "--shard-bytes is 16383"},
		{[]string{"--shard-bytes", "1GiB"}, "--shard-bytes is 1073741824"},
		{[]string{"--shard-bytes", "all"}, "--shard-bytes"},
		{[]string{"--default-ttl", "-1s"}, "--default-ttl"},
		{[]string{"--touch-interval", "1ms"}, "--touch-interval"},
		{[]string{"--memory-limit", "most"}, "--memory-limit"},
		{[]string{"--initial-shards", "16384", "--max-memory", "128MiB"}, "--max-memory and --cache-memory"},
		{[]string{"--route", "scenic"}, "--route"},
		{[]string{"--route", "local"}, "--route"},
		{[]string{"--http", "127.0.0.1:0"}, "--http"},
		{[]string{"--http", "127.0.0.1"}, "--http"},
		{[]string{"--http", "127.0.0.1:65535"}, "--raft"},
		{[]string{"--raft", "127.0.0.1:0"}, "--raft"},
		{[]string{"--http", ":7810"}, "--http :7810 is reachable"},
		{[]string{"--http", "0.0.0.0:7810"}, "--http 0.0.0.0:7810 is reachable"},
		{[]string{"--raft", "[::]:7810"}, "--raft [::]:7810 is reachable"},
		{[]string{"--insecure", "--http", ":7810"}, "--advertise-http is needed"},
		{[]string{"--insecure", "--http", "0.0.0.0:7810", "--advertise-http", "127.0.0.1:7810"}, "--advertise-raft is needed"},
		{[]string{"--insecure", "--raft", "[::]:7811"}, "--advertise-raft is needed"},
		{[]string{"--advertise-http", "0.0.0.0:7810"}, "--advertise-http"},
		{[]string{"--advertise-http", "cache.example"}, "--advertise-http"},
		{[]string{"--advertise-http", "cache.example:0"}, "--advertise-http"},
		{[]string{"--advertise-raft", "cache.example:http"}, "--advertise-raft"},
		{[]string{"--initial-cluster", "a=:17071"}, "--initial-cluster"},
		{[]string{"--initial-cluster", "a=127.0.0.1:0"}, "--initial-cluster"},
		{[]string{"--initial-cluster", "b=127.0.0.1:17081"}, "--initial-cluster"},
		{[]string{"--initial-cluster", ""}, "--initial-cluster"},
		{[]string{"--log-level", "loud"}, "--log-level"},
		{[]string{"--max-connections", "-1"}, "--max-connections -1"},
		{[]string{"--max-connections", "1000000000000"}, "--max-connections 1000000000000 is more than"},
		{[]string{"--max-connections", "many"}, "--max-connections"},
	} {
		if code, stderr := start(tc.change...); code != exitUsage || !strings.Contains(stderr, tc.want) {
			t.Errorf("%q: got exit code %d, %q, want code 2 and %q", tc.change, code, stderr, tc.want)
		}
	}
	for _, change := range [][]string{
		nil,
		{"--initial-cluster", three},
		{"--shard-bytes", "1MiB", "--default-ttl", "24h", "--touch-interval", "0", "--memory-limit", "off"},
		{"--insecure", "--http", "0.0.0.0:17070", "--advertise-http", "cache.example:7070", "--advertise-raft", "10.0.0.1:7071"},
		{"--route", "redirect", "--max-memory", "512KiB", "--cache-memory", "50%"},
		{"--max-connections", "1"},
	} {
		if code, stderr := start(change...); code != exitFailed {
			t.Errorf("%q: got exit code %d, %q, want code 1: there is nothing to refuse but the folder", change, code, stderr)
		}
	}
}
