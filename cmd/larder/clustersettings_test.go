package main

import (
	"net/http"
	"strings"
	"testing"
)

// tellSettings answers with settings, one of which no program of today knows.
func tellSettings(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("ETag", `"17"`)
	w.Write([]byte(`{"colour":"red","cache-memory":"40%","shard-bytes":0,"default-ttl":"none","touch-interval":"100ms","repair-after":"1m","balance":"on","snapshot-bandwidth":"64MiB","memory-only":"off","initial-shards":8,"replicas":3}`))
}

// TestSettingsShown ensures that settings are shown with defaults and meanings, in a fixed order, and those
// that this program does not know after them.
func TestSettingsShown(t *testing.T) {
	address, got := serve(t, tellSettings)
	code, stdout, stderr := larder(t, "", nil, "settings", "--server", address)
	if sent := got.take(); code != 0 || stderr != "" || len(sent) != 1 || sent[0].line != "GET /v1/settings" {
		t.Fatalf("got exit code %d, %q, sent %+v", code, stderr, sent)
	}
	lines := strings.Split(stdout, "\n")
	for i, want := range []string{
		"SETTING VALUE DEFAULT MEANING",
		"cache-memory 40% 60% the part of",
		"shard-bytes 0 0 ",
		"default-ttl none none ",
		"touch-interval 100ms 100ms ",
		"repair-after 1m 1m ",
		"balance on on ",
		"snapshot-bandwidth 64MiB 32MiB ",
		"replicas 3 3 ",
		"memory-only off off ",
		"initial-shards 8 8 ",
		"colour red - -",
		"",
		"Version 17.",
	} {
		if i >= len(lines) || !strings.HasPrefix(strings.Join(strings.Fields(lines[i]), " ")+" ", want) {
			t.Fatalf("line %d of\n%s\nwant it to begin with %q", i, stdout, want)
		}
	}
	code, stdout, _ = larder(t, "", nil, "settings", "--server", address, "-o", "json")
	if want := `{"version":"17","settings":[{"name":"cache-memory","value":"40%","default":"60%","meaning":"the part`; code != 0 || !strings.HasPrefix(stdout, want) {
		t.Errorf("got exit code %d\n%s, want it to begin with\n%s", code, stdout, want)
	}
}

// TestSettingsChanged ensures that a change is sent once, as a merge patch for the version that was given,
// and that its end becomes an exit code with advice.
func TestSettingsChanged(t *testing.T) {
	for _, tc := range []struct {
		args  []string
		reply http.HandlerFunc
		want  int
		says  string
	}{
		{nil, tellSettings, 0, "Version 17."},
		{[]string{"--if-match", "16"}, tellSettings, 0, "Version 17."},
		{nil, problem(422, "bad-setting", "no"), 1, "A detail."},
		{nil, problem(409, "conflict", "no"), 1, "larder status"},
		{[]string{"--if-match", `"16"`}, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", `"18"`)
			problem(412, "precondition-failed", "no")(w, r)
		}, 4, "version is 18 now"},
		{nil, problem(503, "no-leader", "no"), 5, "try again"},
		{nil, problem(504, "outcome-unknown", "unknown"), 6, "larder settings"},
		{nil, hangUp, 6, "larder settings"},
	} {
		address, got := serve(t, tc.reply)
		args := append([]string{"settings", "cache-memory=512MiB", "default-ttl=default", "--server", address}, tc.args...)
		code, stdout, stderr := larder(t, "", nil, args...)
		if code != tc.want || !strings.Contains(stdout+stderr, tc.says) {
			t.Errorf("%q: got exit code %d, %q, %q, want %d and %q", args, code, stdout, stderr, tc.want, tc.says)
		}
		sent := got.take()
		if len(sent) != 1 || sent[0].line != "PATCH /v1/settings" || sent[0].body != `{"cache-memory":"512MiB","default-ttl":null}` ||
			sent[0].header.Get("Content-Type") != "application/merge-patch+json" || sent[0].header.Get("If-Match") != map[bool]string{true: `"16"`}[len(tc.args) > 0] {
			t.Errorf("%q: sent %+v", args, sent)
		}
	}
}

// TestSettingsUsage ensures that what is no change is a mistake in usage, and that nothing is sent.
func TestSettingsUsage(t *testing.T) {
	address, got := serve(t, tellSettings)
	for _, args := range [][]string{
		{"cache-memory"}, {"cache-memory="}, {"=40%"}, {""}, {"a=1", "a=2"}, {"a=1", "a=default"},
		{"a=1", "--if-match", "0"}, {"a=1", "--if-match", "x"}, {"--if-match", "17"}, {"a=1", "-o", "yaml"},
	} {
		if code, _, stderr := larder(t, "", nil, append([]string{"settings", "--server", address}, args...)...); code != exitUsage {
			t.Errorf("%q: got exit code %d, %q", args, code, stderr)
		}
	}
	if sent := got.take(); len(sent) > 0 {
		t.Errorf("sent %+v", sent)
	}
}

// TestSettingsCompletion ensures that a shell is offered the settings that can change and are not given.
func TestSettingsCompletion(t *testing.T) {
	code, stdout, _ := larder(t, "", nil, "__complete", "settings", "default-ttl=1h", "")
	if code != 0 || !strings.Contains(stdout, "cache-memory=\t") || !strings.Contains(stdout, "replicas=\t") || strings.Contains(stdout, "initial-shards=") || strings.Contains(stdout, "default-ttl") {
		t.Errorf("got exit code %d, %q", code, stdout)
	}
}
