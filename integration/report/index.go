package report

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/larder-cache/larder/integration/check"
)

//go:embed overview.html
var overviewText string

var overviews = template.Must(template.Must(pages.Clone()).New("overview").Parse(overviewText))

// overview is what the page over many runs is made of. Its sums are of the runs without a seeded bug.
type overview struct {
	Runs                        []overviewRun
	Sound, Valid                int // without a seeded bug, and how many of these are valid
	Operations, Faults, Checked int
	Lasted                      float64 // seconds
	Worst                       check.Verdict
	Seeded, FoundBugs           int
	Unread                      []string
}

type overviewRun struct {
	Summary
	Path string
}

// HitShare and FaultsDone are columns.
func (r overviewRun) HitShare() string {
	hits, misses := r.Reads()
	return share(hits, hits+misses)
}

// FaultsDone is how many faults took effect, of how many.
func (r overviewRun) FaultsDone() string {
	effective, done := r.Effects()
	return fmt.Sprintf("%d of %d", effective, done)
}

// Index writes index.html to out, with a row for each run whose folder is given, and returns the sums as text. The folders
// have reports already; an error tells of those that have none.
func Index(out string, dirs ...string) (string, error) {
	var o overview
	var errs []error
	unread := func(dir string, err error) {
		errs = append(errs, fmt.Errorf("%s: %w", dir, err))
		o.Unread = append(o.Unread, filepath.Base(dir))
	}
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "summary.json"))
		if err != nil {
			unread(dir, err)
			continue
		}
		var run overviewRun
		if err := json.Unmarshal(data, &run.Summary); err != nil {
			unread(dir, err)
			continue
		}
		rel, err := filepath.Rel(out, dir)
		if err != nil {
			rel = dir
		}
		run.Path = filepath.ToSlash(rel) + "/index.html"
		o.add(run)
	}
	slices.SortStableFunc(o.Runs, func(a, b overviewRun) int { return b.Meta.Started.Compare(a.Meta.Started) })
	if o.Sound == 0 {
		o.Worst = check.NotProved
	}
	var html bytes.Buffer
	if err := overviews.Execute(&html, &o); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(out, "index.html"), html.Bytes(), 0o644); err != nil {
		errs = append(errs, err)
	}
	return plain(o.String()), errors.Join(errs...)
}

func (o *overview) add(run overviewRun) {
	o.Runs = append(o.Runs, run)
	if run.Meta.Bug != "" {
		o.Seeded++
		if run.Verdict == check.Invalid {
			o.FoundBugs++
		}
		return
	}
	o.Sound++
	if run.Verdict == check.Valid {
		o.Valid++
	}
	if o.Worst == "" || rank(run.Verdict) > rank(o.Worst) {
		o.Worst = run.Verdict
	}
	effective, _ := run.Effects()
	o.Operations += run.Operations
	o.Checked += run.Checked
	o.Faults += effective
	o.Lasted += run.Lasted
}

// rank orders verdicts: the worst is the highest.
func rank(v check.Verdict) int {
	for i, w := range []check.Verdict{check.Valid, check.NotProved, check.Undecided} {
		if v == w {
			return i
		}
	}
	return 3
}

func (o overview) String() string {
	return fmt.Sprintf("%d of %s valid: %s, %s checked, %s that took effect",
		o.Valid, some(o.Sound, "run"), span(time.Duration(o.Lasted*float64(time.Second))), some(o.Checked, "operation"), some(o.Faults, "fault"))
}
