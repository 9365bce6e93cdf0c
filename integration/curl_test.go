//go:build extra

package integration

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// curl runs the real curl and returns what it printed and its exit status.
func curl(t *testing.T, args ...string) (string, int) {
	t.Helper()
	path, err := exec.LookPath("curl")
	if err != nil {
		t.Fatalf("this test needs curl: %v", err)
	}
	var out, complaints bytes.Buffer
	cmd := exec.CommandContext(within(t, 30*time.Second), path, append([]string{"--silent", "--show-error", "--noproxy", "*"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &complaints
	err = cmd.Run()
	if cmd.ProcessState == nil {
		t.Fatalf("curl %q: %v", args, err)
	}
	if complaints.Len() > 0 {
		t.Logf("curl %q: %s", args, &complaints)
	}
	return out.String(), cmd.ProcessState.ExitCode()
}

// status runs curl and returns the HTTP status.
func status(t *testing.T, args ...string) string {
	t.Helper()
	out, _ := curl(t, append([]string{"--output", os.DevNull, "--write-out", "%{http_code}"}, args...)...)
	return out
}

// header returns a header of the answer that curl gets.
func header(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, _ := curl(t, append([]string{"--output", os.DevNull, "--dump-header", "-"}, args...)...)
	for line := range strings.Lines(out) {
		if n, value, ok := strings.Cut(line, ":"); ok && strings.EqualFold(n, name) {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// TestCurl ensures that the REST interface works as people use it, with curl, on any node.
func TestCurl(t *testing.T) {
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 4, Delay: time.Millisecond})
	url := func(i int, key string) string { return c.Nodes[i%len(c.Nodes)].URL + "/v1/kv/" + key }
	file := func(name string, data []byte) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	want := func(t *testing.T, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %.100q, want %.100q", got, want)
		}
	}

	t.Run("put, get, delete", func(t *testing.T) {
		want(t, status(t, "-X", "PUT", "--data-binary", "hello", url(0, "greeting")), "201")
		want(t, status(t, "-X", "PUT", "--data-binary", "hello again", url(1, "greeting")), "204")
		for i := range c.Nodes {
			got, _ := curl(t, url(i, "greeting"))
			want(t, got, "hello again")
		}
		want(t, header(t, "Larder-Existed", "-X", "DELETE", url(2, "greeting")), "?1")
		want(t, status(t, url(0, "greeting")), "404")
	})

	t.Run("fail shows in the exit status", func(t *testing.T) {
		if _, code := curl(t, "--fail", "--output", os.DevNull, url(0, "absent")); code != 22 {
			t.Errorf("curl --fail of an absent key ended with %d, want 22", code)
		}
	})

	t.Run("upload of a large file of any bytes", func(t *testing.T) {
		data := make([]byte, 1<<20)
		for i := range data {
			data[i] = byte(i * 7 >> 3)
		}
		path := file("large", data)
		want(t, status(t, "-T", path, url(0, "large")), "201") // asks with Expect: 100-continue first
		for i := range c.Nodes {
			got, _ := curl(t, url(i, "large"))
			if got != string(data) {
				t.Errorf("%d bytes came back from %s, not what was sent", len(got), c.Nodes[i].ID)
			}
		}
		want(t, status(t, "-T", file("too-large", append(data, 0)), url(0, "larger")), "413")
		want(t, status(t, url(0, "larger")), "404")
	})

	t.Run("chunked upload from a pipe", func(t *testing.T) {
		want(t, status(t, "-H", "Transfer-Encoding: chunked", "-T", file("v", []byte("piped")), url(0, "piped")), "201")
		got, _ := curl(t, url(1, "piped"))
		want(t, got, "piped")
	})

	t.Run("conditions", func(t *testing.T) {
		first := header(t, "ETag", "-X", "PUT", "-d", "one", url(0, "cond"))
		want(t, status(t, "-X", "PUT", "-H", "If-None-Match: *", "-d", "two", url(1, "cond")), "412")
		want(t, status(t, "-X", "PUT", "-H", "If-Match: "+first, "-d", "two", url(2, "cond")), "204")
		want(t, status(t, "-X", "PUT", "-H", "If-Match: "+first, "-d", "three", url(0, "cond")), "412")
		second := header(t, "ETag", url(1, "cond"))
		want(t, status(t, "-H", "If-None-Match: "+second, url(2, "cond")), "304")
		want(t, status(t, "-H", "If-None-Match: "+first, url(2, "cond")), "200")
		etags := filepath.Join(t.TempDir(), "etag")
		curl(t, "--etag-save", etags, "--output", os.DevNull, url(0, "cond"))
		want(t, status(t, "--etag-compare", etags, url(1, "cond")), "304")
	})

	t.Run("content type", func(t *testing.T) {
		want(t, status(t, "-X", "PUT", "-H", "Content-Type: text/csv", "-d", "a,b", url(0, "csv")), "201")
		want(t, header(t, "Content-Type", url(1, "csv")), "text/csv")
		want(t, header(t, "X-Content-Type-Options", url(1, "csv")), "nosniff")
	})

	t.Run("head", func(t *testing.T) {
		want(t, header(t, "Content-Length", "--head", url(0, "csv")), "3")
	})

	t.Run("time to live", func(t *testing.T) {
		want(t, status(t, "-X", "PUT", "-d", "short", url(0, "brief?ttl=1s")), "201")
		if err := cluster.Poll(within(t, 15*time.Second), func() bool { return status(t, url(1, "brief")) == "404" }); err != nil {
			t.Error("an entry with a time to live of 1 s is there after 15 s")
		}
	})

	t.Run("keys that curl leaves alone", func(t *testing.T) {
		for i, key := range []string{"a//b", "a/../b", "a/./b", "..", "a%2Fb", "%00", "%ff", "a+b"} {
			value := fmt.Sprintf("value %d", i)
			if got := status(t, "--path-as-is", "-X", "PUT", "-d", value, url(0, key)); got != "201" {
				t.Errorf("put of %s answered %s, want 201: it is the key of another", key, got)
			}
			got, _ := curl(t, "--path-as-is", url(1, key))
			want(t, got, value)
		}
	})

	t.Run("a redirect keeps method and body", func(t *testing.T) {
		for i := range c.Nodes {
			value := fmt.Sprintf("redirected %d", i)
			key := fmt.Sprintf("redirected-%d", i)
			for j := range c.Nodes { // at least one of them does not lead the key's shard
				got := status(t, "-L", "-X", "PUT", "-d", value, url(j, key+"?route=redirect"))
				if got != "201" && got != "204" {
					t.Errorf("put of %s at %s answered %s", key, c.Nodes[j].ID, got)
				}
			}
			got, _ := curl(t, url(i, key))
			want(t, got, value)
		}
	})

	t.Run("errors are problem bodies", func(t *testing.T) {
		got, _ := curl(t, url(0, "x?consistency=eventual"))
		if !strings.Contains(got, `"applied":"no"`) || !strings.Contains(got, `"status":400`) {
			t.Errorf("got %s", got)
		}
		want(t, header(t, "Content-Type", url(0, "x?consistency=eventual")), "application/problem+json")
	})
}
