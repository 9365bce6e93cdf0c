package report

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/larder-cache/larder/integration/history"
)

// variables are those of make jepsen, by the flag of jepsen run that each stands for.
var variables = map[string]string{"nemesis": "NEMESIS", "nodes": "NODES", "shards": "SHARDS"}

// repeat is the command that does the same again. What was given beyond what Meta tells of every run comes from
// Meta.Given; where that was not recorded, the faults that could be chosen stand for those that were asked for.
func repeat(m history.Meta) string {
	words := []string{"make jepsen", "WORKLOAD=" + m.Workload, "MODE=" + string(m.Mode), fmt.Sprintf("SEED=%d", m.Seed), "TIME=" + short(m.Time)}
	if m.Net != "" {
		words = append(words, "NET="+m.Net)
	}
	var args []string
	if m.Disk != "" {
		args = append(args, "--disk="+m.Disk)
	}
	if m.Given == nil && len(m.Nemeses) > 0 {
		words = append(words, "NEMESIS="+strings.Join(m.Nemeses, ","))
	}
	for _, flag := range m.Given {
		name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		if variable := variables[name]; variable != "" {
			words = append(words, variable+"="+value)
		} else {
			args = append(args, flag)
		}
	}
	if m.Bug != "" {
		words = append(words, "BUG="+m.Bug)
	}
	if len(args) > 0 {
		words = append(words, "ARGS='"+strings.Join(args, " ")+"'")
	}
	return strings.Join(words, " ")
}

// short writes a duration as people type it: 1m, not 1m0s.
func short(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// link leads to a file of the run's folder.
type link struct {
	Name, Path string
	About      string
	Size       string
}

// files says what lies in a run's folder.
var files = []struct{ pattern, about string }{
	{"history.jsonl", "every operation: what was asked, when, and what was answered"},
	{"final.jsonl", "reads of all keys at the end"},
	{"faults.jsonl", "what was done to the cluster, and when"},
	{"samples.jsonl", "what the nodes said of their replicas on the way"},
	{"ends.jsonl", "the states of the replicas at the end"},
	{"defects.jsonl", "answers that the interface does not allow"},
	{"failures.jsonl", "why the run could not be carried through"},
	{"run.json", "what the run was asked to do"},
	{"plan.json", "the plan that follows from the seed"},
	{"verdict.json", "what each check found, with all violations"},
	{"summary.json", "the numbers of this page"},
	{"summary.txt", "the same for a terminal"},
	{"nodes/*/log", "what the node logged"},
}

// contents are the files of a run's folder that there are, and say something.
func contents(dir string) (all []link) {
	for _, f := range files {
		all = append(all, found(dir, f.pattern, f.about)...)
	}
	return all
}

// found lists the files of a run's folder that match, by their path within it, in the order of the numbers in their names.
func found(dir, pattern, about string) (all []link) {
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return nil // the patterns are constants
	}
	slices.SortFunc(paths, func(a, b string) int { return cmp.Or(cmp.Compare(leading(a), leading(b)), cmp.Compare(a, b)) })
	for _, path := range paths {
		rel, err := filepath.Rel(dir, path)
		info, err2 := os.Stat(path)
		if err != nil || err2 != nil || info.Size() == 0 {
			continue
		}
		all = append(all, link{filepath.ToSlash(rel), filepath.ToSlash(rel), about, bytesOf(info.Size())})
	}
	return all
}

// leading is the number that a file's name begins with, 0 for none.
func leading(path string) int {
	digits, _, _ := strings.Cut(filepath.Base(path), "-")
	n, err := strconv.Atoi(digits)
	if err != nil {
		return 0
	}
	return n
}

// bytesOf is a size of a file.
func bytesOf(n int64) string {
	switch {
	case n < 1000:
		return fmt.Sprintf("%d\u00a0bytes", n)
	case n < 1_000_000:
		return fmt.Sprintf("%.0f\u00a0kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f\u00a0MB", float64(n)/1e6)
}

// pageOf is the page of a key, nil if it has none.
func pageOf(pages []link, key string) *link {
	for _, p := range pages {
		name := strings.TrimSuffix(filepath.Base(p.Path), ".html")
		if _, of, ok := strings.Cut(name, "-"); ok && of == strings.ReplaceAll(key, "/", "-") {
			return &p
		}
	}
	return nil
}
