package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/larder-cache/larder/directory"
)

// lineWidth is what fits on the narrowest terminal in use.
const lineWidth = 79

// progressLine tells a person how an operation gets on: one line that is rewritten on a terminal, a
// line per change elsewhere.
type progressLine struct {
	w        io.Writer
	terminal bool
	shown    string
}

func newProgressLine(w io.Writer) *progressLine {
	p := &progressLine{w: w}
	if file, ok := w.(*os.File); ok {
		info, err := file.Stat()
		p.terminal = err == nil && info.Mode()&os.ModeCharDevice != 0
	}
	return p
}

func (p *progressLine) show(text string) {
	text = oneLine(text)
	if text == p.shown {
		return
	}
	p.shown = text
	if !p.terminal {
		fmt.Fprintln(p.w, text)
		return
	}
	if runes := []rune(text); len(runes) > lineWidth {
		text = string(runes[:lineWidth])
	}
	fmt.Fprint(p.w, "\r"+text+"\x1b[K")
}

// end leaves the line for what comes after it.
func (p *progressLine) end() {
	if p.terminal && p.shown != "" {
		fmt.Fprintln(p.w)
	}
}

// progress tells how far an operation is, "" where it does not say.
func progress(o directory.OperationView) string {
	var parts []string
	add := func(what string, done, total uint64, text func(uint64) string) {
		if total > 0 {
			percent := min(float64(done)/float64(total)*100, 100)
			parts = append(parts, fmt.Sprintf("%s %s/%s (%d%%)", what, text(done), text(total), int(percent)))
		}
	}
	number := func(n uint64) string { return fmt.Sprint(n) }
	add("entries", o.EntriesDone, o.EntriesTotal, number)
	add("items", o.ItemsDone, o.ItemsTotal, number)
	what := "bytes"
	if o.Snapshot {
		what = "snapshot"
	}
	add(what, o.BytesDone, o.BytesTotal, size)
	if o.BytesRate > 0 && o.BytesTotal > 0 {
		parts[len(parts)-1] += fmt.Sprintf(" at %s/s", size(o.BytesRate))
	}
	return strings.Join(parts, ", ")
}

// describe is an operation in a line.
func describe(o directory.OperationView) string {
	parts := []string{o.Phase}
	for _, part := range []string{progress(o), o.Detail} {
		if part != "" {
			parts = append(parts, part)
		}
	}
	return fmt.Sprintf("operation %d: %s", o.ID, strings.Join(parts, ", "))
}
