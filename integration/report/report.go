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
	"text/tabwriter"
	"time"

	"github.com/larder-cache/larder/integration/check"
	"github.com/larder-cache/larder/integration/history"
)

//go:embed page.html
var pageText string

//go:embed style.css
var style string

var pages = template.Must(template.New("page").Funcs(template.FuncMap{
	"seconds": func(v float64) string { return fmt.Sprintf("%.2f", v) },
	"ms":      func(v float64) string { return fmt.Sprintf("%.1f", v) },
	"css":     func() template.CSS { return template.CSS(style) },
	"class":   func(v check.Verdict) string { return strings.ReplaceAll(string(v), " ", "-") },
	"at":      func(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) },
	"join":    func(all []string) string { return strings.Join(all, ", ") },
}).Parse(pageText))

// page is what index.html is made of.
type page struct {
	Summary
	Sentence   string
	Example    *example
	Violations []check.Violation // the first ones
	More       int               // violations that are not shown
	BadKeys    []link
	Figures    []Figure
	Marks      []history.Fault
	Files      []link
	Repeat     string
	Failures   []string
	Defects    []string
}

type link struct{ Name, Path string }

// shownViolations is how many violations a page spells out.
const shownViolations = 5

// Write makes the report of a run that is in dir already: summary.txt, summary.json, plots and index.html.
func Write(dir string, r *history.Run, v check.Report) error {
	s := summarize(r, v)
	p := page{Summary: s, Sentence: sentence(s), Figures: figures(r), Marks: r.Faults, Repeat: repeat(r.Meta), Failures: r.Failures, Defects: r.Defects}
	p.Violations = v.Violations[:min(shownViolations, len(v.Violations))]
	p.More = len(v.Violations) - len(p.Violations)
	p.Example = smallest(r, v.Violations)
	p.BadKeys = found(dir, "linearizability/*.html")
	p.Files = slices.Concat(found(dir, "*.json"), found(dir, "*.jsonl"), found(dir, "summary.txt"), found(dir, "nodes/*/log"))
	var html bytes.Buffer
	if err := pages.Execute(&html, &p); err != nil {
		return err
	}
	data, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	errs := []error{
		os.WriteFile(filepath.Join(dir, "index.html"), html.Bytes(), 0o644),
		os.WriteFile(filepath.Join(dir, "summary.json"), append(data, '\n'), 0o644),
		os.WriteFile(filepath.Join(dir, "summary.txt"), []byte(Text(s)), 0o644),
	}
	return errors.Join(errs...)
}

// found lists the files of a run's folder that match, by their path within it.
func found(dir, pattern string) (all []link) {
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil {
		return nil // the patterns are constants
	}
	for _, path := range paths {
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			continue
		}
		all = append(all, link{rel, filepath.ToSlash(rel)})
	}
	return all
}

// repeat is the command that does the same again.
func repeat(m history.Meta) string {
	s := fmt.Sprintf("make jepsen WORKLOAD=%s MODE=%s SEED=%d TIME=%v", m.Workload, m.Mode, m.Seed, m.Time)
	if len(m.Nemeses) > 0 {
		s += " NEMESIS=" + strings.Join(m.Nemeses, ",")
	}
	if m.Bug != "" {
		s += " BUG=" + m.Bug
	}
	return s
}

// sentence says what the verdict means.
func sentence(s Summary) string {
	effective := 0
	for _, f := range s.Faults {
		effective += f.Effective
	}
	did := fmt.Sprintf("%d operations on %d keys were checked, under %d faults that took effect", s.Checked, s.Keys, effective)
	switch s.Verdict {
	case check.Valid:
		return "Larder kept its promises: " + did + "."
	case check.Invalid:
		return "Larder broke a promise: " + did + "."
	case check.Undecided:
		return "Not decided: " + did + ", and for some keys no order was found in time, nor shown to be impossible."
	default:
		return "Not proved: " + did + ". That is too little, or not what the run set out to do."
	}
}

// example is a violation for people.
type example struct {
	What   string
	Ops    []string
	During []string // faults that were on
}

// smallest is the violation with the fewest operations, and what was on at the time.
func smallest(r *history.Run, all []check.Violation) *example {
	if len(all) == 0 {
		return nil
	}
	best := slices.MinFunc(all, func(a, b check.Violation) int { return weight(a) - weight(b) })
	e := &example{What: best.Check + ": " + best.What}
	end := lasted(r)
	during := map[string]bool{}
	const shown = 12
	for i, o := range best.Ops {
		if i == shown {
			e.Ops = append(e.Ops, fmt.Sprintf("and %d more", len(best.Ops)-shown))
			break
		}
		e.Ops = append(e.Ops, o.String())
		for _, f := range r.Faults {
			text := fmt.Sprintf("%s of %s, %.1f to %.1f s", f.Name, strings.Join(f.Targets, ", "), f.Start.Seconds(), until(f, end).Seconds())
			if f.Start <= o.Return && o.Invoke <= until(f, end) && !during[text] {
				during[text] = true
				e.During = append(e.During, text)
			}
		}
	}
	return e
}

// weight prefers a violation with evidence, and little of it.
func weight(v check.Violation) int {
	if len(v.Ops) == 0 {
		return 1 << 20
	}
	return len(v.Ops)
}

// Text is a summary for a terminal.
func Text(s Summary) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n", strings.ToUpper(string(s.Verdict)), sentence(s))
	for _, reason := range s.Reasons {
		fmt.Fprintf(&b, "  %s\n", reason)
	}
	fmt.Fprintf(&b, "\nworkload %s, %s, seed %d, %d nodes, %d shards, net %s, %.1f s, %.0f successes a second, %s\n\n",
		s.Meta.Workload, s.Meta.Mode, s.Meta.Seed, len(s.Meta.Nodes), s.Meta.Shards, s.Meta.Net, s.Lasted, s.Rate, s.Meta.Version)
	table(&b, "check\tverdict\tchecked\t", len(s.Checks), func(i int) string {
		c := s.Checks[i]
		return fmt.Sprintf("%s\t%s\t%d\t%s", c.Name, c.Verdict, c.Checked, c.Detail)
	})
	table(&b, "operation\tok\trefused\tunknown\thits\tconflicts\tp50 ms\tp99 ms\tmax ms", len(s.Kinds), func(i int) string {
		k := s.Kinds[i]
		return fmt.Sprintf("%s\t%d\t%d\t%d\t%d\t%d\t%.1f\t%.1f\t%.1f", k.Kind, k.OK, k.Refused, k.Unknown, k.Hits, k.Conflicts, k.P50, k.P99, k.Longest)
	})
	table(&b, "phase\tseconds\tok/s\tp50 ms\tp99 ms\tmax ms", len(s.Phases), func(i int) string {
		p := s.Phases[i]
		return fmt.Sprintf("%s\t%.1f\t%.0f\t%.1f\t%.1f\t%.1f", p.Name, p.Seconds, p.Rate, p.P50, p.P99, p.Longest)
	})
	table(&b, "fault\tclass\tdone\ttook effect\trecovered\tmedian s\tlongest s", len(s.Faults), func(i int) string {
		f := s.Faults[i]
		return fmt.Sprintf("%s\t%s\t%d\t%d\t%d\t%.2f\t%.2f", f.Name, f.Class, f.Done, f.Effective, f.Recovered, f.Median, f.Longest)
	})
	table(&b, "reads while on\thits\tmisses", len(s.Classes), func(i int) string {
		c := s.Classes[i]
		return fmt.Sprintf("%s\t%d\t%d", c.Class, c.Hits, c.Misses)
	})
	fmt.Fprintf(&b, "hits per key: %d at least, %d median, %d at most\nrepeat: %s\n", s.HitsPerKey.Least, s.HitsPerKey.Median, s.HitsPerKey.Most, repeat(s.Meta))
	return b.String()
}

func table(b *strings.Builder, head string, rows int, row func(int) string) {
	if rows == 0 {
		return
	}
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, head)
	for i := range rows {
		fmt.Fprintln(w, row(i))
	}
	w.Flush()
	b.WriteByte('\n')
}
