package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"os"
	"path/filepath"
	"strings"

	"github.com/larder-cache/larder/integration/check"
)

// overview is what the page over many runs is made of.
type overview struct {
	Runs                               []overviewRun
	Valid, Operations, Faults, Checked int
	Minutes                            float64
	Worst                              check.Verdict
}

type overviewRun struct {
	Summary
	Path    string
	Effects int
	Slowest float64 // recovery, seconds
}

// Index writes index.html to out, with a row for each run whose folder is given, and returns the sums as text. The folders
// have reports already.
func Index(out string, dirs ...string) (string, error) {
	o := overview{Worst: check.Valid}
	var errs []error
	for _, dir := range dirs {
		data, err := os.ReadFile(filepath.Join(dir, "summary.json"))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		run := overviewRun{}
		if err := json.Unmarshal(data, &run.Summary); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", dir, err))
			continue
		}
		rel, err := filepath.Rel(out, dir)
		if err != nil {
			rel = dir
		}
		run.Path = filepath.ToSlash(rel) + "/index.html"
		for _, f := range run.Faults {
			run.Effects += f.Effective
			run.Slowest = max(run.Slowest, f.Longest)
		}
		if run.Verdict == check.Valid {
			o.Valid++
		}
		if rank(run.Verdict) > rank(o.Worst) {
			o.Worst = run.Verdict
		}
		o.Operations += run.Operations
		o.Checked += run.Checked
		o.Faults += run.Effects
		o.Minutes += run.Lasted / 60
		o.Runs = append(o.Runs, run)
	}
	var html bytes.Buffer
	if err := overviews.Execute(&html, &o); err != nil {
		return "", err
	}
	if err := os.WriteFile(filepath.Join(out, "index.html"), html.Bytes(), 0o644); err != nil {
		errs = append(errs, err)
	}
	return o.String(), errors.Join(errs...)
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
	return fmt.Sprintf("%d of %d runs valid: %.1f minutes, %d operations checked, %d faults that took effect",
		o.Valid, len(o.Runs), o.Minutes, o.Checked, o.Faults)
}

var overviews = template.Must(template.Must(pages.Clone()).New("overview").Parse(strings.TrimSpace(`
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Consistency runs: {{.Worst}}</title>
<style>{{css}}</style>
<main>
<h1>Consistency runs</h1>
<section class="verdict {{class .Worst}}" aria-label="Verdict"><strong>{{.Worst}}</strong><p>{{.}}.</p></section>
<div class="scroll"><table>
<thead><tr><th scope="col">run</th><th scope="col">verdict</th><th scope="col">mode</th><th scope="col" class="n">seed</th><th scope="col" class="n">faults</th><th scope="col" class="n">checked</th><th scope="col" class="n">ok a second</th><th scope="col" class="n">slowest recovery, s</th></tr></thead>
<tbody>{{range .Runs}}<tr><th scope="row"><a href="{{.Path}}">{{.Meta.Workload}}</a></th><td class="{{class .Verdict}}">{{.Verdict}}</td><td>{{.Meta.Mode}}</td><td class="n">{{.Meta.Seed}}</td><td class="n">{{.Effects}}</td><td class="n">{{.Checked}}</td><td class="n">{{ms .Rate}}</td><td class="n">{{seconds .Slowest}}</td></tr>
{{end}}</tbody></table></div>
</main>
</html>
`)))
