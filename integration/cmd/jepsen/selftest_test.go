package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/larder-cache/larder/integration/check"
)

// TestSeededBugsAreKnown ensures that each bug that the server can be built with is looked for, and that no other is.
func TestSeededBugsAreKnown(t *testing.T) {
	var there []string
	for _, layer := range []string{"shard", "directory"} {
		source, err := os.ReadFile("../../../" + layer + "/fault.go")
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`\bbug\s+= "([a-z-]+)"`).FindAllStringSubmatch(string(source), -1)
		if len(found) == 0 {
			t.Errorf("no bug can be built into %s", layer)
		}
		for _, m := range found {
			there = append(there, m[1])
		}
	}
	known := slices.Clone(virtualBugs)
	for _, b := range seededBugs {
		if b.bug != "" {
			known = append(known, b.bug)
		}
	}
	slices.Sort(there)
	slices.Sort(known)
	known = slices.Compact(known) // some are looked for in several ways
	if len(there) == 0 || !slices.Equal(there, known) {
		t.Errorf("the server has\n%s\nand looked for are\n%s", strings.Join(there, " "), strings.Join(known, " "))
	}
}

// TestSeededRuns ensures that each run that looks for a bug is one that jepsen run takes, and has a name of its own.
func TestSeededRuns(t *testing.T) {
	names := map[string]bool{}
	for _, b := range seededBugs {
		if err := defaults(t, b.args...).validate(); err != nil {
			t.Errorf("%s: %v", b.bug, err)
		}
		if name := b.name(); names[name] {
			t.Errorf("two runs are called %s", name)
		} else {
			names[name] = true
		}
	}
}

// TestFound ensures that a bug counts as found only where a check that is meant for it found something.
func TestFound(t *testing.T) {
	dir := t.TempDir()
	data, err := json.Marshal(check.Report{Checks: []check.Result{
		{Name: "linearizable", Verdict: check.Valid}, {Name: "durable", Verdict: check.Invalid}, {Name: "coverage", Verdict: check.NotProved},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "verdict.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	by, err := foundBy(dir)
	if err != nil || !slices.Equal(by, []string{"durable"}) {
		t.Errorf("found by %q, %v", by, err)
	}
	for _, tt := range []struct {
		finds []string
		want  bool
	}{{[]string{"linearizable"}, false}, {[]string{"coverage"}, false}, {[]string{"linearizable", "durable"}, true}} {
		if got := (seeded{finds: tt.finds}).found(by); got != tt.want {
			t.Errorf("wanted %q: %t", tt.finds, got)
		}
	}
	if _, err := foundBy(t.TempDir()); err == nil {
		t.Error("a run without a verdict has found something")
	}
}

// TestSelftestNames ensures that a bug that there is not is refused before anything starts.
func TestSelftestNames(t *testing.T) {
	err := selftest{bugs: []string{"local-reads", "off-by-one"}, say: io.Discard, out: t.TempDir()}.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "off-by-one") {
		t.Errorf("%v", err)
	}
}
