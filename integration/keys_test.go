package integration

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/cluster"
)

// oddKeys are keys that routers, proxies and libraries like to turn into others. Several of them
// become equal when something cleans, decodes once more, or folds.
var oddKeys = []string{
	"a/b", "a//b", "/a/b", "//", "/", "a/", "a/./b", "a/../b", ".", "..", "../..", "...",
	"%", "%2F", "a%2Fb", "a%2fb", "%00", "\x00", "a\x00b", "\xff\xfe", "\xc3\x28", "é", "e\u0301", "日本",
	" ", "+", "a b", "a+b", "?", "a?b=c", "#", "a#b", "&", "=", ";", "a;b", ":", "@", "~", "\\", "\"", "'", "\r\n", "\t",
	"{tag}x", "{tag}y", "{}z", "x{", "v1/kv/a", "KEY", "key", strings.Repeat("k", 1024), strings.Repeat("/", 1024),
}

// TestKeys ensures that odd keys are the same key at every node and in every spelling, and no two of
// them are one.
func TestKeys(t *testing.T) {
	processes(t)
	c := cluster.Start(t, cluster.Config{Binary: builder.Binary(t), Shards: 4, Delay: time.Millisecond})
	for i, key := range oddKeys {
		n := c.Nodes[i%len(c.Nodes)]
		if a := raw(t, n, "PUT", target("/v1/kv/", key, escapeAll), nil, valueOf(i)); a.StatusCode != 201 {
			t.Errorf("put of %.40q at %s answered %s, want 201: is it another key? %s", key, n.ID, a.Status, a.body)
		}
	}
	for i, key := range oddKeys {
		for _, n := range c.Nodes {
			for _, spelling := range []func(byte) bool{escapeAll, escapeLittle} {
				where := target("/v1/kv/", key, spelling)
				if a := raw(t, n, "GET", where, nil, ""); a.StatusCode != 200 || a.body != valueOf(i) {
					t.Errorf("get of %.60s at %s answered %s %.60q, want %q", where, n.ID, a.Status, a.body, valueOf(i))
				}
			}
			if a := raw(t, n, "HEAD", target("/v1/kv/", key, escapeAll), nil, ""); a.StatusCode != 200 || a.body != "" || a.Header.Get("ETag") == "" {
				t.Errorf("head of %.40q at %s answered %s", key, n.ID, a.Status)
			}
			var l cluster.Location
			a := raw(t, n, "GET", target("/v1/locate/", key, escapeAll), nil, "")
			if err := json.Unmarshal([]byte(a.body), &l); err != nil || l.Slot != slotOf(key) {
				t.Errorf("locate of %.40q at %s answered %s %s, want slot %d", key, n.ID, a.Status, a.body, slotOf(key))
			}
		}
	}
	for i, key := range oddKeys {
		n := c.Nodes[(i+1)%len(c.Nodes)]
		a := raw(t, n, "DELETE", target("/v1/kv/", key, escapeLittle), nil, "")
		if a.StatusCode != 204 || a.Header.Get("Larder-Existed") != "?1" {
			t.Errorf("delete of %.40q at %s answered %s, existed %s", key, n.ID, a.Status, a.Header.Get("Larder-Existed"))
		}
		if a := raw(t, c.Nodes[(i+2)%len(c.Nodes)], "GET", target("/v1/kv/", key, escapeAll), nil, ""); a.StatusCode != 404 {
			t.Errorf("%.40q is still there: %s", key, a.Status)
		}
	}
}

func valueOf(i int) string { return fmt.Sprintf("value of odd key %d", i) }

// escapeAll escapes everything; escapeLittle only what can't stand in a request line, what ends
// a path, and the sign of an escape itself.
func escapeAll(byte) bool      { return true }
func escapeLittle(c byte) bool { return c <= ' ' || c >= 0x7f || strings.IndexByte("%?#\"\\", c) >= 0 }

// target spells a key in a path.
func target(prefix, key string, escape func(byte) bool) string {
	var b strings.Builder
	b.WriteString(prefix)
	for i := range len(key) {
		if escape(key[i]) {
			fmt.Fprintf(&b, "%%%02X", key[i])
		} else {
			b.WriteByte(key[i])
		}
	}
	return b.String()
}

// slotOf is CRC16 (XMODEM) of the key, or of what stands in its first braces, modulo 16384, as the
// Redis Cluster specification has it.
func slotOf(key string) int {
	if open := strings.IndexByte(key, '{'); open >= 0 {
		if length := strings.IndexByte(key[open+1:], '}'); length > 0 {
			key = key[open+1 : open+1+length]
		}
	}
	crc := uint16(0)
	for i := range len(key) {
		crc ^= uint16(key[i]) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return int(crc) % 16384
}

// TestSlotOf ensures that the test's own idea of slots is Redis Cluster's.
func TestSlotOf(t *testing.T) {
	for key, want := range map[string]int{
		"123456789":            0x31C3 % 16384, // the check value of the specification
		"foo":                  12182,
		"{user1000}.following": slotOf("user1000"),
		"foo{{bar}}zap":        slotOf("{bar"),
		"foo{bar}{zap}":        slotOf("bar"),
	} {
		if got := slotOf(key); got != want {
			t.Errorf("slotOf(%q) = %d, want %d", key, got, want)
		}
	}
}
