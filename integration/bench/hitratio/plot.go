package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"math"
)

// Measures of the plot, in pixels: a panel for each trace, and how its lines look.
const (
	panelWidth  = 300
	panelHeight = 240
	margin      = 48
	perRow      = 3
	legendLine  = 20
)

// line is how a series of a result is drawn, in the order of result.series.
type line struct{ name, color, dash, marker string }

var lines = []line{
	{"exact LRU", "#222222", "", "circle"},
	{"one shard", "#1f77b4", "6 3", "square"},
	{"one shard, failover half way", "#2ca02c", "2 3", "diamond"},
	{"recency forgotten at the failover", "#d62728", "", "circle"},
	{"FIFO", "#999999", "1 2", "circle"},
	{"eight shards", "#9467bd", "", "square"},
}

// plot draws hit ratio by size, a panel per trace, as SVG.
func plot(results []result) []byte {
	var names []string
	byTrace := map[string][]result{}
	for _, x := range results {
		if len(byTrace[x.trace]) == 0 {
			names = append(names, x.trace)
		}
		byTrace[x.trace] = append(byTrace[x.trace], x)
	}
	columns := min(len(names), perRow)
	panelRows := (len(names) + perRow - 1) / perRow
	width := max(columns*panelWidth, 2*panelWidth)
	height := panelRows*panelHeight + (len(lines)+1)*legendLine

	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="sans-serif" font-size="11">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", width, height)
	for i, name := range names {
		panel(&b, i%perRow*panelWidth, i/perRow*panelHeight, name, byTrace[name])
	}
	for i, l := range lines {
		y := float64(panelRows*panelHeight + (i+1)*legendLine)
		polyline(&b, l, [][2]float64{{margin, y}, {margin + 40, y}})
		text(&b, margin+52, y+4, "start", l.name)
	}
	b.WriteString("</svg>\n")
	return b.Bytes()
}

// panel draws the lines of one trace at (left, top).
func panel(b *bytes.Buffer, left, top int, name string, results []result) {
	low, high := math.Inf(1), math.Inf(-1)
	for _, x := range results {
		for _, v := range x.series() {
			low, high = min(low, v), max(high, v)
		}
	}
	low, high = 10*math.Floor(low/10), 10*math.Ceil(high/10)
	if high == low {
		high = low + 10
	}
	const w, h = panelWidth - margin - 24, panelHeight - 2*margin
	x0, y0 := float64(left+margin), float64(top+margin)
	at := func(n int, v float64) [2]float64 {
		x := x0 + w/2
		if len(results) > 1 {
			x = x0 + w*float64(n)/float64(len(results)-1)
		}
		return [2]float64{x, y0 + h*(high-v)/(high-low)}
	}
	text(b, x0, y0-14, "start", name+": hits, percent, by size")
	for k := range 5 {
		v := low + (high-low)*float64(k)/4
		y := at(0, v)[1]
		fmt.Fprintf(b, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="#dddddd"/>`+"\n", x0, y, x0+w, y)
		text(b, x0-8, y+4, "end", fmt.Sprintf("%.4g", v))
	}
	for n, x := range results {
		text(b, at(n, low)[0], y0+h+18, "middle", fmt.Sprintf("%g %%", 100*x.share))
	}
	for s, l := range lines {
		var points [][2]float64
		for n, x := range results {
			points = append(points, at(n, x.series()[s]))
		}
		polyline(b, l, points)
	}
}

// polyline draws a line through points, with a marker on each. Markers differ in size, so that lines
// which lie on each other can all be seen.
func polyline(b *bytes.Buffer, l line, points [][2]float64) {
	b.WriteString(`<polyline fill="none" stroke-width="1.5" stroke="` + l.color + `" stroke-dasharray="` + l.dash + `" points="`)
	for _, p := range points {
		fmt.Fprintf(b, "%.1f,%.1f ", p[0], p[1])
	}
	b.WriteString(`"/>` + "\n")
	for _, p := range points {
		switch l.marker {
		case "circle":
			fmt.Fprintf(b, `<circle cx="%.1f" cy="%.1f" r="2.5" fill="%s"/>`+"\n", p[0], p[1], l.color)
		case "square":
			fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="8" height="8" fill="none" stroke="%s"/>`+"\n", p[0]-4, p[1]-4, l.color)
		case "diamond":
			fmt.Fprintf(b, `<path d="M%.1f %.1f l7 7 l-7 7 l-7 -7 z" fill="none" stroke="%s"/>`+"\n", p[0], p[1]-7, l.color)
		}
	}
}

func text(b *bytes.Buffer, x, y float64, anchor, s string) {
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" text-anchor="%s">`, x, y, anchor)
	_ = xml.EscapeText(b, []byte(s)) // a bytes.Buffer does not fail
	b.WriteString("</text>\n")
}
