package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// badInput is a request that deserves an error, and the error.
type badInput struct {
	name   string
	method string
	target string
	header []string
	body   string
	status int
	typ    string // end of the problem's type
}

var badInputs = []badInput{
	{name: "empty key", method: "GET", target: "/v1/kv/", status: 400, typ: "bad-key"},
	{name: "put with an empty key", method: "PUT", target: "/v1/kv/", body: "x", status: 400, typ: "bad-key"},
	{name: "key too long", method: "PUT", target: "/v1/kv/" + strings.Repeat("k", 1025), body: "x", status: 414, typ: "key-too-long"},
	{name: "key too long when unescaped", method: "GET", target: "/v1/kv/" + strings.Repeat("%41", 1025), status: 414, typ: "key-too-long"},
	{name: "malformed percent-encoding", method: "PUT", target: "/v1/kv/%zz", body: "x", status: 400},
	{name: "percent-encoding cut short", method: "GET", target: "/v1/kv/a%4", status: 400},
	{name: "value over the limit", method: "PUT", target: "/v1/kv/victim", body: strings.Repeat("x", 1<<20+1), status: 413, typ: "value-too-large"},
	{name: "ttl without a unit", method: "PUT", target: "/v1/kv/victim?ttl=60", body: "x", status: 400, typ: "bad-parameter"},
	{name: "ttl that is no duration", method: "PUT", target: "/v1/kv/victim?ttl=soon", body: "x", status: 400, typ: "bad-parameter"},
	{name: "ttl of 0", method: "PUT", target: "/v1/kv/victim?ttl=0s", body: "x", status: 400, typ: "bad-parameter"},
	{name: "negative ttl", method: "PUT", target: "/v1/kv/victim?ttl=-1s", body: "x", status: 400, typ: "bad-parameter"},
	{name: "two ttls", method: "PUT", target: "/v1/kv/victim?ttl=1s&ttl=2s", body: "x", status: 400, typ: "bad-parameter"},
	{name: "bad max-age", method: "PUT", target: "/v1/kv/victim", header: []string{"Cache-Control: max-age=-1"}, body: "x", status: 400, typ: "bad-header"},
	{name: "unknown consistency", method: "GET", target: "/v1/kv/victim?consistency=eventual", status: 400, typ: "bad-parameter"},
	{name: "unknown parameter", method: "PUT", target: "/v1/kv/victim?tll=1s", body: "x", status: 400, typ: "bad-parameter"},
	{name: "bad route", method: "GET", target: "/v1/kv/victim?route=scenic", status: 400, typ: "bad-parameter"},
	{name: "If-Match without quotes", method: "PUT", target: "/v1/kv/victim", header: []string{"If-Match: 17"}, body: "x", status: 400, typ: "bad-header"},
	{name: "both conditions", method: "PUT", target: "/v1/kv/victim", header: []string{`If-Match: "17"`, "If-None-Match: *"}, body: "x", status: 400, typ: "bad-header"},
	{name: "delete under a bad condition", method: "DELETE", target: "/v1/kv/victim", header: []string{"If-Match: W/\"17\""}, status: 400, typ: "bad-header"},
	{name: "bad timeout", method: "PUT", target: "/v1/kv/victim", header: []string{"Larder-Timeout: never"}, body: "x", status: 400, typ: "bad-header"},
	{name: "unknown path", method: "GET", target: "/v1/kw/victim", status: 404, typ: "unknown-path"},
	{name: "a clock to be set wrong, in a build for users", method: "POST", target: "/v1/faults/clock?offset=60s", status: 404, typ: "unknown-path"},
	{name: "unknown shard", method: "GET", target: "/v1/shards/99999", status: 404, typ: "unknown-shard"},
	{name: "wrong method", method: "PUT", target: "/v1/directory", body: "x", status: 405, typ: "method-not-allowed"},
	{name: "unknown method", method: "BREW", target: "/v1/kv/victim", status: 405, typ: "method-not-allowed"},
	{name: "oversize headers", method: "PUT", target: "/v1/kv/victim", header: []string{"X-Long: " + strings.Repeat("x", 2<<20)}, body: "x", status: 431, typ: "headers-too-large"},
	{name: "a part that is not built", method: "GET", target: "/v1/backup", status: 501, typ: "not-built"},
	{name: "a PATCH of a value", method: "PATCH", target: "/v1/kv/victim", header: []string{"Content-Type: application/merge-patch+json"}, body: `{"value":"x"}`, status: 400, typ: "bad-body"},
}

// TestBadInput ensures that bad input gets the documented status and a problem body that says
// applied: no, from a node of a real cluster, and that it changes nothing.
func TestBadInput(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 2, Delay: time.Millisecond})
	n := c.Nodes[0]
	if a := raw(t, n, "PUT", "/v1/kv/victim", nil, "as it was"); a.StatusCode != 201 {
		t.Fatalf("put answered %s: %s", a.Status, a.body)
	}
	items := itemsOf(t, c, 1)
	look := func() string {
		a := raw(t, n, "GET", "/v1/kv/victim", nil, "")
		return fmt.Sprint(a.StatusCode, a.Header["Etag"], a.body)
	}
	before := look()
	for _, bad := range badInputs {
		t.Run(bad.name, func(t *testing.T) {
			a := raw(t, n, bad.method, bad.target, bad.header, bad.body)
			if a.StatusCode != bad.status {
				t.Errorf("answered %s, want %d: %s", a.Status, bad.status, a.body)
			}
			if got := a.Header.Get("Content-Type"); got != "application/problem+json" {
				t.Errorf("content type %q", got)
			}
			var p struct {
				Type, Title, Detail, Applied string
				Status                       int
			}
			if err := json.Unmarshal([]byte(a.body), &p); err != nil {
				t.Fatalf("body %q: %v", a.body, err)
			}
			if p.Applied != "no" || p.Status != a.StatusCode || p.Title == "" || p.Detail == "" {
				t.Errorf("problem body %s", a.body)
			}
			if !strings.HasSuffix(p.Type, "/"+bad.typ) && bad.typ != "" {
				t.Errorf("type %q, want it to end with %q", p.Type, bad.typ)
			}
			if allow := a.Header.Get("Allow"); bad.status == 405 && allow == "" {
				t.Error("405 without Allow")
			}
			if after := look(); after != before {
				t.Errorf("something changed\nfrom %s\nto   %s", before, after)
			}
		})
	}
	// A last good write tells when the nodes have told of all that came before it.
	if a := raw(t, n, "PUT", "/v1/kv/marker", nil, "x"); a.StatusCode != 201 {
		t.Fatalf("put answered %s: %s", a.Status, a.body)
	}
	with := itemsOf(t, c, 2)
	if a := raw(t, n, "DELETE", "/v1/kv/marker", nil, ""); a.StatusCode != 204 {
		t.Fatalf("delete answered %s: %s", a.Status, a.body)
	}
	if err := cluster.Poll(within(t, 20*time.Second), func() bool { return itemsOf(t, c, 1) == items }); err != nil {
		t.Errorf("something changed: at first there was %s, with a marker %s, without it %s", items, with, itemsOf(t, c, 1))
	}
}

// itemsOf waits until the shards hold least items or more, and returns what they hold. What nodes tell
// of their shards is some moments old.
func itemsOf(t *testing.T, c *cluster.Cluster, least uint64) string {
	t.Helper()
	var said string
	ctx := within(t, 20*time.Second)
	if err := cluster.Poll(ctx, func() bool {
		total := uint64(0)
		said = ""
		for _, n := range c.Nodes {
			replicas, err := n.Replicas(ctx)
			if err != nil {
				return false
			}
			for _, r := range replicas {
				if r.Leader == n.ID && r.Source == n.ID {
					total += r.Items
					said += fmt.Sprintf("shard %d: %d items, %d bytes; ", r.ID, r.Items, r.Bytes)
				}
			}
		}
		return total >= least
	}); err != nil {
		t.Fatalf("the shards don't come to hold %d items: %s", least, said)
	}
	return said
}
