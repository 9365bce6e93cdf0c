package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// config writes a file with settings.
func config(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "larder.conf")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// A setting comes from its flag, else its variable, else the file, else its default, and --print-config
// tells which, on any command, without doing anything else or asking for arguments.
func TestPrintConfig(t *testing.T) {
	path := config(t, "# for all\n\n timeout = 6s\r\nserver=http://file:1\nconsistency = any\ndata-dir = /of/another/command\n")
	args := []string{"get", "--config", path, "--print-config", "-o", "json"}
	for _, tc := range []struct {
		environ, args []string
		name          string
		value, from   string
	}{
		{nil, nil, "max-staleness", "2s", "default"},
		{nil, nil, "timeout", "6s", "file " + path + ":3"},
		{nil, nil, "server", "http://file:1", "file " + path + ":4"},
		{[]string{"LARDER_TIMEOUT=7s"}, nil, "timeout", "7s", "variable LARDER_TIMEOUT"},
		{[]string{"LARDER_TIMEOUT=7s"}, []string{"--timeout", "8s"}, "timeout", "8s", "flag"},
	} {
		code, stdout, stderr := larder(t, "", tc.environ, append(args[:len(args):len(args)], tc.args...)...)
		var list []struct{ Name, Value, From string }
		if err := json.Unmarshal([]byte(stdout), &list); code != 0 || err != nil {
			t.Fatalf("got exit code %d, %q, %q", code, stdout, stderr)
		}
		found := false
		for _, l := range list {
			if l.Name == tc.name {
				found = true
				if l.Value != tc.value || l.From != tc.from {
					t.Errorf("%s: got %q from %q, want %q from %q", tc.name, l.Value, l.From, tc.value, tc.from)
				}
			}
			if l.Name == "data-dir" || l.Name == "help" || l.Name == printFlag {
				t.Errorf("%s is listed", l.Name)
			}
		}
		if !found {
			t.Errorf("%s is not listed", tc.name)
		}
	}
	for _, tc := range []struct {
		environ, args []string
		value, from   string
	}{
		{nil, nil, "auto", "default"},
		{[]string{"GOMEMLIMIT=2GiB"}, nil, "2GiB", "variable GOMEMLIMIT"},
		{[]string{"GOMEMLIMIT="}, nil, "auto", "default"},
		{[]string{"GOMEMLIMIT=2GiB", "LARDER_MEMORY_LIMIT=80%"}, nil, "80%", "variable LARDER_MEMORY_LIMIT"},
		{[]string{"GOMEMLIMIT=2GiB"}, []string{"--memory-limit", "off"}, "off", "flag"},
	} {
		code, stdout, stderr := larder(t, "", tc.environ, append([]string{"server", "--print-config"}, tc.args...)...)
		if line := "memory-limit"; code != 0 || !slices.ContainsFunc(strings.Split(stdout, "\n"), func(l string) bool {
			return strings.HasPrefix(l, line) && slices.Equal(strings.Fields(l), append([]string{line, tc.value}, strings.Fields(tc.from)...))
		}) {
			t.Errorf("%q %q: got exit code %d, %q\n%s", tc.environ, tc.args, code, stderr, stdout)
		}
	}
	for _, command := range []string{"server", "dev", "settings", "put", "del", "status", "check", "version", "shard list", "shard show", "member add", "node remove", "operation cancel", "check replicas", "check data-dir", "completion bash"} {
		code, stdout, stderr := larder(t, "", []string{"LARDER_CONFIG=" + path}, append(strings.Fields(command), "--print-config")...)
		if code != 0 || !strings.HasPrefix(stdout, "SETTING") || !strings.Contains(stdout, "variable LARDER_CONFIG") || stderr != "" {
			t.Errorf("%s: got exit code %d, %q, %q", command, code, stdout, stderr)
		}
	}
}

// The values of a file are those that the command works with.
func TestConfigTakesEffect(t *testing.T) {
	address, got := serve(t, hit)
	path := config(t, "server = "+address+"\ntimeout = 6s\n")
	if code, _, stderr := larder(t, "", nil, "get", "k", "--config", path); code != 0 || got.take()[0].header.Get("Larder-Timeout") != "6s" {
		t.Errorf("got exit code %d, %q", code, stderr)
	}
}

// What is wrong in a file is a mistake in usage, named with its line, and nothing is sent.
func TestBadConfig(t *testing.T) {
	address, got := serve(t, hit)
	for _, tc := range []struct{ text, want string }{
		{"colour = red", `:1: "colour"`},
		{"\n# x\nTimeout = 5s", `:3: "Timeout"`},
		{"timeout", ":1: "},
		{"timeout = soon", ":1: "},
		{"timeout = 5s\ntimeout = 5s", ":2: timeout is in line 1"},
		{"data-dir = x\ndata-dir = y", ":2: data-dir is in line 1"},
		{"config = x", ":1: "},
		{"print-config = true", ":1: "},
		{"help = true", ":1: "},
		{"= x", ":1: "},
	} {
		path := config(t, tc.text)
		code, _, stderr := larder(t, "", nil, "get", "k", "--server", address, "--config", path)
		if code != exitUsage || !strings.Contains(stderr, path+tc.want) {
			t.Errorf("%q: got exit code %d, %q, want %q", tc.text, code, stderr, tc.want)
		}
	}
	for _, path := range []string{"", filepath.Join(t.TempDir(), "absent")} {
		if code, _, stderr := larder(t, "", nil, "get", "k", "--server", address, "--config", path); code != exitUsage || !strings.Contains(stderr, "--config") {
			t.Errorf("%q: got exit code %d, %q", path, code, stderr)
		}
	}
	if code, _, _ := larder(t, "", []string{"LARDER_PRINT_CONFIG=true"}, "get", "k", "--server", address); code != exitUsage {
		t.Errorf("LARDER_PRINT_CONFIG: got exit code %d", code)
	}
	if sent := len(got.take()); sent != 0 {
		t.Errorf("%d requests were sent", sent)
	}
}

// The table of settings shows values as they are, and - for an empty one.
func TestPrintConfigTable(t *testing.T) {
	code, stdout, _ := larder(t, "", nil, "shard", "list", "--print-config", "--timeout", "3s")
	want := "SETTING  VALUE                  FROM\n" +
		"config   -                      default\n" +
		"output   table                  default\n" +
		"server   http://127.0.0.1:7070  default\n" +
		"timeout  3s                     flag\n"
	if code != 0 || stdout != want {
		t.Errorf("got exit code %d\n%s\nwant\n%s", code, stdout, want)
	}
}
