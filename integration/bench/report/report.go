// Package report writes what a benchmark found: Markdown tables, and a line for each bar that says
// whether it was met.
package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"
)

// Report writes to an output and keeps count of the bars that were missed. It is for one goroutine.
type Report struct {
	out    io.Writer
	bars   []string
	missed int
}

// New returns a report that goes to out.
func New(out io.Writer) *Report { return &Report{out: out} }

// Section begins a section.
func (r *Report) Section(title string) { fmt.Fprintf(r.out, "\n## %s\n\n", title) }

// Textf writes a paragraph.
func (r *Report) Textf(format string, args ...any) {
	fmt.Fprintf(r.out, format+"\n\n", args...)
}

// Table writes a Markdown table. Its columns are padded, so that a terminal shows a table too.
func (r *Report) Table(header []string, rows [][]string) {
	widths := make([]int, len(header))
	for _, row := range append([][]string{header}, rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	line := func(cells []string) {
		for i, cell := range cells {
			pad := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				fmt.Fprintf(r.out, "| %s%s |", cell, pad)
			} else {
				fmt.Fprintf(r.out, " %s%s |", pad, cell)
			}
		}
		fmt.Fprintln(r.out)
	}
	line(header)
	for i, w := range widths {
		if i == 0 {
			fmt.Fprintf(r.out, "|%s|", strings.Repeat("-", w+2))
		} else {
			fmt.Fprintf(r.out, "%s:|", strings.Repeat("-", w+1))
		}
	}
	fmt.Fprintln(r.out)
	for _, row := range rows {
		line(row)
	}
	fmt.Fprintln(r.out)
}

// Bar notes whether a bar was met; what says what is wanted, got what was measured.
func (r *Report) Bar(met bool, what, got string) {
	word := "met"
	if !met {
		word = "MISSED"
		r.missed++
	}
	r.bars = append(r.bars, fmt.Sprintf("bar: %s: %s, %s", what, got, word))
}

// Close writes the bars, and fails when one was missed.
func (r *Report) Close() error {
	if len(r.bars) > 0 {
		r.Section("Bars")
	}
	for _, bar := range r.bars {
		fmt.Fprintln(r.out, bar)
	}
	if r.missed > 0 {
		return fmt.Errorf("%d of %d bars missed", r.missed, len(r.bars))
	}
	return nil
}

// Median returns the middle of values (the mean of the middle two), 0 of none. It leaves them as they are.
func Median(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(values))
	half := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[half]
	}
	return (sorted[half-1] + sorted[half]) / 2
}

// Ratios divides two series element by element.
func Ratios(above, below []float64) []float64 {
	ratios := make([]float64, min(len(above), len(below)))
	for i := range ratios {
		ratios[i] = above[i] / below[i]
	}
	return ratios
}
