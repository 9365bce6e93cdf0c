package main

import (
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// A setting comes from its flag, else its variable, else its default.
func TestPrecedence(t *testing.T) {
	byVariable, variableRequests := serve(t, hit)
	byFlag, flagRequests := serve(t, hit)
	environ := []string{"LARDER_SERVER=" + byVariable, "LARDER_TIMEOUT=7s", "LARDER_DATA_DIR=/of/another/command", "HOME=/x"}
	for _, tc := range []struct {
		environ, args []string
		asked         *requests
		timeout       string
	}{
		{environ, nil, variableRequests, "7s"},
		{environ, []string{"--server", byFlag, "--timeout", "8s"}, flagRequests, "8s"},
		{nil, []string{"--server", byFlag}, flagRequests, "5s"},
	} {
		code, _, stderr := larder(t, "", tc.environ, append([]string{"get", "k"}, tc.args...)...)
		sent := tc.asked.take()
		if code != 0 || len(sent) != 1 {
			t.Fatalf("%q: got exit code %d, %q, %d requests", tc.args, code, stderr, len(sent))
		}
		if got := sent[0].header.Get("Larder-Timeout"); got != tc.timeout {
			t.Errorf("%q: got timeout %s, want %s", tc.args, got, tc.timeout)
		}
	}
}

// A variable that is no setting, or has a bad value, is refused by name; those that Kubernetes sets for a
// service called larder are not ours.
func TestVariables(t *testing.T) {
	address, requests := serve(t, hit)
	for variable, want := range map[string]int{
		"LARDER_COLOUR=red":                             2,
		"LARDER_Server=x":                               2,
		"LARDER_DATA-DIR=x":                             2,
		"LARDER_HELP=true":                              2,
		"LARDER_=x":                                     2,
		"LARDER_TIMEOUT=soon":                           2,
		"LARDER_TIMEOUT=61s":                            2,
		"LARDERS=x":                                     0,
		"LARDER_SERVICE_HOST=10.0.0.1":                  0,
		"LARDER_SERVICE_PORT_HTTP=7070":                 0,
		"LARDER_PORT=tcp://10.0.0.1:7070":               0,
		"LARDER_PORT_7070_TCP_ADDR=10.0.0.1":            0,
		"LARDER_NODE_PORT_7070_TCP=tcp://10.0.0.1:7070": 0,
		"LARDER_PORTABLE=x":                             2,
	} {
		code, _, stderr := larder(t, "", []string{variable}, "get", "k", "--server", address)
		if sent := len(requests.take()); code != want || (sent == 1) != (want == 0) {
			t.Errorf("%s: got exit code %d and %d requests, want code %d; %s", variable, code, sent, want, stderr)
		}
		if name, _, _ := strings.Cut(variable, "="); want == 2 && name != "LARDER_TIMEOUT" && !strings.Contains(stderr, name) {
			t.Errorf("%s: %q does not name it", variable, stderr)
		}
	}
}

// What a command returns becomes its exit code: plain errors are failures, the rest says what it is.
func TestMarkFailures(t *testing.T) {
	cause := errors.New("broken")
	for _, tc := range []struct {
		err  error
		want int
	}{
		{cause, 1},
		{fmt.Errorf("wrapped: %w", usageError{cause}), 2},
		{exitError{exitPrecondition, cause}, 4},
		{violationError{cause}, 8},
	} {
		cmd := &cobra.Command{Use: "x", RunE: func(*cobra.Command, []string) error { return tc.err }}
		markFailures(cmd)
		err := cmd.RunE(cmd, nil)
		if got := exitCode(err); got != tc.want || !errors.Is(err, cause) {
			t.Errorf("%T: got code %d of %v, want %d", tc.err, got, err, tc.want)
		}
	}
}

// The program explains itself on stdout, with code 0.
func TestHelp(t *testing.T) {
	for _, args := range [][]string{nil, {"--help"}, {"help", "get"}, {"put", "--help"}, {"completion", "bash"}, {"version"}} {
		code, stdout, stderr := larder(t, "", nil, args...)
		if code != 0 || stdout == "" || stderr != "" {
			t.Errorf("%q: got exit code %d, %d bytes on stdout, stderr %q", args, code, len(stdout), stderr)
		}
	}
}

// version names the commit that the toolchain recorded, and whether the sources differed from it.
func TestDescribeBuild(t *testing.T) {
	info := &debug.BuildInfo{Main: debug.Module{Version: "v1.2.3"}, Settings: []debug.BuildSetting{
		{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"},
	}}
	if got := describeBuild(info); !strings.HasPrefix(got, "larder v1.2.3 (commit abc, modified) go") {
		t.Errorf("got %q", got)
	}
	info.Settings[1].Value = "false"
	if got := describeBuild(info); !strings.HasPrefix(got, "larder v1.2.3 (commit abc) go") {
		t.Errorf("got %q", got)
	}
	if got := describeBuild(nil); !strings.Contains(got, "unknown") {
		t.Errorf("got %q", got)
	}
}
