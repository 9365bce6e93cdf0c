package report

import (
	"encoding/xml"
	"errors"
	"fmt"
	"html"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

// forged makes up a run of n operations and a minute, with faults of two classes.
func forged(n int) *history.Run {
	rng := rand.New(rand.NewPCG(1, 2))
	r := &history.Run{Meta: history.Meta{
		Workload: "register", Nemeses: []string{"kill-one", "pause"}, Mode: history.Tight, Seed: 42, Nodes: []string{"a", "b", "c"},
		Shards: 2, Net: "tap", Disk: "loop", Time: time.Minute, Flags: map[string]string{"--heartbeat": "<100ms>", "least-rate": "30"}, Version: "larder v0",
	}}
	for i := range n {
		at := time.Duration(i) * time.Minute / time.Duration(n)
		o := history.Operation{Process: i % 9, Key: fmt.Sprintf("k%d", i%50), Node: "a", Invoke: at, Return: at + time.Duration(rng.ExpFloat64()*3e6),
			Kind: []history.Kind{history.Get, history.Put, history.Replace}[i%3], Outcome: history.OK, Found: i%2 == 0, Conflict: i%21 == 2}
		switch {
		case i%50 == 7:
			o.Outcome, o.Return = history.Unknown, at+800*time.Millisecond
		case i%40 == 3:
			o.Outcome = history.Refused
		}
		r.Ops = append(r.Ops, o)
	}
	for i := range 8 {
		start := time.Duration(3+7*i) * time.Second
		f := history.Fault{Name: "kill-one", Class: "crash", Targets: []string{"b"}, Start: start, Healed: start + 3*time.Second,
			Recovered: start + 3*time.Second + time.Duration(i)*500*time.Millisecond, Effect: "the process ended"}
		if i%2 == 1 {
			f.Name, f.Class, f.Targets, f.Effect = "pause-leader", "pause", []string{"a"}, ""
		}
		r.Faults = append(r.Faults, f)
	}
	for s := range 120 {
		at := time.Duration(s) * 500 * time.Millisecond
		for shard := range uint64(2) {
			for i, node := range r.Meta.Nodes {
				role, term := "follower", uint64(2+s/40)
				if (s/40+int(shard))%3 == i {
					role = "leader"
				}
				r.Samples = append(r.Samples, history.Sample{At: at, Node: node, Shard: shard + 1, Role: role, Term: term, Applied: uint64(s*10 - i), Evicted: uint64(s)})
			}
		}
	}
	return r
}

func verdict(v check.Verdict, r *history.Run) check.Report {
	report := check.Report{Operations: len(r.Ops), Keys: 50, Checks: []check.Result{
		{Name: "linearizable", Verdict: v, Checked: len(r.Ops), Detail: "50 keys <in> order"}, {Name: "coverage", Verdict: check.Valid, Checked: 8},
	}}
	switch v {
	case check.Invalid:
		report.Violations = []check.Violation{
			{Check: "certificate", What: "many", Ops: r.Ops[:30]},
			{Check: "linearizable", What: "a value came back", Ops: []history.Operation{r.Ops[50], r.Ops[100]}},
		}
	case check.Undecided:
		report.Undecided = []string{"k1", "k2"}
	}
	return report
}

// wellFormed fails unless text is a document whose elements are all closed, but those that HTML leaves open.
func wellFormed(t *testing.T, what, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	d.Strict = false
	d.AutoClose = []string{"meta"}
	d.Entity = xml.HTMLEntity
	var open []string
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		switch e := token.(type) {
		case xml.StartElement:
			open = append(open, e.Name.Local)
		case xml.EndElement:
			if len(open) == 0 || open[len(open)-1] != e.Name.Local {
				t.Fatalf("%s: </%s> within %v", what, e.Name.Local, open)
			}
			open = open[:len(open)-1]
		}
	}
	if len(open) > 0 {
		t.Errorf("%s: %v are never closed", what, open)
	}
}

// TestWrite ensures that a page of each verdict says it first, in words, with what it rests on and what would have changed it,
// that it is well formed, loads nothing from elsewhere, and links what lies in the folder.
func TestWrite(t *testing.T) {
	for v, want := range map[check.Verdict][]string{
		check.Valid:     {"Larder kept its promises", "what vanished for lack of room never came back", "One violation of any check below", "fewer than 30 successes a second"},
		check.Invalid:   {"Larder broke a promise: no order of events explains", "Without the 2 violations below it would have been valid", `href="linearizability/1-k0.html"`, "Fault 1 began: kill-one of b (kill -9"},
		check.Undecided: {"Not decided: for 2 of 50 keys"},
		check.NotProved: {"Not proved: nothing wrong was seen, but no order", "What is missing: 50 keys"},
	} {
		r := forged(1000)
		dir := t.TempDir()
		if err := r.Write(dir); err != nil {
			t.Fatal(err)
		}
		for path, text := range map[string]string{"nodes/a/log": "log", "linearizability/1-k0.html": "page", "plan.json": "{}", "defects.jsonl": ""} {
			if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755), os.WriteFile(filepath.Join(dir, path), []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		if err := Write(dir, r, verdict(v, r)); err != nil {
			t.Fatal(err)
		}
		page, err := os.ReadFile(filepath.Join(dir, "index.html"))
		if err != nil {
			t.Fatal(err)
		}
		text := plain(string(page))
		wellFormed(t, string(v), text)
		for _, w := range append(want, "</span> "+title(v)+"</strong>", `href="nodes/a/log"`, `href="history.jsonl"`, `href="plan.json"`,
			"&lt;100ms&gt;", "make jepsen WORKLOAD=register MODE=tight SEED=42 TIME=1m NET=tap", "a leads shard 1 in term 2", "none seen", "It rests on 1,000 of 1,000 operations") {
			if !strings.Contains(text, w) {
				t.Errorf("%s: the page does not say %q", v, w)
			}
		}
		for _, bad := range []string{"<script", "src=", "url(", "@import", `href="http`, "defects.jsonl", "ZgotmplZ", "%!"} {
			if strings.Contains(text, bad) {
				t.Errorf("%s: the page has %q", v, bad)
			}
		}
		if strings.Index(text, title(v)+"</strong>") > strings.Index(text, "<h2>") {
			t.Errorf("%s: the verdict is not the first thing", v)
		}
		linked(t, dir, text)
		summary, err := os.ReadFile(filepath.Join(dir, "summary.txt"))
		if err != nil || !strings.HasPrefix(string(summary), strings.ToUpper(string(v))+"\n") || !strings.Contains(string(summary), "kill-one") {
			t.Errorf("%s: summary %q, %v", v, summary, err)
		}
		for _, f := range figures(r, episodes(r)) {
			wellFormed(t, f.Title, string(f.SVG))
		}
	}
}

// linked fails unless all that a page links is there: files beside it, and its own sections.
func linked(t *testing.T, dir, text string) {
	t.Helper()
	for _, m := range regexp.MustCompile(`href="([^"]*)"`).FindAllStringSubmatch(text, -1) {
		if name, section := strings.CutPrefix(m[1], "#"); section {
			if !strings.Contains(text, `id="`+name+`"`) {
				t.Errorf("the page has no section %s", name)
			}
		} else if _, err := os.Stat(filepath.Join(dir, m[1])); err != nil {
			t.Error(err)
		}
	}
}

// TestNumbers ensures that faults have the same numbers in the table, in the drawing of them and in every plot, in the order of
// their beginning.
func TestNumbers(t *testing.T) {
	r := forged(1000)
	slices.Reverse(r.Faults)
	r.Faults = append(r.Faults, history.Fault{Name: "lossy", Class: "network", Targets: []string{"a>b"}, Start: 4 * time.Second, Healed: 5 * time.Second, Err: "it broke"})
	faults := episodes(r)
	for i, f := range faults {
		if f.N != i+1 || i > 0 && f.Start < faults[i-1].Start {
			t.Errorf("fault %d is %+v", i, f)
		}
	}
	second := faults[1]
	if second.Name != "lossy" || second.With != 1 || second.Recovery() != "with 1" || plain(second.Lasted()) != "1 s" || second.Shown() != "none seen (it broke)" {
		t.Errorf("the second is %+v: %s, %s, %s", second, second.Recovery(), plain(second.Lasted()), second.Shown())
	}
	if last := faults[8]; plain(last.Recovery()) != "3.50 s" || plain(last.Began()) != "52.0 s" {
		t.Errorf("the last is %+v", last)
	}
	for _, f := range append(figures(r, faults), faultLanes(faults, lasted(r))) {
		for _, e := range faults {
			if !strings.Contains(string(f.SVG), "<title>"+html.EscapeString(e.Hint())+"</title>") {
				t.Errorf("%s: no %s", f.Title, e.Hint())
			}
		}
	}
}

// TestExplained ensures that each check which a run has is explained, and that nothing else is.
func TestExplained(t *testing.T) {
	r := forged(200)
	explained := map[string]bool{}
	for _, c := range check.Run(r, check.Options{KeyLimit: time.Second}).Checks {
		first, _, _ := strings.Cut(c.Name, " ")
		if _, ok := explanations[c.Name]; ok {
			first = c.Name
		}
		e, ok := explanations[first]
		if !ok {
			t.Errorf("%s is not explained", c.Name)
		}
		for _, text := range []string{e.Title, e.Means, e.Fails, e.Broke, e.Unit} {
			if text == "" {
				t.Errorf("%s lacks words: %+v", c.Name, e)
			}
		}
		explained[first] = true
	}
	for name := range explanations {
		if !explained[name] {
			t.Errorf("%s is explained, but is no check", name)
		}
	}
}

// TestSummary ensures that what the summary counts is what there was.
func TestSummary(t *testing.T) {
	r := forged(1000)
	s := summarize(r, verdict(check.Valid, r))
	var ok, refused, unknown int
	for _, k := range s.Kinds {
		ok, refused, unknown = ok+k.OK, refused+k.Refused, unknown+k.Unknown
	}
	if ok != 955 || refused != 25 || unknown != 20 {
		t.Errorf("%d answered, %d refused, %d unknown", ok, refused, unknown)
	}
	want := []FaultSum{
		{"kill-one", "crash", 4, 4, 4, 2, 3}, {"pause-leader", "pause", 4, 0, 4, 2.5, 3.5},
	}
	if !slices.Equal(s.Faults, want) {
		t.Errorf("faults %+v", s.Faults)
	}
	if p := s.Phases; p[1].Seconds != 24 || p[0].Seconds < 35.9 || p[0].Seconds > 37 {
		t.Errorf("phases %+v", p)
	}
	hits := map[string]int{}
	for _, c := range s.Classes {
		hits[c.Class] = c.Hits + c.Misses
	}
	if hits["crash"] < 50 || hits["pause"] < 50 || hits["none"] < 150 || len(hits) != 3 {
		t.Errorf("hits %v", hits)
	}
	if s.HitsPerKey.Least > s.HitsPerKey.Median || s.HitsPerKey.Median > s.HitsPerKey.Most || s.HitsPerKey.Most == 0 {
		t.Errorf("hits per key %+v", s.HitsPerKey)
	}
	if empty := summarize(&history.Run{}, check.Report{}); empty.Lasted != 0 || empty.Rate != 0 {
		t.Errorf("of nothing: %+v", empty)
	}
}

// TestLargeRun ensures that a run of 300,000 operations is written fast, and as a page that a browser takes, whether its
// counterexample is one of many or there is none.
func TestLargeRun(t *testing.T) {
	r := forged(300_000)
	for i := range r.Ops {
		o := &r.Ops[i]
		o.Version = uint64(i/50 + 1)
		if o.Kind == history.Get {
			o.Version, o.Read = max(1, o.Version/2), fmt.Sprint(i%50+(i/100)*50) // something old
		} else {
			o.Value = fmt.Sprint(i)
		}
	}
	many := verdict(check.Valid, r)
	many.Checks[0].Verdict = check.Invalid
	for i := range 1000 {
		at := len(r.Ops) - 3*(i+1)
		many.Violations = append(many.Violations, check.Violation{Check: searched, What: "no order", Ops: r.Ops[at-30 : at+1]})
	}
	for _, v := range []check.Report{verdict(check.Valid, r), many} {
		large(t, r, v)
	}
}

func large(t *testing.T, r *history.Run, v check.Report) {
	t.Helper()
	dir := t.TempDir()
	start := time.Now()
	if err := Write(dir, r, v); err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	page, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: %d bytes in %v", v.Verdict(), len(page), took)
	const most = 1 << 20
	if len(page) > most {
		t.Errorf("a page of %d bytes", len(page))
	}
	if took > 20*time.Second { // not for ever: with the race detector, beside other tests, it takes two
		t.Errorf("it took %v", took)
	}
	if !regexp.MustCompile(`and of the 2\d\d,\d{3} others \d+,\d{3}, evenly`).Match(page) {
		t.Errorf("the page does not say what it left out")
	}
}

// TestIndex ensures that the overview has all runs, the worst verdict and the sums.
func TestIndex(t *testing.T) {
	out := t.TempDir()
	var dirs []string
	for i, v := range []check.Verdict{check.Valid, check.NotProved, check.Valid} {
		dir := filepath.Join(out, fmt.Sprint("run", i))
		r := forged(500)
		if err := errors.Join(r.Write(dir), Write(dir, r, verdict(v, r))); err != nil {
			t.Fatal(err)
		}
		dirs = append(dirs, dir)
	}
	text, err := Index(out, dirs...)
	if want := "2 of 3 runs valid: 3 min, 1,500 operations checked, 12 faults that took effect"; err != nil || plain(text) != want {
		t.Errorf("got %q, %v, want %q", text, err, want)
	}
	page, err := os.ReadFile(filepath.Join(out, "index.html"))
	if err != nil || !strings.Contains(string(page), "Not proved</strong>") || !strings.Contains(string(page), `href="run1/index.html"`) {
		t.Errorf("page %s, %v", page, err)
	}
	wellFormed(t, "overview", string(page))
	linked(t, out, string(page))

	r := forged(500)
	r.Meta.Bug = "local-reads"
	seeded := filepath.Join(out, "seeded")
	if err := errors.Join(r.Write(seeded), Write(seeded, r, verdict(check.Invalid, r))); err != nil {
		t.Fatal(err)
	}
	text, err = Index(out, dirs[0], seeded, filepath.Join(out, "none"))
	if err == nil || !strings.HasPrefix(text, "1 of 1 run valid") {
		t.Errorf("got %q, %v, want a seeded bug not to count and a folder without a report to be told", text, err)
	}
	page, err = os.ReadFile(filepath.Join(out, "index.html"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"Valid</strong>", "1 of 1 did", ">local-reads</td>", "<li class=\"raw\">none</li>", "<td class=\"n\">4 of 8</td>", "<td class=\"n\">3.50 s</td>"} {
		if !strings.Contains(plain(string(page)), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if _, err := Index(out); err != nil {
		t.Error(err)
	}
	if page, err = os.ReadFile(filepath.Join(out, "index.html")); err != nil || !strings.Contains(string(page), "Not proved</strong>") {
		t.Errorf("no runs are not proved to be nothing: %v", err)
	}
}
