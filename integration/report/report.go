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
	"strings"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

//go:embed page.html
var pageText string

//go:embed style.css
var style string

var pages = template.Must(template.New("page").Funcs(template.FuncMap{
	"css":   func() template.CSS { return template.CSS(style) },
	"class": func(v check.Verdict) string { return strings.ReplaceAll(string(v), " ", "-") },
	"mark":  mark, "count": count, "some": some, "share": share, "secs": secs, "back": back, "ms": ms, "span": span,
	"join": list, "title": title, "percent": percent, "add": func(a, b int) int { return a + b },
}).Parse(pageText))

// mark is a sign for a verdict, so that it is not told by its colour alone.
func mark(v check.Verdict) string {
	switch v {
	case check.Valid:
		return "✓"
	case check.Invalid:
		return "✗"
	}
	return "?"
}

// title is a verdict with a capital.
func title(v check.Verdict) string {
	if v == "" {
		return ""
	}
	return strings.ToUpper(string(v[:1])) + string(v[1:])
}

// page is what index.html is made of.
type page struct {
	Summary
	judgement
	Facts      []fact
	Checks     []checkView
	Story      *story
	Violations []violation // the first ones
	More       int         // violations that are not shown
	Undecided  []string
	BadKeys    []link
	Faults     []episode
	FaultPlot  Figure
	Figures    []Figure
	Drawn      []fact
	Files      []link
	Folder     string
	Repeat     string
	Doubt      string // whether Repeat makes the same plan
	Words      []fact
	Failures   []string
	Defects    []string
	Limit      string // of a recovery
}

// fact is a number, or a few words, with what it is.
type fact struct{ Name, Value, Note string }

// violation is one in the list of all.
type violation struct {
	Title, What string
	Ops         []string
	More        int
}

// shownViolations is how many violations of each check a page lists, shownOps with how many operations each.
const (
	shownViolations = 2
	shownOps        = 3
	// shownTexts is how many failures, or defects, it lists.
	shownTexts = 8
)

// first is what a page lists of texts, and how many more there are.
func first(all []string) []string {
	if n := len(all) - shownTexts; n > 0 {
		return append(slices.Clone(all[:shownTexts]), fmt.Sprintf("and %s more", count(n)))
	}
	return all
}

// Write makes the report of a run that is in dir already: summary.txt, summary.json and index.html.
func Write(dir string, r *history.Run, v check.Report) error {
	s := summarize(r, v)
	faults := episodes(r)
	p := page{
		Summary: s, judgement: judge(s, v), Facts: facts(s), Checks: views(v), Undecided: v.Undecided,
		Faults: faults, FaultPlot: faultLanes(faults, lasted(r)), Figures: figures(r, faults), Drawn: drawn(r.Meta), Words: words,
		Repeat: repeat(r.Meta), Failures: first(r.Failures), Defects: first(r.Defects), Limit: span(check.RecoveryLimit),
		BadKeys: found(dir, "linearizability/*.html", ""),
	}
	p.Story = tell(r, v, faults, p.BadKeys)
	listed := map[string]int{}
	for _, x := range v.Violations {
		if slices.Contains(r.Failures, x.What) || slices.Contains(r.Defects, x.What) {
			continue // these have lists of their own
		}
		if listed[x.Check]++; listed[x.Check] > shownViolations {
			continue
		}
		shown := violation{Title: explain(x.Check).Title, What: sentenceOf(x.What)}
		for _, o := range x.Ops[max(0, len(x.Ops)-shownOps):] {
			shown.Ops = append(shown.Ops, said(&o))
		}
		shown.More = len(x.Ops) - len(shown.Ops)
		p.Violations = append(p.Violations, shown)
	}
	p.More = len(v.Violations) - len(p.Violations)
	if r.Meta.Given == nil {
		p.Doubt = "This record does not say which faults were asked for, so the plan may be another one: plan.json has this run's."
	}
	if abs, err := filepath.Abs(dir); err == nil {
		p.Folder = filepath.Base(abs)
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := errors.Join(
		os.WriteFile(filepath.Join(dir, "summary.json"), append(data, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "summary.txt"), []byte(Text(s, v)), 0o644),
	); err != nil {
		return err
	}
	p.Files = contents(dir)
	var html bytes.Buffer
	if err := pages.Execute(&html, &p); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "index.html"), html.Bytes(), 0o644)
}
